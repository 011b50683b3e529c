"""The wanted version as a secret of an Azure Key Vault (port: `ports.version_source`).

# Facts
A vault answers the first call with a challenge that says for whom a token is to be: the client asks the
managed identity for one, and calls again. No such secret is 404 `SecretNotFound`; one that was disabled is
403 with `SecretDisabled` inside, as distinct from 403 for who may not read it. A vault that is asked too
often says for how long it wants peace.

# Design
Who disables the secret names no version. Everything else that is no secret is no answer.
"""

from __future__ import annotations

from typing import Any

from azure.core.exceptions import AzureError, HttpResponseError
from azure.keyvault.secrets import SecretClient

from sandfleet.adapters.machines.azure_config import CONNECT_S, READ_S, managed_identity
from sandfleet.adapters.machines.azure_errors import code_of, inner_code_of
from sandfleet.adapters.machines.azure_patience import Patience
from sandfleet.adapters.own_threads import OwnThreads
from sandfleet.model.errors import PoolUnreachable
from sandfleet.ports.clock import Clock

_READ = "read"
_NONE = frozenset({"SecretNotFound", "SecretDisabled"})


class VersionSecret:
    """One secret of one vault, read by a managed identity: that of `client_id`, or the machine's own."""

    def __init__(self, vault_url: str, name: str, *, clock: Clock, client_id: str | None = None) -> None:
        self.vault_url = vault_url
        self._name, self._patience = name, Patience(clock)
        self._threads = OwnThreads("version-secret", at_once=1)
        self._client: Any = SecretClient(
            vault_url,
            managed_identity(client_id),
            retry_total=0,
            connection_timeout=CONNECT_S,
            read_timeout=READ_S,
        )

    async def read(self) -> str | None:
        """Return its newest value; None when there is no such secret, or when it is disabled."""
        wait = self._patience.wait_of(_READ)
        if wait is not None:
            raise self._unreachable(f"Azure asked for {wait.total_seconds():.0f} s of patience")
        try:
            found = await self._threads.run(lambda: self._client.get_secret(self._name))
        except HttpResponseError as error:
            if _NONE & {code_of(error), inner_code_of(error)}:
                return None
            self._patience.heed(_READ, error)
            raise self._unreachable(error) from error
        except (AzureError, ValueError) as error:
            # ValueError: the challenge wants a token for somebody else's vault.
            raise self._unreachable(error) from error
        return str(found.value or "").strip() or None

    def _unreachable(self, why: object) -> PoolUnreachable:
        return PoolUnreachable(f"the secret {self._name} cannot be read: {why}")
