"""Upload service: receives clips from cars and lands them in the store."""

from drivefoundry.ingest.access.tokens import issue_token
from drivefoundry.ingest.server import Running, running

__all__ = ["Running", "issue_token", "running"]
