"""Uploads of cars in, landed clips out."""

from drivefoundry.ingest.server import Running, running
from drivefoundry.ingest.tokens import issue_token

__all__ = ["Running", "issue_token", "running"]
