"""The command line of a machine: confinement, memory, disks by descriptor, template and clone alike."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from sandfleet.wire.qemu_command import (
    KernelBoot,
    MachineDescriptors,
    MachineShape,
    all_descriptors,
    qemu_arguments,
)

SHAPE = MachineShape(
    machine_type="pc-q35-10.0",
    accelerator="tcg",
    cpu_model="Nehalem",
    cpu_max=4,
    memory_base_mib=512,
    memory_max_mib=4608,
    memory_block_mib=128,
)
DESCRIPTORS = MachineDescriptors(
    memory_fd=10,
    memory_shared=False,
    root_fds=[11, 12, 13],
    data_fds=[14, 15],
    tap_fd=16,
    qmp_fd=17,
    agent_fd=18,
    state_fd=19,
)
GUID = "11111111-2222-4333-8444-555555555555"


def arguments(
    shape: MachineShape = SHAPE, descriptors: MachineDescriptors = DESCRIPTORS, boot: KernelBoot | None = None
) -> list[str]:
    return qemu_arguments(shape, descriptors, name="abcd2345efgh", generation_id=GUID, boot=boot)


def values(words: list[str], option: str) -> list[str]:
    return [words[place + 1] for place, word in enumerate(words) if word == option]


def test_a_machine_is_confined() -> None:
    words = arguments()
    assert values(words, "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    ]
    assert {"-nodefaults", "-no-user-config"} <= set(words)
    assert values(words, "-display") == ["none"]
    (machine,) = values(words, "-machine")
    assert machine.split(",")[0] == "pc-q35-10.0"
    assert {"hpet=off", "usb=off", "sata=off", "mem-merge=off", "dump-guest-core=off"} <= set(
        machine.split(",")
    )


def test_no_path_of_the_host_is_named() -> None:
    words = arguments(boot=KernelBoot(20, 21, "quiet"))
    named = [word for word in words if "/" in word]
    assert named
    for word in named:
        paths = [part for part in word.replace('"', ",").replace("=", ",").split(",") if "/" in part]
        assert all(path.startswith(("/dev/fdset/", "/proc/self/fd/")) for path in paths), word


def test_a_clone_maps_the_template_privately_and_cannot_write_to_it() -> None:
    (memory,) = [value for value in values(arguments(), "-object") if "id=ram0" in value]
    assert memory.split(",")[2:] == [
        "size=512M", "mem-path=/proc/self/fd/10", "share=off", "readonly=on", "rom=off",
    ]  # fmt: skip


def test_a_template_writes_its_memory_to_the_file() -> None:
    made = arguments(descriptors=replace(DESCRIPTORS, memory_shared=True), boot=KernelBoot(20, 21, "quiet"))
    (memory,) = [value for value in values(made, "-object") if "id=ram0" in value]
    assert memory.endswith("share=on")


def test_template_and_clone_differ_in_memory_mapping_and_start_only() -> None:
    made = arguments(descriptors=replace(DESCRIPTORS, memory_shared=True), boot=KernelBoot(20, 21, "quiet"))
    clone = arguments()
    only_made = [word for word in made if word not in clone]
    only_clone = [word for word in clone if word not in made]
    assert [word.split(",")[0] for word in only_clone] == ["memory-backend-file", "-incoming", "defer"]
    assert [word.split(",")[0] for word in only_made] == [
        "memory-backend-file", "-kernel", "/proc/self/fd/20", "-initrd", "/proc/self/fd/21",
        "-append", "quiet",
    ]  # fmt: skip


def test_only_the_overlay_of_a_disk_can_be_written() -> None:
    nodes = {node["node-name"]: node for node in map(json.loads, values(arguments(), "-blockdev"))}
    writable = {name for name, node in nodes.items() if not node["read-only"]}
    assert writable == {"root0", "root0-file", "data0", "data0-file"}
    assert nodes["root0"]["backing"] == "root0-backing1"
    assert nodes["root0-backing1"]["backing"] == "root0-backing2"
    assert nodes["root0-backing2"]["backing"] is None
    assert nodes["root0-file"]["filename"] == "/dev/fdset/11"
    assert nodes["root0-backing2-file"]["filename"] == "/dev/fdset/13"


def test_a_full_host_disk_is_an_error_in_the_guest_and_stops_nobody() -> None:
    disks = [value for value in values(arguments(), "-device") if value.startswith("virtio-blk")]
    assert len(disks) == 2
    assert all("werror=enospc,rerror=report" in disk for disk in disks)


def test_a_machine_that_is_held_does_not_run_by_itself() -> None:
    held = replace(DESCRIPTORS, state_fd=None)
    words = qemu_arguments(SHAPE, held, name="abcd2345efgh", generation_id=GUID, is_held=True)
    assert words[-3:] == ["-incoming", "defer", "-S"]
    assert "-S" not in arguments()


def test_memory_can_grow_to_the_largest_size() -> None:
    words = arguments()
    assert values(words, "-m") == ["512M,slots=1,maxmem=4608M"]
    assert any(
        "id=vmem0,size=4096M" in value and "reserve=off" in value for value in values(words, "-object")
    )
    assert any(
        value.startswith("virtio-mem-pci") and "block-size=128M" in value
        for value in values(words, "-device")
    )


def test_each_machine_has_its_generation_and_the_agents_port() -> None:
    devices = values(arguments(), "-device")
    assert f"vmgenid,guid={GUID}" in devices
    assert any("name=sandfleet.agent.0" in device for device in devices)
    assert "virtio-rng-pci" in devices


def test_translated_code_has_a_bound_under_tcg() -> None:
    assert values(arguments(), "-accel") == ["tcg,thread=multi,tb-size=64"]


def test_kvm_is_given_as_a_descriptor() -> None:
    shape = replace(SHAPE, accelerator="kvm", cpu_model="host")
    words = arguments(shape, replace(DESCRIPTORS, kvm_fd=30))
    assert values(words, "-accel") == ["kvm,device=/dev/fdset/30"]
    assert "fd=30,set=30" in values(words, "-add-fd")
    with pytest.raises(ValueError, match="kvm"):
        arguments(shape)


def test_every_descriptor_that_is_named_is_inherited() -> None:
    boot = KernelBoot(20, 21, "quiet")
    inherited = all_descriptors(replace(DESCRIPTORS, kvm_fd=30), boot)
    assert sorted(inherited) == [*range(10, 22), 30]


def test_a_card_announces_only_in_what_was_saved_with_such_a_one() -> None:
    def card(shape: MachineShape) -> str:
        return next(word for word in values(arguments(shape), "-device") if "virtio-net" in word)

    assert "guest_announce=off" in card(replace(SHAPE, card_announces=False))
    saved_before = {name: value for name, value in asdict(SHAPE).items() if name != "card_announces"}
    assert "guest_announce=on" in card(MachineShape(**saved_before))
