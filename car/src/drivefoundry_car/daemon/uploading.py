"""The uploader's process: sends queued clips, most valuable first, until the daemon ends.

`python -m drivefoundry_car.daemon.uploading CONFIG.toml`
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from drivefoundry_car.daemon.config import Config, load
from drivefoundry_car.daemon.supervisor import until_parent_ends
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.link import Link
from drivefoundry_car.upload.uploader import Uploader, UploadLimits


def uploader_of(config: Config) -> Uploader:
    """The uploader for a configuration with [upload]."""
    c = config.upload
    assert c is not None, "the daemon starts no uploader without [upload]"
    credential = Credential(c.server, c.credential, insecure_http=c.insecure_http)
    return Uploader(
        c.server, credential, config.recording.queue, UploadLimits(bytes_per_day=c.bytes_per_day), link=Link(c.windows),
        insecure_http=c.insecure_http)  # fmt: skip


def main(path: str) -> int:
    """Upload until the parent ends; each distinct failure is logged once and retried."""
    config = load(Path(path))
    assert config.upload is not None
    uploader = uploader_of(config)

    def attempt(gone: threading.Event) -> str:
        try:
            uploader.send_all(until=gone)
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    until_parent_ends(attempt, config.upload.every_s)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="uploader: %(message)s")
    sys.exit(main(sys.argv[1]))
