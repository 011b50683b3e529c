"""Performing the steps of flows over HTTP: once blocking, once awaiting. Nothing else differs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping
from typing import Any, TypeVar

import httpx2

from sandfleet_sdk.calls import Answer, Call, Failure, Flow, Outcome, Pause
from sandfleet_sdk.errors import Unreachable
from sandfleet_sdk.fleet import ROOT
from sandfleet_sdk.retries import RetryPolicy, drive, error_of

T = TypeVar("T")
_CONNECT_TIMEOUT_S = 5.0
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Endpoint:
    """Where the server is and who asks: turns calls into arguments of an HTTP client."""

    def __init__(self, url: str, api_key: str) -> None:
        self.origin = url.rstrip("/").removesuffix("/api")
        self._api_key = api_key

    @property
    def verify(self) -> bool:
        """Whether certificates are checked: always, but plain HTTP has none, and reading them takes time."""
        return not self.origin.lower().startswith("http://")

    def arguments(self, call: Call) -> dict[str, Any]:
        """Return method, URL, headers, time-outs and body of a call, except a streamed body."""
        is_outside = call.path.startswith(ROOT)
        path = call.path[len(ROOT) - 1 :] if is_outside else f"/api{call.path}"
        arguments: dict[str, Any] = {
            "method": call.method,
            "url": self.origin + path,
            "headers": {"X-API-Key": self._api_key, **call.headers},
            "timeout": httpx2.Timeout(call.idle_timeout_s, connect=_CONNECT_TIMEOUT_S),
        }
        if call.query:
            arguments["params"] = dict(call.query)
        if call.payload is not None:
            arguments["json"] = call.payload
        return arguments

    def socket(self, path: str) -> tuple[str, dict[str, str]]:
        """Return URL and headers of a WebSocket."""
        scheme, _, rest = self.origin.partition("://")
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/api{path}", {"X-API-Key": self._api_key}

    def failure(self, error: Exception, *, begun: bool) -> Failure:
        """Return what a broken exchange means for the caller."""
        reason = str(error) or type(error).__name__
        return Failure(
            Unreachable(f"no answer from {self.origin}: {reason}"),
            sent=not isinstance(error, _NOT_SENT),
            begun=begun,
        )


def _answer(response: httpx2.Response, body: bytes) -> Answer:
    headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=body)


def _refuse(response: httpx2.Response, body: bytes) -> None:
    error = error_of(_answer(response, body))
    if error is not None:
        raise error


def _is_for_sink(call: Call, response: httpx2.Response) -> bool:
    return call.sink is not None and response.status_code < 400


class BlockingTransport:
    """Performs flows in the calling thread."""

    def __init__(self, endpoint: Endpoint, policy: RetryPolicy) -> None:
        self.endpoint = self._endpoint = endpoint
        self._policy = policy
        self._http = httpx2.Client(trust_env=False, verify=endpoint.verify)

    def run(self, flow: Flow[T]) -> T:
        """Return the flow's result."""
        steps = drive(flow, self._policy)
        outcome: Outcome | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = self._perform(step)
        except StopIteration as end:
            result: T = end.value
            return result

    def pieces(self, call: Call) -> Generator[bytes, None, None]:
        """Yield an answer as it comes, once; raise what refuses it or breaks it off."""
        try:
            with self._http.stream(**self._endpoint.arguments(call)) as response:
                if response.status_code >= 400:
                    _refuse(response, response.read())
                yield from response.iter_bytes()
        except httpx2.TransportError as error:
            raise self._endpoint.failure(error, begun=True).error from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _perform(self, call: Call) -> Outcome:
        arguments = self._endpoint.arguments(call)
        if call.source is not None:
            arguments["content"] = iter(call.source())
        begun = False
        try:
            with self._http.stream(**arguments) as response:
                if not _is_for_sink(call, response):
                    return _answer(response, response.read())
                for piece in response.iter_bytes():
                    begun = True
                    if call.sink is not None:
                        call.sink(piece)
                return _answer(response, b"")
        except httpx2.TransportError as error:
            return self._endpoint.failure(error, begun=begun)


class AwaitingTransport:
    """Performs flows in the running event loop; sources and sinks work in threads and never block it."""

    def __init__(self, endpoint: Endpoint, policy: RetryPolicy) -> None:
        self.endpoint = self._endpoint = endpoint
        self._policy = policy
        self._http = httpx2.AsyncClient(trust_env=False, verify=endpoint.verify)

    async def run(self, flow: Flow[T]) -> T:
        """Return the flow's result."""
        steps = drive(flow, self._policy)
        outcome: Outcome | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._perform(step)
        except StopIteration as end:
            result: T = end.value
            return result

    async def pieces(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield an answer as it comes, once; raise what refuses it or breaks it off."""
        try:
            async with self._http.stream(**self._endpoint.arguments(call)) as response:
                if response.status_code >= 400:
                    _refuse(response, await response.aread())
                async for piece in response.aiter_bytes():
                    yield piece
        except httpx2.TransportError as error:
            raise self._endpoint.failure(error, begun=True).error from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _perform(self, call: Call) -> Outcome:
        arguments = self._endpoint.arguments(call)
        if call.source is not None:
            arguments["content"] = _in_threads(call.source())
        begun = False
        try:
            async with self._http.stream(**arguments) as response:
                if not _is_for_sink(call, response):
                    return _answer(response, await response.aread())
                async for piece in response.aiter_bytes():
                    begun = True
                    if call.sink is not None:
                        await asyncio.to_thread(call.sink, piece)
                return _answer(response, b"")
        except httpx2.TransportError as error:
            return self._endpoint.failure(error, begun=begun)


async def _in_threads(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    iterator = iter(pieces)
    while (piece := await asyncio.to_thread(next, iterator, None)) is not None:
        yield piece
