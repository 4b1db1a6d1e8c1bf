"""How endpoints are reached: no host but those of the config, no answer without end, and TLS errors by their
name."""

import shutil
import ssl
import subprocess
import threading
import tracemalloc
import zlib
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

import rlaif.engines.endpoints as endpoints
import rlaif.engines.transport as transport
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest
from rlaif.engines.openai import OpenAIEngine
from rlaif.errors import UserError
from rlaif.prompting.templates import user
from tests.stub_server import Stub, handler, serving

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "sk-very-secret")
    monkeypatch.setattr(endpoints, "PAUSE", 0.001)
    monkeypatch.setattr(endpoints, "LONGEST", 0.05)
    monkeypatch.setattr(endpoints, "FIRST", 0.2)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def engine_at(url: str) -> OpenAIEngine:
    return OpenAIEngine(ModelConfig(engine="openai", model="judge", base_url=url, api_key_env="STUB_KEY"))


def text_of(engine: OpenAIEngine) -> str:
    return dict(engine.generate([GenerateRequest([user("a private question")], 9)]))[0].text


def stops(engine: OpenAIEngine) -> str:
    with pytest.raises(UserError) as error:
        text_of(engine)
    return str(error.value)


def test_a_redirect_to_another_host_is_not_followed():
    here, elsewhere = Stub(), Stub()
    with serving(here) as url, serving(elsewhere) as target:
        here.always = f"redirect {target}/chat/completions"
        assert f"redirects to {target.removesuffix('/v1')} (HTTP 307)" in stops(engine_at(url))
        here.always = f"redirect //user:secret@{target.removeprefix('http://')}/chat/completions"
        assert "secret" not in stops(engine_at(url))
    assert elsewhere.asked == []
    assert elsewhere.keys == set()
    assert len(here.asked) == 2


def test_an_answer_without_end_is_left_and_counted(monkeypatch: pytest.MonkeyPatch):
    stub = Stub()
    monkeypatch.setattr(transport, "MAX_BYTES", 2**20)
    with serving(stub) as url:
        stub.always = "packed 64"
        engine = engine_at(url)
        tracemalloc.start()
        said = stops(engine)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "× a response of more than 1 MB" in said
        assert engine.usage.retried["a response of more than 1 MB"] >= 1
        assert (
            peak < 140 * 2**20
        )  # the server, in this process, holds 64 MB; unpacked once more they would be seen
        stub.headers, stub.always = {}, "body " + " " * 2**21
        assert "× a response of more than 1 MB" in stops(engine_at(url))
        stub.headers, stub.always = {}, "400 " + "no " * 2**19
        assert "× a response of more than 1 MB" in stops(engine_at(url))


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: ("gzip", zlib.compress(data, wbits=31)),
        lambda data: ("deflate", zlib.compress(data)),
    ],
)
def test_an_answer_that_is_packed_as_asked_is_read(monkeypatch: pytest.MonkeyPatch, pack):
    stub = Stub()
    server = handler(stub)
    plain = server.response

    def response(self, status: int, data: bytes) -> None:
        stub.headers["Content-Encoding"], packed = pack(data)
        plain(self, status, packed)

    monkeypatch.setattr(server, "response", response)
    with running(server) as url:
        assert text_of(engine_at(url)) == "B"


def test_an_answer_that_is_packed_otherwise_is_counted():
    stub = Stub()
    stub.headers = {"Content-Encoding": "br"}
    with serving(stub) as url:
        assert "× a response in an encoding not asked for" in stops(engine_at(url))


def test_http_goes_past_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    stub, proxy = Stub(), Stub()
    with serving(stub) as url, serving(proxy) as at:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, at)
        assert text_of(engine_at(url)) == "B"
        assert engine_at(url).health() == {url.removeprefix("http://"): "well; serves judge"}
    assert proxy.asked == []


def test_https_goes_through_the_proxy_of_the_environment_as_a_tunnel(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    stub = Stub()

    class Proxy(handler(stub)):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(502)

    with running(Proxy) as at:
        monkeypatch.setenv("HTTPS_PROXY", at.removesuffix("/v1"))
        assert "× no connection" in stops(engine_at("https://judge.invalid/v1"))
    assert set(asked) == {"judge.invalid:443"}
    assert stub.asked == []


def test_a_proxy_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    assert "the proxy that the environment names cannot be used" in stops(
        engine_at("https://judge.invalid/v1")
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_tls_errors_say_that_they_are(tmp_path: Path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
    )
    stub = Stub()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with running(handler(stub), context) as url:
        engine = engine_at(url.replace("http:", "https:"))
        said = stops(engine)
        assert "× TLS error" in said
        assert "self-signed certificate" in said
        assert next(iter(engine.health().values())).startswith('TLS error: "self-signed certificate')
    assert stub.asked == []
    with serving(stub) as url:
        assert "× TLS error" in stops(engine_at(url.replace("http:", "https:")))


class running:
    """A server of one's own handler, as `serving` is for the stub's; with a context, over TLS."""

    def __init__(self, how: type, context: ssl.SSLContext | None = None) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), how)
        self.server.handle_error = lambda *_: None
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
