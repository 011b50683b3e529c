"""Both colours of the client against a small HTTP server: paths, headers, bodies, errors."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sandfleet_sdk import (
    NO_RETRIES,
    AsyncClient,
    BadAnswer,
    Client,
    Forbidden,
    NotFound,
    SandfleetError,
    Unreachable,
)


@dataclass
class Seen:
    """What the server got."""

    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)


CONTENT = bytes(range(256)) * 5000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: Seen

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _serve(self) -> None:
        self.seen.requests.append((self.command, self.path, self._body()))
        self.seen.headers.append(self.headers)
        status, body = self._answer()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[int, bytes]:
        if "forbidden" in self.path:
            return 403, b'{"error": "admin scope required", "code": "forbidden", "requestId": "r"}'
        if "missing" in self.path:
            return 404, b'{"error": "nothing there", "code": "not_found", "requestId": "r"}'
        if "/files?" in self.path and self.command == "GET":
            return 200, CONTENT
        if "html" in self.path:
            return 200, b"<html>hello</html>"
        if self.path.endswith("/exec/run"):
            return 200, b'  \n {"exitCode": 7, "stdout": "out", "stderr": "err"}'
        return (204, b"") if self.command in ("PUT", "DELETE") else (200, b"[]")

    do_GET = do_POST = do_PUT = do_DELETE = _serve


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def url(seen: Seen) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(5)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "osb_key", retries=NO_RETRIES) as client:
        yield client


def test_the_key_goes_in_its_header_and_the_path_below_api(client: Client, seen: Seen) -> None:
    client.sandboxes.list(status=["running", "creating"], alias="a b")
    method, path, _ = seen.requests[0]
    assert (method, path) == ("GET", "/api/sandboxes?status=running%2Ccreating&alias=a+b&limit=100")
    assert seen.headers[0]["X-API-Key"] == "osb_key"


@pytest.mark.parametrize("suffix", ["", "/", "/api", "/api/"])
def test_the_url_may_end_in_api(url: str, suffix: str, seen: Seen) -> None:
    with Client(url + suffix, "osb_key", retries=NO_RETRIES) as client:
        client.fleet.workers()
    assert seen.requests[0][1] == "/api/workers"


def test_ids_cannot_escape_their_place_in_the_path(client: Client, seen: Seen) -> None:
    client.sandboxes.kill("../workers?x=1")
    assert seen.requests[0][1] == "/api/sandboxes/..%2Fworkers%3Fx%3D1"


def test_admin_paths_lie_outside_api(client: Client, seen: Seen) -> None:
    client.fleet.list_keys("org-1")
    assert seen.requests[0][1] == "/admin/orgs/org-1/keys"


def test_leading_whitespace_of_a_padded_answer_is_skipped(client: Client) -> None:
    result = client.commands.run("sb-1", "x", args=["y"], envs={"A": "b"}, cwd="/", timeout_s=5)
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out", "err")


def test_errors_have_the_class_of_their_status(client: Client) -> None:
    with pytest.raises(NotFound, match="nothing there") as missing:
        client.sandboxes.get("missing")
    assert (missing.value.code, missing.value.request_id) == ("not_found", "r")
    with pytest.raises(Forbidden):
        client.sandboxes.get("forbidden")


def test_an_answer_of_something_else_is_told_apart(client: Client) -> None:
    with pytest.raises(BadAnswer, match="Is the URL right"):
        client.sandboxes.get("html")


def test_downloads_go_to_the_sink_and_their_errors_do_not(client: Client) -> None:
    sink = io.BytesIO()
    client.files.download("sb-1", "/x", sink.write)
    assert sink.getvalue() == CONTENT
    sink = io.BytesIO()
    with pytest.raises(NotFound):
        client.files.download("missing", "/x", sink.write)
    assert sink.getvalue() == b""


def test_uploads_arrive_whole(client: Client, seen: Seen) -> None:
    client.files.upload("sb-1", "/a b", lambda: [CONTENT, b"", CONTENT])
    client.files.write("sb-1", "/e", b"")
    assert seen.requests[0] == ("PUT", "/api/sandboxes/sb-1/files?path=%2Fa+b", CONTENT * 2)
    assert seen.requests[1][2] == b""


async def test_the_awaiting_client_does_the_same(url: str, seen: Seen) -> None:
    sink = io.BytesIO()
    async with AsyncClient(url, "osb_key", retries=NO_RETRIES) as client:
        await client.files.upload("sb-1", "/a", lambda: [CONTENT, CONTENT])
        await client.files.download("sb-1", "/a", sink.write)
        result = await client.commands.run("sb-1", "x")
        with pytest.raises(NotFound):
            await client.sandboxes.get("missing")
    assert seen.requests[0][2] == CONTENT * 2
    assert sink.getvalue() == CONTENT
    assert result.exit_code == 7


def test_nobody_there_is_unreachable() -> None:
    nobody = Client("http://127.0.0.1:9", "k", retries=NO_RETRIES)
    with nobody as client, pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        client.sandboxes.list()


def test_url_and_key_come_from_the_environment(url: str, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SANDFLEET_URL", "SANDFLEET_API_KEY", "OPENCOMPUTER_API_URL", "OPENCOMPUTER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SandfleetError, match="SANDFLEET_URL"):
        Client()
    monkeypatch.setenv("OPENCOMPUTER_API_URL", url)
    monkeypatch.setenv("OPENCOMPUTER_API_KEY", "from-environment")
    with Client() as client:
        client.sandboxes.list()
    assert seen.headers[0]["X-API-Key"] == "from-environment"


def test_a_key_is_never_shown_by_its_value() -> None:
    from sandfleet_sdk import ApiKey

    key = ApiKey.parse({"id": "k1", "name": "n", "prefix": "osb_abc", "key": "osb_secret"})
    assert "osb_secret" not in repr(key)
