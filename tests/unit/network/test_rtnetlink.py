"""Requests to the kernel's network configuration, as the kernel reads and answers them."""

from __future__ import annotations

import struct

import pytest

from sandfleet.adapters.network import rtnetlink

REQUESTS = (
    rtnetlink.new_pair("sfabc", peer="up0", peer_namespace_fd=7),
    rtnetlink.link_up(3),
    rtnetlink.link_up(3, hardware_address="52:54:00:5f:00:01"),
    rtnetlink.new_address("10.0.2.2", prefix_length=24, index=3),
    rtnetlink.new_route("10.210.0.1", index=3),
    rtnetlink.new_default_route("10.210.0.1", index=3),
)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.what)
def test_a_request_says_its_length_and_number_and_is_padded(request_: rtnetlink.Request) -> None:
    data = rtnetlink.encoded(request_, 12)
    length, kind, flags, number, port = struct.unpack_from("=IHHII", data)
    assert (length, kind, number, port) == (16 + len(request_.body), request_.kind, 12, 0)
    assert flags & 0x5 == 0x5, "a request that nobody answers could fail without a word"
    assert len(data) % 4 == 0


def test_an_address_is_both_its_links_and_its_own() -> None:
    body = rtnetlink.new_address("10.0.2.2", prefix_length=24, index=3).body
    assert body[:8] == struct.pack("=BBBBI", 2, 24, 0, 0, 3)
    assert body[8:] == b"\x08\0\x02\0\x0a\0\x02\x02" + b"\x08\0\x01\0\x0a\0\x02\x02"


def test_the_answers_to_several_requests_are_told_apart() -> None:
    def answer(number: int, error: int) -> bytes:
        return struct.pack("=IHHIIi", 36, 2, 0, number, 0, error) + bytes(16)

    other = struct.pack("=IHHII", 18, 3, 0, 5, 0) + bytes(4)
    assert rtnetlink.answers(answer(0, 0) + other + answer(1, -17)) == [(0, 0), (1, 17)]


@pytest.mark.parametrize("data", [b"", b"\0" * 15, b"\0" * 64, b"\xff" * 64])
def test_what_makes_no_sense_answers_nothing(data: bytes) -> None:
    assert rtnetlink.answers(data) == []
