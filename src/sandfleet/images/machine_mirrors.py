"""Reads this machine's apt sources. Run as a program it prints the Debian mirror they name.

Standard library only: the set-up runs it before there is a virtual environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sandfleet.images.apt_sources import (
    Mirrors,
    debian_codename,
    debian_mirrors,
    mirror_list_paths,
    parse_sources,
)


def machine_mirrors(etc: Path = Path("/etc")) -> Mirrors:
    """Return the Debian mirrors that this machine's own apt sources name."""
    paths = [etc / "apt/sources.list", *sorted((etc / "apt/sources.list.d").glob("*"))]
    readable = [path for path in paths if path.suffix in (".list", ".sources") and path.is_file()]
    sources = parse_sources({str(path): path.read_text(errors="replace") for path in readable})
    lists = {path: Path(path).read_text() for path in mirror_list_paths(sources) if Path(path).is_file()}
    release = (etc / "os-release").read_text() if (etc / "os-release").is_file() else ""
    return debian_mirrors(sources, codename=debian_codename(release), mirror_lists=lists)


if __name__ == "__main__":
    sys.stdout.write(f"{machine_mirrors().main}\n")
