"""What the client makes of hibernations, checkpoints and forks, without a network: call by call."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from sandfleet.cli.checkpoint import find_checkpoint
from sandfleet.cli.errors import CommandFailed
from sandfleet_sdk import ApiError, Checkpoint
from sandfleet_sdk import saved as flows
from sandfleet_sdk.calls import Answer, Call, Pause

SANDBOX = {"sandboxID": "sb-1", "status": "running"}
CHECKPOINT = {"id": "cp-1", "name": "one", "status": "processing"}


def play(flow: Generator[Any, Any, Any], *answers: Any) -> tuple[list[Call], Any]:
    """Run a flow against these answers; return the calls that it made, and what came of it."""
    calls: list[Call] = []
    left = list(answers)
    reply = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as end:
            assert not left
            return calls, end.value
        if isinstance(step, Pause):
            reply = None
            continue
        calls.append(step)
        reply = Answer(status=200, headers={}, body=json.dumps(left.pop(0)).encode())


def test_a_hibernation_that_goes_on_is_waited_for() -> None:
    calls, saved = play(
        flows.hibernate("sb-1"),
        {"sandboxID": "sb-1", "status": "hibernating", "sizeBytes": 0},
        {**SANDBOX, "status": "hibernating"},
        {**SANDBOX, "status": "hibernated"},
    )
    assert [(call.method, call.path) for call in calls] == [
        ("POST", "/sandboxes/sb-1/hibernate"),
        ("GET", "/sandboxes/sb-1"),
        ("GET", "/sandboxes/sb-1"),
    ]
    assert "Idempotency-Key" in calls[0].headers
    assert saved.status == "hibernated"


@pytest.mark.parametrize(("given", "sent"), [(None, {}), (0, {"timeout": 0})])
def test_a_wake_says_a_timeout_only_if_there_is_one(given: int | None, sent: dict[str, int]) -> None:
    calls, sandbox = play(flows.wake("sb-1", timeout_s=given), {**SANDBOX, "status": "waking"}, SANDBOX)
    assert (calls[0].payload, sandbox.status) == (sent, "running")


def test_a_wake_that_does_not_come_is_an_error() -> None:
    with pytest.raises(ApiError, match="hibernated"):
        play(flows.wake("sb-1"), {**SANDBOX, "status": "waking"}, {**SANDBOX, "status": "hibernated"})


def test_a_checkpoint_is_returned_ready_or_at_once() -> None:
    _, made = play(
        flows.create_checkpoint("sb-1", "one"), CHECKPOINT, [CHECKPOINT], [{**CHECKPOINT, "status": "ready"}]
    )
    assert made.status == "ready"
    _, made = play(flows.create_checkpoint("sb-1", "one", wait_s=0), CHECKPOINT)
    assert made.status == "processing"


def test_who_waits_for_a_checkpoint_is_told_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    storing = {**CHECKPOINT, "upload": {"bytesDone": 3, "bytesTotal": 10}}
    play(
        flows.create_checkpoint("sb-1", "one", on_progress=lambda done, total: told.append((done, total))),
        CHECKPOINT,
        [{**CHECKPOINT, "upload": None}],
        [storing],
        [{**CHECKPOINT, "status": "ready"}],
    )
    assert told == [(3, 10)]


def test_a_checkpoint_that_failed_is_an_error_with_its_reason() -> None:
    with pytest.raises(ApiError, match="disk full"):
        play(
            flows.create_checkpoint("sb-1", "one"),
            CHECKPOINT,
            [{**CHECKPOINT, "status": "failed", "errorMsg": "disk full"}],
        )


def test_a_restore_returns_the_sandbox_running() -> None:
    calls, sandbox = play(
        flows.restore("sb-1", "cp-1"),
        {"status": "restoring"},
        {**SANDBOX, "status": "restoring"},
        SANDBOX,
    )
    assert (calls[0].path, sandbox.status) == ("/sandboxes/sb-1/checkpoints/cp-1/restore", "running")


def test_a_fork_names_what_is_missing() -> None:
    calls, forks = play(
        flows.fork("sb-1", count=2, partial=True, envs={"A": "b"}),
        {"parentID": "sb-1", "pauseMs": 67.5, "sandboxes": [SANDBOX], "failed": [{"error": "no room"}]},
    )
    assert (calls[0].query, calls[0].payload) == ({"count": "2", "partial": "true"}, {"envs": {"A": "b"}})
    assert (forks.pause_ms, len(forks.sandboxes), forks.missing) == (67.5, 1, ["no room"])


def test_a_checkpoint_is_found_by_name_or_id() -> None:
    failed = Checkpoint.parse({**CHECKPOINT, "id": "cp-0", "status": "failed"})
    ready = Checkpoint.parse({**CHECKPOINT, "status": "ready"})
    assert find_checkpoint([failed, ready], "one") is ready
    assert find_checkpoint([failed, ready], "cp-0") is failed
    with pytest.raises(CommandFailed, match="no checkpoint two"):
        find_checkpoint([failed, ready], "two")
