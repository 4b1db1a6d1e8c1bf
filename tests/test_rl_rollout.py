"""Sampling and reading back: what is sampled is what is scored, whatever the padding, caching and
batching."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlaif.rl.episodes import FORWARD_COST, join, micro_batches
from rlaif.rl.forward import final_scores, has_plain_head, response_final, response_logits, response_values
from rlaif.rl.rollout import SPAN, draw, rollout

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.5,
}
PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14], [15, 16]]


def llama(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval()


def gemma():
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=4)).eval()


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.5)
    ).eval()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def greedy_alone(model, prompt, steps, eos):
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in eos:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("make", [llama, gemma, gpt2])
def test_a_padded_cached_batch_writes_what_each_prompt_alone_would(make):
    model = make()
    eos = (greedy_alone(model, PROMPTS[0], 3, ())[-1], greedy_alone(model, PROMPTS[2], 6, ())[-1])
    episodes = rollout(model, PROMPTS, 12, 1e-6, eos, 0, seeded())
    alone = [greedy_alone(model, prompt, 12, eos) for prompt in PROMPTS]
    assert episodes.responses() == alone
    assert episodes.ended_B.tolist() == [response[-1] in eos for response in alone]
    assert len({len(response) for response in alone}) > 1  # rows did leave the batch at different steps


def test_responses_stop_at_any_eos_or_at_the_limit():
    episodes = rollout(llama(), PROMPTS * 16, 6, 1.0, (1, 2, 3, 4), 0, seeded())
    for response, ended in zip(episodes.responses(), episodes.ended_B.tolist(), strict=True):
        assert not set(response[:-1]) & {1, 2, 3, 4}
        assert ended == (response[-1] in (1, 2, 3, 4))
        assert ended or len(response) == 6
    assert 0 < episodes.ended_B.float().mean() < 1


def test_the_same_seed_samples_the_same_and_another_does_not():
    one, same, other = (rollout(llama(), PROMPTS, 8, 1.0, (1,), 0, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one.ids_BL, same.ids_BL)
    assert one.responses() != other.responses()


def test_draws_follow_the_distribution():
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    tokens, _ = draw(probs.log().expand(40000, 4), torch.rand(40000, generator=seeded()).double())
    share = torch.bincount(tokens, minlength=4) / 40000
    torch.testing.assert_close(share, probs, atol=0.01, rtol=0)
    assert share[1] == 0


def test_a_draw_is_the_first_token_whose_distribution_function_lies_above():
    width = 2 * SPAN + 44  # two spans and a part of one
    probs = torch.rand(50, width, generator=seeded(), dtype=torch.float64)
    probs[:, 100:140] = 0  # over the end of a span
    probs /= probs.sum(1, keepdim=True)
    uniform = torch.rand(50, generator=seeded(1), dtype=torch.float64)
    tokens, log_prob = draw(probs.log().float(), uniform)
    expected = (probs.cumsum(1) <= uniform[:, None]).sum(1)
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(
        log_prob.double(), probs.log().gather(1, tokens[:, None])[:, 0], rtol=1e-5, atol=1e-5
    )


def test_a_draw_at_the_end_of_a_span_is_no_token_that_cannot_be():
    logits = 3 * torch.randn(200, 2 * SPAN, generator=seeded())
    logits[:, SPAN - 30 : SPAN] = -torch.inf
    spans = logits.softmax(-1).view(200, 2, SPAN).sum(-1).double()  # as `draw` adds them up: rounded
    tokens, log_prob = draw(logits, spans[:, 0] / spans.sum(1) - 1e-12)
    assert logits.gather(1, tokens[:, None]).isfinite().all()
    assert (log_prob > -60).all()


def test_the_states_that_tokens_were_drawn_from_are_kept_on_request():
    model = llama()
    episodes = rollout(model, PROMPTS, 8, 1.0, (1, 2, 3), 0, seeded(), keep_final=True)
    assert episodes.final_BRD.shape[:2] == episodes.mask_BR.shape
    read, kept = response_final(model, episodes), response_final(model, episodes, episodes.final_BRD)
    torch.testing.assert_close(kept.states_ND, read.states_ND, rtol=1e-4, atol=1e-5)
    last = episodes.select(torch.tensor([len(PROMPTS) - 1]))
    assert last.final_BRD.shape[:2] == last.mask_BR.shape
    assert rollout(model, PROMPTS, 8, 1.0, (1,), 0, seeded()).final_BRD is None


def test_sampled_pad_tokens_are_tokens():
    episodes = join([[5], [6, 7]], [[0, 0, 1], [0]], torch.tensor([True, False]), pad=0)
    assert episodes.mask_BR.tolist() == [[True, True, True], [True, False, False]]
    assert episodes.tokens().tolist() == [0, 0, 1, 0]
    assert [x.tolist() for x in episodes.states()] == [[0, 0, 0, 1], [0, 1, 2, 1]]
    assert episodes.select(torch.tensor([1])).ids_BL.tolist() == [[6, 7, 0]]


@pytest.mark.parametrize(("make", "plain"), [(llama, True), (gemma, False), (gpt2, True)])
def test_response_logits_are_the_models_own(make, plain):
    model = make()
    assert has_plain_head(model) == plain
    episodes = rollout(model, PROMPTS, 5, 1.0, (1,), 0, seeded())
    found = response_logits(model, episodes, 2.0).split(episodes.response_B.tolist())
    for prompt, response, logits in zip(PROMPTS, episodes.responses(), found, strict=True):
        alone = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits, alone / 2, atol=1e-5, rtol=1e-5)


def test_scores_and_values_are_the_classifiers_own():
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)).eval()
    episodes = join(PROMPTS, [[3, 0], [4, 5, 1], [6], [7, 1]], torch.tensor([False, True, False, True]), 0)
    values = response_values(model, episodes).split(episodes.response_B.tolist())
    for i, (prompt, response) in enumerate(zip(PROMPTS, episodes.responses(), strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        model.config.pad_token_id = 39  # so that transformers' own pooling takes a sampled 0 for a token
        torch.testing.assert_close(
            final_scores(model, episodes.ids_BL, episodes.length_B)[i], model(input_ids=ids).logits[0, 0]
        )
        first_state = model(input_ids=torch.tensor([prompt])).logits[0, 0]
        torch.testing.assert_close(values[i][0], first_state)


def cost(groups, lengths):
    return sum(len(g) * max(lengths[i] for i in g) + FORWARD_COST for g in groups)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(1, 9))
def test_micro_batches_cost_least(lengths, limit):
    """Against every way of cutting the sorted rows."""
    rows = torch.arange(len(lengths))
    groups = [group.tolist() for group in micro_batches(rows, torch.tensor(lengths), limit)]
    assert sorted(i for group in groups for i in group) == rows.tolist()
    assert max(map(len, groups)) <= limit
    ordered = sorted(rows.tolist(), key=lengths.__getitem__)
    ways = []
    for cuts in product([False, True], repeat=len(ordered) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(ordered)]
        ways.append([ordered[a:b] for a, b in pairwise(edges)])
    allowed = [way for way in ways if max(map(len, way)) <= limit]
    assert cost(groups, lengths) == min(cost(way, lengths) for way in allowed)
