"""A benchmark's row that fails costs the others nothing, and the table says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bench import __main__ as frame
from bench.samples import Row, Samples


class FakeBed:
    """A bed on which nothing lies."""

    def __init__(self) -> None:
        self.bare = self
        self.cleared = 0

    async def accelerator(self) -> str:
        return "none"

    async def wait_pool_filled(self) -> None:
        return None

    async def clear(self) -> None:
        self.cleared += 1


async def good(_: object) -> list[Row]:
    return [Row("good row", "ms", Samples([2.0]), Samples([1.0]), "-", "-", meets=True)]


async def broken(_: object) -> list[Row]:
    raise RuntimeError("the | sandbox\nwas lost")


async def endless(_: object) -> list[Row]:
    await asyncio.Event().wait()
    return []


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBed:
    laid = FakeBed()

    @asynccontextmanager
    async def opened() -> AsyncIterator[FakeBed]:
        yield laid

    monkeypatch.setattr(frame, "bed", opened)
    monkeypatch.setattr(frame, "PURE_ROWS", {})
    monkeypatch.setattr(frame, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(frame.report, "machine_facts", lambda: {"machine": "none"})
    return laid


async def test_the_others_are_measured_and_what_is_missing_is_named(
    bed: FakeBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "ROW_WITHIN_S", 0.01)
    monkeypatch.setattr(frame, "ROWS", {"broken": broken, "endless": endless, "good": good})
    assert not await frame.run(["broken", "endless", "good"])
    page = frame.RESULTS.read_text()
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert "2.0 / 2.0 ms" in lines["good row"]
    assert "RuntimeError: the / sandbox was lost" in lines["`broken`"]
    assert "it took too long" in lines["`endless`"]
    assert {line.count("|") for line in (lines["good row"], lines["`broken`"], lines["`endless`"])} == {8}
    assert bed.cleared == 2


async def test_all_rows_together_have_their_time(bed: FakeBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "ALL_WITHIN_S", 0.0)
    monkeypatch.setattr(frame, "ROWS", {"good": good})
    assert not await frame.run(["good"])
    assert "the time for all rows was over" in frame.RESULTS.read_text()


async def test_a_whole_table_is_no_failure(bed: FakeBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "ROWS", {"good": good})
    assert await frame.run(["good"])
    assert "not measured" not in frame.RESULTS.read_text()


async def test_a_row_that_computes_lays_no_bed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuses() -> None:
        raise AssertionError("a bed was laid")

    monkeypatch.setattr(frame, "bed", refuses)
    monkeypatch.setattr(frame, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(frame.report, "machine_facts", lambda: {"machine": "none"})
    row = (await good(None))[0]
    monkeypatch.setattr(frame, "PURE_ROWS", {"computed": lambda: [row]})
    assert await frame.run(["computed"])
    assert not frame.RESULTS.exists()
