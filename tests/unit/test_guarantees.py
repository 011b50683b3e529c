"""Every promise in the ledger has a number, a bound and tests, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "docs" / "guarantees.md"
_ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _rows() -> dict[int, list[str]]:
    found = _ROW.findall(LEDGER.read_text())
    assert len({number for number, _ in found}) == len(found), "two promises have one number"
    return {int(number): [cell.strip() for cell in cells.split("|")] for number, cells in found}


def test_promises_are_numbered_without_a_gap() -> None:
    assert sorted(_rows()) == list(range(1, len(_rows()) + 1))


def test_every_promise_has_a_bound_and_a_proof() -> None:
    for number, cells in _rows().items():
        assert len(cells) == 3, f"promise {number}"
        promise, bound, proof = cells
        assert promise, number
        assert bound, number
        assert _TEST.sub("", proof).strip() == "", f"promise {number}: more than tests in its proof: {proof}"
        assert _TEST.findall(proof), f"promise {number} has no test"


def test_every_named_test_exists() -> None:
    missing = []
    for path, name in set(_TEST.findall(LEDGER.read_text())):
        file = ROOT / path
        functions = (
            {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, _FUNCTIONS)}
            if file.exists()
            else set()
        )
        if name not in functions:
            missing.append(f"{path}::{name}")
    assert not missing, sorted(missing)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
