"""An HTTP client whose connections lead into one guest, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from sandfleet.ports.hypervisor import Machine

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

SILENCE_MAX_S = 3600.0
"""An application may be silent for so long between two pieces of an answer."""
HEADER_BYTES_MAX = 64 * 1024
PIECE_BYTES = 64 * 1024
_ORIGIN = "http://guest"


class GuestConnector(aiohttp.BaseConnector):
    """Opens every connection through the machine, whatever host the URL names."""

    def __init__(self, machine: Machine, port: int) -> None:
        super().__init__(force_close=True)
        self._machine = machine
        self._port = port

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        connection = await self._machine.connect(self._port)
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(self._factory, sock=connection)
        except BaseException:
            connection.close()
            raise
        return protocol


@asynccontextmanager
async def guest_session(machine: Machine, port: int) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client that adds nothing of its own to what it is given; all of it ends on leaving."""
    async with aiohttp.ClientSession(
        connector=GuestConnector(machine, port),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_MAX_S),
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        trust_env=False,
    ) as session:
        yield session


def guest_url(target: str) -> URL:
    """Return the URL of a target that is passed on byte for byte."""
    return URL(_ORIGIN + (target if target.startswith("/") else f"/{target}"), encoded=True)
