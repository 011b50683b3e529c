"""Writes docs/reference/{errors,settings,cli}.md from the code that they describe.

Run as `python -m tools.write_reference`; with `--check` it writes nothing and fails when a page is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.reference.cli import cli_page
from tools.reference.errors import errors_page
from tools.reference.settings import settings_page

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"


def reference_pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {"errors.md": errors_page(), "settings.md": settings_page(), "cli.md": cli_page()}


def stale_pages() -> list[str]:
    """Return the names of the pages whose file differs from what the code says now."""
    return [name for name, text in reference_pages().items() if _read(FOLDER / name) != text]


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main() -> int:
    """Write the pages, or name the stale ones."""
    if "--check" in sys.argv[1:]:
        stale = stale_pages()
        if stale:
            sys.stderr.write(f"stale in docs/reference: {', '.join(stale)}: run `make docs`\n")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in reference_pages().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
