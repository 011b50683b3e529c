"""Messages between the processes and what they talk to: late, lost, twice, or without an answer.

A message that was sent lives on without its sender: whoever is cancelled or killed while it
waits does not know whether the work was done, and it may still be done later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sandfleet.model.errors import SandfleetError, StoreUnavailable
from sandfleet.testing.simulation.loop import WORLD, Process, VirtualLoop

T = TypeVar("T")

ATTEMPTS_MAX = 4
_BACKOFF_S = 0.05
_LATE_SHARE = 0.5
"""How often what a dead or cancelled sender had sent is done all the same."""


@dataclass
class Weather:
    """How bad a way is now. Shares are of all messages on it."""

    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    is_down: bool = False


@dataclass
class Network:
    """Carries messages; every decision comes from the seed."""

    loop: VirtualLoop
    dice: random.Random
    is_calm: bool = False
    """Whether all faults are over."""
    sent: int = 0
    failures: list[BaseException] = field(default_factory=list)
    """Errors that no way is meant to carry: defects."""

    def delay_s(self, weather: Weather) -> float:
        """Return how long one message takes."""
        usual = 0.0005 + 0.004 * self.dice.random()
        if not self.is_calm and self.dice.random() < weather.late:
            return usual + 8.0 * self.dice.random() ** 3
        return usual

    def happens(self, share: float) -> bool:
        """Throw the dice; nothing bad happens any more once all is calm."""
        return not self.is_calm and share > 0 and self.dice.random() < share

    def post(
        self, sender: Process | None, weather: Weather, work: Callable[[], Any], *, patience_s: float
    ) -> asyncio.Future[Any]:
        """Send `work` to be done at the other end; TimeoutError when no answer comes."""
        self.sent += 1
        answer = self.loop.create_future()
        if weather.is_down or (sender is not None and sender.is_dead):
            answer.set_exception(ConnectionRefusedError())
            return answer
        is_lost, is_unanswered = self.happens(weather.lost), self.happens(weather.unanswered)
        if is_lost or is_unanswered:
            self.loop.call_later(patience_s, _fail, answer, context=WORLD)
        if not is_lost:
            letter = _Letter(self, sender, answer, work, is_unanswered)
            self.loop.call_later(self.delay_s(weather), letter.arrive, context=WORLD)
            if self.happens(weather.twice):
                again = _Letter(self, sender, self.loop.create_future(), work, is_unanswered=True)
                self.loop.call_later(self.delay_s(weather) + self.dice.random(), again.arrive, context=WORLD)
        return answer


@dataclass(slots=True)
class _Letter:
    network: Network
    sender: Process | None
    answer: asyncio.Future[Any]
    work: Callable[[], Any]
    is_unanswered: bool

    def arrive(self) -> None:
        """Do the work, and answer whoever still waits."""
        is_left = self.answer.cancelled() or (self.sender is not None and self.sender.is_dead)
        if is_left and self.network.dice.random() >= _LATE_SHARE:
            self._reply(
                None, ConnectionResetError()
            )  # what unwinds in a process that was killed waits for it
            return
        try:
            outcome = self.work()
        except Exception as error:  # noqa: BLE001 -- raised where the answer is awaited
            self._reply(None, error)
            return
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(self._done, context=WORLD)
        else:
            self._reply(outcome, None)

    def _done(self, work: asyncio.Future[Any]) -> None:
        if work.cancelled():
            self._reply(None, ConnectionResetError())
        else:
            self._reply(None if work.exception() else work.result(), work.exception())

    def _reply(self, outcome: Any, error: BaseException | None) -> None:
        if self.is_unanswered or self.answer.done():
            return
        if error is None:
            self.answer.set_result(outcome)
            return
        self.answer.set_exception(error)


def _fail(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


class StoreLink:
    """The way of one process to PostgreSQL: repeats what may be repeated, as the real adapter does."""

    def __init__(
        self, network: Network, process: Process, weather: Weather, *, patience_s: float = 2.0
    ) -> None:
        self._network = network
        self._process = process
        self._weather = weather
        self._patience_s = patience_s

    async def call(self, work: Callable[[], T], *, repeatable: bool = False, name: str = "") -> T:
        """Have the transaction run; StoreUnavailable when its outcome is not known."""
        for attempt in range(ATTEMPTS_MAX):
            post = self._network.post(self._process, self._weather, work, patience_s=self._patience_s)
            try:
                result: T = await post
                return result
            except ConnectionRefusedError as error:
                if self._process.is_dead or attempt == ATTEMPTS_MAX - 1:
                    raise StoreUnavailable("PostgreSQL cannot be reached") from error
            except (TimeoutError, OSError) as error:
                if not repeatable or attempt == ATTEMPTS_MAX - 1:
                    raise StoreUnavailable("PostgreSQL cannot be reached") from error
            await asyncio.sleep(_BACKOFF_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


class CacheLink:
    """The way of one process to Redis, which fails quickly."""

    def __init__(
        self, network: Network, process: Process, weather: Weather, *, patience_s: float = 0.5
    ) -> None:
        self._network = network
        self._process = process
        self._weather = weather
        self._patience_s = patience_s

    async def call(self, work: Callable[[], T], *, repeatable: bool = False, name: str = "") -> T:
        """Have it done; StoreUnavailable when Redis does not answer."""
        try:
            post = self._network.post(self._process, self._weather, work, patience_s=self._patience_s)
            result: T = await post
            return result
        except (TimeoutError, OSError) as error:
            raise StoreUnavailable("Redis cannot be reached") from error


Work = Callable[[], Coroutine[Any, Any, T]]
Refusals = SandfleetError
