"""What other programs' firewall tables do to machines: the parts that `doctor` warns of.

A packet is forwarded only if every table lets it pass, so that a table whose forward
chain drops by default, as container engines make one, cuts machines off whatever ours says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sandfleet.adapters.network.plan import LINK_PREFIX

LIST_CHAINS = ("nft", "--json", "list", "chains")
_OUR_TABLES = "sandfleet_"
_FAMILIES = frozenset({"ip", "inet"})
_USER_CHAIN = "DOCKER-USER"
"""A chain that its engine leaves to the operator, and asks before its own rules."""


@dataclass(frozen=True, slots=True)
class DroppingChain:
    """A forward chain of another table that drops what no rule accepts."""

    family: str
    table: str
    name: str
    rules_go_to: str
    """The chain of that table in which rules of the operator belong."""

    @property
    def listing(self) -> Sequence[str]:
        """Return the command that lists the table."""
        return ("nft", "list", "table", self.family, self.table)

    @property
    def remedy(self) -> str:
        """Return the commands that let machines pass."""
        insert = f"nft insert rule {self.family} {self.table} {self.rules_go_to}"
        links = f'"{LINK_PREFIX}*"'
        answers = "ct state established,related"
        return f"{insert} iifname '{links}' accept; {insert} oifname '{links}' {answers} accept"


def dropping_chains(listed: str) -> list[DroppingChain]:
    """Return the chains that drop by default, out of what `LIST_CHAINS` printed."""
    chains = [entry["chain"] for entry in json.loads(listed)["nftables"] if "chain" in entry]
    places = {(chain["family"], chain["table"], chain["name"]) for chain in chains}
    found = []
    for chain in chains:
        family, table = chain["family"], chain["table"]
        is_dropping = chain.get("hook") == "forward" and chain.get("policy") == "drop"
        if not is_dropping or family not in _FAMILIES or table.startswith(_OUR_TABLES):
            continue
        own = _USER_CHAIN if (family, table, _USER_CHAIN) in places else chain["name"]
        found.append(DroppingChain(family, table, chain["name"], own))
    return found


def lets_machines_pass(table: str) -> bool:
    """Whether the printed table has rules that accept the links of machines, both ways."""
    links = re.escape(f'"{LINK_PREFIX}*"')
    return all(re.search(rf"\b{way} {links}.*\baccept\b", table) for way in ("iifname", "oifname"))
