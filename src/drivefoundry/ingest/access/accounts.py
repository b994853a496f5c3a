"""Authentication of requests, and the routes by which vehicles enrol and renew their tokens.

A valid code, secret or token is never delayed by invalid ones from the same address: failures are counted by address,
successes by vehicle.
"""

from __future__ import annotations

import asyncio
import json
import re

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from drivefoundry.ingest.access.limits import Buckets, Limits
from drivefoundry.ingest.access.network import Proxies
from drivefoundry.ingest.access.tokens import TTL_S, Forged, Stale, bearer_of, issue_token
from drivefoundry.ingest.access.vehicles import Vehicle, Vehicles
from drivefoundry.ingest.contract import SECRET

_BODY = 128 << 10
"""Largest accepted JSON body, bytes."""
_BODY_S = 10.0
"""Time limit for receiving it, s."""


class Refused(Exception):
    """A request that is answered with an error status and one line of text."""

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.headers = status, headers or {}


class Accounts:
    """Who may do what, and how much of it."""

    def __init__(self, vehicles: Vehicles, secret: str, limits: Limits, proxies: Proxies) -> None:
        self.vehicles, self.secret, self.limits, self.proxies = vehicles, secret, limits.validate(), proxies
        self._good, self._bad = (Buckets(limits.requests, limits.burst) for _ in range(2))

    def vehicle(self, request: Request, scope: str) -> str:
        """Return the vehicle whose token a request carries. Refused if it is missing, invalid, lacks the scope, or too
        frequent."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            self._slow_down(self._bad, self._address(request))
            raise Refused(401, "Authorization: a bearer token is required", {"WWW-Authenticate": "Bearer"})
        try:
            bearer = bearer_of(self.secret, token.strip())
            if self.vehicles.life(bearer.vehicle) != bearer.life:
                raise Stale("the token is revoked; enrol the vehicle again", bearer.vehicle)
        except (Forged, Stale) as error:
            # A fleet's tokens may expire together behind one address: count those by vehicle, apart from valid ones.
            known = isinstance(error, Stale) and f"vehicle {error.vehicle}"
            self._slow_down(self._bad, known or self._address(request))
            raise Refused(401, str(error), {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from error
        if scope not in bearer.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise Refused(403, f"the token is not for '{scope}'", {"WWW-Authenticate": challenge})
        self._slow_down(self._good, bearer.vehicle)
        return bearer.vehicle

    def left(self, vehicle: str) -> None:
        """Raise Refused if a vehicle has used up its daily quota; bytes that are only booked may still be returned."""
        if self.limits.day is not None and self.vehicles.spent(vehicle, booked=False) >= self.limits.day:
            raise self.all_sent(vehicle)

    def book(self, vehicle: str, upload: str, began: int, requested: int) -> int:
        """Reserve bytes of the daily quota for one request of an upload, at most `requested`; return how many.

        They count as sent until the request is settled. Refused if none are left.
        """
        if self.limits.day is None:
            return requested
        granted = self.vehicles.book(vehicle, upload, began, requested, self.limits.day)
        if not granted:
            raise self.all_sent(vehicle)
        return granted

    def settle(self, vehicle: str, upload: str, came: int) -> None:
        """Record how many bytes a request brought, and release the rest of its reservation."""
        if self.limits.day is None:
            self.vehicles.spend(vehicle, came)
        else:
            self.vehicles.settle(upload, came)

    def all_sent(self, vehicle: str) -> Refused:
        """The response to a vehicle whose daily quota is used up, or reserved by its other requests."""
        if self.vehicles.spent(vehicle, booked=False) < (self.limits.day or 0):
            line = f"the rest of the day's {self.limits.day} bytes is reserved by requests in progress; try again later"
            return Refused(429, line, {"Retry-After": "10"})
        wait = {"Retry-After": str(self.vehicles.tomorrow_in())}
        return Refused(429, f"the day's {self.limits.day} bytes are used up; continue tomorrow (UTC)", wait)

    async def enrol(self, request: Request) -> Response:
        """Exchange a one-time code for the vehicle's first credential."""
        return await self._account(request, "code")

    async def token(self, request: Request) -> Response:
        """Exchange a refresh secret for the next one and a token."""
        return await self._account(request, "refresh")

    async def _account(self, request: Request, field: str) -> Response:
        given = (await document(request)).get(field)
        if not isinstance(given, str) or not re.fullmatch(SECRET["pattern"], given):
            self._slow_down(self._bad, self._address(request))
            raise Refused(400, f"{field}: must be 1 to 128 letters, digits, - or _")
        try:
            # Look it up first: a wrong code costs no write, and rate limiting a vehicle costs it no secret.
            name = self.vehicles.coded(given) if field == "code" else self.vehicles.refreshed(given)
            self._slow_down(self._good, name)
            vehicle, refresh = self.vehicles.enrol(given) if field == "code" else self.vehicles.rotate(given)
        except ValueError as error:
            self._slow_down(self._bad, self._address(request))
            raise Refused(401, str(error), {"WWW-Authenticate": "Bearer"}) from error
        return JSONResponse(self._granted(vehicle, refresh))

    def _granted(self, vehicle: Vehicle, refresh: str) -> dict[str, object]:
        token = issue_token(self.secret, vehicle.name, TTL_S, vehicle.scopes, vehicle.life)
        about = {"vehicle": vehicle.name, "scopes": vehicle.scopes, "expires_in": int(TTL_S)}
        return {**about, "token": token, "refresh": refresh}

    def _address(self, request: Request) -> str:
        """The address under which an unauthenticated request is counted."""
        host, headers = request.client.host if request.client else "", request.headers
        return self.proxies.client(host, headers.getlist("X-Forwarded-For"), headers.getlist("Forwarded"))

    def _slow_down(self, buckets: Buckets, caller: str) -> None:
        wait = buckets.wait(caller)
        if wait:
            raise Refused(429, "too many requests; slow down", {"Retry-After": str(int(wait) + 1)})


async def document(request: Request) -> dict[str, object]:
    """Read a request's JSON object. Refused if it is not one, too large, or too slow."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Content-Type: must be application/json")
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                data += piece
                if len(data) > _BODY:
                    raise Refused(413, f"the body must be at most {_BODY} bytes")
    except TimeoutError as error:
        raise Refused(408, f"the body took more than {_BODY_S:g} s", {"Connection": "close"}) from error
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error
    if not isinstance(told, dict):
        raise Refused(400, "the body is not a JSON object")
    return told
