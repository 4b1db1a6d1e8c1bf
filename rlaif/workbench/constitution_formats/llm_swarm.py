"""The constitutions of Hugging Face's llm-swarm: critic and revision requests, and few-shot chats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlaif.constitution import Constitution, Example, Principle
from rlaif.workbench.constitution_formats.anthropic import REQUESTED, WRITTEN, critique_of, revise_of
from rlaif.workbench.constitution_formats.document import Document, Ids, as_json
from rlaif.workbench.constitution_formats.format import Format, Read, kept_by, loses, source, without

ROLES = ("user", "assistant") * 3
Pair = tuple[str, str]


def _is_swarm(document: Document) -> bool:
    return isinstance(document.value, dict) and "constitutions" in document.value


def _read(document: Document) -> Read:
    read, ids = Read(), Ids()
    value = document.objects((), document.value)
    examples, others = _examples(document, value)
    for index, row in enumerate(document.lists(("constitutions",), value.get("constitutions"))):
        loc = ("constitutions", index)
        row = document.objects(loc, row)
        pair = document.required(loc, row, "critic"), document.required(loc, row, "revision")
        if not pair[1].strip():
            read.drop("an empty revision request")
            continue
        kept = {name: part for name, part in row.items() if name not in ("critic", "revision")}
        read.add(
            document.principle(
                document.line(loc),
                id=ids.made(pair[1]),
                text=pair[1],
                critique=pair[0],
                revise=pair[1],
                examples=tuple(examples.pop(pair, ())),
                source=source(document, "llm-swarm", f"/constitutions/{index}", kept=kept),
            )
        )
    others += [_chat(pair, example) for pair, left in examples.items() for example in left]
    read.kept = {name: part for name, part in value.items() if name not in ("constitutions", "system_chat")}
    read.kept |= {"system_chat": others} if others else {}
    return read


def _examples(document: Document, value: dict[str, Any]) -> tuple[dict[Pair, list[Example]], list[Any]]:
    """The chats that show a critique and a revision, by the requests in them, and those of another shape."""
    examples, others = dict[Pair, list[Example]](), list[Any]()
    for index, chat in enumerate(document.lists(("system_chat",), value.get("system_chat", []))):
        loc = ("system_chat", index)
        turns = document.lists(loc, chat)
        texts = []
        for number, turn in enumerate(turns):
            turn = document.objects((*loc, number), turn)
            texts.append(document.required((*loc, number), turn, "content"))
            document.required((*loc, number), turn, "role")
        plain = all(set(turn) == {"role", "content"} for turn in turns)
        if plain and tuple(turn["role"] for turn in turns) == ROLES:
            prompt, worse, critic, critique, revision, better = texts
            example = Example(prompt=prompt, worse=worse, better=better, critique=critique)
            examples.setdefault((critic, revision), []).append(example)
        else:
            others.append(chat)
    return examples, others


def _chat(pair: Pair, example: Example) -> list[dict[str, str]]:
    texts = (example.prompt, example.worse, pair[0], example.critique or "", pair[1], example.better)
    return [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)]


def _chats(principles: tuple[Principle, ...]) -> Iterator[Any]:
    for principle in principles:
        for example in principle.examples:
            if example.critique is not None:
                yield _chat((critique_of(principle), revise_of(principle)), example)


def _write(constitution: Constitution) -> str:
    kept = kept_by(constitution, "llm-swarm")
    others = kept.get("system_chat")
    chats = [*_chats(constitution.principles), *(others if isinstance(others, list | tuple) else ())]
    rows = [
        {"critic": critique_of(p), "revision": revise_of(p), **kept_by(p, "llm-swarm")}
        for p in constitution.principles
    ]
    return as_json({"constitutions": rows, **kept, "system_chat": chats}) + "\n"


LLM_SWARM = Format(
    name="llm-swarm",
    is_what="critic and revision requests with few-shot chats, as in Hugging Face's llm-swarm (JSON)",
    suffix=".json",
    recognise=_is_swarm,
    read=_read,
    write=_write,
    cannot_keep=without(
        text=REQUESTED,
        critique=WRITTEN,
        revise=WRITTEN,
        id="the format has none; on the way in, ids are made of the texts",
        examples="a chat shows a critique: examples without one are left out, and where two principles have "
        "the same requests the first gets the examples of both",
    ),
    loses=loses(),
    note="the format has no rule for a judge: `text` is the revision request; write a rule before judging",
)
