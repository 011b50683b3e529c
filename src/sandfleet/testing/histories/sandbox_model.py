"""What one sandbox promises to all its clients, as one thing that does one step at a time.

A verb is two steps, for its middle state shows: `hibernate` begins (running to hibernating) and ends
(to hibernated). Both lie between the call and its answer; if the answer said that it goes on, the end
has no bound.

Rule 1: a create under a key makes one sandbox. Who repeats it gets the same id, whatever became of it.
Rule 2: who is answered by a verb has seen it done: whoever asks later finds it done, or what came after it.
Rule 3: a kill that was answered is the end, in every state; nothing brings the sandbox back.
Rule 4: a refused verb changes nothing for good; it may have shown its middle state and come back.
Rule 5: a sandbox is never lost: no step leads to `error`.
Rule 6: a call on what is inside (an exec, a file) may wake a saved sandbox and needs a running one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from sandfleet.testing.histories.linearizability import Step

ABSENT, CREATING, RUNNING = "absent", "creating", "running"
HIBERNATING, HIBERNATED, WAKING = "hibernating", "hibernated", "waking"
STOPPED, FAILED = "stopped", "failed"
TERMINAL = frozenset({STOPPED, FAILED})
ASLEEP = frozenset({HIBERNATING, HIBERNATED})


@dataclass(frozen=True, slots=True)
class SandboxState:
    """Its status, its id once somebody was told, and in a middle state whose verb it is in."""

    status: str = ABSENT
    sandbox_id: str | None = None
    verb: str | None = None


States = Iterable[SandboxState]


def _create_begins(state: SandboxState, step: Step) -> States:
    if state.status == ABSENT:
        return (SandboxState(CREATING, step.answer),)
    return _same_sandbox(state, step)


def _create_ends(state: SandboxState, step: Step) -> States:
    same = _same_sandbox(state, step)
    return tuple(replace(one, status=RUNNING) if one.status == CREATING else one for one in same)


def _create_fails(state: SandboxState, step: Step) -> States:
    return _moved(state, {CREATING: FAILED, FAILED: FAILED, STOPPED: STOPPED})


def _same_sandbox(state: SandboxState, step: Step) -> States:
    if state.status == ABSENT:
        return ()
    if state.sandbox_id is None or step.answer is None:
        return (replace(state, sandbox_id=state.sandbox_id or step.answer),)
    return (state,) if state.sandbox_id == step.answer else ()


def _moved(state: SandboxState, moves: Mapping[str, str]) -> States:
    status = moves.get(state.status)
    return () if status is None else (replace(state, status=status, verb=None),)


def _shows(state: SandboxState, step: Step) -> States:
    return (state,) if state.status == step.answer else ()


def _killed(state: SandboxState, step: Step) -> States:
    if state.status == ABSENT:
        return ()
    return (state if state.status in TERMINAL else replace(state, status=STOPPED, verb=None),)


def _begins(state: SandboxState, step: Step, *, at: str, middle: str) -> States:
    return (replace(state, status=middle, verb=step.origin),) if state.status == at else ()


def _wake_begins(state: SandboxState, step: Step) -> States:
    # A wake that is under way is joined.
    joined = (state,) if state.status in (WAKING, RUNNING) else ()
    return joined or _begins(state, step, at=HIBERNATED, middle=WAKING)


def _comes_back(state: SandboxState, step: Step) -> States:
    """End the verb's middle state, if it ever began one, where it began."""
    back = {HIBERNATING: RUNNING, WAKING: HIBERNATED}
    if state.verb != step.origin:
        return (state,)
    return (replace(state, status=back[state.status], verb=None),)


def _moves(moves: Mapping[str, str]) -> Callable[[SandboxState, Step], States]:
    return lambda state, _step: _moved(state, moves)


def _is_in(statuses: frozenset[str]) -> Callable[[SandboxState, Step], States]:
    return lambda state, _step: (state,) if state.status in statuses else ()


_AFTER: Mapping[str, Callable[[SandboxState, Step], States]] = MappingProxyType(
    {
        "create_begins": _create_begins,
        "create_ends": _create_ends,
        "create_fails": _create_fails,
        "shows": _shows,
        "killed": _killed,
        "hibernate_begins": partial(_begins, at=RUNNING, middle=HIBERNATING),
        "hibernate_ends": _moves({HIBERNATING: HIBERNATED}),
        "wake_begins": _wake_begins,
        # Whoever ends a wake that was joined ends it for all.
        "wake_ends": _moves({WAKING: RUNNING, RUNNING: RUNNING}),
        "comes_back": _comes_back,
        "is_running": _is_in(frozenset({RUNNING})),
        "is_asleep": _is_in(ASLEEP),
        "has_ended": _is_in(TERMINAL),
        "is_unknown": _is_in(frozenset({ABSENT})),
    }
)


class SandboxModel:
    """The sandbox of one idempotency key."""

    initial = SandboxState()

    def after(self, state: SandboxState, step: Step) -> States:
        """Return where `step` leads from `state`."""
        return _AFTER[step.name](state, step)
