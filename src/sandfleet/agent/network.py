"""The guest's addresses: the same in every sandbox, so nothing is renumbered when it moves."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from sandfleet.agent.identity_files import DIRECTORY, hold, link_into_memory, overwrite

LOOPBACK = "lo"
LINK = "eth0"
ADDRESS = "10.0.2.15"
NETMASK = "255.255.255.0"
GATEWAY = "10.0.2.2"

_SIOCADDRT = 0x890B
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_IFF_UP = 1
_RTF_UP, _RTF_GATEWAY = 1, 2


def bring_up() -> None:
    """Configure loopback, the link if there is one, and the way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _set_up(control, LOOPBACK)
        if not os.path.exists(f"/sys/class/net/{LINK}"):
            return
        _set_address(control, _SIOCSIFADDR, ADDRESS)
        _set_address(control, _SIOCSIFNETMASK, NETMASK)
        _set_up(control, LINK)
        _add_default_route(control)


def link_host_name() -> None:
    """Have the files that hold the host's name in memory: they are written anew at each start."""
    for name in ("hostname", "hosts"):
        link_into_memory(f"/etc/{name}", f"{DIRECTORY}/{name}")
        hold(f"/etc/{name}")


def set_host_name(name: str) -> None:
    """Set the host name, and let it resolve."""
    socket.sethostname(name)
    overwrite("/etc/hostname", f"{name}\n")
    overwrite(
        "/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"
    )


def _set_up(control: socket.socket, link: str) -> None:
    request = struct.pack("16sh22x", link.encode(), 0)
    flags = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", link.encode(), flags | _IFF_UP))


def _set_address(control: socket.socket, request: int, address: str) -> None:
    fcntl.ioctl(control, request, struct.pack("16s16s8x", LINK.encode(), _socket_address(address)))


def _add_default_route(control: socket.socket) -> None:
    """Fill the kernel's `struct rtentry`: destination and mask zero, a gateway."""
    nothing = _socket_address("0.0.0.0")
    route = struct.pack(
        "L16s16s16sHh4xLPh6xPLLH6x",
        *(0, nothing, _socket_address(GATEWAY), nothing, _RTF_UP | _RTF_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0),
    )
    try:
        fcntl.ioctl(control, _SIOCADDRT, route)
    except FileExistsError:
        return


def _socket_address(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
