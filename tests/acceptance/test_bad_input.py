"""Requests that no server should take: each is refused with its own code and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.acceptance.census import take_census, wait_for_no_leak
from tests.acceptance.live_fleet import LiveFleet, wait_until

pytestmark = [pytest.mark.timeout(300)]

GIB = 1024**3
MALFORMED = "bad_request or invalid_argument"
"""The contract leaves open which of the two a malformed value gets."""


@pytest.fixture(scope="module")
def http(fleet: LiveFleet) -> Iterator[httpx.Client]:
    """A client with the fleet's key; afterwards nothing may be left of what this module did."""
    before = take_census(fleet)
    with fleet.client() as client:
        yield client
    wait_for_no_leak(before, fleet)


@pytest.fixture(scope="module")
def neighbour(fleet: LiveFleet, http: httpx.Client) -> Iterator[str]:
    """A sandbox that must notice nothing of what the tests do."""
    identity = http.post("/api/sandboxes", json={"metadata": {"for": "bad input"}}).json()["sandboxID"]
    yield identity
    assert run(http, identity, "echo unharmed")["stdout"] == "unharmed\n"
    assert http.delete(f"/api/sandboxes/{identity}").status_code == 204


def run(http: httpx.Client, identity: str, command: str, **options: Any) -> dict[str, Any]:
    """Run a shell command and return the answer's body."""
    answer = http.post(f"/api/sandboxes/{identity}/exec/run", json={"cmd": command, **options})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@contextmanager
def upload_begun(fleet: LiveFleet, target: str, *, length: int) -> Iterator[socket.socket]:
    """Send the head of an upload and leave its body, and its end, to the caller."""
    address = urlsplit(fleet.url)
    with socket.create_connection((address.hostname or "", address.port or 80), timeout=60) as line:
        head = (
            f"PUT {target} HTTP/1.1\r\nHost: x\r\nX-API-Key: {fleet.api_key}\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        line.sendall(head.encode())
        yield line


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error answer, after checking its form."""
    body = answer.json()
    assert set(body) <= {"error", "code", "requestId", "details"}
    assert body["error"]
    assert body["requestId"] == answer.headers["x-request-id"]
    return answer.status_code, body["code"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"templateID": "no-such-template"}, "unknown_template"),
        ({"templateID": "../../etc/passwd"}, "unknown_template"),
        ({"templateID": 7}, "bad_request"),
        ({"memoryMB": 10**9}, "memory_out_of_range"),
        ({"memoryMB": 1}, "memory_out_of_range"),
        ({"memoryMB": -1024}, "memory_out_of_range"),
        ({"memoryMB": "much"}, "bad_request"),
        ({"memoryMB": 2**70}, "memory_out_of_range"),
        ({"diskMB": 1}, "disk_out_of_range"),
        ({"cpuCount": 0}, "cpu_out_of_range"),
        ({"cpuCount": 17}, "cpu_out_of_range"),
        ({"timeout": -1}, "invalid_argument"),
        ({"timeout": 2**70}, "invalid_argument"),
        ({"envs": {"1BAD NAME": "x"}}, MALFORMED),
        ({"envs": {"A": "x" * 10_000_000}}, MALFORMED),
        ({"envs": {"A": "nul\0byte"}}, MALFORMED),
        ({"envs": ["A"]}, "bad_request"),
        ({"metadata": {"A": "x" * 70_000}}, MALFORMED),
        ({"alias": "x" * 129}, MALFORMED),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else str(value),
)
def test_a_create_that_cannot_be_is_refused(http: httpx.Client, body: dict[str, Any], code: str) -> None:
    status, said = refusal(http.post("/api/sandboxes", json=body))
    assert status == 400
    assert said in code.split(" or ")


def test_a_refused_size_names_the_range(http: httpx.Client) -> None:
    details = http.post("/api/sandboxes", json={"memoryMB": 10**9}).json()["details"]
    assert details["minMB"] < details["maxMB"]
    assert details["blockMB"] > 0


@pytest.mark.parametrize(
    "content", [b"{", b"[1, 2]", b'"text"', b"\xff\xfe", b"{" * 5000, b'{"timeout": NaN}', b'{"a": 1}x']
)
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, content: bytes) -> None:
    assert refusal(http.post("/api/sandboxes", content=content)) == (400, "bad_request")


def test_a_body_above_the_limit_is_refused_before_it_is_read(http: httpx.Client) -> None:
    answer = http.post("/api/sandboxes", content=b" " * (64 * 1024 * 1024 + 1))
    assert refusal(answer) == (413, "too_large")


def test_credentials_come_first(fleet: LiveFleet) -> None:
    with httpx.Client(base_url=fleet.url, timeout=60) as anyone:
        assert refusal(anyone.post("/api/sandboxes", content=b"{")) == (401, "missing_api_key")
        wrong = {"X-API-Key": "osb_" + "a" * 40}
        assert refusal(anyone.get("/api/sandboxes", headers=wrong)) == (403, "invalid_api_key")
        bearer = {"Authorization": f"Bearer {fleet.api_key}"}
        assert anyone.get("/api/sandboxes", headers=bearer).status_code == 401
        assert refusal(anyone.get("/api/no/such/path")) == (404, "not_found")
        assert refusal(anyone.patch("/api/sandboxes")) == (405, "method_not_allowed")


def test_the_order_of_checks_hides_what_does_not_exist(http: httpx.Client, neighbour: str) -> None:
    for path in ("exec/run", "files?path=", "exec/run-async"):
        method = "GET" if path.startswith("files") else "POST"
        answer = http.request(method, f"/api/sandboxes/sb-unknown/{path}", json={})
        assert refusal(answer) == (404, "not_found")
    assert refusal(http.post(f"/api/sandboxes/{neighbour}/exec/run", json={})) == (400, "bad_request")
    for timeout in (-1, 86401, 1.5, "long"):
        answer = http.post(f"/api/sandboxes/{neighbour}/exec/run", json={"cmd": "true", "timeout": timeout})
        assert answer.status_code == 400


def test_an_environment_of_ten_megabytes_is_refused_and_nothing_runs(
    http: httpx.Client, neighbour: str
) -> None:
    answer = http.post(
        f"/api/sandboxes/{neighbour}/exec/run",
        json={"cmd": "touch /tmp/ran", "envs": {"BIG": "x" * 10_000_000}},
    )
    assert answer.status_code == 400, answer.text
    assert run(http, neighbour, "test -e /tmp/ran")["exitCode"] == 1


def test_paths_are_resolved_inside_the_guest(http: httpx.Client, neighbour: str) -> None:
    files = f"/api/sandboxes/{neighbour}/files"
    up = "../" * 40
    host_name = http.get(files, params={"path": f"{up}etc/hostname"})
    assert host_name.text.strip() == run(http, neighbour, "hostname")["stdout"].strip()
    assert host_name.text.strip() != socket.gethostname()
    assert http.put(files, params={"path": f"{up}tmp/mark"}, content=b"in the guest").status_code == 204
    assert run(http, neighbour, "cat /tmp/mark")["stdout"] == "in the guest"
    for path in ("a\0b", ""):
        assert refusal(http.get(files, params={"path": path})) == (400, "bad_request")
    for path in ("/", "/proc", "/sys", "/dev", "/workspace/..", "/proc/../proc"):
        assert http.delete(files, params={"path": path}).status_code == 400, path


def test_an_interrupted_upload_leaves_the_old_content(
    fleet: LiveFleet, http: httpx.Client, neighbour: str
) -> None:
    files = f"/api/sandboxes/{neighbour}/files"
    assert http.put(files, params={"path": "/workspace/kept"}, content=b"old").status_code == 204
    with upload_begun(fleet, f"{files}?path=/workspace/kept", length=50_000_000) as line:
        line.sendall(b"n" * 3_000_000)
        time.sleep(1)
    assert http.get(files, params={"path": "/workspace/kept"}).content == b"old"
    wait_until(
        lambda: run(http, neighbour, "ls -A /workspace")["stdout"].split() == ["kept"],
        timeout_s=60,
        what="nothing but the old file to be there",
    )
    assert http.get(files, params={"path": "/workspace/kept"}).content == b"old"


def test_a_file_above_the_limit_is_refused_at_its_announcement(
    fleet: LiveFleet, http: httpx.Client, neighbour: str
) -> None:
    files = f"/api/sandboxes/{neighbour}/files"
    with upload_begun(fleet, f"{files}?path=/workspace/huge", length=2 * GIB + 1) as line:
        line.sendall(b"x" * 65536)
        answer = HTTPResponse(line)
        answer.begin()
        refusal = json.loads(answer.read())
    assert answer.status == 413
    assert refusal["code"] == "too_large"
    assert http.get(files, params={"path": "/workspace/huge"}).status_code == 404


def test_output_that_is_no_text_comes_back_as_text(http: httpx.Client, neighbour: str) -> None:
    body = run(http, neighbour, r"printf '\377\376\300\200ok'; head -c 100000 /dev/urandom >&2")
    assert body["stdout"].endswith("ok")
    assert "\ufffd" in body["stdout"]
    assert body["exitCode"] == 0


def test_a_command_that_is_none_is_told_apart_from_one_that_fails(http: httpx.Client, neighbour: str) -> None:
    answer = http.post(
        f"/api/sandboxes/{neighbour}/exec/run", json={"cmd": "/no/such/program", "args": ["x"]}
    )
    assert refusal(answer) == (400, "exec_failed")
    assert run(http, neighbour, "/no/such/program")["exitCode"] == 127
