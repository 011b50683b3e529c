"""Clients under chaos: they use sandboxes as users would, and believe nothing that they cannot check.

`python -m tests.acceptance.chaos.load` is one process with several clients; a run has several processes. Each
client makes a sandbox, works in it and removes it, over and over, until it is told to stop by the end of its
standard input. What it was answered goes into the history; what it found wrong, into its report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.acceptance.chaos.life import Life

from sandfleet.testing.histories.recorder import Recorder
from sandfleet_sdk import ApiError, AsyncClient, RetryPolicy, SandfleetError

T = TypeVar("T")
PATIENT = RetryPolicy(attempts_max=120, pauses_s_max=120, pause_s_max=2)
"""A client that does not give up: two minutes of pauses."""
TURN_S_MAX = 280.0
VETERANS_ACTIONS = 100_000
BRANCHES_PER_LIFE, VETERANS_BRANCHES = 1, 6
"""How many forks, each live or from a checkpoint, a sandbox has in its life."""
_ERRORS_KEPT = 50


@dataclass(slots=True)
class Findings:
    """What one process saw."""

    calls: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Effects that were lost or doubled, answers that contradict what was acknowledged."""
    lives: int = 0
    slowest: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "calls": dict(self.calls),
            "failures": self.failures,
            "wrong": self.wrong,
            "lives": self.lives,
            "slowest": self.slowest,
        }


class Caller:
    """Makes calls, counts them and records those about the sandbox's register."""

    def __init__(self, client: AsyncClient, recorder: Recorder, findings: Findings) -> None:
        self.client = client
        self.findings = findings
        self._recorder = recorder

    async def recorded(
        self,
        kind: str,
        subject: str,
        call: Awaitable[T],
        *,
        answer: Callable[[T], str | None],
        allowed: Sequence[str] = (),
    ) -> T | None:
        """Await a call and record it; None if it was refused as is allowed, or failed, which is reported."""
        number = self._recorder.invoke(kind, subject)
        begun = time.monotonic()
        self.findings.calls[kind] += 1
        try:
            result = await call
        except ApiError as error:
            # A refusal about the sandbox is an answer; one about the fleet leaves open what happened.
            if error.status in (400, 404, 409, 410) or error.code == "failed":
                self._recorder.failed(number, error.code)
            else:
                self._recorder.unknown(number, error.code)
            if error.code not in allowed:
                self.failed(kind, subject, error, begun)
            return None
        except SandfleetError as error:
            self._recorder.unknown(number, type(error).__name__)
            self.failed(kind, subject, error, begun)
            return None
        self._recorder.returned(number, answer(result))
        taken = time.monotonic() - begun
        self.findings.slowest[kind] = max(taken, self.findings.slowest.get(kind, 0.0))
        return result

    def failed(self, kind: str, subject: str, error: Exception, begun: float) -> None:
        """Report a call that a client who repeats could not finish."""
        taken = time.monotonic() - begun
        code = getattr(error, "code", "")
        when = f"after {taken:.1f} s, at {time.time():.1f}"
        self.findings.failures.append(f"{kind} {subject} {when}: {type(error).__name__} {code} {error}")

    def is_wrong(self, what: str) -> None:
        """Report what must not be."""
        self.findings.wrong.append(what)


async def main(arguments: argparse.Namespace) -> None:
    """Run the clients until standard input ends, then print what they found."""
    findings = Findings()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_await_end(stop))
        for number in range(arguments.clients):
            name = f"{arguments.name}.{number}"
            tasks.create_task(_client(name, arguments, findings, stop, is_veteran=number == 0))
    sys.stdout.write(json.dumps(findings.as_json()) + "\n")


async def _await_end(stop: asyncio.Event) -> None:
    await asyncio.to_thread(sys.stdin.read)
    stop.set()


async def _client(
    name: str, arguments: argparse.Namespace, findings: Findings, stop: asyncio.Event, *, is_veteran: bool
) -> None:
    """Live one life after the other; a veteran's only one lasts for the whole run."""
    dice = random.Random(f"{arguments.seed} {name}")
    with Recorder(arguments.history, name) as recorder:
        async with AsyncClient(arguments.url, arguments.key, retries=PATIENT) as client:
            caller = Caller(client, recorder, findings)
            while not stop.is_set():
                key = f"{uuid.uuid4().hex}-{name}"
                branches = VETERANS_BRANCHES if is_veteran else BRANCHES_PER_LIFE
                life = Life(caller, dice, key=key, stop=stop, branches=branches)
                try:
                    async with asyncio.timeout(None if is_veteran else TURN_S_MAX):
                        await life.run(actions=VETERANS_ACTIONS if is_veteran else dice.randrange(4, 14))
                except TimeoutError:
                    caller.is_wrong(f"{name}: a life took longer than {TURN_S_MAX:.0f} s: {life.describe()}")
                findings.lives += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--url", "--key", "--name"):
        parser.add_argument(option, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--history", type=Path, required=True)
    asyncio.run(main(parser.parse_args()))
