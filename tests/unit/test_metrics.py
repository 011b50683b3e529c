"""Every metric is documented, and the fleet's figures are what the planner wrote down."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prometheus_client import generate_latest

from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.planning.backoff import Backoff
from sandfleet.planning.capacity_figures import CapacityFigures
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.fleet import LaunchMachine
from sandfleet.planning.placement import Candidate, NoPlacement
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.testing.builders import NOON, a_worker
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def scraped(metrics: Metrics) -> set[str]:
    return set(generate_latest(metrics.registry).decode().splitlines())


def test_every_metric_is_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = {family.name for family in Metrics().registry.collect()}
    assert len(names) > 30
    missing = {name for name in names if f"`{name}" not in page and f"`{name}_total" not in page}
    assert missing == set()


async def test_figures_are_those_of_the_round_that_was_written_down() -> None:
    stores, metrics = memory_stores(MemoryDatabase(lambda: NOON)), Metrics()
    term = await stores.terms.raise_term("leader")
    figures = CapacityFigures(
        desired=4, current=3, launching=1, idle_reserve=1, queued_mib=1, frozen="2 of 4", launches_left=7
    )
    backoffs = {"ec2/large": Backoff(2, NOON + timedelta(seconds=90), LaunchFailure.QUOTA)}
    launch = LaunchMachine(LaunchId("launch-1"), "ec2/large", "2", "wanted")
    memory = CapacityMemory(backoffs=backoffs, figures=figures)
    await stores.fleet.record(FleetDecision(DrainOwner.CAPACITY, (launch,), memory), term=term)
    await stores.rollouts.begin("2", "1", actor="key k", at=NOON - timedelta(seconds=30))
    await metrics.fleet.read(stores, [a_worker("wk-1", worker_version="1")], now=NOON)
    assert {
        "sandfleet_capacity_desired_workers 4.0",
        "sandfleet_capacity_current_workers 3.0",
        "sandfleet_capacity_launching_machines 1.0",
        "sandfleet_capacity_idle_reserve_workers 1.0",
        "sandfleet_capacity_queued_bytes 1.048576e+06",
        "sandfleet_capacity_launches_left_machines 7.0",
        "sandfleet_capacity_frozen 1.0",
        'sandfleet_pool_backoff_seconds{failure="quota",size="ec2/large"} 90.0',
        'sandfleet_pool_failures{failure="quota",size="ec2/large"} 2.0',
        'sandfleet_launches{pool="ec2",state="pending"} 1.0',
        'sandfleet_workers{state="ready",version="1"} 1.0',
        'sandfleet_rollout{stage="boot_test",version="2"} 1.0',
        'sandfleet_rollout_stage_seconds{stage="boot_test"} 30.0',
    } <= scraped(metrics)


def test_a_create_that_finds_no_place_counts_each_filter_once() -> None:
    metrics = Metrics()
    refused = [Candidate(WorkerId(f"wk-{one}"), None, "memory", "short") for one in range(3)]
    refused.append(Candidate(WorkerId("wk-9"), None, "cordoned", "is draining"))
    metrics.placement_refused(NoPlacement({}, tuple(refused)))
    assert {
        'sandfleet_placement_refusals_total{filter="memory"} 1.0',
        'sandfleet_placement_refusals_total{filter="cordoned"} 1.0',
    } <= scraped(metrics)
