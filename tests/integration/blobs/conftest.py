"""Object stores for real: a directory, an S3 server, and Azure's emulator installed by npm.

Fact: objects of GCS are read and written by an XML interface that is S3's but for the credential. No
emulator of it comes from a package registry, so the S3 server stands for it, behind a proxy that
puts an S3 credential in the place of the token.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[3] / ".cache" / "azurite"
AZURITE = "azurite@3"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"


def point_at_s3(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let `s3://` lead to `address`."""
    values = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def new_bucket(address: str) -> str:
    """Create a bucket on the S3 server and return its URL."""
    name = f"b-{secrets.token_hex(6)}"
    request = urllib.request.Request(f"{address}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=60):
        return f"s3://{name}/fleet"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server of its own process."""
    port = _free_port()
    program = str(Path(sys.executable).with_name("moto_server"))
    with _serving([program, "-H", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}") as address:
        yield address


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Azure's emulator of Blob Storage, installed once into the project's cache."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, by which Azure's emulator comes")
    program = _installed()
    port = _free_port()
    place = tmp_path_factory.mktemp("azurite")
    argv = [str(program), "--blobPort", str(port), "--location", str(place), "--silent"]
    argv += ["--skipApiVersionCheck", "--blobHost", "127.0.0.1"]
    with _serving(argv, f"http://127.0.0.1:{port}") as address:
        yield address


def new_container(address: str) -> str:
    """Create a container in the emulator and return its URL."""
    name = f"c-{secrets.token_hex(6)}"
    date = format_datetime(datetime.now(UTC), usegmt=True)
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{VERSION}\n"
    signed += f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    url = f"{address}/{ACCOUNT}/{name}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="PUT"), timeout=60):
        return f"az://{name}/fleet"


def point_at_azure(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let `az://` lead to `address`."""
    values = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": address,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def point_at_gcs(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let `gs://` lead to `address`, without a token."""
    account = {
        "gcs_base_url": address,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))


def _installed() -> Path:
    program = CACHE / "node_modules" / ".bin" / "azurite-blob"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            argv = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), AZURITE]
            subprocess.run(argv, check=True, timeout=300, stdout=subprocess.DEVNULL)
    return program


@contextmanager
def _serving(argv: list[str], address: str) -> Iterator[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as server:
        try:
            _wait(server, address)
            yield address
        finally:
            # All of it: the Node.js of the wheel is a child of what was started.
            os.killpg(server.pid, signal.SIGKILL)


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(900):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server does not answer")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
