"""`migrate`: a sandbox goes on at another worker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json, size, tell

if TYPE_CHECKING:
    from sandfleet_sdk import Client, Migration

_LOOK_EVERY_S = 1.0


def migrate(
    sandbox: SandboxName,
    *,
    to: Annotated[
        str | None, typer.Option("--to", metavar="WORKER", help="Its new worker. Default: the fleet chooses.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Move a running sandbox to another worker; it works on meanwhile. Needs the scope `admin`."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, connect(url, api_key) as other:
        sandbox_id = resolve(client, sandbox)
        with ThreadPoolExecutor(max_workers=1) as moving:
            moved = moving.submit(client.sandboxes.migrate, sandbox_id, to or "*")
            for line in _progress(other, sandbox_id, moved):
                if not as_json:
                    tell(line)
        done = moved.result()
    if as_json:
        show_json(dict(done.raw))
        return
    say(
        f"{sandbox_id} moved from {done.source_worker} to {done.target_worker} "
        f"in {done.elapsed_ms / 1000:.1f} s; it stood still for {done.downtime_ms} ms"
    )


def _progress(client: Client, sandbox_id: str, moved: Future[Migration]) -> Iterator[str]:
    """Yield what is new of the move, until it has ended."""
    from sandfleet_sdk import NotFound, Unavailable

    last = ""
    while not wait([moved], timeout=_LOOK_EVERY_S).done:
        try:
            now = client.sandboxes.migration(sandbox_id)
        except (NotFound, Unavailable):  # not begun, or over
            continue
        counts = f"{size(now.transferred_bytes)} sent, {size(now.remaining_bytes)} left"
        line = f"{now.step} {now.phase}: {counts}" if now.phase else now.step
        line = f"{line} ({now.said})" if now.said else line
        if line != last:
            last = line
            yield line
