"""A hub on this machine: the requests that huggingface_hub makes to create a repository and to commit
files to it, answered over HTTP. All files are asked for in the commit itself, as a hub does with small
ones."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ruamel.yaml import YAML


class Hub:
    """Repositories by kind and id, and who asked for them with which token."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict] = {}
        self.tokens: set[str | None] = set()
        self.token = "hf_test"
        self.address = ""
        self.landed = threading.Semaphore(0)  # commits and repositories that were made
        self.loses: Callable[[str], bool] = lambda path: False  # a request: it is then not answered
        # What is answered in place of what a hub says: status, text and further headers.
        self.instead: Callable[[str, str], tuple[int, str, dict] | None] = lambda method, path: None
        self.asked: list[tuple[str, str, str]] = []  # method, path and text of every request

    def create(self, body: dict) -> tuple[int, dict]:
        kind, id = body.get("type", "model"), f"{body.get('organization') or 'me'}/{body['name']}"
        url = f"{self.address}/{'datasets/' if kind == 'dataset' else ''}{id}"
        if (kind, id) in self.repos:
            return 409, {"error": "You already created this repo", "url": url}
        private = body.get("private") or body.get("visibility") == "private"
        self.repos[kind, id] = {"private": bool(private), "files": {}}
        return 200, {"url": url, "id": id}

    def validate(self, card: str) -> tuple[int, dict]:
        head = YAML(typ="safe").load(card.split("---")[1])
        known = isinstance(head, dict) and isinstance(head["license"], str) and isinstance(head["tags"], list)
        return 200, {"errors": [] if known else [{"message": "no license or tags"}], "warnings": []}

    def commit(self, kind: str, id: str, lines: list[dict]) -> tuple[int, dict]:
        repo = self.repos[kind, id]
        for line in lines:
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                repo["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {
            "success": True,
            "commitOid": "c" * 40,
            "commitUrl": f"{self.address}/{id}/commit/{'c' * 40}",
        }


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.answered_instead(b""):
                return
            kind, id = self.repo()
            repo = hub.repos.get((kind, id))
            if repo is None:
                self.answer(404, {"error": "not found"})
            else:
                self.answer(200, {"id": id, "private": repo["private"], "sha": "c" * 40, "siblings": []})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if hub.loses(self.path) or self.answered_instead(data):
                return
            token = self.headers.get("Authorization")
            hub.tokens.add(token)
            if token != f"Bearer {hub.token}":
                self.answer(401, {"error": "Invalid credentials"})
            elif self.path == "/api/validate-yaml":
                self.answer(*hub.validate(json.loads(data)["content"]))
            elif self.path.startswith("/api/repos/create"):
                found = hub.create(json.loads(data))
                hub.landed.release()
                self.answer(*found)
            elif "/preupload/" in self.path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(data)["files"]
                ]
                self.answer(200, {"files": files})
            elif "/commit/" in self.path:
                found = hub.commit(*self.repo(), [json.loads(line) for line in data.splitlines() if line])
                hub.landed.release()
                self.answer(*found)
            else:
                self.answer(404, {"error": self.path})

        def repo(self) -> tuple[str, str]:
            parts = self.path.split("?")[0].split("/")
            return parts[2].removesuffix("s"), "/".join(parts[3:5])

        def answered_instead(self, data: bytes) -> bool:
            hub.asked.append((self.command, self.path, data.decode()))
            found = hub.instead(self.command, self.path)
            if found:
                self.send(found[0], found[1].encode(), found[2])
            return found is not None

        def answer(self, status: int, body: dict) -> None:
            self.send(status, json.dumps(body).encode(), {})

        def send(self, status: int, data: bytes, headers: dict) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub at an address on localhost."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
