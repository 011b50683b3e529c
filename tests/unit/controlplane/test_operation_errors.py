"""Why an operation failed, in the words of the API."""

from __future__ import annotations

import pytest

from sandfleet.controlplane.http.operation_errors import operation_error
from sandfleet.testing.builders import an_operation
from sandfleet.wire.errors import status_of


@pytest.mark.parametrize(
    ("code", "told", "status"),
    [
        ("busy", "operation_in_progress", 409),
        ("moved", "operation_in_progress", 409),
        ("deadline_exceeded", "not_ready", 503),
        ("worker_unreachable", "not_ready", 503),
        ("blobs_unavailable", "not_ready", 503),
        ("oom_floor", "oom_floor", 409),
        ("internal", "internal", 500),
    ],
)
def test_what_a_worker_says_of_itself_is_no_defect(code: str, told: str, status: int) -> None:
    error = operation_error(an_operation(error_code=code, error_message="why"))
    assert (error.code, status_of(error), error.message) == (told, status, "why")
