"""An EC2 for tests: moto's server, and in front of it what moto lacks.

That is the promise of client tokens, errors that a real account meets, and what EC2 says of spot requests.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def error_body(code: str, message: str) -> bytes:
    """EC2's form of an error."""
    return (
        f"<?xml version='1.0' encoding='UTF-8'?><Response><Errors><Error><Code>{code}</Code>"
        f"<Message>{message}</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
    ).encode()


class Front:
    """Stands before moto. What the next calls of an action get is set here."""

    def __init__(self, behind: Wsgi) -> None:
        self._behind = behind
        self._lock = threading.Lock()
        self._tokens: dict[str, bytes] = {}
        self.answers: dict[str, deque[tuple[int, bytes]]] = {}
        """By action: answers that come instead of moto's."""
        self.lost: set[str] = set()
        """Actions that are carried out once more and answered with an error of the server."""
        self.calls: list[dict[str, str]] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        action = form.get("Action", "")
        with self._lock:
            self.calls.append(form)
            waiting = self.answers.get(action)
            if waiting:
                return _answer(start, *waiting.popleft())
            token = form.get("ClientToken", "") if action == "RunInstances" else ""
            if token in self._tokens:
                return _answer(start, 200, self._tokens[token])
            status, content = self._pass_on(environ)
            if token and status == 200:
                self._tokens[token] = content
            if action in self.lost:
                self.lost.discard(action)
                return _answer(start, 503, error_body("Unavailable", "later"))
        return _answer(start, status, content)

    def _pass_on(self, environ: dict[str, Any]) -> tuple[int, bytes]:
        seen: list[str] = []

        def note(status: str, headers: object, *more: object) -> None:
            seen.append(status)

        content = b"".join(self._behind(environ, note))
        return int(seen[0].split()[0]), content


def _answer(start: Callable[..., Any], status: int, body: bytes) -> list[bytes]:
    start(f"{status} Said", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def serving() -> Iterator[tuple[str, Front]]:
    """Run it; yield its URL and what can be set on it."""
    front = Front(DomainDispatcherApplication(create_backend_app))  # type: ignore[no-untyped-call]
    server = make_server("127.0.0.1", 0, front, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", front
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
