"""Explain failures of an S3 store in one line with the fix, and bound how long requests are retried."""

from __future__ import annotations

import re
from datetime import timedelta

RETRIES, PATIENCE = 4, timedelta(seconds=30)
"""Retries of a request after a transient failure, and the time limit for them; callers retry on their own."""
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if they are temporary)"
_REFUSED = r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AccessDenied|\b40[13] [A-Z]\w+"
_WHY = (
    (r"NoSuchBucket", "there is no such bucket; create it, or name an existing one"),
    (r"169\.254\.|[Cc]redentials", f"no credentials; set {_KEYS}"),
    (r"PermanentRedirect|AuthorizationHeaderMalformed|\b30[127] [A-Z]|bare redirect",
     "the bucket is in another region; set AWS_REGION to it"),
    (_REFUSED, f"the credentials are refused ({{}}); set {_KEYS} to credentials that may list, read and write there"),
    (r"builder error", "plain http is not allowed; set AWS_ALLOW_HTTP=true, or AWS_ENDPOINT_URL to an https address"),
    (r"error sending request|timed out",
     "no answer; check that the service runs, and AWS_ENDPOINT_URL (unset it for AWS itself)"),
    (r"\b50\d [A-Z]\w+", "the service fails ({}); try again later"),
)  # fmt: skip
"""(pattern, explanation) of errors of obstore and Lance, which share the crate object_store; most specific first."""


def remote(url: str) -> bool:
    """Whether a store's URL is not a local directory."""
    return "://" in url and not url.startswith("file://")


def reason(error: Exception) -> str:
    """Explain a remote store's failure in one line: reason, address, fix."""
    said = str(error)
    at, code = re.search(r"https?://[^/\s]+", said), re.search(r"<Code>(\w+)</Code>", said)
    for pattern, why in _WHY:
        if found := re.search(pattern, said):
            address = f"{at[0]}: " if at and "169.254" not in at[0] else ""
            return address + why.format(code[1] if code else found[0])
    return said.split("\n")[0]
