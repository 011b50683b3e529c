"""Attachments to execs: they go on where they were when the connection to the guest breaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sandfleet.adapters.guest.calls import ATTEMPTS_MAX, Calls
from sandfleet.adapters.guest.connection import ConnectionBroken, HostStream
from sandfleet.adapters.guest.decoding import checked, exec_status
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.guest import ExecOutput, ExecPlace, ExecStatus
from sandfleet.wire.agent_messages import Fields, Op, decode_json, decode_output, encode_acknowledged


class Attaching:
    """One attachment (port: `ports.guest.ExecAttachment`)."""

    def __init__(self, calls: Calls, exec_id: str) -> None:
        self._calls = calls
        self._exec_id = exec_id
        self._stream: HostStream | None = None
        self._acknowledged = 0
        self.status: ExecStatus
        self.start = 0
        self.replay_to = 0

    async def begin(self, place: ExecPlace) -> None:
        """Attach at `place`."""
        head = await self._calls.repeat(lambda: self._open(_request(self._exec_id, place)))
        self.status = checked(exec_status, head)
        self.start = checked(lambda fields: fields.integer("start"), head)
        self.replay_to = checked(lambda fields: fields.integer("replay_to"), head)
        self._acknowledged = self.start

    async def pieces(self) -> AsyncGenerator[ExecOutput, None]:
        """Yield output from the start to the end of the exec."""
        offset, failures = self.start, 0
        while failures < ATTEMPTS_MAX:
            try:
                if self._stream is None:
                    await self._open(_request(self._exec_id, ExecPlace(offset=offset)))
                async for piece in self._received(offset):
                    offset = piece.offset + len(piece.data)
                    failures = 0
                    yield piece
                return
            except ConnectionBroken:
                failures += 1
                self._stream = None
        raise GuestUnresponsive("the connection to the guest breaks again and again")

    def acknowledge(self, offset: int) -> None:
        """Tell the guest if there is room; the next one says this too."""
        if offset > self._acknowledged and self._stream is not None:
            self._acknowledged = offset
            self._stream.send_if_room(encode_acknowledged(offset))

    def end(self) -> None:
        """Let go of the exec."""
        if self._stream is not None:
            self._stream.drop()
            self._stream = None

    async def _received(self, offset: int) -> AsyncIterator[ExecOutput]:
        stream = self._stream
        if stream is None:
            raise ConnectionBroken("not attached")
        while (data := await self._calls.receive(stream, stall_s=None)) is not None:
            kind, at, output = checked(decode_output, data)
            if at != offset:
                raise GuestUnresponsive("the guest sent output out of order")
            offset += len(output)
            yield ExecOutput(kind, at, output)

    async def _open(self, request: dict[str, Any]) -> Fields:
        stream = await self._calls.open(request)
        try:
            head = await self._calls.receive(stream, stall_s=self._calls.bounds.operation_s)
            if head is None:
                raise GuestUnresponsive("the guest ended an attachment before it began")
            fields = checked(lambda data: Fields(decode_json(data)), head)
        except BaseException:
            stream.drop()
            raise
        self._stream = stream
        return fields


@asynccontextmanager
async def attached(calls: Calls, exec_id: str, place: ExecPlace) -> AsyncIterator[Attaching]:
    """Be attached to an exec."""
    attaching = Attaching(calls, exec_id)
    try:
        await attaching.begin(place)
        yield attaching
    finally:
        attaching.end()


def _request(exec_id: str, place: ExecPlace) -> dict[str, Any]:
    return {
        "op": Op.EXEC_ATTACH,
        "id": exec_id,
        "offset": place.offset,
        "scrollback": place.scrollback_bytes,
        "first_scrollback": place.first_scrollback_bytes,
    }
