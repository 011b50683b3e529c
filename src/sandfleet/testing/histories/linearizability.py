"""Is there an order of all calls that respects time and that the model allows?

The search follows Wing and Gong with the memory of Lowe: take a call that may come next
(nothing that surely happened had returned before it was sent), step the model, go on; come
back when stuck; never look twice at the same set of calls taken with the same state.

Rule 1: a call that surely happened is taken once, within its window.
Rule 2: a call that may have happened is taken within its window or not at all. Its window is
open towards the end when nobody knows how it went.
Rule 3: a step that repeats, which is never certain, may be taken any number of times in its window.
Rule 4: the search has a bound. One that meets it says so, and has neither accepted nor refused.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
CONFIGURATIONS_MAX = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One atomic step that somebody asked for, and the window in which it happened."""

    name: str
    invoked_at: float
    returned_at: float = math.inf
    answer: str | None = None
    is_certain: bool = True
    repeats: bool = False
    origin: str = ""
    """What it belongs to. Steps of one origin are taken in the order in which they are given."""


class Model(Protocol[S]):
    """A thing that does one step at a time."""

    @property
    def initial(self) -> S:
        """The state before all steps."""
        ...

    def after(self, state: S, step: Step) -> Iterable[S]:
        """Return the states that `step` may lead to from `state`; none if it cannot have happened there."""
        ...


class Verdict(StrEnum):
    """What a search found."""

    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict, and for a violation how far an order came and what could not follow."""

    verdict: Verdict
    configurations: int
    order: tuple[Step, ...]
    blocked: tuple[Step, ...] = ()
    state: Hashable = None


@dataclass(frozen=True, slots=True)
class _Configuration(Generic[S]):
    """The steps taken (a bit each), the state they led to, and the newest beginning among them."""

    taken: int
    state: S
    newest: float
    step: int
    before: _Configuration[S] | None


def check(steps: Iterable[Step], model: Model[S], *, configurations_max: int = CONFIGURATIONS_MAX) -> Finding:
    """Search an order of `steps`; see the rules above."""
    ordered = sorted(steps, key=lambda step: step.invoked_at)
    wanted = sum(1 << index for index, step in enumerate(ordered) if step.is_certain)
    later = _later_of_same_origin(ordered)
    stack = [_Configuration(0, model.initial, -math.inf, -1, None)]
    seen: set[tuple[int, float, S]] = {(0, -math.inf, model.initial)}
    farthest = stack[0]
    while stack:
        here = stack.pop()
        if here.taken & wanted == wanted:
            return Finding(
                verdict=Verdict.LINEARIZABLE, configurations=len(seen), order=_order(here, ordered)
            )
        if here.taken.bit_count() > farthest.taken.bit_count():
            farthest = here
        for following in reversed(_following(here, ordered, later, model)):
            key = (following.taken, following.newest, following.state)
            if key not in seen:
                seen.add(key)
                stack.append(following)
        if len(seen) > configurations_max:
            return _unfinished(Verdict.UNDECIDED, farthest, ordered, len(seen))
    return _unfinished(Verdict.VIOLATED, farthest, ordered, len(seen))


def _following(
    here: _Configuration[S], ordered: Sequence[Step], later: Sequence[int], model: Model[S]
) -> list[_Configuration[S]]:
    return [
        _Configuration(
            here.taken | (0 if step.repeats else 1 << index),
            state,
            max(here.newest, step.invoked_at),
            index,
            here,
        )
        for index, step in _next(here, ordered)
        if not here.taken & later[index]
        for state in model.after(here.state, step)
        # A step that is not certain and changes nothing might as well not have happened.
        if step.is_certain or state != here.state
    ]


def _later_of_same_origin(ordered: Sequence[Step]) -> list[int]:
    """Return for each step the bits of those that must not be taken before it."""
    later = [0] * len(ordered)
    seen: dict[str, int] = {}
    for index in reversed(range(len(ordered))):
        origin = ordered[index].origin
        if origin:
            later[index] = seen.get(origin, 0)
            seen[origin] = later[index] | 1 << index
    return later


def _next(here: _Configuration[S], ordered: Sequence[Step]) -> list[tuple[int, Step]]:
    """Return the steps that may be taken now: nothing certain that is not taken ended before they began."""
    horizon = math.inf
    candidates: list[tuple[int, Step]] = []
    for index, step in enumerate(ordered):
        if here.taken >> index & 1:
            continue
        if step.invoked_at > horizon:
            break
        if step.is_certain:
            horizon = min(horizon, step.returned_at)
        elif step.returned_at < here.newest:
            continue
        candidates.append((index, step))
    return [(index, step) for index, step in candidates if step.invoked_at <= horizon]


def _order(last: _Configuration[S], ordered: Sequence[Step]) -> tuple[Step, ...]:
    taken: list[Step] = []
    here: _Configuration[S] | None = last
    while here is not None and here.before is not None:
        taken.append(ordered[here.step])
        here = here.before
    return tuple(reversed(taken))


def _unfinished(
    verdict: Verdict, farthest: _Configuration[S], ordered: Sequence[Step], configurations: int
) -> Finding:
    return Finding(
        verdict=verdict,
        configurations=configurations,
        order=_order(farthest, ordered),
        blocked=tuple(step for _, step in _next(farthest, ordered) if step.is_certain),
        state=farthest.state,
    )
