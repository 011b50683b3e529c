"""Runs seeds: randomness from the seed, logs into the trace, and a report for people."""

from __future__ import annotations

import gc
import logging
import random
import secrets
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from sandfleet.model.errors import SandfleetError
from sandfleet.testing.simulation.world import Mutations, World

TRACE_LINES = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one seed."""

    seed: int
    violations: tuple[str, ...]
    digest: str
    virtual_s: float
    messages: int
    trace: tuple[str, ...]

    def report(self) -> str:
        """Return the story of a seed that failed."""
        head = [f"seed {self.seed}: {violation}" for violation in self.violations[:5]]
        again = f"replay it: python -m sandfleet.testing.simulate --seed {self.seed}"
        return "\n".join([*head, again, *self.trace[-TRACE_LINES:]])


def run_seed(seed: int, *, mutations: Mutations | None = None, keeps_trace: bool = False) -> Outcome:
    """Run one seed's world to its end."""
    world = World(seed, mutations=mutations)
    with seeded_secrets(seed), logs_to(world):
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 -- a defect of the code under test, told with its seed
            world.findings.found(f"the run ended with {error!r}")
    violations = tuple(world.findings.violations)
    return Outcome(
        seed=seed,
        violations=violations,
        digest=world.trace.digest(),
        virtual_s=world.loop.time(),
        messages=world.network.sent,
        trace=tuple(world.trace.lines()) if violations or keeps_trace else (),
    )


@contextmanager
def without_pauses_for_garbage() -> Iterator[None]:
    """Collect between seeds only: a run makes much garbage, and all of it ends with its world."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def seeded_secrets(seed: int) -> Iterator[None]:
    """Take ids from the seed while a world runs, wherever the code mints one."""
    dice = random.Random(f"{seed} secrets")
    kept = secrets.token_bytes, secrets.token_hex
    secrets.token_bytes = lambda nbytes=None: dice.randbytes(nbytes or 32)
    secrets.token_hex = lambda nbytes=None: dice.randbytes(nbytes or 32).hex()
    try:
        yield
    finally:
        secrets.token_bytes, secrets.token_hex = kept


@contextmanager
def logs_to(world: World) -> Iterator[None]:
    """Take errors that the code logs into the trace; an error of no kind that is known is a finding."""

    def take(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        error = event.get("exc_info")
        if not isinstance(error, BaseException):
            error = sys.exc_info()[1]
        world.trace.add("log", f"{event['event']} {event.get('operation_id', '')} {error!r}")
        if error is not None and not isinstance(error, SandfleetError):
            world.findings.found(f"{event['event']}: {error!r}")
        raise structlog.DropEvent

    kept = structlog.get_config()
    structlog.configure(
        processors=[take],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**kept)
