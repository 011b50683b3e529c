"""What the words on the command line mean, decided without a server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sandfleet.cli.copy_paths import (
    HOME,
    LocalPath,
    RemotePath,
    StandardStream,
    parse_place,
    parse_places,
    safe_name,
)
from sandfleet.cli.errors import CommandFailed, ExitCode, exit_code_of, hint_of, report
from sandfleet.cli.exec_arguments import with_options_first
from sandfleet.cli.exit_codes import exit_code, signal_number
from sandfleet.cli.pairs import parse_pairs
from sandfleet.cli.sandbox_names import choose, is_complete_id
from sandfleet_sdk import ExecResult, NoCapacity, NotFound, Sandbox, Unreachable

VALUED = frozenset({"-e", "--cwd", "--timeout"})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sb-1 -- ls -la", "sb-1 ls -la"),
        ("sb-1 ls -la", "sb-1 ls -la"),
        ("--cwd /x sb-1 -- ls", "--cwd /x sb-1 ls"),
        ("sb-1 --cwd /x -- ls --cwd /y", "--cwd /x sb-1 ls --cwd /y"),
        ("sb-1 -e A=b --json env", "-e A=b --json sb-1 env"),
        ("-T sb-1 -- -x", "-T sb-1 -x"),
        ("sb-1 -- ls -- -a", "sb-1 ls -- -a"),
        ("-- sb-1 -- ls", "sb-1 ls"),
        ("sb-1 cat -", "sb-1 cat -"),
        ("sb-1 --timeout=5 true", "--timeout=5 sb-1 true"),
        ("sb-1", "sb-1"),
        ("", ""),
        ("--cwd", "--cwd"),
    ],
)
def test_options_of_exec_stand_on_both_sides_of_the_sandbox(given: str, meant: str) -> None:
    assert with_options_first(given.split(), valued=VALUED) == meant.split()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("-", StandardStream()),
        ("file", LocalPath(Path("file"))),
        ("dir/", LocalPath(Path("dir"), means_directory=True)),
        ("./a:b", LocalPath(Path("a:b"))),
        ("/tmp/a:b", LocalPath(Path("/tmp/a:b"))),
        (":x", LocalPath(Path(":x"))),
        ("sb-1:/a/b", RemotePath("sb-1", "/a/b")),
        ("sb-1:/a/", RemotePath("sb-1", "/a/", means_directory=True)),
        ("mine:a:b", RemotePath("mine", "a:b")),
        ("mine:", RemotePath("mine", HOME, means_directory=True)),
    ],
)
def test_a_colon_before_any_slash_means_a_sandbox(text: str, place: object) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(("source", "destination"), [("a", "b"), ("-", "b"), ("s:a", "t:b"), ("", "s:a")])
def test_exactly_one_side_of_a_copy_is_in_a_sandbox(source: str, destination: str) -> None:
    with pytest.raises(CommandFailed) as failure:
        parse_places(source, destination)
    assert failure.value.code is ExitCode.USAGE


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "a/b", "/etc/passwd", "a\0b"])
def test_a_name_from_a_sandbox_cannot_leave_its_directory(name: str) -> None:
    with pytest.raises(CommandFailed, match="impossible name"):
        safe_name(name)
    assert safe_name("..x") == "..x"


def _sandbox(identity: str, alias: str | None = None, status: str = "running") -> Sandbox:
    return Sandbox.parse({"sandboxID": identity, "alias": alias, "status": status})


A = _sandbox("sb-aaa1", "web")
B = _sandbox("sb-aab2", "sb-aaa1-copy")
DEAD = _sandbox("sb-aac3", "web", "stopped")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("web", "sb-aaa1"), ("sb-aab", "sb-aab2"), ("aab2", "sb-aab2"), ("sb-aac3", "sb-aac3"), ("sb-aa", None)],
)
def test_a_sandbox_is_called_by_alias_or_by_the_beginning_of_its_id(name: str, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(CommandFailed, match="means 2 sandboxes"):
            choose(name, [A, B, DEAD])
    else:
        assert choose(name, [A, B, DEAD]) == meant


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(CommandFailed) as failure:
        choose("nope", [A])
    assert failure.value.code is ExitCode.NOT_FOUND
    with pytest.raises(CommandFailed):
        choose("", [A])


def test_a_whole_id_is_never_looked_up() -> None:
    assert is_complete_id("sb-" + "a" * 26)
    assert not is_complete_id("sb-" + "a" * 25)
    assert not is_complete_id("a" * 29)


def test_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x=y")
    assert parse_pairs(["A=1", "B=", "C=a=b", "FROM_HERE"], option="-e") == {
        "A": "1",
        "B": "",
        "C": "a=b",
        "FROM_HERE": "x=y",
    }
    assert parse_pairs([], option="-e") is None
    for wrong in ("=x", "NOT_SET_ANYWHERE"):
        with pytest.raises(CommandFailed):
            parse_pairs([wrong], option="-e")
    with pytest.raises(CommandFailed):
        parse_pairs(["FROM_HERE"], option="--metadata")


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (ExecResult(exit_code=0, stdout="", stderr=""), 0),
        (ExecResult(exit_code=77, stdout="", stderr=""), 77),
        (ExecResult(exit_code=-1, stdout="", stderr="", signal="SIGKILL"), 137),
        (ExecResult(exit_code=-1, stdout="", stderr="", signal=15), 143),
        (ExecResult(exit_code=-1, stdout="", stderr="", timed_out=True, signal="SIGKILL"), 124),
        (ExecResult(exit_code=-1, stdout="", stderr=""), 1),
    ],
)
def test_exec_exits_as_a_shell_would(result: ExecResult, code: int) -> None:
    assert exit_code(result) == code


def test_signals_are_known_by_name_and_number() -> None:
    assert [signal_number(name) for name in ("SIGTERM", "TERM", 9, "NOPE")] == [15, 15, 9, 0]


def test_errors_have_codes_and_hints(capsys: pytest.CaptureFixture[str]) -> None:
    full = NoCapacity("full", status=503, code="no_capacity")
    lost = NotFound("no", status=404, code="not_found")
    assert [exit_code_of(e) for e in (full, lost, Unreachable("x"))] == [5, 4, 3]
    assert "sandfleet up" in hint_of(Unreachable("x"))
    report(full, as_json=True)
    assert '"code": "no_capacity"' in capsys.readouterr().err
    report(Unreachable("nobody"), as_json=False)
    assert capsys.readouterr().err.splitlines()[0] == "sandfleet: nobody"


def test_help_needs_no_server_and_loads_none_of_its_parts() -> None:
    import subprocess

    program = (
        "import sys; sys.argv = ['sandfleet', '--help']\n"
        "from sandfleet.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx2', 'rich', 'pydantic', 'fastapi', 'sqlalchemy', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    for command in ("up", "down", "status", "doctor", "create", "exec", "cp", "rm", "key", "demo"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ls"], 3, "sandfleet up"),
        (["cp", "a", "b"], 2, "one of the two paths"),
        (["exec", "sb-1", "true"], 125, "sandfleet up"),
        (["server", "--settings", "/nonexistent"], 2, "does not exist"),
        (["nonsense"], 2, "No such command"),
        (["ls", "--url", "http://127.0.0.1:1"], 1, "no API key for http://127.0.0.1:1"),
        (["image", "build", "../elsewhere"], 1, "no name for an image"),
        (["worker"], 2, "settings are refused"),
    ],
)
def test_mistakes_end_with_one_line_and_what_to_do(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    import subprocess

    environment = {"PATH": os.environ["PATH"], "SANDFLEET_DATA_DIR": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-m", "sandfleet", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()  # asking creates nothing


def test_the_key_of_this_machines_fleet_is_sent_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandfleet.cli.connection import connect
    from sandfleet.local import processes
    from sandfleet.local.configuration import load_secrets
    from sandfleet.local.layout import Layout
    from sandfleet.local.state import FleetState, write_state

    for name in ("SANDFLEET_URL", "SANDFLEET_API_KEY", "OPENCOMPUTER_API_URL", "OPENCOMPUTER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    layout = Layout(tmp_path)
    load_secrets(layout)
    own = processes.identify(os.getpid())
    assert own is not None
    write_state(layout, FleetState("http://127.0.0.1:1234", own))
    connect(None, None, data_dir=tmp_path).close()
    connect("http://127.0.0.1:1234/api", None, data_dir=tmp_path).close()
    with pytest.raises(CommandFailed, match="no API key for http://elsewhere"):
        connect("http://elsewhere", None, data_dir=tmp_path)
