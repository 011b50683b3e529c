"""Keeping the connection alive under a long command: leading spaces before the JSON answer.

Facts: httpx gives up after 30 s without a byte; JSON parsers skip leading whitespace.
Rule 1: an answer that is ready before `after_s` is sent as it is.
Rule 2: after it `200` has been said: one space at once, one more every `every_s`, then the JSON; an
error is then told inside a 200 body that has the keys of a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import msgspec

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.answers import JSON, Answer
from sandfleet.ports.clock import Clock

PADDED_HEADERS: Mapping[str, str] = {
    "Content-Type": JSON,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
PAD = b" "


async def first_of(work: asyncio.Future[Answer], *, seconds: float, clock: Clock) -> Answer | None:
    """Return the answer if it comes within `seconds`, else None. The work goes on."""
    if work.done():
        return work.result()
    async with TaskGroup() as group:
        timer = group.create_task(clock.sleep(max(0.0, seconds)))
        work.add_done_callback(lambda _: timer.cancel())
    return work.result() if work.done() else None


async def padded_pieces(
    work: asyncio.Future[Answer], *, every_s: float, clock: Clock
) -> AsyncIterator[bytes]:
    """Yield spaces until the answer is there, then the answer as a 200 body."""
    yield PAD
    while True:
        answer = await first_of(work, seconds=every_s, clock=clock)
        if answer is not None:
            yield as_late_body(answer)
            return
        yield PAD


def as_late_body(answer: Answer) -> bytes:
    """Return the body of an answer whose status can no longer be said."""
    if answer.status < 400:
        return answer.body
    problem = msgspec.json.decode(answer.body)
    text = problem.get("error", f"HTTP {answer.status}")
    late = {
        "exitCode": -1,
        "stdout": "",
        "stderr": text,
        "error": text,
        "code": problem.get("code", "internal"),
        "requestId": problem.get("requestId", ""),
    }
    if "details" in problem:
        late["details"] = problem["details"]
    return msgspec.json.encode(late)
