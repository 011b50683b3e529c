"""The published TypeScript client, unmodified: `typescript/tour.test.mjs` run by Node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.acceptance.live_fleet import LiveFleet

FOLDER = Path(__file__).parent / "typescript"
SEARCH_PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Node.js from its wheel in the virtual environment, else the machine's own."""
LONGEST = "tour.test.mjs"
TOURS = ("sessions.test.mjs", "saved.test.mjs", "sizes.test.mjs", LONGEST)
FILES = ("package.json", "package-lock.json", *TOURS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client installed from the lock file into a directory outside the source tree."""
    npm = shutil.which("npm", path=SEARCH_PATH)
    assert npm, "npm is missing: `uv sync --group typescript` installs it"
    folder = tmp_path_factory.mktemp("typescript")
    for name in FILES:
        shutil.copy(FOLDER / name, folder / name)
    command = [npm, "ci", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts"]
    environment = os.environ | {"PATH": SEARCH_PATH}
    installed = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert installed.returncode == 0, installed.stderr
    return folder


Begin = Callable[[str], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def begin(fleet: LiveFleet, project: Path) -> Iterator[Begin]:
    """Start a tour, if it does not run yet; what runs at the end is ended."""
    environment = os.environ | {
        "OPENCOMPUTER_API_URL": fleet.url,
        "OPENCOMPUTER_API_KEY": fleet.api_key,
        "NO_COLOR": "1",
        "PATH": SEARCH_PATH,
    }
    node = shutil.which("node", path=SEARCH_PATH)
    assert node
    command = [node, *_web_sockets(node), "--test", "--test-reporter=tap"]
    begun: dict[str, subprocess.Popen[str]] = {}

    def start(file: str) -> subprocess.Popen[str]:
        if file not in begun:
            begun[file] = subprocess.Popen(
                [*command, file],
                cwd=project,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return begun[file]

    yield start
    for tour in begun.values():
        with suppress(ProcessLookupError):  # all of it: Node.js may be a child of what was started
            os.killpg(tour.pid, signal.SIGKILL)
        if tour.returncode is None:
            tour.communicate()


@pytest.mark.timeout(420)
@pytest.mark.parametrize("file", TOURS)
def test_the_tour(begin: Begin, file: str) -> None:
    begin(LONGEST)  # it sleeps for most of its time, in a sandbox of its own
    tour = begin(file)
    said, _ = tour.communicate(timeout=400)
    assert tour.returncode == 0, said[-10_000:]
    assert "# fail 0" in said
    assert "# skipped 0" in said


def _web_sockets(node: str) -> list[str]:
    """Return the option by which an older Node.js has the WebSocket that newer ones always have."""
    version = subprocess.run(
        [node, "--version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return ["--experimental-websocket"] if int(version.lstrip("v").split(".")[0]) < 22 else []
