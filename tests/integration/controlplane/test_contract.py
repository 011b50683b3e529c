"""The published document against the server that published it, by a fuzzer that knows only the document."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from .conftest import BOOTSTRAP_KEY, Fleet

CONFIGURATION = """
[parameters]
id = "{sandbox}"
sid = "{execution}"
"""
NOT_CHECKED = "use_after_free"
"""A killed sandbox can still be read: that is the contract, not a leak."""


async def fuzz(fleet: Fleet, directory: Path, *arguments: str) -> str:
    """Run the fuzzer in a process of its own; return what it says if it found something."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *arguments, f"{fleet.url}/openapi.json"),
        *("-H", f"X-API-Key: {BOOTSTRAP_KEY}", "--seed", "7", "--no-color"),
        *("--checks", "all", "--exclude-checks", NOT_CHECKED, "--request-timeout", "30"),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said.decode() if process.returncode else ""


@pytest.mark.timeout(180)
async def test_whole_contract(fleet: Fleet, tmp_path: Path) -> None:
    assert not await fuzz(fleet, tmp_path, "run", "--max-examples", "10")


@pytest.mark.timeout(180)
async def test_the_data_plane_of_a_living_sandbox(fleet: Fleet, tmp_path: Path) -> None:
    sandbox = await fleet.create()
    made = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run-async", json={"cmd": "sleep 60"})
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(
        CONFIGURATION.format(sandbox=sandbox, execution=made.json()["execId"]), encoding="utf-8"
    )
    said = await fuzz(
        fleet,
        tmp_path,
        *("--config-file", str(configuration), "run", "--max-examples", "15"),
        *("--phases", "coverage,fuzzing", "--exclude-method", "DELETE", "--include-path-regex", "^/sandboxes/"),
    )
    assert not said
