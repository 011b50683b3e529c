"""Roll-outs, versions and proofs in memory (port: `ports.rollout_store.RolloutStore`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sandfleet.model.errors import Conflict, NotFound, StaleVersion
from sandfleet.model.ids import FLEET_ORGANISATION, WorkerId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.rollout_health import Wellness
from sandfleet.planning.rollout_state import RolloutStage, begin_rollout, cancel_rollout
from sandfleet.ports.rollout_store import (
    ROLLOUT_OVER,
    ROLLOUTS_SHOWN,
    VERSION_RUNS,
    Proof,
    StoredRollout,
    Version,
    first_steps,
    rollout_news,
    same_rollout,
)
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link

_COUNTED = (OperationKind.CREATE, OperationKind.WAKE)
_ENDED = (OperationState.SUCCEEDED, OperationState.FAILED)


class MemoryRolloutStore:
    """What is rolled out, and how its workers fare."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def current(self) -> StoredRollout | None:
        """Return the newest."""
        return await self._link.call(
            lambda: next(reversed(self._database.rollouts), None), repeatable=True, name="current_rollout"
        )

    async def list(self) -> Sequence[StoredRollout]:
        """Return the newest, newest first."""
        return await self._link.call(
            lambda: self._database.rollouts[: -ROLLOUTS_SHOWN - 1 : -1], repeatable=True, name="rollouts"
        )

    async def begin(self, version: str, previous: str, *, actor: str, at: datetime) -> StoredRollout:
        """Begin."""

        def work() -> StoredRollout:
            database = self._database
            before = next(reversed(database.rollouts), None)
            if before is not None and before.rollout.is_under_way:
                return same_rollout(before, version)
            known = database.versions.get(version) or Version(version, database.now(), actor)
            begun = begin_rollout(version, previous, is_boot_tested=known.tested_at is not None, now=at)
            if isinstance(begun, str):
                raise Conflict(begun, code=VERSION_RUNS)
            database.versions[version] = known
            number = len(database.rollouts) + 1
            after = StoredRollout(number, begun, actor, steps=tuple(first_steps(begun, actor=actor)))
            database.rollouts.append(after)
            database.tell(rollout_news(after), actor=actor, after=begun.stage.value)
            return after

        return await self._link.call(work, repeatable=True, name="begin_rollout")

    async def cancel(self, number: int, *, actor: str, at: datetime) -> StoredRollout:
        """Turn it round."""

        def work() -> StoredRollout:
            database = self._database
            if not 1 <= number <= len(database.rollouts):
                raise NotFound(f"roll-out {number} not found")
            before = database.rollouts[-1]
            if number < before.number:
                raise Conflict(f"roll-out {number} has ended", code=ROLLOUT_OVER)
            after = cancel_rollout(before.rollout, by=actor, now=at)
            if isinstance(after, str):
                raise Conflict(after, code=ROLLOUT_OVER)
            if after != before.rollout:
                record_rollout(database, before.after(after, actor=actor), actor=actor)
            return database.rollouts[-1]

        return await self._link.call(work, repeatable=True, name="cancel_rollout")

    async def version(self, name: str) -> Version | None:
        """Return what is known of it."""
        return await self._link.call(
            lambda: self._database.versions.get(name), repeatable=True, name="worker_version"
        )

    async def proofs(self) -> Mapping[WorkerId, Proof]:
        """Return those of the versions that run."""

        def work() -> Mapping[WorkerId, Proof]:
            database = self._database
            return {
                name: proof
                for name, proof in sorted(database.proofs.items())
                if database.workers[name].worker_version == proof.version
                and database.workers[name].state is not WorkerState.GONE
            }

        return await self._link.call(work, repeatable=True, name="proofs")

    async def save_proof(self, proof: Proof, *, term: int) -> None:
        """Write it down in the leader's term."""

        def work() -> None:
            self._database.require_term(term)
            self._database.proofs[proof.worker_id] = proof

        await self._link.call(work, repeatable=True, name="save_proof")

    async def wellness(self, workers: Sequence[WorkerId], *, since: timedelta) -> Mapping[WorkerId, Wellness]:
        """Count what has ended since."""

        def work() -> Mapping[WorkerId, Wellness]:
            begun = self._database.now() - since
            ended = [
                one.operation
                for one in self._database.operations.values()
                if one.operation.kind in _COUNTED
                and one.operation.state in _ENDED
                and one.operation.organisation_id != FLEET_ORGANISATION
                and one.operation.finished_at is not None
                and one.operation.finished_at > begun
            ]
            places = [(WorkerId(str(one.progress.get("worker_id"))), one) for one in ended]
            attempts = Counter(name for name, _ in places)
            failed = Counter(name for name, one in places if one.state is OperationState.FAILED)
            return {
                name: Wellness(is_proven=False, attempts=count, failed=failed[name])
                for name, count in attempts.items()
                if name in workers
            }

        return await self._link.call(work, repeatable=True, name="wellness")


def record_rollout(database: MemoryDatabase, after: StoredRollout, *, actor: str) -> None:
    """Write the next state with what it means; StaleVersion."""
    before = next(reversed(database.rollouts), None)
    if before is None or before.number != after.number or before.revision != after.revision:
        if before is not None and before == replace(after, revision=after.revision + 1):
            return  # the answer to this very write was lost
        raise StaleVersion("the roll-out was changed meanwhile")
    database.rollouts[-1] = replace(after, revision=after.revision + 1)
    rollout, was = after.rollout, before.rollout.stage
    if rollout.stage is not was:
        database.tell(rollout_news(after), actor=actor, before=was.value, after=rollout.stage.value)
        known, now = database.versions[rollout.version], database.now()
        if was is RolloutStage.BOOT_TEST and rollout.stage is RolloutStage.CANARY:
            database.versions[known.name] = replace(known, tested_at=now, refused_at=None, said="")
        if rollout.stage is RolloutStage.TURNING_BACK and was is not RolloutStage.TURNED_BACK:
            database.versions[known.name] = replace(
                known, tested_at=None, refused_at=now, said=rollout.reason
            )
    if rollout.stage in (RolloutStage.CANARY, RolloutStage.FLEET):
        for worker in list(database.workers.values()):
            if worker.worker_version == rollout.version and worker.cordoned:
                database.workers[worker.id] = replace(worker, cordoned=False, version=worker.version + 1)


def is_tested(database: MemoryDatabase, version: str) -> bool:
    """Whether new workers of the version take nothing yet."""
    return any(
        one.rollout.version == version and one.rollout.stage is RolloutStage.BOOT_TEST
        for one in database.rollouts
    )
