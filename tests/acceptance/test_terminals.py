"""`shell`, `exec -it` and `attach` as a person meets them: at a terminal, with keys, sizes and exit codes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from tests.acceptance.live_fleet import COMMAND, LiveFleet
from tests.acceptance.pseudo_terminal import PseudoTerminal

pytestmark = pytest.mark.timeout(600)

PROMPT = b"$ "
CTRL_C, CTRL_RIGHT_BRACKET = b"\x03", b"\x1d"


@pytest.fixture(scope="module")
def sandbox_id(fleet: LiveFleet) -> Iterator[str]:
    """One sandbox for all of these tests."""
    with fleet.client() as http:
        made = http.post("/api/sandboxes", json={"envs": {"GREETING": "hello"}})
        assert made.status_code == 201, made.text
        identity = made.json()["sandboxID"]
        yield identity
        assert http.delete(f"/api/sandboxes/{identity}").status_code == 204


def at_terminal(fleet: LiveFleet, *words: str, rows: int = 31, cols: int = 97) -> PseudoTerminal:
    environment = os.environ | {"SANDFLEET_URL": fleet.url, "SANDFLEET_API_KEY": fleet.api_key}
    return PseudoTerminal([COMMAND, *words], environment=environment, rows=rows, cols=cols)


def test_a_shell_has_a_prompt_the_size_and_ctrl_c(fleet: LiveFleet, sandbox_id: str) -> None:
    with at_terminal(fleet, "shell", sandbox_id) as terminal:
        terminal.until(PROMPT)
        terminal.press(b"stty size; tty; echo $GREETING-$TERM\r")
        terminal.until(b"31 97\r\n/dev/pts/")
        terminal.until(b"hello-xterm-256color\r\n")
        assert not terminal.is_restored  # raw: what is typed belongs to the sandbox
        terminal.resize(rows=22, cols=66)
        # The new size travels beside the keys: ask until it has come.
        terminal.press(b"until [ \"$(stty size)\" = '22 66' ]; do sleep 0.1; done; echo si''zed\r")
        terminal.until(b"sized\r\n")
        # Said by the command itself: a Ctrl-C before the shell has given it the terminal is the shell's.
        terminal.press(b"sh -c \"echo sleep''ing; exec sleep 300\"\r")
        terminal.until(b"sleeping\r\n")
        terminal.press(CTRL_C)
        terminal.until(PROMPT)
        terminal.press(b"echo in''terrupted $?\r")
        terminal.until(b"interrupted 130\r\n")
        terminal.press(b"exit 9\r")
        assert terminal.ended() == 9
        assert terminal.is_restored


def test_a_shell_is_left_and_gone_on_with(fleet: LiveFleet, sandbox_id: str) -> None:
    with at_terminal(fleet, "shell", sandbox_id) as terminal:
        terminal.until(PROMPT)
        terminal.press(b"KEPT=here; echo be''fore\r")
        terminal.until(b"before\r\n")
        terminal.until(PROMPT)
        terminal.press(CTRL_RIGHT_BRACKET)
        assert terminal.ended() == 0
        assert terminal.is_restored
        found = re.search(rb"sandfleet attach (\S+) (\S+)", terminal.seen)
        assert found is not None, terminal.seen
        words = [word.decode() for word in found.groups()]
    assert words[0] == sandbox_id
    with at_terminal(fleet, "attach", *words, rows=20, cols=50) as terminal:
        terminal.until(b"before\r\n")  # what was shown before is shown again
        terminal.press(b"echo still $KEPT\r")
        terminal.until(b"still here\r\n")
        terminal.press(b"until [ \"$(stty size)\" = '20 50' ]; do sleep 0.1; done; exit 4\r")
        assert terminal.ended() == 4
        assert terminal.is_restored


def test_a_command_at_a_terminal_passes_its_code_on(fleet: LiveFleet, sandbox_id: str) -> None:
    script = "tty; stty size; read -p 'your name: ' name; echo hello $name; exit 7"
    with at_terminal(fleet, "exec", "-it", sandbox_id, "--", "bash", "-c", script) as terminal:
        terminal.until(b"/dev/pts/")
        terminal.until(b"31 97\r\n")
        terminal.until(b"your name: ")
        terminal.press(b"you\r")
        terminal.until(b"hello you\r\n")
        assert terminal.ended() == 7
        assert terminal.is_restored


def test_ctrl_c_ends_a_command_at_a_terminal_as_a_shell_would_say(fleet: LiveFleet, sandbox_id: str) -> None:
    with at_terminal(
        fleet, "exec", "-it", sandbox_id, "--", "sh", "-c", "echo go; exec sleep 300"
    ) as terminal:
        terminal.until(b"go\r\n")
        terminal.press(CTRL_C)
        assert terminal.ended() == 130
        assert terminal.is_restored


def test_ctrl_c_reaches_a_command_without_a_terminal(fleet: LiveFleet, sandbox_id: str) -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    with at_terminal(fleet, "exec", "-i", sandbox_id, "--", "sh", "-c", script) as terminal:
        terminal.until(b"ready\r\n")
        terminal.press(CTRL_C)
        terminal.until(b"caught\r\n")
        assert terminal.ended() == 5
        assert terminal.is_restored


def test_output_of_a_session_goes_on_where_attach_was_left(fleet: LiveFleet, sandbox_id: str) -> None:
    with fleet.client() as http:
        body = {"cmd": "sh", "args": ["-c", "echo kept; read line; echo got $line; exit 3"]}
        session = http.post(f"/api/sandboxes/{sandbox_id}/exec", json=body).json()["sessionID"]
    with at_terminal(fleet, "attach", sandbox_id, session) as terminal:
        terminal.until(b"kept\r\n")
        terminal.press(b"a line\r")
        terminal.until(b"got a line\r\n")
        assert terminal.ended() == 3
