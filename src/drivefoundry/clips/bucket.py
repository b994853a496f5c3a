"""What an S3 store refused in, one line that says why and how to mend it out; and how long it is asked again."""

from __future__ import annotations

import re
from datetime import timedelta

RETRIES, PATIENCE = 4, timedelta(seconds=30)
"""A request that fails for no lasting reason is begun again so often, and not after this time: who asks tries again."""
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if they are temporary)"
_REFUSED = r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AccessDenied|\b40[13] [A-Z]\w+"
_WHY = (
    (r"NoSuchBucket", "there is no such bucket; create it, or name one that is there"),
    (r"169\.254\.|[Cc]redentials", f"no credentials are set; set {_KEYS}"),
    (r"PermanentRedirect|AuthorizationHeaderMalformed|\b30[127] [A-Z]|bare redirect",
     "the bucket is in another region; set AWS_REGION to it"),
    (_REFUSED, f"the credentials are refused ({{}}); set {_KEYS} to some that may list, read and write there"),
    (r"builder error", "plain http is not allowed; set AWS_ALLOW_HTTP=true, or give AWS_ENDPOINT_URL an https address"),
    (r"error sending request|timed out",
     "no answer; see whether the service runs, and AWS_ENDPOINT_URL (unset it for Amazon's own)"),
    (r"\b50\d [A-Z]\w+", "the service is in trouble ({}); try again later"),
)  # fmt: skip
"""What the clients (obstore's and Lance's, both of the crate object_store) say, the most certain first."""


def remote(url: str) -> bool:
    """Whether a store's URL is anything but a local directory."""
    return "://" in url and not url.startswith("file://")


def reason(error: Exception) -> str:
    """Why a remote store did not do as asked, at which address, and the mend: one line."""
    said = str(error)
    at, code = re.search(r"https?://[^/\s]+", said), re.search(r"<Code>(\w+)</Code>", said)
    for pattern, why in _WHY:
        if found := re.search(pattern, said):
            address = f"{at[0]}: " if at and "169.254" not in at[0] else ""
            return address + why.format(code[1] if code else found[0])
    return said.split("\n")[0]
