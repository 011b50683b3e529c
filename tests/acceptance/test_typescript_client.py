"""The published TypeScript client, unmodified: `typescript/tour.test.mjs` run by Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.live_fleet import LiveFleet

FOLDER = Path(__file__).parent / "typescript"
SEARCH_PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Node.js from its wheel in the virtual environment, else the machine's own."""
TOURS = ("tour.test.mjs", "sessions.test.mjs", "saved.test.mjs", "sizes.test.mjs")
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
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.mark.timeout(240)
@pytest.mark.parametrize("file", TOURS)
def test_the_tour(fleet: LiveFleet, project: Path, file: str) -> None:
    environment = os.environ | {
        "OPENCOMPUTER_API_URL": fleet.url,
        "OPENCOMPUTER_API_KEY": fleet.api_key,
        "NO_COLOR": "1",
        "PATH": SEARCH_PATH,
    }
    node = shutil.which("node", path=SEARCH_PATH)
    assert node
    command = [node, *_web_sockets(node), "--test", "--test-reporter=tap", file]
    tour = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert tour.returncode == 0, tour.stdout[-8000:] + tour.stderr[-2000:]
    assert "# fail 0" in tour.stdout
    assert "# skipped 0" in tour.stdout


def _web_sockets(node: str) -> list[str]:
    """Return the option by which an older Node.js has the WebSocket that newer ones always have."""
    version = subprocess.run(
        [node, "--version"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    return ["--experimental-websocket"] if int(version.lstrip("v").split(".")[0]) < 22 else []
