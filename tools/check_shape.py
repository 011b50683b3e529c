"""Checks the shape of the code: how long files and functions are, what they are called and where SQL stands.

`python -m tools.check_shape [DIRECTORY]` prints one line per violation and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOTS = ("src", "sdk", "tests", "tools", "bench")
LINES_MAX = 400
TEST_LINES_MAX = 600
FUNCTION_LINES_MAX = 50
BANNED_NAMES = frozenset(
    {"utils", "helpers", "common", "manager", "managers", "misc", "base", "util", "helper"}
)
SLEEPLESS = ("tests/unit/", "tests/properties/")
# Where statements for the database may stand; tests look into it, and the embedded server is created by some.
SQL_HOMES = ("src/sandfleet/adapters/postgres/", "src/sandfleet/local/", "tests/", "bench/", "tools/")
SQL = re.compile(
    r"\s*(SELECT\s.+\sFROM\s|INSERT\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|"
    r"(CREATE|ALTER|DROP)\s+(TABLE|INDEX|TYPE)\s)",
    re.DOTALL,
)


def violations_in(path: str, text: str) -> Iterator[str]:
    """Yield what is wrong with one Python file, as `path:line: rule`. `path` is relative, with slashes."""
    tree = ast.parse(text, path)
    lines = text.count("\n")
    lines_max = TEST_LINES_MAX if path.startswith("tests/") else LINES_MAX
    if lines > lines_max:
        yield f"{path}:{lines_max}: the file has {lines} lines, at most {lines_max}: split it by operation"
    if Path(path).stem in BANNED_NAMES:
        yield f"{path}:1: a file is named after what it does, not {Path(path).stem!r}"
    if tree.body and ast.get_docstring(tree) is None:
        yield f"{path}:1: no module docstring"
    for node in ast.walk(tree):
        yield from _node_violations(path, node)


def _node_violations(path: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES_MAX}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if SQL.match(node.value) and not path.startswith(SQL_HOMES):
            yield f"{path}:{node.lineno}: SQL stands only in adapters/postgres"
    elif isinstance(node, ast.Call) and path.startswith(SLEEPLESS) and _sleeps(node):
        yield f"{path}:{node.lineno}: tests here never sleep: use the jumping clock"


def _sleeps(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name not in ("asyncio.sleep", "time.sleep", "sleep"):
        return False
    # asyncio.sleep(0) only lets other tasks run.
    return not (name != "time.sleep" and [ast.unparse(a) for a in call.args] == ["0"])


def violations_below(directory: Path) -> Iterator[str]:
    """Yield what is wrong with the Python files of the project in `directory`."""
    for root in ROOTS:
        for path in sorted((directory / root).rglob("*.py")):
            relative = path.relative_to(directory)
            if not any(part.startswith(".") or part == "node_modules" for part in relative.parts):
                yield from violations_in(relative.as_posix(), path.read_text())


def main() -> int:
    """Print all violations and return the exit code."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    violations = list(violations_below(directory))
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
