"""Where the options of `exec` end and the command begins.

    sandfleet exec [OPTIONS] SANDBOX [OPTIONS] [--] COMMAND [ARGUMENT...]

Options may stand before and after the sandbox; what follows `--`, or the first word after
the sandbox that is no option, belongs to the command, dashes included.
"""

from __future__ import annotations

from collections.abc import Sequence, Set


def with_options_first(arguments: Sequence[str], *, valued: Set[str]) -> list[str]:
    """Return the arguments in the order options, sandbox, command. `valued`: options that take a value."""
    options: list[str] = []
    rest = list(arguments)
    sandbox: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            if sandbox:
                break
            continue
        if word.startswith("-") and word != "-":
            options.append(word)
            if word in valued and rest:
                options.append(rest.pop(0))
        elif not sandbox:
            sandbox = [word]
        else:
            rest.insert(0, word)
            break
    return [*options, *sandbox, *rest]
