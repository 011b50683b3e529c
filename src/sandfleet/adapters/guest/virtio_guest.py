"""The port `Guest` over the unix socket behind a VM's virtio serial port."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.guest.attaching import attached
from sandfleet.adapters.guest.calls import Calls, GuestBounds
from sandfleet.adapters.guest.connection import ConnectionBroken
from sandfleet.adapters.guest.decoding import checked, exec_status, file_entry, guest_stats
from sandfleet.adapters.guest.exec_calls import ExecCalls
from sandfleet.adapters.guest.file_reading import FileReading
from sandfleet.model.errors import BadRequest, GuestUnresponsive, NotAvailable
from sandfleet.ports.clock import Clock
from sandfleet.ports.guest import (
    ExecAttachment,
    ExecOrder,
    ExecOutput,
    ExecPlace,
    ExecStatus,
    FileEntry,
    GuestIdentity,
    GuestStats,
    StdinPlace,
    TerminalSize,
)
from sandfleet.wire.agent_messages import Op


class VirtioGuest:
    """A session that makes its connection when it is first used and again when it broke."""

    def __init__(self, path: Path, *, bounds: GuestBounds | None = None, clock: Clock | None = None) -> None:
        used_clock = clock or SystemClock()
        self._calls = Calls(path, bounds=bounds or GuestBounds(), clock=used_clock)
        self._execs = ExecCalls(self._calls, clock=used_clock)

    async def __aenter__(self) -> VirtioGuest:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ping(self) -> None:
        """Return when the agent has answered."""
        await self._calls.ping()

    async def assume_identity(self, identity: GuestIdentity) -> None:
        """Make this guest a new one."""
        await self._calls.call(_identity_request(Op.IDENTITY, identity))

    async def rehearse(self, identity: GuestIdentity) -> None:
        """Make this guest a new one and nobody again."""
        await self._calls.call(_identity_request(Op.REHEARSAL, identity))

    async def set_clock(self, wall_clock_s: float) -> None:
        """Step the guest's clock."""
        await self._calls.call({"op": Op.CLOCK, "wall_clock_s": wall_clock_s})

    async def set_limits(self, *, memory_mib: int, cpu_percent: int, pids_max: int) -> None:
        """Set the limits of the cgroup that holds all user processes."""
        limits = {"memory_mib": memory_mib, "cpu_percent": cpu_percent, "pids_max": pids_max}
        await self._calls.call({"op": Op.LIMITS, **limits})

    async def grow_disk(self) -> None:
        """Grow the data file system to its block device."""
        await self._calls.call({"op": Op.GROW_DISK})

    async def start_exec(self, order: ExecOrder) -> ExecStatus:
        """Start `order`, or return the status of the exec that already has its id."""
        return await self._execs.start(order)

    async def read_output(self, exec_id: str, *, offset: int = 0) -> AsyncIterator[ExecOutput]:
        """Yield output from `offset` on; after a broken connection go on where it broke."""
        async with contextlib.aclosing(self._execs.output(exec_id, offset=offset)) as pieces:
            async for piece in pieces:
                yield piece

    def attach(self, exec_id: str, place: ExecPlace) -> AbstractAsyncContextManager[ExecAttachment]:
        """Attach to an exec; after a broken connection it goes on where it broke."""
        return attached(self._calls, exec_id, place)

    async def connect_port(self, connection_id: str, port: int) -> None:
        """Connect to a port of the guest, once per id."""
        try:
            await self._calls.call({"op": Op.PORT_CONNECT, "id": connection_id, "port": port})
        except BadRequest as error:  # it knows no such operation: it was built before there was one
            raise NotAvailable("the agent of this guest is too old to connect to its ports") from error

    async def resize_exec(self, exec_id: str, size: TerminalSize) -> None:
        """Set the size of an exec's terminal."""
        await self._calls.call({"op": Op.EXEC_RESIZE, "id": exec_id, "cols": size.cols, "rows": size.rows})

    async def wait_exec(self, exec_id: str, *, timeout_s: float | None = None) -> ExecStatus:
        """Return the status when the exec has ended, or as it is after `timeout_s`."""
        return await self._execs.wait(exec_id, timeout_s=timeout_s)

    async def exec_status(self, exec_id: str) -> ExecStatus:
        """Return how the exec stands; `NotFound` when the guest does not know it."""
        return checked(exec_status, await self._calls.call({"op": Op.EXEC_STATUS, "id": exec_id}))

    async def list_execs(self) -> Sequence[ExecStatus]:
        """Return all execs the guest still knows."""
        fields = await self._calls.call({"op": Op.EXEC_LIST})
        return checked(lambda fields: [exec_status(one) for one in fields.objects("execs")], fields)

    async def write_stdin(
        self, exec_id: str, data: bytes, *, end: bool = False, place: StdinPlace | None = None
    ) -> None:
        """Give bytes to the exec's stdin; repeated after a broken connection only if they have a place."""
        request: dict[str, Any] = {"op": Op.EXEC_STDIN, "id": exec_id, "end": end}
        if place is not None:
            request.update(writer=place.writer, position=place.position)

        async def once() -> None:
            async with self._calls.stream(request) as stream:
                await self._calls.send(stream, data)
                stream.end_input()
                while await self._calls.receive(stream, stall_s=None) is not None:
                    pass

        if place is not None:
            await self._calls.repeat(once)
            return
        try:
            await once()
        except ConnectionBroken as error:
            raise GuestUnresponsive("the connection broke while stdin was sent") from error

    async def kill_exec(self, exec_id: str, *, signal: int = 9) -> None:
        """Signal the process group; signal 9 kills the exec's whole cgroup."""
        await self._calls.call({"op": Op.EXEC_KILL, "id": exec_id, "signal": signal})

    async def stat(self, path: str) -> FileEntry:
        """Return what stands at `path`."""
        return checked(file_entry, await self._calls.call(_on(Op.FILE_STAT, path)))

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Return the entries by name."""
        fields = await self._calls.call(_on(Op.FILE_LIST, path))
        return checked(lambda fields: [file_entry(one) for one in fields.objects("entries")], fields)

    async def make_directory(self, path: str) -> None:
        """Like `mkdir -p`."""
        await self._calls.call(_on(Op.FILE_MKDIR, path))

    async def delete(self, path: str) -> None:
        """Remove `path` and all below it; a missing one is no error."""
        await self._calls.call(_on(Op.FILE_DELETE, path))

    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content. The first `anext` raises what is wrong with `path`."""
        async with contextlib.aclosing(FileReading(self._calls, _on(Op.FILE_READ, path)).chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def write_file(self, path: str, chunks: AsyncIterable[bytes]) -> int:
        """Replace the file by what `chunks` yields; it cannot be repeated, so a break fails it."""
        try:
            async with self._calls.stream(_on(Op.FILE_WRITE, path)) as stream:
                async for chunk in chunks:
                    await self._calls.send(stream, chunk)
                stream.end_input()
                return checked(lambda fields: fields.integer("size"), await self._calls.result_of(stream))
        except ConnectionBroken as error:
            raise GuestUnresponsive("the connection broke during an upload") from error

    async def stats(self) -> GuestStats:
        """Measure."""
        return checked(guest_stats, await self._calls.call({"op": Op.STATS}))

    async def memory_total(self, *, at_least: int, wait_s: float) -> int:
        """Return how much memory the guest can use. An agent that knows no waiting answers at once."""
        request = {"op": Op.STATS, "memory_only": True, "at_least": at_least, "wait_s": wait_s}
        return checked(lambda fields: fields.integer("memory_total"), await self._calls.call(request))

    async def quiesce(self) -> None:
        """Sync and flush everything, then end the connection on both sides."""
        await self._calls.call({"op": Op.QUIESCE})
        self._execs.forget()
        self._calls.disconnect()

    async def shut_down(self) -> None:
        """Ask the guest to power off cleanly."""
        await self._calls.call({"op": Op.SHUT_DOWN})

    async def close(self) -> None:
        """End the session; the guest runs on."""
        self._execs.forget()
        self._calls.close()


def _on(op: str, path: str) -> dict[str, str]:
    if "\0" in path or not path:
        raise BadRequest("a path is not empty and has no NUL byte")
    return {"op": op, "path": path}


def _identity_request(op: str, identity: GuestIdentity) -> dict[str, Any]:
    return {
        "op": op,
        "host_name": identity.host_name,
        "seed": base64.b64encode(identity.seed).decode(),
        "wall_clock_s": identity.wall_clock_s,
        "envs": dict(identity.envs),
        "renew": identity.renew,
        "known": identity.is_known,
    }
