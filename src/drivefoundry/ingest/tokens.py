"""A vehicle in, its short-lived token out; and back. JSON Web Tokens (RFC 7519), HMAC-SHA-256."""

from __future__ import annotations

import time

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

AUDIENCE = "drivefoundry-ingest"
LEEWAY_S = 30.0
"""A car's clock may be off by this much."""


def issue_token(secret: str, vehicle: str, ttl: float = 3600.0) -> str:
    """A signed token that lets one vehicle upload for ttl seconds. The secret has at least 16 characters."""
    if len(secret) < 16:
        raise ValueError("secret: at least 16 characters wanted; make one with `openssl rand -hex 32`")
    if not vehicle:
        raise ValueError("vehicle: a token needs the name of one vehicle")
    now = time.time()
    claims = {"sub": vehicle, "aud": AUDIENCE, "iat": int(now), "exp": int(now + ttl)}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))


def vehicle_of(secret: str, token: str) -> str:
    """The vehicle that a token stands for. ValueError says why it is refused: forged, expired, of another service."""
    try:
        claims = jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims
    except (JoseError, ValueError) as error:
        raise ValueError("the token is not signed by this service; enrol the vehicle again") from error
    if claims.get("aud") != AUDIENCE or not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise ValueError("the token is not for uploads; enrol the vehicle again")
    if not isinstance(claims.get("exp"), (int, float)) or claims["exp"] + LEEWAY_S < time.time():
        raise ValueError("the token has expired; fetch a new one")
    return claims["sub"]
