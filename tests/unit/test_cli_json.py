"""Every command speaks JSON to programs: against a small HTTP server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from sandfleet.cli.main import app

ID = "sb-" + "a" * 26
NO_RESULT = {"server", "completion", "shell", "attach"}
"""They run until they are told to stop, print what a shell reads, or pass a program's own streams on."""


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_every_command_has_help_and_speaks_json() -> None:
    commands = dict(_commands(typer.main.get_command(app)))
    assert len(commands) > 20
    without = {
        name
        for name, command in commands.items()
        if "--json" not in {option for parameter in command.params for option in parameter.opts}
    }
    assert without == NO_RESULT
    assert [name for name, command in commands.items() if not command.help] == []


class _Server(BaseHTTPRequestHandler):
    """Lists an empty directory, one organisation and one key; takes everything else."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + len("\r\n"))
            self.rfile.readline()
        answers: dict[str, Any] = {
            "list": [],
            "orgs": [{"id": "org-1", "name": "default"}],
            "keys": [{"id": "key-1", "name": "mine", "prefix": "osb_abcd", "scopes": ["org"]}],
        }
        body = json.dumps(
            answers.get(self.path.partition("?")[0].rpartition("/")[2], {"entries": []})
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _sandfleet(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandfleet", *words, "--json", "--url", url, "--api-key", "osb_x"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("timeout", ID, "60"), {"sandboxID": ID, "timeout": 60}),
        (("files", "rm", ID, "/x"), {"sandboxID": ID, "removed": "/x"}),
        (("files", "mkdir", ID, "/x"), {"sandboxID": ID, "made": "/x"}),
        (("key", "revoke", "mine"), {"revoked": "key-1"}),
        (
            ("cp", __file__, f"{ID}:/x"),
            {
                "source": __file__,
                "destination": f"{ID}:/x",
                "files": 1,
                "bytes": Path(__file__).stat().st_size,
            },
        ),
    ],
)
def test_what_was_done_is_one_json_document(url: str, words: tuple[str, ...], said: dict[str, Any]) -> None:
    done = _sandfleet(url, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("cp", f"{ID}:/x", "-"), 2, "would mix"),
        (("cp", "/nonexistent", f"{ID}:/x"), 4, "no such file"),
        (("key", "revoke", "other"), 4, "no key"),
    ],
)
def test_a_failure_is_one_json_line_on_standard_error(
    url: str, words: tuple[str, ...], code: int, said: str
) -> None:
    done = _sandfleet(url, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in json.loads(done.stderr)["error"]
