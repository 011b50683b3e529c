"""Carries one client's session: attached to whichever worker has the sandbox, again and again.

Rule 1: `position` counts what was handed to the client, and stdin is kept until the guest
confirms it. So when a worker dies or the sandbox moves, the next attachment goes on
exactly there, and the client sees a pause.
Rule 2: a broken connection or a worker's refusal is a hint to look at the row, never
the end. The end is what the row says (gone), what the guest says (unknown, or an
offset that is not kept), or the exit.
Rule 3: a sandbox that sleeps is not woken by an open socket, only by something to say to it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.controlplane.proxy.readiness import locate_by_row, wait_until_ready
from sandfleet.controlplane.proxy.stdin_buffer import StdinBuffer
from sandfleet.model.errors import (
    Forbidden,
    Gone,
    GuestUnresponsive,
    NotReady,
    SandfleetError,
    StaleEpoch,
    Unauthorised,
    Unavailable,
)
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.ports.coordination import Route
from sandfleet.ports.data_plane import WorkerSocket
from sandfleet.wire import session_frames as frames
from sandfleet.wire.worker_messages import EPOCH_HEADER, REQUEST_ID_HEADER

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 0.4
"""A worker is back a second after its death: who waits for it should not wait another one."""
LAST_WORDS_S = 1.0
ACKNOWLEDGE_EVERY_BYTES = 256 * 1024
_ASLEEP = frozenset({SandboxState.HIBERNATING, SandboxState.HIBERNATED})
_LOOK_AGAIN = (StaleEpoch, Unavailable, Unauthorised, Forbidden, Gone, GuestUnresponsive)


class Taker(Protocol):
    """The client of a session."""

    async def send(self, data: bytes) -> None:
        """Give it a message; returns when it has room for more."""
        ...

    @property
    def untaken_bytes(self) -> int:
        """How much of what it was given may not be said to have reached it."""
        ...


@dataclass(frozen=True, slots=True)
class SessionTarget:
    """What a client wants to be attached to, and where in its output."""

    sandbox_id: str
    kind: str
    """`exec`, `pty` or `connections`: the word in the path."""
    session_id: str
    port: int | None = None
    """To which port a connection is made, when it is attached to for the first time."""
    is_work: bool = False
    """Whether it keeps the sandbox awake while it is attached."""
    offset: int | None = None
    scrollback: int = 0

    @property
    def is_bare(self) -> bool:
        """Whether its messages are bare bytes, as those of terminals and connections are."""
        return self.kind != "exec"


@dataclass(slots=True)
class SessionCarrier:
    """One client's session, whoever serves it."""

    edge: Edge
    client: Taker
    target: SessionTarget
    request_id: str
    stdin: StdinBuffer = field(default_factory=StdinBuffer)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is stdin to send, or room for more."""
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    position: int | None = None
    """Up to where the client has the output; None before the first attachment."""
    _acknowledged: int = 0
    _is_replayed: bool = False
    _writer: str = field(default_factory=lambda: secrets.token_hex(16))

    async def carry(self, located: Route | Sandbox) -> None:
        """Return when the exit has been told; raise what ends it otherwise."""
        clock, wait_s = self.edge.plane.clock, self.edge.plane.settings.sandbox_wait_s
        deadline, pause_s = clock.monotonic() + wait_s, PAUSE_FIRST_S
        while True:
            if isinstance(located, Sandbox):
                located = await self._ready(located, seconds=deadline - clock.monotonic())
                deadline = max(deadline, clock.monotonic() + wait_s / 2)
            before = self.position
            problem = await self._attempt(located)
            if problem is None:
                return
            if self.position is not None and self.position != before:
                deadline, pause_s = clock.monotonic() + wait_s, PAUSE_FIRST_S
            fresh = await self._look_again(located)
            if fresh == located:
                if clock.monotonic() + pause_s >= deadline:
                    raise NotReady("the session cannot be reached at the moment") from problem
                await clock.sleep(pause_s)
                pause_s = min(PAUSE_MAX_S, pause_s * 2)
            located = fresh

    async def _attempt(self, route: Route) -> SandfleetError | None:
        """Be attached until the exit (None), or until something says that the route is out of date."""
        headers = {EPOCH_HEADER: str(route.epoch), REQUEST_ID_HEADER: self.request_id}
        try:
            async with self.edge.data_plane.connect(
                route.worker_id, route.worker_url, self._path(), headers
            ) as worker:
                if self.position is None:
                    self.position = self._acknowledged = int(worker.headers.get("x-exec-offset", "0"))
                self.attached.set()
                if await self._pump(worker):
                    return None
        except _LOOK_AGAIN as error:
            return error
        return Unavailable("the worker closed the session's connection")

    def _path(self) -> str:
        target = self.target
        offset = target.offset if self.position is None else self.position
        query: dict[str, object] = {"writer": self._writer}
        if offset is not None:
            query["offset"] = offset
        if target.port is not None and self.position is None:
            query["port"] = target.port
        if target.is_work:
            query["work"] = "true"
        if target.scrollback:
            query["scrollback"] = target.scrollback
        path = f"/sandboxes/{target.sandbox_id}/{target.kind}/{target.session_id}"
        return f"{path}?{urlencode(query)}"

    async def _pump(self, worker: WorkerSocket) -> bool:
        """Pass messages on in both directions; return whether the exit has been told."""
        self.stdin.begin_again()
        self.changed.set()
        async with TaskGroup() as group:
            up = group.create_task(_outcome(self._send_stdin(worker)))
            down = group.create_task(_outcome(self._send_output(worker)))
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if not down.done():  # the way up broke: what came down before counts
                await asyncio.wait({down}, timeout=LAST_WORDS_S)
            up.cancel()
            down.cancel()
        ended = down.result() if not down.cancelled() else False
        if isinstance(ended, Exception):
            raise ended
        return bool(ended)

    async def _send_stdin(self, worker: WorkerSocket) -> None:
        while True:
            self.changed.clear()
            await self._acknowledge(worker)
            while (frame := self.stdin.next_frame()) is not None:
                await worker.send(frame)
            await self.changed.wait()

    async def _send_output(self, worker: WorkerSocket) -> bool:
        while (frame := await worker.receive()) is not None:
            kind = frame[0] if frame else None
            if kind in (frames.STDOUT, frames.STDERR):
                await self._hand_on(frame)
                await self._acknowledge(worker)
            elif kind == frames.REPLAYED:
                await self._end_replay()
            elif kind == frames.STDIN_TAKEN:
                self.stdin.taken(frames.offset_of(frame))
                self.changed.set()
            elif kind == frames.EXIT:
                if not self.target.is_bare:
                    await self.client.send(frame)
                return True
        return False

    async def _hand_on(self, frame: bytes) -> None:
        await self.client.send(frame[1:] if self.target.is_bare else frame)
        self.position = (self.position or 0) + len(frame) - 1

    async def _acknowledge(self, worker: WorkerSocket) -> None:
        position = (self.position or 0) - self.client.untaken_bytes
        if position - self._acknowledged >= ACKNOWLEDGE_EVERY_BYTES:
            self._acknowledged = position
            await worker.send(frames.acknowledged(position))

    async def _end_replay(self) -> None:
        if self._is_replayed or self.target.is_bare:
            return
        self._is_replayed = True
        await self.client.send(frames.replayed(None if self.target.offset is None else self.position))

    async def _look_again(self, route: Route) -> Route | Sandbox:
        if self.edge.drain.is_hurried:
            raise shutting_down()
        await self.edge.plane.routes.forget(route.sandbox_id)
        return await locate_by_row(self.edge, route.organisation_id, route.sandbox_id)

    async def _ready(self, sandbox: Sandbox, *, seconds: float) -> Route:
        """Return the route when there is one. The first attachment wakes; a held one lets sleep."""
        if self.position is None:
            return await wait_until_ready(self.edge, sandbox, seconds=seconds)
        located: Route | Sandbox = sandbox
        hints = self.edge.plane.wake_ups.subscribe(sandbox_topic(sandbox.id))
        while isinstance(located, Sandbox):
            if located.state not in _ASLEEP or self.stdin.is_pending:
                wait_s = self.edge.plane.settings.sandbox_wait_s
                return await wait_until_ready(self.edge, located, seconds=wait_s)
            await anext(hints)
            located = await locate_by_row(self.edge, sandbox.organisation_id, sandbox.id)
        return located


async def _outcome(work: Coroutine[Any, Any, bool | None]) -> bool | Exception | None:
    """Return what a direction came to, failures included: a group of errors would hide their kind."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 -- raised again by whoever waits
        return error
