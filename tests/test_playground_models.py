"""The playground's models: tokenizer, training bundles, a short rebuild, and the shipped weights' floors."""

import json
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")

from rlaif.playground import FEEDBACK, POLICY, world  # noqa: E402
from rlaif.playground.corpus import FeedbackCorpus, vocabulary_texts  # noqa: E402
from rlaif.playground.grammar import find_question, sample_question, sample_response  # noqa: E402
from rlaif.playground.tokenizer import build_tokenizer  # noqa: E402
from rlaif.playground.training import collate, flatten, loss_of, schedule  # noqa: E402
from rlaif.prompting.chat import render_chat  # noqa: E402
from rlaif.prompting.templates import Templates, user  # noqa: E402
from rlaif.training.raw_text import new_model  # noqa: E402

TEMPLATES = Templates.load("brief")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary_texts(TEMPLATES))


@pytest.fixture(scope="module")
def corpus(tokenizer):
    return FeedbackCorpus(tokenizer, TEMPLATES)


@pytest.mark.parametrize(
    "text", ["Happy to help!", " two  spaces\n\n", "Ünïcode 漢字 🎈", "<b>&amp;</b>", ""]
)
def test_tokenizer_round_trip(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_gives_every_world_word_one_token(tokenizer) -> None:
    rng = Random(0)
    assert len(tokenizer) <= 900
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for _ in range(200):
        response = sample_response(rng, sample_question(rng))
        pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(response)
        assert len(tokenizer(response)["input_ids"]) == len(pieces)


def test_chat_template_marks_the_assistants_tokens(tokenizer) -> None:
    chat = [user("You fool!"), {"role": "assistant", "content": "It is Paris."}]
    out = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    marked = [t for t, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "It is Paris.<|end|>"


def test_bundles_are_what_the_loop_renders(tokenizer, corpus) -> None:
    """A branch behind its prefix is token for token the text that an engine would be given."""
    rng = Random(3)
    for bundle in [corpus.comparison(rng) for _ in range(20)]:
        for branch in bundle.branches:
            assert branch.choice is not None
            text = tokenizer.decode(bundle.prefix + branch.ids[: branch.choice[0]])
            content = text.removeprefix("<|user|>").removesuffix("<|end|><|assistant|>")
            assert (
                tokenizer(render_chat(tokenizer, [user(content)]))["input_ids"]
                == tokenizer(text)["input_ids"]
            )
            assert tokenizer(text)["input_ids"] == bundle.prefix + branch.ids[: branch.choice[0]]


def test_held_out_questions_are_never_trained_on(corpus) -> None:
    rng = Random(5)
    assert not any(corpus.question(rng).held_out for _ in range(300))
    assert 0.05 < sum(sample_question(rng).held_out for _ in range(1000)) / 1000 < 0.15


def test_a_branch_sees_the_prefix_and_itself_only(tokenizer, corpus) -> None:
    """The loss of a bundle equals the weighted loss of its branches run one by one as plain sequences."""
    torch.manual_seed(0)
    model = new_model(tokenizer, layers=2, width=32, inner=48).eval()
    bundle = corpus.comparison(Random(1))
    with torch.no_grad():
        together = loss_of(model, collate([bundle])).item()
        total = weights = 0.0
        for i, branch in enumerate(bundle.branches):
            ids = torch.tensor([bundle.prefix + branch.ids])
            logp = model(ids).logits[0].log_softmax(-1)
            start = len(bundle.prefix)
            rows = [
                (start + j - 1, t, t, 1.0, w)
                for j, (t, w) in enumerate(zip(branch.ids, branch.weights, strict=True))
                if w
            ]
            at, first, second, p = branch.choice
            rows[0] = (start + at - 1, first, second, p, branch.weights[at])
            if i == 0:
                rows += [(j - 1, ids[0, j], ids[0, j], 1.0, w) for j, w in enumerate(bundle.weights) if j]
            total -= sum(w * (p * logp[n, a] + (1 - p) * logp[n, b]).item() for n, a, b, p, w in rows)
            weights += sum(r[-1] for r in rows)
    assert together == pytest.approx(total / weights, rel=1e-4)


def test_flatten_restarts_positions_in_every_branch(corpus) -> None:
    bundle = corpus.response(Random(2))
    _, positions, segments, _ = flatten(bundle)
    starts = [p for i, p in enumerate(positions) if i and segments[i] != segments[i - 1]]
    assert starts == [len(bundle.prefix)] * len(bundle.branches)


def test_schedule_warms_up_and_falls() -> None:
    shares = [schedule(step, 1000) for step in range(1000)]
    assert shares[0] == pytest.approx(0.01, rel=0.01)
    assert max(shares) == pytest.approx(1.0, rel=0.05)
    assert shares[-1] == pytest.approx(0.05, rel=0.01)


def test_shipped_folders_are_small_and_load() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sizes = sum(f.stat().st_size for folder in (POLICY, FEEDBACK) for f in Path(folder).iterdir())
    assert sizes <= 10_000_000
    for folder in (POLICY, FEEDBACK):
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() < 2_000_000
        loaded = AutoTokenizer.from_pretrained(folder)
        assert loaded.eos_token == "<|end|>"
        assert loaded.chat_template


def falls(lines: list[str], name: str) -> bool:
    losses = [float(x.split("loss ")[1].split()[0]) for x in lines if x.startswith(f"{name}: step")]
    return losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_short_rebuild(tmp_path: Path) -> None:
    """A hundredth of the training: losses fall and both folders load in the engine that measures them."""
    from rlaif.playground.builder import build

    lines: list[str] = []
    found = build(tmp_path, seed=1, scale=0.01, progress=lines.append)
    assert falls(lines, "feedback")
    assert "below the floor" in lines[-1]
    assert set(found["measured"]["writing"]) == set(world.KINDS)


@pytest.mark.slow
def test_the_policy_learns_to_end_its_responses(tokenizer) -> None:
    from rlaif.playground.builder import sample_own, train_policy

    lines: list[str] = []
    policy = train_policy(tokenizer, seed=1, scale=0.15, progress=lines.append, fast=False)
    responses = [r for _, pool in sample_own(policy, tokenizer, Random(0), 32) for r in pool]
    assert falls(lines, "policy")
    assert sum(len(tokenizer(r)["input_ids"]) < 48 for r in responses) / len(responses) > 0.9


@pytest.mark.slow
def test_shipped_weights_meet_the_floors() -> None:
    from rlaif.playground.measure import measure, shortfalls, table

    found = measure(n=150, seed=1)
    assert shortfalls(found) == [], table(found)


def test_shipped_critic_and_reviser_on_one_response() -> None:
    """The whole pathway once: a rude response is criticised for rudeness and loses the insult."""
    from rlaif.config import ModelConfig
    from rlaif.engines import GenerateRequest, open_engine
    from rlaif.playground.corpus import rule
    from rlaif.playground.wordings import SEEN

    engine = open_engine(ModelConfig(model=str(FEEDBACK)))
    asked, response = [user("What is the capital of Peru?")], "You fool! The capital of Peru is Lima."
    principle = rule("polite", SEEN["polite"][0])

    def write(messages: list[dict[str, str]]) -> str:
        return next(iter(engine.generate([GenerateRequest(messages, 64, 0.0)])))[1].text

    critique = write(TEMPLATES.critique(asked, response, principle))
    assert world.named_fault(critique) == "polite"
    revised = write(TEMPLATES.revision(asked, response, principle, critique))
    assert world.keeps("polite", find_question(asked), revised)
    assert world.keeps("honest", find_question(asked), revised)
