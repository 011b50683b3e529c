"""Which Debian mirror a machine's own apt sources name (pure: text in, mirrors out).

# Facts
- One-line files (`.list`): `deb [options] URI suite components`. deb822 files
  (`.sources`): stanzas of `Types`, `URIs`, `Suites`, `Components`, `Signed-By`, `Enabled`.
- Cloud images name a `mirror+file:` URI: a local file with one mirror URI per line.
- A third party's repository may use Debian's suite names; what gives it away is a
  key ring of its own, a suite of its own, or no `main` component.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

PUBLIC_MAIN = "http://deb.debian.org/debian"
PUBLIC_SECURITY = "http://deb.debian.org/debian-security"
ALIASES = ("stable", "oldstable", "testing", "sid", "unstable")


@dataclass(frozen=True, slots=True)
class AptSource:
    """One repository that apt would read binary packages from."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Where Debian's packages and its security updates come from."""

    main: str = PUBLIC_MAIN
    security: str = PUBLIC_SECURITY


def parse_sources(files: Mapping[str, str]) -> Sequence[AptSource]:
    """Return what the files, by path, name; `.sources` files are read as deb822, others line by line."""
    sources: list[AptSource] = []
    for path in sorted(files):
        parse = _deb822_sources if path.endswith(".sources") else _one_line_sources
        sources.extend(parse(files[path]))
    return sources


def debian_mirrors(
    sources: Sequence[AptSource], *, codename: str | None, mirror_lists: Mapping[str, str] | None = None
) -> Mirrors:
    """Return the mirrors that the machine itself uses for Debian `codename`, else the public ones.

    A machine that is not Debian has no codename here; its mirrors have no Debian.
    `mirror_lists` holds the text of the local files that `mirror+file:` URIs name.
    """
    if codename is None:
        return Mirrors()
    own = [source for source in sources if _is_debian(source)]
    lists = mirror_lists or {}
    main = _first_uri(own, (codename, *ALIASES), lists)
    security = _first_uri(own, (f"{codename}-security", f"{codename}/updates"), lists)
    if main is None:
        return Mirrors()
    return Mirrors(main, security or PUBLIC_SECURITY)


def debian_codename(os_release: str) -> str | None:
    """Return the release that `/etc/os-release` names, or None when the system is not Debian itself."""
    if re.search(r"^ID=\"?debian\"?\s*$", os_release, re.MULTILINE) is None:
        return None
    codename = re.search(r"^VERSION_CODENAME=\"?([\w.-]+)", os_release, re.MULTILINE)
    return codename[1] if codename else "stable"


def mirror_list_paths(sources: Sequence[AptSource]) -> Sequence[str]:
    """Return the local files that `mirror+file:` URIs name and that must be read."""
    return [urlsplit(s.uri).path for s in sources if s.uri.startswith("mirror+file:")]


def without_credentials(uri: str) -> str:
    """Return the URI without user and password: guests must not learn them."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _is_debian(source: AptSource) -> bool:
    foreign_key = source.signed_by is not None and "debian-archive" not in source.signed_by
    return "main" in source.components and not foreign_key


def _first_uri(
    sources: Sequence[AptSource], suites: Sequence[str], mirror_lists: Mapping[str, str]
) -> str | None:
    for suite in suites:
        named = [source for source in sources if suite in source.suites]
        # A mirror's path ends in /debian by convention; one that follows it goes first.
        for source in sorted(named, key=lambda s: "debian" not in s.uri.rstrip("/").rsplit("/", 1)[-1]):
            uri = _http_uri(source.uri, mirror_lists)
            if uri is not None:
                return uri
    return None


def _http_uri(uri: str, mirror_lists: Mapping[str, str]) -> str | None:
    if uri.startswith("mirror+file:"):
        words = mirror_lists.get(urlsplit(uri).path, "").split()
        uri = next((word for word in words if word.startswith(("http://", "https://"))), "")
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else None


def _one_line_sources(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>[^#]+)", line)
        if match is None:
            continue
        words = match["rest"].split()
        signed_by = re.search(r"signed-by\s*=\s*(\S+)", match["options"] or "", re.IGNORECASE)
        if len(words) >= 2:
            yield AptSource(words[0], (words[1],), tuple(words[2:]), signed_by[1] if signed_by else None)


def _deb822_sources(text: str) -> Iterator[AptSource]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        for uri in fields.get("uris", "").split():
            suites = tuple(fields.get("suites", "").split())
            components = tuple(fields.get("components", "").split())
            yield AptSource(uri, suites, components, fields.get("signed-by"))


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.lstrip().startswith("#"):
            continue
        if line[:1].isspace() and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
