"""A policy, a reward model or the preferences of a run as a folder with its card, and pushed to a hub.

Nothing is pushed unless it is asked for, and a repository is made private unless that is asked for, too. The
run folder is not touched: what is pushed, or kept, is a copy. A call that was killed is finished by the same
call: a folder gets its name when it is whole, and a hub gets all files in one commit.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from rlaif.errors import UserError, first_line
from rlaif.human.exporters import export_file
from rlaif.prompting.tables import require_library
from rlaif.report.cards import CARD, UNKNOWN, data_card, model_card
from rlaif.runs.folder import Run, chosen
from rlaif.runs.locking import locked
from rlaif.runs.storage import move_into_place, share, unshare, write_text

What = Literal["policy", "reward_model", "preferences"]
PARQUET = "data/train-00000-of-00001.parquet"  # where a hub looks for the rows of a data set
PATIENCE = 120.0  # seconds without a byte from a hub, and that it may ask to wait
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def prepare(path: Path, what: str, folder: Path, licence: str = UNKNOWN, kept: bool = True) -> dict[str, Any]:
    """Write what is to be published into a new folder: {"what", "name", "folder", "files"}.

    `what` is policy (the last one), policy:NAME, reward_model or preferences. A folder that is not `kept` may
    share its files with the run. Raises UserError where the run has none, its files are damaged, or the
    folder holds something else.
    """
    kind, _, name = what.partition(":")
    if kind not in get_args(What) or (name and kind != "policy"):
        raise UserError(f'--what "{what}".', f"one of {', '.join(get_args(What))}, or policy:NAME")
    run = Run.load(path)
    run.verify()
    making = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)  # of a call that was killed
    try:
        name = _fill(making, run, kind, name, licence)
        if folder.exists() and any(folder.iterdir()):
            _require_same(making, folder)
        else:
            if kept:  # what is written into a file there must not reach the run
                unshare(making)
            move_into_place(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return {"what": kind, "name": name or kind, "folder": str(folder), "files": _files(folder)}


@contextmanager
def folder_to_push(path: Path) -> Iterator[Path]:
    """The name of a folder for what is pushed and not kept. It is beside the run, so that both can share
    files; what a killed call left there is removed."""
    run = Run.load(path).path.resolve()
    place = run.with_name(f".{run.name}.publishing")
    with locked(place):
        shutil.rmtree(place / "pushed", ignore_errors=True)
        try:
            yield place / "pushed"
        finally:
            shutil.rmtree(place)


def _fill(folder: Path, run: Run, kind: str, name: str, licence: str) -> str:
    """Write files and card; → the policy's name, where it is one."""
    if kind == "preferences":
        folder.joinpath(PARQUET).parent.mkdir(parents=True)
        counts = export_file(run.path, "trl", folder / PARQUET)
        write_text(folder / CARD, data_card(run.path, "trl", counts, licence))
        return name
    name, source = _policy(run, name) if kind == "policy" else ("reward_model", _reward_model(run))
    folder.mkdir(parents=True)
    share(source, folder, leave_out=(CARD,))
    write_text(folder / CARD, model_card(run, name, kind, licence))
    return name


def _files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _require_same(made: Path, folder: Path) -> None:
    """Raise UserError where a folder that is there holds something else than what was to be written."""
    names = _files(made)
    same = names == _files(folder) and filecmp.cmpfiles(made, folder, names, shallow=False)[0] == names
    if not same:
        raise UserError(
            f"{folder}: holds something else already.", "the name of a folder to make", "name another one"
        )


def _policy(run: Run, name: str) -> tuple[str, Path]:
    made = {key: path for key, path in run.policies.items() if key != "base" and not chosen(path)}
    if not made or (name and name not in made):
        raise UserError(
            f"{run.path}: has trained no policy {name}".rstrip() + ".",
            f"one of {', '.join(made)}"
            if made
            else "a run with a finished sft, ppo, dpo, rloo or grpo stage",
        )
    name = name or list(made)[-1]
    return name, made[name]


def _reward_model(run: Run) -> Path:
    made = [stage.dir / "reward_model" for stage in run.stages if "reward_model" in stage.options.makes]
    there = [path for path in made if (path / "config.json").is_file()]
    if not there:
        raise UserError(f"{run.path}: has no reward model.", "a run with a finished reward stage")
    return there[-1]


def push(folder: Path, what: str, hub_id: str, public: bool = False) -> dict[str, Any]:
    """Push a prepared folder to a repository of a hub (HF_ENDPOINT, HF_TOKEN): {"url", "private", "commit"}.

    Raises UserError where the id is none, the hub refuses, or the repository is public and that was not asked
    for.
    """
    require_library("huggingface_hub")
    from huggingface_hub import HfApi, get_token

    _require_id(hub_id)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN"))
    kind = "dataset" if what == "preferences" else "model"
    try:
        with _one_host(hub_id):
            url = api.create_repo(hub_id, repo_type=kind, private=not public, exist_ok=True)
            private = bool(api.repo_info(hub_id, repo_type=kind).private)
            if not private and not public:
                raise UserError(
                    f"--to {hub_id}: a repository that everybody can read is there already.",
                    "a private repository, or your word that all may read it",
                    "make it private on the hub, name another one, or add --public",
                )
            made = api.upload_folder(
                repo_id=hub_id, folder_path=str(folder), repo_type=kind, commit_message="Publish with rlaif"
            )
    except UserError:
        raise
    except Exception as error:  # of the hub, of the network, of the library
        raise _refusal(error, hub_id, get_token()) from None
    return {"url": str(url), "private": private, "commit": made.oid}


def _require_id(hub_id: str) -> None:
    """Raise UserError where this is no id that a hub gives a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        valid = bool(_HUB_ID.fullmatch(hub_id))
        validate_repo_id(hub_id)
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(
            f'--to "{hub_id}": no id of a repository.',
            "OWNER/NAME of letters, digits, -, _ and . alone: at most 96 in NAME, no - or . at the start, at "
            "the end or twice in a row, and no .git at the end",
            "--to my-name/my-model",
        )


def _refusal(error: Exception, hub_id: str, token: str | None) -> UserError:
    """What to say of an error of the hub, of the network or of the hub's library."""
    from huggingface_hub.errors import BadRequestError, HfHubHTTPError

    refused = isinstance(error, HfHubHTTPError)  # of which some are a ValueError, too
    garbled = not refused and isinstance(error, TypeError | ValueError | LookupError | AttributeError)
    how = "what the hub answers cannot be read" if garbled else "the hub refused it"
    said, more = first_line(error), " ".join((error.server_message or "").split()) if refused else ""
    said = said if more[:300] in said else f"{said} {more}"
    said = said.replace(token, "the token") if token else said  # which a hub may send back
    needed = "a hub that can be reached, and a token that may write there (HF_TOKEN)"
    todo = "what was to be pushed stays: --out FOLDER writes it without a hub"
    if isinstance(error, BadRequestError):  # who asks is no matter
        needed = "a repository and files that the hub takes"
    else:
        todo = f"log in with `hf auth login`; {todo}"
    return UserError(f"--to {hub_id}: {how} ({said[:600]}).", needed, todo)


@contextmanager
def _one_host(hub_id: str) -> Iterator[None]:
    """Meanwhile the hub's library sends nothing to another host because it is told to, and waits no longer
    than PATIENCE, at once or because it is asked to: either is a UserError."""
    from huggingface_hub import get_session, set_client_factory

    def look(response: Any) -> None:
        asked, headers = response.request.url, response.headers
        to = asked.join(headers["location"]) if response.has_redirect_location else asked
        if (to.scheme, to.netloc) != (asked.scheme, asked.netloc):
            raise UserError(
                f"--to {hub_id}: {asked.host} sends what is pushed on to {to.host}.",
                "a hub that takes it itself",
                "name the right one in HF_ENDPOINT",
            )
        told = f"{headers.get('ratelimit', '')} t={headers.get('retry-after', '')}"
        wait = max(map(int, re.findall(r"\bt\s*=\s*(\d{1,12})", told)), default=0)
        if response.is_error and wait > PATIENCE:
            raise UserError(
                f"--to {hub_id}: the hub takes nothing now and asks to wait {wait:,} s.",
                "a hub that takes it",
                "run the same command again then",
            )

    plain = get_session()
    kind, hooks, timeout = type(plain), plain.event_hooks, plain.timeout
    watched = {**hooks, "response": [*hooks["response"], look]}
    # A factory, as the library makes another client after an error.
    set_client_factory(lambda: kind(event_hooks=watched, follow_redirects=True, timeout=PATIENCE))
    try:
        yield
    finally:
        set_client_factory(lambda: kind(event_hooks=hooks, follow_redirects=True, timeout=timeout))
