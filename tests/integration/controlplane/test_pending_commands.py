"""A command that was accepted before its sandbox was ready is started whatever happens to its replica."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec

from sandfleet.model.ids import ExecId, OrganisationId, SandboxId, exec_id
from sandfleet.ports.pending_commands import PendingCommand

from .conftest import Fleet, OpenFleet

WITHIN_S = 30


async def left_by_a_dead_replica(fleet: Fleet, sandbox: str, line: str, *, remaining_s: float = 60) -> str:
    """Write down what a replica that died after it had given the handle out would leave."""
    row = await fleet.edge.plane.stores.sandboxes.get_any(SandboxId(sandbox))
    command = PendingCommand(
        organisation_id=row.organisation_id,
        sandbox_id=row.id,
        exec_id=ExecId(exec_id(secrets.token_bytes(16))),
        body=msgspec.json.encode({"cmd": line, "timeout": 20}),
        remaining_s=remaining_s,
    )
    await fleet.edge.plane.stores.commands.add(command, holder="a-dead-replica", lease_s=0)
    return command.exec_id


async def ended(fleet: Fleet, sandbox: str, command: str) -> dict[str, Any]:
    """Return the result; the id is known at every moment."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            answer = await fleet.client.get(f"/api/sandboxes/{sandbox}/exec/{command}/result")
            assert answer.status_code == 200, answer.text
            body: dict[str, Any] = answer.json()
            if not body["running"]:
                return body
            await asyncio.sleep(0.05)


async def test_what_a_dead_replica_left_is_started_once(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    command = await left_by_a_dead_replica(fleet, sandbox, "echo done")
    waiting = (await fleet.client.get(f"/api/sandboxes/{sandbox}/exec/{command}/result")).json()
    assert waiting == {"running": True, "waking": True, "stdout": "", "stderr": ""}
    fleet.hypervisor.faults.release("clone")
    body = await ended(fleet, sandbox, command)
    assert (body["exitCode"], body["stdout"]) == (0, "done\n")
    machine = (await fleet.hypervisor.adopt())[0]
    assert [one.exec_id for one in await machine.guest.list_execs()].count(command) == 1


async def test_the_row_comes_before_the_handle_and_is_sealed(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    path = f"/api/sandboxes/{sandbox}/exec/run-async"
    handle = (await fleet.client.post(path, json={"cmd": "echo later", "envs": {"KEY": "a-secret"}})).json()
    store = fleet.edge.plane.stores.commands
    owner = (await fleet.edge.plane.stores.sandboxes.get_any(SandboxId(sandbox))).organisation_id
    kept = await store.find(owner, SandboxId(sandbox), handle["execId"])
    assert kept is not None
    assert b"a-secret" in kept.body
    assert await store.find(OrganisationId("org-other"), SandboxId(sandbox), handle["execId"]) is None
    assert not await store.take_over(holder="another", lease_s=60, limit=10)  # its lease is held
    fleet.hypervisor.faults.release("clone")
    assert (await ended(fleet, sandbox, handle["execId"]))["stdout"] == "later\n"
    async with asyncio.timeout(WITHIN_S):
        while await store.find(owner, SandboxId(sandbox), handle["execId"]) is not None:
            await asyncio.sleep(0.02)


async def test_what_is_never_started_says_why(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    late = await left_by_a_dead_replica(fleet, sandbox, "echo never", remaining_s=-1)
    body = await ended(fleet, sandbox, late)
    assert (body["exitCode"], body["code"]) == (-1, "not_ready")
    unknown = exec_id(secrets.token_bytes(16))
    fleet.hypervisor.faults.release("clone")
    answer = await fleet.client.get(f"/api/sandboxes/{sandbox}/exec/{unknown}/result")
    assert answer.status_code == 404


async def test_a_stopping_replica_leaves_its_commands_to_others(open_fleet: OpenFleet) -> None:
    async with open_fleet(loop_interval_s=60) as fleet:  # nobody takes anything over meanwhile
        sandbox = await fleet.begin_create()
        path = f"/api/sandboxes/{sandbox}/exec/run-async"
        handle = (await fleet.client.post(path, json={"cmd": "echo kept"})).json()
        fleet.edge.drain.hurry()
        async with asyncio.timeout(WITHIN_S):
            while not (
                left := await fleet.edge.plane.stores.commands.take_over(
                    holder="another", lease_s=60, limit=10
                )
            ):
                await asyncio.sleep(0.05)
        assert [one.exec_id for one in left] == [handle["execId"]]
        fleet.hypervisor.faults.release("clone")
