"""The lifecycle table, state by state and event by event."""

from __future__ import annotations

import itertools

import pytest

from sandfleet.lifecycle.sandbox import TRANSITIONS, SandboxEvent, advance, place
from sandfleet.model.errors import IllegalTransition
from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import TERMINAL_STATES, SandboxState
from sandfleet.testing.builders import NOON, a_sandbox

S, E = SandboxState, SandboxEvent
LEGAL = {
    (S.CREATING, E.BOOTED): S.RUNNING,
    (S.CREATING, E.CREATE_FAILED): S.FAILED,
    (S.CREATING, E.KILL_REQUESTED): S.STOPPED,
    (S.RUNNING, E.IDLE_EXPIRED): S.HIBERNATING,
    (S.RUNNING, E.KILL_REQUESTED): S.STOPPED,
    (S.RUNNING, E.LOST): S.ERROR,
    (S.RUNNING, E.RECOVER): S.WAKING,
    (S.HIBERNATING, E.EXPIRY_REFUSED): S.RUNNING,
    (S.HIBERNATING, E.EXPIRED): S.STOPPED,
    (S.HIBERNATING, E.KILL_REQUESTED): S.STOPPED,
    (S.HIBERNATING, E.LOST): S.ERROR,
    (S.HIBERNATING, E.RECOVER): S.WAKING,
    (S.RUNNING, E.HIBERNATE_REQUESTED): S.HIBERNATING,
    (S.HIBERNATING, E.HIBERNATE_FAILED): S.RUNNING,
    (S.HIBERNATING, E.SAVED): S.HIBERNATED,
    (S.HIBERNATED, E.WAKE_REQUESTED): S.WAKING,
    (S.HIBERNATED, E.KILL_REQUESTED): S.STOPPED,
    (S.WAKING, E.WOKEN): S.RUNNING,
    (S.WAKING, E.WAKE_FAILED): S.HIBERNATED,
    (S.WAKING, E.KILL_REQUESTED): S.STOPPED,
    (S.WAKING, E.LOST): S.ERROR,
    (S.RUNNING, E.RESTORE_REQUESTED): S.RESTORING,
    (S.RESTORING, E.RESTORED): S.RUNNING,
    (S.RESTORING, E.RESTORE_FAILED): S.RUNNING,
    (S.RESTORING, E.KILL_REQUESTED): S.STOPPED,
    (S.RESTORING, E.LOST): S.ERROR,
    (S.RUNNING, E.REBOOT_REQUESTED): S.REBOOTING,
    (S.REBOOTING, E.REBOOTED): S.RUNNING,
    (S.REBOOTING, E.REBOOT_FAILED): S.RUNNING,
    (S.REBOOTING, E.KILL_REQUESTED): S.STOPPED,
    (S.REBOOTING, E.LOST): S.ERROR,
    (S.RUNNING, E.MIGRATE_REQUESTED): S.MIGRATING,
    (S.MIGRATING, E.MIGRATED): S.RUNNING,
    (S.MIGRATING, E.MIGRATE_FAILED): S.RUNNING,
    (S.MIGRATING, E.KILL_REQUESTED): S.STOPPED,
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SandboxState, SandboxEvent)))
def test_every_state_and_event(state: SandboxState, event: SandboxEvent) -> None:
    sandbox = a_sandbox(state=state, version=7, epoch=3)
    if (state, event) not in LEGAL:
        with pytest.raises(IllegalTransition, match=f"is {state}: {event} is not possible"):
            advance(sandbox, event, at=NOON)
        return
    after = advance(sandbox, event, at=NOON)
    assert (after.state, after.version, after.epoch) == (LEGAL[state, event], 8, 3)


def test_nothing_leaves_a_terminal_state_and_a_kill_is_legal_in_all_others() -> None:
    for state, moves in TRANSITIONS.items():
        assert (state in TERMINAL_STATES) == (not moves)
        assert (E.KILL_REQUESTED in moves) == (state not in TERMINAL_STATES)


def test_a_new_owner_is_a_new_epoch_and_a_new_version() -> None:
    placed = place(a_sandbox(version=2, epoch=4), WorkerId("wk-new"), at=NOON)
    assert (placed.worker_id, placed.epoch, placed.version) == ("wk-new", 5, 3)
