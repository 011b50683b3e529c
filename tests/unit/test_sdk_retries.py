"""When the client tries again: decided without a network, step by step."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from sandfleet_sdk import (
    ApiError,
    Gone,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    RateLimited,
    RetryPolicy,
    Unavailable,
    Unreachable,
    commands,
    sandboxes,
)
from sandfleet_sdk.calls import Answer, Call, Failure, Pause
from sandfleet_sdk.retries import drive, pause_before_retry

POLICY = RetryPolicy(attempts_max=4, pauses_s_max=10)
BROKEN = Failure(Unreachable("connection reset"), sent=True)
REFUSED = Failure(Unreachable("connection refused"), sent=False)
SANDBOX = b'{"sandboxID": "sb-1", "status": "running"}'


def _error(status: int, code: str, retry_after: str | None = None) -> Answer:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return Answer(status, headers, f'{{"error": "no", "code": "{code}", "requestId": "r1"}}'.encode())


def _play(flow: Generator[Any, Any, Any], outcomes: list[Any]) -> tuple[Any, list[Call], list[float]]:
    """Run a flow against given outcomes; return result, calls and pauses."""
    steps = drive(flow, POLICY)
    calls: list[Call] = []
    pauses: list[float] = []
    outcome = None
    try:
        for _ in range(100):
            step = steps.send(outcome)
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                outcome = None
            else:
                calls.append(step)
                outcome = outcomes.pop(0)
    except StopIteration as end:
        assert outcomes == []
        return end.value, calls, pauses
    raise AssertionError("the flow does not end")


def test_a_create_whose_connection_broke_is_repeated_with_the_same_key() -> None:
    sandbox, calls, pauses = _play(sandboxes.create(), [BROKEN, REFUSED, Answer(201, {}, SANDBOX)])
    assert sandbox.id == "sb-1"
    assert len({call.headers["Idempotency-Key"] for call in calls}) == 1
    assert pauses == [0.1, 0.2]


def test_an_error_that_came_too_late_for_its_status_is_repeated_under_the_same_key() -> None:
    late = b'  {"exitCode": -1, "stdout": "", "stderr": "x", "error": "x", "code": "store_unavailable"}'
    done = b'{"exitCode": 0, "stdout": "done", "stderr": ""}'
    result, calls, _ = _play(commands.run("sb-1", "true"), [Answer(200, {}, late), Answer(200, {}, done)])
    assert result.stdout == "done"
    assert len({call.headers["Idempotency-Key"] for call in calls}) == 1


def test_an_error_of_the_command_that_came_late_is_final() -> None:
    late = b' {"exitCode": -1, "stdout": "", "stderr": "x", "error": "x", "code": "gone"}'
    with pytest.raises(Gone):
        _play(commands.run("sb-1", "true"), [Answer(200, {}, late)])


def test_by_default_a_failover_is_outlasted_and_no_more() -> None:
    call, policy, paused_s = Call(method="GET", path="/"), RetryPolicy(), 0.0
    for attempt in range(1, 100):
        pause = pause_before_retry(call, REFUSED, attempt=attempt, paused_s=paused_s, policy=policy)
        if pause is None:
            break
        paused_s += pause
    assert 15 < paused_s <= 20


def test_a_create_may_have_a_key_of_its_callers() -> None:
    call = next(sandboxes.create(idempotency_key="mine"))
    assert isinstance(call, Call)
    assert call.headers["Idempotency-Key"] == "mine"


def test_two_creates_have_two_keys() -> None:
    keys = [next(sandboxes.create()).headers["Idempotency-Key"] for _ in range(2)]  # type: ignore[union-attr]
    assert keys[0] != keys[1]


def test_retry_after_is_obeyed() -> None:
    _, calls, pauses = _play(
        sandboxes.get("sb-1"), [_error(503, "shutting_down", "2"), Answer(200, {}, SANDBOX)]
    )
    assert (len(calls), pauses) == (2, [2.0])
    _, calls, pauses = _play(sandboxes.create(), [_error(429, "rate_limited", "3"), Answer(201, {}, SANDBOX)])
    assert (len(calls), pauses) == (2, [3.0])
    with pytest.raises(RateLimited):
        _play(sandboxes.create(), [_error(429, "rate_limited", "60")])


PROXY_BROKE = Answer(502, {}, b"<html>Bad Gateway</html>")


def test_what_a_proxy_calls_broken_is_repeated_if_it_may_be() -> None:
    _, calls, _ = _play(
        sandboxes.create(), [PROXY_BROKE, _error(502, "bad_gateway"), Answer(201, {}, SANDBOX)]
    )
    assert len({call.headers["Idempotency-Key"] for call in calls}) == 1
    with pytest.raises(ApiError, match="Bad Gateway"):
        _play(_not_repeatable(), [PROXY_BROKE])


def test_a_guest_that_does_not_answer_is_no_broken_proxy() -> None:
    with pytest.raises(ApiError, match="no"):
        _play(sandboxes.get("sb-1"), [_error(504, "agent_unresponsive")])


def _not_repeatable() -> Generator[Any, Any, Any]:
    return (yield Call(method="POST", path="/x", repeatable=False))


def test_retries_end_with_the_last_error() -> None:
    with pytest.raises(Unavailable, match="no"):
        _play(sandboxes.get("sb-1"), [_error(503, "not_ready", "1")] * 4)


def test_the_sum_of_pauses_is_bounded() -> None:
    with pytest.raises(Unavailable) as failure:
        _play(sandboxes.get("sb-1"), [_error(503, "not_ready", "6"), _error(503, "not_ready", "6")])
    assert failure.value.retry_after_s == 6


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_error(503, "no_capacity", "5"), NoCapacity),
        (_error(429, "quota_exceeded", "5"), QuotaExceeded),
        (_error(503, "not_ready"), Unavailable),
        (_error(404, "not_found"), NotFound),
        (_error(410, "gone"), Gone),
        (_error(500, "internal"), ApiError),
    ],
)
def test_what_waiting_does_not_change_is_raised_at_once(answer: Answer, kind: type[ApiError]) -> None:
    with pytest.raises(kind) as failure:
        _play(sandboxes.get("sb-1"), [answer])
    assert failure.value.request_id == "r1"


def test_a_download_that_has_begun_is_not_begun_again() -> None:
    begun = Failure(Unreachable("reset"), sent=True, begun=True)
    with pytest.raises(Unreachable):
        _play(sandboxes.get("sb-1"), [begun])


def test_what_cannot_be_repeated_is_repeated_only_if_it_was_never_sent() -> None:
    def once() -> Generator[Any, Any, int]:
        answer = yield Call(method="POST", path="/x", repeatable=False)
        return int(answer.status)

    assert _play(once(), [REFUSED, Answer(204)])[0] == 204
    with pytest.raises(Unreachable):
        _play(once(), [BROKEN])


def test_create_waits_for_a_sandbox_that_is_still_creating() -> None:
    creating = SANDBOX.replace(b"running", b"creating")
    sandbox, calls, _ = _play(
        sandboxes.create(), [Answer(201, {}, creating), Answer(200, {}, creating), Answer(200, {}, SANDBOX)]
    )
    assert sandbox.status == "running"
    assert [call.method for call in calls] == ["POST", "GET", "GET"]


def test_create_reports_a_sandbox_that_failed() -> None:
    creating = SANDBOX.replace(b"running", b"creating")
    failed = b'{"sandboxID": "sb-1", "status": "failed", "errorMsg": "no template"}'
    with pytest.raises(ApiError, match="no template"):
        _play(sandboxes.create(), [Answer(201, {}, creating), Answer(200, {}, failed)])


def test_an_error_behind_padding_is_an_error() -> None:
    padded = b'   {"exitCode": -1, "stdout": "", "stderr": "gone", "error": "gone", "code": "gone"}'
    with pytest.raises(Gone):
        _play(commands.run("sb-1", "true"), [Answer(200, {}, padded)])


def test_streaming_hands_out_what_is_new_and_no_half_characters() -> None:
    pieces: list[str] = []
    answers = [
        Answer(202, {}, b'{"execId": "ex-1", "running": true}'),
        Answer(200, {}, '{"running": true, "stdout": "a\ufffd", "stderr": ""}'.encode()),
        Answer(200, {}, '{"running": true, "stdout": "a\u00e9b", "stderr": "w"}'.encode()),
        Answer(
            200, {}, '{"running": false, "exitCode": 3, "stdout": "a\u00e9bc\ufffd", "stderr": "w"}'.encode()
        ),
    ]
    flow = commands.stream(
        "sb-1", "x", on_stdout=pieces.append, on_stderr=lambda text: pieces.append(f"!{text}")
    )
    result, _, _ = _play(flow, answers)
    assert pieces == ["a", "\u00e9b", "!w", "c\ufffd"]
    assert result.exit_code == 3


def test_streaming_a_quick_command_takes_one_request() -> None:
    pieces: list[str] = []
    quick = Answer(200, {}, b'{"exitCode": 0, "stdout": "hi", "stderr": ""}')
    result, calls, _ = _play(commands.stream("sb-1", "x", on_stdout=pieces.append), [quick])
    assert (pieces, result.exit_code, len(calls)) == (["hi"], 0, 1)
