"""The command line of one QEMU process, from the shape of its machine and the file descriptors it is given.

Facts that decide the form:

- A template's memory and device state load only into a machine of exactly the same
  shape, so a template and its clones are built here by the same code, and differ in
  nothing but where memory comes from and whether a kernel is given.
- QEMU gets every file as an inherited descriptor (`/dev/fdset/N`, `/proc/self/fd/N`)
  and opens no path of the host: it needs no right to any directory.
- With the HPET on, an idle guest costs several times the CPU.
- A write that finds the host's disk full stops the guest (`werror=enospc`), and the engine
  resumes it when there is room; told of it, the guest's file system would give itself up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

AGENT_PORT_NAME = "sandfleet.agent.0"
GUEST_MAC = "52:54:00:5f:00:0f"
"""The same in every namespace, so that a clone needs no renumbering."""

MEMORY_DEVICE = "vm0"
ROOT_DRIVE = "root0"
DATA_DRIVE = "data0"
CONSOLE_CHARDEV = "console0"
NOBODY_GUID = "00000000-0000-0000-0000-000000000001"
SANDBOX_OPTIONS = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class MachineShape:
    """What a template and its clones must agree on."""

    machine_type: str
    accelerator: str
    cpu_model: str
    cpu_max: int
    memory_base_mib: int
    memory_max_mib: int
    memory_block_mib: int
    translation_cache_mib: int = 64
    card_announces: bool = True
    """Whether the network card can tell of its arrival; what was saved before it could be chosen can."""


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """Descriptors of the kernel and the initrd, and the kernel's command line."""

    kernel_fd: int
    initrd_fd: int
    arguments: str


@dataclass(frozen=True, slots=True)
class MachineDescriptors:
    """The inherited file descriptors of one machine.

    A disk is its overlay followed by what backs it, each backing one read-only.
    `state_fd` is the device state that is loaded, or written while a template is made;
    `memory_shared` is true only then. Without `memory_fd` memory is anonymous, and all of it
    comes with the state. `kvm_fd` is None under TCG.
    """

    memory_fd: int | None
    memory_shared: bool
    root_fds: Sequence[int]
    data_fds: Sequence[int]
    tap_fd: int
    qmp_fd: int
    agent_fd: int
    state_fd: int | None = None
    kvm_fd: int | None = None


def qemu_arguments(
    shape: MachineShape,
    descriptors: MachineDescriptors,
    *,
    name: str,
    generation_id: str,
    boot: KernelBoot | None = None,
    is_held: bool = False,
) -> list[str]:
    """Return QEMU's arguments: a booting machine with `boot`, otherwise one that waits for its state.

    One that is held does not run by itself when it has its state.
    """
    return [
        *("-name", f"{name},debug-threads=on"),
        *_confinement(),
        *_processor_and_memory(shape, descriptors),
        *_control(descriptors),
        *_disk(ROOT_DRIVE, descriptors.root_fds),
        *_disk(DATA_DRIVE, descriptors.data_fds),
        *_network(shape, descriptors),
        *("-device", "virtio-rng-pci"),
        *("-device", f"vmgenid,guid={generation_id}"),
        *_start(boot),
        *(["-S"] if is_held else []),
    ]


def descriptor_sets(descriptors: MachineDescriptors) -> list[int]:
    """Return the descriptors that QEMU addresses as `/dev/fdset/N` (N is the descriptor's own number)."""
    optional = (descriptors.state_fd, descriptors.kvm_fd)
    return [
        *descriptors.root_fds,
        *descriptors.data_fds,
        *(number for number in optional if number is not None),
    ]


def descriptor_path(number: int) -> str:
    """Return the path by which QEMU opens an inherited descriptor of `descriptor_sets`."""
    return f"/dev/fdset/{number}"


def all_descriptors(descriptors: MachineDescriptors, boot: KernelBoot | None = None) -> list[int]:
    """Return every descriptor that the process must inherit."""
    kernel = [] if boot is None else [boot.kernel_fd, boot.initrd_fd]
    memory = [] if descriptors.memory_fd is None else [descriptors.memory_fd]
    own = [descriptors.tap_fd, descriptors.qmp_fd, descriptors.agent_fd]
    return [*memory, *own, *descriptor_sets(descriptors), *kernel]


def _confinement() -> list[str]:
    return [
        *("-sandbox", SANDBOX_OPTIONS),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        # A guest that reboots has no kernel to boot from: it ends, and its end is noticed.
        *("-action", "reboot=shutdown,shutdown=poweroff,panic=none"),
    ]


def _processor_and_memory(shape: MachineShape, descriptors: MachineDescriptors) -> list[str]:
    device_mib = shape.memory_max_mib - shape.memory_base_mib
    size = f"{shape.memory_base_mib}M"
    return [
        *("-machine", f"{shape.machine_type},{_MACHINE_OPTIONS}"),
        *("-accel", _accelerator(shape, descriptors)),
        *("-cpu", shape.cpu_model),
        *("-smp", f"{shape.cpu_max},sockets=1,cores={shape.cpu_max},threads=1"),
        *("-m", f"{size},slots=1,maxmem={shape.memory_max_mib}M"),
        *("-object", _base_memory(descriptors, size)),
        # Address space only: host memory is taken when the guest plugs and touches it.
        *("-object", f"memory-backend-ram,id=vmem0,size={device_mib}M,prealloc=off,reserve=off"),
        *(
            "-device",
            f"virtio-mem-pci,id={MEMORY_DEVICE},memdev=vmem0,requested-size=0,"
            f"block-size={shape.memory_block_mib}M",
        ),
    ]


def _base_memory(descriptors: MachineDescriptors, size: str) -> str:
    if descriptors.memory_fd is None:
        return f"memory-backend-ram,id=ram0,size={size}"
    memory = f"memory-backend-file,id=ram0,size={size},mem-path=/proc/self/fd/{descriptors.memory_fd}"
    return memory + (",share=on" if descriptors.memory_shared else ",share=off,readonly=on,rom=off")


# Merging equal pages between tenants would tell one what the other holds; a dump would hold its memory.
_MACHINE_OPTIONS = "hpet=off,usb=off,sata=off,smbus=off,i8042=off,mem-merge=off,dump-guest-core=off," \
    "memory-backend=ram0"  # fmt: skip


def _accelerator(shape: MachineShape, descriptors: MachineDescriptors) -> str:
    if shape.accelerator == "tcg":
        return f"tcg,thread=multi,tb-size={shape.translation_cache_mib}"
    if descriptors.kvm_fd is None:
        raise ValueError("the kvm accelerator needs an open descriptor of /dev/kvm")
    return f"kvm,device={descriptor_path(descriptors.kvm_fd)}"


def _control(descriptors: MachineDescriptors) -> list[str]:
    sets = [f"fd={number},set={number}" for number in descriptor_sets(descriptors)]
    return [
        *(word for fdset in sets for word in ("-add-fd", fdset)),
        *("-chardev", f"socket,id=qmp0,fd={descriptors.qmp_fd},server=on,wait=off"),
        *("-mon", "chardev=qmp0,mode=control"),
        # The console is kept in a ring of fixed size, so that a guest cannot fill the host with it.
        *("-chardev", f"ringbuf,id={CONSOLE_CHARDEV},size=65536"),
        *("-serial", f"chardev:{CONSOLE_CHARDEV}"),
        *("-device", "virtio-serial-pci,id=vser0,max_ports=4"),
        *("-chardev", f"socket,id=agent0,fd={descriptors.agent_fd},server=on,wait=off"),
        *("-device", f"virtserialport,bus=vser0.0,nr=1,chardev=agent0,name={AGENT_PORT_NAME}"),
    ]


def layer_node(drive: str, depth: int) -> str:
    """Return the name of the block node at `depth` of a disk as it was started; 0 is the overlay."""
    return drive if depth == 0 else f"{drive}-backing{depth}"


def _disk(drive: str, fds: Sequence[int]) -> list[str]:
    nodes: list[dict[str, object]] = []
    below: str | None = None
    for depth in range(len(fds) - 1, -1, -1):
        node = layer_node(drive, depth)
        is_base = depth > 0
        file = {"driver": "file", "filename": descriptor_path(fds[depth])}
        nodes.append({"node-name": f"{node}-file", "read-only": is_base, "discard": "unmap", **file})
        image: dict[str, object] = {"driver": "qcow2", "file": f"{node}-file", "backing": below}
        nodes.append({"node-name": node, "read-only": is_base, "discard": "unmap", **image})
        below = node
    blockdevs = [word for node in nodes for word in ("-blockdev", json.dumps(node))]
    device = f"virtio-blk-pci,id={drive}-disk,drive={drive},werror=enospc,rerror=report"
    return [*blockdevs, "-device", device]


def _network(shape: MachineShape, descriptors: MachineDescriptors) -> list[str]:
    announces = "on" if shape.card_announces else "off"
    return [
        *("-netdev", f"tap,id=net0,fd={descriptors.tap_fd},vhost=off"),
        # Loaded with no announcement to make, a card that could make one has no timer for it, and QEMU
        # ends with a fault as soon as the guest's driver resets the card: when it powers off, for one.
        *("-device", f"virtio-net-pci,netdev=net0,mac={GUEST_MAC},rombar=0,guest_announce={announces}"),
    ]


def _start(boot: KernelBoot | None) -> list[str]:
    if boot is None:
        return ["-incoming", "defer"]
    return [
        *("-kernel", f"/proc/self/fd/{boot.kernel_fd}"),
        *("-initrd", f"/proc/self/fd/{boot.initrd_fd}"),
        *("-append", boot.arguments),
    ]
