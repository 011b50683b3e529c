"""One pool of kept-alive connections to all workers.

Facts: a connection that the worker has closed meanwhile shows only when it is written
to; aiohttp repeats an idempotent request once by itself and reports the others.
`sock_read` bounds the silence between two pieces, not the whole call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from sandfleet.model.ids import WorkerId

FleetTokens = Callable[[WorkerId], str]
"""Returns a token whose audience is the worker; cached by its maker."""

CONNECT_TIMEOUT_S = 3.0
KEEP_ALIVE_S = 60.0
CONNECTIONS_MAX = 4000


@asynccontextmanager
async def worker_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open the pool; all connections close on leaving."""
    connector = aiohttp.TCPConnector(
        limit=CONNECTIONS_MAX, limit_per_host=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=30
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=256 * 1024,
        trust_env=False,
    ) as session:
        yield session


def timeouts(*, silence_max_s: float) -> aiohttp.ClientTimeout:
    """Return bounds for connecting and for silence; streams may take as long as they flow."""
    return aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, sock_read=silence_max_s
    )
