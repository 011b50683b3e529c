"""`python -m sandfleet.testing.simulate` runs seeds of the simulated fleet, or replays one."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

from sandfleet.testing.simulation.running import run_seed, without_pauses_for_garbage

BLOCK = 20
"""How many seeds a process takes at a time."""


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if a seed fails."""
    options = _options(arguments)
    if options.seed is not None:
        return _replay(options.seed)
    return _search(options.start, options.count, keeps_going=options.keep_going, jobs=options.jobs)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandfleet.testing.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and show its whole trace")
    parser.add_argument("--start", type=int, default=0, help="the first seed of a search")
    parser.add_argument("--count", type=int, default=1000, help="how many seeds to search")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first that fails")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes search at the same time")
    return parser.parse_args(arguments)


def _replay(seed: int) -> int:
    outcome = run_seed(seed, keeps_trace=True)
    for line in outcome.trace:
        _say(line)
    _say(f"digest {outcome.digest}")
    for violation in outcome.violations:
        _say(f"seed {seed}: {violation}")
    return 1 if outcome.violations else 0


def _search(start: int, count: int, *, keeps_going: bool, jobs: int) -> int:
    began, cpu_s, failed, done = time.perf_counter(), 0.0, 0, 0
    blocks = [range(first, min(first + BLOCK, start + count)) for first in range(start, start + count, BLOCK)]
    with ProcessPoolExecutor(jobs) as pool:
        for looked in pool.map(_look, blocks, repeat(keeps_going)):
            done, cpu_s = done + looked.done, cpu_s + looked.cpu_s
            failed += len(looked.failures)
            for failure in looked.failures:
                _say(failure)
            if failed and not keeps_going:
                pool.shutdown(cancel_futures=True)
                break
    took_s = time.perf_counter() - began
    _say(f"{done} seeds in {took_s:.1f} s ({done / cpu_s:.1f} seeds for each second of CPU), {failed} failed")
    return 1 if failed else 0


@dataclass(frozen=True, slots=True)
class _Looked:
    """What came of one block of seeds."""

    done: int
    cpu_s: float
    failures: tuple[str, ...]


def _look(seeds: range, keeps_going: bool) -> _Looked:
    began, done, failures = time.process_time(), 0, []
    for seed in seeds:
        with without_pauses_for_garbage():
            outcome = run_seed(seed)
        done += 1
        if outcome.violations:
            failures.append(f"seed {seed}: {outcome.violations[0]}" if keeps_going else outcome.report())
            if not keeps_going:
                break
    return _Looked(done, time.process_time() - began, tuple(failures))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
