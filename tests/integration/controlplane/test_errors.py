"""Error bodies, their texts and codes, and the order in which things are checked."""

from __future__ import annotations

import re
from typing import Any

from sandfleet.model.ids import sandbox_id

from .conftest import Fleet

UNKNOWN = sandbox_id(b"\x00" * 16)
WRONG_KEY = "osb_" + "a" * 40


async def problem(fleet: Fleet, method: str, path: str, **given: Any) -> tuple[int, str, str]:
    answer = await fleet.client.request(method, path, **given)
    body = answer.json()
    assert body["requestId"] == answer.headers["X-Request-Id"]
    assert set(body) <= {"error", "code", "requestId", "details"}
    return answer.status_code, body["code"], body["error"]


async def test_credentials(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    token = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["token"]
    other = await fleet.create()
    cases: list[tuple[dict[str, str], str, tuple[int, str, str]]] = [
        ({}, "/api/sandboxes", (401, "missing_api_key", "missing API key")),
        ({"X-API-Key": WRONG_KEY}, "/api/sandboxes", (403, "invalid_api_key", "invalid API key")),
        ({"X-API-Key": "a.b.c"}, "/api/sandboxes", (401, "invalid_token", "invalid sandbox token")),
        (
            {"Authorization": f"Bearer {WRONG_KEY}"},
            "/api/sandboxes",
            (401, "invalid_token", "invalid sandbox token"),
        ),
        (
            {"Authorization": f"Bearer {token}"},
            f"/api/sandboxes/{sandbox}",
            (403, "token_scope", "token not valid for this sandbox"),
        ),
        (
            {"Authorization": f"Bearer {token}"},
            f"/sandboxes/{other}/files/list",
            (403, "token_scope", "token not valid for this sandbox"),
        ),
    ]
    async with fleet.anonymous() as client:
        for headers, path, expected in cases:
            answer = await client.get(path, headers=headers)
            body = answer.json()
            assert (answer.status_code, body["code"], body["error"]) == expected


async def test_every_place_of_a_token(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    token = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["token"]
    async with fleet.anonymous() as client:
        for headers, query in (
            ({"Authorization": f"Bearer {token}"}, {}),
            ({"X-API-Key": token}, {}),
            ({}, {"token": token}),
            ({}, {"api_key": token}),
        ):
            for prefix in ("/api/sandboxes", "/sandboxes"):
                answer = await client.get(f"{prefix}/{sandbox}/files/list", headers=headers, params=query)
                assert answer.status_code == 200, answer.text


async def test_the_scope_admin(fleet: Fleet) -> None:
    async with await fleet.other_organisation() as other:
        answer = await other.get("/admin/orgs")
        assert (answer.status_code, answer.json()["error"]) == (403, "admin scope required")
        assert (await other.get("/metrics")).status_code == 403
        workers = (await other.get("/api/workers")).json()
        assert workers[0]["http_addr"] == ""


async def test_paths_and_methods_come_before_credentials(fleet: Fleet) -> None:
    async with fleet.anonymous() as client:
        for path in ("/api/nope", "/admin/nope", "/sandboxes/x/nope", "/nope"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        answer = await client.put("/api/sandboxes")
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await client.get("/api/sandboxes/")).status_code == 401


EARLY: list[tuple[str, dict[str, Any] | None]] = [
    ("POST exec/run", {}),
    ("POST exec/run", {"cmd": ""}),
    ("POST exec/run-async", {"cmd": ""}),
    ("POST timeout", {"timeout": -1}),
    ("GET files", None),
    ("PUT files", None),
    ("DELETE files", None),
    ("POST files/mkdir", None),
    ("GET exec/ex-1/result", None),
]


async def test_an_unknown_sandbox_comes_before_bad_values(fleet: Fleet) -> None:
    expected = (404, "not_found", "sandbox not found")
    for request, body in EARLY:
        method, path = request.split(" ")
        assert await problem(fleet, method, f"/api/sandboxes/{UNKNOWN}/{path}", json=body) == expected
        for name in ("sb-x", "%00", "a%2Fb%2Fc"):
            got = await problem(fleet, method, f"/api/sandboxes/{name}/{path}", json=body)
            assert got[:2] == (404, "not_found"), name


async def test_syntax_comes_before_the_sandbox_and_values_after_its_end(fleet: Fleet) -> None:
    run = f"/api/sandboxes/{UNKNOWN}/exec/run"
    assert (await problem(fleet, "POST", run, content=b"{"))[:2] == (400, "bad_request")
    sandbox = await fleet.create()
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    gone = (410, "gone", f"sandbox {sandbox} has been stopped")
    assert await problem(fleet, "POST", f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": ""}) == gone
    assert await problem(fleet, "GET", f"/api/sandboxes/{sandbox}/files") == gone
    assert await problem(fleet, "POST", f"/api/sandboxes/{sandbox}/timeout", json={"timeout": -1}) == gone
    assert (await problem(fleet, "POST", f"/api/sandboxes/{sandbox}/exec/run", content=b"["))[0] == 400


VALUES: list[tuple[str, dict[str, Any], tuple[int, str, str]]] = [
    ("POST exec/run", {"json": {}}, (400, "bad_request", "cmd is required")),
    ("POST exec/run", {"json": {"cmd": 5}}, (400, "bad_request", "field cmd: .*string")),
    ("POST exec/run", {"json": {"cmd": "x", "timeout": -1}}, (400, "invalid_argument", "timeout .*86400")),
    ("POST exec/run", {"json": {"cmd": "x", "timeout": 86401}}, (400, "invalid_argument", "timeout .*")),
    ("POST exec/run", {"json": {"cmd": "a\0b"}}, (400, "invalid_argument", ".*NUL")),
    ("POST exec/run", {"json": {"cmd": "x", "envs": {"1A": "b"}}}, (400, "invalid_argument", ".*envs.*")),
    (
        "POST timeout",
        {"json": {"timeout": -1}},
        (400, "invalid_argument", "timeout must be zero or positive"),
    ),
    ("POST timeout", {"json": {}}, (400, "bad_request", "timeout is required")),
    ("GET files", {}, (400, "bad_request", "path is required")),
    ("GET files?path=", {}, (400, "bad_request", "path is required")),
    ("GET files?path=/a%00b", {}, (400, "bad_request", ".*NUL")),
    ("GET files?path=/nope", {}, (404, "not_found", ".*/nope.*")),
    ("GET files?path=/", {}, (400, "is_directory", ".*directory.*")),
    ("GET exec/ex-unknown/result", {}, (404, "not_found", ".*")),
]


async def test_values(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    for request, given, (status, code, text) in VALUES:
        method, path = request.split(" ")
        got = await problem(fleet, method, f"/api/sandboxes/{sandbox}/{path}", **given)
        assert got[:2] == (status, code), request
        assert re.fullmatch(text, got[2]), request


CREATES: list[tuple[dict[str, Any], int, str]] = [
    ({"memoryMB": 100}, 400, "memory_out_of_range"),
    ({"memoryMB": 10**12}, 400, "memory_out_of_range"),
    ({"cpuCount": 17}, 400, "cpu_out_of_range"),
    ({"diskMB": 1}, 400, "disk_out_of_range"),
    ({"timeout": -5}, 400, "invalid_argument"),
    ({"timeout": 2**40}, 400, "invalid_argument"),
    ({"templateID": "nope"}, 400, "unknown_template"),
    ({"snapshot": "x"}, 400, "unknown_snapshot"),
    ({"secretStore": "x"}, 400, "unknown_secret_store"),
    ({"image": {"base": "x"}}, 501, "not_available"),
    ({"previewAuth": {"scheme": "bearer", "token": "short"}}, 400, "invalid_argument"),
    ({"envs": {"A B": "x"}}, 400, "invalid_argument"),
    ({"envs": {"A": "x" * 131072}}, 400, "invalid_argument"),
    ({"alias": "x" * 129}, 400, "invalid_argument"),
    ({"alias": "a\0"}, 400, "invalid_argument"),
    ({"metadata": {"a": "x" * 65536}}, 400, "invalid_argument"),
    ({"port": 0}, 400, "invalid_argument"),
    ({"envs": "text"}, 400, "bad_request"),
]


async def test_create_refuses(fleet: Fleet) -> None:
    for body, status, code in CREATES:
        assert (await problem(fleet, "POST", "/api/sandboxes", json=body))[:2] == (status, code), code
    assert (await fleet.client.get("/api/sandboxes?status=all")).json() == []


async def test_sizes_out_of_range_say_the_range(fleet: Fleet) -> None:
    answer = await fleet.client.post("/api/sandboxes", json={"memoryMB": 1})
    assert answer.json()["details"] == {"minMB": 512, "maxMB": 65536, "blockMB": 128}


async def test_bodies_above_the_limit(fleet: Fleet) -> None:
    large = b'{"a":"' + b"x" * (64 * 1024 * 1024) + b'"}'
    assert (await problem(fleet, "POST", "/api/sandboxes", content=large))[:2] == (413, "too_large")


async def test_lists_refuse_what_they_do_not_know(fleet: Fleet) -> None:
    for query in ("status=odd", "limit=0", "limit=x", "cursor=abc", "alias=%00"):
        assert (await problem(fleet, "GET", f"/api/sandboxes?{query}"))[:2] == (400, "invalid_argument")


async def test_the_request_id_is_taken_or_made(fleet: Fleet) -> None:
    answer = await fleet.client.get("/health", headers={"X-Request-Id": "my-id.1_2"})
    assert answer.headers["X-Request-Id"] == "my-id.1_2"
    for bad in ("a b", "x" * 129, "é"):
        answer = await fleet.client.get("/health", headers={"X-Request-Id": bad.encode()})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])


async def test_cors(fleet: Fleet) -> None:
    async with fleet.anonymous() as client:
        asked = {
            "Origin": "https://x",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "x-api-key, authorization",
        }
        answer = await client.options("/api/sandboxes", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Headers"] == "x-api-key, authorization"
        assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
        answer = await client.get("/api/sandboxes", headers={"Origin": "https://x"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
