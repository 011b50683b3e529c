"""How results are shown: tables for people, JSON for programs; what is no result goes to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def tell(line: str) -> None:
    """Print one line that is not the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def show_json(value: Any) -> None:
    """Print a JSON document."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print a table, or one line when there is nothing to show."""
    if not rows:
        tell(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("ID", "SANDBOX"), overflow="fold")
    for row in rows:
        # Text, not markup: names come from users.
        table.add_row(*(Text("-" if cell is None or cell == "" else str(cell)) for cell in row))
    console = Console(soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        console.width = 250
    console.print(table)


@contextmanager
def transfer_progress(
    description: str, *, total_bytes: int | None, is_wanted: bool = True
) -> Iterator[tuple[Progress, TaskID]]:
    """Show a progress bar on standard error when that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (is_wanted and sys.stderr.isatty()),
    )
    with progress:
        yield progress, progress.add_task(description, total=total_bytes)


@contextmanager
def waiting(message: str, *, is_wanted: bool = True) -> Iterator[None]:
    """Show that something takes its time, on a terminal's standard error."""
    if not (is_wanted and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


@contextmanager
def progress(message: str, *, is_wanted: bool = True) -> Iterator[Callable[[float], None]]:
    """Show on a terminal's standard error how much of something is done, as what this yields is told."""
    if not (is_wanted and sys.stderr.isatty()):
        yield lambda share: None
        return
    from rich.console import Console

    with Console(stderr=True).status(message) as status:
        yield lambda share: status.update(f"{message}, {share:.0%} done")


def age(moment: datetime | None, *, now: datetime) -> str:
    """Return how long ago something was, in one unit."""
    if moment is None:
        return "-"
    seconds = max(0, int((now - moment).total_seconds()))
    for unit_s, letter in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if seconds >= unit_s:
            return f"{seconds // unit_s}{letter}"
    return f"{seconds}s"


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{int(value)} {unit}" if unit == "B" else f"{value:.1f} {unit}"
