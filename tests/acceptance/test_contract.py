"""The published contract, fuzzed from the server's own document against a sandbox that is a real VM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.census import take_census, wait_for_no_leak
from tests.acceptance.live_fleet import LiveFleet

CONFIGURATION = """
[parameters]
id = "{sandbox}"
sid = "{execution}"
"""
USED_ALIVE = r"^/api/sandboxes/\{id\}($|/(exec|commands|files|pty|timeout|stats|tags|preview|token|events))"
"""What is asked of a sandbox that stays alive. Verbs that save, move or restart it are fuzzed on a fake host,
where they take no time and do not run out of memory."""
UNKNOWABLE = "positive_data_acceptance"
"""Whether a program or a file exists is nothing that a document can say."""


@pytest.mark.timeout(600)
def test_every_answer_about_a_living_sandbox_is_one_that_the_document_promises(
    fleet: LiveFleet, tmp_path: Path
) -> None:
    before = take_census(fleet)
    with fleet.client() as http:
        sandbox = http.post("/api/sandboxes", json={}).json()["sandboxID"]
        path = f"/api/sandboxes/{sandbox}"
        begun = http.post(f"{path}/exec/run-async", json={"cmd": "sleep 580", "timeout": 700})
        configuration = CONFIGURATION.format(sandbox=sandbox, execution=begun.json()["execId"])
        (tmp_path / "schemathesis.toml").write_text(configuration)
        said = _fuzz(fleet, tmp_path)
        assert http.get(path).json()["status"] == "running"
        assert http.post(f"{path}/exec/run", json={"cmd": "echo alive"}).json()["stdout"] == "alive\n"
        assert http.delete(path).status_code == 204
    assert not said, said
    wait_for_no_leak(before, fleet)


def _fuzz(fleet: LiveFleet, directory: Path) -> str:
    """Run the fuzzer in a process of its own; return what it says if it found something."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(directory / "schemathesis.toml"),
    ]
    command += ["run", f"{fleet.url}/openapi.json", "-H", f"X-API-Key: {fleet.api_key}"]
    command += ["--seed", "11", "--no-color", "--phases", "fuzzing", "--max-examples", "8"]
    command += ["--checks", "all", "--exclude-checks", UNKNOWABLE, "--request-timeout", "60"]
    command += ["--exclude-method", "DELETE", "--include-path-regex", USED_ALIVE]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=560, check=False)
    return (done.stdout + done.stderr)[-20_000:] if done.returncode else ""
