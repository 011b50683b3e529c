"""What the host offers one guest alone: connections into its ports, and the metadata address."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest
from tests.vm.conftest import ORDER, Start, run

from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.model.errors import PortClosed

PORT_TRIES_MAX = 1200
CURL = "curl -sS -m 3 -o /dev/null"


async def fetched(machine: QemuMachine, port: int) -> bytes:
    """Return what the guest's port answers to a plain request."""
    connection = await machine.connect(port)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def until_open(machine: QemuMachine, port: int) -> None:
    for _ in range(PORT_TRIES_MAX):
        try:
            (await machine.connect(port)).close()
        except PortClosed:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError(f"port {port} never opened")


async def test_a_port_of_the_guest_is_reached_from_its_namespace_only_even_without_egress(
    start: Start,
) -> None:
    machine = await start(replace(ORDER, network_enabled=False))
    with pytest.raises(PortClosed):
        await machine.connect(8000)
    serve = "mkdir -p /srv/x && cd /srv/x && echo served > index.html"
    await run(machine.guest, f"{serve} && (python3 -m http.server 8000 >/dev/null 2>&1 &) ; sleep 0.1")
    await until_open(machine, 8000)
    assert (await fetched(machine, 8000)).endswith(b"served\n")


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
