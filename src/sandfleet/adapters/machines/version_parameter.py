"""The wanted version as a parameter of Amazon's Systems Manager (port: `ports.version_source`)."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandfleet.adapters.own_threads import OwnThreads
from sandfleet.model.errors import PoolUnreachable

_TIMEOUT_S = 10
_MISSING = "ParameterNotFound"


class VersionParameter:
    """One parameter of one region; credentials come from where Amazon's own tools take them."""

    def __init__(self, *, region: str, name: str, endpoint_url: str | None = None) -> None:
        self._name, self._threads = name, OwnThreads("version-parameter", at_once=1)
        limits = Config(
            connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries={"total_max_attempts": 2}
        )
        self._client: Any = boto3.client("ssm", region_name=region, endpoint_url=endpoint_url, config=limits)

    async def read(self) -> str | None:
        """Return its value; None when there is no such parameter."""
        try:
            found = await self._threads.run(lambda: self._client.get_parameter(Name=self._name))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == _MISSING:
                return None
            raise PoolUnreachable(f"the parameter {self._name} cannot be read: {error}") from error
        except BotoCoreError as error:
            raise PoolUnreachable(f"the parameter {self._name} cannot be read: {error}") from error
        return str(found["Parameter"]["Value"]).strip() or None
