"""The published contract, fuzzed from the server's own document against the running fleet.

Half of the calls go to a sandbox that lives, half to ids that do not exist; no answer may be a 5xx other
than 503, and every answer must be one that the document promises, in the form that it promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.acceptance.census import take_census, wait_for_no_leak
from tests.acceptance.live_fleet import LiveFleet

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
EXAMPLES_MAX = 12
CREATES = ("POST", "/api/sandboxes")
_CALLS = count()


@pytest.fixture(scope="module")
def target(fleet: LiveFleet) -> Iterator[str]:
    """A sandbox for half of the calls. The fuzzing itself creates none: it asks for too little memory."""
    before = take_census(fleet)
    with fleet.client() as http:
        identity = http.post("/api/sandboxes", json={"metadata": {"for": "contract"}}).json()["sandboxID"]
        yield identity
        http.delete(f"/api/sandboxes/{identity}")
    wait_for_no_leak(before, fleet, timeout_s=90)


@pytest.fixture
def api(fleet: LiveFleet) -> schemathesis.BaseSchema:
    """The document as the server gives it."""
    return schemathesis.openapi.from_url(f"{fleet.url}/openapi.json")


document = schemathesis.pytest.from_fixture("api")


@document.parametrize()
@settings(
    max_examples=EXAMPLES_MAX,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.timeout(120)
def test_every_answer_is_one_that_the_document_promises(
    case: schemathesis.Case, fleet: LiveFleet, target: str
) -> None:
    if "id" in case.path_parameters and case.method != "DELETE" and next(_CALLS) % 2:
        case.path_parameters["id"] = target
    if (case.method, case.path) == CREATES and isinstance(case.body, dict):
        case.body["memoryMB"] = 1
    case.call_and_validate(headers={"X-API-Key": fleet.api_key}, checks=list(CHECKS), timeout=60)
