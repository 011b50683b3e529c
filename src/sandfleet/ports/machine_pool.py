"""Where the fleet's machines come from (adapters: `adapters/machines/`).

Rule 1: a launch names its machine. Asked again with the same launch, a pool answers with the same machine;
once that machine has ended there is never another of that launch.
Rule 2: every machine carries the tags of its fleet and its launch from its first moment, so that one whose
launch got no answer is found again. A pool tells and ends machines of its own fleet alone.
Rule 3: each call that changes something carries the leader's term. A pool refuses a term older than one that
it has seen. Where a pool cannot remember it for all its callers, only what is durably asked for is ever
asked of it: a launch that stands, and the end of a machine that was given up.
Rule 4: a machine is gone when the pool says so. No answer is not that word.
Rule 5: what was made beside a machine (disk, network card, address) carries the same tags, and ends with it.
What a broken call or a broken pool left behind is told as a part that nothing holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.launch import MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart


class MachinePool(Protocol):
    """One pool."""

    @property
    def name(self) -> str:
        """The first part of the keys of its sizes."""
        ...

    @property
    def sizes(self) -> Sequence[MachineSize]:
        """What may be asked for; none when nothing may."""
        ...

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Begin a machine and return it, or the one that this launch has already.

        MachineRefused: there is no machine of this launch, and the pool begins none. PoolUnreachable:
        there may be one; ask again. StaleTerm.
        """
        ...

    async def list(self) -> Sequence[Machine]:
        """Return the fleet's machines that are not gone, by id. PoolUnreachable, never part of them."""
        ...

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Have it end; true once it is gone, or never was. False: ask again. PoolUnreachable, StaleTerm."""
        ...

    async def parts(self) -> Sequence[MachinePart]:
        """Return the fleet's parts that nothing holds, by kind and id. PoolUnreachable, never some."""
        ...

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Have it end unless something holds it; true once it is gone, or never was the fleet's.

        False: ask again. PoolUnreachable, StaleTerm.
        """
        ...
