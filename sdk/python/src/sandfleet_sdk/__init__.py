"""Python client of sandfleet: sandboxes that are real computers."""

from sandfleet_sdk.attached_models import (
    Migration,
    MigrationProgress,
    Preview,
    SignedUrl,
    Size,
    Stats,
    Tags,
    TagUse,
)
from sandfleet_sdk.attachments import AsyncAttachment, Attachment, Output
from sandfleet_sdk.calls import Sink, Source
from sandfleet_sdk.client import AsyncClient, Client
from sandfleet_sdk.drains import Drain, Eviction, Stay
from sandfleet_sdk.errors import (
    ApiError,
    BadAnswer,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    GuestDiskFull,
    GuestUnresponsive,
    NoCapacity,
    NotFound,
    PlanLimit,
    QuotaExceeded,
    RateLimited,
    SandfleetError,
    TooLarge,
    Unauthorised,
    Unavailable,
    Unreachable,
)
from sandfleet_sdk.event_feed import GAP
from sandfleet_sdk.files import file_source, pieces_of
from sandfleet_sdk.models import (
    ApiKey,
    Event,
    ExecProgress,
    ExecResult,
    FileEntry,
    Organisation,
    Sandbox,
    Worker,
)
from sandfleet_sdk.plans import Candidate, Decision, Placement, Plan, Rejection
from sandfleet_sdk.quotas import Caps, Quotas
from sandfleet_sdk.retries import NO_RETRIES, RetryPolicy
from sandfleet_sdk.rollouts import Rollout, RolloutStep, RolloutWorker
from sandfleet_sdk.saved_models import Checkpoint, Forks, Hibernation
from sandfleet_sdk.scaling import Autoscale
from sandfleet_sdk.sessions import Session

__all__ = [
    "GAP",
    "NO_RETRIES",
    "ApiError",
    "ApiKey",
    "AsyncAttachment",
    "AsyncClient",
    "Attachment",
    "Autoscale",
    "BadAnswer",
    "BadRequest",
    "Candidate",
    "Caps",
    "Checkpoint",
    "Client",
    "Conflict",
    "Decision",
    "Drain",
    "Event",
    "Eviction",
    "ExecProgress",
    "ExecResult",
    "FileEntry",
    "Forbidden",
    "Forks",
    "Gone",
    "GuestDiskFull",
    "GuestUnresponsive",
    "Hibernation",
    "Migration",
    "MigrationProgress",
    "NoCapacity",
    "NotFound",
    "Organisation",
    "Output",
    "Placement",
    "Plan",
    "PlanLimit",
    "Preview",
    "QuotaExceeded",
    "Quotas",
    "RateLimited",
    "Rejection",
    "RetryPolicy",
    "Rollout",
    "RolloutStep",
    "RolloutWorker",
    "Sandbox",
    "SandfleetError",
    "Session",
    "SignedUrl",
    "Sink",
    "Size",
    "Source",
    "Stats",
    "Stay",
    "TagUse",
    "Tags",
    "TooLarge",
    "Unauthorised",
    "Unavailable",
    "Unreachable",
    "Worker",
    "file_source",
    "pieces_of",
]
