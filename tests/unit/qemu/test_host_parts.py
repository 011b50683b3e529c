"""The engine's small parts: slots, sizes, versions, cgroup hierarchies, the probe's guest, processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.unit.qemu.builders import SHAPE

from sandfleet.adapters.qemu.cgroups import CgroupLimits, Cgroups, hierarchies
from sandfleet.adapters.qemu.config import HypervisorConfig, ImageFiles
from sandfleet.adapters.qemu.erase import recorded_process
from sandfleet.adapters.qemu.manifest import ProcessIdentity
from sandfleet.adapters.qemu.memory import reachable
from sandfleet.adapters.qemu.probe_guest import READY_LINE, probe_initrd, probe_program
from sandfleet.adapters.qemu.process import identify, is_running
from sandfleet.adapters.qemu.qemu_version import checked_version, machine_type, qemu_version
from sandfleet.adapters.qemu.slots import Slots, new_machine_id
from sandfleet.adapters.qemu.template import (
    DEFAULT_KERNEL_ARGUMENTS,
    MITIGATED_KERNEL_ARGUMENTS,
    TemplateInputs,
    inputs_of,
)
from sandfleet.model.errors import HypervisorFailed


def test_slots_are_held_once_and_reused_last() -> None:
    slots = Slots(4, taken=[1])
    assert [slots.take() for _ in range(3)] == [0, 2, 3]
    with pytest.raises(HypervisorFailed, match="slots"):
        slots.take()
    slots.release(2)
    slots.release(2)
    slots.release(0)
    assert slots.take() == 0
    assert slots.taken == {0, 1, 3}


def test_machine_ids_carry_the_tag_and_fit_into_an_interface_name(tmp_path: Path) -> None:
    tag = HypervisorConfig(data_dir=tmp_path, templates_dir=tmp_path).tag
    made = {new_machine_id(tag, existing=()) for _ in range(100)}
    assert len(made) == 100
    assert all(len(name) == 12 and name.startswith(tag) for name in made)


def test_two_fleets_on_one_host_have_different_tags(tmp_path: Path) -> None:
    one = HypervisorConfig(data_dir=tmp_path / "one", templates_dir=tmp_path)
    other = HypervisorConfig(data_dir=tmp_path / "other", templates_dir=tmp_path)
    assert one.tag != other.tag
    assert one.tag == HypervisorConfig(data_dir=tmp_path / "one", templates_dir=tmp_path).tag


@pytest.mark.parametrize(
    ("asked", "reached"), [(0, 512), (512, 512), (513, 640), (640, 640), (4608, 4608), (99999, 4608)]
)
def test_memory_is_rounded_up_to_blocks_within_the_range(asked: int, reached: int) -> None:
    assert reachable(asked, SHAPE) == reached


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2)\nCopyright", "10.0.2 (Debian 1:10.0.2)"),
        ("QEMU emulator version 11.1.0\n", "11.1.0"),
    ],
)
def test_a_new_enough_qemu_is_accepted(said: str, version: str) -> None:
    assert checked_version(said) == version


def test_an_old_qemu_is_refused_with_what_to_do() -> None:
    with pytest.raises(HypervisorFailed, match=r"7\.2 is installed, 10\.0 or newer.*backports"):
        checked_version("QEMU emulator version 7.2.22 (Debian)")
    with pytest.raises(HypervisorFailed, match="cannot be read"):
        checked_version("bash: no such thing")


async def test_a_program_is_asked_for_its_version_again_only_when_it_has_changed(tmp_path: Path) -> None:
    program, asked = tmp_path / "qemu", tmp_path / "asked"
    for number, version in enumerate(["10.0.2", "10.1.0"], start=1):
        program.write_text(f"#!/bin/sh\necho . >> {asked}\necho QEMU emulator version {version}\n")
        program.chmod(0o755)
        os.utime(program, (number, number))
        assert [await qemu_version(str(program)) for _ in range(3)] == [version] * 3
        assert len(asked.read_text().splitlines()) == number


async def test_a_program_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(HypervisorFailed, match="not installed"):
        await qemu_version(str(tmp_path / "qemu"))


def test_the_machine_type_is_pinned_to_the_version() -> None:
    assert machine_type("10.0.2 (Debian 1:10.0.2)") == "pc-q35-10.0"


def test_cgroup_v1_hierarchies_are_found() -> None:
    mounts = (
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "tmpfs /run tmpfs rw 0 0\n"
    )
    assert hierarchies(mounts) == {
        "memory": Path("/sys/fs/cgroup/memory"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
    }


def test_cgroup_v2_offers_what_its_root_says(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io\n")
    assert hierarchies(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n") == dict.fromkeys(
        ("memory", "cpu", "pids"), tmp_path
    )
    assert hierarchies("cgroup2 /nonesuch cgroup2 rw 0 0\n") == {}


def test_limits_are_written_in_the_words_of_each_version(tmp_path: Path) -> None:
    v2 = tmp_path / "v2"
    group = v2 / "sandfleet" / "abcd"
    group.mkdir(parents=True)
    (v2 / "cgroup.controllers").write_text("memory cpu pids")
    for directory in (v2, v2 / "sandfleet"):
        (directory / "cgroup.subtree_control").write_text("memory cpu pids")
    roots = dict.fromkeys(("memory", "cpu", "pids"), v2)
    files = Cgroups(roots).create("abcd", CgroupLimits(memory_mib=768, cpu_percent=125))
    assert files == [group / "cgroup.procs"]
    assert (group / "memory.max").read_text() == str(768 << 20)
    assert (group / "cpu.max").read_text() == "125000 100000"
    v1 = Cgroups({"memory": tmp_path / "m", "cpu": tmp_path / "c"})
    for name in "mc":
        (tmp_path / name / "sandfleet").mkdir(parents=True)
    v1.create("abcd", CgroupLimits(memory_mib=768, cpu_percent=125))
    assert (tmp_path / "m/sandfleet/abcd/memory.limit_in_bytes").read_text() == str(768 << 20)
    assert (tmp_path / "c/sandfleet/abcd/cpu.cfs_quota_us").read_text() == "125000"
    assert v1.missing == ["pids"]
    assert v1.present("ab") == ["abcd"]
    assert v1.present("xy") == []


def test_the_probes_program_says_its_line(tmp_path: Path) -> None:
    program = tmp_path / "init"
    program.write_bytes(probe_program())
    program.chmod(0o755)
    with subprocess.Popen([program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == READY_LINE + b"\n"
        assert process.poll() is None
        process.kill()


def test_the_probes_initrd_is_an_archive_with_that_program() -> None:
    archive = probe_initrd()
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert probe_program() in archive
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")


def test_a_process_is_its_pid_its_start_and_its_boot() -> None:
    me = identify(os.getpid())
    assert is_running(me)
    assert not is_running(ProcessIdentity(me.pid, me.started_ticks + 1, me.boot_id))
    assert not is_running(ProcessIdentity(me.pid, me.started_ticks, "another boot"))


def test_a_pid_file_names_a_process_only_if_it_is_the_machines(tmp_path: Path) -> None:
    assert recorded_process(tmp_path, "abcd2345efgh") is None
    (tmp_path / "pid").write_text(str(os.getpid()))
    assert recorded_process(tmp_path, "abcd2345efgh") is None
    with subprocess.Popen(["sleep", "60"], env={}) as other:
        (tmp_path / "pid").write_text(str(other.pid))
        while not Path(f"/proc/{other.pid}/cmdline").read_bytes():
            continue  # The kernel fills it in a moment after the program has begun.
        assert recorded_process(tmp_path, "sleep") is not None
        other.kill()
    (tmp_path / "pid").write_text("nonsense")
    assert recorded_process(tmp_path, "abcd2345efgh") is None


def test_mitigations_are_part_of_what_a_template_is_found_by() -> None:
    def inputs(kernel_arguments: str) -> TemplateInputs:
        image = ImageFiles("base", "d", *[Path("/x")] * 4, kernel_arguments=kernel_arguments)
        return inputs_of(image, shape=SHAPE, memory_mib=512, qemu_version="10.0.2", host_cpu="any")

    off, on = inputs(DEFAULT_KERNEL_ARGUMENTS), inputs(MITIGATED_KERNEL_ARGUMENTS)
    assert off.kernel_arguments.split() == [*on.kernel_arguments.split(), "mitigations=off"]
    assert off.key() == inputs("").key() != on.key()
