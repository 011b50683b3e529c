"""Settings of roll-outs: table `[rollout]` of the server's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.rollout import RolloutPolicy

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
SOURCE = r"^(file:///.+|ssm://[a-z0-9-]+/.+|keyvault://[A-Za-z0-9.:-]+/[A-Za-z0-9-]{1,127})$"
Share = Annotated[float, Field(ge=0, le=1)]


class RolloutSettings(BaseModel):
    """How a new version of the workers comes to the fleet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, Field(pattern=SOURCE)] | None = None
    """Where the wanted version is read from: `file:///path`, `ssm://region/name` for a parameter of Amazon's
    Systems Manager, or `keyvault://vault/name` for a secret of an Azure Key Vault (outside the public cloud
    with the vault's whole host). A version that it names for the first time is rolled out."""
    source_client_id: str | None = None
    """The user-assigned identity that reads the Key Vault; without it, the one of the server's machine."""
    canaries: PositiveCount = 1
    """How many workers of a new version come first."""
    canary_s: Seconds = 600.0
    """How long they must have been well, without a break."""
    heard_s: Annotated[float, Field(gt=0)] = 30.0
    """A worker of which nothing was heard for longer is not well."""
    canary_s_max: Seconds = 3600.0
    """Within this they must have shown it; the boot test has as long for itself."""
    surge: PositiveCount = 1
    """How many workers there may be above the usual number; as many are drained at once."""
    missing_max: Count = 0
    """How many healthy workers may be missing from the number that the fleet needs."""
    unwell_share_max: Share = 0.2
    """If more of the new workers are not well, and more than of the others, the roll-out turns round."""
    failed_share_max: Share = 0.2
    """A worker on which more of what is begun fails is not well."""
    attempts_min: PositiveCount = 5
    """So much must have been begun on it."""
    broken_launches_max: Annotated[int, Field(ge=1)] = 2
    """So many machines of the new version may fail to join; of the boot test's one less."""

    def policy(self, placement: PlacementPolicy) -> RolloutPolicy:
        """Return it as the planner knows it."""
        return RolloutPolicy(placement=placement, **self.model_dump(exclude={"source", "source_client_id"}))
