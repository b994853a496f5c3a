"""A small server with configurable answers: a proxy or captive portal between a car and its service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


TUS = {"Tus-Resumable": "1.0.0"}
Ask = Callable[[str, str, dict[str, str], bytes], Answer]
"""Method, path, headers by lower-case name and body in, the answer out."""


@contextmanager
def portal(ask: Ask) -> Iterator[str]:
    """The server's URL, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = ask(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(answer.status)
            silent = answer.status in (204, 304) or answer.status < 200
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not silent:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD" and not silent:
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PATCH = handle_one

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
