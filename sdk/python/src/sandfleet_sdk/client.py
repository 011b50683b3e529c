"""The two clients. Each method is a flow seen through a colour: blocking or awaiting.

with Client() as client:
    sandbox = client.sandboxes.create()
    print(client.commands.run(sandbox.id, "echo hello").stdout)

async with AsyncClient() as client:
    sandbox = await client.sandboxes.create()
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from sandfleet_sdk import (
    attached,
    commands,
    drains,
    files,
    fleet,
    plans,
    previews,
    quotas,
    rollouts,
    sandboxes,
    saved,
    scaling,
    sessions,
)
from sandfleet_sdk.attachments import AsyncAttachment, Attachment, Progress
from sandfleet_sdk.calls import Flow
from sandfleet_sdk.errors import SandfleetError
from sandfleet_sdk.event_feed import follow_events, follow_events_awaiting
from sandfleet_sdk.models import Event
from sandfleet_sdk.retries import RetryPolicy
from sandfleet_sdk.transport import AwaitingTransport, BlockingTransport, Endpoint

P = ParamSpec("P")
T = TypeVar("T")
_URL_VARIABLES = ("SANDFLEET_URL", "OPENCOMPUTER_API_URL")
_KEY_VARIABLES = ("SANDFLEET_API_KEY", "OPENCOMPUTER_API_KEY")


class _Blocking:
    def __init__(self, transport: BlockingTransport) -> None:
        self._transport = transport


class _Awaiting:
    def __init__(self, transport: AwaitingTransport) -> None:
        self._transport = transport


def _blocking(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[_Blocking, P], T]:
    @wraps(flow)
    def method(self: _Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.run(flow(*args, **kwargs))

    return method


def _awaiting(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[_Awaiting, P], Awaitable[T]]:
    @wraps(flow)
    async def method(self: _Awaiting, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transport.run(flow(*args, **kwargs))

    return method


class Sandboxes(_Blocking):
    """Sandboxes: create, look at, end."""

    create = _blocking(sandboxes.create)
    get = _blocking(sandboxes.get)
    list = _blocking(sandboxes.list_sandboxes)
    kill = _blocking(sandboxes.kill)
    set_timeout = _blocking(sandboxes.set_timeout)
    events = _blocking(sandboxes.events)
    placement = _blocking(plans.placement)
    stats = _blocking(attached.stats)
    tags = _blocking(attached.tags)
    set_tags = _blocking(attached.set_tags)
    tag_keys = _blocking(attached.tag_keys)
    refresh_token = _blocking(attached.refresh_token)
    scale = _blocking(attached.scale)
    autoscale = _blocking(scaling.autoscale)
    set_autoscale = _blocking(scaling.set_autoscale)
    scaling_lock = _blocking(scaling.scaling_lock)
    set_scaling_lock = _blocking(scaling.set_scaling_lock)
    migrate = _blocking(attached.migrate)
    migration = _blocking(attached.migration)
    reboot = _blocking(attached.reboot)
    power_cycle = _blocking(attached.power_cycle)
    hibernate = _blocking(saved.hibernate)
    wake = _blocking(saved.wake)
    fork = _blocking(saved.fork)

    def follow_events(self, sandbox_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield the sandbox's log, oldest first, and then what comes; `after` is the id of an event."""
        return follow_events(self._transport, sandbox_id, after=after)


class AsyncSandboxes(_Awaiting):
    """Sandboxes: create, look at, end."""

    create = _awaiting(sandboxes.create)
    get = _awaiting(sandboxes.get)
    list = _awaiting(sandboxes.list_sandboxes)
    kill = _awaiting(sandboxes.kill)
    set_timeout = _awaiting(sandboxes.set_timeout)
    events = _awaiting(sandboxes.events)
    placement = _awaiting(plans.placement)
    stats = _awaiting(attached.stats)
    tags = _awaiting(attached.tags)
    set_tags = _awaiting(attached.set_tags)
    tag_keys = _awaiting(attached.tag_keys)
    refresh_token = _awaiting(attached.refresh_token)
    scale = _awaiting(attached.scale)
    autoscale = _awaiting(scaling.autoscale)
    set_autoscale = _awaiting(scaling.set_autoscale)
    scaling_lock = _awaiting(scaling.scaling_lock)
    set_scaling_lock = _awaiting(scaling.set_scaling_lock)
    migrate = _awaiting(attached.migrate)
    migration = _awaiting(attached.migration)
    reboot = _awaiting(attached.reboot)
    power_cycle = _awaiting(attached.power_cycle)
    hibernate = _awaiting(saved.hibernate)
    wake = _awaiting(saved.wake)
    fork = _awaiting(saved.fork)

    def follow_events(self, sandbox_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the sandbox's log, oldest first, and then what comes; `after` is the id of an event."""
        return follow_events_awaiting(self._transport, sandbox_id, after=after)


class Checkpoints(_Blocking):
    """Kept states of sandboxes."""

    create = _blocking(saved.create_checkpoint)
    list = _blocking(saved.list_checkpoints)
    delete = _blocking(saved.delete_checkpoint)
    restore = _blocking(saved.restore)
    fork = _blocking(saved.create_from_checkpoint)


class AsyncCheckpoints(_Awaiting):
    """Kept states of sandboxes."""

    create = _awaiting(saved.create_checkpoint)
    list = _awaiting(saved.list_checkpoints)
    delete = _awaiting(saved.delete_checkpoint)
    restore = _awaiting(saved.restore)
    fork = _awaiting(saved.create_from_checkpoint)


class Commands(_Blocking):
    """Commands in a sandbox."""

    run = _blocking(commands.run)
    run_async = _blocking(commands.run_async)
    result = _blocking(commands.result)
    stream = _blocking(commands.stream)


class AsyncCommands(_Awaiting):
    """Commands in a sandbox."""

    run = _awaiting(commands.run)
    run_async = _awaiting(commands.run_async)
    result = _awaiting(commands.result)
    stream = _awaiting(commands.stream)


class Sessions(_Blocking):
    """Programs and terminals that one attaches to."""

    start = _blocking(sessions.start)
    start_terminal = _blocking(sessions.start_terminal)
    list = _blocking(sessions.list_sessions)
    get = _blocking(sessions.get)
    get_terminal = _blocking(sessions.get_terminal)
    kill = _blocking(sessions.kill)
    resize = _blocking(sessions.resize)
    end_terminal = _blocking(sessions.end_terminal)

    def attach(self, sandbox_id: str, session_id: str, *, offset: int | None = 0) -> Attachment:
        """Attach to a session at an offset of its output; None: to the newest MiB of it."""
        progress = Progress(sandbox_id, session_id, is_terminal=False, offset=offset)
        return Attachment(self._transport.endpoint, progress)

    def attach_terminal(self, sandbox_id: str, terminal_id: str, *, offset: int | None = None) -> Attachment:
        """Attach to a terminal: to what is new, or at an offset of its output."""
        progress = Progress(sandbox_id, terminal_id, is_terminal=True, offset=offset)
        return Attachment(self._transport.endpoint, progress)


class AsyncSessions(_Awaiting):
    """Programs and terminals that one attaches to."""

    start = _awaiting(sessions.start)
    start_terminal = _awaiting(sessions.start_terminal)
    list = _awaiting(sessions.list_sessions)
    get = _awaiting(sessions.get)
    get_terminal = _awaiting(sessions.get_terminal)
    kill = _awaiting(sessions.kill)
    resize = _awaiting(sessions.resize)
    end_terminal = _awaiting(sessions.end_terminal)

    def attach(self, sandbox_id: str, session_id: str, *, offset: int | None = 0) -> AsyncAttachment:
        """Attach to a session at an offset of its output; None: to the newest MiB of it."""
        progress = Progress(sandbox_id, session_id, is_terminal=False, offset=offset)
        return AsyncAttachment(self._transport.endpoint, progress)

    def attach_terminal(
        self, sandbox_id: str, terminal_id: str, *, offset: int | None = None
    ) -> AsyncAttachment:
        """Attach to a terminal: to what is new, or at an offset of its output."""
        progress = Progress(sandbox_id, terminal_id, is_terminal=True, offset=offset)
        return AsyncAttachment(self._transport.endpoint, progress)


class Files(_Blocking):
    """Files of a sandbox."""

    read = _blocking(files.read)
    download = _blocking(files.download)
    write = _blocking(files.write)
    upload = _blocking(files.upload)
    list = _blocking(files.list_directory)
    make_directory = _blocking(files.make_directory)
    delete = _blocking(files.delete)
    find = _blocking(files.find)
    exists = _blocking(files.exists)
    download_url = _blocking(files.download_url)
    upload_url = _blocking(files.upload_url)


class AsyncFiles(_Awaiting):
    """Files of a sandbox."""

    read = _awaiting(files.read)
    download = _awaiting(files.download)
    write = _awaiting(files.write)
    upload = _awaiting(files.upload)
    list = _awaiting(files.list_directory)
    make_directory = _awaiting(files.make_directory)
    delete = _awaiting(files.delete)
    find = _awaiting(files.find)
    exists = _awaiting(files.exists)
    download_url = _awaiting(files.download_url)
    upload_url = _awaiting(files.upload_url)


class Previews(_Blocking):
    """Guest ports that are seen from outside."""

    create = _blocking(previews.create)
    list = _blocking(previews.list_previews)
    delete = _blocking(previews.delete)
    rotate_token = _blocking(previews.rotate_token)


class AsyncPreviews(_Awaiting):
    """Guest ports that are seen from outside."""

    create = _awaiting(previews.create)
    list = _awaiting(previews.list_previews)
    delete = _awaiting(previews.delete)
    rotate_token = _awaiting(previews.rotate_token)


class Fleet(_Blocking):
    """The fleet itself: health, workers, organisations, keys."""

    readiness = _blocking(fleet.readiness)
    workers = _blocking(fleet.list_workers)
    forget_worker = _blocking(fleet.forget_worker)
    drain_worker = _blocking(drains.begin_drain)
    undrain_worker = _blocking(drains.undo_drain)
    drain = _blocking(drains.show_drain)
    begin_rollout = _blocking(rollouts.begin_rollout)
    list_rollouts = _blocking(rollouts.list_rollouts)
    rollout = _blocking(rollouts.show_rollout)
    cancel_rollout = _blocking(rollouts.cancel_rollout)
    plan = _blocking(plans.plan)
    evict_worker = _blocking(drains.evict)
    organisations = _blocking(fleet.list_organisations)
    organisation = _blocking(quotas.get_organisation)
    create_organisation = _blocking(quotas.create_organisation)
    change_organisation = _blocking(quotas.change_organisation)
    create_key = _blocking(fleet.create_key)
    list_keys = _blocking(fleet.list_keys)
    revoke_key = _blocking(fleet.revoke_key)


class AsyncFleet(_Awaiting):
    """The fleet itself: health, workers, organisations, keys."""

    readiness = _awaiting(fleet.readiness)
    workers = _awaiting(fleet.list_workers)
    forget_worker = _awaiting(fleet.forget_worker)
    drain_worker = _awaiting(drains.begin_drain)
    undrain_worker = _awaiting(drains.undo_drain)
    drain = _awaiting(drains.show_drain)
    begin_rollout = _awaiting(rollouts.begin_rollout)
    list_rollouts = _awaiting(rollouts.list_rollouts)
    rollout = _awaiting(rollouts.show_rollout)
    cancel_rollout = _awaiting(rollouts.cancel_rollout)
    plan = _awaiting(plans.plan)
    evict_worker = _awaiting(drains.evict)
    organisations = _awaiting(fleet.list_organisations)
    organisation = _awaiting(quotas.get_organisation)
    create_organisation = _awaiting(quotas.create_organisation)
    change_organisation = _awaiting(quotas.change_organisation)
    create_key = _awaiting(fleet.create_key)
    list_keys = _awaiting(fleet.list_keys)
    revoke_key = _awaiting(fleet.revoke_key)


class Client:
    """The blocking client. URL and key default to SANDFLEET_URL and SANDFLEET_API_KEY."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, retries: RetryPolicy | None = None
    ) -> None:
        transport = BlockingTransport(_endpoint(url, api_key), retries or RetryPolicy())
        self._transport = transport
        self.sandboxes = Sandboxes(transport)
        self.checkpoints = Checkpoints(transport)
        self.commands = Commands(transport)
        self.sessions = Sessions(transport)
        self.files = Files(transport)
        self.previews = Previews(transport)
        self.fleet = Fleet(transport)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The awaiting client, with the same methods."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, retries: RetryPolicy | None = None
    ) -> None:
        transport = AwaitingTransport(_endpoint(url, api_key), retries or RetryPolicy())
        self._transport = transport
        self.sandboxes = AsyncSandboxes(transport)
        self.checkpoints = AsyncCheckpoints(transport)
        self.commands = AsyncCommands(transport)
        self.sessions = AsyncSessions(transport)
        self.files = AsyncFiles(transport)
        self.previews = AsyncPreviews(transport)
        self.fleet = AsyncFleet(transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _endpoint(url: str | None, api_key: str | None) -> Endpoint:
    return Endpoint(
        url or _from_environment(_URL_VARIABLES, "the server's URL"),
        api_key or _from_environment(_KEY_VARIABLES, "an API key"),
    )


def _from_environment(names: tuple[str, ...], what: str) -> str:
    for name in names:
        if value := os.environ.get(name):
            return value
    raise SandfleetError(f"{what} is missing: pass it, or set {names[0]}")
