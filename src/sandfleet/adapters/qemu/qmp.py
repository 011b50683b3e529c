"""QEMU's machine protocol with a bound on every wait, and its errors as ours."""

from __future__ import annotations

import array
import asyncio
import logging
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate

from sandfleet.adapters.awake import awake_timeout
from sandfleet.model.errors import HypervisorFailed

COMMAND_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 25.0
"""A QEMU that has ended is noticed at once; one of 200 that come up together on two cores takes its time."""
LAST_WORDS_S = 1.0
"""A monitor that QEMU has closed is read to its end within milliseconds."""
LOOK_S = 0.25
"""How often a QEMU from which an event is awaited is looked after."""
TRANSIENT = ("not finalized yet",)
"""What QEMU says while the end of a migration is being put away: the same command works shortly after."""

FDSET = "/dev/fdset/"
_RETRIES_MAX = 40
_RETRY_PAUSE_S = 0.025

# The library logs an error whenever QEMU ends before its monitor is closed; here that is how machines end.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Qmp:
    """One session with one QEMU. QEMU serves one session at a time."""

    def __init__(self, client: QMPClient, channel: socket.socket) -> None:
        self._client = client
        self._channel = channel
        self._shutdowns = EventListener(("SHUTDOWN",))
        client.register_listener(self._shutdowns)

    @classmethod
    async def connect(cls, path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Qmp:
        """Connect and negotiate."""
        client = QMPClient(path.parent.name)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.setblocking(False)
        # Kept beside the library's own: descriptors are sent on it, which event loops do not offer.
        own = channel.dup()
        try:
            async with awake_timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(channel, str(path))
                await client.connect(channel)
        except BaseException as error:
            channel.close()
            own.close()
            await _disconnect(client)
            if not isinstance(error, QMPError | OSError | EOFError | TimeoutError):
                raise
            raise HypervisorFailed(f"QEMU's monitor {path} does not answer: {error!r}") from error
        return cls(client, own)

    async def give(self, *descriptors: int) -> str:
        """Hand open files over; return the one path by which QEMU opens whichever has the wanted mode."""
        number: int | None = None
        for descriptor in descriptors:
            self._send(descriptor)
            chosen = {} if number is None else {"fdset-id": number}
            number = int((await self.execute("add-fd", chosen))["fdset-id"])
        return f"{FDSET}{number}"

    async def give_directory(self, descriptor: int, *, opaque: str) -> str:
        """Hand an open directory over under a name of ours; return its path inside QEMU."""
        self._send(descriptor)
        given = await self.execute("add-fd", {"opaque": opaque})
        return f"/proc/self/fd/{given['fd']}"

    async def give_socket(self, descriptor: int, *, name: str) -> None:
        """Hand a socket over, by the name under which one command of QEMU then takes it."""
        self._send(descriptor)
        await self.execute("getfd", {"fdname": name})

    async def take_back_named(self, opaque: str) -> None:
        """Have QEMU close every descriptor that was given under that name."""
        for fdset in await self.execute("query-fdsets"):
            if any(one.get("opaque") == opaque for one in fdset["fds"]):
                await self.execute("remove-fd", {"fdset-id": fdset["fdset-id"]})

    async def files_of(self, nodes: Collection[str]) -> dict[str, str]:
        """Return by which path QEMU has opened each of these block nodes, as far as there are such."""
        known = await self.execute("query-named-block-nodes", {"flat": True})
        return {one["node-name"]: str(one["file"]) for one in known if one.get("node-name") in nodes}

    async def take_back(self, path: str) -> None:
        """Have QEMU close what was handed over under `path`, once it no longer uses it."""
        await self.execute("remove-fd", {"fdset-id": int(path.rpartition("/")[2])})

    def _send(self, descriptor: int) -> None:
        try:
            self._channel.sendmsg(
                [b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            )
        except OSError as error:
            raise HypervisorFailed(f"QEMU does not take a descriptor: {error}") from error

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        is_urgent: bool = False,
    ) -> Any:
        """Run one command and return its result. A late reply is dropped by its id.

        An urgent one is taken by QEMU even while another holds it up, as far as it knows it for such.
        """
        try:
            async with awake_timeout(timeout_s):
                return await self._client.execute(
                    command, dict(arguments) if arguments else None, oob=is_urgent
                )
        except ExecuteError as error:
            raise QmpRefused(f"QEMU refused {command}: {error}") from error
        except TimeoutError:  # before OSError, of which it is one
            raise HypervisorFailed(f"QEMU did not answer {command} within {timeout_s:g} s") from None
        except (QMPError, OSError, EOFError) as error:
            raise HypervisorFailed(f"QEMU ended during {command}: {error!r}") from error

    async def execute_when_ready(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command, again and again while QEMU says that a migration is not put away yet."""
        for _ in range(_RETRIES_MAX):
            try:
                return await self.execute(command, arguments)
            except QmpRefused as error:
                if not any(words in error.message for words in TRANSIENT):
                    raise
            await asyncio.sleep(_RETRY_PAUSE_S)
        raise HypervisorFailed(f"QEMU is still not ready for {command}")

    def listen(self, *names: str) -> AbstractContextManager[EventListener]:
        """Return a scope in which the named events are collected; enter it before causing them."""
        return self._client.listener(names)

    async def next_event(self, listener: EventListener, *, timeout_s: float, awaited: str) -> Message:
        """Return the next event of `listener`; fail as soon as QEMU has ended, which no listener is told."""
        with suppress(TimeoutError):
            async with awake_timeout(timeout_s):
                while (event := await event_or_pause(listener, LOOK_S)) is None:
                    if self._client.runstate is not Runstate.RUNNING:
                        raise HypervisorFailed(f"QEMU ended before it reported {awaited}")
                return event
        raise HypervisorFailed(f"QEMU did not report {awaited} within {timeout_s:g} s")

    async def shutdown_cause(self) -> str | None:
        """Return why a QEMU that has ended did so, if it said so (`guest-reset`, `guest-shutdown`, …).

        Its end may be noticed before its last words are read: they are read to their end first.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()
        for event in self._shutdowns.history:
            data = event.get("data")
            if isinstance(data, dict):
                return str(data.get("reason", "shutdown"))
        return None

    async def close(self) -> None:
        """End the session; the machine runs on. Idempotent."""
        await _disconnect(self._client)
        self._channel.close()


class QmpRefused(HypervisorFailed):
    """QEMU answered a command with an error."""


async def next_event(listener: EventListener, *, timeout_s: float, awaited: str) -> Message:
    """Return the next event of `listener`."""
    try:
        async with awake_timeout(timeout_s):
            return await listener.get()
    except TimeoutError:
        raise HypervisorFailed(f"QEMU did not report {awaited} within {timeout_s:g} s") from None
    except QMPError as error:
        raise HypervisorFailed(f"QEMU ended before it reported {awaited}") from error


async def event_or_pause(listener: EventListener, pause_s: float) -> Message | None:
    """Return the next event, or None when there was none within `pause_s`."""
    try:
        async with asyncio.timeout(pause_s):
            return await listener.get()
    except TimeoutError:
        return None
    except QMPError as error:
        raise HypervisorFailed("QEMU ended while an event was awaited") from error


async def set_capabilities(qmp: Qmp, enabled: Sequence[str]) -> None:
    """Set every migration capability that we know of, so that nothing of an earlier migration is left."""
    states = [{"capability": name, "state": name in enabled} for name in _CAPABILITIES]
    await qmp.execute("migrate-set-capabilities", {"capabilities": states})


_CAPABILITIES = (
    "auto-converge",
    "background-snapshot",
    "events",
    "late-block-activate",
    "mapped-ram",
    "multifd",
    "pause-before-switchover",
    "postcopy-preempt",
    "postcopy-ram",
    "release-ram",
    "return-path",
    "x-ignore-shared",
    "xbzrle",
)


async def _disconnect(client: QMPClient) -> None:
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            await client.disconnect()
    except (QMPError, OSError, EOFError, TimeoutError):
        return  # QEMU had gone first: there is nothing left to end.
