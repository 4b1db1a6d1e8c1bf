"""What to do about endpoints that do not serve: needs and next steps, by what was found."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from rlaif.config import ModelConfig
from rlaif.errors import UserError

if TYPE_CHECKING:
    from rlaif.engines.endpoints import Endpoint

_BUSY = ("HTTP 429", "HTTP 503", "HTTP 529")
_NO_API = ("half a response", "no choices in the response")


def usual_address(url: str) -> str:
    """The address that compatible servers have in place of one that ends otherwise; "" where it ends so."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    base = re.sub(r"/(chat/completions|completions|models)$", "", path)
    better = base if re.search(r"/v\d", base) or base != path else f"{base}/v1"
    return "" if better == path else urlunsplit(parts._replace(path=better))


def permanent_error(endpoint: Endpoint, config: ModelConfig, key: str, status: int, said: str) -> UserError:
    """The error for a response that will not change by asking again."""
    name, model, variable = endpoint.name, config.model, config.api_key_env
    if status in (401, 403) and not key:
        return UserError(
            f"{name}: asks for a key, and the environment variable {variable} is not set ({said}).",
            f"a key that may use {model}",
            f"export {variable}=…, or name another variable: api_key_env",
        )
    if status in (401, 403):
        return UserError(
            f"{name}: refuses the key in {variable} ({said}).",
            f"a key that may use {model}",
            f"export {variable}=…",
        )
    if status == 404:
        usual = usual_address(endpoint.url)
        return UserError(
            f'{name}: no model "{model}" there, or no chat endpoint ({said}).',
            "a model that the server lists, and an address to which /chat/completions can be added",
            (f"base_url: {usual}; " if usual else "")
            + "`rlaif check CONFIG` lists the models each endpoint serves",
        )
    if status == 429:
        return UserError(
            f"{name}: responds with an error ({said}).",
            "an account with quota left",
            "see to the account, or name another endpoint; finished rows are kept",
        )
    return UserError(
        f"{name}: responds with an error ({said}).",
        "a request it accepts",
        "fix what it names; finished rows are kept",
    )


def advice(kinds: Collection[str], urls: list[str], patience: float) -> tuple[str, str]:
    """(what is needed, what to do) where no endpoint has responded; `kinds` are their last troubles."""
    raised = f"raise patience ({patience:g} s)"
    if kinds and all(kind in _BUSY for kind in kinds):
        return "a server that takes requests now", f"wait, lower concurrency, or {raised}"
    if kinds and all(kind.startswith("HTTP 5") for kind in kinds):
        return "a server that works", f"see the server's log for its error, or {raised}"
    if kinds and all(kind == "TLS error" for kind in kinds):
        return (
            "a certificate that this machine trusts, or http:// where the server speaks no TLS",
            "mend base_url, or name your authority's certificates in SSL_CERT_FILE",
        )
    if kinds and all(kind in _NO_API for kind in kinds):
        usual = next(filter(None, map(usual_address, urls)), "")
        return (
            "a base_url that serves chat completions, not a web page",
            f"base_url: {usual}" if usual else "mend base_url, or see the server's log",
        )
    return (
        "a server at base_url that serves chat completions",
        f"start it (for example `vllm serve MODEL`), mend base_url, or {raised}",
    )
