"""A fleet that is described in the body of `/admin/plan`, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sandfleet.controlplane.api.field_values import invalid
from sandfleet.controlplane.loops.fleet_reading import TEMPLATE
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.given_fleet import GivenFleet, GivenSandbox, GivenWorker
from sandfleet.planning.membership import NOT_LAUNCHED
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.pressure_ground import Shortage
from sandfleet.wire.public_placement import GivenFleetOrder, GivenSandboxOrder, GivenWorkerOrder

WORKERS_MAX = 2000
SANDBOXES_MAX = 20_000
AMOUNT_MAX = 2**40
OLD_S = 86_400.0
"""How long a worker has been there whose age was not given."""
_STATES = sorted(state.value for state in WorkerState)


def given_fleet(order: GivenFleetOrder, settings: ControlPlaneSettings, *, now: datetime) -> GivenFleet:
    """Return the fleet; BadRequest for what cannot be one."""
    reader = _Reader(settings, now)
    workers = [reader.worker(one, number) for number, one in enumerate(order.workers or (), start=1)]
    if not 1 <= len(workers) <= WORKERS_MAX:
        raise invalid(f"view.workers must be 1 to {WORKERS_MAX}")
    if len({one.worker.id for one in workers}) < len(workers):
        raise invalid("view.workers have one workerID twice")
    waiting = [
        PlacementRequest(one.resources, one.template, one.region)
        for one in reader.sandboxes(order.waiting or (), "waiting")
    ]
    return GivenFleet(workers, waiting)


class _Reader:
    """Fills in what is left out as this server's settings have it."""

    def __init__(self, settings: ControlPlaneSettings, now: datetime) -> None:
        self._settings, self._now, self._left = settings, now, SANDBOXES_MAX

    def worker(self, given: GivenWorkerOrder, number: int) -> GivenWorker:
        """Return one worker with who lives there."""
        name = WorkerId(given.worker_id or f"wk-{number}")
        if given.state is not None and given.state not in _STATES:
            raise invalid(f"state of {name[:40]} must be one of {', '.join(_STATES)}")
        total = Resources(
            _amount(given.memory_mib, AMOUNT_MAX),
            _amount(given.cpu_count, AMOUNT_MAX),
            _amount(given.disk_mib, AMOUNT_MAX),
        )
        region = given.region or self._settings.region
        worker = Worker(
            id=name,
            machine_id=name,
            region=region,
            state=WorkerState(given.state or WorkerState.READY),
            version=1,
            http_url="",
            total=total,
            cordoned=bool(given.cordoned),
            draining=bool(given.draining),
            templates=dict.fromkeys(given.templates if given.templates is not None else (TEMPLATE,), ""),
            worker_version=given.version or "",
            accelerator=given.accelerator or "",
            cpu_model=given.cpu_model or "",
            memory_used_mib=_amount(given.memory_used_mib, 0),
            cpu_percent=given.cpu_percent or 0.0,
            disk_used_mib=_amount(given.disk_used_mib, 0),
            host_memory_mib=_amount(given.host_memory_mib, 0),
            host_cpus=_amount(given.host_cpus, 0),
            host_disk_mib=_amount(given.host_disk_mib, 0),
        )
        added_at = self._now - timedelta(seconds=_seconds(given.age_s))
        sandboxes = self.sandboxes(given.sandboxes or (), name)
        return GivenWorker(worker, given.size or NOT_LAUNCHED, added_at, tuple(sandboxes))

    def sandboxes(self, given: Sequence[GivenSandboxOrder], where: str) -> Iterator[GivenSandbox]:
        """Yield them, so many of each as are asked for."""
        for number, one in enumerate(given, start=1):
            count = 1 if one.count is None else one.count
            self._left -= count
            if count < 1 or self._left < 0:
                raise invalid(f"count must be at least 1, and {SANDBOXES_MAX} sandboxes in all at most")
            for copy in range(1, count + 1):
                named = one.sandbox_id if one.sandbox_id and count == 1 else f"sb-{where}-{number}-{copy}"
                yield self._sandbox(one, named)

    def _sandbox(self, given: GivenSandboxOrder, name: str) -> GivenSandbox:
        settings = self._settings
        resources = Resources(
            _amount(given.memory_mib, settings.memory_default_mb),
            _amount(given.cpu_count, 1),
            _amount(given.disk_mib, settings.disk_default_mb),
        )
        measured = {
            Shortage.MEMORY: given.memory_used_mib,
            Shortage.DISK: given.disk_used_mib,
            Shortage.CPU: given.cpu_used,
        }
        return GivenSandbox(
            SandboxId(name),
            resources,
            given.template_id or TEMPLATE,
            given.region or settings.region,
            {one: float(amount) for one, amount in measured.items() if amount is not None},
        )


def _amount(value: int | None, usual: int) -> int:
    if value is None:
        return usual
    if not 0 <= value <= AMOUNT_MAX:
        raise invalid(f"amounts of a view must be between 0 and {AMOUNT_MAX}")
    return value


def _seconds(value: float | None) -> float:
    if value is None:
        return OLD_S
    if not 0 <= value <= 10 * 365 * OLD_S:
        raise invalid("ageS must be between 0 and ten years")
    return value
