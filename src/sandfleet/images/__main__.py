"""`python -m sandfleet.images build|list`: what the set-up calls before there is a command line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from sandfleet.images.build import build_image
from sandfleet.images.commands import Progress
from sandfleet.images.installed import DEFAULT_IMAGE_NAME, DEFAULT_IMAGES_DIR, list_images
from sandfleet.model.errors import SandfleetError


def main() -> int:
    """Run one command and return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m sandfleet.images")
    default_dir = Path(os.environ.get("SANDFLEET_IMAGES_DIR", DEFAULT_IMAGES_DIR))
    parser.add_argument("--images-dir", type=Path, default=default_dir)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the image if it is not up to date")
    build.add_argument("name", nargs="?", default=DEFAULT_IMAGE_NAME)
    build.add_argument("--refresh", action="store_true", help="install Debian anew, with its updates")
    commands.add_parser("list", help="show the installed images")
    options = parser.parse_args()
    try:
        if options.command == "build":
            build_image(
                options.name, images_dir=options.images_dir, progress=_teller(), refresh=options.refresh
            )
        else:
            _show(options.images_dir)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was installed\n")
        return 130
    except SandfleetError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


def _teller() -> Progress:
    began_s = time.monotonic()

    def tell(line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began_s:6.1f} s] {line}\n")
        sys.stdout.flush()

    return tell


def _show(images_dir: Path) -> None:
    for image in list_images(images_dir):
        mark = "*" if image.is_current else " "
        size = f"{image.size_bytes // 2**20:6d} MiB"
        sys.stdout.write(
            f"{mark} {image.name:12} {image.digest[:12]} {size}  Linux {image.manifest.kernel}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
