"""`cp`: copy files and directories into a sandbox or out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, Url


def cp(
    source: Annotated[str, typer.Argument(help="FILE, SANDBOX:PATH, or - for standard input.")],
    destination: Annotated[str, typer.Argument(help="FILE, SANDBOX:PATH, or - for standard output.")],
    *,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Copy files and whole directories into a sandbox or out of it."""
    from sandfleet.cli import download, upload
    from sandfleet.cli.connection import connect
    from sandfleet.cli.copy_paths import LocalPath, RemotePath, parse_places
    from sandfleet.cli.output import transfer_progress
    from sandfleet.cli.sandbox_names import resolve

    origin, target = parse_places(source, destination)
    with connect(url, api_key) as client:
        if isinstance(target, RemotePath):
            target = replace(target, sandbox=resolve(client, target.sandbox))
            if not isinstance(origin, LocalPath):
                upload.upload_stream(client, target)
                return
            coming = upload.plan_upload(client, origin, target)
            with transfer_progress(source, total_bytes=coming.total_bytes) as (bar, task):
                upload.upload(client, coming, target.sandbox, advance=lambda n: bar.advance(task, n))
        elif isinstance(origin, RemotePath):
            origin = replace(origin, sandbox=resolve(client, origin.sandbox))
            if not isinstance(target, LocalPath):
                download.download_stream(client, origin)
                return
            going = download.plan_download(client, origin, target)
            with transfer_progress(source, total_bytes=going.total_bytes) as (bar, task):
                download.download(client, going, origin.sandbox, advance=lambda n: bar.advance(task, n))
