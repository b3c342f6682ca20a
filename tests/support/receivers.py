"""Real servers on loopback that receive notifications: HTTP, and just enough SMTP."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Received(list[dict[str, Any]]):
    """What a server received, and the port on which it listens."""

    port = 0

    def wait_for(self, count: int, seconds: float = 10.0) -> None:
        """Wait until so many messages have arrived."""
        end = time.monotonic() + seconds
        while len(self) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(self) == count, self


@contextmanager
def http_server(*, status: int = 200, delay: float = 0.0) -> Iterator[Received]:
    """Serve a web hook that answers with this status, this many seconds late."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(delay)
            received.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    with _serving(HTTPServer(("127.0.0.1", 0), Handler), received):
        yield received


@contextmanager
def smtp_server() -> Iterator[Received]:
    """Serve SMTP without encryption or login; each mail is received as ``{"to": [...], "data": text}``."""
    received = Received()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            recipients: list[str] = []
            self.wfile.write(b"220 test\r\n")
            for line in self.rfile:
                verb = line[:4].upper()
                if verb == b"RCPT":
                    recipients.append(line.decode().partition("<")[2].partition(">")[0])
                if verb == b"DATA":
                    self.wfile.write(b"354 go\r\n")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    received.append({"to": recipients, "data": text.decode()})
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), received):
        yield received


@contextmanager
def _serving(server: socketserver.TCPServer, received: Received) -> Iterator[None]:
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
