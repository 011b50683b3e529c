"""What a worker measures, in its own registry."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandfleet.worker.host import Host
from sandfleet.worker.residents import VmState

REGISTRY = CollectorRegistry()
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

START_SECONDS = Histogram(
    "sandfleet_worker_vm_start_seconds",
    "From the order to a running VM, by where the machine came from (warm, cold, failed).",
    ["source"],
    buckets=_SHORT,
    registry=REGISTRY,
)
CALL_SECONDS = Histogram(
    "sandfleet_worker_call_seconds",
    "Data-plane calls, the time of the command included.",
    ["operation"],
    buckets=_SHORT,
    registry=REGISTRY,
)
CALLS = Counter(
    "sandfleet_worker_calls_total", "Data-plane calls.", ["operation", "outcome"], registry=REGISTRY
)


class HostCollector(Collector):
    """Reads the host's present state at each scrape."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        host = self._host
        states = Tally({state: 0 for state in VmState})
        states.update(resident.state for resident in host.residents)
        vms = GaugeMetricFamily("sandfleet_worker_vms", "VMs of sandboxes by state.", labels=["state"])
        for state, count in states.items():
            vms.add_metric([state.value], count)
        yield vms
        used = sum(resident.measured.memory_mib for resident in host.residents)
        for name, text, value in (
            ("warm_machines", "Machines that stand ready.", len(host.pool)),
            ("memory_budget_mib", "Memory that may be promised.", host.limits.memory_budget_mib),
            ("memory_committed_mib", "Memory that is promised.", host.residents.committed_mib),
            ("memory_used_mib", "Memory that the host lost to VMs of sandboxes.", used),
            ("in_flight", "Work in flight.", sum(resident.in_flight for resident in host.residents)),
            (
                "exec_sessions",
                "Commands, sessions and terminals that run, as last counted.",
                sum(resident.running_execs for resident in host.residents),
            ),
        ):
            yield GaugeMetricFamily(f"sandfleet_worker_{name}", text, value=value)


def exposition(host: Host) -> bytes:
    """Return everything in the text format."""
    gauges = CollectorRegistry()
    gauges.register(HostCollector(host))
    return generate_latest(REGISTRY) + generate_latest(gauges)
