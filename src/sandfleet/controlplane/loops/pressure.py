"""Has sandboxes leave hosts that are short of something real: sees, plans (`planning/pressure.py`), begins.

Each move and each save is an operation of its own from then on. What is remembered here may be lost with the
leader: the next one sees by itself who is short, a little later.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.drain import NO_STORE
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.controlplane.operations.hibernate import begin_hibernate, hibernation_ids
from sandfleet.model.errors import SandfleetError, StaleTerm, StoreUnavailable
from sandfleet.model.ids import WorkerId, operation_id
from sandfleet.model.operation import BACKGROUND_KINDS, Operation, OperationKind
from sandfleet.model.worker import Worker
from sandfleet.planning.pressure import Guest, PressurePolicy, Shed, plan_pressure
from sandfleet.planning.pressure_ground import PressureMemory, Shortage, pressed, short_since
from sandfleet.wire.worker_messages import VmStatus

ACTOR = "pressure"
ACTIVE_WITHIN_S = 60.0
_LEAVING = (OperationKind.MIGRATE, OperationKind.HIBERNATE)


@dataclass(slots=True)
class PressureLoop:
    """The leader's loop. `start` runs an operation that was just written."""

    plane: ControlPlane
    start: Callable[[Operation], None]
    _term: int = 0
    _memory: PressureMemory = field(default_factory=PressureMemory)

    async def tick(self, *, term: int) -> str:
        """Look at all hosts, and relieve those that are short."""
        if term != self._term:
            self._term, self._memory = term, PressureMemory()
        policy, now = self._policy(), self.plane.clock.now()
        workers = await self.plane.stores.workers.list()
        since = short_since(workers, policy.marks, self._memory.since, now=now)
        self._memory = replace(self._memory, since=since)
        hosts = pressed(workers, policy.marks, since, now=now)
        found = {host.worker.id: await self._guests(host.worker) for host in hosts}
        guests = {name: here for name, here in found.items() if here is not None}
        plan = plan_pressure(hosts, guests, workers, policy, self._memory, now=now)
        self._memory = plan.memory
        refusals = [await self._begin(shed, term=term) for shed in plan.sheds]
        return "; ".join([plan.summary(), *(one for one in refusals if one is not None)])

    def _policy(self) -> PressurePolicy:
        settings = self.plane.settings
        return PressurePolicy(
            placement=settings.placement_policy,
            marks=settings.pressure_marks,
            at_once=settings.drain_moves_at_once,
            no_saves=NO_STORE if settings.blob_store_url is None else "",
        )

    async def _guests(self, worker: Worker) -> Sequence[Guest] | None:
        """Return who is there, by the worker's own fresh word of what each uses; None without that word."""
        stores = self.plane.stores
        try:
            vms = await self.plane.worker_client.vms(worker.id, worker.http_url)
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

    async def _begin(self, shed: Shed, *, term: int) -> str | None:
        """Begin it; what refuses it now is said, and the next round plans anew."""
        try:
            if shed.target is None:
                operation = await begin_hibernate(
                    self.plane,
                    shed.sandbox,
                    ids=hibernation_ids(),
                    actor=ACTOR,
                    reason=shed.reason,
                    term=term,
                )
            else:
                operation = await self._move(shed, shed.target, term=term)
        except (StoreUnavailable, StaleTerm):
            raise
        except SandfleetError as error:
            return f"{shed.sandbox.id} stays for now: {error.message}"
        self.start(operation)
        return None

    async def _move(self, shed: Shed, target: WorkerId, *, term: int) -> Operation:
        return await begin_migrate(
            self.plane,
            shed.sandbox,
            target=target,
            operation_id=operation_id(secrets.token_bytes(16)),
            actor=ACTOR,
            because=shed.reason,
            term=term,
        )


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
