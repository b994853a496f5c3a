"""The ingest service as a process to be killed: python serve_until_killed.py STORE SECRET PORT."""

import sys
import time

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.server import running

if __name__ == "__main__":
    with running(ClipStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])) as service:
        print(service.url, flush=True)
        time.sleep(600)
