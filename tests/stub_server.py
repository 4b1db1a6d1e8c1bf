"""A real HTTP server on 127.0.0.1 that speaks the OpenAI chat protocol: it answers, refuses, breaks off and
lies."""

import gzip
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """What the server does: `faults` are played before a good answer, each question its own count."""

    def __init__(self) -> None:
        self.model: str | None = None  # the name it answers with; None = the one asked for
        self.verdict: Callable[[dict], list[tuple[str, float]]] | None = (
            None  # tokens and probabilities by question
        )
        self.headers = {"retry-after-ms": "1"}
        self.keys: set[str] = set()
        self.asked: list[dict] = []
        self.tries: Counter[str] = Counter()
        self.faults: list[str] = []
        self.always: str | None = None
        self.error: Callable[[], dict] | None = None  # the body of an error, in place of the fault's text
        self.logprobs = True
        self.silence = 1.0  # seconds of it
        self.text: str | list = "B"
        self.finish = ""  # its reason to end, where that is to be another one
        self.top = [("A", 0.2), (" A", 0.1), ("B", 0.6), ("The", 0.05)]

    def fault(self, body: dict) -> str | None:
        """The fault to play for this try, None for a good answer."""
        self.asked.append(body)
        key = json.dumps(body, sort_keys=True)
        self.tries[key] += 1
        played = self.tries[key] - 1
        return self.always or (self.faults[played] if played < len(self.faults) else None)

    def answer(self, body: dict) -> dict:
        """A good answer."""
        choice = {
            "index": 0,
            "finish_reason": self.finish or ("length" if body.get("max_tokens") == 3 else "stop"),
            "message": {
                "role": "assistant",
                "content": f" {self.text} " if isinstance(self.text, str) else self.text,
            },
        }
        if body.get("logprobs") and self.logprobs:
            likely = self.verdict(body) if self.verdict else self.top
            top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in likely]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": self.model or body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
        }


def handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = [{"id": stub.model or "judge", "object": "model", "created": 0, "owned_by": "x"}]
            self.response(200, json.dumps({"object": "list", "data": models}).encode())

        def do_POST(self) -> None:
            stub.keys.add(self.headers["Authorization"].removeprefix("Bearer "))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = stub.fault(body)
            if fault == "half":
                self.response(200, json.dumps(stub.answer(body)).encode()[:60])
            elif fault == "empty":
                self.response(200, json.dumps({**stub.answer(body), "choices": []}).encode())
            elif fault == "bare":
                answer = stub.answer({**body, "logprobs": False})
                self.response(200, json.dumps(answer).encode())
            elif fault == "other model":
                self.response(200, json.dumps({**stub.answer(body), "model": "tiny-chat"}).encode())
            elif fault and fault.startswith("body "):  # a status of 200 and whatever follows
                self.response(200, fault.removeprefix("body ").encode())
            elif fault and fault.startswith("redirect "):
                stub.headers = {"Location": fault.removeprefix("redirect ")}
                self.response(307, b"")
            elif fault and fault.startswith("packed "):  # so many megabytes of blanks
                stub.headers = {"Content-Encoding": "gzip"}
                self.response(200, gzip.compress(b" " * (int(fault.removeprefix("packed ")) << 20)))
            elif fault == "silence":
                time.sleep(stub.silence)
                self.close_connection = True
            elif fault == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"{")
                self.close_connection = True
            elif fault:
                status, _, text = fault.partition(" ")
                error = stub.error() if stub.error else {"error": {"message": text or "no"}}
                self.response(int(status), json.dumps(error).encode())
            else:
                self.response(200, json.dumps(stub.answer(body)).encode())

        def response(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in stub.headers.items():
                self.send_header(name, value)
            with suppress(OSError):  # who asked may have gone
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    """A server on which as many connections as a test opens at once can wait: 5 do by default."""

    request_queue_size = 128


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """The stub's address while it runs."""
    server = Server(("127.0.0.1", 0), handler(stub))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
