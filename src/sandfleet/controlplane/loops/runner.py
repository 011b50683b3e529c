"""Runs the loops: each on its own, so that none can starve another.

A loop's tick returns one sentence about what it did; the sentence is logged when it
changes. A tick that fails is logged and tried again at the next interval. A leader's
loop runs only while this replica leads, and gets the term that fences its effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.leadership import Leadership
from sandfleet.model.errors import StaleTerm, StoreUnavailable

TICK_TIMEOUT_S = 60.0
FOLLOWING = "another replica leads"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loop:
    """One concern, looked at every so often. `tick` gets the term, which is 0 without a leader."""

    name: str
    interval_s: float
    tick: Callable[[int], Awaitable[str]]
    for_leader: bool = True
    topic: str | None = None
    """A hint of this topic ends the pause before the next tick."""
    is_due: Callable[[], Awaitable[bool]] | None = None
    """Asked at each hint, about once a second without any: whether the pause of a leader's loop ends."""
    tick_s_max: float = TICK_TIMEOUT_S


class LoopRunner:
    """Runs loops until it is cancelled."""

    def __init__(self, plane: ControlPlane, leadership: Leadership, loops: tuple[Loop, ...]) -> None:
        self._plane = plane
        self._leadership = leadership
        self._loops = loops
        self.sentences: dict[str, str] = {}
        """What each loop said last."""

    async def run(self) -> None:
        """Run them all, each in its own task."""
        async with TaskGroup() as tasks:
            for loop in self._loops:
                tasks.create_task(self._run_one(loop), name=f"loop-{loop.name}")

    async def _run_one(self, loop: Loop) -> None:
        hints = self._plane.wake_ups.subscribe(loop.topic) if loop.topic else None
        while True:
            await self.tick(loop)
            await self._pause(loop, hints)

    async def _pause(self, loop: Loop, hints: AsyncIterator[None] | None) -> None:
        """Wait for the next tick; a new leader's loops do not wait out the pauses of the follower."""
        with suppress(TimeoutError):
            async with asyncio.timeout(loop.interval_s):
                if hints is not None and loop.is_due is not None:
                    await self._due(loop.is_due, hints)
                elif loop.for_leader:
                    await self._leadership.next_election()
                elif hints is not None:
                    await anext(hints)
                else:
                    await asyncio.Event().wait()

    async def _due(self, is_due: Callable[[], Awaitable[bool]], hints: AsyncIterator[None]) -> None:
        """Return when a hint was true, or another leads than before."""
        term = self._leadership.term
        while self._leadership.term == term:
            await anext(hints)
            with suppress(StoreUnavailable):
                if term is not None and await is_due():
                    return

    async def tick(self, loop: Loop) -> str:
        """Run one tick of one loop and return its sentence."""
        sentence = await self._sentence(loop)
        if self.sentences.get(loop.name) != sentence:
            self.sentences[loop.name] = sentence
            log.info("loop", loop=loop.name, did=sentence)
        return sentence

    async def _sentence(self, loop: Loop) -> str:
        term = self._leadership.term if loop.for_leader else 0
        if term is None:
            return FOLLOWING
        try:
            async with asyncio.timeout(loop.tick_s_max):
                return await _tick(loop, term)
        except StaleTerm:
            self._leadership.depose()
            return "a newer leader was elected: I stop leading"
        except StoreUnavailable:
            return "PostgreSQL is away"
        except TimeoutError:
            return f"the tick took longer than {loop.tick_s_max:.0f} s"
        except Exception:
            log.exception("loop_failed", loop=loop.name)
            return "the tick failed"


async def _tick(loop: Loop, term: int) -> str:
    """Run it; of the errors of things that it did at once, the one that says most is raised."""
    try:
        return await loop.tick(term)
    except ExceptionGroup as group:
        for kind in (StaleTerm, StoreUnavailable):
            if (found := _first(group, kind)) is not None:
                raise found from group
        raise


def _first(group: ExceptionGroup[Exception], kind: type[Exception]) -> Exception | None:
    for error in group.exceptions:
        found = _first(error, kind) if isinstance(error, ExceptionGroup) else error
        if isinstance(found, kind):
            return found
    return None
