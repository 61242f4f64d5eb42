"""A server for one folder, on this machine only."""

from __future__ import annotations

import errno
import functools
import os
import sys
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
    "Cache-Control": "no-cache",
}
TYPES = {  # the machine's own table of types may lack these, or have others
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


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self) -> Any:
        # a page of another site that gives its own name this address must not read the networks
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        return super().send_head()

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a page that was closed before it had everything
            super().handle_error(request, client_address)


def open_server(folder: str | Path, port: int) -> ThreadingHTTPServer:
    """Return a server of ``folder`` that listens on 127.0.0.1; ``serve_forever`` starts to answer.

    Args:
        folder: what it serves; it need not exist yet.
        port: 0 takes any free one.

    Raises:
        InputError: the port is in use, or not allowed.
    """
    folder = as_path(folder)
    try:
        return _Server((HOST, port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use: choose another --port, or 0 for any free one") from None
        raise InputError(f"port {port} cannot be opened: {error.strerror}") from None


def address(server: ThreadingHTTPServer) -> str:
    """Return what a browser opens."""
    return f"http://{HOST}:{server.server_address[1]}/"
