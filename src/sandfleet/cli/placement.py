"""`placement`: why a sandbox is where it is, and where it was before."""

from __future__ import annotations

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json, show_table


def placement(
    sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show why a sandbox is where it is. What was said of every worker needs the scope `admin`."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        found = client.sandboxes.placement(resolve(client, sandbox))
    if as_json:
        show_json(dict(found.raw))
        return
    if found.worker_id is None:
        say(f"{found.sandbox_id} is on no worker now.")
    else:
        say(f"{found.sandbox_id} is on {found.worker_id} ({found.cause or 'placed'}): {found.reason or '-'}")
    if found.candidates:
        say("")
        rows = [
            (one.worker_id, "chosen" if one.chosen else one.refused_by or "not the best", one.reason)
            for one in found.candidates
        ]
        show_table(("WORKER", "DECISION", "REASON"), rows, empty="")
    if len(found.history) > 1:
        say("")
        stays = [
            (one["from"], one["to"], one["workerId"], one["epoch"], one["cause"], one["reason"])
            for one in found.history
        ]
        show_table(("FROM", "TO", "WORKER", "EPOCH", "CAUSE", "REASON"), stays, empty="")
