"""Seeds of the simulated fleet: none breaks an invariant, and the same seed is the same run."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from sandfleet.testing.simulate import main
from sandfleet.testing.simulation.running import run_seed, without_pauses_for_garbage
from sandfleet.testing.simulation.world import Mutations

CHUNK = 20
CHUNKS = 8
PINNED = (76, 277, 592, 649, 1852, 1908, 1992, 2877, 7867)
"""Seeds that found what was then mended: operations that waited for the answer of a host that is no more,
a recovery beside a fork on one, work that a replica was asked to begin at its end, a copy of a change
of size that came when the next was over, a process that was killed and waited for an answer for ever,
and a VM that died on its way to a host that was given up."""


def run_chunk(number: int) -> None:
    """Run the seeds of one chunk; a seed that fails tells its story."""
    for seed in range(number * CHUNK, (number + 1) * CHUNK):
        with without_pauses_for_garbage():
            outcome = run_seed(seed)
        assert not outcome.violations, outcome.report()


@pytest.mark.parametrize("number", range(CHUNKS))
def test_no_seed_breaks_an_invariant(number: int) -> None:
    run_chunk(number)


@pytest.mark.parametrize("seed", PINNED)
def test_what_a_seed_found_stays_mended(seed: int) -> None:
    outcome = run_seed(seed)
    assert not outcome.violations, outcome.report()


def test_machines_are_launched_as_the_load_rises_and_end_when_they_are_empty() -> None:
    """Otherwise the invariants of machines would hold of nothing."""
    story = "\n".join(run_seed(54, keeps_trace=True).trace)
    assert re.search(r"launch-\d+ boots", story)
    assert re.search(r"launch-\d+ is gone", story)


def test_the_same_seed_is_the_same_run() -> None:
    first, again = run_seed(7, keeps_trace=True), run_seed(7, keeps_trace=True)
    assert first.trace == again.trace
    assert first.digest == again.digest
    assert run_seed(8).digest != first.digest


def test_another_process_replays_the_same_run_and_shows_it() -> None:
    """Strings hash differently there: nothing may depend on the order of a set of them."""
    arguments = [sys.executable, "-m", "sandfleet.testing.simulate", "--seed", "7"]
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    shown = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert f"digest {run_seed(7).digest}" in shown.stdout
    assert re.search(r"^ +\d+\.\d{3}  client-\d +asks POST /api/sandboxes", shown.stdout, re.MULTILINE)


def test_a_search_says_how_many_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--start", "3", "--count", "2", "--jobs", "2"]) == 0
    assert re.search(r"2 seeds in .* 0 failed", capsys.readouterr().out)


def test_workers_that_are_drained_or_crowded_all_the_time_lose_nothing() -> None:
    """Nothing else goes wrong here, so that drains and pressure come to their ends: by moves and by sleep."""
    busy = Mutations(
        profile={
            "faults": ("drain worker",),
            "fault_every_s": 6.0,
            "trouble_s": 30.0,
            "hosts": 3,
            "clients": 4,
            "actions": 8,
            "host_memory_mib": 6144,
            "has_objects": True,
        }
    )
    seen = ""
    for seed in range(16):
        with without_pauses_for_garbage():
            outcome = run_seed(seed, mutations=busy, keeps_trace=True)
        assert not outcome.violations, outcome.report()
        seen += "\n".join(outcome.trace)
    for actor in ("drain", "pressure"):
        for event in ("migrate_requested", "hibernate_requested"):
            assert re.search(rf"{event}: .* \(by {actor}:", seen), f"no {event} by {actor} in any seed"
