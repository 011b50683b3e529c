"""`python -m sandfleet.testing.simulate` runs seeds of the simulated fleet, or replays one."""

from __future__ import annotations

import argparse
import sys
import time

from sandfleet.testing.simulation.running import run_seed, without_pauses_for_garbage


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if a seed fails."""
    options = _options(arguments)
    if options.seed is not None:
        return _replay(options.seed)
    return _search(options.start, options.count, keeps_going=options.keep_going)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandfleet.testing.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and show its whole trace")
    parser.add_argument("--start", type=int, default=0, help="the first seed of a search")
    parser.add_argument("--count", type=int, default=1000, help="how many seeds to search")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first that fails")
    return parser.parse_args(arguments)


def _replay(seed: int) -> int:
    outcome = run_seed(seed, keeps_trace=True)
    for line in outcome.trace:
        _say(line)
    _say(f"digest {outcome.digest}")
    for violation in outcome.violations:
        _say(f"seed {seed}: {violation}")
    return 1 if outcome.violations else 0


def _search(start: int, count: int, *, keeps_going: bool) -> int:
    began, began_cpu, failed, done = time.perf_counter(), time.process_time(), 0, 0
    for seed in range(start, start + count):
        with without_pauses_for_garbage():
            outcome = run_seed(seed)
        done += 1
        if outcome.violations:
            failed += 1
            _say(outcome.report() if not keeps_going else f"seed {seed}: {outcome.violations[0]}")
            if not keeps_going:
                break
    took_s = time.perf_counter() - began
    cpu_s = time.process_time() - began_cpu
    speed = f"{done / cpu_s:.1f} seeds for each second of CPU"
    _say(f"{done} seeds in {took_s:.1f} s ({speed}), {failed} failed")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
