"""A plain tuspyserver, or tuspy clients that send to one: the peer of `benchmarks.upload`.

    python tus.py serve FOLDER
    python tus.py send URL CHUNK FILE...

The server is the one of its README, one uvicorn process, no hooks. The sender starts one thread per file, all at once
when a line comes in; CHUNK 0 is tuspy's default, the whole file in one request.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import socket
import sys
import threading
import time
from importlib.metadata import version


def serve(folder: str) -> None:
    """Print the URL, then serve until stopped."""
    import uvicorn
    from fastapi import FastAPI
    from tuspyserver import create_tus_router

    app = FastAPI()
    app.include_router(create_tus_router(prefix="files", files_dir=folder))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}/files"}), flush=True)
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def send(url: str, chunk: int, files: list[str]) -> None:
    """Print `ready`, wait for a line, send; then print the seconds it took."""
    from tusclient.client import TusClient

    def one(path: str) -> None:
        about = {"filename": path.rpartition("/")[2], "filetype": "application/octet-stream"}
        size = {"chunk_size": chunk} if chunk else {}
        TusClient(url).uploader(path, metadata=about, retries=8, retry_delay=1, **size).upload()
        done.append(path)

    done: list[str] = []
    threads = [threading.Thread(target=one, args=(path,)) for path in files]
    print("ready", flush=True)
    sys.stdin.readline()
    begun, before = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {"seconds": time.perf_counter() - begun, "sent": len(done), "cpu_s": time.process_time() - before}
    print(json.dumps(told | {"versions": {n: version(n) for n in ("tuspy", "tuspyserver", "uvicorn")}}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        send(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
