"""The table of results, with what it was measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from bench.samples import Row

HEAD = "| what | n | product p50 / p99 | floor p50 / p99 | ratio | target | met |"
_RULE = "|---|---|---|---|---|---|---|"


def page(rows: Sequence[Row], *, facts: Mapping[str, str], at: datetime, missing: Mapping[str, str]) -> str:
    """Return bench/RESULTS.md; `missing` says of rows by their name why they were not measured."""
    lines = [
        "<!-- Made by `make bench`. Do not edit. -->",
        "",
        "# Benchmark results",
        "",
        f"Measured on {at:%Y-%m-%d %H:%M} UTC.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
        HEAD,
        _RULE,
        *(_line(row) for row in rows),
        *(_missing_line(name, reason) for name, reason in missing.items()),
        "",
        "p99 is the maximum where fewer than 100 were measured. The floor is the least that any system",
        "must pay for the same work here; both sides ran in turn in the same minutes. What each floor is:",
        "",
        *(f"- **{row.what}**: {row.floor_is}.{' ' + row.note if row.note else ''}" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    product = f"{_number(row.product.median)} / {_number(row.product.p99)} {row.unit}"
    floor = f"{_number(row.floor.median)} / {_number(row.floor.p99)} {row.unit}"
    cells = [row.what, str(len(row.product.values)), product, floor, f"{row.ratio:.2f}", row.target]
    return "| " + " | ".join([*cells, "yes" if row.meets else "no"]) + " |"


def _missing_line(name: str, reason: str) -> str:
    cells = [f"`{name}`", "0", "**not measured**: " + reason.replace("|", "/"), "", "", "", "no"]
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def machine_facts() -> dict[str, str]:
    """Return what this machine is."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "machine": f"{os.cpu_count()} x {cpu.group(1) if cpu else platform.machine()}, "
        f"{int(memory.group(1)) // 1024 // 1024 if memory else 0} GiB",
        "host": f"{_os_name()}, kernel {platform.release()}",
        "QEMU": _first_line(["qemu-system-x86_64", "--version"]),
        "Python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _os_name() -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', Path("/etc/os-release").read_text(), re.MULTILINE)
    return name.group(1) if name else "unknown"


def _first_line(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
