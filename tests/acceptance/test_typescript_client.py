"""The published TypeScript client, unmodified: `typescript/tour.test.mjs` run by Node."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.live_fleet import LiveFleet

FOLDER = Path(__file__).parent / "typescript"
FILES = ("package.json", "package-lock.json", "tour.test.mjs")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client installed from the lock file into a directory outside the source tree."""
    if shutil.which("npm") is None:
        pytest.fail("npm is missing: `make setup` installs Node.js for this test")
    folder = tmp_path_factory.mktemp("typescript")
    for name in FILES:
        shutil.copy(FOLDER / name, folder / name)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.mark.timeout(240)
def test_the_tour(fleet: LiveFleet, project: Path) -> None:
    environment = os.environ | {
        "OPENCOMPUTER_API_URL": fleet.url,
        "OPENCOMPUTER_API_KEY": fleet.api_key,
        "NO_COLOR": "1",
    }
    command = ["node", "--test", "--test-reporter=tap", "tour.test.mjs"]
    tour = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert tour.returncode == 0, tour.stdout[-8000:] + tour.stderr[-2000:]
    assert "# fail 0" in tour.stdout
    assert "# skipped 0" in tour.stdout
