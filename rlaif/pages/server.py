"""A local server for one page in the browser: `rlaif constitution open` and `rlaif annotate`.

Only this machine reaches it (127.0.0.1), and only who has the address that the command prints: its random
token is needed for every request, as `?token=` of the address, then as a cookie, or as a bearer header of a
script. Names of other hosts (DNS rebinding), other pages' requests (Origin, Sec-Fetch-Site) and large bodies
are refused. Pages load nothing from elsewhere and run no script but the files given here.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.errors import Conflict, UserError, first_line
from rlaif.pages.page import STATIC

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, RedirectResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise UserError(
        f"{error.name} is not installed.", "the extra pages", "pip install 'rlaif-loop[pages]'"
    ) from None

HOST = "127.0.0.1"
MOST_BYTES = 1 << 20  # of a request's body
SECONDS_TO_END = 3  # for requests that are being answered when the server is stopped
STYLE = Path(__file__).parent / "templates" / "style.css"
ASK = STATIC / "ask.js"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Answer = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Site:
    """One page and what it asks its server.

    `page` gives the HTML, anew for each load. `asks` and `tells` are the answers to GET and POST by path
    ("/api/…"): a function from the query's values (texts), or from the body's JSON object, to what JSON can
    hold. They run in threads, several at once; a UserError is sent as {"error": its words} with status 400,
    a Conflict with 409. `files` are served as /static/NAME, beside style.css and ask.js.
    """

    page: Callable[[], str]
    asks: Mapping[str, Answer] = field(default_factory=dict)
    tells: Mapping[str, Answer] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    most_bytes: int = MOST_BYTES
    failed: Callable[[str], None] = lambda said: None  # told of an error inside


class PageServer:
    """A site on a port of this machine; `address` holds the token. Listens from the start on."""

    def __init__(self, site: Site, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self.socket = _listening(port)
        self.port: int = self.socket.getsockname()[1]
        self.address = f"http://{HOST}:{self.port}/?token={self.token}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                Guard(_application(site), self.token, self.port),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=SECONDS_TO_END,
            )
        )

    def run(self) -> None:
        """Serve until Ctrl-C or SIGTERM, which is passed on once open requests are answered."""
        try:
            self._server.run(sockets=[self.socket])
        finally:
            self.socket.close()

    @contextmanager
    def running(self) -> Iterator[str]:
        """The address, while a thread serves it."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        while not self._server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield self.address
        finally:
            self._server.should_exit = True
            thread.join()


class Guard:
    """Lets through what comes from the page itself, or from who has the token; all else is refused."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.cookie = f"rlaif-{port}"  # cookies are shared by all ports of a host
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message["headers"] if k.decode().title() not in HEADERS]
                message["headers"] = [*kept, *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        request = Request(scope)
        refused = self._refused(request)
        if refused is None and "token" in request.query_params and request.url.path == "/":
            refused = RedirectResponse("/", 303)
            refused.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        await (refused or self.app)(scope, receive, sending)

    def _refused(self, request: Request) -> Response | None:
        """The refusal of a request, None where it may pass."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if host not in self.hosts:
            return _error(421, "This server answers to its own address alone.")
        foreign = request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        # The address itself may be a link on another page: it holds the token.
        if (foreign and request.url.path != "/") or origin not in (None, f"http://{host}"):
            return _error(403, "A request of another page.")
        by_script = self._is_token(request.headers.get("authorization", "").removeprefix("Bearer "))
        asked = request.query_params.get("token", "") if request.url.path == "/" else ""
        by_page = self._is_token(request.cookies.get(self.cookie, "")) or self._is_token(asked)
        if not by_script and not by_page:
            return _error(401, "The token is missing: open the address that the command printed.")
        if request.method not in ("GET", "HEAD") and origin is None and not by_script:
            return _error(403, "A request that does not say which page it comes from.")
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())


def _listening(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise UserError(
            f"port {port}: cannot be listened on ({first_line(error)}).", "a free port", "--port 0"
        ) from None
    made.listen(64)
    return made


def _application(site: Site) -> Starlette:
    files = {"style.css": STYLE, "ask.js": ASK, **site.files}

    async def page(request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(site.page))

    async def static(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        if path is None:
            raise HTTPException(404, "No such file.")
        return Response(await run_in_threadpool(path.read_bytes), media_type=TYPES[path.suffix])

    def answering(answer: Answer, told: bool) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            given = await _body(request, site.most_bytes) if told else dict(request.query_params)
            return _json(200, await run_in_threadpool(answer, given))

        return endpoint

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/static/{name}", static, methods=["GET"]),
        *(Route(path, answering(answer, False), methods=["GET"]) for path, answer in site.asks.items()),
        *(Route(path, answering(answer, True), methods=["POST"]) for path, answer in site.tells.items()),
    ]

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return _error(error.status_code, str(error.detail))
        return _error(409 if isinstance(error, Conflict) else 400, str(error))

    async def failed(request: Request, error: Exception) -> Response:
        site.failed(f"{request.method} {request.url.path}: {type(error).__name__}: {error}")
        reason = error.strerror if isinstance(error, OSError) else None  # a full disk; the path is nobody's
        return _error(500, f"{reason}." if reason else "An error inside; the terminal says which.")

    handlers = {HTTPException: refused, UserError: refused}
    return Starlette(routes=routes, exception_handlers={**handlers, Exception: failed})


async def _body(request: Request, most: int) -> dict[str, Any]:
    """The JSON object of a request; an HTTPException for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Needed: a body of the type application/json.")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > most:
            raise HTTPException(413, f"The body has more than {most} bytes.")
    try:
        data = json.loads(read.decode(), parse_constant=_no_number)
        json.dumps(data, ensure_ascii=False).encode()  # halves of surrogate pairs have no form in UTF-8
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not valid JSON in UTF-8.") from None
    if not isinstance(data, dict):
        raise HTTPException(400, "The body is no JSON object.")
    return data


def _no_number(name: str) -> None:
    raise ValueError(name)


def _json(status: int, data: Any) -> Response:
    return Response(json.dumps(data).encode(), status, media_type="application/json")


def _error(status: int, said: str) -> Response:
    return _json(status, {"error": said})
