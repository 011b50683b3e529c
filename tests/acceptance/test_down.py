"""`down --stop-sandboxes` on a fleet that does not do its part: it ends all the same, and says how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from tests.acceptance.census import qemu_processes
from tests.acceptance.live_fleet import COMMAND, start_fleet

from sandfleet.testing.disposable_fleets import disposable_directory

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
ENDS_WITHIN_S = 240.0
"""Half a minute in which nothing ends, and what each process of the fleet is given; on a busy machine."""


def test_a_worker_that_stands_still_costs_half_a_minute_and_its_vms_end_on_the_host() -> None:
    with disposable_directory("sandfleet-down") as data_dir:
        fleet = start_fleet(data_dir)
        with fleet.client() as http:
            assert http.post("/api/sandboxes", json={}).status_code == 201
        assert qemu_processes(fleet)
        state = json.loads((data_dir / "state.json").read_text())
        (worker,) = [one["process"]["pid"] for one in state["services"] if one["kind"] == "worker"]
        os.kill(worker, signal.SIGSTOP)
        begun = time.monotonic()
        done = subprocess.run(
            [COMMAND, "down", "--stop-sandboxes", "--json", "--data-dir", str(data_dir)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        took_s = time.monotonic() - begun
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"stopped": True, "sandboxesEnded": 1}
        assert "did not end by themselves" in done.stderr
        assert "1 sandboxes were ended by force" in done.stderr
        assert took_s < ENDS_WITHIN_S
        assert qemu_processes(fleet) == {}
        assert not list(data_dir.glob("workers/*/machines/*"))
