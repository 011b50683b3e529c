"""Reboot and power-cycle: boot a sandbox's own disks anew where it is, under the same epoch.

What if it dies
    after the row        another replica takes over at `restart`: the same operation is one restart
    after the restart    the same answer again; the row is written
    refused              the VM is as its worker says: `running` again, with the reason, if it lives
    killed meanwhile     the kill wins; the destroy removes the VM
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.arrival import announce, cancelled
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.ending import Ending, end
from sandfleet.controlplane.operations.owner import owner
from sandfleet.controlplane.operations.records import log_row, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import NotReady, SandfleetError, StaleEpoch, StoreUnavailable, Unavailable
from sandfleet.model.ids import OperationId
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.wire.worker_messages import RestartVm

ACTOR = "reboot"
_STATE = SandboxState.REBOOTING


async def begin_restart(
    plane: ControlPlane, sandbox: Sandbox, *, is_clean: bool, operation_id: str, actor: str
) -> Operation:
    """Write `rebooting` with its operation; StaleVersion."""
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(operation_id),
        kind=OperationKind.REBOOT,
        step="restart",
        deadline_s=plane.settings.create_deadline_s,
        arguments={"is_clean": is_clean},
    )
    event = SandboxEvent.REBOOT_REQUESTED
    after = replace(advance(sandbox, event, at=plane.clock.now()), deadline_at=operation.deadline_at)
    reason = "reboot" if is_clean else "power-cycle"
    log = log_row(sandbox, after, event=event, actor=actor, reason=reason, operation=operation)
    await plane.stores.sandboxes.start_operation(after, operation, log)
    await plane.routes.forget(sandbox.id)
    return operation


async def _restart(run: Run, operation: Operation) -> Operation:
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE or sandbox.worker_id is None:
            return await cancelled(run, operation)
        try:
            url = await _restart_vm(run, operation, sandbox)
        except StoreUnavailable:
            raise
        except (StaleEpoch, Unavailable):
            await backoff.wait()
        except SandfleetError as error:
            return await _ended(run, operation, error=error)
        else:
            done = await _ended(run, operation, error=None)
            await announce(run, await run.row(operation), url=url)
            return done


async def _restart_vm(run: Run, operation: Operation, sandbox: Sandbox) -> str:
    if sandbox.worker_id is None:
        raise NotReady("the sandbox is on no worker")
    worker = await owner(run, sandbox.worker_id)
    order = RestartVm(
        epoch=sandbox.epoch,
        restart_id=operation.id,
        envs=dict(sandbox.envs),
        cpu_percent=sandbox.cpu_percent,
    )
    await run.plane.worker_client.restart_vm(
        worker.id, worker.http_url, sandbox.id, order, is_clean=operation.arguments["is_clean"]
    )
    return worker.http_url


async def _ended(run: Run, operation: Operation, *, error: SandfleetError | None) -> Operation:
    event = SandboxEvent.REBOOT_FAILED if error else SandboxEvent.REBOOTED

    def ending(before: Sandbox, now: datetime) -> Ending:
        after = replace(advance(before, event, at=now), active_at=now, deadline_at=None)
        reason = error.message if error else "its guest has booted and answers"
        return Ending(sandbox=after, event=event, reason=reason, error=error)

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await cancelled(run, operation)


async def _give_up(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Say that it is `running`: whether its VM lives the reconcile loop finds out."""
    return await _ended(run, operation, error=error)


REBOOT = Definition(steps={"restart": _restart}, give_up=_give_up)
