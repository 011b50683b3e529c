"""Draws docs/states.md from the lifecycle table, so that the picture cannot disagree with the code.

Run as `python -m tools.draw_states`; with `--check` it writes nothing and fails when the page is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sandfleet.lifecycle.sandbox import TRANSITIONS
from sandfleet.model.sandbox import TERMINAL_STATES, SandboxState

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"
FIRST_STATE = SandboxState.CREATING


def states_page() -> str:
    """Return the page: a diagram, a table of moves, and what is terminal."""
    return "\n".join([*_heading(), *_diagram(), "", *_table(), "", *_terminal(), ""])


def _heading() -> list[str]:
    return [
        "<!-- Made by tools/draw_states.py from src/sandfleet/lifecycle/sandbox.py. Do not edit. -->",
        "",
        "# States of a sandbox",
        "",
        "A sandbox moves along these arrows and no others; anything else is the error `illegal_transition`.",
        "",
    ]


def _diagram() -> list[str]:
    arrows = [
        f"    {source} --> {target}: {event}"
        for source, moves in TRANSITIONS.items()
        for event, target in moves.items()
    ]
    ends = [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL_STATES]
    return ["```mermaid", "stateDiagram-v2", f"    [*] --> {FIRST_STATE}", *arrows, *ends, "```"]


def _table() -> list[str]:
    rows = [
        f"| `{source}` | `{event}` | `{target}` |"
        for source, moves in TRANSITIONS.items()
        for event, target in moves.items()
    ]
    return ["| from | event | to |", "|---|---|---|", *rows]


def _terminal() -> list[str]:
    names = ", ".join(f"`{state}`" for state in TRANSITIONS if state in TERMINAL_STATES)
    return [f"Terminal, nothing leads out: {names}."]


def main() -> int:
    """Write the page, or say that it is stale."""
    page = states_page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
        return 0
    if PAGE.read_text() == page:
        return 0
    sys.stderr.write("docs/states.md is stale: run `make docs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
