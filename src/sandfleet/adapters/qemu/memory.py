"""The guest's memory: its base and one virtio-mem device, whose size is asked for and read back.

Growing takes some 0.1 s, shrinking a second or two, and stops without a word at what
the guest cannot give up: so the size that counts is the one read back.
"""

from __future__ import annotations

from sandfleet.adapters.qemu.qmp import Qmp, event_or_pause
from sandfleet.wire.qemu_command import MEMORY_DEVICE, MachineShape

ROUND_S = 0.02
"""QEMU reports at most one change of size per second, so that the size is also looked at in between."""
IDLE_ROUNDS_MAX = 150
"""Rounds without progress after which what the guest reached is taken as all it can do."""
_DEVICE_PATH = f"/machine/peripheral/{MEMORY_DEVICE}"
_SIZE_CHANGED = "MEMORY_DEVICE_SIZE_CHANGE"


def reachable(memory_mib: int, shape: MachineShape) -> int:
    """Return the size that is asked for: within the machine's range and a whole number of blocks."""
    wanted = min(max(memory_mib, shape.memory_base_mib), shape.memory_max_mib) - shape.memory_base_mib
    blocks = -(-wanted // shape.memory_block_mib)
    whole = (shape.memory_max_mib - shape.memory_base_mib) // shape.memory_block_mib
    return shape.memory_base_mib + min(blocks, whole) * shape.memory_block_mib


async def current(qmp: Qmp, shape: MachineShape) -> int:
    """Return base plus what is plugged now."""
    size = await qmp.execute("qom-get", {"path": _DEVICE_PATH, "property": "size"})
    return shape.memory_base_mib + int(size) // (1 << 20)


async def resize(qmp: Qmp, shape: MachineShape, target_mib: int) -> int:
    """Ask for `target_mib` and return the size when it is reached or the guest has stopped moving."""
    requested = (target_mib - shape.memory_base_mib) << 20
    arguments = {"path": _DEVICE_PATH, "property": "requested-size", "value": requested}
    with qmp.listen(_SIZE_CHANGED) as changes:
        await qmp.execute("qom-set", arguments)
        reached = await current(qmp, shape)
        idle_rounds = 0
        while reached != target_mib and idle_rounds < IDLE_ROUNDS_MAX:
            await event_or_pause(changes, ROUND_S)
            before, reached = reached, await current(qmp, shape)
            idle_rounds = idle_rounds + 1 if reached == before else 0
        return reached
