"""HAProxy before the servers: its configuration, and how it is started.

Facts of the contract that its time-outs follow:
- A data-plane call may wait 90 s for its sandbox before the first byte; a command that runs longer is
  padded every 10 s; a file or stream that moves nothing for five minutes is dead.
- A terminal or preview socket may be silent for hours, so tunnels have the longest time-out.
- A server says 503 at `/readyz` for a moment before it stops taking requests: checks are frequent enough
  that two of them fit into that moment.
A request whose connection was refused was not sent, so it goes to another server, whatever its method.
Everything else is the client's to repeat, with its `Idempotency-Key`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from sandfleet.local import ports
from sandfleet.local.accounts import ServiceUid
from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.service_process import ServiceCommand, ServiceFailed

PROGRAM = "haproxy"
_PLACES = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"
_PATIENCE_S = 5.0
_ERRORS = {
    400: ("bad_request", "the load balancer could not read the request"),
    408: ("request_timeout", "the request took too long to arrive"),
    500: ("internal", "the load balancer failed"),
    502: ("bad_gateway", "the server broke off its answer"),
    503: ("unavailable", "no server takes requests"),
    504: ("gateway_timeout", "the server did not answer in time"),
}
_RETRY_AFTER = {503: "Retry-After: 1\r\n"}


def find_program() -> Path | None:
    """Return the program, None when it is not installed."""
    found = shutil.which(PROGRAM, path=_PLACES)
    return Path(found) if found else None


class LocalBalancer:
    """The files of one HAProxy and how it is started."""

    def __init__(self, data_dir: Path, *, log_path: Path) -> None:
        self.data_dir = data_dir
        self.log_path = log_path
        self.config_file = data_dir / "haproxy.cfg"

    def prepare(self, *, host: str, port: int, servers: Sequence[tuple[str, int]]) -> str:
        """Write what it reads, and return the configuration. `servers`: name and port of each."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.chmod(0o711)
        for status, (code, message) in _ERRORS.items():
            write_atomically(self._error_file(status), _error_answer(status, code, message), mode=0o644)
        text = self._configuration(host, port, servers)
        write_atomically(self.config_file, text.encode(), mode=0o644)
        return text

    def command(self) -> ServiceCommand:
        """Return how it is started."""
        program = find_program()
        if program is None:
            raise ServiceFailed(
                "several servers need HAProxy before them, and it is not installed: run `make setup`"
            )
        return ServiceCommand(
            name="balancer",
            argv=[str(program), "-db", "-f", str(self.config_file)],
            log_path=self.log_path,
            environment={"PATH": "/usr/bin:/bin"},
            patience_s=_PATIENCE_S,
        )

    def _error_file(self, status: int) -> Path:
        return self.data_dir / f"{status}.http"

    def _configuration(self, host: str, port: int, servers: Sequence[tuple[str, int]]) -> str:
        # It binds its port as root and is nobody of importance afterwards.
        account = (
            f"    uid {ServiceUid.BALANCER}\n    gid {ServiceUid.BALANCER}\n" if os.geteuid() == 0 else ""
        )
        errors = "".join(f"    errorfile {status} {self._error_file(status)}\n" for status in _ERRORS)
        lines = "".join(f"    server {name} {ports.LOOPBACK}:{own} check\n" for name, own in servers)
        return f"""global
{account}    log stdout format raw daemon notice
    fd-hard-limit 50000
    tune.bufsize 65536

defaults
    mode http
    log global
    option http-no-delay
    option redispatch 1
    retries 3
    retry-on conn-failure
    timeout connect 2s
    timeout client 300s
    timeout server 300s
    timeout http-request 30s
    timeout http-keep-alive 75s
    timeout tunnel 24h
    timeout queue 5s
    timeout check 3s
{errors}
frontend api
    bind {_address(host)}:{port}
    default_backend servers

backend servers
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
    default-server inter 500ms fastinter 100ms downinter 200ms fall 2 rise 1
{lines}"""


def _address(host: str) -> str:
    if host == "0.0.0.0":
        return "*"
    return f"[{host}]" if ":" in host else host


def _error_answer(status: int, code: str, message: str) -> bytes:
    """Return a whole answer in the API's form; only a server could give it a request id."""
    body = json.dumps({"error": message, "code": code, "requestId": ""})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\n{_RETRY_AFTER.get(status, '')}\r\n"
    )
    return (head + body).encode()
