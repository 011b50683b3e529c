"""What tests of operations share: a tripwire that stops a replica at any call, and readers of the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from tests.waiting import WITHIN_S, eventually

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.sandbox import Sandbox
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources

POINTS = [(number, when) for number in range(5) for when in ("before", "after")]


class Tripwire:
    """Wraps ports; the chosen call to them hangs for ever, as if the process had stopped there."""

    def __init__(self, number: int, when: str) -> None:
        self.left = number
        self.when = when
        self.hung = asyncio.Event()
        self.may_go_on = asyncio.Event()

    def around(self, plane: ControlPlane, *, looks_up: bool = True) -> ControlPlane:
        """Return the replica's parts with every write and every call to a worker watched.

        Without `looks_up` it may look up workers.
        """
        stores = replace(
            plane.stores,
            operations=self._watched(plane.stores.operations, ignored=("extend", "let_go")),
            placements=self._watched(plane.stores.placements),
            workers=self._watched(plane.stores.workers) if looks_up else plane.stores.workers,
            moves=self._watched(plane.stores.moves),
        )
        return replace(
            plane,
            stores=stores,
            worker_client=self._watched(plane.worker_client),
            move_client=self._watched(plane.move_client),
        )

    def _watched(self, port: Any, *, ignored: tuple[str, ...] = ()) -> Any:
        wire = self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                call = getattr(port, name)
                return call if name in ignored else wire._wrap(call)

        return Watched()

    def _wrap(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            is_here = self.left == 0
            self.left -= 1
            if is_here and self.when == "before":
                await self._hang()
            answer = await call(*args, **kwargs)
            if is_here and self.when == "after":
                await self._hang()
            return answer

        return wrapped

    async def _hang(self) -> None:
        self.hung.set()
        await self.may_go_on.wait()


def an_order(name: str = "sb-one", **changes: Any) -> CreateOrder:
    order = CreateOrder(
        sandbox_id=SandboxId(name),
        operation_id=OperationId(f"op-{name}"),
        organisation_id=ORGANISATION,
        resources=resources(),
        template="base",
        region="local",
        actor="test",
    )
    return replace(order, **changes)


async def prepare(replicas: Any, *, memory_mib: int = 16384) -> ControlPlane:
    """Give the fleet a tenant and a worker; return a replica's parts for looking."""
    plane: ControlPlane = replicas.plane("observer")
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker(total=resources(memory_mib, cpu_count=8, disk_mib=10**7)))
    return plane


async def until(plane: ControlPlane, holds: Callable[[Sandbox], bool], name: str = "sb-one") -> Sandbox:
    """Return the row when the condition holds and nothing of it is under way any more."""
    deadline = _deadline()
    while True:
        sandbox = await plane.stores.sandboxes.get_any(SandboxId(name))
        if (
            holds(sandbox)
            and not await plane.stores.operations.open_for(sandbox.id)
            # What ended between these two reads has changed the row.
            and await plane.stores.sandboxes.get_any(SandboxId(name)) == sandbox
        ):
            return sandbox
        assert asyncio.get_running_loop().time() < deadline, f"after {WITHIN_S:.0f} s the row is {sandbox}"
        await asyncio.sleep(0.02)


async def until_done(plane: ControlPlane, operation_id: str) -> Any:
    """Return the operation when it has ended."""
    deadline = _deadline()
    while True:
        operation = await plane.stores.operations.get(OperationId(operation_id))
        if operation.finished_at is not None:
            return operation
        assert asyncio.get_running_loop().time() < deadline, f"after {WITHIN_S:.0f} s it is {operation}"
        await asyncio.sleep(0.02)


def _deadline() -> float:
    return asyncio.get_running_loop().time() + WITHIN_S


async def until_hung(wire: Tripwire) -> None:
    """Return when a replica stands at the wire."""
    async with asyncio.timeout(WITHIN_S):
        await wire.hung.wait()


async def until_queued(plane: ControlPlane, count: int) -> None:
    """Return when so many creates wait for a place."""

    async def is_so_long() -> bool:
        return await plane.stores.placements.queue_length() == count

    await eventually(is_so_long, what=f"a queue of {count}")


async def committed_mib(plane: ControlPlane) -> int:
    return sum(worker.committed.memory_mib for worker in await plane.stores.workers.list())


async def crash(replicas: Any, plane: ControlPlane) -> None:
    """Let every lease run out, as if its holder had been dead for long enough."""
    for name in ("replica-1", "replica-2"):
        await plane.stores.operations.let_go(holder=name)


async def run_until_hung(
    replicas: Any, wire: Tripwire, act: Callable[[Fleet], Awaitable[Any]], *, looks_up: bool = True
) -> bool:
    """Run a replica until the wire is reached, then end it there; say whether it was reached."""
    plane = wire.around(replicas.plane("replica-1"), looks_up=looks_up)
    finished = asyncio.Event()

    async def live() -> None:
        async with replicas.replica("replica-1", plane=plane) as fleet:
            await act(fleet)
            await eventually(lambda: not len(fleet.engine), what="the engine to be done", every_s=0.005)
            finished.set()

    async with asyncio.TaskGroup() as tasks:
        living = tasks.create_task(live())
        watched = [tasks.create_task(wire.hung.wait()), tasks.create_task(finished.wait())]
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED, timeout=2 * WITHIN_S)
        living.cancel()
        for task in watched:
            task.cancel()
    return wire.hung.is_set()
