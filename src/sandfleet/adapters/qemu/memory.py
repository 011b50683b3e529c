"""The guest's memory: its base and one virtio-mem device, whose size is asked for and read back.

Growing takes some 0.1 s, shrinking a second or two, and stops without a word at what
the guest cannot give up: so the size that counts is the one read back. QEMU counts a
block when the guest has asked for it, the guest a little later, when it can use it: a
guest is asked how much it has. Its kernel keeps some 50 MiB from its own total, at every
size and always less than a block, so that a total tells how many blocks are in use.
"""

from __future__ import annotations

import asyncio

from sandfleet.adapters.qemu.qmp import Qmp, event_or_pause
from sandfleet.ports.guest import Guest
from sandfleet.wire.qemu_command import MEMORY_DEVICE, MachineShape

ROUND_S = 0.02
"""QEMU reports at most one change of size per second, so that the size is also looked at in between."""
IDLE_ROUNDS_MAX = 150
"""Rounds without progress after which what the guest reached is taken as all it can do."""
ONLINE_ROUND_S = 1.0
"""The guest itself waits for so long: asking again and again would hold up what is waited for."""
ONLINE_ROUNDS_MAX = 5
"""Rounds after which a block that the guest does not use is not counted."""
_DEVICE_PATH = f"/machine/peripheral/{MEMORY_DEVICE}"
_SIZE_CHANGED = "MEMORY_DEVICE_SIZE_CHANGE"


def reachable(memory_mib: int, shape: MachineShape) -> int:
    """Return the size that is asked for: within the machine's range and a whole number of blocks."""
    wanted = min(max(memory_mib, shape.memory_base_mib), shape.memory_max_mib) - shape.memory_base_mib
    blocks = -(-wanted // shape.memory_block_mib)
    whole = (shape.memory_max_mib - shape.memory_base_mib) // shape.memory_block_mib
    return shape.memory_base_mib + min(blocks, whole) * shape.memory_block_mib


def are_writes_seen(shape: MachineShape, memory_mib: int) -> bool:
    """Whether QEMU finds all writes of the running guest.

    Its emulator finds those to the first block of memory, which is the base. Asked for those to another,
    larger one, it ends itself (10.0), and the guest with it.
    """
    return shape.accelerator != "tcg" or memory_mib <= shape.memory_base_mib


async def current(qmp: Qmp, shape: MachineShape) -> int:
    """Return base plus what is plugged now."""
    size = await qmp.execute("qom-get", {"path": _DEVICE_PATH, "property": "size"})
    return shape.memory_base_mib + int(size) // (1 << 20)


async def ask(qmp: Qmp, shape: MachineShape, target_mib: int) -> None:
    """Tell the guest's driver how much there should be; it sets to work at once."""
    requested = (target_mib - shape.memory_base_mib) << 20
    arguments = {"path": _DEVICE_PATH, "property": "requested-size", "value": requested}
    await qmp.execute("qom-set", arguments)


async def resize(qmp: Qmp, shape: MachineShape, target_mib: int) -> int:
    """Ask for `target_mib` and return the size when it is reached or the guest has stopped moving."""
    with qmp.listen(_SIZE_CHANGED) as changes:
        await ask(qmp, shape, target_mib)
        reached = await current(qmp, shape)
        idle_rounds = 0
        while reached != target_mib and idle_rounds < IDLE_ROUNDS_MAX:
            await event_or_pause(changes, ROUND_S)
            before, reached = reached, await current(qmp, shape)
            idle_rounds = idle_rounds + 1 if reached == before else 0
        return reached


async def online(guest: Guest, shape: MachineShape, size_mib: int) -> int:
    """Return how much of `size_mib` the guest can use, when that is all or it has had its time."""
    missing = 0
    at_least = (size_mib - shape.memory_block_mib + 1) << 20
    for _ in range(ONLINE_ROUNDS_MAX):
        total_mib = await guest.memory_total(at_least=at_least, wait_s=ONLINE_ROUND_S) >> 20
        missing = max(0, size_mib - total_mib) // shape.memory_block_mib
        if not missing:
            break
        await asyncio.sleep(ROUND_S)
    return size_mib - missing * shape.memory_block_mib
