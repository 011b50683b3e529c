"""`key create`, `key list`, `key revoke`: API keys. They need a key with scope `admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, show_table, tell

if TYPE_CHECKING:
    from sandfleet_sdk import Client

app = typer.Typer(help="API keys. Needs a key with scope `admin`.", no_args_is_help=True)
Organisation = Annotated[
    str | None, typer.Option("--org", help="Organisation, by id or name. Default: the default one.")
]
_DEFAULT = "default"


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    *,
    scope: Annotated[list[str] | None, typer.Option(help="`org` (default) or `admin`.")] = None,
    org: Organisation = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        key = client.fleet.create_key(_organisation(client, org), name=name, scopes=scope or ["org"])
    if as_json:
        show_json({"id": key.id, "name": key.name, "scopes": key.scopes, "key": key.key})
        return
    tell("This key is shown only now:")
    say(key.key or "")


@app.command("list")
def list_all(
    *, org: Organisation = None, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """List an organisation's keys, without the keys themselves."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        keys = client.fleet.list_keys(_organisation(client, org))
    if as_json:
        show_json(
            [
                {
                    "id": k.id,
                    "name": k.name,
                    "prefix": k.prefix,
                    "scopes": k.scopes,
                    "createdAt": k.created_at.isoformat() if k.created_at else None,
                }
                for k in keys
            ]
        )
        return
    rows = [
        (k.id, k.name, f"{k.prefix}…", ",".join(k.scopes), k.created_at.date() if k.created_at else None)
        for k in keys
    ]
    show_table(("ID", "NAME", "KEY", "SCOPES", "CREATED"), rows, empty="no keys")


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Id, name or beginning of the key.")],
    *,
    org: Organisation = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a key useless at once."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.errors import CommandFailed, ExitCode

    with connect(url, api_key) as client:
        organisation = _organisation(client, org)
        known = client.fleet.list_keys(organisation)
        found = [k for k in known if key in (k.id, k.name) or (len(key) >= 8 and key.startswith(k.prefix))]
        if not found:
            raise CommandFailed(
                f"there is no key {key!r}", hint="`sandfleet key list`", code=ExitCode.NOT_FOUND
            )
        if len(found) > 1:
            raise CommandFailed(f"{key!r} means {len(found)} keys", hint="give the id")
        client.fleet.revoke_key(organisation, found[0].id)
    if as_json:
        show_json({"revoked": found[0].id})
    else:
        say(found[0].id)


def _organisation(client: Client, wanted: str | None) -> str:
    from sandfleet.cli.errors import CommandFailed, ExitCode

    organisations = client.fleet.organisations()
    name = wanted or _DEFAULT
    found = [o for o in organisations if name in (o.id, o.name)]
    if not found and wanted is None and len(organisations) == 1:
        found = organisations
    if not found:
        raise CommandFailed(f"there is no organisation {name!r}", code=ExitCode.NOT_FOUND)
    return found[0].id
