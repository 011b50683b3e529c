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
    names: tuple[str, ...] = ()
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
        segments = _segments(template)
        for segment in segments:
            if segment.startswith("{"):
                branch.wildcard = branch.wildcard or _Branch()
                branch = branch.wildcard
            else:
                branch = branch.literals.setdefault(segment, _Branch())
        if method in branch.targets:
            raise ValueError(f"{method} {template} is in the table twice")
        if not branch.template:
            branch.template = template
            branch.names = tuple(segment[1:-1] for segment in segments if segment.startswith("{"))
        branch.targets[method] = target

    def match(self, path: str) -> Match[T] | None:
        """Return what is known of the path, or None."""
        found = _descend(self._root, _segments(path), 0)
        if found is None:
            return None
        branch, values = found
        return Match(branch.template, branch.targets, dict(zip(branch.names, values, strict=True)))


def _segments(path: str) -> list[str]:
    return path.removeprefix("/").removesuffix("/").split("/")


def _descend(
    branch: _Branch[T], segments: list[str], depth: int
) -> tuple[_Branch[T], tuple[str, ...]] | None:
    if depth == len(segments):
        return (branch, ()) if branch.targets else None
    head = segments[depth]
    literal = branch.literals.get(head)
    if literal is not None:
        found = _descend(literal, segments, depth + 1)
        if found is not None:
            return found
    if branch.wildcard is not None and head:
        found = _descend(branch.wildcard, segments, depth + 1)
        if found is not None:
            return found[0], (head, *found[1])
    return None
