"""A vehicle in, its short-lived token out; and back. JSON Web Tokens (RFC 7519), HMAC-SHA-256."""

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
"""What a token may be good for: sending clips; asking how the vehicle stands."""
TTL_S = 3600.0
LEEWAY_S = 30.0
"""The clocks of two machines that serve together may be this far apart."""


@dataclass(frozen=True)
class Bearer:
    """Whom a token stands for. life: how often the vehicle had been revoked when it was issued."""

    vehicle: str
    scopes: tuple[str, ...]
    life: int


def issue_token(secret: str, vehicle: str, ttl: float = TTL_S, scopes: Sequence[str] = SCOPES, life: int = 0) -> str:
    """A signed token that lets one vehicle do what the scopes say for ttl seconds. secret: 16 characters or more."""
    if len(secret) < 16:
        raise ValueError("secret: at least 16 characters wanted; make one with `openssl rand -hex 32`")
    if not vehicle:
        raise ValueError("vehicle: a token needs the name of one vehicle")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ValueError(f"scopes: {' and '.join(SCOPES)} are known, not '{' '.join(unknown)}'")
    now = time.time()
    claims = {"sub": vehicle, "aud": AUDIENCE, "iat": int(now), "exp": int(now + ttl), "jti": secrets.token_hex(8)}
    return jwt.encode({"alg": "HS256"}, {**claims, "scope": " ".join(scopes), "life": life}, OctKey.import_key(secret))


def bearer_of(secret: str, token: str) -> Bearer:
    """Whom a token stands for. ValueError says why it is refused: forged, expired, of another service."""
    try:
        claims = jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims
    except (JoseError, ValueError) as error:
        raise ValueError("the token is not signed by this service; enrol the vehicle again") from error
    if claims.get("aud") != AUDIENCE or not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise ValueError("the token is not for uploads; enrol the vehicle again")
    if not isinstance(claims.get("exp"), (int, float)) or claims["exp"] + LEEWAY_S < time.time():
        raise ValueError("the token has expired; fetch a new one")
    return Bearer(claims["sub"], tuple(str(claims.get("scope", "")).split()), int(claims.get("life", 0)))
