"""Requests in, the vehicle that they come from out; and the routes by which vehicles enrol and renew their tokens."""

from __future__ import annotations

import json
import re

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from drivefoundry.ingest.contract import SECRET
from drivefoundry.ingest.limits import Buckets, Limits
from drivefoundry.ingest.tokens import TTL_S, bearer_of, issue_token
from drivefoundry.ingest.vehicles import Vehicle, Vehicles

_BODY = 128 << 10
"""Largest JSON body that is read."""


class Refused(Exception):
    """A request that is answered with an error status and one line of text."""

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.headers = status, headers or {}


class Accounts:
    """Who may do what, and how much of it."""

    def __init__(self, vehicles: Vehicles, secret: str, limits: Limits) -> None:
        self.vehicles, self.secret, self.limits = vehicles, secret, limits.validate()
        self._buckets = Buckets(limits.requests, limits.burst)

    def vehicle(self, request: Request, scope: str) -> str:
        """The vehicle whose token a request bears. Refused: no or a bad token, one without the scope, too fast."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(401, "Authorization: a bearer token wanted", {"WWW-Authenticate": "Bearer"})
        try:
            bearer = bearer_of(self.secret, token.strip())
            if self.vehicles.life(bearer.vehicle) != bearer.life:
                raise ValueError("the token is revoked; enrol the vehicle again")
        except ValueError as error:
            raise Refused(401, str(error), {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from error
        if scope not in bearer.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise Refused(403, f"the token is not for '{scope}'", {"WWW-Authenticate": challenge})
        self._slow_down(f"vehicle {bearer.vehicle}")
        return bearer.vehicle

    def left(self, vehicle: str, more: int = 1) -> int:
        """Bytes that a vehicle may still send today. Refused where that is less than `more`."""
        if self.limits.day is None:
            return 1 << 62
        left = self.limits.day - self.vehicles.spent(vehicle)
        if left < more:
            wait = {"Retry-After": str(self.vehicles.tomorrow_in())}
            raise Refused(429, f"the day's {self.limits.day} bytes are sent; go on tomorrow (UTC)", wait)
        return left

    async def enrol(self, request: Request) -> Response:
        """A one-time code in, the vehicle's first credential out."""
        return await self._account(request, "code")

    async def token(self, request: Request) -> Response:
        """A refresh secret in, the next one and a token out."""
        return await self._account(request, "refresh")

    async def status(self, request: Request) -> Response:
        """How the vehicle stands today."""
        vehicle = self.vehicle(request, "status")
        spent, day = self.vehicles.spent(vehicle), self.limits.day
        left = None if day is None else max(0, day - spent)
        about = {"vehicle": vehicle, "bytes_today": spent, "bytes_left": left}
        return JSONResponse({**about, "resets_in_s": self.vehicles.tomorrow_in()})

    async def _account(self, request: Request, field: str) -> Response:
        self._slow_down(f"address {request.client.host if request.client else ''}")
        given = (await document(request)).get(field)
        if not isinstance(given, str) or not re.fullmatch(SECRET["pattern"], given):
            raise Refused(400, f"{field}: 1 to 128 letters, digits, - and _ wanted")
        try:
            vehicle, refresh = self.vehicles.enrol(given) if field == "code" else self.vehicles.rotate(given)
        except ValueError as error:
            raise Refused(401, str(error), {"WWW-Authenticate": "Bearer"}) from error
        return JSONResponse(self._granted(vehicle, refresh))

    def _granted(self, vehicle: Vehicle, refresh: str) -> dict[str, object]:
        token = issue_token(self.secret, vehicle.name, TTL_S, vehicle.scopes, vehicle.life)
        about = {"vehicle": vehicle.name, "scopes": vehicle.scopes, "expires_in": int(TTL_S)}
        return {**about, "token": token, "refresh": refresh}

    def _slow_down(self, caller: str) -> None:
        wait = self._buckets.wait(caller)
        if wait:
            raise Refused(429, "too many requests; slow down", {"Retry-After": str(int(wait) + 1)})


async def document(request: Request) -> dict[str, object]:
    """A request's JSON object. Refused where it is none, or too large."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Content-Type: application/json wanted")
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > _BODY:
            raise Refused(413, f"a body of at most {_BODY} bytes wanted")
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error
    if not isinstance(told, dict):
        raise Refused(400, "the body is not a JSON object")
    return told
