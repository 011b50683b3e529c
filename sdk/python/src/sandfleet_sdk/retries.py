"""When a call is tried again: a pure decision, and the driver that follows it.

Tried again, after a pause and within a total bound:
- what surely did not reach the server (connection refused);
- what broke underway, if the call is repeatable (GET, PUT, DELETE, or a POST with its
  `Idempotency-Key`) and no byte of a download has been handed out;
- 502 and 504, which a load balancer says when a server has gone underway, if the call is repeatable;
- the same, said in the body of an answer that was long in coming and had to begin with 200;
- 503 and 429 with `Retry-After`, except `no_capacity` (the server has queued already)
  and `quota_exceeded` (waiting changes nothing).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from sandfleet_sdk.calls import Answer, Call, Failure, Flow, Outcome, Pause
from sandfleet_sdk.errors import ApiError, BadAnswer, api_error

T = TypeVar("T")
_FIRST_PAUSE_S = 0.1
_UNDERWAY = (502, 504)
_OF_THE_GUEST = frozenset({"port_closed", "agent_unresponsive"})
"""What a server says with the same status, about the sandbox."""
_FOR_THE_MOMENT = frozenset({"store_unavailable", "not_ready", "shutting_down", "worker_unreachable"})
_NEVER_AGAIN = frozenset({"no_capacity", "quota_exceeded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how long in all, a call is tried again.

    The defaults outlast a fleet that elects a new leader or restarts its database.
    """

    attempts_max: int = 16
    pauses_s_max: float = 20.0
    pause_s_max: float = 2.0


NO_RETRIES = RetryPolicy(attempts_max=1)


def error_of(answer: Answer) -> ApiError | None:
    """Return the error an answer stands for, None for a success."""
    if answer.status < 400:
        return None
    after = answer.headers.get("retry-after", "")
    retry_after_s = float(after) if after.isdigit() else None
    try:
        body = answer.object() if answer.body else {}
    except Exception:  # noqa: BLE001 -- whatever a proxy put there, the status is what counts
        body = {"error": f"HTTP {answer.status}: {answer.body[:200].decode(errors='replace')}"}
    return api_error(answer.status, body, retry_after_s=retry_after_s)


def pause_before_retry(
    call: Call, outcome: Outcome, *, attempt: int, paused_s: float, policy: RetryPolicy
) -> float | None:
    """Return how long to wait before trying again, None when this outcome is final."""
    backoff = min(policy.pause_s_max, _FIRST_PAUSE_S * 2 ** (attempt - 1))
    if isinstance(outcome, Failure):
        again = not outcome.sent or (call.repeatable and not outcome.begun)
        wanted: float | None = backoff if again else None
    elif call.padded and _late_code(outcome) in _FOR_THE_MOMENT:
        wanted = backoff if call.repeatable else None
    else:
        wanted = _pause_asked_for(error_of(outcome), backoff, repeatable=call.repeatable)
    if wanted is None or attempt >= policy.attempts_max or paused_s + wanted > policy.pauses_s_max:
        return None
    return wanted


def _late_code(answer: Answer) -> str | None:
    """Return the code of an error inside a 200, None for a result."""
    # Only what was long in coming begins with a space: a large result need not be read twice.
    if answer.status != 200 or not answer.body.startswith(b" "):
        return None
    try:
        code = answer.object().get("code")
    except BadAnswer:
        return None
    return code if isinstance(code, str) else None


def _pause_asked_for(error: ApiError | None, backoff: float, *, repeatable: bool) -> float | None:
    if error is not None and error.status in _UNDERWAY and error.code not in _OF_THE_GUEST:
        return backoff if repeatable else None
    if error is None or error.status not in (429, 503) or error.code in _NEVER_AGAIN:
        return None
    return None if error.retry_after_s is None else max(error.retry_after_s, backoff)


def drive(flow: Flow[T], policy: RetryPolicy) -> Generator[Call | Pause, Outcome | None, T]:
    """Run a flow: repeat its calls by the policy, raise into it what remains an error."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                yield step
                step = flow.send(Answer(status=0))
                continue
            outcome = yield from _settle(step, policy)
            error = outcome.error if isinstance(outcome, Failure) else error_of(outcome)
            if error is not None:
                step = flow.throw(error)
            elif isinstance(outcome, Answer):
                step = flow.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


def _settle(call: Call, policy: RetryPolicy) -> Generator[Call | Pause, Outcome | None, Outcome]:
    paused_s = 0.0
    for attempt in range(1, policy.attempts_max + 1):
        outcome = yield call
        if outcome is None:
            raise TypeError("the transport gave no outcome of a call")
        wait = pause_before_retry(call, outcome, attempt=attempt, paused_s=paused_s, policy=policy)
        if wait is None:
            return outcome
        paused_s += wait
        yield Pause(wait)
    raise AssertionError("the last attempt is always final")
