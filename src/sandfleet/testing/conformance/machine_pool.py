"""What every `ports.machine_pool.MachinePool` keeps, wherever its machines are.

A check is given a pool in which the fleet has no machine yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sandfleet.model.errors import MachineRefused, StaleTerm
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.ports.machine_pool import MachinePool
from sandfleet.testing.conformance.checking import refusing

_ROUNDS_MAX = 1000
FIRST, SECOND = LaunchId("launch-00000001"), LaunchId("launch-00000002")


@dataclass(frozen=True, slots=True)
class Subject:
    """A pool, and the world around it."""

    pool: MachinePool
    again: Callable[[], MachinePool]
    """The pool of the same fleet as another server has it."""
    stranger: MachinePool
    """The pool of another fleet in the same place."""
    pass_time: Callable[[], Awaitable[None]]
    """Let the world go on a little: machines come up, and those that are to end go."""
    refuse: Mapping[LaunchFailure, Callable[[], None]] = field(default_factory=dict)
    """Have the next launch refused in each way that this pool knows."""
    remembers_terms: bool = True
    """Whether the pool itself knows the newest term, not only one of its callers."""
    leave_parts: Callable[[], Awaitable[int]] | None = None
    """Have parts of the fleet there that nothing holds, of the first launch; return how many."""
    parts_of: Callable[[Machine], Sequence[MachinePart]] = lambda _: ()
    """What a machine holds, where the check can know it."""


Check = Callable[[Subject], Awaitable[None]]


def an_order(subject: Subject, launch_id: LaunchId = FIRST) -> MachineOrder:
    """Ask for the pool's first size."""
    return MachineOrder(launch_id, subject.pool.sizes[0].name, "v1")


async def _until(subject: Subject, is_so: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(_ROUNDS_MAX):
        if await is_so():
            return
        await subject.pass_time()
    raise AssertionError(f"not in {_ROUNDS_MAX} rounds: {await subject.pool.list()}")


async def _ended(subject: Subject, machine: Machine) -> None:
    async def is_gone() -> bool:
        return await subject.pool.terminate(machine.id, term=1)

    await _until(subject, is_gone)


async def a_machine_is_told_with_its_launch_until_it_is_gone(subject: Subject) -> None:
    """It comes up, is told to end, and the pool says so when it has."""
    pool = subject.pool
    assert all(size.pool == pool.name for size in pool.sizes)
    machine = await pool.launch(an_order(subject), term=1)
    assert (machine.launch_id, machine.size) == (FIRST, pool.sizes[0].name)
    assert machine.state in (MachineState.STARTING, MachineState.RUNNING)

    async def is_up() -> bool:
        (seen,) = await pool.list()
        assert (seen.id, seen.launch_id, seen.size) == (machine.id, FIRST, machine.size)
        assert seen.launched_at == machine.launched_at
        return seen.state is MachineState.RUNNING

    await _until(subject, is_up)
    if not await pool.terminate(machine.id, term=1):
        assert [one.state for one in await pool.list() if one.id == machine.id] in (
            [MachineState.ENDING],
            [],
        )
    await _ended(subject, machine)
    assert await pool.list() == []
    assert await pool.terminate(machine.id, term=1)


async def the_same_launch_is_the_same_machine(subject: Subject) -> None:
    """Asked again, by another server, and by several at once."""
    order = an_order(subject)
    pools = [subject.pool, subject.again(), subject.pool, subject.again()]
    machines = await asyncio.gather(*(pool.launch(order, term=1) for pool in pools))
    later = await subject.again().launch(order, term=1)
    assert len({machine.id for machine in (*machines, later)}) == 1
    other = await subject.pool.launch(an_order(subject, SECOND), term=1)
    listed = await subject.again().list()
    assert [machine.id for machine in listed] == sorted([later.id, other.id])
    assert {machine.launch_id for machine in listed} == {FIRST, SECOND}


async def of_a_launch_whose_machine_has_ended_there_is_never_another(subject: Subject) -> None:
    machine = await subject.pool.launch(an_order(subject), term=1)
    await _ended(subject, machine)
    with refusing(MachineRefused) as refused:
        await subject.again().launch(an_order(subject), term=1)
    assert refused.value.failure is LaunchFailure.BROKEN
    assert await subject.pool.list() == []


async def an_older_term_changes_nothing(subject: Subject) -> None:
    """Also with another server, where the pool can know that."""
    machine = await subject.pool.launch(an_order(subject), term=3)
    for pool in (subject.pool, subject.again()) if subject.remembers_terms else (subject.pool,):
        with refusing(StaleTerm):
            await pool.launch(an_order(subject, SECOND), term=2)
        with refusing(StaleTerm):
            await pool.terminate(machine.id, term=2)
        with refusing(StaleTerm):
            await pool.remove(MachinePart(PartKind.DISK, "any", FIRST), term=2)
    (seen,) = await subject.pool.list()
    assert seen.id == machine.id
    assert seen.state is not MachineState.ENDING
    assert (await subject.again().launch(an_order(subject, SECOND), term=4)).launch_id == SECOND


async def what_is_refused_is_not_there(subject: Subject) -> None:
    """Each way has its name; and the launch may be asked for again."""
    for failure, have_it_refused in subject.refuse.items():
        have_it_refused()
        with refusing(MachineRefused) as refused:
            await subject.pool.launch(an_order(subject), term=1)
        assert refused.value.failure is failure
        assert refused.value.message
        assert await subject.pool.list() == []
        # What was made for it goes meanwhile.
        await subject.pass_time()


async def a_part_that_nothing_holds_is_told_until_it_is_removed(subject: Subject) -> None:
    """Those that a machine has are not told, and go with it."""
    pool = subject.pool
    machine = await pool.launch(an_order(subject, SECOND), term=1)
    assert await pool.parts() == []
    count = 0 if subject.leave_parts is None else await subject.leave_parts()
    parts = await subject.again().parts()
    assert len(parts) == count
    assert parts == sorted(parts, key=lambda one: (one.kind, one.id))
    assert {part.launch_id for part in parts} <= {FIRST}

    async def are_removed() -> bool:
        # What one of them holds is told when that has gone.
        return all([await pool.remove(part, term=1) for part in await pool.parts()])

    await _until(subject, are_removed)
    assert all([await pool.remove(part, term=1) for part in parts])
    await _ended(subject, machine)
    assert await pool.parts() == []


async def the_parts_of_another_fleet_are_neither_told_nor_removed(subject: Subject) -> None:
    if subject.leave_parts is None:
        return
    await subject.leave_parts()
    parts = await subject.pool.parts()
    assert await subject.stranger.parts() == []
    for part in parts:
        assert await subject.stranger.remove(part, term=1)
    assert await subject.pool.parts() == parts


async def a_part_that_a_machine_has_is_not_removed(subject: Subject) -> None:
    """Not even by one who thinks that it lies there on its own."""
    if subject.leave_parts is None:
        return
    await subject.leave_parts()
    parts = await subject.pool.parts()
    machine = await subject.pool.launch(an_order(subject, SECOND), term=1)
    for part in subject.parts_of(machine):
        assert not await subject.pool.remove(part, term=1)
    for kind in PartKind:
        assert await subject.pool.remove(MachinePart(kind, "no-such-part", None), term=1)
    assert await subject.pool.parts() == parts
    assert [one.id for one in await subject.pool.list()] == [machine.id]


async def a_size_that_is_not_there_is_refused(subject: Subject) -> None:
    with refusing(MachineRefused) as refused:
        await subject.pool.launch(MachineOrder(FIRST, "no-such-size", "v1"), term=1)
    assert refused.value.failure is LaunchFailure.BROKEN
    assert await subject.pool.list() == []


async def the_machines_of_another_fleet_are_neither_told_nor_ended(subject: Subject) -> None:
    """Even if both fleets count their launches alike."""
    theirs = await subject.stranger.launch(an_order(subject), term=1)
    assert await subject.pool.list() == []
    assert await subject.pool.terminate(theirs.id, term=1)
    mine = await subject.pool.launch(an_order(subject), term=1)
    (seen,) = await subject.stranger.list()
    assert seen.id == theirs.id
    assert seen.state is not MachineState.ENDING
    await _ended(subject, mine)
    assert [one.id for one in await subject.stranger.list()] == [theirs.id]


async def a_machine_that_never_was_is_gone(subject: Subject) -> None:
    assert await subject.pool.terminate("no-such-machine", term=1)


CHECKS: tuple[Check, ...] = (
    a_machine_is_told_with_its_launch_until_it_is_gone,
    the_same_launch_is_the_same_machine,
    of_a_launch_whose_machine_has_ended_there_is_never_another,
    an_older_term_changes_nothing,
    a_part_that_nothing_holds_is_told_until_it_is_removed,
    the_parts_of_another_fleet_are_neither_told_nor_removed,
    a_part_that_a_machine_has_is_not_removed,
    what_is_refused_is_not_there,
    a_size_that_is_not_there_is_refused,
    the_machines_of_another_fleet_are_neither_told_nor_ended,
    a_machine_that_never_was_is_gone,
)
