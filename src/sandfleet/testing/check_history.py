"""Check recorded histories: `python -m sandfleet.testing.check_history FILE...`.

Ends with 0 when all are linearizable, 1 when one is not, 2 when a file is no history.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sandfleet.testing.histories.judgement import judge
from sandfleet.testing.histories.records import MalformedHistory, parse


def main(arguments: Sequence[str]) -> int:
    """Judge the files together, as one history."""
    if not arguments:
        sys.stderr.write("usage: python -m sandfleet.testing.check_history FILE...\n")
        return 2
    try:
        records = parse(line for name in arguments for line in Path(name).read_text().splitlines())
    except (OSError, MalformedHistory) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    judgement = judge(records)
    sys.stdout.write(judgement.describe() + "\n")
    return 0 if judgement.is_linearizable else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
