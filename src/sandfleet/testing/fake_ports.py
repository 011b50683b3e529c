"""Ports of a fake guest: local ports stand for them, and a connection is a program that speaks with one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.testing.fake_programs import STDOUT, FakeProcess, Program

PIECE_BYTES = 65536


async def connection_to(local_port: int) -> Program:
    """Return the program of a connection that stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", local_port)

    async def hear(process: FakeProcess) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE_BYTES):
                await process.write(STDOUT, piece)

    async def say(process: FakeProcess) -> None:
        with suppress(ConnectionError):
            while piece := await process.stdin.get():
                writer.write(piece)
                await writer.drain()

    async def speak(process: FakeProcess) -> int:
        """Speak until either side ends it."""
        try:
            async with TaskGroup() as group:
                ways = [group.create_task(hear(process)), group.create_task(say(process))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            writer.close()
        return 0

    return speak
