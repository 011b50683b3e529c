"""Orders of a move that come late, twice or to the next process: none begins what is over, none lies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from tests.integration.worker.harness import RunningWorker, a_worker, fake_host

from sandfleet.model.errors import HypervisorFailed, MoveUndecided, SandfleetError
from sandfleet.ports.hypervisor import Machine
from sandfleet.ports.moves import Pilot
from sandfleet.testing.fake_hypervisor import FakeHypervisor, FakeMachine
from sandfleet.testing.fake_mover import FakeMover, Wires
from sandfleet.wire.move_manifest import Landing
from sandfleet.wire.move_messages import CommitMove, EndMove
from sandfleet.wire.worker_messages import ResizeVm
from sandfleet.worker.operations import end_move
from sandfleet.worker.operations.commit_move import commit_move
from sandfleet.worker.residents import VmState

ID, MOVE = "sb-one", "mv-one"


@dataclass
class Pair:
    """A source that runs one sandbox, and a target; `answers` are those of the steps so far."""

    source: RunningWorker
    target: RunningWorker
    wires: Wires
    answers: dict[str, Any] = field(default_factory=dict)

    async def ask(self, worker: RunningWorker, method: str, path: str, **order: Any) -> dict[str, Any]:
        async with worker.http.request(method, path, data=msgspec.json.encode(order)) as answer:
            body: dict[str, Any] = await answer.json()
            return body

    async def receive(self) -> dict[str, Any]:
        manifest = await self.ask(self.source, "POST", f"/vms/{ID}/describe", epoch=1)
        order = {"sandbox_id": ID, "source_worker": "wk-other", "epoch": 2, "manifest": manifest}
        self.answers["landing"] = await self.ask(self.target, "PUT", f"/moves/{MOVE}", **order)
        return dict(self.answers["landing"])

    async def send(self) -> dict[str, Any]:
        order = {"epoch": 1, "move_id": MOVE, "target_worker": "wk-two", "landing": self.answers["landing"]}
        return await self.ask(self.source, "PUT", f"/vms/{ID}/move", **order, wait_s=30)

    async def stay(self) -> dict[str, Any]:
        return await self.ask(self.source, "POST", f"/vms/{ID}/move/stay", epoch=1, move_id=MOVE)

    async def commit(self, worker: RunningWorker | None = None) -> dict[str, Any]:
        to = worker or self.target
        return await self.ask(to, "POST", f"/moves/{MOVE}/commit", sandbox_id=ID, epoch=2, envs={"A": "b"})

    async def abandon(self) -> dict[str, Any]:
        return await self.ask(self.target, "DELETE", f"/moves/{MOVE}")


@asynccontextmanager
async def a_pair() -> AsyncIterator[Pair]:
    wires = Wires()
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(2):
            host = await stack.enter_async_context(FakeHypervisor())
            workers.append(await stack.enter_async_context(a_worker(host)))
            workers[-1].host.mover = FakeMover(host, wires)
        await workers[0].start(ID)
        yield Pair(*workers, wires)


@pytest.mark.parametrize("was_known", [False, True])
async def test_a_move_that_was_called_back_never_begins(*, was_known: bool) -> None:
    async with a_pair() as pair:
        await pair.receive()
        if was_known:
            fake_host(pair.source).faults.fail("send", HypervisorFailed("no"))
            assert (await pair.send())["step"] == "failed"
            assert (await pair.stay())["state"] == "running"
            resident = pair.source.host.residents.find(ID)
            assert resident is not None
            resident.departure = None  # another move has taken its place
        else:
            assert (await pair.stay())["code"] == "no_such_move"
        assert (await pair.send())["code"] == "moved"
        assert pair.wires.landed == set()
        assert (await pair.source.vm(ID))[1]["state"] == "running"


class Unfreed(FakeMover):
    """A host on which the engine cannot free a sandbox of its move at once."""

    stays = 0

    def __init__(self, host: FakeHypervisor, wires: Wires, *, is_shut_off: bool) -> None:
        super().__init__(host, wires)
        self._is_shut_off = is_shut_off

    async def send(self, machine: Machine, landing: Landing, *, move_id: str, pilot: Pilot) -> None:
        assert isinstance(machine, FakeMachine)
        machine._facts = replace(machine.facts, departing=move_id)
        if self._is_shut_off:
            pilot.switching()
        raise MoveUndecided("it does not run on yet")

    async def stay(self, machine: Machine) -> None:
        self.stays += 1
        assert isinstance(machine, FakeMachine)
        machine._facts = replace(machine.facts, departing="")


@pytest.mark.parametrize("is_shut_off", [False, True])
async def test_a_guest_that_does_not_run_on_is_not_said_to_run(*, is_shut_off: bool) -> None:
    async with a_pair() as pair:
        mover = Unfreed(fake_host(pair.source), pair.wires, is_shut_off=is_shut_off)
        pair.source.host.mover = mover
        await pair.receive()
        assert (await pair.send())["step"] == ("undecided" if is_shut_off else "failed")
        assert (await pair.source.vm(ID))[1]["state"] == ("moving" if is_shut_off else "running")
        assert (await pair.stay())["state"] == "running"
        assert mover.stays == 1


@pytest.mark.parametrize("is_seen", [False, True])
async def test_a_hand_over_whose_source_died_is_not_undecided_for_ever(*, is_seen: bool) -> None:
    """QEMU may end before the worker sees it: the hand-over is then undecided at first."""
    async with a_pair() as pair:
        await pair.receive()
        fake_host(pair.source).faults.fail("hand_over", MoveUndecided("QEMU ended during the hand-over"))
        assert (await pair.send())["step"] == "undecided"
        (machine,) = fake_host(pair.source).machines.values()
        await machine.crash()
        if is_seen:
            resident = pair.source.host.residents.find(ID)
            assert resident is not None
            async with asyncio.timeout(30):
                while resident.state is not VmState.DEAD:
                    await asyncio.sleep(0)
        assert (await pair.send())["step"] == "failed"
        assert (await pair.source.vm(ID))[1]["state"] == "dead"
        released = await pair.ask(pair.source, "POST", f"/vms/{ID}/move/release", epoch=1, move_id=MOVE)
        assert released["existed"]  # what has landed may be run: nothing is needed of it


async def test_who_is_told_to_stay_while_it_is_looked_what_has_come_of_it_stays() -> None:
    async with a_pair() as pair:
        await pair.receive()
        faults = fake_host(pair.source).faults
        faults.fail("hand_over", MoveUndecided("the worker could not see it"))
        assert (await pair.send())["step"] == "undecided"
        pair.source.host.mover = sent = FakeMover(fake_host(pair.source), pair.wires)
        sent._sent.update(fake_host(pair.source).machines)  # the target has all of it
        faults.hold("outcome")
        async with asyncio.TaskGroup() as group:
            asked_again = group.create_task(pair.send())
            await faults.reached("outcome")
            stay = EndMove(epoch=1, move_id=MOVE)
            staying = group.create_task(end_move.stay(pair.source.host, ID, stay))
            await asyncio.sleep(0)
            faults.release("outcome")
        assert asked_again.result()["step"] in ("ready", "stayed")
        assert staying.result().state == "running"


async def _refusal(work: Awaitable[object]) -> str:
    try:
        await work
    except SandfleetError as error:
        return error.code
    return ""


async def test_what_is_taking_over_when_it_is_given_up_is_ended_and_said_when_it_is_gone() -> None:
    async with a_pair() as pair:
        await pair.receive()
        assert (await pair.send())["step"] == "ready"
        faults = fake_host(pair.target).faults
        faults.hold("take_over")
        faults.hold("destroy")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(pair.commit())
            await faults.reached("take_over")
            giving_up = group.create_task(pair.abandon())
            await faults.reached("destroy")  # it has not waited for what would never end
            order = CommitMove(sandbox_id=ID, epoch=2)
            second = group.create_task(_refusal(commit_move(pair.target.host, MOVE, order)))
            await asyncio.sleep(0)
            assert not second.done()
            faults.release("destroy")
        assert giving_up.result()["existed"]
        assert second.result() == "no_such_move"
        assert first.result()["code"] == "not_ready"
        assert (await pair.target.vm(ID))[0] == 404


async def test_a_commit_that_is_repeated_to_the_next_process_gives_the_identity() -> None:
    async with a_pair() as pair:
        await pair.receive()
        await pair.send()
        await pair.commit()
        host = fake_host(pair.target)
        (machine,) = host.machines.values()
        machine.guest.identities.clear()
        async with a_worker(host) as following:
            assert (await pair.commit(following))["state"] == "running"
            assert (await pair.commit(following))["state"] == "running"
        assert [one.envs for one in machine.guest.identities] == [{"A": "b"}]


async def test_a_sandbox_whose_size_changes_does_not_leave_meanwhile() -> None:
    async with a_pair() as pair:
        await pair.receive()
        faults = fake_host(pair.source).faults
        faults.hold("resize_memory")
        order = ResizeVm(epoch=1, sequence=1, memory_mib=2048, cpu_percent=100)
        async with asyncio.TaskGroup() as group:
            resizing = group.create_task(
                pair.ask(pair.source, "POST", f"/vms/{ID}/resize", **msgspec.to_builtins(order))
            )
            await faults.reached("resize_memory")
            assert (await pair.send())["code"] == "busy"
            faults.release("resize_memory")
        assert resizing.result()["memory_mib"] == 2048
