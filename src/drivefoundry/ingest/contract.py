"""The service's routes in OpenAPI: what each accepts, and every status that it may answer."""

from __future__ import annotations

from typing import Any

TUS = "1.0.0"
SECRET = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"}
HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_LINE = {
    200: "done",
    201: "created; Upload-Offset is the number of bytes received, Clip-Sha256 acknowledges a stored clip",
    204: "accepted; Clip-Sha256 acknowledges that the clip is stored durably",
    400: "a header or the body is missing or malformed",
    401: "the token, code or secret is refused",
    403: "the token's scopes do not allow it, or the clip is another vehicle's",
    404: "this vehicle has no such upload; create it",
    408: "the connection broke; continue from the offset that HEAD reports",
    409: "the offset differs; HEAD reports it",
    412: "unsupported version of tus",
    413: "too large",
    415: "unsupported media type",
    422: "not a clip",
    423: "another request is appending to this upload",
    429: "too many requests, uploads or bytes; Retry-After says when to try again",
    460: "the bytes do not have the promised SHA-256; they are discarded",
    503: "clips wait for the store, or the vehicles cannot be read",
    507: "out of disk space at present",
}
_ACCOUNT = {
    "type": "object",
    "properties": {
        "vehicle": {"type": "string"},
        "scopes": {"type": "array", "items": {"type": "string"}},
        "token": {"type": "string"},
        "expires_in": {"type": "integer", "minimum": 1},
        "refresh": {"type": "string"},
    },
    "required": ["vehicle", "scopes", "token", "expires_in", "refresh"],
}
_COUNT = {"type": "integer", "minimum": 0}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answers(
    *errors: int, json: dict[int, Any] | None = None, headers: dict[int, tuple[str, ...]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Responses by status: plain text for errors, JSON schemas and header names for the rest."""
    line = {"text/plain": {"schema": {"type": "string"}}}
    out: dict[int | str, dict[str, Any]] = {s: {"description": _LINE[s], "content": line} for s in (*errors, 503, 507)}
    for status, schema in (json or {}).items():
        out[status] = {"description": _LINE[status], "content": {"application/json": {"schema": schema}}}
    for status, names in (headers or {}).items():
        given = {name: {"schema": {"type": "string"}} for name in names}
        out[status] = {"description": _LINE[status], "headers": given}
    return out


def _header(name: str, pattern: str, about: str, example: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern, "example": example}
    return {"name": name, "in": "header", "required": True, "schema": schema, "description": about}


def _body(schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema}}}


_VERSION = _header("Tus-Resumable", "^1\\.0\\.0$", "the version of tus", TUS)
_OFFSET = _header("Upload-Offset", "^[0-9]{1,18}$", "bytes received before", "0")
_LENGTH = _header("Upload-Length", "^[0-9]{1,18}$", "bytes of the clip's file", "1000")
_ABOUT = _header(
    "Upload-Metadata",
    "^sha256 ([A-Za-z0-9+/]{4}){21}[A-Za-z0-9+/]{2}==$",
    "'sha256' and the hash of the file, 64 hex digits, in base64; other keys may follow after commas",
    "sha256 " + "MDAw" * 21 + "MA==",
)
_LOCKED = [{"bearer": []}]


def _route(name: str, responses: dict[int | str, dict[str, Any]], **extra: Any) -> dict[str, Any]:
    return {"operation_id": name, "name": name, "responses": responses, "openapi_extra": extra}


ROUTES: dict[str, dict[str, Any]] = {
    "health": _route("health", _answers(json={s: _object(status={"type": "string"}, landed=_COUNT, waiting=_COUNT)
                                              for s in (200, 503)})),
    "metrics": _route("metrics", {200: {"description": "counts, for Prometheus",
                                        "content": {"text/plain": {"schema": {"type": "string"}}}}}),
    "enrol": _route("enrol", _answers(400, 401, 408, 413, 415, 429, json={200: _ACCOUNT}),
                    requestBody=_body(_object(code=SECRET))),
    "token": _route("token", _answers(400, 401, 408, 413, 415, 429, json={200: _ACCOUNT}),
                    requestBody=_body(_object(refresh=SECRET))),
    "status": _route("status", _answers(401, 403, 429, json={200: _object(
        vehicle={"type": "string"}, bytes_today=_COUNT, bytes_left={"type": ["integer", "null"]}, resets_in_s=_COUNT,
        lost={"type": "array", "items": HASH})}),
        security=_LOCKED),
    "have": _route("have", _answers(400, 401, 403, 408, 413, 415, 429,
                                    json={200: _object(have={"type": "array", "items": HASH})}), security=_LOCKED,
                   requestBody=_body(_object(sha256={"type": "array", "items": HASH, "maxItems": 1000}))),
    "options": _route("options", _answers(headers={204: ("Tus-Version", "Tus-Extension", "Tus-Max-Size")})),
    "create": _route("create", _answers(400, 401, 403, 412, 413, 429,
                                        headers={201: ("Location", "Upload-Offset")}),
                     security=_LOCKED, parameters=[_VERSION, _LENGTH, _ABOUT]),
    "head": _route("head", _answers(401, 403, 404, 412, 429, headers={200: ("Upload-Offset", "Upload-Length")}),
                   security=_LOCKED, parameters=[_VERSION]),
    "patch": _route("patch", _answers(400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 423, 429, 460,
                                      headers={204: ("Upload-Offset",)}),
                    security=_LOCKED, parameters=[_VERSION, _OFFSET],
                    requestBody=_body({"type": "string", "format": "binary"}, "application/offset+octet-stream")),
}  # fmt: skip
"""OpenAPI description of each handler's route."""
SECURITY = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
