"""Idempotency keys: the same request twice is one piece of work and one answer.

Rule 1: a claim is written before the work begins, with the ids that the work goes by.
Rule 2: whoever finds a running claim waits for its answer; a claim whose holder has
vanished is resumed with the same ids, so that nothing is done twice. A holder that lives
renews its claim, so that one that died holds nobody up for long.
Rule 3: answers that a retry should not get again (401, 403, 408, 429, 5xx) are not kept.
Rule 4: after such an answer the ids are forgotten only if what goes by them has ended for
certain. Else it may go on, or begin late, and a retry under new ids would do it twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec

from sandfleet.controlplane.http.answers import Answer
from sandfleet.controlplane.http.call import Call, Claim
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.model.errors import BadRequest, Conflict, NotReady, StoreUnavailable
from sandfleet.model.ids import OperationId, OrganisationId
from sandfleet.ports.stores import IdempotencyRecord, StoredAnswer

HEADER = "idempotency-key"
LEASE_S = 15.0
JOINED_LEASE_S = 5.0
"""Of work that goes by fixed ids: to begin it again beside the first attempt is to join that."""
RENEWALS_PER_LEASE = 3
RENEWALS_MAX = 86_400
_UNCERTAIN = frozenset({"store_unavailable", "shutting_down"})
"""Errors after which the work may have begun: whoever comes again goes on under the same ids."""
WAITS_MAX = 86_400
ANSWER_BYTES_MAX = 1024 * 1024
_TOO_LARGE_STATUS = 0
"""Stands in the store for an answer that was too large to keep."""


class _ErrorBody(msgspec.Struct):
    """What is looked at of an error answer."""

    code: str = ""


Scope = tuple[OrganisationId, str, str, str]


def idempotency_key(call: Call) -> str | None:
    """Return the request's key, if the endpoint changes anything; BadRequest for a malformed one."""
    if not call.endpoint.changes:
        return None
    key = call.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or any(not "!" <= character <= "~" for character in key):
        raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key


async def once(call: Call, key: str, *, raw_body: bytes, produce: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the answer of the one request with that key: ours, or the first one's."""
    scope = _scope(call, key)
    holder = secrets.token_hex(16)
    digest = hashlib.sha256(call.scope["query_string"] + b"\0" + raw_body).digest()
    minted = call.endpoint.fixes()
    record = await _claim(call, Claim(scope, holder), digest=digest, resource=minted)
    if record.answer is not None:
        return _replayed(record.answer)
    call.fixed, call.claim = record.resource, Claim(scope, holder)
    call.is_resumed = dict(record.resource) != dict(minted)
    done = asyncio.Event()
    call.edge.background.start(_renew(call, scope, holder=holder, done=done), name=f"claim {call.request_id}")
    try:
        answer = await produce()
        await _keep(call, scope, holder=holder, answer=answer)
    finally:
        done.set()
    return answer


async def go_by(call: Call, operation_id: OperationId) -> None:
    """Have a repeat of this request go by work that another began and that it has joined."""
    if call.claim is None:
        return
    fixed = {**call.fixed, "operation_id": operation_id}
    await call.edge.plane.stores.idempotency.join(call.claim.scope, holder=call.claim.holder, resource=fixed)
    call.fixed = fixed


def _lease_s(call: Call) -> float:
    return JOINED_LEASE_S if call.endpoint.is_joined else LEASE_S


async def _renew(call: Call, scope: Scope, *, holder: str, done: asyncio.Event) -> None:
    """Keep the claim while the work goes on; PostgreSQL being away for a while is not the end of it."""
    lease_s = _lease_s(call)
    for _ in range(RENEWALS_MAX):
        with suppress(TimeoutError):
            async with asyncio.timeout(lease_s / RENEWALS_PER_LEASE):
                await done.wait()
        if done.is_set():
            return
        with suppress(StoreUnavailable):
            await call.edge.plane.stores.idempotency.prolong(scope, holder=holder, lease_s=lease_s)


def _scope(call: Call, key: str) -> Scope:
    path = str(call.scope["path"]).rstrip("/")
    return (call.principal.organisation_id, call.endpoint.method, path, key)


def _topic(scope: Scope) -> str:
    return "idempotency:" + hashlib.sha256("\0".join(scope).encode()).hexdigest()


async def _claim(
    call: Call, claim: Claim, *, digest: bytes, resource: Mapping[str, str]
) -> IdempotencyRecord:
    """Claim the key, waiting while another request works under it."""
    store = call.edge.plane.stores.idempotency
    lease_s = _lease_s(call)
    scope, holder = claim.scope, claim.holder
    hints = call.edge.plane.wake_ups.subscribe(_topic(scope))
    for _ in range(WAITS_MAX):
        record = await store.claim(
            scope, body_digest=digest, holder=holder, lease_s=lease_s, resource=resource
        )
        if record.body_digest != digest:
            raise Conflict("this Idempotency-Key was used with another body", code="idempotency_key_reused")
        if record.answer is not None or record.is_mine:
            return record
        if call.edge.drain.is_hurried:
            raise shutting_down()
        await anext(hints)
    raise NotReady("the first request with this Idempotency-Key is still running")


def _replayed(stored: StoredAnswer) -> Answer:
    if stored.status == _TOO_LARGE_STATUS:
        raise Conflict(
            "the answer of the first request was too large to be kept", code="idempotency_answer_too_large"
        )
    headers = {name: value for name, value in stored.headers.items() if name != "Content-Type"}
    return Answer(
        stored.status,
        stored.body,
        media_type=stored.headers.get("Content-Type"),
        headers={**headers, "Idempotency-Replayed": "true"},
    )


async def _keep(call: Call, scope: Scope, *, holder: str, answer: Answer) -> None:
    store = call.edge.plane.stores.idempotency
    if answer.is_repeatable:
        await store.finish(scope, holder=holder, answer=_stored(answer))
    elif not call.is_settled and (call.endpoint.resumes or _code_of(answer) in _UNCERTAIN):
        await store.prolong(scope, holder=holder, lease_s=0.0)
    else:
        await store.abandon(scope, holder=holder)
    await call.edge.plane.wake_ups.publish(_topic(scope))


def _code_of(answer: Answer) -> str:
    """Return the code of an error answer; a padded one has spaces before it."""
    try:
        return msgspec.json.decode(answer.body, type=_ErrorBody).code
    except msgspec.DecodeError:
        return ""


def _stored(answer: Answer) -> StoredAnswer:
    if len(answer.body) > ANSWER_BYTES_MAX:
        return StoredAnswer(_TOO_LARGE_STATUS, {}, b"")
    headers = dict(answer.headers)
    if answer.media_type is not None:
        headers["Content-Type"] = answer.media_type
    return StoredAnswer(answer.status, headers, answer.body)
