"""`down`: end the fleet's services. Sandboxes run on: the next `up` serves them again."""

from __future__ import annotations

import signal

from sandfleet.local import processes
from sandfleet.local.layout import Layout
from sandfleet.local.lock import supervisor_lock
from sandfleet.local.state import FleetState, ServiceKind, read_state

_SUPERVISOR_PATIENCE_S = 150.0
_SERVICE_PATIENCE_S = 40.0


def stop(layout: Layout) -> bool:
    """End the supervisor with its services, or what a killed one left; False when nothing ran."""
    state = read_state(layout)
    if state is None:
        return False
    if state.is_supervised:
        processes.stop(state.supervisor, patience_s=_SUPERVISOR_PATIENCE_S)
        state = read_state(layout) or state
        _stop_leftovers(layout, state)
        return True
    return _stop_leftovers(layout, state)


def _stop_leftovers(layout: Layout, state: FleetState) -> bool:
    alive = [service for service in reversed(state.services) if service.is_alive]
    if not alive:
        return False
    with supervisor_lock(layout):
        for service in alive:
            if service.process is not None:
                ask = signal.SIGINT if service.kind is ServiceKind.POSTGRES else signal.SIGTERM
                processes.stop(service.process, ask=ask, patience_s=_SERVICE_PATIENCE_S)
    return True
