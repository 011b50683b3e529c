"""The kernel's packet filter, by the library that the program `nft` itself is made of.

Facts: `nft` in a namespace takes two programs, which cost a worker more than what they do. The library
works in the namespace of the thread that calls it, and all that one call is given is one transaction.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache

from sandfleet.model.errors import HypervisorFailed

LIBRARY = "libnftables.so.1"
ERROR_SHOWN_MAX = 2000
_one_at_a_time = threading.Lock()
"""Older versions of the library keep some of what they know for all of their users."""


def carry_out(commands: str) -> None:
    """Do what the text says, all of it or nothing, in this thread's namespace. Blocks for milliseconds."""
    library = loaded()
    with _one_at_a_time:
        context = library.nft_ctx_new(0)
        if not context:
            raise HypervisorFailed(f"{LIBRARY} does not work here")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            if library.nft_run_cmd_from_buffer(context, commands.encode()) != 0:
                said = library.nft_ctx_get_error_buffer(context) or b""
                text = said.decode(errors="replace").strip()[:ERROR_SHOWN_MAX]
                raise HypervisorFailed(f"nftables refused rules: {text}")
        finally:
            library.nft_ctx_free(context)


@cache
def loaded() -> ctypes.CDLL:
    """Return the library; HypervisorFailed where it is not installed."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise HypervisorFailed(f"{LIBRARY}, which belongs to nftables, is not installed: {error}") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_get_error_buffer", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library
