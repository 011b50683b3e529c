"""What a worker's caller is told when the worker ends before its answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs
from uvicorn.protocols.utils import ClientDisconnected

from sandfleet.adapters.clock import SystemClock
from sandfleet.worker.edge import Edge

SCOPE = {"type": "http", "path": "/health", "method": "GET", "headers": []}


async def _ended(*, has_begun: bool) -> list[dict[str, Any]]:
    """Return what was sent of a call that the end of the service cut short."""
    sent: list[dict[str, Any]] = []
    waits = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)

    async def inner(_scope: Any, _receive: Any, answer: Any) -> None:
        if has_begun:
            await answer({"type": "http.response.start", "status": 200, "headers": []})
        waits.set()
        await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    edge: Any = Edge(inner, host=SimpleNamespace(clock=SystemClock()), tokens=None)  # type: ignore[arg-type]
    call = asyncio.get_running_loop().create_task(edge(dict(SCOPE), receive, send))
    await waits.wait()
    call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        sent.append({"type": "cut"})
    return sent


async def test_a_call_that_the_end_of_the_worker_cut_short_is_to_be_repeated() -> None:
    start, body = await _ended(has_begun=False)
    assert start["status"] == 503
    assert b"not_ready" in body["body"]


async def test_a_socket_whose_client_left_first_is_no_defect() -> None:
    async def inner(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ClientDisconnected

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(_message: Any) -> None:
        raise AssertionError("there is nobody to be told")

    tokens = SimpleNamespace(verify=lambda _token: None)
    edge: Any = Edge(inner, host=SimpleNamespace(clock=SystemClock()), tokens=tokens)  # type: ignore[arg-type]
    with capture_logs() as logs:
        await edge({"type": "websocket", "path": "/sandboxes/sb-1/exec/ex-1", "headers": []}, receive, send)
    assert [entry["event"] for entry in logs] == ["call"]


async def test_an_answer_that_had_begun_is_cut() -> None:
    sent = await _ended(has_begun=True)
    assert [message["type"] for message in sent] == ["http.response.start", "cut"]
