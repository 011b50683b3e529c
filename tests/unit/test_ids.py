"""Ids have the API's form and carry all of their bits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandfleet.model import ids

EXACT_BYTES = st.binary(min_size=ids.ID_BYTES, max_size=ids.ID_BYTES)


@given(EXACT_BYTES)
def test_a_sandbox_id_has_the_public_form(bits: bytes) -> None:
    assert re.fullmatch(r"sb-[a-z0-9]{26}", ids.sandbox_id(bits))


@given(EXACT_BYTES, EXACT_BYTES)
def test_distinct_bits_give_distinct_ids(one: bytes, other: bytes) -> None:
    assert (ids.encode_id(one) == ids.encode_id(other)) == (one == other)


@given(EXACT_BYTES)
def test_an_exec_id_is_also_a_session_id(bits: bytes) -> None:
    assert re.fullmatch(r"[a-z0-9-]{8,64}", ids.exec_id(bits))


@pytest.mark.parametrize("length", [0, 15, 17])
def test_fewer_or_more_bits_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 random bytes"):
        ids.encode_id(bytes(length))
