"""Request bodies of the public API: field lookup and type checks.

Field names match case-insensitively and an exact match wins; `null` equals
absent; unknown fields are ignored; a wrong JSON type is `bad_request`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sandfleet.model.errors import BadRequest


def json_object(body: bytes) -> dict[str, Any]:
    """Return the body as an object; a missing body is `{}`."""
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the body is not valid JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def field(body: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field, None when absent."""
    if name in body:
        return body[name]
    folded = name.casefold()
    return next((value for key, value in body.items() if key.casefold() == folded), None)


def text(body: Mapping[str, Any], name: str) -> str | None:
    """Return a string field. A NUL byte can be in no name or argument of a system call."""
    value = field(body, name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    return without_nul(value, name)


def integer(body: Mapping[str, Any], name: str) -> int | None:
    """Return an integer field; 5.0 is one, as in JSON Schema."""
    value = field(body, name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{name} must be an integer")
    return value


def texts(body: Mapping[str, Any], name: str) -> list[str]:
    """Return a field that is a list of strings, empty when absent."""
    value = field(body, name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"{name} must be a list of strings")
    return [without_nul(item, name) for item in value]


def text_map(body: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a field that maps strings to strings, empty when absent; its keys are literal."""
    value = field(body, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object of strings")
    present = {key: item for key, item in value.items() if item is not None}
    if not all(isinstance(item, str) for item in present.values()):
        raise BadRequest(f"{name} must be an object of strings")
    return {without_nul(key, name): without_nul(item, name) for key, item in present.items()}


def without_nul(value: str, name: str) -> str:
    """Return the value, or refuse one with a NUL byte in it."""
    if "\0" in value:
        raise BadRequest(f"{name} must not contain a NUL byte")
    return value
