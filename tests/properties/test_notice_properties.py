"""Notices on fleets of every kind: begun once, kept by nothing but a word, and never to and fro."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as some

from sandfleet.model.drain import Drain, DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.machine import Machine, MachineState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import DrainWorker, KeepWorker
from sandfleet.planning.notices import MARGIN_S, NoticeView, plan_notices
from sandfleet.testing.builders import NOON, a_worker

SOON = NOON + timedelta(seconds=120)


@some.composite
def views(draw: some.DrawFn) -> NoticeView:
    workers, machines, drains = [], [], {}
    for number in range(draw(some.integers(0, 5))):
        name, machine = WorkerId(f"wk-{number}"), f"machine-{number}"
        ends = some.sampled_from([None, None, NOON - timedelta(seconds=1), SOON])
        workers.append(
            a_worker(
                name,
                machine_id=machine,
                state=draw(some.sampled_from(list(WorkerState))),
                ends_at=draw(ends),
                ends_because="spot",
            )
        )
        if draw(some.booleans()):
            machines.append(Machine(machine, None, "small", MachineState.RUNNING, NOON, ends_at=draw(ends)))
        owner = draw(some.sampled_from([None, *DrainOwner]))
        if owner is not None:
            drains[name] = Drain(name, owner.value, NOON, owner=owner)
    unknown = frozenset(one.id for one in workers if draw(some.booleans()))
    return NoticeView(workers, drains, machines, unknown=unknown)


def done(view: NoticeView, commands: Sequence[DrainWorker | KeepWorker]) -> NoticeView:
    """Return the view when all of that is written down."""
    drains = dict(view.drains)
    for one in commands:
        if isinstance(one, KeepWorker):
            del drains[one.worker_id]
        else:
            drains[one.worker_id] = Drain(one.worker_id, one.owner.value, NOON, owner=one.owner)
    return NoticeView(view.workers, drains, view.machines, unknown=view.unknown)


@given(views(), some.integers(0, 5))
def test_each_beginning_of_a_plan_is_legal_and_the_rest_follows(view: NoticeView, count: int) -> None:
    commands = plan_notices(view, now=NOON)
    assert list(plan_notices(done(view, commands[:count]), now=NOON)) == list(commands[count:])
    assert not plan_notices(done(view, commands), now=NOON)


@given(views())
def test_who_has_notice_is_drained_in_time_and_who_is_kept_has_none(view: NoticeView) -> None:
    workers = {one.id: one for one in view.workers}
    said = {one.id: one.ends_at for one in view.machines}
    for command in plan_notices(view, now=NOON):
        worker = workers[command.worker_id]
        ends = [at for at in (worker.ends_at, said.get(worker.machine_id)) if at is not None]
        assert worker.state is not WorkerState.GONE
        assert command.owner is DrainOwner.NOTICE
        if isinstance(command, DrainWorker):
            left_s = (min(ends) - NOON).total_seconds()
            assert command.deadline_s == max(0.0, left_s - MARGIN_S)
        else:
            assert not ends
            assert worker.state is WorkerState.READY
            assert worker.id not in view.unknown
            assert view.drains[worker.id].owner is DrainOwner.NOTICE
