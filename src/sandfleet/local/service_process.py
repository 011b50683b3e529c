"""One service process, started and owned by the caller: wait until ready, stop, kill."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.local.accounts import Account

_POLL_S = 0.02
_LOG_TAIL_BYTES = 2000


class ServiceFailed(Exception):
    """A service did not start; the message carries the end of its log."""


class PortTaken(ServiceFailed):
    """Somebody else listens on the port that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCommand:
    """How a service is started, and how it is asked to end."""

    name: str
    argv: Sequence[str]
    log_path: Path
    environment: Mapping[str, str]
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    patience_s: float = 20.0


def spawn(command: ServiceCommand) -> subprocess.Popen[bytes]:
    """Start the service in its own session, with its output appended to its log."""
    command.log_path.parent.mkdir(parents=True, exist_ok=True)
    with command.log_path.open("ab") as log:
        return subprocess.Popen(
            list(command.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(command.environment),
            cwd="/",
            start_new_session=True,
            **(command.account.popen_arguments() if command.account else {}),
        )


def log_tail(path: Path) -> str:
    """Return the last lines of a log, for an error message."""
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        return log.read().decode(errors="replace").strip()


class ServiceProcess:
    """A running service that this process started."""

    def __init__(self, command: ServiceCommand) -> None:
        self.command = command
        self._process = spawn(command)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self._process.poll() is None

    def wait_ready(self, is_ready: Callable[[int], bool], *, timeout_s: float) -> None:
        """Wait until `is_ready(pid)`; raise `ServiceFailed` when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not is_ready(self.pid):
            if not self.is_alive():
                self._fail(f"ended with code {self._process.returncode}")
            if time.monotonic() > deadline:
                self.kill()
                self._fail(f"was not ready within {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Ask the service to end and wait; kill it when its patience is over."""
        if self.is_alive():
            self._process.send_signal(self.command.stop_signal)
        try:
            self._process.wait(self.command.patience_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the service at once, as a crash would."""
        self._process.kill()
        self._process.wait(10)

    def _fail(self, what: str) -> None:
        tail = log_tail(self.command.log_path)
        raise ServiceFailed(f"{self.command.name} {what}. Its log {self.command.log_path} ends:\n{tail}")
