"""One exec of a fake guest: its log slides as the real one's does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import BadRequest, GuestUnresponsive, OffsetGone, SandfleetError
from sandfleet.ports.clock import Clock
from sandfleet.ports.guest import ExecOrder, ExecOutput, ExecPlace, ExecStatus, StdinPlace, TerminalSize
from sandfleet.testing.fake_programs import FakeProcess, Program, Signalled

RETAINED_BYTES = 16 * 1024 * 1024


@dataclass(eq=False)
class _Reader:
    offset: int


@dataclass(slots=True)
class FakeAttachment:
    """One client of a fake exec (port: `ports.guest.ExecAttachment`)."""

    exec_: FakeExec
    status: ExecStatus
    start: int
    replay_to: int
    reader: _Reader
    acknowledged: int = 0

    async def pieces(self) -> AsyncIterator[ExecOutput]:
        """Yield output until the end."""
        async for piece in self.exec_.read_as(self.reader):
            yield piece

    async def leave(self) -> None:
        """Hold the process up no longer."""
        await self.exec_.forget(self.reader)

    def acknowledge(self, offset: int) -> None:
        """Remember it."""
        self.acknowledged = max(self.acknowledged, offset)


class FakeExec:
    """Runs a program and keeps its newest output; readers that follow hold it back."""

    def __init__(self, order: ExecOrder, clock: Clock, *, retained_bytes: int = RETAINED_BYTES) -> None:
        self.order = order
        self._clock = clock
        self._retained_bytes = retained_bytes
        self._log: list[ExecOutput] = []
        self._written = 0
        self._oldest = 0
        self._readers: list[_Reader] = []
        self._changed = asyncio.Condition()
        self._started_at_s = clock.now().timestamp()
        self._ended_at_s: float | None = None
        self._exit_code: int | None = None
        self._signal: int | None = None
        self._timed_out = False
        self._is_lost = False
        self.stdin: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        self.sizes: list[TerminalSize] = [] if order.terminal is None else [order.terminal]
        self.was_attached = False
        self._writers: dict[str, int] = {}
        self.refusal: SandfleetError | None = None
        self._killed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._exit_code is None

    async def run(self, program: Program, envs: dict[str, str]) -> None:
        """Run to the end, the time-out or the kill."""
        process = FakeProcess(
            argv=self.order.argv,
            envs={**envs, **self.order.envs},
            cwd=self.order.cwd or "/home/sandbox",
            clock=self._clock,
            write=self._write,
            stdin=self.stdin,
        )
        if not self.order.stdin:
            self.stdin.put_nowait(b"")
        try:
            async with TaskGroup() as group:
                racers = [
                    group.create_task(self._program(program, process)),
                    group.create_task(self._time_out()),
                    group.create_task(self._await_kill()),
                ]
                await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
                for racer in racers:
                    racer.cancel()
        finally:
            await self._note_end()

    def kill(self, number: int) -> None:
        """End it by a signal."""
        if not self._killed.done():
            self._killed.set_result(number)

    async def lose(self) -> None:
        """The VM has gone: whoever waits hears it."""
        self._is_lost = True
        async with self._changed:
            self._changed.notify_all()

    def status(self) -> ExecStatus:
        """Return how it stands."""
        return ExecStatus(
            exec_id=self.order.exec_id,
            argv=self.order.argv,
            running=self.is_running,
            exit_code=self._exit_code,
            signal=self._signal,
            timed_out=self._timed_out,
            started_at_s=self._started_at_s,
            ended_at_s=self._ended_at_s,
            output_bytes=self._written,
            oldest_offset=self._oldest,
            has_terminal=self.order.terminal is not None,
            linger_s=self.order.linger_s,
            was_attached=self.was_attached,
            is_session=self.order.is_session,
        )

    def attach(self, place: ExecPlace) -> FakeAttachment:
        """Return a client's view."""
        back = place.scrollback_bytes if self.was_attached else place.first_scrollback_bytes
        start = max(self._oldest, self._written - back) if place.offset is None else place.offset
        self._require_kept(start)
        reader = _Reader(start)
        self._readers.append(reader)
        attachment = FakeAttachment(self, self.status(), start, max(start, self._written), reader)
        self.was_attached = True
        return attachment

    async def take_stdin(self, data: bytes, *, end: bool, place: StdinPlace | None) -> None:
        """Take what was not taken before."""
        if place is not None:
            taken = self._writers.get(place.writer, 0)
            if place.position > taken:
                raise BadRequest("stdin is missing")
            data = data[taken - place.position :]
            self._writers[place.writer] = taken + len(data)
        if data:
            await self.stdin.put(data)
        if end and self.order.terminal is None:
            await self.stdin.put(b"")

    async def forget(self, reader: _Reader) -> None:
        """Take a reader's place away; whoever waited for it goes on."""
        if reader in self._readers:
            self._readers.remove(reader)
        async with self._changed:
            self._changed.notify_all()

    async def read(self, offset: int) -> AsyncIterator[ExecOutput]:
        """Yield output from `offset` on until the end."""
        self._require_kept(offset)
        reader = _Reader(offset)
        self._readers.append(reader)
        async for piece in self.read_as(reader):
            yield piece

    async def read_as(self, reader: _Reader) -> AsyncIterator[ExecOutput]:
        """Yield output from where the reader stands until the end."""
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(
                        lambda: reader.offset < self._written or not self.is_running or self._is_lost
                    )
                if self._is_lost:
                    raise GuestUnresponsive("agent unresponsive: the VM has gone")
                if reader.offset == self._written:
                    return
                piece = self._piece_at(reader.offset)
                reader.offset += len(piece.data)
                yield piece
                async with self._changed:
                    self._changed.notify_all()
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    async def ended(self) -> None:
        """Wait for the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.is_running or self._is_lost)
        if self._is_lost:
            raise GuestUnresponsive("agent unresponsive: the VM has gone")

    def _require_kept(self, offset: int) -> None:
        if not self._oldest <= offset <= self._written:
            details = {"oldest": self._oldest, "newest": self._written}
            raise OffsetGone(f"offset {offset} is not kept", details=details)

    def _piece_at(self, offset: int) -> ExecOutput:
        piece = next(piece for piece in self._log if piece.offset + len(piece.data) > offset)
        skipped = offset - piece.offset
        return ExecOutput(stream=piece.stream, offset=offset, data=piece.data[skipped:])

    async def _write(self, stream: int, data: bytes) -> None:
        for start in range(0, len(data), 65536):
            part = data[start : start + 65536]
            async with self._changed:
                await self._changed.wait_for(lambda: self._has_room(len(part)))  # noqa: B023 -- awaited here
                self._log.append(ExecOutput(stream=stream, offset=self._written, data=part))
                self._written += len(part)
                self._slide()
                self._changed.notify_all()

    def _has_room(self, count: int) -> bool:
        return all(self._written + count - reader.offset <= self._retained_bytes for reader in self._readers)

    def _slide(self) -> None:
        while self._written - self._oldest > self._retained_bytes:
            self._oldest += len(self._log.pop(0).data)

    async def _program(self, program: Program, process: FakeProcess) -> None:
        try:
            self._exit_now(await program(process))
        except Signalled as ended:
            self._exit_now(-1, signal=ended.number)
        except SandfleetError as refusal:
            self.refusal = refusal
            self._exit_now(127)

    async def _time_out(self) -> None:
        if self.order.timeout_s is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._clock.sleep(self.order.timeout_s)
            self._timed_out = self._exit_code is None
            self._exit_now(-1, signal=9)

    async def _await_kill(self) -> None:
        self._exit_now(-1, signal=await self._killed)

    def _exit_now(self, code: int, *, signal: int | None = None) -> None:
        if self._exit_code is None:
            self._exit_code, self._signal = code, signal
            self._ended_at_s = self._clock.now().timestamp()

    async def _note_end(self) -> None:
        self._exit_now(-1, signal=9)
        async with self._changed:
            self._changed.notify_all()
