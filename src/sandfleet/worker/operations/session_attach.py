"""GET exec/{id} and pty/{id} with an upgrade: one client of a session.

Output and input go their ways independently, so a process that waits for its output to
be read and one that does not read its input never wait for each other here. A client
that says where its stdin stands is told what was taken; one that says what has reached
it holds the guest's log for what has not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import BadRequest, NotReady, SandfleetError
from sandfleet.ports.guest import ExecAttachment, ExecPlace, Guest, StdinPlace
from sandfleet.wire import session_frames as frames
from sandfleet.wire.session_request import offset_from, scrollback_from
from sandfleet.worker.host import Host
from sandfleet.worker.operations.linger import client_of
from sandfleet.worker.operations.session_view import exit_code, session
from sandfleet.worker.residents import Resident

SLOW_AFTER_S = 60.0
GIVEN_BYTES_MAX = 512 * 1024
"""Of stdin that has come meanwhile so much is given to the guest in one call."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the upgrade asks for."""

    exec_id: str
    has_terminal: bool
    place: ExecPlace
    writer: str | None

    @staticmethod
    def of(scope: Scope, *, has_terminal: bool) -> Wanted:
        """Return what path and query say."""
        query = QueryParams(scope["query_string"])
        offset = offset_from(query.get("offset"))
        back = scrollback_from(query.get("scrollback")) if has_terminal else frames.SCROLLBACK_BYTES_MAX
        place = ExecPlace(
            offset=offset,
            scrollback_bytes=back,
            first_scrollback_bytes=frames.SCROLLBACK_BYTES_MAX,
        )
        exec_id: str = scope["path_params"]["exec_id"]
        return Wanted(exec_id, has_terminal, place, query.get("writer") or None)


@dataclass(slots=True)
class _Client:
    """One attached socket."""

    resident: Resident
    guest: Guest
    wanted: Wanted
    attached: ExecAttachment
    receive: Receive
    send: Send
    _stdin: deque[frames.Stdin] = field(default_factory=deque)
    _stdin_bytes: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Serve until the exec's end has been told, or the client has left."""
        failure: SandfleetError | None = None
        async with TaskGroup() as group:
            work = [
                group.create_task(_as_value(self._send_output())),
                group.create_task(_as_value(self._take_messages())),
                group.create_task(_as_value(self._give_stdin())),
            ]
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                task.cancel()
            failure = next((task.result() for task in done if task.result() is not None), None)
        if failure is not None:
            raise failure

    async def _send_output(self) -> None:
        attached = self.attached
        replay = frames.Replay(attached.start, attached.replay_to)
        await self._send_all(replay.boundary())
        async for piece in attached.pieces():
            await self._send_all(replay.frames(piece.stream, piece.data))
            self.resident.touch()
            if self.wanted.writer is None:
                attached.acknowledge(replay.position)
        status = await self.guest.wait_exec(self.wanted.exec_id)
        await self._send_all([frames.exited(exit_code(status))])
        await self.send({"type": "websocket.close", "code": frames.NORMAL})

    async def _send_all(self, messages: list[bytes]) -> None:
        try:
            for message in messages:
                async with asyncio.timeout(SLOW_AFTER_S):
                    await self.send({"type": "websocket.send", "bytes": message})
        except TimeoutError:
            await self.send({"type": "websocket.close", "code": frames.TRY_LATER})
            raise NotReady("the client takes nothing") from None

    async def _take_messages(self) -> None:
        """Read the socket, but not while more than 1 MiB of stdin waits for the process."""
        while True:
            while self._stdin_bytes > frames.STDIN_WAITING_BYTES_MAX:
                self._changed.clear()
                await self._changed.wait()
            message = await self.receive()
            if message["type"] == "websocket.disconnect":
                return
            frame = message.get("bytes")
            if frame and frame[0] == frames.ACKNOWLEDGED:
                self.attached.acknowledge(frames.offset_of(frame))
            elif frame and (stdin := frames.stdin_of(frame)) is not None:
                self.resident.touch()
                self._stdin.append(stdin)
                self._stdin_bytes += len(stdin.data)
                self._changed.set()

    async def _give_stdin(self) -> None:
        while True:
            while not self._stdin:
                self._changed.clear()
                await self._changed.wait()
            stdin = frames.joined(self._stdin, bytes_max=GIVEN_BYTES_MAX)
            place = self._place_of(stdin)
            await self.guest.write_stdin(self.wanted.exec_id, stdin.data, end=stdin.is_last, place=place)
            self._stdin_bytes -= len(stdin.data)
            self._changed.set()
            if place is not None:
                taken = frames.stdin_taken(place.position + len(stdin.data))
                await self.send({"type": "websocket.send", "bytes": taken})

    def _place_of(self, stdin: frames.Stdin) -> StdinPlace | None:
        if stdin.position is None:
            return None
        if self.wanted.writer is None:
            raise BadRequest("placed stdin without a writer")
        return StdinPlace(self.wanted.writer, stdin.position)


async def attach(host: Host, resident: Resident, wanted: Wanted, receive: Receive, send: Send) -> None:
    """Accept the upgrade when the client is attached, then serve it."""
    async with resident.attachment() as machine:
        guest = machine.guest
        status = await session(guest, wanted.exec_id, has_terminal=wanted.has_terminal)
        async with guest.attach(wanted.exec_id, wanted.place) as attached:
            with client_of(host, resident, status):
                start = str(attached.start).encode()
                headers = [(frames.OFFSET_HEADER.lower().encode(), start)]
                await send({"type": "websocket.accept", "headers": headers})
                await _Client(resident, guest, wanted, attached, receive, send).serve()


async def _as_value(work: Coroutine[Any, Any, None]) -> SandfleetError | None:
    """Return what a part of the socket failed with: a group of errors would hide its kind."""
    try:
        await work
    except SandfleetError as error:
        return error
    except OSError:  # the client has left while something was sent
        return None
    return None
