"""Every odd tokenizer and chat template of the zoo: what it encodes, and what is refused in which words."""

from pathlib import Path

import pytest

from rlaif.engines.loading import load_causal_lm, load_tokenizer
from rlaif.errors import UserError
from rlaif.prompting.chat import encode_chat, encode_turn, end_of_turn, has_chat_template
from rlaif.prompting.templates import user
from tests import zoo

EACH = pytest.mark.parametrize("model", zoo.MODELS, ids=lambda m: m.name)


def chat_of(model: zoo.Model) -> list[dict[str, str]]:
    """A prompt that the model's template takes."""
    return [*([{"role": "system", "content": model.system}] if model.system else []), user(zoo.PROMPTS[0])]


def added(tokenizer, ids: list[int]) -> list[str]:
    """The added tokens among these."""
    return [t for t in tokenizer.convert_ids_to_tokens(ids) if t in tokenizer.get_added_vocab()]


@EACH
def test_a_prompt_begins_once_and_does_not_end(model: zoo.Model, tmp_path: Path):
    tokenizer = load_tokenizer(zoo.build(model, tmp_path / "model"), model.switches)
    ids = encode_chat(tokenizer, chat_of(model))
    starts = model.before or ("<s>" if "bos_token" in str(model.template) else None)
    assert (
        ids.count(tokenizer.convert_tokens_to_ids(starts)) == 1
        if starts
        else "<s>" not in added(tokenizer, ids)
    )
    assert not starts or ids[0] == tokenizer.convert_tokens_to_ids(starts)
    assert ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(ids).endswith(("assistant|>", "Assistant:", "assistant\n", "</think>"))
    assert max(ids) < load_causal_lm(tmp_path / "model", "cpu").config.vocab_size
    assert tokenizer.pad_token_id < load_causal_lm(tmp_path / "model", "cpu").config.vocab_size


@EACH
def test_a_row_to_train_on_is_the_prompt_the_response_and_its_end(model: zoo.Model, tmp_path: Path):
    tokenizer = load_tokenizer(zoo.build(model, tmp_path / "model"), model.switches)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == model.end
    prompt, response = encode_turn(tokenizer, chat_of(model), "Be kind.", end_of_turn(tokenizer))
    assert prompt == encode_chat(tokenizer, chat_of(model))
    assert added(tokenizer, response) == [model.end]
    assert response[-1] == end_of_turn(tokenizer)
    assert tokenizer.decode(response, skip_special_tokens=True).strip() == "Be kind."
    assert has_chat_template(tokenizer) == bool(model.template)


@pytest.mark.parametrize("model", zoo.REFUSED, ids=lambda m: m.name)
def test_a_model_that_cannot_work_is_refused_with_the_reason(model: zoo.Model, tmp_path: Path):
    folder = zoo.build(model, tmp_path / "model")
    with pytest.raises(UserError, match=model.refused):
        load_tokenizer(folder)
