"""Pages made from code say what the code says, and every link between pages leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools import draw_states, write_reference

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def test_the_state_diagram_is_drawn_from_the_table_as_it_stands() -> None:
    assert draw_states.PAGE.read_text() == draw_states.states_page()


@pytest.mark.parametrize("name", ["errors.md", "settings.md", "cli.md"])
def test_the_reference_is_made_from_the_code_as_it_stands(name: str) -> None:
    assert (write_reference.FOLDER / name).read_text() == write_reference.reference_pages()[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []


def test_every_flow_and_decision_is_in_its_index() -> None:
    for folder in ("flows", "decisions"):
        index = (ROOT / "docs" / folder / "README.md").read_text()
        missing = [p.name for p in (ROOT / "docs" / folder).glob("*.md") if p.name not in index]
        assert missing == ["README.md"], folder
