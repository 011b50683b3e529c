"""`cp`: copy files and directories into a sandbox or out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandfleet.cli.options import ApiKey, AsJson, Url

if TYPE_CHECKING:
    from sandfleet.cli.copy_paths import LocalPath, RemotePath, StandardStream
    from sandfleet_sdk import Client


def cp(
    source: Annotated[str, typer.Argument(help="FILE, SANDBOX:PATH, or - for standard input.")],
    destination: Annotated[str, typer.Argument(help="FILE, SANDBOX:PATH, or - for standard output.")],
    *,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Copy files and whole directories into a sandbox or out of it."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.copy_paths import RemotePath, StandardStream, parse_places
    from sandfleet.cli.errors import CommandFailed, ExitCode
    from sandfleet.cli.output import show_json

    origin, target = parse_places(source, destination)
    if as_json and isinstance(target, StandardStream):
        raise CommandFailed("--json and a copy to standard output would mix", code=ExitCode.USAGE)
    with connect(url, api_key) as client:
        try:
            if isinstance(target, RemotePath):
                copied = _copy_in(client, origin, target)
            else:
                copied = _copy_out(client, origin, target)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CommandFailed(f"{error.filename or source}: {error.strerror or error}") from error
    if as_json:
        show_json({"source": source, "destination": destination, **copied})


def _copy_in(
    client: Client, origin: LocalPath | RemotePath | StandardStream, target: RemotePath
) -> dict[str, Any]:
    """Upload; return what was copied, as far as it is known."""
    from sandfleet.cli import upload
    from sandfleet.cli.copy_paths import LocalPath
    from sandfleet.cli.output import transfer_progress
    from sandfleet.cli.sandbox_names import resolve

    target = replace(target, sandbox=resolve(client, target.sandbox))
    if not isinstance(origin, LocalPath):
        upload.upload_stream(client, target)
        return {"files": 1, "bytes": None}
    plan = upload.plan_upload(client, origin, target)
    with transfer_progress(str(origin.path), total_bytes=plan.total_bytes) as (bar, task):
        upload.upload(client, plan, target.sandbox, advance=lambda n: bar.advance(task, n))
    return {"files": len(plan.files), "bytes": plan.total_bytes}


def _copy_out(
    client: Client,
    origin: LocalPath | RemotePath | StandardStream,
    target: LocalPath | RemotePath | StandardStream,
) -> dict[str, Any]:
    """Download; return what was copied, as far as it is known."""
    from sandfleet.cli import download
    from sandfleet.cli.copy_paths import LocalPath, RemotePath
    from sandfleet.cli.output import transfer_progress
    from sandfleet.cli.sandbox_names import resolve

    if not isinstance(origin, RemotePath):
        raise TypeError("one of the two is in a sandbox")
    origin = replace(origin, sandbox=resolve(client, origin.sandbox))
    if not isinstance(target, LocalPath):
        download.download_stream(client, origin)
        return {}
    plan = download.plan_download(client, origin, target)
    with transfer_progress(origin.path, total_bytes=plan.total_bytes) as (bar, task):
        download.download(client, plan, origin.sandbox, advance=lambda n: bar.advance(task, n))
    return {"files": len(plan.files), "bytes": plan.total_bytes}
