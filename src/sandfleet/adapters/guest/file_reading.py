"""Reading a file of the guest to its end, over broken connections."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping

from sandfleet.adapters.guest.calls import ATTEMPTS_MAX, Calls
from sandfleet.adapters.guest.connection import ConnectionBroken
from sandfleet.adapters.guest.decoding import checked
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.wire.agent_messages import Fields, decode_json

HEAD_BYTES_MAX = 4096


class FileReading:
    """One download. It goes on only in the file that it began with."""

    def __init__(self, calls: Calls, request: Mapping[str, str]) -> None:
        self._calls = calls
        self._request = request
        self._identity: str | None = None
        self._offset = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._attempt()) as attempt:
                    async for chunk in attempt:
                        failures = 0
                        yield chunk
                return
            except ConnectionBroken as error:
                failures += 1
                if failures >= ATTEMPTS_MAX:
                    raise GuestUnresponsive(str(error)) from error

    async def _attempt(self) -> AsyncGenerator[bytes, None]:
        request = {**self._request, "offset": self._offset, "same_as": self._identity}
        async with self._calls.stream(request) as stream:
            head = await self._calls.receive(stream, stall_s=self._calls.bounds.operation_s)
            self._identity = checked(_identity_of, head or b"")
            while True:
                data = await self._calls.receive(stream, stall_s=self._calls.bounds.operation_s)
                if data is None:
                    return
                self._offset += len(data)
                yield data


def _identity_of(head: bytes) -> str:
    return Fields(decode_json(head, bytes_max=HEAD_BYTES_MAX)).text("identity")
