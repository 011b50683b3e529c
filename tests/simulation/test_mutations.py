"""The simulation can fail: each rule, broken on purpose, is found within a few seeds."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import pytest

from sandfleet.controlplane.api import sizes
from sandfleet.controlplane.http import idempotency as claims
from sandfleet.controlplane.loops import drain, expiry, notices
from sandfleet.controlplane.operations import (
    arrival,
    destroy,
    engine,
    fleet,
    migrate,
    release,
    resize_or_move,
    upload,
)
from sandfleet.model.errors import StaleLease
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.resources import NOTHING
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.snapshot import Snapshot
from sandfleet.planning import autoscale, placement, rollout, rollout_health
from sandfleet.planning.fleet import Member
from sandfleet.testing.memory import idempotency, saved_states, workers
from sandfleet.testing.memory.database import MemoryDatabase, StoredOperation
from sandfleet.testing.simulation import replica
from sandfleet.testing.simulation.host import Host
from sandfleet.testing.simulation.invariants import WatchedDatabase
from sandfleet.testing.simulation.profile import POOL_EVERY, ROLLOUT_EVERY, SIZES_EVERY
from sandfleet.testing.simulation.running import run_seed
from sandfleet.testing.simulation.versions import DEAF, FAINT, GOOD
from sandfleet.testing.simulation.world import Mutations
from sandfleet.wire.worker_messages import HeartbeatAnswer, SnapshotState

SEEDS_MAX = 160
WITH_ROLLOUT = range(ROLLOUT_EVERY - 2, SEEDS_MAX * ROLLOUT_EVERY, ROLLOUT_EVERY)
WITH_SIZES = range(1, SEEDS_MAX * SIZES_EVERY, SIZES_EVERY)


def finds(expected: str, mutations: Mutations | None = None, *, seeds: range = range(SEEDS_MAX)) -> None:
    """Run seeds until one breaks; among what is found must be the rule that was broken."""
    for seed in seeds:
        outcome = run_seed(seed, mutations=mutations)
        if outcome.violations:
            assert any(re.search(expected, found) for found in outcome.violations), outcome.report()
            assert f"--seed {seed}" in outcome.report()
            return
    pytest.fail(f"{len(seeds)} seeds found nothing")


class WithoutVersions(WatchedDatabase):
    """Lets every write through, whatever version it was made from."""

    def require_version(self, sandbox: Sandbox) -> None:
        """Ask nothing but that there is a row."""


class WithoutTokens(WatchedDatabase):
    """Lets everybody write an operation that is open."""

    def require_lease(self, operation: Operation) -> StoredOperation:
        """Ask nothing but that it is open."""
        stored = self.running.get(operation.id)
        if stored is None:
            raise StaleLease("it has ended")
        return stored


class WithoutTerms(WatchedDatabase):
    """Takes every leader for the newest."""

    def is_newest(self, term: int) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        (WithoutVersions, "a write over a version that is over|came back from|became"),
        (WithoutTokens, "was written without its lease"),
        (WithoutTerms, "an effect of term"),
    ],
)
def test_a_store_that_does_not_check_is_found(database: type[WatchedDatabase], expected: str) -> None:
    finds(expected, Mutations(database=database))


def test_a_place_that_is_freed_before_the_proof_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(run: Any, operation: Any) -> bool:
        return True

    monkeypatch.setattr(destroy, "_is_proven_gone", always)
    finds("released while")


class Unfenced(Host):
    """A worker that hears that epochs are over, and goes on."""

    def learn(self, answer: HeartbeatAnswer) -> None:
        """Overhear it."""
        super().learn(msgspec.structs.replace(answer, over={}))


def test_a_lost_worker_that_speaks_again_and_is_not_fenced_is_found() -> None:
    finds(r"stuck: .* has sb-\w+ in epoch", Mutations(host=Unfenced))


def test_a_host_that_is_oversold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "REFUSALS", [one for one in placement.REFUSALS if one[0] != "memory"])
    finds("MiB are promised of")


def test_an_artefact_that_is_removed_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(database: MemoryDatabase, snapshot: Snapshot) -> bool:
        return False

    monkeypatch.setattr(saved_states, "is_needed", never)
    finds("is removed, and needed by|snapshot_unusable")


def test_a_state_that_is_called_durable_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(run: Any, snapshot: Snapshot) -> tuple[SnapshotState, None]:
        return SnapshotState(snapshot_id=snapshot.id, state=upload.DURABLE), None

    monkeypatch.setattr(upload, "ask", at_once)
    finds("is called durable and is not stored")


def test_a_key_that_is_handed_out_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = idempotency.MemoryIdempotencyStore.claim

    async def forgetting(self: Any, scope: Any, **given: Any) -> Any:
        known = self._database.claims.get(scope)
        if known is not None and known.answer is None:
            del self._database.claims[scope]
        return await claim(self, scope, **given)

    monkeypatch.setattr(idempotency.MemoryIdempotencyStore, "claim", forgetting)
    finds(r"was answered|made \d sandboxes")


def test_a_create_that_is_forgotten_although_it_may_have_begun_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    route = ("POST", "/api/sandboxes")
    forgetful = dataclasses.replace(replica._BY_ROUTE[route], resumes=False)
    monkeypatch.setitem(replica._BY_ROUTE, route, forgetful)
    monkeypatch.setattr(claims, "_UNCERTAIN", frozenset())
    finds(r"made \d sandboxes")


def test_a_create_that_two_replicas_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def as_if_it_were_ours(plane: Any, sandbox_id: Any, create_id: Any) -> tuple[Sandbox, Operation]:
        stored = await plane.stores.operations.get(create_id)
        return await plane.stores.sandboxes.get_any(sandbox_id), stored

    monkeypatch.setattr(fleet, "begun_create", as_if_it_were_ours)
    finds("is run by .* in one lease")


def test_a_step_that_is_repeated_without_a_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_at_all(self: Any, held: Any) -> None:
        """Look at nothing."""

    monkeypatch.setattr(engine.OperationEngine, "_read_again", not_at_all)
    monkeypatch.setattr(arrival, "_is_placed", lambda sandbox: False)
    finds("step_failed: Duplicate")


def test_an_expiry_beside_other_work_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "BACKGROUND_KINDS", frozenset(OperationKind))
    finds("beside")


def test_without_a_mutation_the_same_seeds_find_nothing() -> None:
    for seed in range(10):
        assert run_seed(seed).violations == ()


def test_a_move_that_is_committed_without_its_sources_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(run: Any, operation: Any) -> bool:
        return True

    monkeypatch.setattr(migrate, "is_source_dead", always)
    finds("runs at both ends of a move")


def test_a_second_place_that_is_given_back_before_the_proof_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(run: Any, operation: Any) -> bool:
        return True

    monkeypatch.setattr(release, "_is_cleared", always)
    finds("released while")


def test_a_source_that_is_not_told_to_run_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(run: Any, operation: Any) -> bool:
        return True

    monkeypatch.setattr(migrate, "stays", at_once)
    finds("is running on .*, which has no such VM|released while")


def test_a_worker_that_is_called_drained_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tick = drain.DrainLoop._write

    async def blind(self: Any, seen: Any, worker: Any, plan: Any, begun: Any, *, term: int) -> str:
        empty = dataclasses.replace(plan, stays=())
        return await tick(self, seen, dataclasses.replace(worker, committed=NOTHING), empty, (), term=term)

    monkeypatch.setattr(drain.DrainLoop, "_write", blind)
    finds("is called drained, .* are promised")


def test_a_machine_that_ends_under_a_sandbox_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_require_forgettable", lambda *_, **__: None)
    monkeypatch.setattr(Member, "may_be_removed", property(lambda member: member.is_draining))
    finds("ends under", seeds=range(POOL_EVERY - 2, 8 * SEEDS_MAX, POOL_EVERY))


def test_a_drained_worker_that_takes_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "REFUSALS", [one for one in placement.REFUSALS if one[0] != "cordoned"])
    finds("is placed on .*, which is drained")


def test_a_version_that_comes_to_the_fleet_unproven_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rollout, rollout_health):
        monkeypatch.setattr(module, "is_proven", lambda member, view: True)
    monkeypatch.setattr(rollout, "why_unwell", lambda *_: None)
    finds("which is bad, comes to the fleet", Mutations(profile={"next_version": DEAF}), seeds=WITH_ROLLOUT)


def test_a_canary_that_is_well_only_now_and_then_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rollout, rollout_health):
        monkeypatch.setattr(
            module, "is_well", lambda member, view, *_: rollout_health.is_proven(member, view)
        )
    finds("which is bad, comes to the fleet", Mutations(profile={"next_version": FAINT}), seeds=WITH_ROLLOUT)


def test_a_version_under_test_that_takes_sandboxes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "is_tested", lambda database, version: False)
    finds("whose version is under test", seeds=WITH_ROLLOUT)


def test_a_rollout_that_ends_machines_with_sandboxes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_require_forgettable", lambda *_, **__: None)
    monkeypatch.setattr(Member, "may_be_removed", property(lambda member: member.is_draining))
    finds(
        "ends under|the host of worker .* was lost",
        Mutations(profile={"next_version": GOOD}),
        seeds=WITH_ROLLOUT,
    )


def test_a_rollout_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_drains", lambda *_, **__: ([], {}))
    finds("stuck: .*the roll-out is fleet", Mutations(profile={"next_version": GOOD}), seeds=WITH_ROLLOUT)


def test_a_notice_that_nobody_heeds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "plan_notices", lambda view, now: [])
    finds("ends under", Mutations(profile={"faults": ("take machine",)}), seeds=WITH_ROLLOUT)


def test_a_locked_size_that_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (resize_or_move, sizes):
        monkeypatch.setattr(module, "require_unlocked", lambda sandbox: None)
    finds("changes its size, which is locked", seeds=WITH_SIZES)


def test_a_size_that_goes_to_and_fro_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscale._Guest, "has_room", lambda *_: True)
    finds("to and fro under equal use", seeds=WITH_SIZES)
