"""How endpoints are reached: only the hosts that the config names, and no response larger than MAX_BYTES.

Redirects are not followed. A proxy of the environment is used for https alone, where it sees no more than the
host's name; http goes to its host directly.
"""

from __future__ import annotations

import ssl
import zlib
from functools import cache
from typing import Any

from rlaif.engines.endpoints import CONNECT, Trouble
from rlaif.errors import UserError

MAX_BYTES = (
    8 * 2**20
)  # of one response, unpacked: a long text with its log-probabilities has some hundred thousand
_PACKED = ("gzip", "x-gzip", "deflate")


def client(api: Any, url: str, key: str, timeout: float) -> Any:
    """An asynchronous client of one endpoint; `api` is the openai package, `timeout` in seconds of
    silence."""
    try:
        # Without an entry of its own, http would go through HTTP_PROXY, which reads every prompt.
        http = _bounded(api)(follow_redirects=False, mounts={"http://": None})
    except (ImportError, ValueError) as error:
        raise UserError(
            f"the proxy that the environment names cannot be used ({error}).",
            "HTTPS_PROXY or ALL_PROXY with an http address",
            "unset it, or name the endpoint's host in NO_PROXY",
        ) from None
    return api.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",
        max_retries=0,
        timeout=api.Timeout(timeout, connect=CONNECT),
        http_client=http,
        default_headers={"Accept-Encoding": "gzip, deflate"},
    )


@cache
def _bounded(api: Any) -> Any:
    class BoundedClient(api.DefaultAsyncHttpxClient):
        """Reads every response to its end, errors too, but no more of it than MAX_BYTES."""

        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            response = await super().send(request, stream=True, **options)
            try:
                body = await _body(response)
            finally:
                await response.aclose()
            headers = [
                (name, value)
                for name, value in response.headers.multi_items()
                if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
            ]
            return type(response)(response.status_code, headers=headers, content=body, request=request)

    return BoundedClient


async def _body(response: Any) -> bytes:
    """The bytes of a response, unpacked piece by piece; Trouble where they are too many or packed in a way
    not asked for."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", *_PACKED):
        raise Trouble("a response in an encoding not asked for")
    unpacker = (
        zlib.decompressobj(wbits=47) if encoding in _PACKED else None
    )  # 47: gzip or zlib, as it says itself
    body = bytearray()
    async for piece in response.aiter_raw():
        body += unpacker.decompress(piece, MAX_BYTES + 1 - len(body)) if unpacker else piece
        if len(body) > MAX_BYTES:
            raise Trouble(f"a response of more than {MAX_BYTES // 2**20} MB")
    return bytes(body)


def tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that a failed connection comes from, None where it comes from something else."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
