"""Issue and verify vehicles' short-lived tokens: JSON Web Tokens (RFC 7519), HMAC-SHA-256."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

AUDIENCE = "drivefoundry-ingest"
SCOPES = ("upload", "status")
"""Scopes of a token: sending clips, reading the vehicle's status."""
TTL_S = 3600.0
LEEWAY_S = 30.0
"""Tolerated clock difference between two serving machines, s."""


@dataclass(frozen=True)
class Bearer:
    """The vehicle a token belongs to. life: number of revocations before it was issued."""

    vehicle: str
    scopes: tuple[str, ...]
    life: int


def issue_token(secret: str, vehicle: str, ttl: float = TTL_S, scopes: Sequence[str] = SCOPES, life: int = 0) -> str:
    """Sign a token that grants one vehicle the scopes for ttl seconds. secret: at least 16 characters."""
    if len(secret) < 16:
        raise ValueError("secret: must have at least 16 characters; make one with `openssl rand -hex 32`")
    if not vehicle:
        raise ValueError("vehicle: a token needs the name of one vehicle")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ValueError(f"scopes: {' and '.join(SCOPES)} are known, not '{' '.join(unknown)}'")
    now = time.time()
    claims = {"sub": vehicle, "aud": AUDIENCE, "iat": int(now), "exp": int(now + ttl), "jti": secrets.token_hex(8)}
    return jwt.encode({"alg": "HS256"}, {**claims, "scope": " ".join(scopes), "life": life}, OctKey.import_key(secret))


class Forged(ValueError):
    """The token was not signed by this service."""


class Stale(ValueError):
    """The token was signed by this service but has expired or does not apply."""

    def __init__(self, line: str, vehicle: str = "") -> None:
        super().__init__(line)
        self.vehicle = vehicle


def bearer_of(secret: str, token: str) -> Bearer:
    """Verify a token and return its bearer. Forged or Stale, both ValueErrors, say why it is refused."""
    try:
        claims = jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims
    except (JoseError, ValueError, TypeError, LookupError, RecursionError) as error:  # any malformed JSON
        raise Forged("the token is not signed by this service; enrol the vehicle again") from error
    vehicle, life, scope = claims.get("sub"), claims.get("life", 0), claims.get("scope", "")
    if claims.get("aud") != AUDIENCE or not isinstance(vehicle, str) or not vehicle:
        raise Stale("the token is not for uploads; enrol the vehicle again")
    if type(life) is not int or not isinstance(scope, str):
        raise Stale("the token's life or scope is malformed; enrol the vehicle again")
    if type(claims.get("exp")) not in (int, float) or not claims["exp"] + LEEWAY_S >= time.time():
        raise Stale("the token has expired; fetch a new one", vehicle)
    return Bearer(vehicle, tuple(scope.split()), life)
