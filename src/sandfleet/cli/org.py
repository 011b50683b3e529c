"""`org ls`, `org show`, `org create`, `org set`: organisations and their quotas. They need scope `admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, show_table

if TYPE_CHECKING:
    from sandfleet_sdk import Caps, Client, Organisation, Quotas

app = typer.Typer(help="Organisations and their quotas. Needs scope `admin`.", no_args_is_help=True)
NO_BOUND = "none"
Name = Annotated[str, typer.Argument(metavar="ORG", help="Its id or its name.")]


def _bound(help_text: str, name: str) -> Any:
    return typer.Option(name, metavar="N", help=f"{help_text}; `{NO_BOUND}` is no bound.")


Sandboxes = Annotated[str | None, _bound("Most sandboxes on workers at a time", "--sandboxes")]
Vcpu = Annotated[str | None, _bound("Most vCPUs of them all", "--vcpu")]
Memory = Annotated[str | None, _bound("Most MiB of memory of them all", "--memory")]
Disk = Annotated[str | None, _bound("Most MiB of disk of them all", "--disk")]
Creates = Annotated[str | None, _bound("Most creates a second", "--creates-per-second")]
MemoryCap = Annotated[str | None, _bound("Most MiB of memory of one sandbox", "--memory-cap")]
DiskCap = Annotated[str | None, _bound("Most MiB of disk of one sandbox", "--disk-cap")]
_QUOTAS = (
    ("sandboxes", "sandboxes"),
    ("vcpu", "vCPUs"),
    ("memoryMB", "memory MiB"),
    ("diskMB", "disk MiB"),
    ("createsPerSecond", "creates a second"),
)
_CAPS = (("memoryMB", "memory MiB of one"), ("diskMB", "disk MiB of one"))


@app.command("ls")
def ls(*, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List organisations, newest first, with what they use."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        found = client.fleet.organisations()
    if as_json:
        show_json([dict(one.raw) for one in found])
        return
    rows = [(one.id, one.name, *(_use(one, key) for key, _ in _QUOTAS[:4])) for one in found]
    columns = ("ID", "NAME", *(title.upper() for _, title in _QUOTAS[:4]))
    show_table(columns, rows, empty="no organisations")


@app.command("show")
def show(org: Name, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show an organisation's quotas, its caps, and what it uses."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        _show(client.fleet.organisation(find(client, org).id), as_json=as_json)


@app.command("create")
def create(  # noqa: PLR0913 -- one argument per option
    name: Annotated[str, typer.Argument(help="A name that no other has.")],
    *,
    sandboxes: Sandboxes = None,
    vcpu: Vcpu = None,
    memory: Memory = None,
    disk: Disk = None,
    creates_per_second: Creates = None,
    memory_cap: MemoryCap = None,
    disk_cap: DiskCap = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make an organisation; what is not given has no bound. `sandfleet key create --org` makes its key."""
    from sandfleet.cli.connection import connect

    quotas = _changed_quotas({}, (sandboxes, vcpu, memory, disk, creates_per_second))
    caps = _changed_caps({}, (memory_cap, disk_cap))
    with connect(url, api_key) as client:
        made = client.fleet.create_organisation(name, quotas=quotas, caps=caps)
    if as_json:
        show_json(dict(made.raw))
    else:
        say(made.id)


@app.command("set")
def set_(  # noqa: PLR0913 -- one argument per option
    org: Name,
    *,
    name: Annotated[str | None, typer.Option("--name", help="Its new name.")] = None,
    sandboxes: Sandboxes = None,
    vcpu: Vcpu = None,
    memory: Memory = None,
    disk: Disk = None,
    creates_per_second: Creates = None,
    memory_cap: MemoryCap = None,
    disk_cap: DiskCap = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given and leave the rest. What is in use already is not taken away."""
    from sandfleet.cli.connection import connect

    given = (sandboxes, vcpu, memory, disk, creates_per_second)
    caps_given = (memory_cap, disk_cap)
    with connect(url, api_key) as client:
        before = find(client, org)
        quotas = _changed_quotas(before.raw.get("quotas") or {}, given)
        caps = _changed_caps(before.raw.get("caps") or {}, caps_given)
        changed = client.fleet.change_organisation(
            before.id,
            name=name,
            quotas=quotas if _is_any(given) else None,
            caps=caps if _is_any(caps_given) else None,
        )
    _show(changed, as_json=as_json)


def find(client: Client, wanted: str) -> Organisation:
    """Return the organisation of that id or name."""
    from sandfleet.cli.errors import CommandFailed, ExitCode

    for one in client.fleet.organisations():
        if wanted in (one.id, one.name):
            return one
    raise CommandFailed(f"there is no organisation {wanted!r}", code=ExitCode.NOT_FOUND)


def bound(text: str) -> int | None:
    """Return the number, None for no bound."""
    from sandfleet.cli.errors import CommandFailed, ExitCode

    if text == NO_BOUND:
        return None
    if not (text.isascii() and text.isdigit()):
        raise CommandFailed(f"{text!r} is neither a number nor `{NO_BOUND}`", code=ExitCode.USAGE)
    return int(text)


def _is_any(given: tuple[str | None, ...]) -> bool:
    return any(text is not None for text in given)


def _merged(before: Any, keys: Any, given: tuple[str | None, ...]) -> dict[str, Any]:
    texts = zip(keys, given, strict=True)
    changes = {key: bound(text) for (key, _), text in texts if text is not None}
    return {**before, **changes}


def _changed_quotas(before: Any, given: tuple[str | None, ...]) -> Quotas:
    from sandfleet_sdk import Quotas

    return Quotas.parse(_merged(before, _QUOTAS, given))


def _changed_caps(before: Any, given: tuple[str | None, ...]) -> Caps:
    from sandfleet_sdk import Caps

    return Caps.parse(_merged(before, _CAPS, given))


def _use(one: Organisation, key: str) -> str:
    used, most = ((one.raw.get(part) or {}).get(key) for part in ("used", "quotas"))
    return f"{used} of {most}" if most is not None else str(used)


def _show(one: Organisation, *, as_json: bool) -> None:
    if as_json:
        show_json(dict(one.raw))
        return
    say(f"{one.name}  {one.id}")
    used, quotas, caps = (one.raw.get(part) or {} for part in ("used", "quotas", "caps"))
    rows = [(title, used.get(key), quotas.get(key)) for key, title in _QUOTAS]
    rows += [(title, None, caps.get(key)) for key, title in _CAPS]
    show_table(("", "USED", "MOST"), rows, empty="")
