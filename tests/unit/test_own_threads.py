"""Calls in threads of their own: what hangs keeps its thread, and neither others' nor the process's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from sandfleet.adapters.own_threads import OwnThreads


async def test_the_result_and_the_failure_come_back() -> None:
    threads = OwnThreads("test", at_once=1)
    assert await threads.run(lambda: threading.current_thread().name) == "test"

    def fail() -> None:
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        await threads.run(fail)
    assert await threads.run(lambda: 2) == 2


async def test_a_call_that_was_given_up_keeps_its_thread_until_it_ends() -> None:
    threads, gate = OwnThreads("test", at_once=2), threading.Event()
    hanging = [asyncio.ensure_future(threads.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    hanging[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging[0]
    third = asyncio.ensure_future(threads.run(lambda: "done"))
    fourth = asyncio.ensure_future(threads.run(lambda: "never asked for"))
    await asyncio.sleep(0)
    assert not third.done(), "there are no more than two, the given up one among them"
    fourth.cancel()
    gate.set()
    assert await third == "done"
    assert await hanging[1] is True


def test_a_process_does_not_wait_for_it() -> None:
    program = """
import asyncio, threading
from sandfleet.adapters.own_threads import OwnThreads

async def main():
    try:
        await asyncio.wait_for(OwnThreads("test", at_once=1).run(threading.Event().wait), 0.01)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=True, stdout=subprocess.PIPE)
    assert ended.stdout == b"given up\n"
