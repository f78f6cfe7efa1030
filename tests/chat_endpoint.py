"""A chat endpoint on this machine whose conduct a test decides."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-key"
"""What no message may show."""


class Endpoint:
    """A chat endpoint whose conduct a test decides, request by request."""

    def __init__(self, conduct: Callable[[Call], None]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.most_at_once = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
                call = Call(self, json.loads(raw or b"{}"))
                with endpoint.lock:
                    endpoint.bodies.append(call.body)
                    endpoint.keys.append(self.headers.get("Authorization", ""))
                    endpoint.at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
                try:
                    conduct(call)
                except OSError:
                    self.close_connection = True  # the client has gone away
                finally:
                    with endpoint.lock:
                        endpoint.at_once -= 1

            do_GET = do_POST  # noqa: N815 - the base class's name

            def log_message(self, *_: Any) -> None:
                pass

        self.lock = threading.Lock()
        self.at_once = 0

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # connections that wait, not lost where the machine is busy

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Call:
    """One request."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.handler = handler
        self.body = body
        asked = [m["content"] for m in body.get("messages", ()) if m["role"] == "user"]
        self.said: str = asked[0] if asked else ""

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(content)))
        self.handler.end_headers()
        self.handler.wfile.write(content)

    def answer(self, text: object) -> None:
        self.give(
            {
                "id": "x",
                "object": "chat.completion",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 4},
            }
        )

    def give(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), Content_Type="application/json")

    def refuse(self, status: int, message: str, **headers: str) -> None:
        content = json.dumps({"error": {"message": message}}).encode()
        self.send(status, content, Content_Type="application/json", **headers)

    def cut(self) -> None:
        """Promises more than it sends, then drops the line."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Length", "1000")
        self.handler.end_headers()
        self.handler.wfile.write(b'{"choices": [')
        self.handler.wfile.flush()
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)
