"""Shared-prefix scoring against plain forwards: equal where it is used, refused where it would not be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from rlaif.engines.loading import UNBOUNDED
from rlaif.engines.shared import Block, attend, exact_limit, score_plain, score_shared, tree

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
}
SMALL = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}


def build(config):
    """A model with weights large enough for attention to matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def questions(lengths: list[int], suffixes: list[list[int]], seed: int = 1):
    draw = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(300, (n,), generator=draw).tolist()

    return [tokens(n) for n in lengths], [[tokens(n) for n in row] for row in suffixes]


EXACT = [
    LlamaConfig(**SIZES),
    LlamaConfig(**SIZES | {"num_key_value_heads": 8}),
    LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 64,
        },
    ),
    LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 10000.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    Qwen3Config(**SIZES),
    MistralConfig(**SIZES, sliding_window=None),
    GPT2Config(n_embd=64, n_layer=2, n_head=4, **SMALL),
]


@pytest.mark.parametrize("config", EXACT, ids=lambda c: c.model_type)
@pytest.mark.parametrize(
    ("lengths", "suffixes"),
    [
        ([30], [[6, 6, 6]]),  # nothing is padded
        ([40, 9, 23], [[5, 1], [7], [3, 8, 4, 4]]),  # prefixes, suffixes and their numbers all differ
    ],
)
def test_equal_to_a_plain_forward(config, lengths, suffixes):
    model = build(config)
    prefixes, rows = questions(lengths, suffixes)
    shared, plain = score_shared(model, prefixes, rows), score_plain(model, prefixes, rows)
    assert shared.shape == (sum(map(len, suffixes)), 300)
    assert (shared.exp() - plain.exp()).abs().max() < 1e-5
    assert exact_limit(model) == (UNBOUNDED, "")


def with_heads(*, seed: int = 1) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Nine questions whose prefixes are a tree: instructions, two conversations, responses; some equal, one a
    head."""
    tokens, suffixes = questions(
        [20, 12, 9, 6, 3, 30], [[5, 3], [4], [2, 2, 6], [7], [1], [3], [4, 4], [2], [5]], seed
    )
    head, one, two, response, short, alone = tokens
    prefixes = [
        head + one + response,
        head + two + short,
        head + one + short,
        head,
        alone,
        head + two + short,
        head + one + response + two,
        head + one,
        head[:4] + two,
    ]
    return prefixes, suffixes


@pytest.mark.parametrize("config", EXACT, ids=lambda c: c.model_type)
def test_what_prefixes_begin_with_is_read_once_and_changes_nothing(config):
    model = build(config)
    prefixes, rows = with_heads()
    read: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda m, args, out: read.append(args[0].numel()))
    shared = score_shared(model, prefixes, rows)
    # The instructions 20; the first conversation 12, after it 6, 6 + 9 and 3; the second with its response 9
    # + 3 for two; 30 alone and 4 + 9 with too little in common; then the suffixes.
    assert sum(read) == 111 + sum(len(s) for row in rows for s in row)
    assert (shared.exp() - score_plain(model, prefixes, rows).exp()).abs().max() < 1e-5


@pytest.mark.parametrize(
    "pick",
    [[3, 3, 3], [3, 4], [4, 8], [3], [7, 3], [1, 5, 1, 0]],
    ids=["equal", "nothing in common", "short head", "one", "one is the head", "some equal"],
)
def test_prefixes_of_every_kind_stand_together(pick):
    model = build(LlamaConfig(**SIZES))
    prefixes, rows = ([part[i] for i in pick] for part in with_heads())
    gap = score_shared(model, prefixes, rows).exp() - score_plain(model, prefixes, rows).exp()
    assert gap.abs().max() < 1e-5


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=12))
def test_a_tree_holds_every_prefix_whole(prefixes):
    levels, leaves = tree(prefixes)
    for prefix, leaf in zip(prefixes, leaves, strict=True):
        node, found = leaf, []
        while node is not None:
            assert node.start == len(prefix) - len(found) - len(node.tokens)
            node, found = node.parent, [*node.tokens, *found]
        assert found == prefix
    for depth, nodes in enumerate(levels):
        assert all(
            (node.parent is None) if depth == 0 else node.parent in levels[depth - 1] for node in nodes
        )
    assert sum(len(node.tokens) for nodes in levels for node in nodes) <= sum(map(len, prefixes))


def test_the_prefix_pass_ends_at_the_last_layers_keys_and_values():
    model = build(LlamaConfig(**SIZES))
    seen: list[int] = []
    model.model.layers[-1].mlp.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    score_shared(model, *questions([40], [[5, 3]]))
    assert seen == [8]


def test_a_model_whose_layers_are_not_read_in_order_is_found_out():
    model = build(LlamaConfig(**SIZES))
    first, last = model.model.layers[0].self_attn, model.model.layers[-1].self_attn
    first.layer_idx, last.layer_idx = last.layer_idx, first.layer_idx
    limit, reason = exact_limit(model)
    assert limit == 0
    assert "LlamaForCausalLM does not take it" in reason


def test_plain_scoring_equals_one_row_at_a_time():
    model = build(LlamaConfig(**SIZES))
    prefixes, rows = questions([12, 5], [[3, 9], [2]])
    table = score_plain(model, prefixes, rows, budget=16)
    whole = [[*p, *s] for p, group in zip(prefixes, rows, strict=True) for s in group]
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([row])).logits[:, -1].log_softmax(-1) for row in whole])
    assert (table - alone).abs().max() < 1e-4


def test_the_model_keeps_its_own_attention_afterwards():
    model = build(LlamaConfig(**SIZES))
    before = model.config._attn_implementation
    score_shared(model, *questions([5], [[2]]))
    assert model.config._attn_implementation == before


def test_a_sliding_window_is_exact_up_to_the_window_only():
    model = build(MistralConfig(**SIZES, sliding_window=24))
    assert exact_limit(model) == (24, "its sliding window")
    inside, outside = questions([16], [[8, 5]]), questions([40], [[8, 5]])
    assert (score_shared(model, *inside).exp() - score_plain(model, *inside).exp()).abs().max() < 1e-5
    assert (score_shared(model, *outside).exp() - score_plain(model, *outside).exp()).abs().max() > 1e-3


def test_a_rope_that_depends_on_length_is_a_limit():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    limit, reason = exact_limit(build(LlamaConfig(**SIZES, rope_parameters=rope)))
    assert limit == 256
    assert "dynamic" in reason


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(hidden_size=64, n_layer=2, n_head=4, **SMALL),  # position as a bias inside attention
        Gemma2Config(**SIZES, sliding_window=64),  # attention scores are squashed
    ],
)
def test_other_architectures_are_found_out(config):
    limit, reason = exact_limit(build(config))
    assert limit == 0
    assert type(build(config)).__name__ in reason


def test_block_takes_apart_and_puts_together():
    block = Block.of([2, 3, 1], torch.device("cpu"))
    packed = torch.arange(6)
    assert block.rows(packed).tolist() == [[0, 1, 0], [2, 3, 4], [5, 0, 0]]
    assert block.pack(block.rows(packed)).tolist() == packed.tolist()


def test_attention_by_hand_with_its_log_sum_exp():
    # One query [1, 0], keys [0, 0] and [ln 3, 0]: weights 1/4 and 3/4, log-sum-exp ln 4.
    q = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    k = torch.tensor([[0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0]]).view(1, 1, 2, 2)
    v = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).view(1, 1, 2, 2)
    out, total = attend(q, k, v, 1.0)
    assert torch.allclose(out.flatten(), torch.tensor([1.0, 3.0]), atol=1e-5)
    assert total.item() == pytest.approx(1.386294, abs=1e-5)
    out, total = attend(q, k, v, 1.0, mask=torch.tensor([True, False]).view(1, 1, 1, 2))
    assert torch.allclose(out.flatten(), torch.tensor([4.0, 0.0]), atol=1e-5)
    assert total.item() == pytest.approx(0.0, abs=1e-5)
