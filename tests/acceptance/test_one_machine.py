"""One machine as its user meets it: the command line, down and up, crashes of the supervisor, the demo."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.live_fleet import COMMAND, LiveFleet, wait_until

from sandfleet_sdk import AsyncClient, Client, Forbidden, Gone

pytestmark = pytest.mark.timeout(300)


class CommandLine:
    """`sandfleet` on the fleet under test."""

    def __init__(self, fleet: LiveFleet) -> None:
        self.fleet = fleet
        self.environment = os.environ | {"SANDFLEET_DATA_DIR": str(fleet.data_dir)}
        for name in ("SANDFLEET_URL", "SANDFLEET_API_KEY", "OPENCOMPUTER_API_URL", "OPENCOMPUTER_API_KEY"):
            self.environment.pop(name, None)

    def run(
        self, *words: str, stdin: bytes = b"", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run(
            [COMMAND, *words],
            input=stdin,
            capture_output=True,
            env=self.environment,
            timeout=timeout_s,
            check=False,
        )

    def output(self, *words: str, stdin: bytes = b"") -> bytes:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Begin a command; a context manager that waits for its end."""
        return subprocess.Popen([COMMAND, *words], stdout=subprocess.PIPE, env=self.environment)


@pytest.fixture
def cli(fleet: LiveFleet) -> CommandLine:
    return CommandLine(fleet)


@pytest.fixture
def sandbox(cli: CommandLine) -> Iterator[str]:
    identity = cli.output("create", "--timeout", "600").decode().strip()
    yield identity
    cli.output("rm", identity)


def supervisor_of(fleet: LiveFleet) -> int:
    return int(fleet.status()["supervisor"]["pid"])


def pids_of(fleet: LiveFleet) -> dict[str, int]:
    status = fleet.status()
    services = [status["postgres"], status["valkey"], *status["servers"], *status["workers"]]
    return {service["name"]: service["pid"] for service in services}


def test_status_says_what_a_program_needs(fleet: LiveFleet) -> None:
    status = fleet.status()
    assert status["ready"] is True
    assert status["url"] == fleet.url
    assert status["apiKey"].startswith("osb_")
    (server,), (worker,) = status["servers"], status["workers"]
    assert server["url"] == fleet.url
    assert worker["state"] == "ready"
    assert worker["memoryTotalMb"] > 0
    assert worker["memoryCommittedMb"] >= 0
    assert worker["sandboxes"] >= 0
    assert status["postgres"]["state"] == status["valkey"]["state"] == "running"


def test_no_secret_is_readable_by_others_or_in_an_argument(fleet: LiveFleet) -> None:
    files = [fleet.data_dir / "secrets.json", *(fleet.data_dir / "settings").iterdir()]
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    known = json.loads((fleet.data_dir / "secrets.json").read_text()).values()
    for pid in pids_of(fleet).values():
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in arguments for secret in known)
    logs = "".join(path.read_text(errors="replace") for path in (fleet.data_dir / "logs").iterdir())
    assert not any(secret in logs for secret in known)


def test_the_doctor_finds_nothing_wrong(cli: CommandLine) -> None:
    findings = json.loads(cli.output("doctor", "--json"))
    assert {finding["subject"] for finding in findings} >= {"QEMU", "accelerator", "cgroups", "network"}
    assert [finding for finding in findings if finding["verdict"] == "fail"] == []


def test_exec_passes_on_output_and_code(cli: CommandLine, sandbox: str) -> None:
    done = cli.run("exec", sandbox, "--", "sh", "-c", "echo out; echo err >&2; exit 77")
    assert (done.returncode, done.stdout, done.stderr) == (77, b"out\n", b"err\n")
    assert cli.output("exec", "-e", "WHO=you", "--cwd", "/tmp", sandbox, "echo $WHO; pwd") == b"you\n/tmp\n"
    assert cli.run("exec", sandbox, "kill -9 $$").returncode == 137
    assert cli.run("exec", sandbox, "--timeout", "1", "--", "sleep", "30").returncode == 124
    assert cli.run("exec", sandbox, "--", "no-such-program", "x").returncode == 125
    assert cli.run("exec", "sb-none", "true").returncode == 125


def test_output_appears_while_the_command_runs(cli: CommandLine, sandbox: str) -> None:
    script = "echo first; until [ -e /tmp/seen ]; do sleep 0.1; done; echo last"
    with cli.start("exec", sandbox, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        cli.output("cp", "-", f"{sandbox}:/tmp/seen", stdin=b"the first line")
        assert process.stdout.read() == b"last\n"
        assert process.wait(60) == 0


def test_a_megabyte_of_output_arrives_whole(cli: CommandLine, sandbox: str) -> None:
    output = cli.output("exec", sandbox, "--", "sh", "-c", "seq 300000; sleep 1; echo end")
    assert output == "".join(f"{n}\n" for n in range(1, 300001)).encode() + b"end\n"


def test_files_go_in_and_out(cli: CommandLine, sandbox: str, tmp_path: Path) -> None:
    content = secrets.token_bytes(3 * 2**20)
    (tmp_path / "in.bin").write_bytes(content)
    cli.output("cp", str(tmp_path / "in.bin"), f"{sandbox}:/workspace/new/")
    inside = cli.output("exec", sandbox, "sha256sum /workspace/new/in.bin").split()[0].decode()
    assert inside == hashlib.sha256(content).hexdigest()
    cli.output("cp", f"{sandbox}:/workspace/new/in.bin", str(tmp_path / "out.bin"))
    assert (tmp_path / "out.bin").read_bytes() == content
    assert cli.output("cp", f"{sandbox}:/workspace/new/in.bin", "-") == content
    cli.output("cp", "-", f"{sandbox}:note", stdin=b"from a pipe")
    assert cli.output("exec", sandbox, "cat ~/note") == b"from a pipe"
    names = [entry["name"] for entry in json.loads(cli.output("files", "ls", sandbox, "--json"))]
    assert "note" in names
    missing = cli.run("cp", f"{sandbox}:/nowhere", str(tmp_path))
    assert missing.returncode == 4
    assert [path.name for path in tmp_path.iterdir()] == ["in.bin", "out.bin"]  # no half files


def test_directories_go_in_and_out_with_all_in_them(cli: CommandLine, sandbox: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "empty").mkdir(parents=True)
    (tree / "a" / "data é").write_bytes(b"\x00\xff")
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    cli.output("cp", str(tree), f"{sandbox}:/workspace/tree")
    assert cli.output("exec", sandbox, "/workspace/tree/run.sh") == b"ran\n"
    cli.output("cp", f"{sandbox}:/workspace/tree", str(tmp_path / "back"))
    assert (tmp_path / "back" / "a" / "data é").read_bytes() == b"\x00\xff"
    assert (tmp_path / "back" / "a" / "empty").is_dir()
    assert os.access(tmp_path / "back" / "run.sh", os.X_OK)


def test_sandboxes_are_called_by_alias_and_by_beginnings(cli: CommandLine) -> None:
    alias = f"web-{secrets.token_hex(4)}"
    identity = cli.output("create", "--alias", alias, "--memory", "512", "-e", "A=b").decode().strip()
    try:
        assert cli.output("exec", alias, "echo $A") == b"b\n"
        assert cli.output("exec", identity[:12], "echo $A") == b"b\n"
        (listed,) = [s for s in json.loads(cli.output("ls", "--json")) if s["sandboxID"] == identity]
        assert (listed["alias"], listed["memoryMB"]) == (alias, 512)
        assert identity.encode() in cli.output("ls")
        cli.output("timeout", alias, "300")
        changes = json.loads(cli.output("events", alias, "--json"))
        assert changes[-1]["to"] == "creating"
    finally:
        cli.output("rm", alias)
    assert identity.encode() not in cli.output("ls", "-q")
    assert identity.encode() in cli.output("ls", "-q", "--all", "--limit", "1000")
    with Client(cli.fleet.url, cli.fleet.api_key) as client, pytest.raises(Gone):
        client.commands.run(identity, "true")


def test_events_are_followed_to_the_end_of_the_sandbox(cli: CommandLine) -> None:
    identity = cli.output("create", "--memory", "512").decode().strip()
    with cli.start("events", "--follow", "--json", identity) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "created"
        cli.output("rm", identity)
        assert [json.loads(line)["to"] for line in process.stdout][-1] == "stopped"
        assert process.wait(60) == 0


def test_a_key_works_until_it_is_revoked(cli: CommandLine) -> None:
    name = f"ci-{secrets.token_hex(4)}"
    key = cli.output("key", "create", name).decode().strip()
    with Client(cli.fleet.url, key) as client:
        client.sandboxes.list()
        assert name.encode() in cli.output("key", "list")
        assert key.encode() not in cli.output("key", "list", "--json")
        cli.output("key", "revoke", name)
        wait_until(lambda: _is_forbidden(client), timeout_s=60, what="the key to be useless")


def _is_forbidden(client: Client) -> bool:
    try:
        client.sandboxes.list()
    except Forbidden:
        return True
    return False


async def test_the_awaiting_client_works_side_by_side(fleet: LiveFleet) -> None:
    async with AsyncClient(fleet.url, fleet.api_key) as client:
        sandboxes = await asyncio.gather(*(client.sandboxes.create(timeout_s=300) for _ in range(3)))
        try:
            results = await asyncio.gather(
                *(client.commands.run(s.id, f"echo {n}; exit {n}") for n, s in enumerate(sandboxes))
            )
            assert [(r.exit_code, r.stdout) for r in results] == [(n, f"{n}\n") for n in range(3)]
            await client.files.write(sandboxes[0].id, "/tmp/x", b"\xff\x00")
            assert await client.files.read(sandboxes[0].id, "/tmp/x") == b"\xff\x00"
            assert not await client.files.exists(sandboxes[1].id, "/tmp/x")
        finally:
            for sandbox in sandboxes:
                await client.sandboxes.kill(sandbox.id)


def test_up_again_changes_nothing(cli: CommandLine) -> None:
    before = pids_of(cli.fleet)
    assert b"up already" in cli.output("up")
    assert pids_of(cli.fleet) == before


def test_the_successor_of_a_killed_supervisor_takes_over(cli: CommandLine, sandbox: str) -> None:
    before, killed = pids_of(cli.fleet), supervisor_of(cli.fleet)
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: not cli.fleet.status()["supervisor"]["running"], timeout_s=60, what="the supervisor to end"
    )
    assert cli.output("exec", sandbox, "echo served without it") == b"served without it\n"
    cli.output("up")
    assert supervisor_of(cli.fleet) != killed
    assert pids_of(cli.fleet) == before  # adopted, not started anew


def test_what_runs_in_a_sandbox_survives_down_and_up(cli: CommandLine, sandbox: str) -> None:
    count = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.1; done"
    cli.output("exec", sandbox, f"setsid sh -c '{count}' >/dev/null 2>&1 &")
    boot = cli.output("exec", sandbox, "cat /proc/sys/kernel/random/boot_id")
    before = pids_of(cli.fleet)
    cli.output("down")
    stopped = cli.run("status", "--json")
    assert (stopped.returncode, json.loads(stopped.stdout)["ready"]) == (1, False)
    assert cli.run("ls").returncode == 3
    cli.output("up")
    status = cli.fleet.status()
    assert (status["url"], status["apiKey"]) == (cli.fleet.url, cli.fleet.api_key)
    assert not set(before.values()) & set(pids_of(cli.fleet).values())
    assert cli.output("exec", sandbox, "cat /proc/sys/kernel/random/boot_id") == boot
    first = int(cli.output("exec", sandbox, "cat /tmp/n"))
    wait_until(
        lambda: int(cli.output("exec", sandbox, "cat /tmp/n")) > first, timeout_s=90, what="it to go on"
    )


def test_the_demo_verifies_every_step(twin_fleet: LiveFleet) -> None:
    done = CommandLine(twin_fleet).run("demo", "--json", timeout_s=280)
    report = json.loads(done.stdout)
    assert [step for step in report["steps"] if not step["verified"]] == []
    assert done.returncode == 0
    assert report["complete"] is True
    assert len(report["steps"]) == 10
    assert report["measured"]["create"] > 0
