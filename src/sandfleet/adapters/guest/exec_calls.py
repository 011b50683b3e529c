"""Starting, reading and awaiting execs: what a short command needs is one exchange with its guest.

A start opens the output along with it. Who then reads from the beginning finds it
there, and who waits after reading to the end already has the final status. The
guest does not count such a reader before it takes something, so an unread one
holds up nothing; here the number of them is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any

from sandfleet.adapters.guest.calls import ATTEMPTS_MAX, Calls
from sandfleet.adapters.guest.connection import ConnectionBroken, HostStream
from sandfleet.adapters.guest.decoding import checked, exec_status
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.clock import Clock
from sandfleet.ports.guest import ExecOrder, ExecOutput, ExecStatus
from sandfleet.wire.agent_messages import EXEC_WAIT_S_MAX, Fields, Op, decode_json, decode_output

FOLLOWED_MAX = 16
ENDED_MAX = 256


class ExecCalls:
    """The execs of one guest."""

    def __init__(self, calls: Calls, *, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._followed: OrderedDict[str, HostStream] = OrderedDict()
        self._ended: OrderedDict[str, ExecStatus] = OrderedDict()

    async def start(self, order: ExecOrder) -> ExecStatus:
        """Start an exec, or return the status of the one that has its id."""
        request = _start_request(order)
        if order.is_session:
            return checked(exec_status, await self._calls.call(request))

        async def once() -> ExecStatus:
            with ExitStack() as undo:
                stream = await self._calls.open(request)
                undo.callback(stream.drop)
                stream.end_input()
                head = await self._calls.receive(stream, stall_s=self._calls.bounds.operation_s)
                if head is None:  # its beginning is no longer kept
                    return checked(exec_status, Fields(stream.result or {}))
                status = checked(lambda data: exec_status(Fields(decode_json(data))), head)
                undo.pop_all()
                self._remember(order.exec_id, stream)
                return status

        return await self._calls.repeat(once)

    async def output(self, exec_id: str, *, offset: int) -> AsyncGenerator[ExecOutput, None]:
        """Yield output from `offset` to the end."""
        failures = 0
        while failures < ATTEMPTS_MAX:
            try:
                with ExitStack() as undo:
                    stream = await self._reading(exec_id, offset=offset)
                    undo.callback(stream.drop)
                    while (data := await self._calls.receive(stream, stall_s=None)) is not None:
                        kind, at, output = checked(decode_output, data)
                        if at != offset:
                            raise GuestUnresponsive("the guest sent output out of order")
                        offset += len(output)
                        failures = 0
                        yield ExecOutput(kind, at, output)
                    self._on_end(exec_id, checked(exec_status, Fields(stream.result or {})))
                    return
            except ConnectionBroken:
                failures += 1
        raise GuestUnresponsive("the connection to the guest breaks again and again")

    async def wait(self, exec_id: str, *, timeout_s: float | None) -> ExecStatus:
        """Return the status at the end, or as it is after `timeout_s`."""
        ended = self._ended.pop(exec_id, None)
        if ended is not None:
            return ended
        started = self._clock.monotonic()
        while True:
            wait_s = min(EXEC_WAIT_S_MAX, self._calls.bounds.operation_s / 2)
            is_last = False
            if timeout_s is not None:
                left_s = timeout_s - (self._clock.monotonic() - started)
                is_last = left_s <= wait_s
                wait_s = max(0.0, min(left_s, wait_s))
            fields = await self._calls.call({"op": Op.EXEC_WAIT, "id": exec_id, "timeout_s": wait_s})
            status = checked(exec_status, fields)
            if is_last or not status.running:
                return status

    def forget(self) -> None:
        """Give up what was opened in advance."""
        while self._followed:
            self._followed.popitem()[1].drop()

    async def _reading(self, exec_id: str, *, offset: int) -> HostStream:
        """Return a stream of output from `offset`: the one that came with the start, or a new one."""
        followed = self._followed.pop(exec_id, None) if offset == 0 else None
        if followed is not None and not followed.has_failed:
            return followed
        stream = await self._calls.open({"op": Op.EXEC_READ, "id": exec_id, "offset": offset})
        stream.end_input()
        return stream

    def _remember(self, exec_id: str, stream: HostStream) -> None:
        before = self._followed.pop(exec_id, None)
        if before is not None:
            before.drop()
        self._followed[exec_id] = stream
        if len(self._followed) > FOLLOWED_MAX:
            self._followed.popitem(last=False)[1].drop()

    def _on_end(self, exec_id: str, status: ExecStatus) -> None:
        self._ended[exec_id] = status
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)


def _start_request(order: ExecOrder) -> dict[str, Any]:
    request = {
        "op": Op.EXEC_START,
        "id": order.exec_id,
        "argv": list(order.argv),
        "envs": dict(order.envs),
        "cwd": order.cwd,
        "timeout_s": order.timeout_s,
        "user": order.user,
        "stdin": order.stdin,
        "follow": not order.is_session,
        "linger_s": order.linger_s,
        "session": order.is_session,
    }
    if order.terminal is not None:
        request.update(cols=order.terminal.cols, rows=order.terminal.rows)
    return request
