"""Read-only HTTP application over a repository directory, from which cars' updaters fetch.

Nothing here is trusted: cars verify every byte, so any static web server or object store does as well.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from drivefoundry.release.sign import load_state


def app(repo_dir: str | Path) -> FastAPI:
    """GET /metadata/... and /targets/... of one repository. ValueError if the directory is not a repository."""
    repo = Path(repo_dir)
    load_state(repo)
    web = FastAPI(openapi_url=None)
    for part in ("metadata", "targets"):
        web.mount(f"/{part}", StaticFiles(directory=repo / part))
    return web
