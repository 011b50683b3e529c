"""A guest reaches the internet and nothing else, and only when it may."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.vm.conftest import ORDER, Start, run
from tests.vm.outside import PORT, Outside
from tests.vm.test_guest_services import connected

from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.processes import run_program
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.ports.network import NetworkSeat

_CONNECT = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def look(target):
    host, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=float(sys.argv[1])) as peer:
            peer.sendall(b"hello")
            return target + " reached " + peer.recv(100).decode(errors="replace")
    except OSError as error:
        return target + " closed " + type(error).__name__
with ThreadPoolExecutor(len(sys.argv)) as pool:
    print(*pool.map(look, sys.argv[2:]), sep=chr(10))
"""
PATIENCE_S, IMPATIENCE_S = 30.0, 3.0
"""For what should be reached, by a slow guest as well; for what should not, which costs all of it."""


@pytest.fixture
def outside() -> Iterator[Outside]:
    with Outside() as server:
        yield server


async def reach(machine: QemuMachine, *targets: str, within_s: float = PATIENCE_S) -> dict[str, str]:
    """Return what the guest found at each target: `reached …` or `closed …`."""
    code, said = await run(machine.guest, f"python3 -c '{_CONNECT}' {within_s} {' '.join(targets)}")
    assert code == 0, said
    return dict(line.split(" ", 1) for line in said.splitlines())


async def test_a_guest_reaches_the_outside_from_the_hosts_address(start: Start, outside: Outside) -> None:
    machine = await start()
    target = f"{outside.address}:{PORT}"
    found = await reach(machine, target)
    router = outside.address.rsplit(".", 1)[0] + f".{int(outside.address.rsplit('.', 1)[1]) - 1}"
    assert found == {target: f"reached {router} hello"}


async def test_without_network_nothing_leaves_and_opening_it_helps_at_once(
    start: Start, outside: Outside
) -> None:
    machine = await start(replace(ORDER, network_enabled=False))
    target = f"{outside.address}:{PORT}"
    assert (await reach(machine, target, within_s=IMPATIENCE_S))[target].startswith("closed")
    await machine.set_network(enabled=True)
    assert (await reach(machine, target))[target].startswith("reached")
    assert machine.facts.order.network_enabled


async def test_closing_the_network_ends_connections_that_are_open(start: Start, outside: Outside) -> None:
    machine = await start()
    script = f"""
import socket
peer = socket.create_connection(("{outside.address}", {PORT}), timeout={PATIENCE_S})
peer.settimeout({IMPATIENCE_S})
open("/tmp/open", "w").close()
import os, time
while not os.path.exists("/tmp/closed"):
    time.sleep(0.05)
try:
    peer.sendall(b"late")
    print("answer", peer.recv(100))
except OSError as error:
    print("dead", type(error).__name__)
"""
    await run(
        machine.guest, f"cat > /tmp/late.py <<'E'\n{script}\nE\n(python3 /tmp/late.py > /tmp/said 2>&1 &)"
    )
    await run(machine.guest, "while [ ! -e /tmp/open ]; do sleep 0.05; done")
    await machine.set_network(enabled=False)
    _code, said = await run(
        machine.guest, "touch /tmp/closed; while [ ! -s /tmp/said ]; do sleep 0.1; done; cat /tmp/said"
    )
    assert said.startswith("dead"), said


async def test_host_private_ranges_metadata_and_other_guests_are_out_of_reach(start: Start) -> None:
    machine, other = await start(), await start()
    await run(other.guest, "(python3 -m http.server 80 >/dev/null 2>&1 &)")
    await connected(other, 80)
    with socket.create_server(("0.0.0.0", 0)) as listening:
        port = listening.getsockname()[1]
        addresses = _host_addresses()
        targets = [f"{address}:{port}" for address in addresses]
        targets += [f"{_address(other)}:80", "169.254.169.254:80", "10.0.2.2:80", "192.168.1.1:80"]
        found = await reach(machine, *targets, within_s=IMPATIENCE_S)
        assert len(addresses) >= 2
        assert [target for target in targets if found[target].startswith("reached")] == []
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_a_forged_source_address_does_not_leave(start: Start, outside: Outside) -> None:
    machine = await start()
    target = f"{outside.address}:{PORT}"
    await run(
        machine.guest,
        "ip addr add 10.0.2.77/24 dev eth0; ip route replace default via 10.0.2.2 src 10.0.2.77",
    )
    assert (await reach(machine, target, within_s=IMPATIENCE_S))[target].startswith("closed")
    await run(machine.guest, "ip route replace default via 10.0.2.2 src 10.0.2.15")
    assert (await reach(machine, target))[target].startswith("reached")


async def test_ipv6_goes_nowhere(start: Start) -> None:
    machine = await start()
    namespace = f"sf-{machine.facts.machine_id}"
    shown = await run_program(["nsenter", f"--net=/run/netns/{namespace}", "ip", "-6", "addr"])
    assert shown == ""
    code, _said = await run(
        machine.guest,
        "python3 -c 'import socket; socket.create_connection((\"fe80::1%eth0\", 80), timeout=2)'",
    )
    assert code != 0


def _address(machine: QemuMachine) -> str:
    network = machine.host.network
    assert isinstance(network, NamespaceNetwork)
    return network.address_of(NetworkSeat(machine.facts.machine_id, machine.manifest.slot))


def _host_addresses() -> list[str]:
    """Return the host's own addresses outside loopback, those towards guests included."""
    shown = subprocess.run(["ip", "-4", "-o", "addr"], check=True, capture_output=True, text=True).stdout
    found = {line.split()[3].split("/")[0] for line in shown.splitlines()}
    return sorted(address for address in found if not address.startswith("127."))
