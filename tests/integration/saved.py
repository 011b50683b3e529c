"""What tests of saved sandboxes share: a fleet with a running, a hibernated or a checkpointed sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.integration.crashing import (
    Tripwire,
    an_order,
    crash,
    prepare,
    run_until_hung,
    until,
)

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops import garbage, takeover
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.ids import SnapshotId
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import SnapshotState

S = SandboxState
POINTS = [(number, when) for number in range(4) for when in ("before", "after")]
STORE = "file:///nowhere"
Act = Callable[[Fleet], Awaitable[Any]]


def ids(name: str) -> dict[str, str]:
    return {
        "operation_id": f"op-{name}",
        "snapshot_id": f"sn-{name}",
        "checkpoint_id": f"cp-{name}",
    }


async def one_running(replicas: Any, **changes: Any) -> tuple[ControlPlane, Sandbox]:
    """Give the fleet a running sandbox."""
    replicas.settings["blob_store_url"] = STORE
    observer = await prepare(replicas)
    async with replicas.replica("replica-0") as fleet:
        await fleet.create(an_order(**changes))
        sandbox = await until(observer, lambda row: row.state is S.RUNNING)
    return observer, sandbox


async def hibernated(replicas: Any, name: str = "first") -> tuple[ControlPlane, Sandbox]:
    """Give the fleet a sandbox that is saved, and durably so."""
    observer, sandbox = await one_running(replicas)
    async with replicas.replica("replica-0") as fleet:
        await fleet.hibernate(sandbox, ids=ids(name), actor="test")
        sandbox = await until(observer, lambda row: row.state is S.HIBERNATED)
    return observer, sandbox


async def with_checkpoint(replicas: Any) -> tuple[ControlPlane, Sandbox]:
    """Give the fleet a running sandbox with a ready checkpoint."""
    observer, sandbox = await one_running(replicas, envs={"A": "secret"})
    async with replicas.replica("replica-0") as fleet:
        await fleet.checkpoint(sandbox, ids=ids("cp"), name="one", actor="test")
        sandbox = await until(observer, lambda row: row.state is S.RUNNING)
    return observer, sandbox


async def survive(replicas: Any, observer: ControlPlane, act: Act, point: tuple[int, str]) -> bool:
    """Run a replica that dies at the point; its leases are over when this returns."""
    was_reached = await run_until_hung(replicas, Tripwire(*point), act)
    await crash(replicas, observer)
    return was_reached


async def finish_elsewhere(replicas: Any, observer: ControlPlane, state: SandboxState) -> Sandbox:
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        return await until(observer, lambda row: row.state is state)


async def snapshot_state(observer: ControlPlane, name: str) -> SnapshotState:
    return (await observer.stores.snapshots.get(SnapshotId(f"sn-{name}"))).state


async def collect(observer: ControlPlane) -> str:
    return await garbage.tick(observer, term=await observer.stores.terms.current_term())
