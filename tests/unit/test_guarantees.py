"""Every promise in the ledger has a number, a bound and tests, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "docs" / "guarantees.md"
_ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)
CONFORMANCE = ROOT / "src" / "sandfleet" / "testing" / "conformance"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[(\w+)\])?`")
"""File, test, and for a suite that runs against several stores the one check that is meant."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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
    checks = {name for file in CONFORMANCE.glob("*.py") for name in _functions_of(file)}
    missing = [
        f"{path}::{name}[{check}]"
        for path, name, check in set(_TEST.findall(LEDGER.read_text()))
        if name not in _functions_of(ROOT / path) or (check and check not in checks)
    ]
    assert not missing, sorted(missing)


def _functions_of(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, _FUNCTIONS)}
