"""Machines that the fleet launches on its own host: workers with a part of the host that nobody else has."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path

import pytest

from sandfleet import __version__
from sandfleet.adapters.machines.local import LocalMachinePool
from sandfleet.adapters.machines.local_versions import LocalVersion, UnknownVersion, read_version
from sandfleet.local.configuration import (
    FleetConfiguration,
    load_configuration,
    load_secrets,
    save_configuration,
    with_workers_added,
)
from sandfleet.local.launched_machines import slots_lent
from sandfleet.local.launched_workers import clear_machine, follower_of
from sandfleet.local.layout import Layout
from sandfleet.local.machine_follower import MachineFollower
from sandfleet.local.places import WORKERS_MAX
from sandfleet.local.ports import HeldPorts
from sandfleet.local.settings_files import worker_settings
from sandfleet.local.state import ServiceKind
from sandfleet.local.up import UpOrder, configure
from sandfleet.model.errors import MachineRefused
from sandfleet.model.launch import LaunchFailure, LaunchId, MachineSize
from sandfleet.model.machine import MachineOrder
from sandfleet.testing.builders import resources
from sandfleet.testing.clock import JumpingClock
from sandfleet.worker.engine import MACHINES_MAX
from sandfleet.worker.settings import WorkerSettings

SMALL = MachineSize("local", "small", resources(2048, cpu_count=3, disk_mib=40960))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "fleet")
    layout.make()
    configuration = with_workers_added(load_configuration(layout), 2)
    save_configuration(layout, configuration)
    write_version(layout, "v1")
    return layout


def write_version(layout: Layout, name: str, text: str = "") -> None:
    path = layout.machines / "versions" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def follower(layout: Layout) -> Iterator[Callable[[], MachineFollower]]:
    """Each is that of another supervisor, after the end of the one before."""
    with ExitStack() as one:

        def begin() -> MachineFollower:
            one.close()
            held = one.enter_context(HeldPorts())
            return follower_of(layout, load_configuration(layout), load_secrets(layout), held=held)

        yield begin


async def launch(layout: Layout, *numbers: int) -> LocalMachinePool:
    pool = LocalMachinePool(
        layout.machines, sizes=(SMALL,), machines_max=20, memory_max_mib=10**6, clock=JumpingClock()
    )
    for number in numbers:
        await pool.launch(MachineOrder(LaunchId(f"launch-{number}"), "small", "v1"), term=1)
    return pool


def settings_of(layout: Layout, name: str) -> WorkerSettings:
    return WorkerSettings(**tomllib.loads(layout.settings(name).read_text()))


async def test_a_launched_worker_has_the_size_that_was_asked_for_and_the_name_of_its_launch(
    layout: Layout, follower: Callable[[], MachineFollower]
) -> None:
    await launch(layout, 1)
    (service,) = follower().services()
    assert (service.name, service.kind, service.after) == ("wk-launch-1", ServiceKind.WORKER, ("server",))
    settings = settings_of(layout, service.name)
    assert (settings.worker_id, settings.machine_id) == ("wk-launch-1", "launch-1")
    assert (settings.memory_budget_mib, settings.cpu_budget, settings.disk_budget_mib) == (2048, 3, 40960)
    assert settings.memory_max_mib == 2048
    assert settings.listen_port == service.port
    assert settings.worker_version == "v1"
    assert service.command.argv[0] == sys.executable


async def test_a_version_is_a_program_and_settings_and_a_machine_stays_what_it_was_ordered_as(
    layout: Layout, follower: Callable[[], MachineFollower]
) -> None:
    write_version(layout, "v1", 'program = "/opt/other/bin/python"\n[settings]\nwarm_pool_size = 3\n')
    await launch(layout, 1)
    write_version(layout, "v1", 'program = "/opt/later/bin/python"\n')
    for _ in range(2):  # the next supervisor starts it as well
        (service,) = follower().services()
        assert service.command.argv[0] == "/opt/other/bin/python"
        settings = settings_of(layout, service.name)
        assert (settings.worker_version, settings.warm_pool_size) == ("v1", 3)
        assert settings.memory_budget_mib == 2048


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is missing"),
        ("program = 3", "cannot be read"),
        ("not toml", "cannot be read"),
        ('[settings]\nworker_id = "wk-x"\ndata_dir = "/"', "may not set data_dir, worker_id"),
    ],
)
async def test_a_version_that_is_not_one_is_refused_before_there_is_a_machine(
    layout: Layout, text: str | None, said: str, follower: Callable[[], MachineFollower]
) -> None:
    if text is None:
        (layout.machines / "versions" / "v1.toml").unlink()
    else:
        write_version(layout, "v1", text)
    with pytest.raises(MachineRefused, match=said) as refused:
        await launch(layout, 1)
    assert refused.value.failure is LaunchFailure.BROKEN
    assert follower().services() == []


async def test_what_is_installed_needs_no_file_and_no_name_leaves_the_directory(layout: Layout) -> None:
    for version in ("", __version__):
        assert read_version(layout.machines, version) == LocalVersion()
    write_version(layout, "../stray")
    for version in ("../stray", "/etc/passwd", ".", "a/b"):
        with pytest.raises(UnknownVersion, match="cannot be a version"):
            read_version(layout.machines, version)


async def test_no_two_workers_of_a_host_share_addresses_or_users(
    layout: Layout, follower: Callable[[], MachineFollower]
) -> None:
    """And one for which nothing is left waits until another has gone."""
    configuration: FleetConfiguration = load_configuration(layout)
    count = WORKERS_MAX - len(configuration.workers)
    pool = await launch(layout, *range(count + 1))
    launched = follower()
    services = launched.services()
    assert len(services) == count
    own = [
        worker_settings(configuration, choice, load_secrets(layout), layout=layout)
        for choice in configuration.workers
    ]
    given = [settings_of(layout, service.name) for service in services]
    ranges = [str(one["network_range"]) for one in own] + [one.network_range for one in given]
    networks = [ip_network(one) for one in ranges]
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    firsts = sorted([int(one["uid_first"]) for one in own] + [one.uid_first for one in given])
    assert len(firsts) == WORKERS_MAX
    assert all(after - before >= MACHINES_MAX for before, after in pairwise(firsts))
    assert len({service.port for service in services}) == count
    await pool.terminate("launch-0", term=1)
    (order,) = launched.machines.ending()
    assert [one.name for one in launched.services()] == [one.name for one in services[1:]]
    launched.say_gone(order)
    assert len(launched.services()) == count
    assert launched.machines.ending() == []


async def test_a_machine_keeps_its_place_when_the_supervisor_is_another(
    layout: Layout, follower: Callable[[], MachineFollower]
) -> None:
    await launch(layout, 1, 2)

    def places() -> list[tuple[str, int, int]]:
        found = [settings_of(layout, one.name) for one in follower().services()]
        return [(one.network_range, one.uid_first, one.listen_port) for one in found]

    first = places()
    assert places() == first


async def test_a_worker_that_is_added_by_hand_takes_no_launched_ones_place(
    layout: Layout, follower: Callable[[], MachineFollower]
) -> None:
    await launch(layout, 1)
    follower().services()
    (lent,) = slots_lent(layout.machines)
    configure(layout, UpOrder(workers=WORKERS_MAX))
    slots = {worker.slot for worker in load_configuration(layout).workers}
    assert slots == set(range(WORKERS_MAX)) - {lent}


async def test_clearing_away_what_never_came_up_is_no_fault(layout: Layout) -> None:
    kept = layout.worker_data("wk-launch-1")
    (kept / "machines").mkdir(parents=True)
    await clear_machine(layout, "wk-launch-1")
    await clear_machine(layout, "wk-launch-1")
    assert not kept.exists()
