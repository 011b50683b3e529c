"""`image build`, `list`, `prune`: this machine's guest images; `promote`: a version of the workers'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandfleet.cli.options import AsJson, DataDir
from sandfleet.cli.output import say, show_json, show_table, size, tell
from sandfleet.cli.rollout import begin

app = typer.Typer(
    help="The guest images of this machine, and the version of the workers' image.", no_args_is_help=True
)
app.command("promote")(begin)


@app.command("build")
def build(
    name: Annotated[str, typer.Argument(help="The name it gets.")] = "base",
    *,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Install Debian anew, with its updates.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build the guest image, unless it is up to date; it is booted once before it is accepted."""
    from sandfleet.cli.errors import CommandFailed
    from sandfleet.images.build import build_image
    from sandfleet.local.image import images_dir
    from sandfleet.model.errors import SandfleetError

    try:
        image = build_image(name, images_dir=images_dir(), progress=tell, refresh=refresh)
    except SandfleetError as error:
        raise CommandFailed(error.message) from error
    if as_json:
        show_json({"name": image.name, "digest": image.digest, "sizeBytes": image.size_bytes})


@app.command("list")
def list_all(*, as_json: AsJson = False) -> None:
    """Show the images of this machine."""
    from sandfleet.images.installed import list_images
    from sandfleet.local.image import images_dir

    images = list_images(images_dir())
    if as_json:
        show_json(
            [
                {
                    "name": image.name,
                    "digest": image.digest,
                    "current": image.is_current,
                    "sizeBytes": image.size_bytes,
                    "kernel": image.manifest.kernel,
                }
                for image in images
            ]
        )
        return
    rows = [
        (i.name, i.digest[:12], "yes" if i.is_current else "", size(i.size_bytes), i.manifest.kernel)
        for i in images
    ]
    show_table(
        ("NAME", "DIGEST", "CURRENT", "SIZE", "KERNEL"), rows, empty="no image: `sandfleet image build`"
    )


@app.command("prune")
def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove images and templates, older than an hour, that are not current and that nothing stands on."""
    from sandfleet.cli.errors import CommandFailed
    from sandfleet.local.prune import prune as remove_unused
    from sandfleet.model.errors import SandfleetError

    def report(kind: str, path: Path, size_bytes: int) -> None:
        if not as_json:
            say(f"{'would remove' if dry_run else 'removing'} {kind} {path} ({size(size_bytes)})")

    try:
        unused = remove_unused(data_dir, dry_run=dry_run, report=report)
    except (SandfleetError, OSError) as error:
        raise CommandFailed(f"nothing more is removed: {error}") from error
    if as_json:
        removed = [{"kind": u.kind, "path": str(u.path), "sizeBytes": u.size_bytes} for u in unused]
        show_json({"dryRun": dry_run, "removed": removed})
    elif not unused:
        tell("nothing to remove")
