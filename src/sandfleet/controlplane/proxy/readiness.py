"""Where a sandbox is served, waiting until it is.

Rule 1: the shared route is trusted for the organisation's check and the address only;
the worker's epoch check and the row decide when the two disagree.
Rule 2: waiting is woken by hints and always reads the row.
Rule 3: whoever waits for a sandbox that is hibernated has it woken.
"""

from __future__ import annotations

import asyncio

from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.controlplane.proxy.waking import awaken
from sandfleet.model.errors import Gone, NotFound, NotReady
from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import SERVED_STATES, Sandbox, SandboxState
from sandfleet.ports.coordination import Route

RETRY_AFTER_S = 2
_ID_LENGTH = 29


async def find_sandbox(edge: Edge, organisation_id: OrganisationId, sandbox_id: str) -> Sandbox:
    """Return the row; the same NotFound for what never was and for what is another organisation's."""
    if not is_sandbox_id(sandbox_id):
        raise unknown_sandbox()
    try:
        return await edge.plane.stores.sandboxes.get(organisation_id, SandboxId(sandbox_id))
    except NotFound as error:
        raise unknown_sandbox() from error


async def find_any_sandbox(edge: Edge, sandbox_id: str) -> Sandbox:
    """Return the row, whichever organisation's it is: for the fleet's own verbs, and for signed URLs."""
    if not is_sandbox_id(sandbox_id):
        raise unknown_sandbox()
    try:
        return await edge.plane.stores.sandboxes.get_any(SandboxId(sandbox_id))
    except NotFound as error:
        raise unknown_sandbox() from error


def is_sandbox_id(text: str) -> bool:
    """Whether the text has the form of a sandbox id; nothing else is ever asked of the store."""
    body = text[3:]
    return len(text) == _ID_LENGTH and text.startswith("sb-") and body.isascii() and body.isalnum()


def unknown_sandbox() -> NotFound:
    """Return the one error for a sandbox that is not there for this caller."""
    return NotFound("sandbox not found")


def gone(sandbox: Sandbox) -> Gone:
    """Return the error of a sandbox that has ended."""
    if sandbox.state is SandboxState.STOPPED:
        return Gone(f"sandbox {sandbox.id} has been stopped")
    return Gone(f"sandbox {sandbox.id} is gone: {sandbox.error_message or sandbox.state}")


async def locate(edge: Edge, organisation_id: OrganisationId, sandbox_id: str) -> Route | Sandbox:
    """Return the route, or the row of a sandbox that is not ready yet; NotFound or Gone."""
    if not is_sandbox_id(sandbox_id):
        raise unknown_sandbox()
    route = await edge.plane.routes.get(SandboxId(sandbox_id))
    if route is None:
        return await locate_by_row(edge, organisation_id, sandbox_id)
    if route.organisation_id != organisation_id:
        raise unknown_sandbox()
    return route


async def locate_by_row(edge: Edge, organisation_id: OrganisationId, sandbox_id: str) -> Route | Sandbox:
    """Return what the row says, and remember the route."""
    sandbox = await find_sandbox(edge, organisation_id, sandbox_id)
    if sandbox.is_terminal:
        raise gone(sandbox)
    if sandbox.state not in SERVED_STATES or sandbox.worker_id is None:
        return sandbox
    worker = await edge.plane.stores.workers.get(sandbox.worker_id)
    route = Route(
        sandbox_id=sandbox.id,
        organisation_id=sandbox.organisation_id,
        worker_id=worker.id,
        worker_url=worker.http_url,
        epoch=sandbox.epoch,
    )
    await edge.plane.routes.put(route)
    return route


async def wait_until_ready(edge: Edge, sandbox: Sandbox, *, seconds: float) -> Route:
    """Return the route when there is one; NotReady after `seconds`, Gone when it ends."""
    clock = edge.plane.clock
    began = clock.monotonic()
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return await _next_route(edge, sandbox)
    except TimeoutError as error:
        raise NotReady("sandbox is not ready yet", retry_after_s=RETRY_AFTER_S) from error
    finally:
        edge.metrics.data_plane_wait_seconds.labels(sandbox.state.value).observe(clock.monotonic() - began)


async def _next_route(edge: Edge, sandbox: Sandbox) -> Route:
    hints = edge.plane.wake_ups.subscribe(sandbox_topic(sandbox.id))
    located = await locate_by_row(edge, sandbox.organisation_id, sandbox.id)
    wake: Operation | None = None
    while not isinstance(located, Route):
        if edge.drain.is_hurried:
            raise shutting_down()
        wake = await awaken(edge, located, wake)
        await anext(hints)
        located = await locate_by_row(edge, sandbox.organisation_id, sandbox.id)
    return located
