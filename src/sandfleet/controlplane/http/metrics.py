"""Counters of one replica. No label holds a sandbox id, a key or an organisation."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sandfleet.controlplane.dependencies import Observer
from sandfleet.controlplane.http.fleet_metrics import FleetGauges
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.planning.placement import NoPlacement

SOCKET_KINDS = ("exec", "pty", "preview")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600)


class Metrics(Observer):
    """All metrics of one control plane process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sandfleet_http_requests",
            "HTTP requests by route template, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "sandfleet_http_request_seconds",
            "From the request's first byte to the answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.errors = Counter(
            "sandfleet_errors", "Errors told to callers, by code.", ["code"], registry=self.registry
        )
        self.data_plane_wait_seconds = Histogram(
            "sandfleet_data_plane_wait_seconds",
            "How long data-plane calls waited, by the status that they found.",
            ["status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.operation_seconds = Histogram(
            "sandfleet_operation_seconds",
            "How long lifecycle requests took from their row to their end.",
            ["operation", "outcome"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_wait_seconds = Histogram(
            "sandfleet_create_queue_wait_seconds",
            "How long creates that found no place at once waited for one, or gave up.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.migration_downtime_seconds = Histogram(
            "sandfleet_migration_downtime_seconds",
            "How long sandboxes stood still while they moved to another worker.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._make_refusals()
        self._make_gauges()
        self._make_pool_metrics()

    def _make_refusals(self) -> None:
        self.placement_refusals = Counter(
            "sandfleet_placement_refusals",
            "Looks for a place that found none, by the filters that refused at least one worker.",
            ["filter"],
            registry=self.registry,
        )

    def request_ended(self, route: str, method: str, status: int, *, seconds: float) -> None:
        """Count a request. Its counters are looked up by their labels once."""
        kind = (route, method, status)
        known = self._of_requests.get(kind)
        if known is None:
            counter = self.requests.labels(route, method, str(status))
            known = self._of_requests[kind] = (counter, self.request_seconds.labels(route))
        known[0].inc()
        known[1].observe(seconds)

    def operation_ended(self, operation: Operation, *, seconds: float) -> None:
        """Count an operation's time. A create's is counted where its caller is answered."""
        if operation.kind is not OperationKind.CREATE:
            outcome = operation.state.value
            self.operation_seconds.labels(operation.kind.value, outcome).observe(max(0.0, seconds))

    def sandbox_moved(self, *, downtime_s: float) -> None:
        """Count a move's downtime."""
        self.migration_downtime_seconds.observe(max(0.0, downtime_s))

    def queue_left(self, *, seconds: float) -> None:
        """Count a create's time in the queue."""
        self.queue_wait_seconds.observe(max(0.0, seconds))

    def placement_refused(self, answer: NoPlacement) -> None:
        """Count of a create that finds no place which filters stood in its way."""
        for filter_ in {one.refused_by for one in answer.candidates if one.refused_by is not None}:
            self.placement_refusals.labels(filter_).inc()

    def worker_reported(self, worker_id: WorkerId, *, exec_sessions: int) -> None:
        """Keep what a worker said."""
        self.execs_reported[worker_id] = exec_sessions

    def pool_asked(self, pool: str, *, silence: str | None, at: datetime) -> None:
        """Count what got no answer, and keep what the last call was like."""
        self.pool_calls.labels(pool, "answered" if silence is None else "silent").inc()
        self.pools_asked[pool] = (silence is None, at)

    def _make_gauges(self) -> None:
        """Make what is read when it is asked for."""
        self.fleet = FleetGauges(self.registry)
        self.sandboxes = self._gauge("sandfleet_sandboxes", "Sandboxes by status.", "status", "region")
        self.queue_length = self._gauge("sandfleet_create_queue_length", "Creates that wait for a place.")
        self.worker_committed = self._gauge(
            "sandfleet_worker_memory_committed_bytes", "Memory promised on a worker.", "worker"
        )
        self.worker_used = self._gauge(
            "sandfleet_worker_memory_used_bytes", "Memory in use on a worker.", "worker"
        )
        self.drains = self._gauge("sandfleet_worker_drains", "Workers that are being drained.", "state")
        self.drain_stuck = self._gauge(
            "sandfleet_worker_drain_stuck",
            "Sandboxes that are still on a worker whose drain is past its deadline: somebody should look.",
            "worker",
        )
        self.socket_clients = self._gauge("sandfleet_ws_clients", "Attached sockets by kind.", "kind")
        for kind in SOCKET_KINDS:
            self.socket_clients.labels(kind)  # none is a figure as well
        self.exec_sessions = self._gauge(
            "sandfleet_exec_sessions",
            "Commands, sessions and terminals that run, as the worker's last heartbeat to this replica said.",
            "worker",
        )
        self.execs_reported: dict[WorkerId, int] = {}
        self.leader_term = self._gauge("sandfleet_leader_term", "Newest term of the fleet's leader.")

    def _make_pool_metrics(self) -> None:
        self.pool_calls = Counter(
            "sandfleet_pool_calls",
            "Calls to pools of machines, by what came of them.",
            ["pool", "outcome"],
            registry=self.registry,
        )
        self.pool_answers = self._gauge(
            "sandfleet_pool_answers",
            "1 if a pool of machines has answered the last call of this replica, which leads.",
            "pool",
        )
        self.pools_asked: dict[str, tuple[bool, datetime]] = {}

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
