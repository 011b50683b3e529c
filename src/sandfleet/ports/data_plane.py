"""How a data-plane call reaches a worker (adapter: `adapters/workers`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sandfleet.model.ids import WorkerId


@dataclass(frozen=True, slots=True)
class DataPlaneRequest:
    """One request, ready to be sent. `target` is path and query, already encoded.

    A body that is an iterator is streamed; `Content-Length` in `headers` is then kept.
    `silence_max_s` bounds the wait for the answer's head and between two pieces of its body.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterator[bytes] | None = field(default=None, repr=False)
    silence_max_s: float = 60.0


class DataPlaneAnswer(Protocol):
    """The answer's head, and its body piece by piece."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; WorkerUnreachable when it breaks off."""
        ...

    async def read(self, *, bytes_max: int) -> bytes:
        """Return the whole body; TooLarge above the bound."""
        ...


class WorkerSocket(Protocol):
    """A WebSocket to a worker."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the upgrade's answer, with lower-case names."""
        ...

    async def receive(self) -> bytes | None:
        """Return the next message; None when there will be no more, however it ended."""
        ...

    async def send(self, data: bytes) -> None:
        """Send one message; WorkerUnreachable when that is not possible any more."""
        ...


class DataPlane(Protocol):
    """Keeps connections to workers open and sends requests over them."""

    def send(
        self, worker_id: WorkerId, url: str, request: DataPlaneRequest
    ) -> AbstractAsyncContextManager[DataPlaneAnswer]:
        """Send and yield the answer; WorkerUnreachable if none came. Leaving early aborts the call."""
        ...

    def connect(
        self, worker_id: WorkerId, url: str, target: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[WorkerSocket]:
        """Open a WebSocket; the worker's own error if it refuses, WorkerUnreachable if it cannot be asked."""
        ...
