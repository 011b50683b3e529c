"""Which size a sandbox should have by what it uses: larger at once, smaller when it has been quiet for long.

Rule 1: sizes are a ladder: the least, then doubled each time, then the most. No other size is chosen.
Rule 2: it grows as soon as it uses much of what its users may have, to the first step on which it does not.
Rule 3: it shrinks by one step, when it has used little of that step without a break for long enough.
Rule 4: between "much" and "little" nothing happens. After either change the use lies between, so equal use
moves it once and no more.
Rule 5: what was not measured is not little: the quiet time begins anew.
Rule 6: a step is never chosen that leaves less than a margin free, whatever the shares say.

What a guest's kernel and agent keep for themselves is taken to be the same on each step. It is less on
lower ones and more on higher, so what is expected to be free errs to the side that changes less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandfleet.model.organisation import Caps
from sandfleet.model.resources import SizeLimits
from sandfleet.model.scaling import Scaling

FLOOR_MARGIN_MIB = 64
"""Twice what a worker insists on when it makes a guest smaller: it must not refuse what is planned here."""


@dataclass(frozen=True, slots=True)
class AutoscalePolicy:
    """What much is, what little is, and for how long. Shares are of what a guest's users may have."""

    grow_above: float = 0.8
    shrink_below: float = 0.5
    shrink_after_s: float = 300.0
    retry_after_s: float = 60.0
    """How long nothing is tried that was refused."""

    @property
    def fill(self) -> float:
        """How much of its new size a sandbox that grows may use: half-way between much and little."""
        return (self.grow_above + self.shrink_below) / 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which sizes, both allowed."""

    memory_min_mib: int
    memory_max_mib: int


@dataclass(frozen=True, slots=True)
class Use:
    """What the users of a guest have and what they use of it, as the guest measures it."""

    used_mib: int
    allowed_mib: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What is remembered of one sandbox from one look to the next. To lose it costs a quiet time."""

    size_mib: int
    quiet_since: datetime | None = None
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The size to have from now on, None for the one that it has; and why."""

    memory_mib: int | None
    reason: str
    watched: Watched


def bounds_of(scaling: Scaling, limits: SizeLimits, caps: Caps) -> Bounds:
    """Return between which sizes the fleet may choose: the owner's, within what is offered and allowed."""
    most = limits.memory_max_mib
    if scaling.memory_max_mib is not None:
        most = min(most, scaling.memory_max_mib)
    if caps.memory_mib is not None:
        most = min(most, caps.memory_mib // limits.memory_block_mib * limits.memory_block_mib)
    most = max(most, limits.memory_base_mib)
    least = max(scaling.memory_min_mib or limits.memory_base_mib, limits.memory_base_mib)
    return Bounds(min(least, most), most)


def ladder(bounds: Bounds, *, block_mib: int) -> Sequence[int]:
    """Return the sizes that are chosen from, rising."""
    steps = [bounds.memory_min_mib]
    while steps[-1] * 2 < bounds.memory_max_mib:
        steps.append(-(-steps[-1] * 2 // block_mib) * block_mib)
    if steps[-1] < bounds.memory_max_mib:
        steps.append(bounds.memory_max_mib)
    return steps


def decide(
    steps: Sequence[int],
    use: Use | None,
    watched: Watched,
    *,
    policy: AutoscalePolicy,
    now: datetime,
) -> Decision:
    """Decide for one sandbox of `watched.size_mib`, whose use is None when it could not be measured."""
    size_mib = watched.size_mib
    if size_mib < steps[0]:
        return _unless_refused(steps[0], "it has less than the least", watched, now=now)
    if use is None or use.allowed_mib <= 0:
        return Decision(None, "its use is not known", replace(watched, quiet_since=None))
    guest = _Guest(use.used_mib, max(0, size_mib - use.allowed_mib))
    if use.used_mib > policy.grow_above * use.allowed_mib:
        return _grow(steps, guest, watched, policy=policy, now=now)
    return _shrink(steps, guest, watched, policy=policy, now=now)


def refused(watched: Watched, *, policy: AutoscalePolicy, at: datetime) -> Watched:
    """Return what is remembered after a change that was refused."""
    return replace(watched, not_before=at + timedelta(seconds=policy.retry_after_s))


@dataclass(frozen=True, slots=True)
class _Guest:
    used_mib: int
    kept_mib: int

    def allowed_mib(self, step_mib: int) -> int:
        """Return what its users may have on a step."""
        return step_mib - self.kept_mib

    def has_room(self, step_mib: int, share: float) -> bool:
        """Whether it uses no more than that share of a step, and leaves the margin free."""
        allowed_mib = self.allowed_mib(step_mib)
        return self.used_mib <= share * allowed_mib and self.used_mib + FLOOR_MARGIN_MIB <= allowed_mib


def _grow(
    steps: Sequence[int], guest: _Guest, watched: Watched, *, policy: AutoscalePolicy, now: datetime
) -> Decision:
    size_mib = watched.size_mib
    watched = replace(watched, quiet_since=None)
    higher = [step for step in steps if step > size_mib]
    used = f"it uses {guest.used_mib} of {guest.allowed_mib(size_mib)} MiB"
    if not higher:
        return Decision(None, f"{used} and may not become larger", watched)
    fitting = next((step for step in higher if guest.has_room(step, policy.fill)), higher[-1])
    return _unless_refused(fitting, used, watched, now=now)


def _shrink(
    steps: Sequence[int], guest: _Guest, watched: Watched, *, policy: AutoscalePolicy, now: datetime
) -> Decision:
    lower = [step for step in steps if step < watched.size_mib]
    if not lower:
        return Decision(None, "it has the least", replace(watched, quiet_since=None))
    step = lower[-1]
    if not guest.has_room(step, policy.shrink_below):
        return Decision(None, f"it uses {guest.used_mib} MiB", replace(watched, quiet_since=None))
    since = watched.quiet_since or now
    watched = replace(watched, quiet_since=since)
    quiet_s = (now - since).total_seconds()
    if quiet_s < policy.shrink_after_s:
        return Decision(None, f"it uses {guest.used_mib} MiB, for {quiet_s:.0f} s", watched)
    share = f"{policy.shrink_below:.0%} of {guest.allowed_mib(step)} MiB"
    used = f"for {quiet_s:.0f} s it has used no more than {share}, now {guest.used_mib}"
    return _unless_refused(step, used, watched, now=now)


def _unless_refused(step_mib: int, reason: str, watched: Watched, *, now: datetime) -> Decision:
    if watched.not_before is not None and now < watched.not_before:
        return Decision(None, f"{reason}, and a change was refused a moment ago", watched)
    return Decision(step_mib, reason, watched)
