"""Why an operation failed and what was raised, in the words of the API."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import sandfleet
from sandfleet.controlplane.http.body import ClientGone
from sandfleet.controlplane.http.error_codes import CODES
from sandfleet.controlplane.http.operation_errors import TOLD_AS, operation_error, told
from sandfleet.model.errors import SandfleetError, WorkerUnreachable
from sandfleet.model.operation import OperationKind
from sandfleet.testing.builders import an_operation
from sandfleet.wire.errors import status_of


@pytest.mark.parametrize(
    ("code", "told", "status"),
    [
        ("busy", "operation_in_progress", 409),
        ("moved", "operation_in_progress", 409),
        ("deadline_exceeded", "not_ready", 503),
        ("move_undecided", "not_ready", 503),
        ("worker_gone", "not_ready", 503),
        ("worker_unreachable", "not_ready", 503),
        ("blobs_unavailable", "not_ready", 503),
        ("pool_unreachable", "not_ready", 503),
        ("snapshot_unusable", "checkpoint_failed", 400),
        ("oom_floor", "oom_floor", 409),
        ("internal", "internal", 500),
    ],
)
def test_what_a_worker_says_of_itself_is_no_defect(code: str, told: str, status: int) -> None:
    error = operation_error(an_operation(error_code=code, error_message="why"))
    assert (error.code, status_of(error), error.message) == (told, status, "why")


SERVERS = ("sandfleet.model", "sandfleet.controlplane", "sandfleet.adapters", "sandfleet.wire")


def kinds(base: type[SandfleetError] = SandfleetError) -> Iterator[type[SandfleetError]]:
    """Return every class of error that may reach the API."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith(SERVERS):
            yield kind
        yield from kinds(kind)


def test_every_class_of_error_has_a_documented_code_and_its_status() -> None:
    """Also one that is added later: what the API does not know by name would be told as a defect."""
    for found in pkgutil.walk_packages(sandfleet.__path__, "sandfleet."):
        if found.name.startswith(SERVERS) and ".migrations" not in found.name:
            importlib.import_module(found.name)
    told_kinds = [kind for kind in kinds() if kind is not ClientGone]  # nobody is there to be told
    assert len(told_kinds) > 25
    for kind in told_kinds:
        error = told(kind("why"))
        assert error.code in CODES, kind
        assert CODES[error.code][0] == status_of(error), kind


def test_no_code_is_both_the_apis_and_the_fleets_own() -> None:
    assert not set(TOLD_AS) & set(CODES)
    assert set(TOLD_AS.values()) <= set(CODES)


def test_what_the_fleet_says_of_itself_is_told_with_its_reason_and_its_time() -> None:
    error = told(WorkerUnreachable("worker wk-1 did not answer", retry_after_s=7, details={"a": 1}))
    assert (error.code, error.message, error.details) == ("not_ready", "worker wk-1 did not answer", {"a": 1})
    assert getattr(error, "retry_after_s", None) == 7


@pytest.mark.parametrize(
    ("code", "arguments", "told_as"),
    [
        ("internal", {}, "target_unavailable"),
        ("no_such_move", {}, "target_unavailable"),
        ("no_such_move", {"memory_mib": 2048}, "no_capacity"),
        ("not_found", {}, "target_unavailable"),
        ("snapshot_unusable", {}, "target_unavailable"),
        ("oom_floor", {"memory_mib": 2048}, "oom_floor"),
        ("worker_unreachable", {}, "not_ready"),
    ],
)
def test_a_move_that_failed_on_its_hosts_is_no_defect(
    code: str, arguments: dict[str, int], told_as: str
) -> None:
    failed = an_operation(
        kind=OperationKind.MIGRATE, arguments=arguments, error_code=code, error_message="it failed"
    )
    assert operation_error(failed).code == told_as
