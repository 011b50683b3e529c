"""HAProxy as `up` runs it, before two servers that may go away."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from sandfleet.local import ports
from sandfleet.local.balancer import LocalBalancer
from sandfleet.local.service_process import ServiceProcess

WITHIN_S = 60.0


class Server:
    """A server of which readiness and life can be taken."""

    def __init__(self, name: str) -> None:
        self.name, self.is_ready = name, True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            """Answers with the server's name."""

            def do_GET(self) -> None:
                body = outer.name.encode()
                is_refused = self.path == "/readyz" and not outer.is_ready
                self.send_response(503 if is_refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Stay quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.port = self._http.server_address[1]

    def end(self) -> None:
        """Stop listening; twice is as good as once."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def balanced(servers: list[Server]) -> Iterator[httpx.Client]:
    """Run HAProxy before the servers; give a client of it."""
    folder = Path(tempfile.mkdtemp(prefix="sandfleet-balancer-"))
    folder.chmod(0o711)
    balancer = LocalBalancer(folder / "balancer", log_path=folder / "balancer.log")
    port = ports.free_port()
    balancer.prepare(host="127.0.0.1", port=port, servers=[(one.name, one.port) for one in servers])
    process = ServiceProcess(balancer.command())
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            process.wait_ready(lambda _pid: _answers(client), timeout_s=WITHIN_S)
            yield client
    finally:
        process.stop()
        shutil.rmtree(folder)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    pair = [Server("one"), Server("other")]
    yield pair
    for server in pair:
        server.end()


def answered_by(client: httpx.Client, *, requests: int = 20) -> set[str]:
    answers = [client.get("/", headers={"Connection": "close"}) for _ in range(requests)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.text for answer in answers}


def until(condition: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_server_that_says_not_ready_gets_no_more_requests(servers: list[Server]) -> None:
    with balanced(servers) as client:
        until(lambda: answered_by(client) == {"one", "other"}, what="both to answer")
        servers[0].is_ready = False
        until(lambda: answered_by(client) == {"other"}, what="the one to be left out")
        servers[0].is_ready = True
        until(lambda: answered_by(client) == {"one", "other"}, what="both to answer again")


def test_a_server_that_is_gone_costs_no_request(servers: list[Server]) -> None:
    with balanced(servers) as client:
        until(lambda: answered_by(client) == {"one", "other"}, what="both to answer")
        servers[0].end()
        assert answered_by(client, requests=50) == {"other"}


def test_no_server_is_an_error_in_the_api_form_that_asks_to_come_again(servers: list[Server]) -> None:
    with balanced(servers) as client:
        for server in servers:
            server.is_ready = False
        until(lambda: client.get("/").status_code == 503, what="no server to be left")
        answer = client.get("/")
    assert answer.headers["retry-after"] == "1"
    assert json.loads(answer.text)["code"] == "unavailable"
