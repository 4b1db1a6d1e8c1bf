"""The tokenizer's side: the one place where a chat template is applied, and where text becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from rlaif.errors import UserError
from rlaif.prompting import chat_templates, defences
from rlaif.prompting.templates import assistant, user

_MARK = "\u241frlaif\u241f"
HUMAN_STOP = "\n\nHuman:"
_SAID = 120  # characters of what a chat template says that a reason keeps


class TemplateRefused(UserError):
    """A conversation that a chat template does not take: one row's trouble where the template takes
    others."""

    def __init__(self, said: str, found: str, need: str, next: str) -> None:
        super().__init__(found, need, next)
        self.said = said

    @property
    def reason(self) -> str:
        """What a dropped row is counted as."""
        return refused_by_template(self.said)


def refused_by_template(said: str) -> str:
    """The reason under which a row is dropped whose conversation a chat template does not take."""
    return f"refused by the chat template: {said}"


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer brings a chat template; without one, plain Human/Assistant turns are used."""
    return bool(getattr(tokenizer, "chat_template", None))


def render_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """Messages as the text a model continues with the assistant's response; what they contain opens no turn.

    A tokenizer without a template gets "Human: … Assistant:" turns. Raises UserError where the template
    refuses.
    """
    control = control_of(tokenizer)
    return _templated(
        tokenizer, [{**m, "content": control.break_control_tokens(m["content"])} for m in messages]
    )


@lru_cache(maxsize=32)
def control_of(tokenizer: Any) -> defences.Control:
    """What a model takes for control: the special tokens of its tokenizer and what its chat template
    writes."""
    turns = [user(defences.PROBE), assistant(defences.PROBE), user(defences.PROBE)]
    try:
        return defences.Control.of(tokenizer, _templated(tokenizer, turns))
    except UserError:  # a template that takes one turn only; what it refuses for good is said when it is used
        return defences.Control.of(tokenizer, "")


@lru_cache(maxsize=32)
def _special(tokenizer: Any) -> defences.Control:
    return defences.Control.of(tokenizer)


def _templated(tokenizer: Any, messages: Sequence[dict[str, str]], generation: bool = True) -> str:
    """The only place where a chat template is applied; one that demands a system turn gets an empty one."""
    if not has_chat_template(tokenizer):
        names = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
        return "".join(names[m["role"]] + m["content"] for m in messages) + "\n\nAssistant:"
    template = _template(tokenizer)
    values = {**getattr(tokenizer, "special_tokens_map", {}), **chat_template_kwargs(tokenizer)}
    try:
        return chat_templates.render(template, messages, generation, values)
    except Exception as error:  # templates are arbitrary programs: any error of theirs is the user's to fix
        if messages[0]["role"] != "system" and not isinstance(error, chat_templates.TooMuch):
            with suppress(Exception):
                opened = [{"role": "system", "content": ""}, *messages]
                return chat_templates.render(template, opened, generation, values)
        roles, said = ", ".join(m["role"] for m in messages), str(error).rstrip(".") or type(error).__name__
        raise TemplateRefused(
            said.split("\n")[0][:_SAID],
            f"{_name(tokenizer)}: its chat template fails on our messages ({roles}): {said}.",
            "a template that takes these roles in this order",
            "fix chat_template in the tokenizer's folder, or use prompts without a system turn",
        ) from None


def _template(tokenizer: Any) -> str:
    """The source of a tokenizer's chat template, of several the default."""
    template = tokenizer.chat_template
    if not isinstance(template, dict):
        return template
    if "default" not in template:
        names = ", ".join(sorted(template))
        raise UserError(
            f"{_name(tokenizer)}: its chat templates are named {names}, none of them default.",
            'one template, or one named "default"',
            "save the one to use as chat_template.jinja in the tokenizer's folder",
        )
    return template["default"]


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "the tokenizer")


def chat_template_kwargs(tokenizer: Any) -> dict[str, Any]:
    """What a config hands to this tokenizer's chat template, such as `enable_thinking`; saved and loaded with
    it."""
    found = getattr(tokenizer, "init_kwargs", {}).get("chat_template_kwargs")
    return found if isinstance(found, dict) else {}


def token_ids(tokenizer: Any, text: str, start: bool = False) -> list[int]:
    """The only place where text becomes tokens: nothing special is added, but with `start` what opens a text
    (BOS).

    Tokenizers that add an end of their own (`add_eos_token`) add it where nothing ends.
    """
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*_start(tokenizer), *ids] if start else ids


@lru_cache(maxsize=32)
def _start(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that a tokenizer puts before a text by itself."""
    bare, whole = token_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    places = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
    return tuple(whole[: places[0]]) if places else ()


def encode_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of `render_chat`; a template brings its own BOS, plain turns get the tokenizer's."""
    return token_ids(tokenizer, render_chat(tokenizer, messages), start=not has_chat_template(tokenizer))


def split_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> tuple[str, str]:
    """(prefix, tail): the rendered text around the end of the last turn, where a principle's suffix goes
    in."""
    marked = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + _MARK}]
    prefix, mark, tail = render_chat(tokenizer, marked).rpartition(_MARK)
    if not mark:
        raise UserError(
            "the chat template does not reproduce the last user turn.", "a template that shows every turn"
        )
    return prefix, tail


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that ends an assistant turn: the added one its chat template writes there, otherwise EOS."""
    if has_chat_template(tokenizer):
        after = _templated(tokenizer, [user("?"), assistant(_MARK)], generation=False).rpartition(_MARK)[2]
        ids = token_ids(tokenizer, after)
        added = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
        if added and added.content.strip():
            return ids[0]
    return tokenizer.eos_token_id


def turn_tokens(tokenizer: Any, generation: bool = False) -> set[int]:
    """The added tokens, special or not, that a user's turn is made of; with `generation` what opens an
    answer, too."""
    ids = token_ids(tokenizer, _templated(tokenizer, [user("?")], generation))
    return {
        i
        for i in ids
        if i in tokenizer.added_tokens_decoder and tokenizer.added_tokens_decoder[i].content.strip()
    }


def encode_response(tokenizer: Any, response: str) -> list[int]:
    """Token ids of a response on its own, none of them special: a model writes those as tokens, never as
    text."""
    return token_ids(tokenizer, _special(tokenizer).break_control_tokens(response))


def encode_turn(
    tokenizer: Any, messages: Sequence[dict[str, str]], response: str, end: int | None
) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids) of a conversation and its response, the prompt exactly as `encode_chat`
    gives it.

    `end` closes the response where the model ended it itself (see `end_of_turn`); None leaves it open.
    """
    templated = has_chat_template(tokenizer)
    prompt = encode_chat(tokenizer, messages)
    # Plain "Assistant:" turns go on with a space, as such text does.
    gap = "" if templated or not response or response[0].isspace() else " "
    whole = render_chat(tokenizer, messages) + gap + _special(tokenizer).break_control_tokens(response)
    ids = token_ids(tokenizer, whole, start=not templated)
    # Where the boundary merged into one token, the response stands alone: sampling would not have merged it.
    ids = ids[len(prompt) :] if ids[: len(prompt)] == prompt else encode_response(tokenizer, gap + response)
    return prompt, ids + ([end] if end is not None else [])
