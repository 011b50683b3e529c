"""Execs of one sandbox that this process follows.

The guest is the truth: it keeps each exec under its id, and its newest output.
An `Execution` reads along from the start, because the API keeps the *first*
bytes of each stream while the guest's log slides. One id is one execution
however often it is asked for, and it goes on when the client has left.
A finished one is forgotten here as soon as the guest can give all of it again.
"""

from __future__ import annotations

import codecs
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from sandfleet.model.errors import BadRequest
from sandfleet.ports.guest import ExecStatus, Guest
from sandfleet.worker.background import OwnedTask
from sandfleet.worker.budget import Budget

STREAM_BYTES_MAX = 16 * 1024 * 1024
STDOUT, STDERR = 1, 2
_READ_ATTEMPTS = 5
SANDBOX_BYTES_MAX = 64 * 1024 * 1024
"""Output of one sandbox's execs that this process holds at once; what is above is truncated."""
HOST_BYTES_MAX = 1024 * 1024 * 1024
_KEPT_LARGE_MAX = 2
"""How many finished executions with more output than a guest keeps stay in memory, per sandbox."""


class StreamText:
    """The first 16 MiB of one stream as text, decoded as it arrives."""

    def __init__(self, budget: Budget) -> None:
        self._room = STREAM_BYTES_MAX
        self._budget = budget
        self.kept_bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []
        self.is_truncated = False

    def feed(self, data: bytes) -> None:
        """Take what there is room for."""
        kept = data[: self._budget.take(min(len(data), self._room))]
        self.kept_bytes += len(kept)
        # Once something was left out nothing may follow it.
        self._room = 0 if len(kept) < len(data) else self._room - len(kept)
        if len(kept) < len(data):
            self.is_truncated = True
        self._parts.append(self._decoder.decode(kept))

    def text(self, *, final: bool) -> str:
        """Return the text so far; `final` shows a cut last character as a replacement."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        text = self._parts[0] if self._parts else ""
        if final and not self.is_truncated and self._decoder.getstate()[0]:
            return text + "\N{REPLACEMENT CHARACTER}"
        return text


@dataclass(frozen=True, slots=True)
class ExecView:
    """An exec and its output as they stand at one moment."""

    status: ExecStatus
    stdout: str
    stderr: str
    is_truncated: bool


class Execution:
    """One exec, followed to its end."""

    def __init__(self, guest: Guest, status: ExecStatus, *, budget: Budget) -> None:
        self._guest = guest
        self._budget = budget
        self._streams = {STDOUT: StreamText(budget), STDERR: StreamText(budget)}
        self._lost_output = False
        self.status = status
        self.following: OwnedTask[None] | None = None

    async def follow(self) -> None:
        """Read all output, then note how it ended."""
        for _ in range(_READ_ATTEMPTS):
            self._lost_output = self.status.oldest_offset > 0
            try:
                await self._read_from(self.status.oldest_offset)
                break
            except BadRequest:  # the log slid on between the look at the status and the read
                self.status = await self._guest.exec_status(self.status.exec_id)
        self.status = await self._guest.wait_exec(self.status.exec_id)

    async def ended(self, *, timeout_s: float | None = None) -> bool:
        """Wait for the end; raise what following it raised. False after `timeout_s`."""
        following = self._require_followed()
        if timeout_s is not None and not await following.settled(timeout_s=timeout_s):
            return False
        await following.result()
        return True

    def view(self) -> ExecView:
        """Return what is known now."""
        final = not self.status.running
        streams = self._streams
        return ExecView(
            status=self.status,
            stdout=streams[STDOUT].text(final=final),
            stderr=streams[STDERR].text(final=final),
            is_truncated=self._lost_output or any(stream.is_truncated for stream in streams.values()),
        )

    def forget(self) -> None:
        """Count its output no longer: nobody can ask here for it any more."""
        self._budget.give_back(sum(stream.kept_bytes for stream in self._streams.values()))

    @property
    def is_large(self) -> bool:
        """Whether the guest could no longer give all that is kept here."""
        return self.status.oldest_offset > 0

    async def _read_from(self, offset: int) -> None:
        async for piece in self._guest.read_output(self.status.exec_id, offset=offset):
            self._streams[piece.stream].feed(piece.data)

    def _require_followed(self) -> OwnedTask[None]:
        if self.following is None:
            raise RuntimeError("the execution has not been started")
        return self.following


class Executions:
    """The executions of one sandbox, by id."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._followed: dict[str, Execution] = {}
        self._large: OrderedDict[str, Execution] = OrderedDict()
        self._is_over = False

    def __iter__(self) -> Iterator[Execution]:
        return iter(list(self._followed.values()))

    def find(self, exec_id: str) -> Execution | None:
        """Return the execution if this process still holds it."""
        return self._followed.get(exec_id) or self._large.get(exec_id)

    def hold(self, exec_id: str, execution: Execution) -> None:
        """Hold a running execution."""
        self._followed[exec_id] = execution

    def release(self, exec_id: str) -> None:
        """Let go of an ended one, unless only this process has the beginning of its output."""
        execution = self._followed.pop(exec_id, None)
        if execution is None:
            return
        if self._is_over or not execution.is_large:
            execution.forget()
            return
        self._large[exec_id] = execution
        while len(self._large) > _KEPT_LARGE_MAX:
            self._large.popitem(last=False)[1].forget()

    def forget_all(self) -> None:
        """Give everything back: the sandbox is gone."""
        self._is_over = True
        for execution in self._large.values():
            execution.forget()
        self._large.clear()
