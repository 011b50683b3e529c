"""Start a command, once per id."""

from __future__ import annotations

import os

from sandfleet.agent.context import Agent
from sandfleet.agent.spawn import PATH_DEFAULT, Command
from sandfleet.agent.streams import Stream
from sandfleet.agent.terminal import TYPE, TerminalSize
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed, encode_json


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with the status when the program runs, or with `exec_failed`.

    With `follow` the status is the first DATA, the output follows as in `exec_read`, and
    the final status is the result: a short command is one exchange.
    """
    exec_id = fields.text("id")
    follows = fields.flag("follow", False)
    if agent.execs.known(exec_id):
        execution = agent.execs.find(exec_id)
    else:
        argv = fields.texts("argv")
        command = _command(agent, fields, argv=argv)
        timeout_s = fields.number_or_none("timeout_s")
        execution = agent.execs.reserve(exec_id, argv)
        execution.state.has_terminal = command.terminal is not None
        execution.state.is_session = fields.flag("session", False)
        execution.state.linger_s = fields.number_or_none("linger_s")
        agent.execs.start(execution, command, timeout_s=timeout_s)

    def answer() -> None:
        if execution.failure is not None:
            stream.fail(execution.failure)
        elif follows and execution.log.oldest == 0:
            execution.readers.follow(
                stream, execution.log, head=encode_json(execution.describe()), at_end=execution.final_status
            )
        else:
            stream.finish(execution.describe())

    execution.when_started(answer)


def _command(agent: Agent, fields: Fields, *, argv: list[str]) -> Command:
    user = agent.users.find(fields.text("user", agent.places.user)) if agent.places.switches_user else None
    home = agent.places.home if user is None or user.name == agent.places.user else user.home
    terminal = _terminal(fields)
    envs = {
        **({} if terminal is None else {"TERM": TYPE}),
        "HOME": home,
        "USER": agent.places.user if user is None else user.name,
        "LOGNAME": agent.places.user if user is None else user.name,
        "SHELL": "/bin/bash" if user is None else user.shell,
        "PATH": PATH_DEFAULT,
        "LANG": "C.UTF-8",
        **agent.identity_envs,
        **fields.text_map("envs"),
    }
    cwd = fields.text_or_none("cwd")
    if cwd is None:
        cwd = home if os.path.isdir(home) else "/"
    _check(argv, envs, cwd)
    return Command(
        argv=argv,
        envs=envs,
        cwd=os.path.join(home, cwd),
        user=user,
        cgroup_door=None,
        stdin=fields.flag("stdin", False),
        terminal=terminal,
    )


def _terminal(fields: Fields) -> TerminalSize | None:
    """Return the size of the terminal that is asked for."""
    if fields.integer_or_none("cols") is None:
        return None
    size = TerminalSize(cols=fields.integer("cols"), rows=fields.integer("rows"))
    if not size.is_valid:
        raise OperationFailed(Code.BAD_REQUEST, "no such size of a terminal")
    return size


def _check(argv: list[str], envs: dict[str, str], cwd: str) -> None:
    if not argv or not argv[0]:
        raise OperationFailed(Code.BAD_REQUEST, "no program")
    if any("\0" in text for text in (*argv, *envs, *envs.values(), cwd)):
        raise OperationFailed(Code.BAD_REQUEST, "a NUL byte in an argument, variable or directory")
    if any(not name or "=" in name for name in envs):
        raise OperationFailed(Code.BAD_REQUEST, "a variable without a proper name")
