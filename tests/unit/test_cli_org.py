"""What bounds mean on the command line, decided without a server."""

from __future__ import annotations

import pytest

from sandfleet.cli.errors import CommandFailed, ExitCode
from sandfleet.cli.org import bound


def test_a_bound_is_a_number_or_none_at_all() -> None:
    assert (bound("0"), bound("12"), bound("none")) == (0, 12, None)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "all", "\u0661"])
def test_anything_else_is_wrong_usage(text: str) -> None:
    with pytest.raises(CommandFailed) as wrong:
        bound(text)
    assert wrong.value.code is ExitCode.USAGE
