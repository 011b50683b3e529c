"""`worker drain --wait`: each news is shown once; it ends when the worker is empty or its time is over."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.unit.waiting_commands import Answering, Time, time_of

from sandfleet.cli import drain as command
from sandfleet_sdk import Drain, Eviction


def a_drain(state: str, moved: int, *whys: str) -> Drain:
    sandboxes = [{"sandboxID": f"sb-{number}", "why": why} for number, why in enumerate(whys)]
    return Drain.parse({"workerID": "wk-1", "state": state, "moved": moved, "sandboxes": sandboxes})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return time_of(command, monkeypatch)


def waited(client: Answering[Drain], *, until: float) -> Drain:
    begun = a_drain("draining", 0, "waiting", "waiting")
    return command._until_drained(cast(Any, client), begun, until=until, is_quiet=False)


def test_it_waits_until_the_worker_is_empty(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    moving = a_drain("draining", 0, "moving", "held")
    done = a_drain("drained", 2)
    assert waited(Answering(moving, moving, a_drain("draining", 2), done), until=60) == done
    shown = ["0 moved, 2 waiting", "0 moved, 1 moving, 1 held", "2 moved, the last is being cleared away"]
    assert capsys.readouterr().err.splitlines() == shown


def test_it_waits_no_longer_than_asked(clock: Time) -> None:
    held = a_drain("draining", 0, "held")
    left = waited(Answering(held, held, held, held), until=3)
    assert (left.state, clock.now) == ("draining", 3)


def test_what_was_put_to_sleep_and_a_deadline_that_is_over_are_shown() -> None:
    body = {"workerID": "wk-1", "state": "stuck", "moved": 1, "slept": 2}
    stuck = Drain.parse({**body, "sandboxes": [{"sandboxID": "sb-1", "why": "held"}]})
    assert command.progress(stuck) == "1 moved, 2 put to sleep, 1 held (past its deadline)"


def test_who_was_evicted_and_who_stays_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Eviction.parse(
        {
            "workerID": "wk-1",
            "evicted": [{"sandboxID": "sb-1", "to": "wk-2", "reason": "best fit"}],
            "remaining": 1,
            "sandboxes": [{"sandboxID": "sb-2", "why": "held", "reason": "nobody can take it"}],
        }
    )

    class Evicting:
        def __init__(self) -> None:
            self.fleet = self

        def __enter__(self) -> Evicting:
            return self

        def __exit__(self, *_: object) -> None:
            """End nothing."""

        def evict_worker(self, worker_id: str) -> Eviction:
            return done

    monkeypatch.setattr("sandfleet.cli.connection.connect", lambda *_: Evicting())
    command.evict("wk-1")
    assert capsys.readouterr().out.splitlines() == [
        "1 sandboxes leave wk-1, 1 stay.",
        "  sb-1 moves to wk-2",
        "  sb-2 stays: nobody can take it",
    ]
