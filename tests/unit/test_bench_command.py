"""The command line of the benchmark: which rows it takes, and what it says to a wrong one."""

from __future__ import annotations

import pytest
from bench.__main__ import PURE_ROWS, ROWS, wanted_rows


def test_named_rows_are_wanted_and_without_a_name_all() -> None:
    assert wanted_rows(["migrate", "packing"]) == ["migrate", "packing"]
    assert wanted_rows([]) == [*ROWS, *PURE_ROWS]


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["no-such-row"], 2)])
def test_help_and_a_wrong_name_tell_every_row(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        wanted_rows(arguments)
    assert ended.value.code == code
    said = "".join(capsys.readouterr())
    assert said.startswith("usage: python -m bench")
    assert {name for name in [*ROWS, *PURE_ROWS] if name in said} == {*ROWS, *PURE_ROWS}
