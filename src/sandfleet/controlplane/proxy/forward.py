"""Passing a call on to the worker that has the sandbox, and looking again when it has moved.

Rule 1: "unreachable" and "moved" (also: not here) are hints to look at the row, never a change of
state. A plain "not found" is about a file or a command, and goes to the client.
Rule 2: a call is repeated only if that is safe: its request says so through `may_repeat`.
Rule 3: all attempts together take at most `sandbox_wait_s`, or what the call says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.proxy.readiness import locate_by_row, wait_until_ready
from sandfleet.model.errors import (
    Forbidden,
    Gone,
    NotReady,
    SandfleetError,
    StaleEpoch,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.coordination import Route
from sandfleet.ports.data_plane import DataPlaneAnswer, DataPlaneRequest
from sandfleet.wire.errors import error_from
from sandfleet.wire.worker_messages import EPOCH_HEADER, REQUEST_ID_HEADER

ATTEMPTS_MAX = 200
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 0.4
"""A worker is back a second after its death: who waits for it should not wait another one."""
PROBLEM_BYTES_MAX = 256 * 1024


class Caller(Protocol):
    """For whom a call is forwarded: a request, or a command that was accepted before."""

    @property
    def edge(self) -> Edge:
        """The ports to serve it."""
        ...

    @property
    def request_id(self) -> str:
        """The request's id, for the worker's log."""
        ...

    @property
    def received_at(self) -> float:
        """When the time began that all attempts together may take."""
        ...


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A call to forward: how its request is made (anew for each attempt), and whether it may be repeated."""

    make: Callable[[], DataPlaneRequest]
    may_repeat: Callable[[], bool] = lambda: True
    failure: Callable[[], SandfleetError | None] = lambda: None
    """What broke on the client's side while the request was sent."""
    wait_s: float | None = None
    """How long all attempts may take together; None is `sandbox_wait_s`."""


async def open_answer(
    call: Caller, located: Route | Sandbox, forwarding: Forwarding, *, stack: AsyncExitStack
) -> DataPlaneAnswer:
    """Return the worker's answer with a status below 400, held open by `stack`; raise what it refused."""
    clock, settings = call.edge.plane.clock, call.edge.plane.settings
    wait_s = settings.sandbox_wait_s if forwarding.wait_s is None else forwarding.wait_s
    deadline = call.received_at + wait_s
    pause_s = PAUSE_FIRST_S
    for _ in range(ATTEMPTS_MAX):
        if isinstance(located, Sandbox):
            seconds = deadline - clock.monotonic()
            located = await wait_until_ready(call.edge, located, seconds=seconds)
        outcome = await attempt_once(
            call, located, forwarding.make(), stack=stack, failure=forwarding.failure
        )
        if not isinstance(outcome, SandfleetError):
            return outcome
        fresh = await _look_again(call, located)
        if not forwarding.may_repeat():
            raise _not_ready(outcome)
        if fresh == located:
            if clock.monotonic() + pause_s >= deadline or call.edge.drain.is_hurried:
                raise _not_ready(outcome)
            await clock.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, pause_s * 2)
        located = fresh
    raise NotReady("sandbox is not ready yet", retry_after_s=2)


async def attempt_once(
    call: Caller,
    route: Route,
    request: DataPlaneRequest,
    *,
    stack: AsyncExitStack,
    failure: Callable[[], SandfleetError | None] = lambda: None,
) -> DataPlaneAnswer | SandfleetError:
    """Return the answer, or an error that may only mean that the route is out of date."""
    headers = {**request.headers, EPOCH_HEADER: str(route.epoch), REQUEST_ID_HEADER: call.request_id}
    request = replace(request, headers=headers)
    try:
        async with AsyncExitStack() as attempt:
            answer = await attempt.enter_async_context(
                call.edge.data_plane.send(route.worker_id, route.worker_url, request)
            )
            if answer.status < 400:
                stack.push_async_exit(attempt.pop_all().__aexit__)
                return answer
            problem = await _problem(answer)
    except Unavailable as error:
        problem = error
    broken = failure()
    if broken is not None:
        raise broken
    if isinstance(problem, (StaleEpoch, Unavailable, Unauthorised, Forbidden, Gone)):
        return problem
    raise problem


async def _problem(answer: DataPlaneAnswer) -> SandfleetError:
    try:
        raw = await answer.read(bytes_max=PROBLEM_BYTES_MAX)
        body = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, TooLarge):
        body = {}
    return error_from(answer.status, body)


async def _look_again(call: Caller, route: Route) -> Route | Sandbox:
    """Return what the row says now."""
    await call.edge.plane.routes.forget(route.sandbox_id)
    return await locate_by_row(call.edge, route.organisation_id, route.sandbox_id)


def _not_ready(problem: SandfleetError) -> NotReady:
    retry_after_s = problem.retry_after_s if isinstance(problem, Unavailable) else 1
    return NotReady("sandbox cannot be reached at the moment", retry_after_s=retry_after_s)
