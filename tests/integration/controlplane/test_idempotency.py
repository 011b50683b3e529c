"""The same request twice is one piece of work and one answer."""

from __future__ import annotations

import asyncio

import pytest
from tests.waiting import eventually

from sandfleet.controlplane.dependencies import CreateOrder
from sandfleet.controlplane.http import idempotency
from sandfleet.controlplane.operations.arrival import START_FAILURES_MAX
from sandfleet.model.errors import HypervisorFailed, StoreUnavailable
from sandfleet.model.sandbox import Sandbox
from sandfleet.testing.builders import ORGANISATION, an_organisation

from .conftest import Fleet, OpenFleet


def key(text: str = "key-1") -> dict[str, str]:
    return {"Idempotency-Key": text}


async def test_a_create_is_replayed(fleet: Fleet) -> None:
    first = await fleet.client.post("/api/sandboxes", json={"alias": "a"}, headers=key())
    again = await fleet.client.post("/api/sandboxes", json={"alias": "a"}, headers=key())
    assert again.content == first.content
    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert len((await fleet.client.get("/api/sandboxes")).json()) == 1


async def test_requests_at_the_same_time_share_one_answer(fleet: Fleet) -> None:
    answers = await asyncio.gather(
        *[fleet.client.post("/api/sandboxes", json={}, headers=key()) for _ in range(6)]
    )
    assert len({answer.json()["sandboxID"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 5


async def test_another_body_is_refused(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/files/mkdir"
    assert (await fleet.client.post(f"{path}?path=/tmp/a", headers=key())).status_code == 204
    other = await fleet.client.post(f"{path}?path=/tmp/b", headers=key())
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


async def test_keys_belong_to_organisation_and_path(fleet: Fleet) -> None:
    first = await fleet.client.post("/api/sandboxes", json={}, headers=key())
    async with await fleet.other_organisation() as other:
        theirs = await other.post("/api/sandboxes", json={}, headers=key())
    assert theirs.status_code == 201
    assert theirs.json()["sandboxID"] != first.json()["sandboxID"]
    path = f"/api/sandboxes/{first.json()['sandboxID']}/exec/run"
    assert (await fleet.client.post(path, json={"cmd": "echo x"}, headers=key())).status_code == 200


async def test_a_command_runs_once(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/exec/run"
    before = len(await executions(fleet))
    answers = await asyncio.gather(
        *[fleet.client.post(path, json={"cmd": "sleep 0.2; echo once"}, headers=key()) for _ in range(3)]
    )
    assert {answer.json()["stdout"] for answer in answers} == {"once\n"}
    assert len(await executions(fleet)) == before + 1


async def test_a_command_whose_first_request_vanished_is_joined(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim of a replica that died is resumed under the exec's id, while the command still runs."""
    monkeypatch.setattr(idempotency, "JOINED_LEASE_S", 600.0)  # not renewed after it was lost
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/exec/run"
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.client.post(path, json={"cmd": "held"}, headers=key()))
        await fleet.hypervisor.faults.reached("start_exec")
        await lose_claims(fleet)
        second = group.create_task(fleet.client.post(path, json={"cmd": "held"}, headers=key()))
        await eventually(lambda: is_claimed(fleet), what="the second request to resume the claim")
        fleet.shell.let_go()
    assert first.result().json()["stdout"] == second.result().json()["stdout"] == "begun\nended\n"
    assert "Idempotency-Replayed" not in second.result().headers
    assert len(await executions(fleet)) == 1


async def test_a_claim_is_kept_for_as_long_as_its_work_goes_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease shorter than the command: the second request waits instead of beginning it again."""
    monkeypatch.setattr(idempotency, "JOINED_LEASE_S", 1.5)
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/exec/run"
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.client.post(path, json={"cmd": "held"}, headers=key()))
        await fleet.hypervisor.faults.reached("start_exec")
        second = group.create_task(fleet.client.post(path, json={"cmd": "held"}, headers=key()))
        await asyncio.sleep(4)  # more than two leases
        assert not second.done()
        fleet.shell.let_go()
    assert "Idempotency-Replayed" not in first.result().headers
    assert second.result().headers["Idempotency-Replayed"] == "true"
    assert len(await executions(fleet)) == 1


async def test_a_claim_that_was_let_go_keeps_its_ids_and_is_free_at_once(fleet: Fleet) -> None:
    store = fleet.edge.plane.stores.idempotency
    scope = (ORGANISATION, "POST", "/x", "k")
    await fleet.edge.plane.stores.organisations.create(an_organisation())
    first = {"operation_id": "op-first"}
    given = {"body_digest": b"d", "lease_s": 60.0}
    assert (await store.claim(scope, holder="a", resource=first, **given)).is_mine
    await store.prolong(scope, holder="stranger", lease_s=0.0)
    assert not (await store.claim(scope, holder="b", resource={}, **given)).is_mine
    await store.prolong(scope, holder="a", lease_s=0.0)
    taken = await store.claim(scope, holder="b", resource={"operation_id": "op-other"}, **given)
    assert (taken.is_mine, taken.resource) == (True, first)
    await store.prolong(scope, holder="a", lease_s=0.0)  # no longer ours
    assert not (await store.claim(scope, holder="c", resource={}, **given)).is_mine


async def test_after_an_uncertain_error_a_retry_goes_on_under_the_same_ids(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was written and the answer to that was lost: the retry finds it instead of making another."""
    create = fleet.edge.lifecycle.create

    async def lost(order: CreateOrder) -> Sandbox:
        await create(order)
        raise StoreUnavailable("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(fleet.edge.lifecycle, "create", lost)
        answer = await fleet.client.post("/api/sandboxes", json={}, headers=key())
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    made = await fleet.client.post("/api/sandboxes", json={}, headers=key())
    assert made.status_code == 201
    assert [one["sandboxID"] for one in (await fleet.client.get("/api/sandboxes")).json()] == [
        made.json()["sandboxID"]
    ]


async def test_refusals_are_replayed_and_defects_are_not(fleet: Fleet) -> None:
    refused = await fleet.client.post("/api/sandboxes", json={"memoryMB": 1}, headers=key("bad"))
    again = await fleet.client.post("/api/sandboxes", json={"memoryMB": 1}, headers=key("bad"))
    assert (again.status_code, again.content) == (400, refused.content)
    fleet.hypervisor.faults.fail("clone", HypervisorFailed("no such device"), times=START_FAILURES_MAX)
    failed = await fleet.client.post("/api/sandboxes", json={}, headers=key("defect"))
    assert failed.status_code == 500
    retried = await fleet.client.post("/api/sandboxes", json={}, headers=key("defect"))
    assert retried.status_code == 201


async def test_an_answer_too_large_to_keep_says_so(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/exec/run"
    body = {"cmd": "printf", "args": ["x" * 1_100_000]}
    first = await fleet.client.post(path, json=body, headers=key())
    assert (first.status_code, len(first.json()["stdout"])) == (200, 1_100_000)
    again = await fleet.client.post(path, json=body, headers=key())
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_answer_too_large")


async def test_malformed_keys_are_refused(fleet: Fleet) -> None:
    for bad in ("a b", "x" * 256, "é"):
        answer = await fleet.client.post(
            "/api/sandboxes", json={}, headers={"Idempotency-Key": bad.encode("latin-1")}
        )
        assert answer.status_code == 400


async def test_the_stored_answer_is_encrypted(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        organisation = (await fleet.client.post("/admin/orgs", json={"name": "o"})).json()
        path = f"/admin/orgs/{organisation['id']}/keys"
        made = await fleet.client.post(path, json={"name": "k"}, headers=key())
        again = await fleet.client.post(path, json={"name": "k"}, headers=key())
        assert again.json()["key"] == made.json()["key"]
        rows = await everything_stored(fleet)
        assert made.json()["key"].encode() not in rows


async def executions(fleet: Fleet) -> list[str]:
    """Return the ids of everything that ran inside the only sandbox."""
    found: list[str] = []
    for machine in await fleet.hypervisor.adopt():
        found += [status.exec_id for status in await machine.guest.list_execs()]
    return found


async def lose_claims(fleet: Fleet) -> None:
    """Make all claims look like those of a replica that died long ago."""
    async with database(fleet).transaction() as connection:
        await connection.exec_driver_sql(
            "UPDATE idempotency_keys SET lease_deadline_at = now() - interval '1 hour'"
        )


async def is_claimed(fleet: Fleet) -> bool:
    """Whether somebody works on what was asked."""
    async with database(fleet).transaction() as connection:
        found = await connection.exec_driver_sql(
            "SELECT 1 FROM idempotency_keys WHERE lease_deadline_at > now()"
        )
        return found.first() is not None


async def everything_stored(fleet: Fleet) -> bytes:
    async with database(fleet).transaction() as connection:
        rows = (await connection.exec_driver_sql("SELECT * FROM idempotency_keys")).all()
    return repr(rows).encode()


def database(fleet: Fleet):  # type: ignore[no-untyped-def]
    return fleet.edge.plane.stores.idempotency._database  # type: ignore[attr-defined]
