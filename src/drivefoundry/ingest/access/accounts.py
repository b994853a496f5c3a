"""Requests in, the vehicle that they come from out; and the routes by which vehicles enrol and renew their tokens.

A good code, secret or token is never held up by bad ones of others behind the same address: what is bad is counted by
address, what is good by vehicle.
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
"""Largest JSON body that is read."""
_BODY_S = 10.0
"""Time for it to come."""


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
        """The vehicle whose token a request bears. Refused: no or a bad token, one without the scope, too fast."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            self._slow_down(self._bad, self._address(request))
            raise Refused(401, "Authorization: a bearer token wanted", {"WWW-Authenticate": "Bearer"})
        try:
            bearer = bearer_of(self.secret, token.strip())
            if self.vehicles.life(bearer.vehicle) != bearer.life:
                raise Stale("the token is revoked; enrol the vehicle again", bearer.vehicle)
        except (Forged, Stale) as error:
            # A fleet's tokens may expire at once behind one address: those count by vehicle, and its good ones apart.
            known = isinstance(error, Stale) and f"vehicle {error.vehicle}"
            self._slow_down(self._bad, known or self._address(request))
            raise Refused(401, str(error), {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from error
        if scope not in bearer.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise Refused(403, f"the token is not for '{scope}'", {"WWW-Authenticate": challenge})
        self._slow_down(self._good, bearer.vehicle)
        return bearer.vehicle

    def left(self, vehicle: str) -> None:
        """Refused where a vehicle has sent all that it may today; what is only booked may yet be given back."""
        if self.limits.day is not None and self.vehicles.spent(vehicle, booked=False) >= self.limits.day:
            raise self.all_sent(vehicle)

    def book(self, vehicle: str, upload: str, began: int, wanted: int) -> int:
        """Bytes of the day, of those wanted, that one request of an upload may bring: they count as sent until it is
        settled. Refused where there are none."""
        if self.limits.day is None:
            return wanted
        granted = self.vehicles.book(vehicle, upload, began, wanted, self.limits.day)
        if not granted:
            raise self.all_sent(vehicle)
        return granted

    def settle(self, vehicle: str, upload: str, came: int) -> None:
        """What has come of a request; the rest of what was booked for it is given back."""
        if self.limits.day is None:
            self.vehicles.spend(vehicle, came)
        else:
            self.vehicles.settle(upload, came)

    def all_sent(self, vehicle: str) -> Refused:
        """The answer to a vehicle that has sent all that it may today, or whose other requests have booked it."""
        if self.vehicles.spent(vehicle, booked=False) < (self.limits.day or 0):
            line = f"what is left of the day's {self.limits.day} bytes is booked by requests under way; try again later"
            return Refused(429, line, {"Retry-After": "10"})
        wait = {"Retry-After": str(self.vehicles.tomorrow_in())}
        return Refused(429, f"the day's {self.limits.day} bytes are sent; go on tomorrow (UTC)", wait)

    async def enrol(self, request: Request) -> Response:
        """A one-time code in, the vehicle's first credential out."""
        return await self._account(request, "code")

    async def token(self, request: Request) -> Response:
        """A refresh secret in, the next one and a token out."""
        return await self._account(request, "refresh")

    async def _account(self, request: Request, field: str) -> Response:
        given = (await document(request)).get(field)
        if not isinstance(given, str) or not re.fullmatch(SECRET["pattern"], given):
            self._slow_down(self._bad, self._address(request))
            raise Refused(400, f"{field}: 1 to 128 letters, digits, - and _ wanted")
        try:
            # Looking one up is a read: what is wrong costs no write, and a vehicle's own haste no secret.
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
        """Whom a request is counted under that no vehicle stands for."""
        host, headers = request.client.host if request.client else "", request.headers
        return self.proxies.client(host, headers.getlist("X-Forwarded-For"), headers.getlist("Forwarded"))

    def _slow_down(self, buckets: Buckets, caller: str) -> None:
        wait = buckets.wait(caller)
        if wait:
            raise Refused(429, "too many requests; slow down", {"Retry-After": str(int(wait) + 1)})


async def document(request: Request) -> dict[str, object]:
    """A request's JSON object. Refused where it is none, or too large, or too slow."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Content-Type: application/json wanted")
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                data += piece
                if len(data) > _BODY:
                    raise Refused(413, f"a body of at most {_BODY} bytes wanted")
    except TimeoutError as error:
        raise Refused(408, f"the body took more than {_BODY_S:g} s", {"Connection": "close"}) from error
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error
    if not isinstance(told, dict):
        raise Refused(400, "the body is not a JSON object")
    return told
