"""The page of settings, from the settings models of the server and the worker."""

from __future__ import annotations

import ast
import inspect
import typing
from enum import Enum
from importlib import import_module

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_MACHINES = "sandfleet.controlplane.machine_settings"
_MODELS = (
    ("Server", "sandfleet.controlplane.settings", "ControlPlaneSettings"),
    ("Server: table `capacity`", _MACHINES, "CapacitySettings"),
    ("Server: table `rollout`", "sandfleet.controlplane.rollout_settings", "RolloutSettings"),
    ("Server: a pool of kind `local`", _MACHINES, "LocalPoolSettings"),
    ("Server: a pool of kind `ec2`", _MACHINES, "Ec2PoolSettings"),
    ("Server: a pool of kind `azure`", _MACHINES, "AzurePoolSettings"),
    ("Server: a pool of kind `static`", _MACHINES, "StaticPoolSettings"),
    ("Server: one of a pool's `sizes`", _MACHINES, "SizeSettings"),
    ("Server: what one of `ec2` has besides", _MACHINES, "Ec2SizeSettings"),
    ("Server: what one of `azure` has besides", _MACHINES, "AzureSizeSettings"),
    ("Worker", "sandfleet.worker.settings", "WorkerSettings"),
)
_INTRODUCTION = """\
<!-- Made by tools/write_reference.py. Do not edit. -->

# Settings

`sandfleet server --settings FILE` and `sandfleet worker --settings FILE` read a TOML file of these keys.
An environment variable `SANDFLEET_<KEY>` in capitals overrides the file. An unknown key refuses the start,
and so does a missing one that has no default. `sandfleet up` writes both files for its one machine.

The last word of a key is its unit: `_s` seconds, `_mb` and `_mib` MiB, `_days` days.
"""


def settings_page() -> str:
    """Return the page."""
    return _INTRODUCTION + "".join(_section(*entry) for entry in _MODELS)


def _section(title: str, module: str, name: str) -> str:
    model: type[BaseModel] = getattr(import_module(module), name)
    meanings = _docstrings_of_fields(model)
    rows = [_row(key, field, meanings[key]) for key, field in model.model_fields.items() if key in meanings]
    head = ["", f"## {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _docstrings_of_fields(model: type[BaseModel]) -> dict[str, str]:
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _row(key: str, field: FieldInfo, docstring: str) -> str:
    meaning = " ".join((field.description or docstring).split()).replace("|", "\\|")
    return f"| `{key}` | {_type_name(field.annotation)} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is dict or field.default == ():
        return "none"
    if field.default_factory is not None:
        return "from this host"
    value = field.default.value if isinstance(field.default, Enum) else field.default
    return "none" if value in (None, "") else f"`{value}`"


def _type_name(annotation: object) -> str:
    if typing.get_origin(annotation) is tuple:
        of = _type_name(typing.get_args(annotation)[0])
        return "list of tables" if of == "table" else "list of str"
    if typing.get_origin(annotation) is dict or (
        isinstance(annotation, type) and issubclass(annotation, BaseModel)
    ):
        return "table"
    if typing.get_origin(annotation) is typing.Literal:
        return "str"
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    if members:
        return " or ".join(dict.fromkeys(_type_name(member) for member in members))
    return str(getattr(annotation, "__name__", annotation))
