"""Every error code that the API documents, with its status and when it comes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CODES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "bad_request": (400, "not JSON, a wrong type, a missing or malformed field"),
        "invalid_argument": (400, "a value that is not allowed"),
        "memory_out_of_range": (400, "memory outside the range in `details`"),
        "disk_out_of_range": (400, "disk outside the range in `details`"),
        "cpu_out_of_range": (400, "CPU count outside the range in `details`"),
        "unknown_template": (400, "no such template"),
        "unknown_snapshot": (400, "no such snapshot"),
        "unknown_secret_store": (400, "no such secret store"),
        "is_directory": (400, "a file was expected"),
        "not_a_directory": (400, "a directory was expected"),
        "exec_failed": (400, "the program or the working directory does not exist, or is not executable"),
        "not_running": (400, "the verb needs a running sandbox"),
        "not_hibernated": (400, "there is nothing to wake"),
        "checkpoint_limit": (400, "the sandbox has as many checkpoints as it may have"),
        "checkpoint_failed": (400, "the checkpoint cannot be used, with the reason"),
        "checkpoint_mismatch": (400, "the checkpoint is of another sandbox"),
        "missing_api_key": (401, "no credential"),
        "preview_token": (401, "the preview asks for its token"),
        "invalid_token": (401, "sandbox token expired or malformed"),
        "plan_limit": (402, "above the organisation's own cap for one sandbox"),
        "invalid_api_key": (403, "wrong key"),
        "forbidden": (403, "the key lacks the scope"),
        "token_scope": (403, "token of another sandbox, or on a route that it does not cover"),
        "signature_expired": (403, "the signed URL's time is over"),
        "signature_invalid": (403, "the signed URL was changed, or is not ours"),
        "disk_limit": (403, "disk above the organisation's cap"),
        "not_found": (404, "unknown object or path"),
        "method_not_allowed": (405, "the path has no such method"),
        "name_taken": (409, "the name is in use"),
        "operation_in_progress": (409, "another lifecycle verb is at work on the sandbox"),
        "checkpoint_not_ready": (409, "the checkpoint is not durable yet"),
        "guest_disk_full": (409, "the guest's root disk is too full to be saved"),
        "idempotency_key_reused": (409, "the key came with another body before"),
        "idempotency_answer_too_large": (409, "the first answer was too large to be kept"),
        "gone": (410, "the sandbox has ended"),
        "too_large": (413, "a body above its limit"),
        "offset_gone": (416, "that output is not kept; `details` has the range"),
        "quota_exceeded": (429, "an organisation quota, see `details`"),
        "internal": (500, "a defect"),
        "not_available": (501, "the feature is not configured on this server"),
        "port_closed": (502, "nothing listens on that port of the guest; previews only"),
        "no_capacity": (503, "no worker had room within the queue's time; `Retry-After`"),
        "not_ready": (503, "the waiting time is over; `Retry-After`"),
        "waking": (503, "the sandbox is coming; ask again"),
        "shutting_down": (503, "this replica is going away; `Retry-After`"),
        "store_unavailable": (503, "PostgreSQL cannot be reached; `Retry-After`"),
        "agent_unresponsive": (504, "the guest agent does not answer"),
        "disk_full": (507, "no space in the guest"),
    }
)
