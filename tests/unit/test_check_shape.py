"""The shape check finds each kind of violation, and finds none in code that keeps the rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.check_shape import FUNCTION_LINES_MAX, LINES_MAX, violations_below, violations_in

DOCSTRING = '"""What this module answers."""\n'


def a_function(lines: int) -> str:
    return "def f():\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("path", "text", "word"),
    [
        ("src/a.py", "x = 1\n", "docstring"),
        ("src/a.py", DOCSTRING + "x = 1\n" * LINES_MAX, "the file has"),
        ("src/a.py", DOCSTRING + a_function(FUNCTION_LINES_MAX + 1), "f has"),
        ("src/utils.py", DOCSTRING, "named after"),
        ("src/sandfleet/worker/a.py", DOCSTRING + 'q = "SELECT id FROM sandboxes"\n', "SQL"),
        ("src/sandfleet/worker/a.py", DOCSTRING + 'q = f"DELETE FROM {table}"\n', "SQL"),
        ("tests/unit/test_a.py", DOCSTRING + "import time\ntime.sleep(0)\n", "never sleep"),
        ("tests/properties/test_a.py", DOCSTRING + "await asyncio.sleep(0.1)\n", "never sleep"),
    ],
)
def test_violation_is_found(path: str, text: str, word: str) -> None:
    (violation,) = violations_in(path, text)
    assert violation.startswith(f"{path}:")
    assert word in violation


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/sandfleet/__init__.py", ""),
        ("src/a.py", DOCSTRING + a_function(FUNCTION_LINES_MAX)),
        ("tests/unit/test_a.py", DOCSTRING + "x = 1\n" * LINES_MAX),
        ("src/sandfleet/adapters/postgres/a.py", DOCSTRING + 'q = "SELECT id FROM sandboxes"\n'),
        ("src/sandfleet/worker/a.py", DOCSTRING + 's = "Select a worker from the list"\n'),
        ("tests/unit/test_a.py", DOCSTRING + "await asyncio.sleep(0)\n"),
        ("tests/vm/test_a.py", DOCSTRING + "time.sleep(1)\n"),
    ],
)
def test_code_that_keeps_the_rules_passes(path: str, text: str) -> None:
    assert list(violations_in(path, text)) == []


def test_directories_are_searched_below_the_roots(tmp_path: Path) -> None:
    for name in ("src/deep/helpers.py", "src/.venv/bad.py", "elsewhere/bad.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(DOCSTRING)
    (violation,) = violations_below(tmp_path)
    assert violation.startswith("src/deep/helpers.py:1:")
