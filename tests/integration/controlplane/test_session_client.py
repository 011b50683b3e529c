"""The project's own client attached to sessions and terminals, blocking and awaiting."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.integration.controlplane.conftest import BOOTSTRAP_KEY, Fleet

from sandfleet_sdk import AsyncClient, Client, NotFound, Output


async def test_the_awaiting_client(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    async with AsyncClient(fleet.url, BOOTSTRAP_KEY) as client:
        session = await client.sessions.start(sandbox, "cat")
        async with client.sessions.attach(sandbox, session.id) as attachment:
            outputs = aiter(attachment)
            first = asyncio.get_running_loop().create_task(anext(outputs))
            await attachment.send(b"hello")
            assert await first == Output(1, b"hello")
            await attachment.end_input()
            assert [one async for one in outputs] == []
            assert attachment.exit_code == 0
        shown = await client.sessions.get(sandbox, session.id)
        assert (shown.running, shown.exit_code, shown.output_bytes) == (False, 0, 5)
        assert [one.id for one in await client.sessions.list(sandbox)] == [session.id]
        async with client.sessions.attach(sandbox, session.id, offset=3) as attachment:
            assert [one async for one in attachment] == [Output(1, b"lo")]
        with pytest.raises(NotFound):
            async with client.sessions.attach(sandbox, "ex-unknown-1") as attachment:
                [one async for one in attachment]


async def test_the_blocking_client_and_terminals(fleet: Fleet) -> None:
    sandbox = await fleet.create()

    def tour() -> bytes:
        with Client(fleet.url, BOOTSTRAP_KEY) as client:
            terminal = client.sessions.start_terminal(sandbox, shell="cat", cols=90, rows=20)
            client.sessions.resize(sandbox, terminal, cols=80, rows=24)
            assert client.sessions.get_terminal(sandbox, terminal).running
            seen = b""
            with client.sessions.attach_terminal(sandbox, terminal, offset=0) as attachment:
                threading.Thread(target=lambda: attachment.send(b"typed")).start()
                for output in attachment:
                    seen += output.data
                    if seen == b"typed":
                        client.sessions.end_terminal(sandbox, terminal)
            assert client.sessions.get_terminal(sandbox, terminal).exit_code == -1
            session = client.sessions.start(sandbox, "sleep", args=["60"])
            client.sessions.kill(sandbox, session.id, signal=15)
            with client.sessions.attach(sandbox, session.id) as attachment:
                assert list(attachment) == []
                assert attachment.exit_code == -1
            return seen

    assert await asyncio.to_thread(tour) == b"typed"
