"""The local page server, asked over real connections: who gets an answer, who is refused, how it ends."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlaif.errors import Conflict, UserError
from rlaif.pages.page import render_page
from rlaif.pages.server import PageServer, Site
from tests.browser import opened

ROOT = Path(__file__).parent.parent


def wrong(values):
    raise UserError("wording: too long.", "a shorter one")


def taken(values):
    raise Conflict("the file has changed.")


def broken(values):
    raise KeyError("inside")


def full(values):
    raise OSError(28, "No space left on device", "/somewhere/actions.jsonl")


@contextmanager
def serving(**more):
    said = []
    site = Site(
        page=lambda: render_page("served.html.j2"),
        asks={"/api/echo": lambda values: values, "/api/broken": broken, "/api/full": full},
        tells={"/api/echo": lambda values: values, "/api/wrong": wrong, "/api/taken": taken},
        most_bytes=1000,
        failed=said.append,
        **more,
    )
    server = PageServer(site)
    with server.running():
        server.said = said
        yield server


@pytest.fixture(scope="module")
def server():
    with serving() as made:
        yield made


def send(server, method, path, headers=None, body=None, host=None):
    """(status, headers, body) of one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.port}")
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    if data is not None:
        connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    got = connection.getresponse()
    found = got.status, dict(got.getheaders()), got.read()
    connection.close()
    return found


def bearer(server, **more):
    return {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json", **more}


def cookie(server, **more):
    return {"Cookie": f"rlaif-{server.port}={server.token}", "Content-Type": "application/json", **more}


def own(server):
    return f"http://127.0.0.1:{server.port}"


def test_the_address_gives_a_cookie_and_the_cookie_the_page(server):
    status, headers, _ = send(server, "GET", server.address.removeprefix(own(server)))
    assert (status, headers["location"]) == (303, "/")
    given = headers["set-cookie"]
    assert given.startswith(f"rlaif-{server.port}={server.token};")
    assert "HttpOnly" in given
    assert "SameSite=strict" in given
    status, headers, page = send(server, "GET", "/", {"Cookie": given.split(";")[0]})
    assert status == 200
    assert b"/static/style.css" in page
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=x", "/static/ask.js", "/static/style.css", "/api/echo", "/none"]
)
def test_nothing_is_served_without_the_token(server, path):
    status, headers, body = send(server, "GET", path)
    assert status == 401
    assert "token" in json.loads(body)["error"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_token_counts_in_the_address_of_the_page_alone(server):
    assert send(server, "GET", f"/api/echo?token={server.token}")[0] == 401
    wrong_cookie = {"Cookie": f"rlaif-{server.port}={server.token[:-1]}"}
    assert send(server, "GET", "/api/echo", wrong_cookie)[0] == 401
    assert (
        send(server, "GET", f"/?token={server.token}", wrong_cookie)[0] == 303
    )  # an earlier server's cookie


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "0.0.0.0", "localhost.evil.example"]
)
def test_another_host_is_refused(server, host):
    assert send(server, "GET", "/api/echo", cookie(server), host=host)[0] == 421
    assert send(server, "GET", "/api/echo", bearer(server), host=f"{host}:{server.port}x")[0] == 421


def test_localhost_is_this_machine_too(server):
    assert send(server, "GET", "/api/echo", bearer(server), host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_another_origin_is_refused(server, origin, method):
    for who in (cookie, bearer):
        status, headers, _ = send(server, method, "/api/echo", who(server, Origin=origin), {"n": 1})
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_page_of_another_port_cannot_load_or_change_anything(server):
    for site in ("same-site", "cross-site"):
        assert send(server, "GET", "/static/ask.js", cookie(server, **{"Sec-Fetch-Site": site}))[0] == 403
        assert send(server, "GET", "/", cookie(server, **{"Sec-Fetch-Site": site}))[0] == 200  # a link
    assert send(server, "POST", "/api/echo", cookie(server), {"n": 1})[0] == 403  # no origin: no page of ours
    assert send(server, "POST", "/api/echo", cookie(server, Origin=own(server)), {"n": 1})[0] == 200
    assert send(server, "POST", "/api/echo", bearer(server), {"n": 1})[0] == 200  # a script has no origin


def test_answers_and_errors_are_json(server):
    status, headers, body = send(server, "GET", "/api/echo?a=1&b=", bearer(server))
    assert (status, headers["content-type"], json.loads(body)) == (
        200,
        "application/json",
        {"a": "1", "b": ""},
    )
    assert json.loads(send(server, "POST", "/api/echo", bearer(server), {"n": ["ä", 1]})[2]) == {
        "n": ["ä", 1]
    }
    status, _, body = send(server, "POST", "/api/wrong", bearer(server), {})
    assert (status, json.loads(body)["error"]) == (400, "wording: too long.\nNeeded: a shorter one")
    assert send(server, "POST", "/api/taken", bearer(server), {})[0] == 409
    assert send(server, "GET", "/none", bearer(server))[0] == 404
    assert send(server, "GET", "/static/..%2fserver.py", bearer(server))[0] == 404
    status, _, body = send(server, "PUT", "/api/wrong", bearer(server), {})
    assert (status, "error" in json.loads(body)) == (405, True)


def test_an_error_inside_shows_nothing_and_is_told(server):
    status, headers, body = send(server, "GET", "/api/broken", bearer(server))
    assert status == 500
    assert b"inside;" in body
    assert b"KeyError" not in body
    assert server.said == ["GET /api/broken: KeyError: 'inside'"]
    assert "content-security-policy" in headers


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 999, b'{"a":' * 150],
)
def test_a_body_that_is_no_object_is_refused(server, body):
    assert send(server, "POST", "/api/echo", bearer(server), body)[0] == 400


def test_other_types_and_large_bodies_are_refused(server):
    form = bearer(server, **{"Content-Type": "text/plain"})
    assert send(server, "POST", "/api/echo", form, {"n": 1})[0] == 415
    assert send(server, "POST", "/api/echo", bearer(server), {"n": "x" * 900})[0] == 200
    assert send(server, "POST", "/api/echo", bearer(server), {"n": "x" * 1000})[0] == 413


def test_a_body_without_a_length_is_read_up_to_the_limit(server):
    lines = [
        "POST /api/echo HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        f"Authorization: Bearer {server.token}",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        for _ in range(20):
            connection.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_only_this_machine_is_listened_to(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_the_users_to_change(server):
    with pytest.raises(UserError, match=rf"port {server.port}: cannot be listened on"):
        PageServer(Site(page=str), server.port)


SCRIPT = """
from rlaif.cli.terminal import say
from rlaif.pages.server import PageServer, Site
from rlaif.runs import stopping
stopping.catch_signals(); stopping.loaded()
server = PageServer(Site(page=str))
print(server.address, flush=True)
try:
    server.run()
except KeyboardInterrupt:
    print("ended in order", flush=True)
    raise SystemExit(stopping.code())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order(number, code):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    address = process.stdout.readline().strip()
    port = int(re.search(r":(\d+)/", address)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)  # kept open, as a browser does
    connection.request("GET", address[address.index("/?") :])
    assert connection.getresponse().status == 303
    process.send_signal(number)
    started = time.monotonic()
    assert process.communicate(timeout=20)[0] == "ended in order\n"
    assert process.returncode == code
    assert time.monotonic() - started < 20
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_browser_opens_it_and_runs_no_script_of_a_text(chromium):
    page = (
        "<title>kept</title><script>document.title = 'run'</script><img src=x "
        "onerror=\"document.title = 'run'\">"
    )
    with PageServer(Site(page=lambda: page, asks={"/api/n": lambda values: [1]})).running() as address:
        shown = opened(chromium, address)
        assert shown.url == address[: address.index("?")]  # the token has left the address
        assert shown.title() == "kept"
        assert shown.evaluate("fetch('/api/n').then((got) => got.json())") == [1]
        assert any("Content Security Policy" in error for error in shown.errors)
        shown.context.close()


def test_a_page_of_another_server_gets_nothing(chromium):
    with serving() as ours, PageServer(Site(page=str)).running() as other:
        shown = opened(chromium, ours.address)  # the browser has our cookie now
        shown.goto(other)
        target = own(ours)
        for how in ("{mode: 'no-cors', credentials: 'include'}", "{credentials: 'include'}"):
            tried = f"fetch('{target}/api/echo', {how}).then(() => 'read', () => 'refused')"
            assert shown.evaluate(tried) == "refused"
        shown.context.close()


def test_a_full_disk_is_said_on_the_page(server):
    """With a status at which the page asks again, and without the path."""
    status, _, body = send(server, "GET", "/api/full", {"Authorization": f"Bearer {server.token}"})
    assert (status, json.loads(body)) == (500, {"error": "No space left on device."})
    assert "/api/full: OSError: [Errno 28]" in server.said.pop()
