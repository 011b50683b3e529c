"""Links, addresses and routes, asked for of the kernel itself.

Facts: starting a program from a process as large as a worker costs more than what `ip` does, and a
machine's network took six of them. A request is a header, a fixed part and attributes, each padded to
four bytes. Several may go in one message; the kernel does them in order and answers each with a
number, zero for done.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

ANSWER_S = 10.0
"""The kernel answers at once, but for a moment in which it takes other links apart."""
_ANSWER_BYTES_MAX = 65536
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SIOCGIFINDEX = 0x8933

_REQUEST, _ACKNOWLEDGE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x200, 0x400
_HEADER = struct.Struct("=IHHII")
_ERROR_MESSAGE = 2
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 20, 24

_LINK_HARDWARE_ADDRESS, _LINK_NAME, _LINK_INFO, _LINK_NAMESPACE_FD = 1, 3, 18, 28
_INFO_KIND, _INFO_DATA, _PAIR_PEER = 1, 2, 1
_UP = 1
_ADDRESS, _LOCAL_ADDRESS = 1, 2
_DESTINATION, _OUT_BY, _GATEWAY = 1, 4, 5
_MAIN_TABLE, _BY_BOOT, _SCOPE_ALL, _SCOPE_LINK, _UNICAST = 254, 3, 0, 253, 1


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to make or change; `what` is what an error is told with."""

    what: str
    kind: int
    flags: int
    body: bytes


def new_pair(name: str, *, peer: str, peer_namespace_fd: int) -> Request:
    """Make two ends of a link, one of them in another namespace."""
    other = _link_body() + _text(_LINK_NAME, peer) + _number(_LINK_NAMESPACE_FD, peer_namespace_fd)
    info = _text(_INFO_KIND, "veth") + _attribute(_INFO_DATA, _attribute(_PAIR_PEER, other))
    body = _link_body() + _text(_LINK_NAME, name) + _attribute(_LINK_INFO, info)
    return Request(f"link {name}", _NEW_LINK, _CREATE | _EXCLUSIVE, body)


def link_up(index: int, *, hardware_address: str | None = None) -> Request:
    """Set a link up, under another hardware address if one is given."""
    body = _link_body(index, flags=_UP, change=_UP)
    if hardware_address is not None:
        body += _attribute(_LINK_HARDWARE_ADDRESS, bytes.fromhex(hardware_address.replace(":", "")))
    return Request(f"link {index} up", _NEW_LINK, 0, body)


def new_address(address: str, *, prefix_length: int, index: int) -> Request:
    """Give a link an address."""
    packed = IPv4Address(address).packed
    body = struct.pack("=BBBBI", socket.AF_INET, prefix_length, 0, _SCOPE_ALL, index)
    body += _attribute(_LOCAL_ADDRESS, packed) + _attribute(_ADDRESS, packed)
    return Request(f"address {address}", _NEW_ADDRESS, _CREATE | _EXCLUSIVE, body)


def new_route(address: str, *, index: int) -> Request:
    """Lead one address to a link."""
    body = _route_body(32, _SCOPE_LINK)
    body += _attribute(_DESTINATION, IPv4Address(address).packed) + _number(_OUT_BY, index)
    return Request(f"route to {address}", _NEW_ROUTE, _CREATE | _EXCLUSIVE, body)


def new_default_route(gateway: str, *, index: int) -> Request:
    """Lead everything else to a gateway."""
    body = _route_body(0, _SCOPE_ALL)
    body += _attribute(_GATEWAY, IPv4Address(gateway).packed) + _number(_OUT_BY, index)
    return Request(f"default route by {gateway}", _NEW_ROUTE, _CREATE | _EXCLUSIVE, body)


class KernelNetwork:
    """The network namespace in which this was made, whichever thread uses it later."""

    def __init__(self) -> None:
        self._requests = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._requests.settimeout(ANSWER_S)
            self._requests.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        except BaseException:
            self._requests.close()
            raise

    def __enter__(self) -> KernelNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.close()
        self._control.close()

    def index_of(self, link: str) -> int:
        """Return the number of a link; OSError when there is none of this name."""
        asked = struct.pack("=16si20x", link.encode(), 0)
        answer = fcntl.ioctl(self._control, _SIOCGIFINDEX, asked)
        return int(struct.unpack_from("=i", answer, 16)[0])

    def carry_out(self, requests: Sequence[Request]) -> None:
        """Have the requests done in their order; OSError names the first that was not."""
        self._requests.send(b"".join(encoded(request, number) for number, request in enumerate(requests)))
        refused: OSError | None = None
        left = len(requests)
        while left:
            for number, error in answers(self._requests.recv(_ANSWER_BYTES_MAX)):
                left -= 1
                if error and refused is None:
                    refused = OSError(error, os.strerror(error), requests[number].what)
        if refused is not None:
            raise refused


def encoded(request: Request, number: int) -> bytes:
    """Return the request as the kernel reads it; its answer carries the number."""
    flags = _REQUEST | _ACKNOWLEDGE | request.flags
    length = _HEADER.size + len(request.body)
    return _padded(_HEADER.pack(length, request.kind, flags, number, 0) + request.body)


def answers(data: bytes) -> list[tuple[int, int]]:
    """Return number and error, zero for none, of each answer in what the kernel sent."""
    found = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, number, _port = _HEADER.unpack_from(data, at)
        if kind == _ERROR_MESSAGE:
            found.append((number, -int(struct.unpack_from("=i", data, at + _HEADER.size)[0])))
        at += max(_HEADER.size, -(-length // 4) * 4)
    return found


def _link_body(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def _route_body(destination_bits: int, scope: int) -> bytes:
    fields = (socket.AF_INET, destination_bits, 0, 0, _MAIN_TABLE, _BY_BOOT, scope, _UNICAST, 0)
    return struct.pack("=BBBBBBBBI", *fields)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("=I", number))


def _attribute(kind: int, content: bytes) -> bytes:
    return _padded(struct.pack("=HH", 4 + len(content), kind) + content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
