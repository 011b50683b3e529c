"""Keys, tokens and signatures are taken out before a line is formatted.

Two nets: by name (query values and fields, headers among them, that are known to hold secrets) and by
form (whatever looks like one of our keys or tokens, wherever it stands).
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

REDACTED = "[redacted]"
SECRET_QUERY = frozenset({"api_key", "key", "token", "signature"})
_SECRET_FIELDS = frozenset(
    {
        *SECRET_QUERY,
        *("x-api-key", "authorization", "x-oc-preview-token", "cookie"),
        *("password", "secret", "join_token", "master_secret", "bootstrap_key"),
    }
)
_TOKEN = re.compile(
    # Begins only where a run of such characters does, so that a long text is looked through once.
    r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{12,}\.[A-Za-z0-9_-]{12,}\.[A-Za-z0-9_-]{12,}"
)
_KEY = re.compile(r"osb_[a-z0-9]{16,}")
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]*(?=@)")


def redact_text(text: str) -> str:
    """Return `text` without anything that has the form of a key, a token or a URL's password.

    Each form has a part that hardly any line has, and looking for that costs next to nothing.
    """
    if text.count(".") >= 2:
        text = _TOKEN.sub(REDACTED, text)
    if "osb_" in text:
        text = _KEY.sub(REDACTED, text)
    if "@" in text:
        text = _URL_PASSWORD.sub(REDACTED, text)
    return text


def redact_query(query: str) -> str:
    """Return a raw query string with the values of secret names replaced; names match in any case."""
    if not query:
        return ""
    return redact_text("&".join(_redacted_pair(pair) for pair in query.split("&")))


def redact_event(
    logger: object, method_name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Redact a structured log line (a processor of structlog)."""
    for name, value in event.items():
        if name.lower() in _SECRET_FIELDS:
            event[name] = REDACTED
        elif isinstance(value, str):
            event[name] = redact_text(value)
    return event


def _redacted_pair(pair: str) -> str:
    name, separator, _ = pair.partition("=")
    plain = name.replace("%5F", "_").replace("%5f", "_").lower()
    return f"{name}{separator}{REDACTED}" if separator and plain in SECRET_QUERY else pair
