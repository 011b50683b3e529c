"""A control plane that only listens to heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer

JOIN_TOKEN = "join-token-of-the-tests"


class FakeControlPlane:
    """Keeps what it heard; `answer` is what it says, None makes it fail."""

    def __init__(self) -> None:
        self.beats: list[Heartbeat] = []
        self.answer: HeartbeatAnswer | None = HeartbeatAnswer(
            term=1, public_keys={}, heartbeat_interval_s=0.1
        )
        self.url = ""
        self._heard = asyncio.Condition()

    async def heard(self, number: int) -> Heartbeat:
        """Return the newest beat once there are `number` of them."""
        async with self._heard:
            await self._heard.wait_for(lambda: len(self.beats) >= number)
        return self.beats[-1]

    async def handle(self, request: web.Request) -> web.Response:
        """Take one beat."""
        if request.headers.get("Authorization") != f"Bearer {JOIN_TOKEN}":
            return web.Response(status=401)
        self.beats.append(msgspec.json.decode(await request.read(), type=Heartbeat))
        async with self._heard:
            self._heard.notify_all()
        if self.answer is None:
            return web.Response(status=503)
        return web.Response(body=msgspec.json.encode(self.answer), content_type="application/json")


@asynccontextmanager
async def a_control_plane() -> AsyncIterator[FakeControlPlane]:
    """Serve one on a free port."""
    plane = FakeControlPlane()
    app = web.Application()
    app.router.add_post("/internal/workers/{worker}/heartbeat", plane.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    plane.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield plane
    finally:
        await runner.cleanup()
