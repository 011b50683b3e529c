"""What a client of a session makes of messages, closes and refusals."""

from __future__ import annotations

import pytest

from sandfleet_sdk import Gone, NotFound, Output, SandfleetError, Unreachable
from sandfleet_sdk.attachments import Progress


def a_session(**fields: object) -> Progress:
    return Progress("sb-one", "ex-one", is_terminal=False, **fields)  # type: ignore[arg-type]


def test_output_moves_the_offset_that_the_next_connection_asks_for() -> None:
    progress = a_session()
    assert progress.path == "/sandboxes/sb-one/exec/ex-one?offset=0"
    assert progress.take(b"\x01out") == Output(1, b"out")
    assert progress.take(b"\x02err") == Output(2, b"err")
    assert progress.take(b"\x04" + bytes(8)) is None
    assert progress.take("text") is None
    assert progress.path.endswith("?offset=6")


def test_without_an_offset_the_server_says_where_it_begins() -> None:
    progress = a_session(offset=None)
    assert progress.path == "/sandboxes/sb-one/exec/ex-one"
    progress.begin("100")
    progress.take(b"\x01abc")
    progress.begin("7")  # counts only the first time
    assert progress.path.endswith("?offset=103")


def test_the_exit_ends_it() -> None:
    progress = a_session()
    progress.take(b"\x03\xff\xff\xff\xff")
    assert (progress.exit_code, progress.has_ended) == (-1, True)
    assert progress.closed(1006) == 0.0


def test_a_terminal_has_bare_bytes_and_ends_with_a_normal_close() -> None:
    progress = Progress("sb-one", "ex-one", is_terminal=True)
    assert progress.take(b"\x03raw") == Output(1, b"\x03raw")
    assert progress.stdin(b"x") == b"x"
    assert a_session().stdin(b"x") == b"\x00x"
    progress.closed(1000)
    assert progress.has_ended


def test_what_may_pass_is_tried_again_ever_more_slowly_and_not_for_ever() -> None:
    progress = a_session()
    pauses = [progress.closed(code) for code in (1012, 1013, 1006, None)]
    assert pauses == sorted(pauses)
    progress.take(b"\x01x")
    assert progress.closed(1006) == pauses[0]
    with pytest.raises(Unreachable):
        _ = [progress.closed(1006) for _ in range(100)]


@pytest.mark.parametrize(("code", "kind"), [(4404, NotFound), (4410, Gone), (4416, SandfleetError)])
def test_what_cannot_pass_is_told(code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        a_session().closed(code)
