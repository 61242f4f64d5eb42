"""A local server for one folder.

It compresses files that benefit, and lets the browser cache: files with content-hashed names forever, others until they
change.
"""

from __future__ import annotations

import errno
import functools
import gzip
import io
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from compactnets.errors import InputError
from compactnets.files import as_path

HOST = "127.0.0.1"
# the first three give the page memory that threads share: without them the network runs on one thread
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
ASK, KEEP = "no-cache", "public, max-age=31536000, immutable"
HASHED = re.compile(r"/assets/[^/]+-[A-Za-z0-9_-]{8}\.\w+")  # Vite's names
COMPRESSED = (".css", ".html", ".js", ".json", ".mjs", ".svg", ".txt", ".wasm")  # weights do not compress
LEVEL = 6  # of gzip
TYPES = {  # the machine's own table may lack these types, or differ
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}


class Handler(SimpleHTTPRequestHandler):
    """Answers for the files of one folder; a subclass may have other ``sent_headers``."""

    sent_headers: Mapping[str, str] = HEADERS
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        for name, value in self.sent_headers.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self) -> Any:
        # another site that resolves its name to this address must not read the networks
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        path = self.translate_path(self.path)
        if os.path.isdir(path):
            path = os.path.join(path, "index.html") if self.path.partition("?")[0].endswith("/") else path
        if not os.path.isfile(path):
            return super().send_head()
        return self._send_file(path)

    def _send_file(self, path: str) -> Any:
        """Send the head of an answer and return its content: a file, or ``None`` if the browser has it already."""
        try:
            file = open(path, "rb")  # noqa: SIM115 (closed by who asked)
            state = os.fstat(file.fileno())
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        packed = path.endswith(COMPRESSED) and "gzip" in self.headers.get("Accept-Encoding", "")
        tag = f'"{state.st_mtime_ns:x}-{state.st_size:x}{"-gzip" if packed else ""}"'
        known = [each.strip().removeprefix("W/") for each in self.headers.get("If-None-Match", "").split(",")]
        if tag in known:
            file.close()
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self._send_caching(path, tag)
            self.end_headers()
            return None
        content: Any = file
        size = state.st_size
        if packed:
            file.close()
            data = _compressed(path, state.st_mtime_ns, state.st_size)
            content, size = io.BytesIO(data), len(data)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(size))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self._send_caching(path, tag)
        self.end_headers()
        return content

    def _send_caching(self, path: str, tag: str) -> None:
        self.send_header("ETag", tag)
        self.send_header("Vary", "Accept-Encoding")
        self.send_header("Cache-Control", KEEP if HASHED.search(path.replace(os.sep, "/")) else ASK)

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@functools.lru_cache(maxsize=64)
def _compressed(path: str, changed: int, size: int) -> bytes:
    """Return a file compressed; once, until it changes."""
    with open(path, "rb") as file:
        return gzip.compress(file.read(), LEVEL)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a page closed before it was fully loaded
            super().handle_error(request, client_address)


def open_server(folder: str | Path, port: int, handler: type[Handler] = Handler) -> ThreadingHTTPServer:
    """Return a server of ``folder`` that listens on 127.0.0.1; ``serve_forever`` starts to answer.

    Args:
        folder: the folder to serve; it need not exist yet.
        port: 0 takes any free one.
        handler: what answers.

    Raises:
        InputError: the port is in use, or not allowed.
    """
    folder = as_path(folder)
    try:
        return _Server((HOST, port), functools.partial(handler, directory=str(folder)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use: choose another --port, or 0 for any free one") from None
        raise InputError(f"port {port} cannot be opened: {error.strerror}") from None


def address(server: ThreadingHTTPServer) -> str:
    """Return the URL to open."""
    return f"http://{HOST}:{server.server_address[1]}/"


@contextmanager
def serving(folder: str | Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """Serve ``folder`` from a thread, at any free port, and give the URL to open.

    Raises:
        InputError: no port can be opened.
    """
    with open_server(folder, 0, handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield address(server)
        finally:
            server.shutdown()
            thread.join()
