"""What the loop of pressure sees of a host that is short, and by which policy it is relieved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.drain import NO_STORE
from sandfleet.model.errors import SandfleetError, StoreUnavailable
from sandfleet.model.operation import BACKGROUND_KINDS, Operation, OperationKind
from sandfleet.model.worker import Worker
from sandfleet.planning.pressure import Guest, PressurePolicy
from sandfleet.planning.pressure_ground import Shortage
from sandfleet.wire.worker_messages import VmStatus

ACTIVE_WITHIN_S = 60.0
_LEAVING = (OperationKind.MIGRATE, OperationKind.HIBERNATE)


def pressure_policy(plane: ControlPlane) -> PressurePolicy:
    """Return when a host is short, and how much may be done about it at once."""
    settings = plane.settings
    return PressurePolicy(
        placement=settings.placement_policy,
        marks=settings.pressure_marks,
        at_once=settings.drain_moves_at_once,
        no_saves=NO_STORE if settings.blob_store_url is None else "",
    )


async def guests_on(plane: ControlPlane, worker: Worker) -> Sequence[Guest] | None:
    """Return who is there, by the worker's own fresh word of what each uses; None without that word."""
    stores = plane.stores
    try:
        vms = await plane.worker_client.vms(worker.id, worker.http_url)
    except StoreUnavailable:
        raise
    except SandfleetError:
        return None
    measured = {vm.sandbox_id: vm for vm in vms}
    rows = await stores.sandboxes.on_worker(worker.id)
    still_open = await stores.operations.open_for_all([row.id for row in rows])
    reserved = await stores.placements.reserved_on(worker.id)
    return [
        Guest(
            row,
            uses=_uses(measured.get(row.id)),
            is_active=_is_active(measured.get(row.id)),
            reserved_mib=reserved.get(row.id, 0),
            is_busy=any(_holds_up(one) for one in still_open.get(row.id, ())),
        )
        for row in rows
        if not row.is_terminal
    ]


def _uses(vm: VmStatus | None) -> Mapping[Shortage, float]:
    """Return what was measured of it; what was not is left out."""
    if vm is None:
        return {}
    measured = {
        Shortage.MEMORY: vm.memory_used_mib or None,
        Shortage.DISK: vm.disk_used_mib,
        Shortage.CPU: vm.cpu_used,
    }
    return {one: float(amount) for one, amount in measured.items() if amount is not None}


def _is_active(vm: VmStatus | None) -> bool:
    return vm is not None and (vm.in_flight > 0 or vm.idle_s < ACTIVE_WITHIN_S)


def _holds_up(operation: Operation) -> bool:
    """Whether nothing else may begin beside it. What is leaving is told by its state."""
    is_beside = operation.kind in BACKGROUND_KINDS and operation.kind is not OperationKind.RELEASE
    return not is_beside and operation.kind not in _LEAVING
