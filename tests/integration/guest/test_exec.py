"""Execs of the real agent through the real adapter."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.waiting import eventually

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.model.errors import BadRequest, ExecFailed, NotFound
from sandfleet.ports.guest import ExecOrder, GuestIdentity

if TYPE_CHECKING:
    from tests.integration.guest.conftest import AgentProcess, Commands


async def test_both_streams_and_the_exit_code_come_back(commands: Commands) -> None:
    done = await commands.shell("printf out; printf err >&2; exit 7")
    assert (done.stdout, done.stderr) == (b"out", b"err")
    assert (done.status.exit_code, done.status.signal, done.status.timed_out) == (7, None, False)
    assert done.status.output_bytes == 6
    assert done.status.ended_at_s is not None
    assert done.status.ended_at_s >= done.status.started_at_s


async def test_order_between_the_streams_is_that_of_writing(commands: Commands, guest: VirtioGuest) -> None:
    # The next is written when the one before has been seen: of two that wait in two pipes nobody knows.
    script = "for i in 1 2 3; do printf o$i; read x; printf e$i >&2; read x; done"
    exec_id = await commands.start("/bin/sh", "-c", script, stdin=True)
    pieces = []
    async for piece in guest.read_output(exec_id):
        pieces.append(piece)
        await guest.write_stdin(exec_id, b"\n")
    assert b"".join(piece.data for piece in pieces) == b"o1e1o2e2o3e3"
    assert [piece.offset for piece in pieces] == [0, 2, 4, 6, 8, 10]


async def test_one_id_runs_once(guest: VirtioGuest, agent: AgentProcess) -> None:
    order = ExecOrder("ex-once", ["/bin/sh", "-c", f"echo ran >> {agent.home}/ran; echo done"])
    first = await asyncio.gather(*(guest.start_exec(order) for _ in range(5)))
    assert {status.exec_id for status in first} == {"ex-once"}
    await guest.wait_exec("ex-once")
    again = await guest.start_exec(order)
    assert not again.running
    assert (agent.home / "ran").read_text() == "ran\n"


async def test_a_signal_is_no_exit_code(commands: Commands) -> None:
    done = await commands.shell("kill -TERM $$")
    assert (done.status.exit_code, done.status.signal) == (-1, 15)


@pytest.mark.parametrize(
    ("argv", "fields", "message"),
    [
        (["no-such-program"], {}, "no-such-program: No such file"),
        (["/etc/passwd"], {}, "Permission denied"),
        (["/etc/passwd/x"], {}, "Not a directory"),
        (["true"], {"cwd": "/no/such"}, "directory /no/such: No such file"),
        (["true"], {"cwd": "/etc/passwd"}, "directory /etc/passwd: Not a directory"),
    ],
)
async def test_what_cannot_start_says_why_and_is_not_kept(
    guest: VirtioGuest, argv: list[str], fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ExecFailed, match=message) as caught:
        await guest.start_exec(ExecOrder("ex-bad", argv, **fields))  # type: ignore[arg-type]
    assert caught.value.code == "exec_failed"
    with pytest.raises(NotFound):
        await guest.exec_status("ex-bad")
    assert await guest.list_execs() == []


@pytest.mark.parametrize(
    "order",
    [
        ExecOrder("../up", ["true"]),
        ExecOrder("", ["true"]),
        ExecOrder("ex-1", []),
        ExecOrder("ex-1", ["tr\0ue"]),
        ExecOrder("ex-1", ["true"], {"A=B": "x"}),
        ExecOrder("ex-1", ["true"], {"A": "x\0"}),
        ExecOrder("ex-1", ["true"], cwd="/\0"),
    ],
)
async def test_nonsense_is_refused(guest: VirtioGuest, order: ExecOrder) -> None:
    with pytest.raises(BadRequest):
        await guest.start_exec(order)
    assert (await guest.list_execs()) == []


async def test_environment_is_identity_then_exec(guest: VirtioGuest, commands: Commands) -> None:
    await guest.assume_identity(GuestIdentity("sb-one", b"s" * 32, 1e9, {"A": "identity", "B": "identity"}))
    done = await commands.shell('printf "$A $B $HOME $LANG"; pwd', envs={"B": "exec"})
    assert done.stdout.startswith(b"identity exec /")
    assert done.stdout.count(b"/home") == 2
    assert b"C.UTF-8" in done.stdout


async def test_a_request_that_needs_many_frames(commands: Commands) -> None:
    envs = {f"V{number}": "x" * 1000 for number in range(500)}
    done = await commands.run("sh", "-c", "env | grep -c ^V", envs=envs)
    assert done.stdout == b"500\n"


async def test_stdin_is_empty_unless_asked_for(commands: Commands) -> None:
    assert (await commands.run("cat")).stdout == b""


async def test_stdin_streams_in_order_to_its_end(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("sha256sum", stdin=True)
    for _ in range(40):
        await guest.write_stdin(exec_id, b"y" * 100_000)
    await guest.write_stdin(exec_id, b"", end=True)
    done = await commands.collect(exec_id)
    expected = await commands.shell("head -c 4000000 /dev/zero | tr '\\0' y | sha256sum")
    assert done.stdout == expected.stdout


async def test_stdin_waits_for_a_process_that_does_not_read(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("sleep", "100", stdin=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_write_much(guest, exec_id), 1.5)
    assert (await commands.shell("echo others")).stdout == b"others\n"
    await guest.kill_exec(exec_id)


async def _write_much(guest: VirtioGuest, exec_id: str) -> None:
    for _ in range(100):
        await guest.write_stdin(exec_id, bytes(100_000))


async def test_stdin_of_a_process_that_has_gone_is_dropped(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("true", stdin=True)
    await guest.wait_exec(exec_id)
    await guest.write_stdin(exec_id, b"late" * 100_000, end=True)


async def test_timeout_kills_only_its_own(commands: Commands, guest: VirtioGuest) -> None:
    bystander = await commands.start("sleep", "100")
    started = time.monotonic()
    done = await commands.shell("echo before; sleep 100 & sleep 100", timeout_s=3)
    assert time.monotonic() - started < 60
    assert done.stdout == b"before\n"
    assert (done.status.timed_out, done.status.exit_code, done.status.signal) == (True, -1, 9)
    assert (await guest.exec_status(bystander)).running
    await guest.kill_exec(bystander)


async def test_kill_9_reaches_who_left_the_process_group(
    commands: Commands, guest: VirtioGuest, cgroup: Path | None, agent: AgentProcess
) -> None:
    if cgroup is None:
        pytest.skip("this host lets us make no cgroup v2")
    exec_id = await commands.start("sh", "-c", f"setsid sleep 1234 & echo $! > {agent.home}/pid; wait")
    pid_file = agent.home / "pid"
    while not pid_file.exists() or not pid_file.read_text():
        await guest.ping()
    escaped = Path(f"/proc/{pid_file.read_text().strip()}")
    assert escaped.exists()
    await guest.kill_exec(exec_id, signal=9)
    status = await guest.wait_exec(exec_id, timeout_s=60)
    assert (status.running, status.signal) == (False, 9)
    await eventually(lambda: is_dead(escaped), what="who left the group to die as well")


def is_dead(process: Path) -> bool:
    try:
        return " Z " in (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_other_signals_go_to_the_process_group(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start(
        "sh", "-c", "trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.02; done"
    )
    output = guest.read_output(exec_id)
    assert (await anext(output)).data == b"up\n"
    await guest.kill_exec(exec_id, signal=10)
    done = await commands.collect(exec_id)
    assert (done.stdout, done.status.exit_code) == (b"up\ngot\n", 5)
    with pytest.raises(BadRequest):
        await guest.kill_exec(exec_id, signal=65)
    await guest.kill_exec(exec_id, signal=64)  # a finished exec takes any signal


async def test_the_end_waits_one_second_for_background_children(commands: Commands) -> None:
    started = time.monotonic()
    done = await commands.shell("(sleep 30; echo late) & echo early")
    assert 0.9 < time.monotonic() - started < 25
    assert (done.stdout, done.status.exit_code) == (b"early\n", 0)


async def test_a_background_child_lives_on_and_is_not_blocked(
    commands: Commands, agent: AgentProcess
) -> None:
    script = f"(sleep 1.3; head -c 300000 /dev/zero; echo done > {agent.home}/flag) & :"
    await commands.shell(script)
    waiting = await commands.shell(
        f"for i in $(seq 500); do [ -e {agent.home}/flag ] && exit 0; sleep 0.1; done; exit 1"
    )
    assert waiting.status.exit_code == 0


async def test_waiting_is_bounded_by_the_caller(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("sleep", "100")
    started = time.monotonic()
    assert (await guest.wait_exec(exec_id, timeout_s=0.2)).running
    assert 0.15 < time.monotonic() - started < 60
    await guest.kill_exec(exec_id)
    assert not (await guest.wait_exec(exec_id)).running


async def test_output_beyond_what_is_kept_has_a_named_range(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("sh", "-c", "sleep 2.5; head -c 20000000 /dev/zero")
    status = await guest.wait_exec(exec_id)
    assert status.output_bytes == 20_000_000
    assert 20_000_000 - 16 * 2**20 <= status.oldest_offset < 5_000_000
    with pytest.raises(BadRequest) as caught:
        await anext(guest.read_output(exec_id, offset=0))
    assert caught.value.code == "offset_gone"
    assert caught.value.details == {"oldest": status.oldest_offset, "newest": 20_000_000}
    tail = [len(piece.data) async for piece in guest.read_output(exec_id, offset=status.oldest_offset)]
    assert sum(tail) == 20_000_000 - status.oldest_offset
    assert [piece async for piece in guest.read_output(exec_id, offset=20_000_000)] == []


async def test_many_at_once(commands: Commands, agent: AgentProcess) -> None:
    await commands.run("true")
    before = agent.open_files()
    done = await asyncio.gather(*(commands.shell(f"echo {number}; exit {number}") for number in range(60)))
    assert [int(one.stdout) for one in done] == list(range(60))
    assert [one.status.exit_code for one in done] == list(range(60))
    await eventually(lambda: agent.open_files() == before, what="every descriptor to be closed")
    await eventually(lambda: agent.children() == [], what="every child to be reaped")


async def test_unknown_execs(guest: VirtioGuest) -> None:
    for call in (guest.exec_status("ex-x"), guest.wait_exec("ex-x"), guest.kill_exec("ex-x")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await anext(guest.read_output("ex-x"))
