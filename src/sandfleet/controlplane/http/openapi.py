"""The OpenAPI document, made of the same declarations that make the routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from sandfleet import __version__
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Endpoint
from sandfleet.controlplane.http.error_codes import CODES
from sandfleet.model.resources import SizeLimits
from sandfleet.wire.public_api import CreateSandbox, Problem, RequestBody

_SECURITY: Mapping[Access, list[dict[str, list[str]]]] = {
    Access.OPEN: [],
    Access.ORGANISATION: [{"apiKey": []}],
    Access.DATA_PLANE: [{"apiKey": []}, {"sandboxToken": []}],
    Access.ADMIN: [{"apiKey": []}],
    Access.METRICS: [{"apiKey": []}],
}
_CREDENTIAL_ERRORS: Mapping[Access, tuple[str, ...]] = {
    Access.OPEN: (),
    Access.ORGANISATION: ("missing_api_key", "invalid_token", "invalid_api_key", "token_scope", "forbidden"),
    Access.DATA_PLANE: ("missing_api_key", "invalid_token", "invalid_api_key", "token_scope", "forbidden"),
    Access.ADMIN: ("missing_api_key", "invalid_token", "invalid_api_key", "token_scope", "forbidden"),
    Access.METRICS: ("missing_api_key", "invalid_token", "invalid_api_key", "token_scope", "forbidden"),
}
_REF = "#/components/schemas/{model}"


def openapi_document(endpoints: Iterable[Endpoint], *, server_url: str, sizes: SizeLimits) -> dict[str, Any]:
    """Return the document of all public endpoints."""
    public = [endpoint for endpoint in endpoints if endpoint.access is not Access.WORKER]
    schemas, components = _schemas(public)
    _say_sizes(components[CreateSandbox.__name__]["properties"], sizes)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in public:
        for number, path in enumerate(endpoint.paths):
            operation = _operation(endpoint, path, schemas)
            operation["operationId"] = endpoint.handler.__name__ + (f"_{number + 1}" if number else "")
            paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sandfleet",
            "version": __version__,
            "description": "Gives every AI agent its own real computer.",
        },
        "servers": [{"url": server_url}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "sandboxToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _say_sizes(properties: dict[str, Any], sizes: SizeLimits) -> None:
    """Put this server's ranges into the fields of a create."""
    properties["memoryMB"] |= {"minimum": sizes.memory_base_mib, "maximum": sizes.memory_max_mib}
    properties["diskMB"] |= {"minimum": sizes.disk_min_mib, "maximum": sizes.disk_max_mib}
    properties["cpuCount"] |= {"minimum": 1, "maximum": sizes.cpu_max}


def _schemas(
    endpoints: Sequence[Endpoint],
) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    wanted: dict[type[BaseModel], JsonSchemaMode] = {Problem: "serialization"}
    for endpoint in endpoints:
        if endpoint.body is not None:
            wanted[endpoint.body] = "validation"
        for kind in endpoint.answers.values():
            model = _model_of(kind)
            if model is not None:
                wanted[model] = "serialization"
    found, definitions = models_json_schema(list(wanted.items()), ref_template=_REF)
    return {model: found[model, mode] for model, mode in wanted.items()}, definitions.get("$defs", {})


def _model_of(kind: Any) -> type[BaseModel] | None:
    candidate = get_args(kind)[0] if get_origin(kind) is list else kind
    return candidate if isinstance(candidate, type) and issubclass(candidate, BaseModel) else None


def _operation(
    endpoint: Endpoint, path: str, schemas: Mapping[type[BaseModel], dict[str, Any]]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "security": _SECURITY[endpoint.access],
        "parameters": [*_path_parameters(path), *_query_parameters(endpoint)],
        "responses": {
            **{str(status): _answer(status, kind, schemas) for status, kind in endpoint.answers.items()},
            **_problems(endpoint, path),
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = _json_body(endpoint.body, schemas[endpoint.body])
    elif endpoint.takes_bytes:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"content": content}
    return operation


def _json_body(kind: type[RequestBody], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the body; where nothing in it is required, nothing and `null` are as good as `{}`."""
    extra = kind.model_config.get("json_schema_extra")
    if isinstance(extra, dict) and extra.get("required"):
        return {"required": True, "content": {"application/json": {"schema": schema}}}
    nullable = {"anyOf": [schema, {"type": "null"}]}
    return {"required": False, "content": {"application/json": {"schema": nullable}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [segment[1:-1] for segment in path.split("/") if segment.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    listed = [
        {
            "name": parameter.name,
            "in": "query",
            "required": parameter.is_required,
            "description": parameter.text,
            "schema": dict(parameter.schema),
        }
        for parameter in endpoint.parameters
    ]
    if endpoint.changes:
        listed.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "the same key within 24 h gives the same answer and does the work once",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            }
        )
    return listed


def _answer(status: int, kind: Any, schemas: Mapping[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    if kind is None:
        return {"description": "done"}
    if kind is bytes:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        return {"description": "the bytes", "content": content}
    if isinstance(kind, str):
        return {"description": "text", "content": {kind: {"schema": {"type": "string"}}}}
    model = _model_of(kind)
    schema: dict[str, Any] = {"type": "object"} if model is None else schemas[model]
    if get_origin(kind) is list:
        schema = {"type": "array", "items": schema}
    return {"description": "answer", "content": {"application/json": {"schema": schema}}}


def _problems(endpoint: Endpoint, path: str) -> dict[str, Any]:
    """Return the error answers, one per status, each with its codes."""
    codes = [*endpoint.errors, *_CREDENTIAL_ERRORS[endpoint.access]]
    if endpoint.access is not Access.OPEN or "{" in path:  # what needs no key may still need the store
        codes += ["internal", "store_unavailable", "shutting_down"]
    if endpoint.body is not None:
        codes += ["bad_request", "too_large"]
    if endpoint.parameters or endpoint.changes:
        codes.append("bad_request")
    if endpoint.changes:
        codes += ["idempotency_key_reused", "idempotency_answer_too_large"]
    if "{" in path:
        codes += ["not_found", "method_not_allowed"]
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(CODES[code][0], []).append(code)
    return {str(status): _problem(names) for status, names in sorted(by_status.items())}


def _problem(names: Sequence[str]) -> dict[str, Any]:
    text = "; ".join(f"`{name}`: {CODES[name][1]}" for name in names)
    schema = {"$ref": _REF.format(model=Problem.__name__)}
    return {
        "description": text,
        "content": {"application/json": {"schema": schema}},
        "x-error-codes": list(names),
    }
