"""The in-process engine: what it writes and reads, alone and in batches, with and without a chat template."""

from pathlib import Path

import pytest
import torch

from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest
from rlaif.engines.decoding import Draws, left_pad, positions, sample
from rlaif.engines.loading import eos_ids
from rlaif.engines.transformers import TransformersEngine, batches, choice_tokens, continuation_ids
from rlaif.errors import UserError
from rlaif.prompting.chat import HUMAN_STOP, encode_chat
from rlaif.prompting.templates import user
from rlaif.records import decode_tokens
from rlaif.runs.storage import _pieces, folder_hash
from tests.tiny_models import tiny_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("engine") / "policy")


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(ModelConfig(model=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def stories(test_data: Path) -> TransformersEngine:
    return TransformersEngine(ModelConfig(model=str(test_data / "models" / "stories260K_hf"), device="cpu"))


def asks(count: int, **options) -> list[GenerateRequest]:
    """Requests of different lengths, a seed each."""
    chats = [[user("tell me about" + " good weather" * (n % 5))] for n in range(count)]
    return [GenerateRequest(chat, **{"max_tokens": 12, "seed": n} | options) for n, chat in enumerate(chats)]


def test_a_text_does_not_depend_on_its_batch(engine: TransformersEngine):
    requests = asks(12)
    together = dict(engine.generate(requests))
    alone = [dict(engine.generate([r]))[0] for r in requests]
    backwards = dict(engine.generate(requests[::-1]))
    assert [together[i] for i in range(12)] == alone == [backwards[11 - i] for i in range(12)]
    assert len({g.text for g in alone}) > 6


def test_small_batches_change_nothing(engine: TransformersEngine, folder: Path):
    narrow = TransformersEngine(ModelConfig(model=str(folder), device="cpu", batch_tokens=64))
    requests = asks(12)
    assert dict(narrow.generate(requests)) == dict(engine.generate(requests))


def test_greedy_takes_the_likeliest_token_whatever_the_seed(engine: TransformersEngine):
    first, second = (dict(engine.generate(asks(1, temperature=0.0, seed=s)))[0] for s in (1, 2))
    assert first == second
    ids = encode_chat(engine.tokenizer, asks(1)[0].messages)
    with torch.no_grad():
        for _ in range(first.tokens):
            ids.append(int(engine.model(torch.tensor([ids])).logits[0, -1].argmax()))
    written = ids[-first.tokens :]
    assert engine.tokenizer.decode(written, skip_special_tokens=True).strip() == first.text


def test_the_sampled_tokens_are_kept(folder: Path):
    engine = TransformersEngine(ModelConfig(model=str(folder), device="cpu"))
    ends = list(range(0, len(engine.tokenizer), 7))
    engine.model.generation_config.eos_token_id = ends
    requests = asks(40)
    made = dict(engine.generate(requests))
    assert {g.finish_reason for g in made.values()} == {"stop", "length"}
    for index, generation in made.items():
        ids = decode_tokens(generation.token_ids)
        assert len(ids) == generation.tokens
        assert (ids[-1] in eos_ids(engine.model, engine.tokenizer)) == (generation.finish_reason == "stop")
        prompt = encode_chat(engine.tokenizer, requests[index].messages)
        draws = Draws.of([requests[index]], torch.device("cpu"))
        with torch.no_grad():
            logits = engine.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        drawn = [
            int(sample(row[None], draws.temperature, draws.top_p, draws.uniform[:, step]))
            for step, row in enumerate(logits)
        ]
        assert drawn == ids  # the draws of the request's seed give these tokens again
    texts = [engine.tokenizer(g.text, add_special_tokens=False)["input_ids"] for g in made.values()]
    assert any(
        text != decode_tokens(g.token_ids)[: len(text)] for text, g in zip(texts, made.values(), strict=True)
    )


def test_it_ends_at_any_end_token_and_at_max_tokens(folder: Path):
    engine = TransformersEngine(ModelConfig(model=str(folder), device="cpu"))
    engine.model.generation_config.eos_token_id = list(range(0, len(engine.tokenizer), 2))
    made = dict(engine.generate(asks(40)))
    stopped = [g for g in made.values() if g.finish_reason == "stop"]
    assert len(stopped) > 30  # every other token ends the text
    assert all(g.tokens <= 12 for g in made.values())
    assert all(g.tokens == 12 for g in made.values() if g.finish_reason == "length")


def test_a_prompt_that_does_not_fit_is_never_cut(engine: TransformersEngine):
    long = GenerateRequest([user("weather " * 80)], 8)
    room = GenerateRequest([user("weather")], 64)  # the prompt fits, the answer's length does not
    made = dict(engine.generate([long, *asks(1), room]))
    assert [made[i].finish_reason for i in range(3)][::2] == ["too_long", "too_long"]
    assert made[0].text == ""
    assert made[0].prompt_tokens > 64
    scores = dict(engine.score_choices([ScoreRequest([user("weather " * 80)], ("a", "b"), ("good", "bad"))]))[
        0
    ]
    assert scores.too_long
    assert not scores.readable(0)


def test_usage_counts_calls_and_tokens(folder: Path):
    engine = TransformersEngine(ModelConfig(model=str(folder), device="cpu"))
    made = dict(engine.generate(asks(5)))
    assert engine.usage.calls == 5
    assert engine.usage.tokens == sum(g.tokens for g in made.values())
    list(engine.score_choices([ScoreRequest([user("it is ")], ("sunny", "rain", "cold"), ("good", "bad"))]))
    assert engine.usage.calls == 8


def reference(engine: TransformersEngine, text: str, ids: list[list[int]]) -> list[float]:
    """Summed probabilities of token lists after a chat whose last turn is `text`, by one plain forward."""
    prompt = torch.tensor([encode_chat(engine.tokenizer, [user(text)])])
    with torch.no_grad():
        probs = engine.model(prompt).logits[0, -1].double().softmax(-1)
    return [float(probs[columns].sum()) for columns in ids]


def test_scores_equal_a_plain_forward(engine: TransformersEngine):
    texts = ["it is good", "thanks it is bad and rude today please"]
    suffixes = (" sunny", " rain and cold", " tell me")
    requests = [ScoreRequest([user(t)], suffixes, ("tell", "thanks")) for t in texts]
    columns = choice_tokens(engine.tokenizer, ("tell", "thanks"))
    assert all(len(ids) == 2 for ids in columns)  # with and without the leading space
    for index, scores in engine.score_choices(requests):
        for place, suffix in enumerate(suffixes):
            plain = reference(engine, texts[index] + suffix, list(columns))
            assert torch.tensor(scores.logprobs[place]).exp().tolist() == pytest.approx(plain, abs=1e-5)
            assert scores.answer_mass(place) == pytest.approx(sum(plain), abs=1e-5)
    assert engine.notes == []


def test_scores_do_not_change_without_sharing(engine: TransformersEngine, folder: Path):
    plain = TransformersEngine(ModelConfig(model=str(folder), device="cpu"))
    plain.shared_limit = 0
    texts = ["it is good", "thanks it is bad and rude today please", "rain"]
    requests = [
        ScoreRequest([user(t)], (" sunny", " cold and warm")[: n % 2 + 1], ("Yes", "No"))
        for n, t in enumerate(texts)
    ]
    shared, whole = dict(engine.score_choices(requests)), dict(plain.score_choices(requests))
    for index in range(3):
        for a, b in zip(shared[index].logprobs, whole[index].logprobs, strict=True):
            assert a == pytest.approx(b, abs=1e-4)


def test_a_bare_question_has_an_answer_position(engine: TransformersEngine):
    engine_scores = dict(engine.score_choices([ScoreRequest([user("it is")], ("",), ("good", "bad"))]))[0]
    columns = choice_tokens(engine.tokenizer, ("good", "bad"))
    plain = reference(engine, "it is", list(columns))
    assert torch.tensor(engine_scores.logprobs[0]).exp().tolist() == pytest.approx(plain, abs=1e-5)


def test_answers_that_begin_alike_are_refused(engine: TransformersEngine):
    with pytest.raises(UserError, match='"weathers" cannot be told from'):
        choice_tokens(engine.tokenizer, ("weathers", "weatherly", "w"))


def test_choices_of_several_tokens_are_told_by_their_first(engine: TransformersEngine):
    # None of these words is in the vocabulary: they are spelt in bytes, the spaced form beginning with the
    # space.
    zebra, quagga = choice_tokens(engine.tokenizer, ("zebra", "quagga"))
    assert zebra == [engine.tokenizer.convert_tokens_to_ids("z")]
    assert quagga == [engine.tokenizer.convert_tokens_to_ids("q")]


def test_sample_follows_the_distribution():
    # Probabilities 0.1, 0.2, 0.3, 0.4: the inverse CDF maps evenly spread numbers to exactly those shares.
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(1000, 4)
    ones, even = torch.ones(1000), (torch.arange(1000) + 0.5) / 1000
    drawn = sample(logits, ones, ones, even)
    assert torch.bincount(drawn).tolist() == [100, 200, 300, 400]
    nucleus = sample(logits, ones, torch.full((1000,), 0.65), even)  # 0.4 and 0.3 hold 0.7 ≥ 0.65
    assert torch.bincount(nucleus, minlength=4).tolist() == pytest.approx([0, 0, 429, 571], abs=1)
    # At T = 0.5 probabilities are squared and renormalised: 1, 4, 9, 16 of 30.
    cold = sample(logits, ones * 0.5, ones, even)
    assert torch.bincount(cold).tolist() == pytest.approx([33, 133, 300, 533], abs=1)


def test_sample_at_the_edges():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]]).expand(3, 4)
    last = sample(logits, torch.tensor([1.0, 1.0, 0.0]), torch.ones(3), torch.tensor([0.0, 1.0, 0.0]))
    assert last.tolist() == [0, 1, 1]  # never a token without mass; temperature 0 ignores the number


def test_left_padding_and_positions():
    ids, mask = left_pad([[5], [6, 7, 8]], 0, torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert positions(mask).tolist() == [[0, 0, 0], [0, 1, 2]]


def test_batches_are_sorted_and_bounded():
    made = list(batches([3, 9, 4, 4, 100], lambda n: n, 12))
    assert made == [[100], [9], [4, 4, 3]]


def test_the_fingerprint_is_of_content_not_of_place(folder: Path, tmp_path: Path):
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "policy"))
    assert folder_hash(copy) == folder_hash(folder)
    one, other = (
        TransformersEngine(ModelConfig(model=str(f), device="cpu")).fingerprint for f in (folder, copy)
    )
    assert one == other
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert folder_hash(copy) != folder_hash(folder)


def test_large_weights_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(300_000))
    monkeypatch.setattr("rlaif.runs.storage._SAMPLED", 1000)
    pieces = list(_pieces(file))
    assert len(pieces) == 257
    assert len(pieces[0]) == len(pieces[-1]) == 65536


def test_a_recurrent_model_is_refused_with_a_way_out(folder: Path, tmp_path: Path):
    import shutil

    from transformers import MambaConfig, MambaForCausalLM

    copy = Path(shutil.copytree(folder, tmp_path / "mamba"))
    MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1)).save_pretrained(copy)
    engine = TransformersEngine(ModelConfig(model=str(copy), device="cpu"))
    with pytest.raises(UserError, match="engine: openai"):
        list(engine.generate(asks(1)))


def test_a_base_model_without_a_template(stories: TransformersEngine):
    assert len(stories.notes) == 1
    assert "no chat template" in stories.notes[0]
    requests = [GenerateRequest([user("Once upon a time" + " there was" * n)], 24, seed=n) for n in range(6)]
    together = dict(stories.generate(requests))
    assert [dict(stories.generate([r]))[0] for r in requests] == [together[i] for i in range(6)]
    assert all(HUMAN_STOP not in g.text and g.text == g.text.strip() for g in together.values())


def test_a_human_turn_ends_a_text(stories: TransformersEngine):
    ids = continuation_ids(stories.tokenizer, " A dog.\n\nHuman: more")
    made = stories._finish(ids, False, 5)
    assert (made.text, made.finish_reason) == ("A dog.", "stop")
    kept = decode_tokens(made.token_ids)
    assert kept == ids[: len(kept)]
    assert len(kept) == made.tokens
    assert stories.tokenizer.decode(kept).endswith(
        "Human:"
    )  # all that was sampled of the turn and of its end
    assert stories._stopped(ids)
    assert not stories._stopped(ids[:4])


def test_continuations_bring_no_space_of_their_own(stories: TransformersEngine):
    tokenizer = stories.tokenizer
    whole = tokenizer("Once upon a time")["input_ids"]
    assert tokenizer("Once", add_special_tokens=False)["input_ids"] != continuation_ids(tokenizer, "Once")
    assert tokenizer.decode(whole + continuation_ids(tokenizer, ".")).endswith("time.")


def test_real_scores_equal_a_plain_forward(stories: TransformersEngine):
    text, suffixes = "Lily has a cat. Tom has a dog.", ("\nWho is happy?", "\nWho has the dog, A or B?")
    request = ScoreRequest([user(text)], suffixes, ("A", "B"))
    scores = dict(stories.score_choices([request]))[0]
    columns = list(choice_tokens(stories.tokenizer, ("A", "B")))
    for place, suffix in enumerate(suffixes):
        plain = reference(stories, text + suffix, columns)
        assert torch.tensor(scores.logprobs[place]).exp().tolist() == pytest.approx(plain, abs=1e-5)
