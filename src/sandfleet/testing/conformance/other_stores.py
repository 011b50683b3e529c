"""What the stores of workers, tenants, keys and saved states keep, and what comes back from each."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.checkpoint import Checkpoint, CheckpointState
from sandfleet.model.errors import Conflict, NotFound, StaleTerm
from sandfleet.model.ids import CheckpointId, KeyId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.organisation import ApiKey, Caps, Quotas, Scope
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.model.worker import WorkerState
from sandfleet.ports.stores import StoredAnswer
from sandfleet.testing.builders import (
    NOON,
    ORGANISATION,
    a_transition,
    a_worker,
    an_operation,
    an_organisation,
)
from sandfleet.testing.conformance.checking import Check, create, refusing

SCOPE = (ORGANISATION, "POST", "/api/sandboxes", "key-1")


async def a_worker_comes_back_as_it_said(stores: Stores) -> None:
    worker = a_worker(
        worker_version="1",
        accelerator="tcg",
        cpu_model="max",
        memory_used_mib=5,
        cpu_percent=1.5,
        host_memory_mib=7,
        host_cpus=3,
        host_disk_mib=9,
        ends_at=NOON,
        ends_because="spot",
    )
    stored = (await stores.workers.register(worker)).worker
    assert stored.last_seen_at
    assert replace(stored, last_seen_at=None) == worker
    assert (await stores.workers.list()) == [stored]
    with refusing(NotFound):
        await stores.workers.get(WorkerId("wk-none"))


async def a_late_heartbeat_changes_nothing_and_a_new_process_begins_anew(stores: Stores) -> None:
    await stores.workers.register(a_worker(sequence=5, memory_used_mib=5))
    late = await stores.workers.register(a_worker(sequence=4, memory_used_mib=4))
    assert late.worker.memory_used_mib == 5
    fresh = await stores.workers.register(a_worker(instance_id="process-2", sequence=1, memory_used_mib=1))
    assert fresh.worker.memory_used_mib == 1


async def an_old_leader_marks_and_quarantines_nothing(stores: Stores) -> None:
    old = await stores.terms.raise_term("a")
    await stores.workers.register(a_worker())
    new = await stores.terms.raise_term("b")
    with refusing(StaleTerm):
        await stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=old)
    with refusing(StaleTerm):
        await stores.workers.set_quarantined(WorkerId("wk-one"), [SandboxId("sb-x")], term=old)
    assert (await stores.workers.get(WorkerId("wk-one"))).state is WorkerState.READY
    await stores.workers.set_quarantined(WorkerId("wk-one"), [SandboxId("sb-x")], term=new)
    answer = await stores.workers.register(a_worker(sequence=2))
    assert (answer.quarantined, answer.term) == (["sb-x"], new)


async def organisations_and_keys_come_back(stores: Stores) -> None:
    organisation = replace(an_organisation(quotas=Quotas(1, 2, 3, 4, 5)), caps=Caps(5, 6))
    await stores.organisations.create(organisation)
    assert await stores.organisations.get(ORGANISATION) == organisation
    with refusing(Conflict) as taken:
        await stores.organisations.create(an_organisation("other-id"))
    assert taken.value.code == "name_taken"
    changed = await stores.organisations.change(ORGANISATION, name="new", quotas=None, caps=Caps())
    assert (changed.name, changed.quotas, changed.caps) == ("new", organisation.quotas, Caps())
    key = ApiKey(KeyId("k"), ORGANISATION, "n", "osb_12345678", frozenset(Scope), NOON)
    await stores.organisations.add_key(key, digest=b"d" * 32)
    assert await stores.organisations.find_keys("osb_12345678") == [(key, b"d" * 32)]
    with refusing(NotFound):
        await stores.organisations.revoke_key(OrganisationId("another"), key.id)
    await stores.organisations.revoke_key(ORGANISATION, key.id)
    assert await stores.organisations.find_keys("osb_12345678") == []
    assert await stores.organisations.list_keys(ORGANISATION) == []


async def one_of_many_claims_does_the_work_and_the_answer_is_replayed(stores: Stores) -> None:
    claims = await asyncio.gather(
        *(
            stores.idempotency.claim(
                SCOPE, body_digest=b"b", holder=f"h{at}", lease_s=30, resource={"sandbox": f"sb-{at}"}
            )
            for at in range(10)
        )
    )
    (mine,) = [claim for claim in claims if claim.is_mine]
    holder = mine.resource["sandbox"].replace("sb-", "h")
    assert {claim.resource["sandbox"] for claim in claims} == {mine.resource["sandbox"]}
    answer = StoredAnswer(201, {"X": "y"}, b"\x00\xff")
    await stores.idempotency.finish(SCOPE, holder=holder, answer=answer)
    again = await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="z", lease_s=30, resource={})
    assert (again.answer, again.is_mine) == (answer, False)


async def a_left_claim_is_resumed_with_what_the_first_attempt_fixed(stores: Stores) -> None:
    await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="a", lease_s=0, resource={"id": 1})
    other_body = await stores.idempotency.claim(SCOPE, body_digest=b"c", holder="b", lease_s=0, resource={})
    assert (other_body.is_mine, other_body.body_digest) == (False, b"b")
    resumed = await stores.idempotency.claim(
        SCOPE, body_digest=b"b", holder="b", lease_s=30, resource={"id": 2}
    )
    assert (resumed.is_mine, resumed.resource) == (True, {"id": 1})
    # The first holder is too late to answer.
    await stores.idempotency.finish(SCOPE, holder="a", answer=StoredAnswer(200, {}, b""))
    read = await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="c", lease_s=30, resource={})
    assert (read.is_mine, read.answer) == (False, None)


async def a_claim_that_joined_other_work_is_resumed_with_that(stores: Stores) -> None:
    await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="a", lease_s=0, resource={"id": 1})
    await stores.idempotency.join(SCOPE, holder="someone-else", resource={"id": 3})
    await stores.idempotency.join(SCOPE, holder="a", resource={"id": 2})
    resumed = await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="b", lease_s=30, resource={})
    assert (resumed.is_mine, resumed.resource) == (True, {"id": 2})


async def an_abandoned_claim_is_free(stores: Stores) -> None:
    await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="a", lease_s=30, resource={"id": 1})
    await stores.idempotency.abandon(SCOPE, holder="someone-else")
    await stores.idempotency.abandon(SCOPE, holder="a")
    again = await stores.idempotency.claim(
        SCOPE, body_digest=b"c", holder="b", lease_s=30, resource={"id": 2}
    )
    assert (again.is_mine, again.resource) == (True, {"id": 2})


async def a_worker_becomes_silent_then_unreachable_and_comes_back(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker())
    mark, now = stores.workers.mark_absent, timedelta(0)
    assert await mark(WorkerState.SILENT, silent_for=timedelta(seconds=60), term=term) == []
    (silent,) = await mark(WorkerState.SILENT, silent_for=now, term=term)
    assert silent.state is WorkerState.SILENT
    (unreachable,) = await mark(WorkerState.UNREACHABLE, silent_for=now, term=term)
    assert unreachable.state is WorkerState.UNREACHABLE
    assert await mark(WorkerState.SILENT, silent_for=now, term=term) == []
    back = await stores.workers.register(a_worker(sequence=2))
    assert (back.worker.state, back.worker.version) == (WorkerState.READY, 4)


async def a_worker_that_speaks_is_not_lost_and_one_that_holds_something_is_not_forgotten(
    stores: Stores,
) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    await create(stores, "sb-one", worker_id=a_worker().id)
    forget, name = stores.workers.forget, a_worker().id
    with refusing(Conflict) as full:
        await forget(name, is_lost=False, actor="test")
    with refusing(Conflict) as alive:
        await forget(name, is_lost=True, actor="test")
    assert (full.value.code, alive.value.code) == ("worker_not_empty", "worker_alive")
    with refusing(NotFound):
        await forget(WorkerId("wk-none"), is_lost=False, actor="test")
    await stores.workers.register(a_worker(sequence=2, state=WorkerState.UNREACHABLE))
    for _ in range(2):
        lost = await forget(name, is_lost=True, actor="test")
        assert (lost.state, lost.gone_because) == (WorkerState.GONE, "its host is said to be lost")
    assert (await stores.workers.register(a_worker(sequence=3))).worker.state is WorkerState.GONE


async def a_worker_is_lost_with_its_machine_only_while_it_is_unreachable(stores: Stores) -> None:
    term, name = await stores.terms.raise_term("leader"), a_worker().id
    await stores.workers.register(a_worker())
    assert not await stores.fleet.lose(name, because="no machine", term=term)
    await stores.workers.mark_absent(WorkerState.UNREACHABLE, silent_for=timedelta(seconds=-60), term=term)
    with refusing(StaleTerm):
        await stores.fleet.lose(name, because="no machine", term=term - 1)
    assert await stores.fleet.lose(name, because="no machine", term=term)
    assert not await stores.fleet.lose(name, because="no machine", term=term)
    again = (await stores.workers.register(a_worker(sequence=2))).worker
    assert (again.state, again.gone_because) == (WorkerState.GONE, "no machine")


async def what_is_saved_is_kept_as_long_as_something_names_it(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    term = await stores.terms.raise_term("leader")
    snapshot = Snapshot(SnapshotId("sn-1"), ORGANISATION, SandboxId("sb-one"), SnapshotState.SAVING, NOON)
    sandbox = await create(stores, "sb-one")
    after = replace(sandbox, version=2)
    begun = an_operation("op-save", kind=OperationKind.HIBERNATE, arguments={"snapshot_id": "sn-1"})
    await stores.sandboxes.start_operation(after, begun, a_transition(), snapshot=snapshot)
    assert await stores.snapshots.get(snapshot.id) == snapshot
    assert await stores.snapshots.mark_garbage(term=term) == []
    saved = replace(
        snapshot, state=SnapshotState.DURABLE, manifest={"shape": {"n": [1]}}, size_bytes=9, pause_ms=1.5
    )
    named = replace(after, version=3, snapshot_id=snapshot.id)
    done = replace(begun, state=OperationState.SUCCEEDED)
    await stores.operations.finish(done, sandbox=named, transition=a_transition(), snapshot=saved)
    assert await stores.snapshots.get(snapshot.id) == saved
    assert await stores.snapshots.mark_garbage(term=term) == []
    await stores.sandboxes.save(replace(named, version=4, state=SandboxState.STOPPED), None)
    with refusing(StaleTerm):
        await stores.snapshots.mark_garbage(term=term - 1)
    assert [one.id for one in await stores.snapshots.mark_garbage(term=term)] == ["sn-1"]
    with refusing(NotFound):
        await stores.snapshots.get(snapshot.id)
    with refusing(NotFound):
        await stores.snapshots.save(saved)
    assert await stores.snapshots.kept() == []
    asked = [snapshot.id, SnapshotId("sn-never")]
    assert await stores.snapshots.with_row(asked) == {snapshot.id}
    await stores.snapshots.remove(snapshot.id)
    assert (await stores.sandboxes.get_any(sandbox.id)).snapshot_id is None


async def a_checkpoint_follows_its_snapshot_and_has_its_name_alone(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    snapshot = Snapshot(SnapshotId("sn-1"), ORGANISATION, sandbox.id, SnapshotState.SAVING, NOON)
    checkpoint = Checkpoint(
        id=CheckpointId("cp-1"),
        organisation_id=ORGANISATION,
        sandbox_id=sandbox.id,
        snapshot_id=snapshot.id,
        name="mine",
        state=CheckpointState.PROCESSING,
        created_at=NOON,
        template="base",
        region="local",
        resources=sandbox.resources,
        envs={"SECRET": "x"},
        metadata={"a": "b"},
    )
    after = replace(sandbox, version=2)
    begun = an_operation("op-cp", kind=OperationKind.CHECKPOINT, arguments={"snapshot_id": "sn-1"})
    await stores.sandboxes.start_operation(
        after, begun, a_transition(), snapshot=snapshot, checkpoint=checkpoint
    )
    assert await stores.checkpoints.get(ORGANISATION, checkpoint.id) == checkpoint
    twin, other = replace(checkpoint, id=CheckpointId("cp-2")), an_operation("op-cp2")
    with refusing(Conflict) as taken:
        await stores.sandboxes.start_operation(
            replace(after, version=3), other, a_transition(), checkpoint=replace(twin, snapshot_id=None)
        )
    assert taken.value.code == "name_taken"
    durable = replace(snapshot, state=SnapshotState.DURABLE, size_bytes=7)
    done = replace(begun, state=OperationState.SUCCEEDED, finished_at=NOON)
    await stores.operations.finish(done, snapshot=durable)
    ready = await stores.checkpoints.get(ORGANISATION, checkpoint.id)
    assert ready == replace(checkpoint, state=CheckpointState.READY, size_bytes=7, ready_at=NOON)
    assert await stores.checkpoints.count(sandbox.id) == 1
    await stores.checkpoints.delete(ORGANISATION, sandbox.id, checkpoint.id)
    with refusing(NotFound):
        await stores.checkpoints.delete(ORGANISATION, sandbox.id, checkpoint.id)


CHECKS: tuple[Check, ...] = (
    a_worker_comes_back_as_it_said,
    a_late_heartbeat_changes_nothing_and_a_new_process_begins_anew,
    an_old_leader_marks_and_quarantines_nothing,
    organisations_and_keys_come_back,
    one_of_many_claims_does_the_work_and_the_answer_is_replayed,
    a_left_claim_is_resumed_with_what_the_first_attempt_fixed,
    a_claim_that_joined_other_work_is_resumed_with_that,
    an_abandoned_claim_is_free,
    a_worker_becomes_silent_then_unreachable_and_comes_back,
    a_worker_that_speaks_is_not_lost_and_one_that_holds_something_is_not_forgotten,
    a_worker_is_lost_with_its_machine_only_while_it_is_unreachable,
    what_is_saved_is_kept_as_long_as_something_names_it,
    a_checkpoint_follows_its_snapshot_and_has_its_name_alone,
)
