"""The smallest guest that proves an accelerator: an initrd with one program that says a line and waits.

The program is written down here as machine code, so that the probe needs no compiler
and no file of an image but its kernel.
"""

from __future__ import annotations

import struct

READY_LINE = b"sandfleet: user space runs"

_LOAD_ADDRESS = 0x400000
_HEADERS_SIZE = 64 + 56
_MODE_FILE = 0o100755
_MODE_DIRECTORY = 0o040755
_MODE_CONSOLE = 0o020600


def probe_initrd() -> bytes:
    """Return the initrd, a cpio archive."""
    entries = [
        _entry("dev", _MODE_DIRECTORY),
        _entry("dev/console", _MODE_CONSOLE, device=(5, 1)),
        _entry("init", _MODE_FILE, content=probe_program()),
        _entry("TRAILER!!!", 0),
    ]
    return b"".join(entries)


def probe_program() -> bytes:
    """Return a static x86-64 ELF file: write the line to stdout, then pause for ever."""
    message = READY_LINE + b"\n"
    head = b"\xb8\x01\x00\x00\x00" + b"\xbf\x01\x00\x00\x00"  # mov eax, write; mov edi, stdout
    length = b"\xba" + struct.pack("<I", len(message))  # mov edx, length
    tail = b"\x0f\x05" + b"\xb8\x22\x00\x00\x00" + b"\x0f\x05" + b"\xeb\xf7"  # syscall; pause; again
    lea_size = 7
    distance = len(length) + len(tail)
    code = head + b"\x48\x8d\x35" + struct.pack("<i", distance) + length + tail  # lea rsi, [message]
    assert len(code) == len(head) + lea_size + len(length) + len(tail)
    return _elf(code + message)


def _elf(body: bytes) -> bytes:
    entry = _LOAD_ADDRESS + _HEADERS_SIZE
    size = _HEADERS_SIZE + len(body)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    return ident + header + segment + body


def _entry(name: str, mode: int, *, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    stored = name.encode() + b"\0"
    links, modified = 1, 0
    fields = (0, mode, 0, 0, links, modified, len(content), 0, 0, *device, len(stored), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + stored
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
