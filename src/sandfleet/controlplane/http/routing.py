"""The table of paths: literal segments win over `{name}`, a trailing slash is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Branch(Generic[T]):
    literals: dict[str, _Branch[T]] = field(default_factory=dict)
    wildcard: _Branch[T] | None = None
    template: str = ""
    targets: dict[str, T] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """A known path: its template, its targets by method, and the values of its names."""

    template: str
    targets: Mapping[str, T]
    values: Mapping[str, str]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the path has; HEAD wherever GET is."""
        known = set(self.targets) | {"OPTIONS"} | ({"HEAD"} if "GET" in self.targets else set())
        return tuple(sorted(known))


class RouteTable(Generic[T]):
    """Maps method and path to a target."""

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()

    def add(self, method: str, template: str, target: T) -> None:
        """Add one target; the same method and path twice is a mistake in the table."""
        branch = self._root
        for segment in _segments(template):
            if segment.startswith("{"):
                branch.wildcard = branch.wildcard or _Branch()
                branch = branch.wildcard
            else:
                branch = branch.literals.setdefault(segment, _Branch())
        if method in branch.targets:
            raise ValueError(f"{method} {template} is in the table twice")
        branch.template = branch.template or template
        branch.targets[method] = target

    def match(self, path: str) -> Match[T] | None:
        """Return what is known of the path, or None."""
        found = _descend(self._root, _segments(path), ())
        if found is None:
            return None
        branch, values = found
        names = [segment[1:-1] for segment in _segments(branch.template) if segment.startswith("{")]
        return Match(branch.template, branch.targets, dict(zip(names, values, strict=True)))


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix("/").removesuffix("/").split("/"))


def _descend(
    branch: _Branch[T], segments: tuple[str, ...], values: tuple[str, ...]
) -> tuple[_Branch[T], tuple[str, ...]] | None:
    if not segments:
        return (branch, values) if branch.targets else None
    head, rest = segments[0], segments[1:]
    literal = branch.literals.get(head)
    if literal is not None:
        found = _descend(literal, rest, values)
        if found is not None:
            return found
    if branch.wildcard is not None and head:
        return _descend(branch.wildcard, rest, (*values, head))
    return None
