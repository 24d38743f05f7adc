"""A file server on loopback that misbehaves as told; the scripts of `get_data/` made importable."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "get_data"))


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` (path: bytes) whole or from a byte on; `server.script[path]` changes answers, one each."""

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        how = server.script[path].pop(0) if server.script.get(path) else {}
        server.asked.append((path, self.headers.get("Range")))
        body, status = (
            how.get("body", server.files.get(path, b"")),
            how.get("status", 200 if path in server.files else 404),
        )
        headers = {"Content-Type": "application/octet-stream", "ETag": f'"{hash(body)}"', "Content-Length": len(body)}
        wanted = self.headers.get("Range")
        if status == 200 and wanted and self.headers.get("If-Range") == headers["ETag"] and not how.get("whole"):
            start = how.get("start", int(wanted.removeprefix("bytes=").removesuffix("-")))
            status, body = (206, body[start:]) if start < len(server.files[path]) else (416, b"")
            headers |= {"Content-Range": f"bytes {start}-", "Content-Length": len(body)}
        self.send_response(status)
        for key, value in (headers | how.get("headers", {})).items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body[: how.get("cut", len(body))])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A running server: `files`, `script`, `asked` (path and Range of each request), `url`."""
    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.script, running.asked = {}, {}, []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
