"""An error crosses the fleet's processes as itself."""

from __future__ import annotations

import pytest

from sandfleet.model import errors as e
from sandfleet.wire.errors import STATUS, error_body, error_from, error_headers, status_of

EVERY_KIND = [
    e.BadRequest,
    e.ExecFailed,
    e.Unauthorised,
    e.Forbidden,
    e.PlanLimit,
    e.NotFound,
    e.Conflict,
    e.StaleEpoch,
    e.Gone,
    e.TooLarge,
    e.QuotaExceeded,
    e.RateLimited,
    e.NoCapacity,
    e.StoreUnavailable,
    e.GuestUnresponsive,
    e.GuestDiskFull,
]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_sent_and_received_is_the_same_class_code_and_text(kind: type[e.SandfleetError]) -> None:
    sent = kind("it did not work", details={"limit": 3})
    received = error_from(status_of(sent), error_body(sent, request_id="r1"))
    assert (type(received), received.code, received.message, received.details) == (
        kind,
        sent.code,
        sent.message,
        {"limit": 3},
    )


def test_an_unknown_kind_is_a_500_without_details_key() -> None:
    error = e.HypervisorFailed("qemu said no")
    assert status_of(error) == 500
    assert error_body(error, request_id="r1") == {
        "error": "qemu said no",
        "code": "internal",
        "requestId": "r1",
    }


def test_unavailable_says_when_to_come_back() -> None:
    assert error_headers(e.NoCapacity("full", retry_after_s=7)) == {"Retry-After": "7"}
    assert error_headers(e.RateLimited("too fast", retry_after_s=7)) == {"Retry-After": "7"}
    assert error_headers(e.QuotaExceeded("used up")) == {}
    assert error_headers(e.NotFound("no")) == {}


def test_no_status_stands_for_two_classes() -> None:
    assert len(set(STATUS.values())) == len(STATUS)
