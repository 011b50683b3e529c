"""What a browser sees instead of a guest port that nobody listens on."""

from __future__ import annotations

from sandfleet.controlplane.http.answers import Answer

RELOAD_AFTER_S = 2
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="{seconds}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Port {port} is not open yet</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 15vh auto; max-width: 34rem; padding: 0 1rem; }}
code {{ background: #8882; border-radius: 4px; padding: 0 .3em; }}
:root {{ color-scheme: light dark; }}
</style>
</head>
<body>
<h1>Nothing listens on port {port} yet</h1>
<p>The sandbox is running, but no program in it takes connections on this port.
A program must listen on <code>0.0.0.0:{port}</code>: one on <code>127.0.0.1</code> cannot be seen
from outside.</p>
<p>This page reloads itself every {seconds} seconds.</p>
</body>
</html>
"""


def closed_port_page(port: int) -> Answer:
    """Return a page that asks again by itself until somebody listens."""
    return Answer(
        503,
        _PAGE.format(port=port, seconds=RELOAD_AFTER_S).encode(),
        media_type="text/html; charset=utf-8",
        headers={"Retry-After": str(RELOAD_AFTER_S), "Cache-Control": "no-store"},
    )
