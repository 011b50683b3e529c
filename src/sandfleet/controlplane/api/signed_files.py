"""`…/files/download-url`, `…/upload-url`, and the two endpoints that such URLs lead to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote, unquote_to_bytes

from sandfleet.controlplane.api.field_values import check_text, invalid
from sandfleet.controlplane.api.files import FILE_ERRORS, PATH, read_file_of, write_file_of
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter, Streamed
from sandfleet.controlplane.proxy.readiness import find_any_sandbox, find_sandbox, gone
from sandfleet.controlplane.signed_urls import DOWNLOAD, UPLOAD, UrlSigner
from sandfleet.model.errors import BadRequest, Forbidden
from sandfleet.model.ids import OrganisationId
from sandfleet.wire.public_sandbox import SignedUrlBody, SignUrl

TTL_MAX_S = 86_400
_EXPIRES_DIGITS_MAX = 15


async def sign_download(call: Call) -> Answer:
    """Return a URL that reads one file."""
    return await _signed(call, DOWNLOAD)


async def sign_upload(call: Call) -> Answer:
    """Return a URL that writes one file."""
    return await _signed(call, UPLOAD)


async def download_signed(call: Call) -> Streamed:
    """Stream a file out to whoever has the URL."""
    return await read_file_of(call, await _owner(call, DOWNLOAD))


async def upload_signed(call: Call) -> Answer:
    """Stream a file in from whoever has the URL."""
    return await write_file_of(call, await _owner(call, UPLOAD))


async def _signed(call: Call, direction: str) -> Answer:
    settings = call.edge.plane.settings
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    if sandbox.is_terminal:
        raise gone(sandbox)
    body = cast(SignUrl, call.model)
    if not body.path:
        raise BadRequest("path is required")
    check_text("path", body.path)
    ttl_s = int(settings.signed_url_ttl_s) if body.expires_in is None else body.expires_in
    if ttl_s <= 0:
        raise invalid("expiresIn must be positive")
    expires = int(call.edge.plane.clock.now().timestamp()) + min(ttl_s, TTL_MAX_S)
    path = body.path.encode("utf-8", "surrogatepass")
    signature = _signer(call).signature(sandbox.id, path, direction=direction, expires=expires)
    where = f"/api/sandboxes/{sandbox.id}/files/{direction}"
    url = f"{call.origin}{where}?path={quote(path)}&expires={expires}&signature={signature}"
    return model_answer(200, SignedUrlBody(url=url, expires_at=datetime.fromtimestamp(expires, UTC)))


async def _owner(call: Call, direction: str) -> OrganisationId:
    """Return whose sandbox it is, once the URL has proved that it may be used."""
    path = _signed_path(call.scope["query_string"])
    expires, signature = call.query.get("expires", ""), call.query.get("signature", "")
    if not path or not signature:
        raise BadRequest("path, expires and signature are required")
    if not expires.isdecimal() or not expires.isascii() or len(expires) > _EXPIRES_DIGITS_MAX:
        raise BadRequest("expires must be a Unix time")
    if int(expires) <= call.edge.plane.clock.now().timestamp():
        raise Forbidden("signed URL expired", code="signature_expired")
    if not _signer(call).is_valid(
        signature, sandbox_id=call.values["id"], path=path, direction=direction, expires=int(expires)
    ):
        raise Forbidden("invalid signature", code="signature_invalid")
    return (await find_any_sandbox(call.edge, call.values["id"])).organisation_id


def _signer(call: Call) -> UrlSigner:
    return UrlSigner(call.edge.plane.settings.master_secret.get_secret_value())


def _signed_path(query: bytes) -> bytes:
    """Return the bytes of `path`, of which the signature was made."""
    pairs = query.decode("latin-1").split("&")
    value = next((pair[5:] for pair in pairs if pair.startswith("path=")), "")
    return unquote_to_bytes(value.replace("+", " "))


_SIGNED = (
    PATH,
    Parameter("expires", "Unix time", is_required=True, schema={"type": "integer"}),
    Parameter("signature", "made by the server", is_required=True),
)
_URL_ERRORS = ("not_found", "gone", "bad_request", "invalid_argument")
_SIGNATURE_ERRORS = ("signature_expired", "signature_invalid")

ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/files/download-url",),
        handler=sign_download,
        summary="Make a URL that reads one file without a key",
        access=Access.ORGANISATION,
        body=SignUrl,
        answers={200: SignedUrlBody},
        errors=_URL_ERRORS,
    ),
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/files/upload-url",),
        handler=sign_upload,
        summary="Make a URL that writes one file without a key",
        access=Access.ORGANISATION,
        body=SignUrl,
        answers={200: SignedUrlBody},
        errors=_URL_ERRORS,
    ),
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/files/download",),
        handler=download_signed,
        summary="Read the file of a signed URL",
        access=Access.OPEN,
        answers={200: bytes},
        errors=(*FILE_ERRORS, *_SIGNATURE_ERRORS, "is_directory"),
        parameters=_SIGNED,
    ),
    Endpoint(
        method="PUT",
        paths=(f"{SANDBOX}/files/upload",),
        handler=upload_signed,
        summary="Write the file of a signed URL",
        access=Access.OPEN,
        answers={204: None},
        errors=(
            *FILE_ERRORS,
            *_SIGNATURE_ERRORS,
            *("is_directory", "not_a_directory", "too_large", "disk_full"),
        ),
        parameters=_SIGNED,
        takes_bytes=True,
    ),
)
