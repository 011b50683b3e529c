"""`rollout begin --wait`: each news is shown once, and how it ended is the exit code."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.unit.waiting_commands import Answering, Time, time_of

from sandfleet.cli import rollout as command
from sandfleet_sdk import Rollout


def a_rollout(stage: str, said: str = "", reason: str = "") -> Rollout:
    under_way = stage not in ("done", "turned_back")
    step = {"stage": stage, "at": "2030-01-01T12:00:00Z", "actor": "key k", "reason": reason}
    worker = {"workerID": "wk-1", "version": "2", "state": "ready", "sandboxes": 3, "proven": True}
    body = {"number": 4, "version": "2", "previous": "1", "stage": stage, "underWay": under_way}
    return Rollout.parse({**body, "said": said, "reason": reason, "steps": [step], "workers": [worker]})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return time_of(command, monkeypatch)


def test_it_waits_until_it_is_over(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    begun, done = a_rollout("boot_test", "boot test: a machine is to boot"), a_rollout("done")
    client = Answering(begun, a_rollout("canary", "canary: well"), done)
    assert command._until_over(cast(Any, client), begun, until=60, is_quiet=False) == done
    assert capsys.readouterr().err.splitlines() == ["boot test: a machine is to boot", "canary: well"]


def test_it_waits_no_longer_than_asked(clock: Time) -> None:
    begun = a_rollout("canary")
    left = command._until_over(cast(Any, Answering(*[begun] * 4)), begun, until=3, is_quiet=True)
    assert (left.stage, clock.now) == ("canary", 3)


def test_what_is_shown_says_why_it_turned_round(capsys: pytest.CaptureFixture[str]) -> None:
    command._show(a_rollout("turned_back", "said", reason="not well"), as_json=False, is_whole=True)
    shown = capsys.readouterr().out
    assert "roll-out 4: version 2 after 1, turned_back" in shown
    assert "it turned round: not well" in shown
    assert "wk-1" in shown


def test_how_it_ended_is_told() -> None:
    assert "was turned back: not well" in str(
        command._not_done(a_rollout("turned_back", reason="not well"), 9)
    )
    assert "not on every worker after 9 s" in str(command._not_done(a_rollout("fleet"), 9))
