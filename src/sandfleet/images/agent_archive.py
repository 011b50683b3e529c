"""The guest agent as one file that Python runs: the agent's package and what it imports of ours.

Equal sources give equal bytes: entries are sorted, stored and carry a fixed date.
"""

from __future__ import annotations

import ast
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from sandfleet.images.errors import ImageBuildFailed

PACKAGE = "sandfleet"
ENTRY_MODULE = "sandfleet.agent.main"
LAUNCHER = f"from {ENTRY_MODULE} import main\n\nmain()\n"
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def agent_archive(source_dir: Path) -> bytes:
    """Return the archive built from the package `sandfleet` below `source_dir`."""
    modules = agent_modules(source_dir)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("__main__.py"), LAUNCHER)
        for name in sorted(modules):
            archive.writestr(
                _entry(modules[name].relative_to(source_dir).as_posix()), modules[name].read_bytes()
            )
    return buffer.getvalue()


def agent_modules(source_dir: Path) -> Mapping[str, Path]:
    """Return the agent's modules by name: all of its package, and of ours whatever those import."""
    agent_dir = source_dir / PACKAGE / "agent"
    pending = [_module_name(path, source_dir) for path in sorted(agent_dir.rglob("*.py"))]
    found: dict[str, Path] = {}
    while pending:
        name = pending.pop()
        path = _module_path(name, source_dir)
        if name in found or path is None:
            continue
        found[name] = path
        pending.extend(_parents(name))
        pending.extend(_own_imports(path))
    if ENTRY_MODULE not in found:
        raise ImageBuildFailed(f"the guest agent's module {ENTRY_MODULE} is missing below {source_dir}")
    return found


def _own_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # `from package import module` may name a module: both are tried.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if top == PACKAGE:
                yield name
            elif top not in sys.stdlib_module_names:
                raise ImageBuildFailed(f"{path} imports {name}: the guest has only the standard library")


def _module_name(path: Path, source_dir: Path) -> str:
    parts = path.relative_to(source_dir).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_path(name: str, source_dir: Path) -> Path | None:
    base = source_dir.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, FIXED_DATE)
