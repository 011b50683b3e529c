"""What the host offers one guest alone: its ports from outside, and the metadata address."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest
from tests.vm.conftest import ORDER, Start, run

from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.model.errors import PortClosed
from sandfleet.ports.guest import ExecPlace, StdinPlace

PORT_TRIES_MAX = 1200
CURL = "curl -sS -m 3 -o /dev/null"


async def fetched(machine: QemuMachine, port: int) -> bytes:
    """Return what the guest's port answers to a plain request."""
    connection = await connected(machine, port)
    request = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"
    await machine.guest.write_stdin(connection, request, place=StdinPlace("me", 0))
    async with machine.guest.attach(connection, ExecPlace(offset=0)) as attached:
        return b"".join([piece.data async for piece in attached.pieces()])


async def connected(machine: QemuMachine, port: int) -> str:
    """Return a connection to the port as soon as it is open."""
    for number in range(PORT_TRIES_MAX):
        try:
            await machine.guest.connect_port(f"pc-{number}", port)
        except PortClosed:
            await asyncio.sleep(0.05)
        else:
            return f"pc-{number}"
    raise AssertionError(f"port {port} never opened")


async def test_a_port_of_the_guest_is_reached_through_its_agent_even_without_egress(start: Start) -> None:
    """By the address of the guest's link: what listens on the loopback alone is the guest's own."""
    machine = await start(replace(ORDER, network_enabled=False))
    with pytest.raises(PortClosed):
        await machine.guest.connect_port("pc-none", 8000)
    serve = "mkdir -p /srv/x && cd /srv/x && echo served > index.html"
    own = "(python3 -m http.server --bind 127.0.0.1 8001 >/dev/null 2>&1 &)"
    await run(
        machine.guest, f"{serve} && {own} ; (python3 -m http.server 8000 >/dev/null 2>&1 &) ; sleep 0.1"
    )
    assert (await fetched(machine, 8000)).endswith(b"served\n")
    answers = "for i in $(seq 100); do curl -s http://127.0.0.1:8001/ && exit 0; sleep 0.2; done; exit 1"
    assert (await run(machine.guest, answers))[0] == 0
    with pytest.raises(PortClosed):
        await machine.guest.connect_port("pc-own", 8001)


async def answer_once(listener: socket.socket) -> None:
    """Answer one request on the metadata listener."""
    loop = asyncio.get_running_loop()
    peer, _ = await loop.sock_accept(listener)
    await loop.sock_recv(peer, 65536)
    await loop.sock_sendall(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmine")
    peer.close()


async def test_the_metadata_address_leads_to_the_machines_own_listener(start: Start) -> None:
    first, second = await start(replace(ORDER, network_enabled=False)), await start()
    listener = await first.listen_for_metadata()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(answer_once(listener))
            code, said = await run(first.guest, "curl -sS -m 50 http://169.254.169.254/v1/status")
        assert (code, said) == (0, "mine")
        closed = (
            (first.guest, "http://10.0.2.2/"),
            (first.guest, "http://169.254.169.254:81/"),
            (second.guest, "http://169.254.169.254/"),
        )
        looks = await asyncio.gather(*(run(guest, f"{CURL} {target}") for guest, target in closed))
        assert [code for code, _ in looks if code == 0] == []
    finally:
        listener.close()
    began_s = time.monotonic()
    await first.destroy()
    assert time.monotonic() - began_s < 30, "what still listened held the end up"
