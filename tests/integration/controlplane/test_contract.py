"""The published document against the server that published it, by a fuzzer that knows only the document."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from .conftest import BOOTSTRAP_KEY, Fleet, OpenFleet

CONFIGURATION = """
[parameters]
id = "{sandbox}"
sid = "{execution}"
"""
NOT_A_LEAK = "use_after_free"
"""A killed sandbox can still be read: that is the contract."""
ENDLESS = "/admin/events"
"""A stream for as long as its reader stays: the list that it is made of is asked for in its place."""
UNKNOWABLE = "positive_data_acceptance"
"""Whether a template, a program or a file exists is nothing that a document can say."""


async def fuzz(fleet: Fleet, directory: Path, *arguments: str) -> str:
    """Run the fuzzer in a process of its own; return what it says if it found something."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *arguments, f"{fleet.url}/openapi.json"),
        *("-H", f"X-API-Key: {BOOTSTRAP_KEY}", "--seed", "7", "--no-color"),
        *("--exclude-path", ENDLESS),
        *("--checks", "all", "--exclude-checks", f"{NOT_A_LEAK},{UNKNOWABLE}", "--request-timeout", "60"),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said.decode() if process.returncode else ""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--max-examples", "2", "--phases", "fuzzing,stateful"), id="chosen values"),
        pytest.param(
            ("--phases", "coverage", "--include-path-regex", "^/api/sandboxes$"), id="create at its limits"
        ),
        # Minutes, and nearly all of it in the fuzzer itself.
        pytest.param(("--max-examples", "5"), id="every limit of everything", marks=pytest.mark.chaos),
    ],
)
async def test_the_whole_contract(open_fleet: OpenFleet, tmp_path: Path, options: tuple[str, ...]) -> None:
    async with open_fleet(memory_budget_mib=2**30, creation_queue_s=2) as fleet:
        said = await fuzz(fleet, tmp_path, "run", *options)
    assert not said, said


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--max-examples", "4", "--phases", "fuzzing"), id="chosen values"),
        pytest.param(
            ("--max-examples", "6", "--phases", "coverage,fuzzing"), id="every limit", marks=pytest.mark.chaos
        ),
    ],
)
async def test_the_data_plane_of_a_living_sandbox(
    fleet: Fleet, tmp_path: Path, options: tuple[str, ...]
) -> None:
    sandbox = await fleet.create()
    made = await fleet.client.post(
        f"/api/sandboxes/{sandbox}/exec/run-async", json={"cmd": "sleep 600", "timeout": 900}
    )
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(
        CONFIGURATION.format(sandbox=sandbox, execution=made.json()["execId"]), encoding="utf-8"
    )
    said = await fuzz(
        fleet,
        tmp_path,
        *("--config-file", str(configuration), "run", *options),
        *("--exclude-method", "DELETE", "--include-path-regex", "^/sandboxes/"),
    )
    assert not said, said
