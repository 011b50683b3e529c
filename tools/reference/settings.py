"""The page of settings, from the settings models of the server and the worker."""

from __future__ import annotations

import typing
from importlib import import_module

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_MODELS = (
    ("Server", "sandfleet.controlplane.settings", "ServerSettings"),
    ("Worker", "sandfleet.worker.settings", "WorkerSettings"),
)
_INTRODUCTION = """\
<!-- Made by tools/write_reference.py. Do not edit. -->

# Settings

`sandfleet server --settings FILE` and `sandfleet worker --settings FILE` read a TOML file of these keys. An environment
variable `SANDFLEET_<KEY>` in capitals overrides the file. An unknown key refuses the start, and so does a missing one
that has no default. `sandfleet up` writes both files for its one machine.
"""


def settings_page() -> str:
    """Return the page."""
    return _INTRODUCTION + "".join(_section(*entry) for entry in _MODELS)


def _section(title: str, module: str, name: str) -> str:
    model: type[BaseModel] = getattr(import_module(module), name)
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    head = ["", f"## {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _row(key: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {_type_name(field.annotation)} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "found out at the start"
    return f"`{field.default}`" if field.default not in (None, "") else "none"


def _type_name(annotation: object) -> str:
    members = typing.get_args(annotation)
    if members:
        names = [_type_name(member) for member in members if member is not type(None)]
        return " or ".join(dict.fromkeys(names))
    return str(getattr(annotation, "__name__", annotation))
