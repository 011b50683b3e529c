"""A one-machine fleet that may have workers by itself: its choices, and what its parts are told of them."""

from __future__ import annotations

import os
import tomllib

import msgspec
import pytest
from tests.unit.conftest import STORES

from sandfleet.controlplane.machine_pools import capacity_policy, open_pools
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.local import processes
from sandfleet.local.configuration import FleetConfiguration, load_configuration, load_secrets
from sandfleet.local.layout import Layout
from sandfleet.local.settings_files import (
    as_toml,
    machine_settings,
    server_settings,
    worker_settings,
)
from sandfleet.local.state import FleetState, ServiceCondition, ServiceKind, ServiceState, write_state
from sandfleet.local.status import fleet_status
from sandfleet.local.up import FleetFailed, UpOrder, configure
from sandfleet.testing.clock import JumpingClock


def server_of(layout: Layout) -> ControlPlaneSettings:
    """The settings of the server, read back from the text of its file."""
    configuration = load_configuration(layout)
    flat = server_settings(configuration, load_secrets(layout), STORES, layout=layout)
    return ControlPlaneSettings(
        **tomllib.loads(as_toml(flat) + as_toml(machine_settings(configuration, layout)))
    )


def test_without_the_choice_a_server_has_no_pool(layout: Layout) -> None:
    configure(layout, UpOrder(workers=2))
    assert (server_of(layout).pools, server_of(layout).capacity) == ((), None)


def test_all_workers_that_there_may_be_share_the_memory(layout: Layout) -> None:
    configure(layout, UpOrder(workers=2, workers_max=4, memory_mib=8192, idle_reserve=1, calm_s=100))
    configuration, server = load_configuration(layout), server_of(layout)
    own = [
        worker_settings(configuration, one, load_secrets(layout), layout=layout)
        for one in configuration.workers
    ]
    assert [one["memory_budget_mib"] for one in own] == [2048, 2048]
    pools = open_pools(server, JumpingClock())
    policy = capacity_policy(server, pools)
    assert policy is not None
    assert [(size.key, size.resources.memory_mib) for size in policy.sizes] == [("local/worker", 2048)]
    assert (policy.workers_min, policy.workers_max, policy.idle_reserve) == (2, 4, 1)
    assert (policy.calm_s, policy.age_s_min, policy.drain_pause_s) == (100, 100, 20)
    assert server.memory_max_mb == 2048


def test_the_choice_is_kept_until_another_is_made(layout: Layout) -> None:
    configure(layout, UpOrder(workers_max=3, idle_reserve=1))
    configure(layout, UpOrder())
    kept = load_configuration(layout)
    assert (kept.workers_max, kept.idle_reserve, kept.calm_s) == (3, 1, 600)
    configure(layout, UpOrder(workers_max=1, idle_reserve=0))
    assert load_configuration(layout).workers_max == 1
    assert load_configuration(layout).digest != kept.digest


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (UpOrder(workers=3, workers_max=2), "3 workers are kept, and there may be 2"),
        (UpOrder(idle_reserve=1), "a reserve needs workers"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(layout: Layout, order: UpOrder, told: str) -> None:
    before = load_configuration(layout)
    with pytest.raises(FleetFailed, match=told):
        configure(layout, order)
    assert load_configuration(layout) == before


def test_choices_of_a_fleet_from_before_are_still_read(layout: Layout) -> None:
    old = msgspec.json.decode(msgspec.json.encode(load_configuration(layout)))
    for name in ("workersMax", "idleReserve", "calmS"):
        del old[name]
    read = msgspec.json.decode(msgspec.json.encode(old), type=FleetConfiguration)
    assert read == load_configuration(layout)


def test_the_status_tells_which_workers_the_fleet_has_by_itself(layout: Layout) -> None:
    configure(layout, UpOrder(workers_max=3, idle_reserve=1))
    load_secrets(layout)
    own = processes.identify(os.getpid())
    assert own is not None
    workers = [
        ServiceState(name, ServiceKind.WORKER, ServiceCondition.STOPPED, 1, is_launched=is_launched)
        for name, is_launched in (("wk-kept", False), ("wk-launch-1", True))
    ]
    write_state(layout, FleetState("http://127.0.0.1:1", own, tuple(workers)))
    facts = fleet_status(layout)
    assert [(one["id"], one["launched"]) for one in facts["workers"]] == [
        ("wk-kept", False),
        ("wk-launch-1", True),
    ]
    assert facts["capacity"] == {"workersMin": 1, "workersMax": 3, "idleReserve": 1, "calmS": 600}
