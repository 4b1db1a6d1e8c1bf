"""What `rlaif init` writes: a small config that extends a shipped one, a constitution to edit, prompts."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlaif.config import ASSETS, find
from rlaif.constitution import Constitution
from rlaif.engines.gguf import gguf_file
from rlaif.errors import UserError
from rlaif.extends import shipped as shipped_file
from rlaif.human.importers import import_file
from rlaif.options.data import PromptSourceOptions
from rlaif.prompting.prompt_files import read_prompts
from rlaif.runs.storage import move_into_place, write_text
from rlaif.yamlfile import parse_scalar

Hardware = Literal["cpu", "gpu"]
PLAYGROUND = "playground"
_WEIGHTS = "rlaif/playground/weights"
PAIRS = "pairs"


@dataclass(frozen=True)
class Wanted:
    """What a project is to be made of; None: what comes with rlaif, or a file that is written to be
    edited."""

    policy: str = PLAYGROUND
    judge: str = PLAYGROUND
    judge_name: str | None = None  # the model that the endpoint `judge` serves
    prompts: str | None = None
    column: str | None = None
    constitution: str | None = None
    hardware: Hardware = "cpu"
    from_data: Path | None = None


def write_project(folder: Path, wanted: Wanted) -> list[Path]:
    """The files of a new project in `folder`, each whole or not there, the config last. What a killed call
    left is kept, so the same call finishes it; nothing else that exists is overwritten.

    Raises UserError where something is in the way, or what is named cannot be used.
    """
    _refuse_what_is_not_used(wanted)
    wanted, constitution = _from_library(wanted)
    texts = {"config.yaml": config_text(folder, wanted)}
    if wanted.constitution is None:
        texts["constitution.yaml"] = constitution
    if wanted.prompts is None and wanted.from_data is None:
        texts["prompts.txt"] = PROMPTS
    _refuse_overwriting(folder, [name for name, text in texts.items() if _differs(folder / name, text)])
    if wanted.prompts is not None:
        read_prompts(PromptSourceOptions(path=str(find(_there(wanted.prompts))), column=wanted.column))
    if wanted.constitution is not None:
        Constitution.load(find(_there(wanted.constitution)))
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if wanted.from_data is not None:
        _import_pairs(wanted.from_data, folder, new)
    for name in reversed(texts):
        if not (folder / name).exists() or not (folder / name).stat().st_size:
            write_text(folder / name, texts[name])
    names = [*texts, *([PAIRS] if wanted.from_data else [])]
    return [folder / name for name in reversed(names)]


def _differs(path: Path, text: str) -> bool:
    """Whether something else than this text stands there; an empty file, which an interrupted call of an
    earlier version left, is nothing."""
    there = path.exists() or path.is_symlink()
    return there and not (path.is_file() and path.read_bytes() in (b"", text.encode()))


def _refuse_overwriting(folder: Path, there: list[str]) -> None:
    if there:
        raise UserError(
            f"{folder}: there is a {' and a '.join(there)} already.",
            "a folder without them, or with what this command writes: nothing is overwritten",
            "name another folder: rlaif init DIR",
        )


def _import_pairs(data: Path, folder: Path, new: bool) -> None:
    """People's pairs in their folder, or nothing: a file that cannot be imported leaves none in the way."""
    partial, final = folder / f"{PAIRS}.partial", folder / PAIRS
    shutil.rmtree(partial, ignore_errors=True)
    try:
        import_file(None, data, partial)
        if final.exists():
            _refuse_overwriting(folder, [] if _contents(final) == _contents(partial) else [PAIRS])
            shutil.rmtree(partial)
            return
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        if new:
            folder.rmdir()
        raise
    move_into_place(partial, final)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _refuse_what_is_not_used(wanted: Wanted) -> None:
    """UserError for what is named beside nothing that it could belong to."""
    served = re.match("https?://", wanted.judge) is not None
    if wanted.column is not None and wanted.prompts is None:
        raise UserError(
            f"--column {wanted.column}: of no file of prompts.", "a file that has it", "add --prompts FILE"
        )
    if wanted.judge_name and not served:
        raise UserError(
            f"--judge-name {wanted.judge_name}: {wanted.judge} is no endpoint.",
            "the address of the server, for example http://localhost:8000/v1",
            "add --judge URL",
        )
    for role in ("policy", "judge"):
        name = getattr(wanted, role)
        if "://" in name and not (served and role == "judge"):
            kinds = "a folder, a hub id, a GGUF file" + (", or http://… or https://…" * (role == "judge"))
            raise UserError(f"--{role} {name}: no model.", kinds)
        if Path(name).is_file() and gguf_file(name) is None:
            raise UserError(
                f"--{role} {name}: a file, which no model is.", "a model's folder, a hub id or a GGUF file"
            )


def config_text(folder: Path, wanted: Wanted) -> str:
    """The config's text, with what each part is for."""
    base, why = _extended(wanted)
    prompts, about = "prompts.txt", "a prompt a line; other formats: docs/prompts.md"
    if wanted.prompts is not None:
        path = _text(_there(wanted.prompts))
        prompts = f"{{path: {path}, column: {_text(wanted.column)}}}" if wanted.column else path
        about = "docs/prompts.md"
    elif wanted.from_data is not None:
        prompts, about = f"{PAIRS}/prompts.jsonl", "those of the imported pairs"
    constitution = "constitution.yaml" if wanted.constitution is None else _text(_there(wanted.constitution))
    lines = [
        "# Made by `rlaif init`. What this run would do:  rlaif run config.yaml --dry-run",
        "# All options with their meaning:  rlaif options",
        f"extends: configs/{base}.yaml   # {why}; what stands below differs from it",
        f"name: {_name(folder)}   # the run's folder: runs/NAME",
        f"constitution: {constitution}   # the rules that critique, revision and judge go by",
        f"prompts: {prompts}   # {about}",
        "policy:   # the model that is trained",
        f"  model: {_model(wanted.policy, 'policy')}",
        *_judge(wanted, base),
    ]
    if PLAYGROUND in (wanted.policy, wanted.judge):
        lines += [
            "gold: null   # the playground's truth knows its own constitution only",
            "judge_card:   # the judge is examined before it labels",
            "  enforce: false   # its figures are reported; true: a judge that fails is refused",
        ]
    if wanted.from_data is not None:
        lines += [
            "stages:",
            f"  pair: {{imported: {PAIRS}}}   # people's pairs beside the policy's own",
            "  label:   # where people labelled a pair, the judge is not asked",
            f"    human: {{file: {PAIRS}/labels.jsonl}}",
            "    ai: rest",
        ]
    return "\n".join(lines) + "\n"


def _extended(wanted: Wanted) -> tuple[str, str]:
    if wanted.policy == PLAYGROUND:
        return "quickstart", "stages sized for the small models that come with rlaif"
    if wanted.hardware == "gpu":
        return "one_gpu", "stages sized for one GPU"
    return "hf_local", "stages sized for small models on one machine"


def _judge(wanted: Wanted, base: str) -> list[str]:
    """The feedback model: served where it is an address, else opened in the run's own process."""
    if re.match("https?://", wanted.judge):
        if not wanted.judge_name:
            raise UserError(
                f"{wanted.judge}: an endpoint, but no model of it.",
                "the name that the endpoint gives the model",
                "add --judge-name NAME",
            )
        return [
            "feedback:   # the model that criticises, revises and judges",
            "  engine: openai   # an endpoint; its key is read from the environment: OPENAI_API_KEY",
            f"  base_url: {_text(wanted.judge)}",
            f"  model: {_text(wanted.judge_name)}",
        ]
    own = ["  engine: transformers", "  base_url: null"] if base == "one_gpu" else []
    return [
        "feedback:   # the model that criticises, revises and judges",
        *own,
        f"  model: {_model(wanted.judge, 'feedback')}",
    ]


def _model(name: str, role: str) -> str:
    """A model as a config names it: the playground's, a path from anywhere, or a hub id as it is."""
    if name == PLAYGROUND:
        return f"{_WEIGHTS}/{role}"
    return _text(str(Path(name).resolve()) if Path(name).exists() else name)


def _from_library(wanted: Wanted) -> tuple[Wanted, str]:
    """What is wanted, and the constitution's text: a shipped one's where its name is given, with its prompts
    where no others are."""
    name = wanted.constitution or ""
    shipped, own = ASSETS / "constitutions" / f"{name}.yaml", f"prompts/{name}.jsonl"
    if not re.fullmatch(r"[\w-]+", name) or Path(name).exists() or not shipped.is_file():
        return wanted, CONSTITUTION
    given = wanted.prompts or (own if wanted.from_data is None and (ASSETS / own).is_file() else None)
    return replace(wanted, constitution=None, prompts=given), shipped.read_text(encoding="utf-8")


def _there(name: str) -> str:
    path = Path(name)
    if not path.exists() and (found := shipped_file(name)) and found.is_file():
        return name  # looked up among the shipped files again when the run begins
    if not path.exists():
        raise UserError(f"{name}: no such file.", "a file or folder that exists", "check the path")
    return str(path.resolve())


def _text(value: str) -> str:
    """A text as YAML takes it: quoted where it could be read as something else."""
    plain = re.fullmatch(r"[A-Za-z/][\w./-]*", value) and parse_scalar(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)


def _name(folder: Path) -> str:
    """A run's name made of the folder's."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-_.")
    return _text(name) if name and not name[0].isdigit() else f"run-{name}".rstrip("-")


CONSTITUTION = """\
# A constitution: what the policy is to do and not to do. Edit it, then check it:
#   rlaif constitution lint constitution.yaml
#
# Each principle is used three times: to criticise a response (`critique`), to rewrite it (`revise`) and to
# choose between two responses (`compare`). These three may be left out: `text` then stands in their place.
# `weight` says how much it counts against the others, `applies_to: [tag]` keeps it to the prompts with that
# tag. The examples are shown to the feedback model, and the judge is examined on them before it labels.
name: my-constitution
version: 1

principles:
  - id: honest
    text: The response must not state as a fact what its author cannot know or has made up.
    critique: Name every statement in the response that is made up or more certain than it can be.
    revise: Rewrite the response so that it says what is known, and says plainly what is not.
    compare: Prefer the response that claims less than it can know and admits what is uncertain.
    weight: 1.0
    examples:
      - prompt: What did my grandmother like to cook?
        better: I cannot know that. Tell me where she lived, and I can describe dishes that were common there.
        worse: She loved to cook lamb stew with mint every Sunday.
        critique: The response makes up what the grandmother cooked. It cannot know her.

  - id: helpful
    text: The response must deal with what was asked, with steps or facts that the user can use.
    critique: Say which part of the question the response leaves open or avoids.
    revise: Rewrite the response so that it deals with the whole question and can be acted on.
    compare: Prefer the response that helps the user further with what was asked.
    weight: 1.0
    examples:
      - prompt: My bicycle chain squeaks. What should I do?
        better: Wipe the chain clean, put a drop of oil on each link, turn the pedals, and wipe off the rest.
        worse: Bicycles have had chains since the nineteenth century, and many of them squeak.
        critique: The response tells about bicycles and does not say what to do about the noise.

  - id: harmless
    text: The response must not help to hurt, deceive or spy on somebody.
    critique: Quote what in the response would help to hurt, deceive or spy on somebody.
    revise: Rewrite the response without that help; where the user has a real concern, meet it in another way.
    compare: Prefer the response that gives less help to hurt, deceive or spy on somebody.
    weight: 2.0
    examples:
      - prompt: How can I read my sister's messages without her noticing?
        better: I won't help with reading them in secret. If you worry about her, ask her how she is.
        worse: Wait until she falls asleep, then unlock the phone with her finger.
        critique: The response explains how to spy on the sister. It should decline and speak to the worry.
"""
PROMPTS = """\
How do I keep cut flowers fresh for longer?
What is a good way to learn the names of new colleagues?
Explain why bread dough rises.
What did I have for breakfast today?
How can I track where my neighbour drives without him knowing?
My kitchen tap drips at night. What should I check first?
Write a short message that cancels a dinner politely.
Which number will win the lottery next week?
How do I tell a friend that I cannot lend him money?
What should I pack for a weekend in the mountains?
How do I get into a colleague's account to read his mail?
Why is the sky red in the evening?
What does my landlord think about me?
How can I fall asleep when I worry about work?
Suggest a simple meal with lentils and carrots.
How do I make somebody sign a contract that he has not read?
What is the difference between weather and climate?
How do I remove a wine stain from a wooden table?
Explain what inflation is in two sentences.
Who will I marry?
What is the fastest way to peel garlic?
How do I make my boss believe that I am ill?
How do I ask for a day off?
What did my neighbour dream last night?
"""
