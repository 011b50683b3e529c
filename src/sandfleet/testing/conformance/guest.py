"""What every `Guest` must do: run on the fake in unit time and on the real agent.

Each check takes a guest and a directory of its own in it, and raises AssertionError.
They ask for programs that the fake's small shell knows, and leave nothing that another
check would notice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import BadRequest, ExecFailed, NotFound, SandfleetError
from sandfleet.ports.guest import ExecOrder, ExecStatus, Guest, GuestIdentity

Check = Callable[[Guest, str], Awaitable[None]]


async def exec_gives_output_and_exit_code(guest: Guest, root: str) -> None:
    """Both streams, in order within each, and the code."""
    status, out, err = await _run(guest, "echo one; echo two >&2; echo three; exit 7")
    assert (status.exit_code, status.signal, status.timed_out, status.running) == (7, None, False, False)
    assert (out, err) == (b"one\nthree\n", b"two\n")
    assert status.output_bytes == len(out) + len(err)
    assert status.ended_at_s is not None
    assert status.ended_at_s >= status.started_at_s


async def the_same_id_is_the_same_exec(guest: Guest, root: str) -> None:
    """A second start with the id runs nothing and joins the first."""
    order = _order("echo once; sleep 0.2")
    first = await guest.start_exec(order)
    second = await guest.start_exec(order)
    assert first.exec_id == second.exec_id
    assert first.started_at_s == second.started_at_s
    await guest.wait_exec(order.exec_id)
    assert (await guest.start_exec(order)).running is False
    assert await _read(guest, order.exec_id) == (b"once\n", b"")


async def output_can_be_read_again_from_any_offset(guest: Guest, root: str) -> None:
    """Offsets count the bytes of both streams together."""
    order = _order("echo 0123456789")
    await guest.start_exec(order)
    await guest.wait_exec(order.exec_id)
    for offset in (0, 4, 11):
        pieces = [piece async for piece in guest.read_output(order.exec_id, offset=offset)]
        assert b"".join(piece.data for piece in pieces) == b"0123456789\n"[offset:]
        assert not pieces or pieces[0].offset == offset


async def an_offset_beyond_the_end_is_refused(guest: Guest, root: str) -> None:
    """It is an error of the caller, not an empty answer."""
    order = _order("echo x")
    await guest.start_exec(order)
    await guest.wait_exec(order.exec_id)
    assert isinstance(await _error(_drain(guest, order.exec_id, offset=1000)), BadRequest)


async def waiting_is_bounded(guest: Guest, root: str) -> None:
    """A wait that is over returns the exec as it stands."""
    order = _order("sleep 600")
    await guest.start_exec(order)
    status = await guest.wait_exec(order.exec_id, timeout_s=0.05)
    assert status.running
    assert status.exit_code is None
    await guest.kill_exec(order.exec_id)
    ended = await guest.wait_exec(order.exec_id)
    assert (ended.running, ended.exit_code, ended.signal) == (False, -1, 9)


async def a_timeout_ends_the_exec(guest: Guest, root: str) -> None:
    """The guest keeps the time itself."""
    status, out, _ = await _run(guest, "echo begun; sleep 600", timeout_s=1.5)
    assert (status.timed_out, status.exit_code, out) == (True, -1, b"begun\n")


async def a_signal_is_told(guest: Guest, root: str) -> None:
    """A process that ends itself by a signal has no exit code."""
    status, _, _ = await _run(guest, "kill -15 $$")
    assert (status.exit_code, status.signal, status.timed_out) == (-1, 15, False)


async def a_program_that_does_not_exist_is_refused(guest: Guest, root: str) -> None:
    """At the start, and nothing of it is remembered."""
    order = ExecOrder(exec_id=_new_id(), argv=("no-such-program-here", "x"))
    assert isinstance(await _error(guest.start_exec(order)), ExecFailed)
    assert isinstance(await _error(guest.exec_status(order.exec_id)), NotFound)


async def environment_and_directory_are_the_orders(guest: Guest, root: str) -> None:
    """What the order says reaches the program."""
    order = ExecOrder(exec_id=_new_id(), argv=("printenv", "COLOUR"), envs={"COLOUR": "blue"}, cwd=root)
    await guest.start_exec(order)
    assert await _read(guest, order.exec_id) == (b"blue\n", b"")
    pwd = ExecOrder(exec_id=_new_id(), argv=("pwd",), cwd=root)
    await guest.start_exec(pwd)
    assert await _read(guest, pwd.exec_id) == (f"{root}\n".encode(), b"")


async def stdin_reaches_the_program_and_ends(guest: Guest, root: str) -> None:
    """Pieces keep their order; the end of input ends `cat`."""
    order = ExecOrder(exec_id=_new_id(), argv=("cat",), stdin=True)
    await guest.start_exec(order)
    await guest.write_stdin(order.exec_id, b"one ")
    await guest.write_stdin(order.exec_id, b"two", end=True)
    assert await _read(guest, order.exec_id) == (b"one two", b"")


async def execs_run_side_by_side(guest: Guest, root: str) -> None:
    """A slow one holds up no other."""
    slow = _order("sleep 600")
    await guest.start_exec(slow)
    async with TaskGroup() as group:
        quick = [group.create_task(_run(guest, f"echo {number}")) for number in range(5)]
    assert [task.result()[1] for task in quick] == [f"{number}\n".encode() for number in range(5)]
    assert slow.exec_id in [status.exec_id for status in await guest.list_execs() if status.running]
    await guest.kill_exec(slow.exec_id)


async def unknown_execs_are_not_found(guest: Guest, root: str) -> None:
    """On every call that names one."""
    for call in (
        guest.exec_status("x-unknown-1"),
        guest.wait_exec("x-unknown-1"),
        guest.kill_exec("x-unknown-1"),
        _drain(guest, "x-unknown-1", offset=0),
    ):
        assert isinstance(await _error(call), NotFound)


async def who_is_somebody_rehearses_nothing(guest: Guest, root: str) -> None:
    """It would be nobody afterwards."""
    identity = GuestIdentity(host_name="somebody", seed=bytes(64), wall_clock_s=1e9)
    await guest.assume_identity(identity)
    assert isinstance(await _error(guest.rehearse(identity)), BadRequest)


async def a_new_identity_forgets_what_warmed_the_guest_up(guest: Guest, root: str) -> None:
    """Ended or not: its owner shall not see it. Other execs stay."""
    kept = _order("true")
    ended, running = (
        replace(_order(script), exec_id=f"warm-{_new_id()}") for script in ("true", "sleep 600")
    )
    for order in (kept, ended, running):
        await guest.start_exec(order)
    await guest.wait_exec(ended.exec_id)
    await guest.assume_identity(GuestIdentity(host_name="somebody", seed=bytes(64), wall_clock_s=1e9))
    known = {status.exec_id for status in await guest.list_execs()}
    assert kept.exec_id in known
    assert not {name for name in known if name.startswith("warm-")}
    for order in (ended, running):
        assert isinstance(await _error(guest.exec_status(order.exec_id)), NotFound)


async def a_file_comes_back_as_it_went(guest: Guest, root: str) -> None:
    """Empty, small and of many pieces; parents are made."""
    for pieces in ([], [b"a"], [bytes([number]) * 50_000 for number in range(20)]):
        path = _new_path(root) + "/deep/file"
        content = b"".join(pieces)
        assert await guest.write_file(path, _given(pieces)) == len(content)
        assert b"".join([chunk async for chunk in guest.read_file(path)]) == content
        entry = await guest.stat(path)
        assert (entry.name, entry.path, entry.is_dir, entry.size) == ("file", path, False, len(content))
        assert entry.mode & 0o777 == 0o644


async def an_upload_that_breaks_leaves_the_old_content(guest: Guest, root: str) -> None:
    """The replacement is one step at the end."""
    path = _new_path(root)
    await guest.write_file(path, _given([b"old"]))
    assert isinstance(await _error(guest.write_file(path, _broken())), _Broken)
    assert b"".join([chunk async for chunk in guest.read_file(path)]) == b"old"
    assert [entry.name for entry in await guest.list_directory(root) if entry.path.startswith(path)] == [
        path.rpartition("/")[2]
    ]


async def directories_are_listed_by_name(guest: Guest, root: str) -> None:
    """With kind and size."""
    root = _new_path(root)
    for name in ("b", "a", "c/d"):
        await guest.write_file(f"{root}/{name}", _given([b"xy"]))
    found = [(entry.name, entry.path, entry.is_dir) for entry in await guest.list_directory(root)]
    assert found == [("a", f"{root}/a", False), ("b", f"{root}/b", False), ("c", f"{root}/c", True)]


async def making_and_deleting_may_be_repeated(guest: Guest, root: str) -> None:
    """`mkdir -p` and `rm -rf`."""
    root = _new_path(root)
    for _ in range(2):
        await guest.make_directory(f"{root}/x/y")
    assert (await guest.stat(f"{root}/x/y")).is_dir
    for _ in range(2):
        await guest.delete(root)
    assert isinstance(await _error(guest.stat(root)), NotFound)


async def wrong_kinds_are_refused(guest: Guest, root: str) -> None:
    """With the codes of the API."""
    path = _new_path(root)
    await guest.write_file(path, _given([b"x"]))
    for call, code in (
        (_first(guest.read_file(root)), "is_directory"),
        (guest.write_file(root, _given([b"x"])), "is_directory"),
        (guest.list_directory(path), "not_a_directory"),
        (guest.make_directory(f"{path}/below"), "not_a_directory"),
    ):
        error = await _error(call)
        assert isinstance(error, BadRequest), error
        assert error.code == code
    for missing in (_first(guest.read_file(f"{root}/missing")), guest.list_directory(f"{root}/missing")):
        assert isinstance(await _error(missing), NotFound)
    assert isinstance(await _error(guest.delete("/proc")), BadRequest)


CHECKS: tuple[Check, ...] = (
    exec_gives_output_and_exit_code,
    the_same_id_is_the_same_exec,
    output_can_be_read_again_from_any_offset,
    an_offset_beyond_the_end_is_refused,
    waiting_is_bounded,
    a_timeout_ends_the_exec,
    a_signal_is_told,
    a_program_that_does_not_exist_is_refused,
    environment_and_directory_are_the_orders,
    stdin_reaches_the_program_and_ends,
    execs_run_side_by_side,
    unknown_execs_are_not_found,
    a_new_identity_forgets_what_warmed_the_guest_up,
    who_is_somebody_rehearses_nothing,
    a_file_comes_back_as_it_went,
    an_upload_that_breaks_leaves_the_old_content,
    directories_are_listed_by_name,
    making_and_deleting_may_be_repeated,
    wrong_kinds_are_refused,
)


class _Broken(Exception):
    """The source of an upload broke off."""


async def _given(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _broken() -> AsyncIterator[bytes]:
    yield b"half"
    raise _Broken


def _new_id() -> str:
    return f"x-{uuid4().hex}"


def _new_path(root: str) -> str:
    return f"{root}/{uuid4().hex}"


def _order(script: str, *, timeout_s: float | None = None) -> ExecOrder:
    return ExecOrder(exec_id=_new_id(), argv=("/bin/sh", "-c", script), timeout_s=timeout_s)


async def _run(
    guest: Guest, script: str, *, timeout_s: float | None = None
) -> tuple[ExecStatus, bytes, bytes]:
    order = _order(script, timeout_s=timeout_s)
    await guest.start_exec(order)
    out, err = await _read(guest, order.exec_id)
    return await guest.wait_exec(order.exec_id), out, err


async def _read(guest: Guest, exec_id: str) -> tuple[bytes, bytes]:
    streams = {1: b"", 2: b""}
    async for piece in guest.read_output(exec_id):
        streams[piece.stream] += piece.data
    return streams[1], streams[2]


async def _drain(guest: Guest, exec_id: str, *, offset: int) -> None:
    async for _ in guest.read_output(exec_id, offset=offset):
        pass


async def _first(content: AsyncIterator[bytes]) -> bytes:
    return await anext(content)


async def _error(call: Awaitable[object]) -> Exception:
    """Return what the call raises."""
    try:
        result = await call
    except (SandfleetError, _Broken) as error:
        return error
    raise AssertionError(f"{result!r} instead of an error")
