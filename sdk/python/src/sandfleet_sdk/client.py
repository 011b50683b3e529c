"""The two clients. Each method is a flow seen through a colour: blocking or awaiting.

with Client() as client:
    sandbox = client.sandboxes.create()
    print(client.commands.run(sandbox.id, "echo hello").stdout)

async with AsyncClient() as client:
    sandbox = await client.sandboxes.create()
"""

from __future__ import annotations

import os
from types import TracebackType

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
from sandfleet_sdk.colours import Awaiting, Blocking, awaiting, awaiting_feed, blocking, blocking_feed
from sandfleet_sdk.errors import SandfleetError
from sandfleet_sdk.event_feed import fleet_feed, sandbox_feed
from sandfleet_sdk.retries import RetryPolicy
from sandfleet_sdk.transport import AwaitingTransport, BlockingTransport, Endpoint

_URL_VARIABLES = ("SANDFLEET_URL", "OPENCOMPUTER_API_URL")
_KEY_VARIABLES = ("SANDFLEET_API_KEY", "OPENCOMPUTER_API_KEY")


class Sandboxes(Blocking):
    """Sandboxes: create, look at, end."""

    create = blocking(sandboxes.create)
    get = blocking(sandboxes.get)
    list = blocking(sandboxes.list_sandboxes)
    kill = blocking(sandboxes.kill)
    set_timeout = blocking(sandboxes.set_timeout)
    events = blocking(sandboxes.events)
    placement = blocking(plans.placement)
    stats = blocking(attached.stats)
    tags = blocking(attached.tags)
    set_tags = blocking(attached.set_tags)
    tag_keys = blocking(attached.tag_keys)
    refresh_token = blocking(attached.refresh_token)
    scale = blocking(attached.scale)
    autoscale = blocking(scaling.autoscale)
    set_autoscale = blocking(scaling.set_autoscale)
    scaling_lock = blocking(scaling.scaling_lock)
    set_scaling_lock = blocking(scaling.set_scaling_lock)
    migrate = blocking(attached.migrate)
    migration = blocking(attached.migration)
    reboot = blocking(attached.reboot)
    power_cycle = blocking(attached.power_cycle)
    hibernate = blocking(saved.hibernate)
    wake = blocking(saved.wake)
    fork = blocking(saved.fork)
    follow_events = blocking_feed(sandbox_feed)


class AsyncSandboxes(Awaiting):
    """Sandboxes: create, look at, end."""

    create = awaiting(sandboxes.create)
    get = awaiting(sandboxes.get)
    list = awaiting(sandboxes.list_sandboxes)
    kill = awaiting(sandboxes.kill)
    set_timeout = awaiting(sandboxes.set_timeout)
    events = awaiting(sandboxes.events)
    placement = awaiting(plans.placement)
    stats = awaiting(attached.stats)
    tags = awaiting(attached.tags)
    set_tags = awaiting(attached.set_tags)
    tag_keys = awaiting(attached.tag_keys)
    refresh_token = awaiting(attached.refresh_token)
    scale = awaiting(attached.scale)
    autoscale = awaiting(scaling.autoscale)
    set_autoscale = awaiting(scaling.set_autoscale)
    scaling_lock = awaiting(scaling.scaling_lock)
    set_scaling_lock = awaiting(scaling.set_scaling_lock)
    migrate = awaiting(attached.migrate)
    migration = awaiting(attached.migration)
    reboot = awaiting(attached.reboot)
    power_cycle = awaiting(attached.power_cycle)
    hibernate = awaiting(saved.hibernate)
    wake = awaiting(saved.wake)
    fork = awaiting(saved.fork)
    follow_events = awaiting_feed(sandbox_feed)


class Checkpoints(Blocking):
    """Kept states of sandboxes."""

    create = blocking(saved.create_checkpoint)
    list = blocking(saved.list_checkpoints)
    delete = blocking(saved.delete_checkpoint)
    restore = blocking(saved.restore)
    fork = blocking(saved.create_from_checkpoint)


class AsyncCheckpoints(Awaiting):
    """Kept states of sandboxes."""

    create = awaiting(saved.create_checkpoint)
    list = awaiting(saved.list_checkpoints)
    delete = awaiting(saved.delete_checkpoint)
    restore = awaiting(saved.restore)
    fork = awaiting(saved.create_from_checkpoint)


class Commands(Blocking):
    """Commands in a sandbox."""

    run = blocking(commands.run)
    run_async = blocking(commands.run_async)
    result = blocking(commands.result)
    stream = blocking(commands.stream)


class AsyncCommands(Awaiting):
    """Commands in a sandbox."""

    run = awaiting(commands.run)
    run_async = awaiting(commands.run_async)
    result = awaiting(commands.result)
    stream = awaiting(commands.stream)


class Sessions(Blocking):
    """Programs and terminals that one attaches to."""

    start = blocking(sessions.start)
    start_terminal = blocking(sessions.start_terminal)
    list = blocking(sessions.list_sessions)
    get = blocking(sessions.get)
    get_terminal = blocking(sessions.get_terminal)
    kill = blocking(sessions.kill)
    resize = blocking(sessions.resize)
    end_terminal = blocking(sessions.end_terminal)

    def attach(self, sandbox_id: str, session_id: str, *, offset: int | None = 0) -> Attachment:
        """Attach to a session at an offset of its output; None: to the newest MiB of it."""
        progress = Progress(sandbox_id, session_id, is_terminal=False, offset=offset)
        return Attachment(self._transport.endpoint, progress)

    def attach_terminal(self, sandbox_id: str, terminal_id: str, *, offset: int | None = None) -> Attachment:
        """Attach to a terminal: to what is new, or at an offset of its output."""
        progress = Progress(sandbox_id, terminal_id, is_terminal=True, offset=offset)
        return Attachment(self._transport.endpoint, progress)


class AsyncSessions(Awaiting):
    """Programs and terminals that one attaches to."""

    start = awaiting(sessions.start)
    start_terminal = awaiting(sessions.start_terminal)
    list = awaiting(sessions.list_sessions)
    get = awaiting(sessions.get)
    get_terminal = awaiting(sessions.get_terminal)
    kill = awaiting(sessions.kill)
    resize = awaiting(sessions.resize)
    end_terminal = awaiting(sessions.end_terminal)

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


class Files(Blocking):
    """Files of a sandbox."""

    read = blocking(files.read)
    download = blocking(files.download)
    write = blocking(files.write)
    upload = blocking(files.upload)
    list = blocking(files.list_directory)
    make_directory = blocking(files.make_directory)
    delete = blocking(files.delete)
    find = blocking(files.find)
    exists = blocking(files.exists)
    download_url = blocking(files.download_url)
    upload_url = blocking(files.upload_url)


class AsyncFiles(Awaiting):
    """Files of a sandbox."""

    read = awaiting(files.read)
    download = awaiting(files.download)
    write = awaiting(files.write)
    upload = awaiting(files.upload)
    list = awaiting(files.list_directory)
    make_directory = awaiting(files.make_directory)
    delete = awaiting(files.delete)
    find = awaiting(files.find)
    exists = awaiting(files.exists)
    download_url = awaiting(files.download_url)
    upload_url = awaiting(files.upload_url)


class Previews(Blocking):
    """Guest ports that are seen from outside."""

    create = blocking(previews.create)
    list = blocking(previews.list_previews)
    delete = blocking(previews.delete)
    rotate_token = blocking(previews.rotate_token)


class AsyncPreviews(Awaiting):
    """Guest ports that are seen from outside."""

    create = awaiting(previews.create)
    list = awaiting(previews.list_previews)
    delete = awaiting(previews.delete)
    rotate_token = awaiting(previews.rotate_token)


class Fleet(Blocking):
    """The fleet itself: health, workers, organisations, keys."""

    readiness = blocking(fleet.readiness)
    workers = blocking(fleet.list_workers)
    forget_worker = blocking(fleet.forget_worker)
    drain_worker = blocking(drains.begin_drain)
    undrain_worker = blocking(drains.undo_drain)
    drain = blocking(drains.show_drain)
    begin_rollout = blocking(rollouts.begin_rollout)
    list_rollouts = blocking(rollouts.list_rollouts)
    rollout = blocking(rollouts.show_rollout)
    cancel_rollout = blocking(rollouts.cancel_rollout)
    plan = blocking(plans.plan)
    events = blocking(fleet.fleet_events)
    follow_events = blocking_feed(fleet_feed)
    evict_worker = blocking(drains.evict)
    organisations = blocking(fleet.list_organisations)
    organisation = blocking(quotas.get_organisation)
    create_organisation = blocking(quotas.create_organisation)
    change_organisation = blocking(quotas.change_organisation)
    create_key = blocking(fleet.create_key)
    list_keys = blocking(fleet.list_keys)
    revoke_key = blocking(fleet.revoke_key)


class AsyncFleet(Awaiting):
    """The fleet itself: health, workers, organisations, keys."""

    readiness = awaiting(fleet.readiness)
    workers = awaiting(fleet.list_workers)
    forget_worker = awaiting(fleet.forget_worker)
    drain_worker = awaiting(drains.begin_drain)
    undrain_worker = awaiting(drains.undo_drain)
    drain = awaiting(drains.show_drain)
    begin_rollout = awaiting(rollouts.begin_rollout)
    list_rollouts = awaiting(rollouts.list_rollouts)
    rollout = awaiting(rollouts.show_rollout)
    cancel_rollout = awaiting(rollouts.cancel_rollout)
    plan = awaiting(plans.plan)
    events = awaiting(fleet.fleet_events)
    follow_events = awaiting_feed(fleet_feed)
    evict_worker = awaiting(drains.evict)
    organisations = awaiting(fleet.list_organisations)
    organisation = awaiting(quotas.get_organisation)
    create_organisation = awaiting(quotas.create_organisation)
    change_organisation = awaiting(quotas.change_organisation)
    create_key = awaiting(fleet.create_key)
    list_keys = awaiting(fleet.list_keys)
    revoke_key = awaiting(fleet.revoke_key)


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
