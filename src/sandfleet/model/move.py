"""A live migration under way: what is seen of it, how it may go, and what shall happen next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How the memory of a guest travels."""

    PRECOPY = "precopy"
    """In rounds, while the guest runs here; it stands still for the last one."""
    POST_COPY = "post-copy"
    """The guest stands still, goes on over there at once, and its memory follows it."""
    STANDING = "standing"
    """The guest stands still until all of it is there."""


class Course(StrEnum):
    """What shall happen next."""

    CONTINUE = "continue"
    THROTTLE = "throttle"
    """The guest is slowed down further, so that its writes can be kept up with."""
    SWITCH = "switch"
    """What is left is so little that the guest may stand still for it."""
    POST_COPY = "post-copy"
    ABORT = "abort"
    """The guest stays where it is."""


class Outcome(StrEnum):
    """What a hand-over has come to at the source."""

    HANDED_OVER = "handed-over"
    """The guest stands still here and cannot run by itself any more."""
    STAYED = "stayed"
    """The guest runs here; the target must not."""
    OPEN = "open"
    """Not even QEMU knows yet."""


@dataclass(frozen=True, slots=True)
class MoveGround:
    """What decides by which ways a guest can go: whether its writes are seen, and what the target can do."""

    may_run: bool
    may_post_copy: bool


@dataclass(frozen=True, slots=True)
class MoveSample:
    """How a migration stands at one moment. Rounds begin at 1, the first copies everything."""

    round: int
    elapsed_s: float
    silent_s: float
    """For how long no byte has moved."""
    transferred_bytes: int
    remaining_bytes: int
    dirty_bytes_per_s: int
    bandwidth_bytes_per_s: int
    downtime_ms_expected: float
    throttle_percent: int = 0


@dataclass(frozen=True, slots=True)
class MovePolicy:
    """What is allowed. Deadlines follow progress: none bounds the whole. 0 MiB/s is no limit."""

    downtime_ms_max: int = 300
    silent_s_max: float = 30.0
    rounds_max: int = 24
    may_throttle: bool = True
    throttle_percent_max: int = 80
    may_post_copy: bool = False
    """A guest whose memory follows it is lost when either host is: nobody can call it back."""
    mib_per_s_max: int = 0


@dataclass(frozen=True, slots=True)
class MoveVerdict:
    """What shall happen next, and why, as a sentence for people."""

    course: Course
    reason: str
