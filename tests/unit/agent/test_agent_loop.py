"""The agent's event loop: it survives its handlers and forgets cancelled timers."""

from __future__ import annotations

import os
import select
import threading

import pytest

from sandfleet.agent.loop import CANCELLED_KEPT, EventLoop


def test_a_handler_that_raises_is_logged_and_the_loop_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    loop = EventLoop()
    reading, writing = os.pipe()
    calls = []

    def broken(_events: int) -> None:
        calls.append(os.read(reading, 1))
        if len(calls) == 2:
            loop.stop()
        raise RuntimeError("a broken handler")

    loop.watch(reading, select.EPOLLIN, broken)
    os.write(writing, b"ab")
    loop.call_soon(lambda: 1 / 0)
    loop.run()
    loop.close()
    os.close(reading)
    os.close(writing)
    assert calls == [b"a", b"b"]
    said = capfd.readouterr().err
    assert "a broken handler" in said
    assert "ZeroDivisionError" in said


def test_timers_run_in_order_and_cancelled_ones_do_not() -> None:
    loop = EventLoop()
    ran: list[str] = []
    loop.call_later(0.002, loop.stop)
    loop.call_later(0.001, lambda: ran.append("second"))
    loop.call_later(0.0, lambda: ran.append("first"))
    loop.call_later(0.0, lambda: ran.append("never")).cancel()
    loop.run()
    loop.close()
    assert ran == ["first", "second"]


def test_cancelled_timers_do_not_pile_up() -> None:
    loop = EventLoop()
    kept = [loop.call_later(86400, lambda: None) for _ in range(10)]
    for _ in range(5000):
        loop.call_later(86400, lambda: None).cancel()
    assert len(loop._timers) <= 2 * CANCELLED_KEPT + len(kept)
    loop.close()


def test_threads_call_into_the_loop() -> None:
    loop = EventLoop()
    thread = threading.Thread(target=loop.call_from_thread, args=(loop.stop,))
    thread.start()
    loop.run()
    thread.join()
    loop.close()
