"""The Azure pool on a server that speaks as Azure does: what every pool keeps, and what Azure makes hard."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from tests.integration import arm_server, azure_fleet
from tests.integration.arm_server import ADDRESS, CARD, DISK, GROUP, KEY, SUBSCRIPTION, VM, Arm, error_of
from tests.integration.azure_fleet import Azure, TestToken

from sandfleet.adapters.machines.azure_bodies import Names
from sandfleet.adapters.machines.azure_config import (
    AzureClients,
    open_clients,
)
from sandfleet.adapters.machines.azure_graves import FORGET_EVERY, KEPT
from sandfleet.adapters.machines.azure_patience import WAIT_MAX
from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG, VERSION_TAG
from sandfleet.model.errors import MachineRefused, PoolUnreachable
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.testing.conformance import machine_pool
from sandfleet.testing.conformance.machine_pool import FIRST, Check, Subject

ORDER = MachineOrder(LaunchId("launch-1"), "usual", "v1")
QUOTA = "Operation could not be completed as it results in exceeding approved standardDSv5Family Cores quota."


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Arm, AzureClients]]:
    with azure_fleet.serving() as served:
        yield served


@pytest.fixture
def azure(server: tuple[Arm, AzureClients]) -> Azure:
    return azure_fleet.begun_anew(*server)


@pytest.mark.parametrize("check", machine_pool.CHECKS, ids=lambda check: check.__name__)
async def test_the_azure_pool_conforms(azure: Azure, check: Check) -> None:
    async def pass_time() -> None:
        azure.arm.tick()

    async def leave_parts() -> int:
        azure.arm.leaves = frozenset({CARD, ADDRESS, DISK})
        pool = azure.pool()
        machine = await pool.launch(machine_pool.an_order(subject), term=1)
        await pool.terminate(machine.id, term=1)
        for _ in range(arm_server.TICKS):
            azure.arm.tick()
        # The address is held by the card until that is gone.
        return 2

    def parts_of(machine: Machine) -> list[MachinePart]:
        names = Names(machine.id).parts
        return [MachinePart(kind, name, machine.launch_id) for kind, name in names.items()]

    throttled = error_of(429, "TooManyRequests", "wait")
    subject = Subject(
        azure.pool(),
        again=azure.pool,
        stranger=azure.pool(fleet=f"{azure.fleet}-other"),
        pass_time=pass_time,
        refuse={
            LaunchFailure.QUOTA: lambda: azure.refuse(error_of(409, "OperationNotAllowed", QUOTA)),
            LaunchFailure.STOCKOUT: lambda: azure.refuse(error_of(409, "SkuNotAvailable", "not here")),
            LaunchFailure.THROTTLED: lambda: azure.refuse(throttled),
            LaunchFailure.BROKEN: lambda: azure.refuse(error_of(400, "InvalidParameter", "no")),
        },
        remembers_terms=False,
        leave_parts=leave_parts,
        parts_of=parts_of,
    )
    await check(subject)


async def test_machine_card_address_and_disk_carry_the_tags_and_go_with_the_machine(azure: Azure) -> None:
    machine = await azure.pool().launch(ORDER, term=1)
    assert machine.id == f"{azure.fleet}--launch-1"
    assert machine.launched_at == datetime.fromisoformat(arm_server.MADE_AT)
    for kind in (VM, CARD, ADDRESS, DISK):
        (found,) = azure.arm.of(kind)
        tags = found["tags"]
        assert (tags[FLEET_TAG], tags[LAUNCH_TAG], tags[VERSION_TAG]) == (azure.fleet, "launch-1", "v1")
    (vm,), (address,) = azure.arm.of(VM), azure.arm.of(ADDRESS)
    properties = vm["properties"]
    assert properties["hardwareProfile"] == {"vmSize": "Standard_D4s_v5"}
    assert properties["storageProfile"]["imageReference"]["id"].endswith("/versions/1.0.0")
    assert properties["storageProfile"]["osDisk"]["deleteOption"] == "Delete"
    assert properties["networkProfile"]["networkInterfaces"][0]["properties"]["deleteOption"] == "Delete"
    assert address["properties"]["deleteOption"] == "Delete"
    assert properties["osProfile"]["customData"] == "I2Nsb3VkLWNvbmZpZw=="
    assert "priority" not in properties
    assert await azure.pool().parts() == []


async def test_a_spot_size_is_bought_as_spot_in_its_zone_and_ends_when_it_is_taken(azure: Azure) -> None:
    identity = "/subscriptions/s/identities/worker"
    pool = azure.pool(has_address=False, worker_identity_id=identity)
    await pool.launch(MachineOrder(LaunchId("launch-1"), "spot", "v1"), term=1)
    (vm,) = azure.arm.of(VM)
    wanted = {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
    assert wanted.items() <= vm["properties"].items()
    assert vm["zones"] == ["2"]
    assert vm["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}
    assert vm["properties"]["storageProfile"]["osDisk"]["diskSizeGB"] == 128
    assert azure.arm.of(ADDRESS) == []


async def test_of_two_images_of_a_version_the_newer_ready_one_is_booted(azure: Azure) -> None:
    azure.arm.add_image("1.0.1", "v1", published="2026-02-01T00:00:00+00:00")
    azure.arm.add_image("1.0.2", "v1", published="2026-03-01T00:00:00+00:00", state="Creating")
    await azure.pool().launch(ORDER, term=1)
    await azure.pool().launch(MachineOrder(LaunchId("launch-2"), "usual", "0.0.2"), term=1)
    used = [one["properties"]["storageProfile"]["imageReference"]["id"] for one in azure.arm.of(VM)]
    assert [one.rpartition("/")[2] for one in used] == ["1.0.1", "0.0.2"]
    with pytest.raises(MachineRefused, match="no image of version v9") as refused:
        await azure.pool().launch(MachineOrder(LaunchId("launch-3"), "usual", "v9"), term=1)
    assert refused.value.failure is LaunchFailure.BROKEN
    assert len(azure.arm.of(CARD)) == 2


@pytest.mark.parametrize("kind", [VM, CARD, ADDRESS])
async def test_a_launch_whose_answer_was_lost_is_found_again(azure: Azure, kind: str) -> None:
    azure.arm.lost.append(("PUT", kind))
    with pytest.raises(PoolUnreachable):
        await azure.pool().launch(ORDER, term=1)
    machine = await azure.pool().launch(ORDER, term=1)
    assert [one.id for one in await azure.pool().list()] == [machine.id]
    assert azure.left() == sorted([VM, CARD, ADDRESS, DISK])


async def test_two_servers_that_see_nothing_yet_make_one_machine(azure: Azure) -> None:
    """Both looked before either had begun."""
    missing = error_of(404, "ResourceNotFound", "not found")
    azure.arm.answers["GET", VM] = deque([missing, missing])
    one, other = await asyncio.gather(*(azure.pool().launch(ORDER, term=1) for _ in range(2)))
    assert one == other
    assert len(azure.arm.of(VM)) == 1


async def test_a_card_that_another_server_makes_at_this_moment_is_used(azure: Azure) -> None:
    pool = azure.pool(has_address=False)
    await pool.launch(ORDER, term=1)
    del azure.arm.resources[VM, f"{azure.fleet}--launch-1"]
    azure.arm.of(CARD)[0]["properties"].pop("virtualMachine")
    azure.arm.resources[CARD, f"{azure.fleet}--launch-1-nic"]["properties"].pop("virtualMachine")
    azure.arm.answers["GET", CARD] = deque([error_of(404, "ResourceNotFound", "not found")])
    busy = error_of(429, "RetryableErrorDueToAnotherOperation", "busy", Retry_After="10")
    azure.refuse(busy, kind=CARD)
    assert (await pool.launch(ORDER, term=1)).id == f"{azure.fleet}--launch-1"


@pytest.mark.parametrize(
    "reply",
    [
        error_of(500, "InternalServerError", "no"),
        error_of(503, "ServerTimeout", "later"),
        error_of(409, "AnotherOperationInProgress", "busy"),
        error_of(409, "ReferencedResourceNotProvisioned", "the card is not ready"),
    ],
    ids=lambda reply: reply[2]["error"]["code"],
)
async def test_what_may_have_been_carried_out_is_no_refusal(azure: Azure, reply: arm_server.Reply) -> None:
    azure.refuse(reply)
    with pytest.raises(PoolUnreachable):
        await azure.pool().launch(ORDER, term=1)


@pytest.mark.parametrize(
    ("code", "message", "failure"),
    [
        ("SkuNotAvailable", "not here", LaunchFailure.STOCKOUT),
        ("AllocationFailed", "none now", LaunchFailure.STOCKOUT),
        ("ZonalAllocationFailed", "none in this zone", LaunchFailure.STOCKOUT),
        ("OverconstrainedZonalAllocationRequest", "none so", LaunchFailure.STOCKOUT),
        ("OperationNotAllowed", QUOTA, LaunchFailure.QUOTA),
        ("OperationNotAllowed", "the disk is busy", LaunchFailure.BROKEN),
        ("VMAgentStatusCommunicationError", "no", LaunchFailure.BROKEN),
    ],
)
async def test_a_refusal_has_the_same_name_at_once_and_after_the_call_was_accepted(
    azure: Azure, code: str, message: str, failure: LaunchFailure
) -> None:
    pool = azure.pool(has_address=False)
    azure.refuse(error_of(409, code, message))
    with pytest.raises(MachineRefused, match=code) as refused:
        await pool.launch(ORDER, term=1)
    assert refused.value.failure is failure
    azure.arm.allocations.append((code, message))
    machine = await pool.launch(MachineOrder(LaunchId("launch-2"), "usual", "v1"), term=1)
    assert machine.state is MachineState.STARTING
    assert [one.failure for one in await pool.list()] == [None]
    for _ in range(arm_server.TICKS):
        azure.arm.tick()
    (seen,) = await pool.list()
    assert (seen.failure, seen.said) == (failure, f"{code}: {message}")
    await azure.end(pool, machine.id)
    assert azure.left() == []


async def test_a_refusal_leaves_no_card_and_no_address(azure: Azure) -> None:
    azure.refuse(error_of(409, "SkuNotAvailable", "not here"))
    with pytest.raises(MachineRefused):
        await azure.pool().launch(ORDER, term=1)
    while azure.arm.of(CARD):
        azure.arm.tick()
    assert [one.kind for one in await azure.pool().parts()] == [PartKind.ADDRESS]
    assert await azure.pool().terminate(f"{azure.fleet}--launch-1", term=1) is False
    for _ in range(arm_server.TICKS):
        azure.arm.tick()
    assert azure.left() == []


async def test_a_full_subnet_is_a_quota_and_leaves_no_address(azure: Azure) -> None:
    azure.refuse(error_of(400, "SubnetIsFull", "no addresses left"), kind=CARD)
    with pytest.raises(MachineRefused) as refused:
        await azure.pool().launch(ORDER, term=1)
    assert refused.value.failure is LaunchFailure.QUOTA
    for _ in range(arm_server.TICKS):
        azure.arm.tick()
    assert azure.left() == []


async def test_who_is_throttled_asks_no_sooner_than_azure_said(azure: Azure) -> None:
    pool = azure.pool()
    azure.refuse(error_of(429, "OperationNotAllowed", "too many requests", Retry_After="40"))
    with pytest.raises(MachineRefused) as refused:
        await pool.launch(ORDER, term=1)
    assert refused.value.failure is LaunchFailure.THROTTLED
    asked = len(azure.arm.calls)
    await azure.clock.advance(30)
    with pytest.raises(MachineRefused, match="10 s without launches") as again:
        await pool.launch(ORDER, term=1)
    assert again.value.failure is LaunchFailure.THROTTLED
    assert len(azure.arm.calls) == asked
    assert await pool.list() == []
    await azure.clock.advance(10)
    assert (await pool.launch(ORDER, term=1)).launch_id == "launch-1"


async def test_a_throttled_list_says_nothing_and_waits_not_for_ever(azure: Azure) -> None:
    pool = azure.pool()
    wait = str(10 * int(WAIT_MAX.total_seconds()))
    azure.refuse(error_of(429, "TooManyRequests", "wait", Retry_After=wait), method="GET")
    with pytest.raises(PoolUnreachable):
        await pool.list()
    await azure.clock.advance(WAIT_MAX.total_seconds() - 1)
    with pytest.raises(PoolUnreachable, match="1 s of patience"):
        await pool.parts()
    await azure.clock.advance(1)
    assert await pool.list() == []


async def test_part_of_the_machines_is_never_told_as_all(azure: Azure) -> None:
    pool = azure.pool()
    for number in range(5):
        await pool.launch(MachineOrder(LaunchId(f"launch-{number}"), "usual", "v1"), term=1)
    assert len(await pool.list()) == 5
    page = (200, {}, {"value": azure.arm.of(VM)[:2], "nextLink": f"{azure.arm.url}/nowhere?api-version=1"})
    azure.refuse(page, method="GET")
    with pytest.raises(PoolUnreachable):
        await pool.list()
    azure.refuse(error_of(403, "AuthorizationFailed", "no"), method="DELETE")
    with pytest.raises(PoolUnreachable):
        await pool.terminate(f"{azure.fleet}--launch-1", term=1)
    azure.refuse(error_of(500, "InternalServerError", "no"), method="GET", kind=DISK)
    with pytest.raises(PoolUnreachable):
        await pool.parts()


async def test_a_half_deleted_machine_and_what_stays_of_it_are_asked_after_until_they_are_gone(
    azure: Azure,
) -> None:
    pool = azure.pool()
    machine = await pool.launch(ORDER, term=1)
    azure.arm.leaves, azure.arm.reserves_for = frozenset({CARD, DISK}), 3
    azure.arm.failing_ends.append(("InternalExecutionError", "half-way"))
    assert not await pool.terminate(machine.id, term=1)
    for _ in range(arm_server.TICKS):
        azure.arm.tick()
    assert azure.arm.of(VM)[0]["properties"]["provisioningState"] == "Failed"
    # Another server goes on with it.
    await azure.end(azure.pool(), machine.id)
    assert azure.left() == []
    with pytest.raises(MachineRefused, match="ended already"):
        await azure.pool().launch(ORDER, term=1)


async def test_an_end_that_got_lost_in_azure_is_asked_for_again_and_not_in_every_round(azure: Azure) -> None:
    pool = azure.pool(poll_s=5)
    machine = await pool.launch(ORDER, term=1)
    await pool.terminate(machine.id, term=1)
    azure.arm.operations.clear()

    def deletions() -> int:
        return sum(call[:2] == ("DELETE", VM) for call in azure.arm.calls)

    asked = len(azure.arm.calls)
    assert not await pool.terminate(machine.id, term=1)
    assert len(azure.arm.calls) == asked
    await azure.clock.advance(30)
    assert not await pool.terminate(machine.id, term=1)
    assert deletions() == 1
    await azure.clock.advance(31)
    assert not await pool.terminate(machine.id, term=1)
    assert deletions() == 2


async def test_an_end_that_meets_another_call_is_asked_for_again(azure: Azure) -> None:
    pool = azure.pool()
    machine = await pool.launch(ORDER, term=1)
    azure.refuse(error_of(409, "AnotherOperationInProgress", "busy"), method="DELETE")
    assert not await pool.terminate(machine.id, term=1)
    assert azure.arm.of(VM)[0]["properties"]["provisioningState"] == "Creating"
    await azure.end(pool, machine.id)


async def test_an_end_is_written_down_before_it_begins_and_forgotten_after_a_week(azure: Azure) -> None:
    pool = azure.pool()
    machine = await pool.launch(ORDER, term=1)
    azure.refuse(error_of(500, "InternalServerError", "no"), method="DELETE")
    with pytest.raises(PoolUnreachable):
        await pool.terminate(machine.id, term=1)
    assert [one["name"] for one in azure.arm.of(KEY)] == [machine.id]
    await azure.end(pool, machine.id)
    await azure.clock.advance((KEPT + timedelta(seconds=1)).total_seconds())
    await pool.launch(MachineOrder(LaunchId("launch-2"), "usual", "v1"), term=1)
    assert azure.arm.of(KEY) == []
    listed = azure.arm.calls.count(("GET", KEY, ""))
    await azure.clock.advance(FORGET_EVERY.total_seconds() - 1)
    await pool.launch(MachineOrder(LaunchId("launch-3"), "usual", "v1"), term=1)
    assert azure.arm.calls.count(("GET", KEY, "")) == listed


async def test_what_another_fleet_or_nobody_has_tagged_is_left_alone(azure: Azure) -> None:
    pool = azure.pool()
    name = f"{azure.fleet}--launch-1"
    azure.arm.resources[DISK, f"{name}-os"] = {
        "id": "disk",
        "name": f"{name}-os",
        "properties": {"diskState": "Unattached"},
    }
    assert await pool.parts() == []
    assert await pool.terminate(name, term=1)
    assert await pool.remove(MachinePart(PartKind.DISK, f"{name}-os", FIRST), term=1)
    assert len(azure.arm.of(DISK)) == 1
    azure.arm.resources[VM, name] = {
        "id": "vm",
        "name": name,
        "properties": {"provisioningState": "Succeeded"},
    }
    with pytest.raises(MachineRefused, match="somebody else's"):
        await pool.launch(ORDER, term=1)
    assert await pool.terminate(name, term=1)
    assert len(azure.arm.of(VM)) == 1


@pytest.mark.parametrize("launch_id", ["Launch-1", "launch--1", "a" * 60])
async def test_a_launch_that_cannot_be_a_name_is_refused(azure: Azure, launch_id: str) -> None:
    with pytest.raises(MachineRefused, match="cannot be a machine's name"):
        await azure.pool().launch(MachineOrder(LaunchId(launch_id), "usual", "v1"), term=1)
    assert azure.left() == []


async def test_an_unreachable_region_says_nothing() -> None:
    clients = open_clients(
        SUBSCRIPTION, credential=object(), endpoint="http://127.0.0.1:9", authentication_policy=TestToken()
    )
    pool = Azure(cast(Any, None), clients).pool()
    part = MachinePart(PartKind.DISK, "a-disk", None)
    for call in (
        pool.launch(ORDER, term=1),
        pool.list(),
        pool.terminate("a--b", term=1),
        pool.parts(),
        pool.remove(part, term=1),
    ):
        with pytest.raises(PoolUnreachable):
            await call
    clients.compute.close()
    clients.network.close()


async def test_azures_own_client_follows_the_operations_of_this_server(azure: Azure) -> None:
    """What the pool does not wait for has the form that Azure's client can wait for."""
    machine = await azure.pool().launch(ORDER, term=1)
    machines = azure.clients.compute.virtual_machines

    def end() -> None:
        poller = machines.begin_delete(GROUP, machine.id, polling_interval=0)
        azure.arm.tick()
        azure.arm.tick()
        poller.result(10)

    await asyncio.to_thread(end)
    assert azure.left() == []
