"""Log-probabilities are of the tokens that were sampled; a text that does not give its tokens again is left
out."""

import pytest
import torch

from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest
from rlaif.engines.loading import eos_ids, load_causal_lm, load_tokenizer
from rlaif.engines.transformers import TransformersEngine
from rlaif.prompting.chat import encode_chat, encode_turn, end_of_turn
from rlaif.prompting.turns import measured_tokens, sampled_tokens, turn_of
from rlaif.records import Evaluation, Prompt, Response, Revision, decode_tokens, encode_tokens
from rlaif.stages import evaluate, sft
from rlaif.stages.evaluate import Tools, rates
from rlaif.training.examples import tokenise
from rlaif.training.pairs import encoder
from tests.tiny_models import hand_made_run, prompts_of, tiny_policy


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base policy and another one, which has a second token to end with, named before the one that ends a
    turn."""
    folder = tmp_path_factory.mktemp("models")
    base, policy = tiny_policy(folder / "base"), tiny_policy(folder / "policy", seed=1)
    model = load_causal_lm(policy, "cpu")
    model.generation_config.eos_token_id = [3, 1]
    model.save_pretrained(policy)
    return base, policy


@pytest.fixture(scope="module")
def sampled(folders):
    """40 prompts and a response to each, sampled at 0.7, few of whose texts give their tokens again."""
    engine = TransformersEngine(ModelConfig(model=str(folders[1]), device="cpu"))
    prompts = [
        Prompt(messages=({"role": "user", "content": f"tell me about number {n}"},)) for n in range(40)
    ]
    made = dict(engine.generate([GenerateRequest(p.chat, 24, 0.7, seed=n) for n, p in enumerate(prompts)]))
    rows = [
        Response(prompt_id=p.id, text=g.text, finish_reason=g.finish_reason, token_ids=g.token_ids)
        for p, g in ((p, made[n]) for n, p in enumerate(prompts))
    ]
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    assert (
        len(
            {ids[-1] for row in rows if row.finish_reason == "stop" and (ids := decode_tokens(row.token_ids))}
        )
        == 2
    )
    return prompts, rows


def tools(folders) -> Tools:
    config = ModelConfig(model=str(folders[0]), device="cpu")
    return Tools(None, config, str(folders[0]), {})  # type: ignore[arg-type]


def by_hand(folders, prompts, rows, temperature):
    """(exact KL, log-ratio) of each response at its sampled tokens, from whole logits of one unpadded row at
    a time."""
    tokenizer, found = load_tokenizer(folders[1]), []
    models = [load_causal_lm(folder, "cpu") for folder in (folders[1], folders[0])]
    for prompt, row in zip(prompts, rows, strict=True):
        start, ids = encode_chat(tokenizer, prompt.chat), decode_tokens(row.token_ids)
        with torch.no_grad():
            own, other = (
                (m(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1] / temperature)
                .double()
                .log_softmax(-1)
                for m in models
            )
        ratio = (own - other).gather(1, torch.tensor(ids)[:, None]).sum()
        found.append((float((own.exp() * (own - other)).sum()), float(ratio)))
    return zip(*found, strict=True)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_divergence_is_that_of_the_sampled_tokens_at_the_temperature(folders, sampled, temperature):
    exact, ratio = by_hand(folders, *sampled, temperature)
    assert tools(folders).divergence(folders[1], *sampled, temperature) == pytest.approx(exact, rel=1e-4)
    found = tools(folders).divergence(folders[1], *sampled, temperature, exact=False)
    assert found == pytest.approx(ratio, rel=1e-3, abs=1e-4)


def test_which_end_token_is_named_first_changes_nothing(folders, sampled, tmp_path):
    other = tiny_policy(tmp_path / "policy", seed=1)
    assert eos_ids(load_causal_lm(other, "cpu"), load_tokenizer(other))[0] != 3
    one = tools(folders).divergence(folders[1], *sampled, 1.0, exact=False)
    assert tools(folders).divergence(other, *sampled, 1.0, exact=False) == pytest.approx(one, abs=1e-5)


def test_texts_from_elsewhere_are_closed_by_what_ends_the_turn_or_left_out(folders, monkeypatch):
    tokenizer, prompt = load_tokenizer(folders[1]), Prompt(messages=({"role": "user", "content": "tell me"},))
    end = end_of_turn(tokenizer)
    good = Response(prompt_id=prompt.id, text="thanks it is good")
    ids = measured_tokens(tokenizer, prompt.chat, good)
    assert ids is not None
    assert (ids[-1], ids.count(end)) == (end, 1)
    cut = measured_tokens(tokenizer, prompt.chat, good.model_copy(update={"finish_reason": "length"}))
    assert cut == ids[:-1]
    control = Response(
        prompt_id=prompt.id, text="it is <|end|> good"
    )  # its own token is never written as text
    found = tools(folders).divergence(folders[1], [prompt] * 3, [good, control, good], 1.0)
    assert found[0] == pytest.approx(found[2])
    assert found[1] is None
    rows = [
        Evaluation(policy="p", prompt_id=str(n), response_id=good.id, kl=kl) for n, kl in enumerate(found)
    ]
    prompts = {str(n): prompt for n in range(3)}
    figures = rates(rows, {good.id: good}, prompts)
    assert figures["kl_left_out"] == 1
    assert figures["kl"] == pytest.approx(found[0])
    assert rates(rows[1:2], {good.id: good}, prompts)["kl"] is None


def test_tokens_that_do_not_spell_the_text_are_not_used(folders, sampled):
    tokenizer, (prompts, rows) = load_tokenizer(folders[1]), sampled
    assert all(sampled_tokens(tokenizer, row) == decode_tokens(row.token_ids) for row in rows)
    edited = rows[0].model_copy(update={"text": rows[0].text + "!"})
    foreign = rows[0].model_copy(update={"token_ids": encode_tokens([len(tokenizer) + 5, 1])})
    for row in (edited, foreign, rows[0].model_copy(update={"token_ids": None})):
        assert sampled_tokens(tokenizer, row) is None
        assert (
            turn_of(tokenizer, prompts[0].chat, row)[1][:-1]
            == encode_turn(tokenizer, prompts[0].chat, row.text, 1 if row.finish_reason == "stop" else None)[
                1
            ][:-1]
        )


def test_what_is_trained_on_are_the_sampled_tokens_closed_by_what_ends_the_turn(folders, sampled, tmp_path):
    policy = folders[1]
    tokenizer, (_, rows) = load_tokenizer(policy), sampled
    stage = hand_made_run(tmp_path / "run", policy, {"stage": "sft"}, prompts=40)
    prompts = prompts_of(stage)
    wanted = []
    for prompt, row in zip(prompts, rows, strict=True):
        ids = decode_tokens(row.token_ids)
        inner, end = (ids[:-1], [1]) if row.finish_reason == "stop" else (ids, [])
        if set(inner) & set(
            tokenizer.all_special_ids
        ):  # a random model writes such tokens; nobody has read them
            inner = encode_turn(tokenizer, prompt.chat, row.text, None)[1]
        inner, end = (ids[:-1], [1]) if row.finish_reason == "stop" else (ids, [])
        if any(
            i in tokenizer.added_tokens_decoder for i in inner
        ):  # a random model writes such; nobody has read them
            inner = encode_turn(tokenizer, prompt.chat, row.text, None)[1]
        wanted.append(encode_chat(tokenizer, prompt.chat) + inner + end)
    stage.run.stages[0].rows("responses", Response).append(rows)
    stage.run.stages[1].rows("revisions", Revision).append(
        [
            Revision(
                prompt_id=row.prompt_id,
                round=1,
                principle_id="kind",
                from_id=row.id,
                to_id=row.id,
                critique="c",
                status="unchanged",
            )
            for row in rows
        ]
    )
    said = [n for n, row in enumerate(rows) if row.text]
    trained = sft._training_rows(stage, tokenizer, 64)[0]
    assert [row["input_ids"] for row in trained] == [wanted[n] for n in said]
    kept = tokenise(stage, tokenizer, list(zip(prompts, rows, strict=True)), 64)
    assert [row["input_ids"] for row in kept] == [wanted[n] for n in said]
    encode = encoder(tokenizer, stage.prompts_by_id())
    assert [encode(row)[0] for row in rows] == wanted
    texts = [encode_turn(tokenizer, p.chat, row.text, None)[1] for p, row in zip(prompts, rows, strict=True)]
    assert any(
        text != decode_tokens(row.token_ids)[: len(text)] for text, row in zip(texts, rows, strict=True)
    )


def test_greedy_answers_are_measured_at_temperature_one(folders, tmp_path):
    stage = hand_made_run(tmp_path / "run", folders[1], {"stage": "evaluate", "temperature": 0.0})
    assert evaluate.kl_temperature(stage) == 1.0
    stage = hand_made_run(tmp_path / "other", folders[1], {"stage": "evaluate", "temperature": 0.7})
    assert evaluate.kl_temperature(stage) == 0.7
