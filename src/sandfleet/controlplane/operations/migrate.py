"""Migrate: a running sandbox goes on at another worker; `wire.move_messages` has the order of the calls.

    receive   the target makes the place            back     the source runs on, whatever has failed
    send      the source sends, until it has said   arrive   the target runs it; its row says so since `land`
              that it cannot run by itself any more   grow     it is made larger, if it moved for that
    land      the target could run it, so owner and epoch change: the commit

Rule 1: there is no commit unless the source itself said `ready`, or its QEMU is dead, and the target
could run it. Rule 2: before the commit whatever fails ends with the source running on; it is told so only
after `back` is written, which no commit can follow. Rule 3: after it only the target is asked, until it
has lost it. Rule 4: waiting ends by what the workers say, not by the clock: a large guest on a slow link
may take its time.

What if it dies
    after the rows       another replica takes over at `receive`: the same move is one place
    while it is sent     the source goes on by itself; the repeated order joins it
    after `ready`        the source stands still and whole until somebody says `commit` or `stay`
    after the commit     another replica takes over at `arrive`: the same commit is one start
    killed meanwhile     the kill wins: its operation ends the owner's machine, `release` the other one
    the source's worker  asked until it answers; one that is gone for ever committed nothing, so the row
                         goes back to `running`, and the loss is repaired as any other
    the target's worker  before the commit the source runs on, also when the target is only silent for
                         long; after it the source is called back, if the target has lost it by
                         somebody's word and the source has it still (`recall`)
    it, while memory     the source runs on if all of it went over by then, since nothing ran at the target
    follows its guest    before the commit; if the two were torn apart neither has all of it: its machine
                         is ended, the row goes back to `running`, and the loss is repaired as any other
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from sandfleet.controlplane.operations.arrival import announce
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.ending import WRITE_ATTEMPTS, Ending, end
from sandfleet.controlplane.operations.grow import Grown, grown_there, is_to_grow, resized
from sandfleet.controlplane.operations.move_workers import (
    DEAD,
    TargetSilent,
    WorkerLost,
    address,
    is_source_dead,
    landing,
    sent,
    stays,
)
from sandfleet.controlplane.operations.recall import is_kept, recalled
from sandfleet.controlplane.operations.records import ended, log_row
from sandfleet.controlplane.operations.release import release_operation, require_mover
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance, place
from sandfleet.model.errors import (
    HypervisorFailed,
    NoCapacity,
    NotFound,
    SandfleetError,
    StaleVersion,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.ports.move_client import WorkerAddress
from sandfleet.wire.move_messages import (
    AT_HOME,
    FAILED,
    LANDED,
    READY,
    STAYED,
    UNDECIDED,
    CommitMove,
    MoveState,
)

ACTOR = "migrate"
RETRY_AFTER_S = 5
RECEIVE_ATTEMPTS = 12
SEND_ATTEMPTS = 30
"""How often a source is asked that has other moves under way."""
LAND_ATTEMPTS = 30
"""A target that does not answer for so long does not get it; the guest stands still meanwhile. With its
source dead it may have the only copy, and is waited for."""
SILENT_ATTEMPTS = 20
"""Nor one that does not while it is sent: the guest may stand still by now, and nobody would hear it."""
_STATE = SandboxState.MIGRATING
_AFTER_COMMIT = ("arrive", "grow")


async def _receive(run: Run, operation: Operation) -> Operation:
    """Have the target make the place."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE:
            return await _leave(run, operation)
        try:
            source = await address(run, operation, "source")
            manifest = await require_mover(run.plane).describe_vm(source, sandbox.id, epoch=sandbox.epoch)
            await landing(run, operation, sandbox, manifest)
        except StoreUnavailable:
            raise
        except SandfleetError as error:
            is_final = not isinstance(error, Unavailable) or backoff.attempts >= RECEIVE_ATTEMPTS
            if is_final:
                return await _turn_back(run, operation, error)
            await backoff.wait()
        else:
            progress = {**operation.progress, "manifest": msgspec.to_builtins(manifest)}
            return await _saved(run, operation, step="send", progress=progress)


async def _send(run: Run, operation: Operation) -> Operation:
    """Have the source send, and hear how it goes, until it has said how it ended."""
    backoff, silent = Backoff(run.plane.clock, most_s=5.0), Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE:
            return await _leave(run, operation)
        try:
            state = await sent(run, operation, sandbox)
        except StoreUnavailable:
            raise
        except SandfleetError as error:
            waits = silent if isinstance(error, TargetSilent) else backoff
            if _is_final(error, waits.attempts):
                return await _without_word(run, operation, error)
            await waits.wait()
            continue
        silent = Backoff(run.plane.clock, most_s=5.0)
        if state.step in (FAILED, STAYED):
            return await _without_word(run, operation, HypervisorFailed(state.said or state.step))
        step = "land" if state.step == READY else "send"
        operation = await _saved(run, operation, step=step, progress=_noted(operation, state))
        if state.step == READY:
            return operation
        if state.step == UNDECIDED:
            await backoff.wait()


def _is_final(error: SandfleetError, attempts: int) -> bool:
    if isinstance(error, TargetSilent):
        return attempts >= SILENT_ATTEMPTS
    if isinstance(error, NoCapacity):
        return attempts >= SEND_ATTEMPTS
    return not isinstance(error, Unavailable)


async def _without_word(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """The source has not said `ready`: land all the same if its QEMU is dead, and else turn back."""
    if await is_source_dead(run, operation) and await _has_landed(run, operation):
        return await _saved(run, operation, step="land", progress=dict(operation.progress))
    return await _turn_back(run, operation, error)


async def _has_landed(run: Run, operation: Operation) -> bool:
    """Whether the target could run it. Its source is dead, so it may have the only copy: it is waited for."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while (await run.fresh_row(operation)).state is _STATE:
        try:
            target = await address(run, operation, "target")
            state = await require_mover(run.plane).landed(target, operation.id)
        except StoreUnavailable:
            raise
        except Unavailable:
            await backoff.wait()
        except SandfleetError:
            return False
        else:
            return state.step in (LANDED, AT_HOME)
    return False


async def _land(run: Run, operation: Operation) -> Operation:
    """Commit once the target could run it."""
    backoff = Backoff(run.plane.clock, most_s=2.0)
    while True:
        if (await run.fresh_row(operation)).state is not _STATE:
            return await _leave(run, operation)
        try:
            target = await address(run, operation, "target")
            state = await require_mover(run.plane).landed(target, operation.id)
        except StoreUnavailable:
            raise
        except SandfleetError as error:
            if not isinstance(error, Unavailable):
                return await _turn_back(run, operation, error)
            if backoff.attempts >= LAND_ATTEMPTS and not await is_source_dead(run, operation):
                return await _turn_back(run, operation, error)
        else:
            if state.step in (LANDED, AT_HOME):
                return await _commit(run, operation, target)
        await backoff.wait()


async def _commit(run: Run, operation: Operation, target: WorkerAddress) -> Operation:
    """Change owner and epoch, in one transaction with the step after which nobody turns back."""
    arriving = replace(operation, step="arrive")
    for _ in range(WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not _STATE:
            return await _leave(run, operation)
        after = place(before, target.worker_id, at=run.plane.clock.now())
        reason = f"{target.worker_id} holds all of it, {before.worker_id} runs it no more"
        log = log_row(before, after, event="moved", actor=ACTOR, reason=reason, operation=operation)
        try:
            await run.plane.stores.moves.commit(
                arriving, after, log, source=WorkerId(operation.arguments["source"])
            )
        except StaleVersion:
            continue
        run.sandbox = after
        await announce(run, after, url=target.url)
        return arriving
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _arrive(run: Run, operation: Operation) -> Operation:
    """Have the target run it, however often that takes."""
    backoff = Backoff(run.plane.clock, most_s=2.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE:
            return await _leave(run, operation)
        order = CommitMove(sandbox_id=sandbox.id, epoch=sandbox.epoch, envs=dict(sandbox.envs))
        try:
            target = await address(run, operation, "target")
            status = await require_mover(run.plane).commit_move(target, operation.id, order)
        except StoreUnavailable:
            raise
        except (WorkerLost, NotFound) as error:
            return await _lost_there(run, operation, str(error))
        except SandfleetError:
            await backoff.wait()
        else:
            if status.state == DEAD:
                return await _lost_there(run, operation, status.reason or DEAD)
            if is_to_grow(operation):
                return await _saved(run, operation, step="grow", progress=dict(operation.progress))
            done = await _moved(run, operation, error=None)
            await announce(run, await run.row(operation), url=target.url)
            return done


async def _lost_there(run: Run, operation: Operation, why: str) -> Operation:
    """The target does not run it and never will: its source does, if it still has it."""
    error = HypervisorFailed(f"it is lost: {why}")
    if not await is_kept(run, operation):
        return await _moved(run, operation, error=error)
    return await recalled(run, operation, error) or await _leave(run, operation)


async def _grow(run: Run, operation: Operation) -> Operation:
    """Have it as large as was asked for; whatever refuses that, it has moved."""
    grown = await grown_there(run, operation)
    if grown is None:
        return await _leave(run, operation)
    return await _moved(run, operation, error=grown.error, grown=grown)


async def _moved(
    run: Run, operation: Operation, *, error: SandfleetError | None, grown: Grown | None = None
) -> Operation:
    stood_still_at_s = float(operation.progress.get("stood_still_at_s") or 0)
    elapsed_s = (run.plane.clock.now() - operation.created_at).total_seconds()
    downtime_s = max(0.0, run.plane.clock.now().timestamp() - stood_still_at_s) if stood_still_at_s else 0.0
    told = {"elapsed_ms": round(elapsed_s * 1000), "downtime_ms": round(downtime_s * 1000)}
    operation = replace(operation, progress={**operation.progress, **told})
    names = ("source", "target")
    shown = {name: operation.arguments[name] for name in names}
    shown |= {name: operation.progress.get(name) for name in ("way", "round", "transferred_bytes")}

    def ending(before: Sandbox, now: datetime) -> Ending:
        event = SandboxEvent.MIGRATED
        after = replace(advance(before, event, at=now), deadline_at=None)
        if grown is not None:
            after = resized(after, grown, operation)
        return Ending(
            sandbox=after,
            event=event,
            reason=error.message if error else f"it runs on {after.worker_id}",
            error=error,
            follow_up=release_operation(run.plane, after, operation, is_moved=True),
            detail={**shown, "downtime_ms": told["downtime_ms"]},
            reserved_mib=grown.memory_mib if grown else None,
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    if done is None:
        return await _leave(run, operation)
    if error is None:
        run.plane.observer.sandbox_moved(downtime_s=downtime_s)
    return done


async def _turn_back(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Write that it stays: from here on nothing commits it, so the source may be told to run on."""
    told = {"code": error.code, "message": error.message}
    return await _saved(run, operation, step="back", progress={**operation.progress, "failure": told})


async def _back(run: Run, operation: Operation) -> Operation:
    """Have the source run on, then say so."""
    failure = operation.progress["failure"]
    error = SandfleetError(failure["message"], code=failure["code"])
    backoff = Backoff(run.plane.clock, most_s=2.0)
    while not await stays(run, operation):
        if (await run.fresh_row(operation)).state is not _STATE:
            return await _leave(run, operation)
        await backoff.wait()

    def ending(before: Sandbox, now: datetime) -> Ending:
        event = SandboxEvent.MIGRATE_FAILED
        after = replace(advance(before, event, at=now), deadline_at=None)
        return Ending(
            sandbox=after,
            event=event,
            reason=error.message,
            error=error,
            follow_up=release_operation(run.plane, after, operation, is_moved=False),
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await _leave(run, operation)


async def _leave(run: Run, operation: Operation) -> Operation:
    """End the move of a sandbox that was killed: the destroy ends its owner's machine, this the other one."""
    sandbox = await run.row(operation)
    done = ended(operation, OperationState.CANCELLED, at=run.plane.clock.now())
    follow_up = release_operation(run.plane, sandbox, operation, is_moved=operation.step in _AFTER_COMMIT)
    await run.plane.stores.operations.finish(done, follow_up=follow_up)
    run.begin(follow_up)
    return done


async def _give_up(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Go on to an end that loses nothing."""
    if (await run.fresh_row(operation)).state is not _STATE:
        return await _leave(run, operation)
    if operation.step in _AFTER_COMMIT:
        return await (_arrive if operation.step == "arrive" else _grow)(run, operation)
    if operation.step != "back":
        operation = await _turn_back(run, operation, error)
    return await _back(run, operation)


async def _saved(run: Run, operation: Operation, *, step: str, progress: dict[str, Any]) -> Operation:
    return await run.plane.stores.operations.save(replace(operation, step=step, progress=progress))


def _noted(operation: Operation, state: MoveState) -> dict[str, Any]:
    said = {name: value for name, value in msgspec.to_builtins(state).items() if name not in _OF_THE_MOVE}
    return {**operation.progress, **said}


_OF_THE_MOVE = frozenset({"move_id", "sandbox_id"})
MIGRATE = Definition(
    steps={
        "receive": _receive,
        "send": _send,
        "land": _land,
        "arrive": _arrive,
        "grow": _grow,
        "back": _back,
    },
    give_up=_give_up,
)
