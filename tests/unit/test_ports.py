"""Fleets that come up at the same moment choose ports that no other has chosen, though nobody listens yet."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from sandfleet.local.configuration import (
    FleetConfiguration,
    load_configuration,
    with_servers,
    with_workers_added,
)
from sandfleet.local.layout import Layout
from sandfleet.local.ports import HeldPorts, free_port
from sandfleet.local.services import with_ports

HOLDER = """
import sys
from sandfleet.local.ports import HeldPorts
with HeldPorts() as held:
    print(held.choose(int(sys.argv[1])), flush=True)
    sys.stdin.read()
"""


def ports_of(fleet: FleetConfiguration) -> list[int]:
    workers = [worker.port for worker in fleet.workers]
    return [fleet.api_port, fleet.postgres_port, fleet.valkey_port, *fleet.server_ports, *workers]


def test_of_fleets_that_come_up_at_once_no_two_choose_one_port(tmp_path: Path) -> None:
    """Each prefers the same, as those do whose ports were chosen before they ran at the same time."""
    wanted = [free_port() for _ in range(4)]
    count = 4
    together = threading.Barrier(count)

    def come_up(number: int, held: HeldPorts) -> list[int]:
        layout = Layout(tmp_path / str(number))
        layout.make()
        fleet = with_workers_added(with_servers(load_configuration(layout), 2), 3)
        fleet = msgspec.structs.replace(
            fleet, api_port=wanted[0], postgres_port=wanted[1], server_ports=(wanted[2], wanted[3])
        )
        together.wait(30)
        return ports_of(with_ports(fleet, held))

    held = [HeldPorts() for _ in range(count)]
    try:
        with ThreadPoolExecutor(count) as pool:
            chosen = list(pool.map(come_up, range(count), held))
    finally:
        for one in held:
            one.__exit__(None, None, None)
    every = [port for fleet in chosen for port in fleet]
    assert len(every) == 8 * count
    assert len(set(every)) == len(every)
    assert set(wanted) <= set(every)


def test_a_port_is_held_by_its_process_until_that_ends() -> None:
    """However it ends: nothing stays that somebody would have to clear away."""
    wanted = free_port()
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(wanted)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder,
        HeldPorts() as held,
    ):
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) == wanted
        assert held.choose(wanted) != wanted
        holder.kill()
        holder.wait(30)
        assert held.choose(wanted) == wanted


def test_a_port_that_was_let_go_is_another_ones_to_choose() -> None:
    wanted = free_port()
    with HeldPorts() as one, HeldPorts() as other:
        assert one.choose(wanted) == wanted
        assert one.choose(wanted) != wanted  # not for two services of one fleet either
        assert other.choose(wanted) != wanted
        one.let_go(wanted)
        assert other.choose(wanted) == wanted


def test_what_somebody_listens_on_is_not_held_for_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, HeldPorts() as one, HeldPorts() as other:
        port = taken.getsockname()[1]
        assert one.choose(port) != port
        taken.close()
        assert other.choose(port) == port
