"""Choices and records of a one-machine fleet."""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from ipaddress import IPv4Network, ip_network
from itertools import chain, pairwise, repeat
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from sandfleet.adapters.network.plan import machine_count
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.local import machine, processes, stop_sandboxes
from sandfleet.local.configuration import (
    ConfigurationBroken,
    WorkerChoice,
    load_configuration,
    load_secrets,
    load_server_choices,
    save_configuration,
    with_servers,
    with_workers_added,
)
from sandfleet.local.demo_owner import METADATA_KEY, left_by_the_dead, ownership
from sandfleet.local.layout import Layout
from sandfleet.local.log_rotation import rotate
from sandfleet.local.machines import MachineCount, count_machines
from sandfleet.local.ports import HeldPorts
from sandfleet.local.services import server_name, with_ports
from sandfleet.local.settings_files import Stores, as_toml, server_settings, worker_settings
from sandfleet.local.state import (
    FleetState,
    ServiceCondition,
    ServiceKind,
    ServiceState,
    read_state,
    write_state,
)
from sandfleet.local.status import fleet_status
from sandfleet.local.supervisor import RestartPolicy
from sandfleet.worker.engine import MACHINES_MAX
from sandfleet.worker.settings import WorkerSettings
from sandfleet_sdk import Sandbox

STORES = Stores(postgres_url="postgresql://u:p@127.0.0.1:1/d", redis_url="redis://:p@127.0.0.1:2/0")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "fleet")
    layout.make()
    return layout


def test_secrets_are_made_once_and_are_their_owners_only(layout: Layout) -> None:
    first = load_secrets(layout)
    assert load_secrets(layout) == first
    assert layout.secrets.stat().st_mode & 0o777 == 0o600
    assert first.bootstrap_key not in repr(first)
    assert first.bootstrap_key.startswith("osb_")


def test_two_fleets_share_no_secret_and_no_worker_id(tmp_path: Path) -> None:
    layouts = [Layout(tmp_path / name) for name in ("a", "b")]
    for layout in layouts:
        layout.make()
    one, other = (load_secrets(layout) for layout in layouts)
    assert not {one.master_secret, one.bootstrap_key, one.join_token} & {
        other.master_secret,
        other.bootstrap_key,
        other.join_token,
    }
    ids = {load_configuration(layout).workers[0].id for layout in layouts}
    assert len(ids) == 2
    assert {load_configuration(layouts[0]).workers[0].id} < ids  # and it stays what it was


def test_a_damaged_file_is_named(layout: Layout) -> None:
    layout.secrets.write_text("{")
    with pytest.raises(ConfigurationBroken, match=r"secrets\.json"):
        load_secrets(layout)


def test_the_settings_files_are_what_the_processes_accept(layout: Layout) -> None:
    configuration = msgspec.structs.replace(load_configuration(layout), api_port=8080)
    secrets = load_secrets(layout)
    server = tomllib.loads(as_toml(server_settings(configuration, secrets, STORES, layout=layout)))
    assert ControlPlaneSettings(**server).listen_port == 8080
    ceiling = ControlPlaneSettings(**server, placement_memory_used_ratio_max=0.9)
    assert ceiling.placement_policy.memory_used_ratio_max == 0.9
    (choice,) = configuration.workers
    worker = tomllib.loads(as_toml(worker_settings(configuration, choice, secrets, layout=layout)))
    accepted = WorkerSettings(**worker)
    assert accepted.control_url == "http://127.0.0.1:8080"
    assert accepted.memory_budget_mib == configuration.memory_budget_mib
    assert accepted.store_url() == server["blob_store_url"]


def test_a_worker_that_is_told_nothing_promises_what_a_local_fleet_does(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (choice,) = load_configuration(layout).workers
    configuration = msgspec.structs.replace(load_configuration(layout), api_port=8080, memory_mib=4096)
    told = worker_settings(configuration, choice, load_secrets(layout), layout=layout)
    untold = {name: value for name, value in told.items() if name != "memory_budget_mib"}
    for total_mib in (2048, 24 << 10, 256 << 10):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total_mib << 20))  # noqa: B023
        assert WorkerSettings(**untold).memory_budget_mib == machine.memory_budget_mib(total_mib)  # type: ignore[arg-type]


def test_the_smallest_machine_gets_settings_that_are_accepted(layout: Layout) -> None:
    configuration = msgspec.structs.replace(load_configuration(layout), api_port=8080, memory_mib=700)
    (choice,) = configuration.workers
    worker = worker_settings(configuration, choice, load_secrets(layout), layout=layout)
    assert WorkerSettings(**worker).memory_default_mib == WorkerSettings(**worker).memory_max_mib == 640  # type: ignore[arg-type]


def test_a_new_fleet_takes_a_range_that_no_worker_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandfleet.adapters.qemu.host_claim import HostClaim

    layouts = [Layout(tmp_path / "data"), Layout(tmp_path / "data")]
    numbers = []
    taken: list[HostClaim] = []
    monkeypatch.setattr("sandfleet.local.configuration.claims_in_force", lambda: taken)
    for layout in layouts:
        layout.make()
        numbers.append(load_configuration(layout).range_number)
        layout.configuration.unlink()
        taken.append(
            HostClaim(data_dir="/x", network_range=f"10.{210 + numbers[-1]}.0.0/16", uid_first=1, uid_count=1)
        )
    assert numbers[0] != numbers[1]


def test_toml_keeps_odd_characters() -> None:
    odd = 'a"b\\c\nd\té'
    assert tomllib.loads(as_toml({"text": odd, "flag": True, "number": 3})) == {
        "text": odd,
        "flag": True,
        "number": 3,
    }


@pytest.mark.parametrize("count", [1, 2, 3, 9, 16])
def test_workers_share_memory_and_never_addresses_or_uids(count: int, layout: Layout) -> None:
    configuration = with_workers_added(load_configuration(layout), count)
    configuration = msgspec.structs.replace(configuration, range_number=3, memory_mib=16000)
    settings = [
        worker_settings(configuration, worker, load_secrets(layout), layout=layout)
        for worker in configuration.workers
    ]
    networks = [ip_network(str(one["network_range"])) for one in settings]
    assert len(networks) == count
    assert all(network.subnet_of(ip_network("10.213.0.0/16")) for network in networks)  # type: ignore[arg-type]
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    firsts = sorted(int(one["uid_first"]) for one in settings)
    assert all(after - before >= MACHINES_MAX for before, after in pairwise(firsts))
    assert all(machine_count(IPv4Network(str(one["network_range"]))) >= MACHINES_MAX for one in settings)
    assert sum(int(one["memory_budget_mib"]) for one in settings) <= 16000


def test_a_worker_keeps_its_addresses_and_uids_when_another_comes(layout: Layout) -> None:
    alone = load_configuration(layout)
    secrets = load_secrets(layout)
    before = worker_settings(alone, alone.workers[0], secrets, layout=layout)
    two = with_workers_added(alone, 2)
    after = worker_settings(two, two.workers[0], secrets, layout=layout)
    kept = ("worker_id", "network_range", "uid_first", "data_dir", "images_dir", "templates_dir")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert int(after["memory_budget_mib"]) < int(before["memory_budget_mib"])
    assert with_workers_added(two, 1) == two


def test_several_servers_have_own_names_and_ports_behind_the_api(layout: Layout) -> None:
    configuration = msgspec.structs.replace(
        with_servers(load_configuration(layout), 3), api_host="0.0.0.0", api_port=8080
    )
    with HeldPorts() as held:
        configuration = with_ports(configuration, held)
    settings = [
        ControlPlaneSettings(  # type: ignore[arg-type]
            **server_settings(configuration, load_secrets(layout), STORES, layout=layout, number=number)
        )
        for number in range(3)
    ]
    assert {one.listen_host for one in settings} == {"127.0.0.1"}
    assert len({one.listen_port for one in settings} | {configuration.api_port}) == 4
    assert len({one.replica_id for one in settings}) == 3
    assert [server_name(number) for number in range(3)] == ["server", "server-2", "server-3"]
    fewer = with_servers(configuration, 2)
    assert fewer.server_ports == configuration.server_ports[:2]


def test_the_owner_of_the_machine_adds_settings_and_overrides_none(layout: Layout) -> None:
    decided = {"listen_port"}
    assert load_server_choices(layout, decided=decided) == {}
    layout.server_choices.write_text("autoscale_interval_s = 1\n[rollout]\ncanary_s = 5\n")
    added = load_server_choices(layout, decided=decided)
    assert tomllib.loads(as_toml(added)) == {"autoscale_interval_s": 1, "rollout": {"canary_s": 5}}
    for text, why in (("listen_port = 1", "decides"), ("listen_port", "cannot be read")):
        layout.server_choices.write_text(text)
        with pytest.raises(ConfigurationBroken, match=why):
            load_server_choices(layout, decided=decided)


def test_choices_survive_their_file_and_differ_in_their_digest(layout: Layout) -> None:
    first = load_configuration(layout)
    changed = with_workers_added(with_servers(first, 2), 3)
    assert changed.digest != first.digest
    save_configuration(layout, changed)
    assert load_configuration(layout) == changed


def test_choices_of_a_fleet_with_one_server_are_still_read(layout: Layout) -> None:
    layout.configuration.write_text(
        '{"rangeNumber": 0, "workers": [{"id": "wk-1", "port": 7}], "apiPort": 8080}'
    )
    configuration = load_configuration(layout)
    assert not configuration.is_balanced
    assert configuration.workers == (WorkerChoice(id="wk-1", port=7, slot=0),)


def test_the_balancer_gets_the_port_that_the_single_server_still_has(layout: Layout) -> None:
    own = processes.identify(os.getpid())
    assert own is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = ServiceState("server", ServiceKind.SERVER, ServiceCondition.RUNNING, port, process=own)
        before = FleetState("http://x", own, (running,))
        configuration = msgspec.structs.replace(with_servers(load_configuration(layout), 2), api_port=port)
        with HeldPorts(running=before.ports_in_use) as held:
            assert with_ports(configuration, held).api_port == port


@pytest.mark.parametrize(("total", "budget"), [(1024, 512), (2048, 1024), (8192, 6964), (24105, 20490)])
def test_the_host_keeps_a_reserve(total: int, budget: int) -> None:
    assert machine.memory_budget_mib(total) == budget


def test_small_machines_keep_few_sandboxes_ready() -> None:
    assert [machine.warm_pool_size(mib) for mib in (512, 4096, 100_000)] == [1, 2, 4]


def test_the_state_survives_its_file(layout: Layout) -> None:
    own = processes.identify(os.getpid())
    assert own is not None
    service = ServiceState("server", ServiceKind.SERVER, ServiceCondition.RUNNING, 8080, process=own)
    state = FleetState("http://127.0.0.1:8080", own, (service,))
    write_state(layout, state)
    assert read_state(layout) == state
    layout.state.write_text("not json")
    assert read_state(layout) is None


def test_a_process_is_more_than_its_pid() -> None:
    own = processes.identify(os.getpid())
    assert own is not None
    assert processes.is_alive(own)
    for other in (
        processes.ProcessIdentity(own.pid, own.started_ticks + 1, own.boot_id),
        processes.ProcessIdentity(own.pid, own.started_ticks, "another boot"),
    ):
        assert not processes.is_alive(other)
        assert processes.open_pidfd(other) is None


def test_status_of_a_killed_fleet_calls_nothing_running(layout: Layout) -> None:
    load_secrets(layout)
    own = processes.identify(os.getpid())
    assert own is not None
    gone = processes.ProcessIdentity(own.pid, own.started_ticks + 1, own.boot_id)
    kinds = (ServiceKind.POSTGRES, ServiceKind.VALKEY, ServiceKind.SERVER, ServiceKind.WORKER)
    services = tuple(
        ServiceState(kind.value, kind, ServiceCondition.RUNNING, 1, process=gone) for kind in kinds
    )
    write_state(layout, FleetState("http://127.0.0.1:9", gone, services))
    status = fleet_status(layout)
    assert status["ready"] is False
    assert status["supervisor"]["running"] is False
    assert [status[name]["state"] for name in ("postgres", "valkey")] == ["stopped", "stopped"]
    assert {"url", "apiKey", "servers", "workers"} <= status.keys()


def test_pauses_double_up_to_a_bound() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause_s(failures, was_ready=False) for failures in range(1, 12)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == policy.pause_s_max
    after_ready = [policy.pause_s(failures, was_ready=True) for failures in range(1, 12)]
    assert after_ready[:4] == [0.0, 0.4, 0.8, 1.6]
    assert after_ready[-1] == policy.pause_when_ready_s_max


def test_a_large_log_is_moved_aside_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old" * 100)
        assert rotate(log, bytes_max=100) is True
        writer.write(b"new")
        assert rotate(log, bytes_max=100) is False
    assert log.read_bytes() == b"new"
    assert (tmp_path / "x.log.1").read_bytes() == b"old" * 100
    assert rotate(tmp_path / "missing.log") is False


def test_machines_are_counted_by_their_manifests(layout: Layout) -> None:
    manifests = {
        "a": '{"state": "ready", "owner": "sb-1"}',
        "b": '{"state": "ready", "owner": null}',
        "c": '{"state": "starting"}',
        "d": "half a mani",
    }
    for name, text in manifests.items():
        folder = layout.worker_data("wk-1") / "machines" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(text)
    assert count_machines(layout) == MachineCount(owned=1, warm=1, unfinished=2)


def test_a_taken_port_is_replaced_and_a_running_service_keeps_its_own(layout: Layout) -> None:
    own = processes.identify(os.getpid())
    assert own is not None
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        stranger, ours = one.getsockname()[1], other.getsockname()[1]
        configuration = msgspec.structs.replace(
            load_configuration(layout), api_port=stranger, postgres_port=ours
        )
        running = ServiceState("postgres", ServiceKind.POSTGRES, ServiceCondition.RUNNING, ours, process=own)
        before = FleetState("http://x", own, (running,))
        with HeldPorts(running=before.ports_in_use) as held:
            chosen = with_ports(configuration, held)
        assert chosen.api_port not in (0, stranger, ours)
        assert chosen.postgres_port == ours
        with HeldPorts() as held:
            assert with_ports(configuration, held).postgres_port != ours
    with HeldPorts() as held:
        assert with_ports(chosen, held) == chosen  # what was chosen is kept while it is free


@pytest.mark.parametrize("owner", ["sb-1", None])
def test_sandboxes_are_not_waited_for_when_no_server_can_end_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str | None
) -> None:
    monkeypatch.setattr(stop_sandboxes, "_READY_WITHIN_S", 0)
    layout = Layout(tmp_path)
    layout.make()
    own = processes.identify(os.getpid())
    assert own is not None
    server = ServiceState("server", ServiceKind.SERVER, ServiceCondition.STARTING, port=9, process=own)
    write_state(layout, FleetState("http://127.0.0.1:9", own, (server,)))
    machine = tmp_path / "workers" / "wk-1" / "machines" / "m-1"
    machine.mkdir(parents=True)
    (machine / "manifest.json").write_text(json.dumps({"state": "ready", "owner": owner}))
    said: list[str] = []
    ended = stop_sandboxes.stop_sandboxes(layout, said.append)
    assert (ended.sandboxes, said) == (0, [])
    # With a sandbox it is the server that is missed; without one there is nothing for it to end.
    assert re.search("not ready.*server.log", str(ended.problem)) if owner else ended.problem is None


def test_the_wait_for_sandboxes_is_over_when_no_more_of_them_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot end them is not waited for as long as one that does, and what is left is said."""
    now_s, said = 0.0, list[str]()
    counts = chain([3], repeat(2))

    def pause(_seconds: float) -> None:
        nonlocal now_s
        now_s += 6.0

    monkeypatch.setattr(stop_sandboxes, "time", SimpleNamespace(monotonic=lambda: now_s, sleep=pause))
    monkeypatch.setattr(stop_sandboxes, "count_machines", lambda _layout: MachineCount(owned=next(counts)))
    assert stop_sandboxes._watch_them_end(Layout(tmp_path), said.append) == 2
    assert now_s == 36.0  # one ended after six seconds, and for thirty more none did
    assert said[0] == "2 sandboxes are still ending"
    assert len(said) < now_s / 5


def test_a_demo_ends_what_a_killed_one_left_and_nothing_else() -> None:
    own = ownership()
    ended = {METADATA_KEY: own[METADATA_KEY].replace(".", ".1", 1)}  # the pid is another process's by now
    bodies = [
        {"sandboxID": name, "status": "running", "metadata": metadata}
        for name, metadata in [("own", own), ("left", ended), ("odd", {METADATA_KEY: "x"}), ("user's", {})]
    ]
    assert left_by_the_dead([Sandbox.parse(body) for body in bodies]) == ["left", "odd"]
