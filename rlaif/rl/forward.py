"""Forward passes of PPO through a transformers model: final states, logits and values at the response
positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.overrides import _get_current_function_mode as current_mode
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from rlaif.engines.decoding import positions
from rlaif.rl import llama
from rlaif.rl.cpu import linear_layers, working_dtype
from rlaif.rl.episodes import Episodes, length_mask, micro_batches
from rlaif.rl.heads import COMPARED, HeadInputs, compare
from rlaif.rl.sharding import run_in_forward

LARGE = 1_000_000_000  # parameters from which activations are recomputed to save memory

_PLAIN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def has_plain_head(model: Any) -> bool:
    """Whether the logits are one matrix applied to the last hidden state; some models scale, cap or shift
    them.

    Tried once a model, on two tokens. Where they are, a head is computed for the positions wanted and no
    others.
    """
    if model not in _PLAIN:
        head, ids = model.get_output_embeddings(), torch.tensor([[0, 1]], device=model.device)
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            # Not called as a module: what comes after a call would cut a sharded model up again.
            logits = model.forward(input_ids=ids, use_cache=False).logits
            plain = type(head) is torch.nn.Linear and head.bias is None
            _PLAIN[model] = plain and torch.equal(head(hidden), logits)
    return _PLAIN[model]


def choose_attention(model: Any, length: int) -> None:
    """For bf16 on a CPU: products and a softmax for short sequences, torch's flash kernel for others.

    At a hundred tokens that kernel takes three times as long, forth and back; at thousands products need the
    memory. `llama` chooses for itself.
    """
    wanted = "eager" if length <= llama.SHORT else "sdpa"
    if model._supports_sdpa and model.config._attn_implementation != wanted:
        model.set_attn_implementation(wanted)


def precision(model: Any, autocast: bool) -> AbstractContextManager[Any]:
    """Forward passes in bf16 with `autocast`; without, in the model's own dtype, as fast as they are on a
    CPU."""
    return torch.autocast(model.device.type, torch.bfloat16) if autocast else linear_layers(model)


def to_bf16(model: Any) -> None:
    """Keep the linear layers of a frozen model in bf16: what autocast would make of them anew at every use.

    A head gets a weight of its own where it shares the embedding's: rows are read from that in fp32.
    """
    for layer in model.modules():
        if type(layer) is torch.nn.Linear:
            layer.weight = torch.nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)


def is_large(model: Any) -> bool:
    """Whether training computes activations twice rather than keep them: see `recomputing`."""
    return model.base_model.num_parameters() >= LARGE


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Within it the layers of a large model that learns keep their input alone, and are computed again in the
    backward pass (arXiv 1604.06174, section 4), in the mode they were computed in.
    """
    mode = current_mode() or nullcontext()
    run = partial(
        checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), mode)
    )
    learns = torch.is_grad_enabled() and is_large(model)
    layers = [x for x in model.base_model.modules() if learns and isinstance(x, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = partial(run, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def states_at(model: Any, ids_BL: Tensor, rows_N: Tensor, columns_N: Tensor) -> Tensor:
    """The last hidden states at some positions of sequences padded on the right. → ND"""
    if llama.supports(model) and not is_large(model):
        return llama.states_at(model, ids_BL, rows_N, columns_N)
    with recomputing(model):
        return model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state[rows_N, columns_N]


def response_final(model: Any, episodes: Episodes, hidden_BRD: Tensor | None = None) -> HeadInputs:
    """The states before each response token and the head that turns them into logits, in the dtype products
    have here.

    `hidden_BRD` are those states where they are known already. Of a sharded model to be called by
    `run_in_forward`.
    """
    rows_N, columns_N = episodes.states()
    if not has_plain_head(model):
        with recomputing(model):
            logits_BLV = model.forward(input_ids=episodes.ids_BL, use_cache=False).logits
        return HeadInputs(logits_BLV[rows_N, columns_N], None)
    if hidden_BRD is not None:
        hidden_ND = hidden_BRD[episodes.mask_BR]
    else:
        hidden_ND = states_at(model, episodes.ids_BL, rows_N, columns_N)
    weight_VD = model.get_output_embeddings().weight
    dtype = working_dtype(weight_VD)
    return HeadInputs(hidden_ND.to(dtype), weight_VD.to(dtype))


@torch.no_grad()
def compare_responses(
    policy: Any, reference: Any, episodes: Episodes, temperature: float, limit: int
) -> dict[str, Tensor]:
    """What `compare` finds, summed over each response's tokens; `limit` episodes at a time. → each B"""
    device = episodes.ids_BL.device
    found = {name: torch.zeros(len(episodes), device=device) for name in COMPARED}
    every = torch.arange(len(episodes), device=device)
    for rows in micro_batches(every, episodes.length_B, limit):
        part = episodes.select(rows)
        own, other = (response_final(model, part) for model in (policy, reference))
        for name, values_N in compare(own, other, part.tokens(), temperature).items():
            found[name].index_add_(0, rows[part.states()[0]], values_N)
    return found


def response_logits(model: Any, episodes: Episodes, temperature: float) -> Tensor:
    """Logits, divided by the temperature, that each response token was drawn from. → NV"""
    final = response_final(model, episodes)
    logits_NV = final.logits(slice(None))
    return logits_NV / temperature if temperature != 1 else logits_NV


def new_cache(model: Any) -> Any:
    """What `next_logits` keeps from one call to the next."""
    own = has_plain_head(model) and llama.supports(model)
    return llama.KVCache() if own else DynamicCache(config=model.config)


def next_logits(model: Any, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Tensor | None]:
    """Logits after the last position, and the hidden state they are made of where that is all. → BV, BD

    `ids` are the positions not yet in the cache, `mask` covers all of them.
    """
    head = model.get_output_embeddings()
    if isinstance(cache, llama.KVCache):
        hidden_BD = llama.next_states(model, ids, mask, cache)
        return cache.linear(head, hidden_BD), hidden_BD
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions(mask)[:, -ids.shape[1] :],
        "past_key_values": cache,
        "use_cache": True,
    }
    if not has_plain_head(model):
        return model.forward(**inputs, logits_to_keep=1).logits[:, -1], None
    # 2-D before the head: on the CPU a frozen bf16 head is copied for every row of a 3-D input.
    hidden_BD = model.base_model(**inputs).last_hidden_state[:, -1]
    return head(hidden_BD), hidden_BD


def response_values(model: Any, episodes: Episodes, count_B: Tensor | None = None) -> Tensor:
    """The `score` head at the position before each response token: the value of that state; see `states`. →
    N"""
    rows_N, columns_N = episodes.states(count_B)

    def read() -> Tensor:
        return model.score(states_at(model, episodes.ids_BL, rows_N, columns_N).to(model.score.weight.dtype))

    return run_in_forward(model, read)[:, 0].float()


def has_score(model: Any) -> bool:
    """Whether a sequence classifier is a decoder with a linear `score` head over its states; encoders are
    not."""
    return isinstance(getattr(model, "score", None), torch.nn.Linear)


def final_scores(model: Any, ids_BL: Tensor, length_B: Tensor) -> Tensor:
    """The reward model's score of sequences padded on the right, ids [B, L] and their true lengths [B]. → B

    Its `score` head at the last real token, which the lengths tell and no token does: transformers looks for
    the last that is no pad token, which is the one before the end where a tokenizer pads with its EOS. A
    model without such a head is asked in its own way, with the mask of the lengths.
    """
    if not has_score(model):
        mask_BL = length_mask(length_B, ids_BL.shape[1]).long()
        with recomputing(
            model
        ):  # not called as a module: `score_at_last_token` puts this in the place of its forward
            return type(model).forward(model, input_ids=ids_BL, attention_mask=mask_BL).logits[:, 0].float()
    rows_B = torch.arange(len(ids_BL), device=ids_BL.device)
    return model.score(states_at(model, ids_BL, rows_B, length_B - 1))[:, 0].float()


def score_at_last_token(model: Any) -> Any:
    """The reward model with `final_scores` as its forward pass, for trainers that wrap a model and call it
    whole."""
    model.forward = MethodType(final_scores, model)
    return model


def score_by_length(
    score: Callable[[Tensor, Tensor], Tensor], ids_BL: Tensor, length_B: Tensor, group: int
) -> Tensor:
    """What `score`, which is like `final_scores`, gives sequences padded on the right. → B

    Sequences of like length go through the model together, `group` at a time, each group cut to its longest:
    the same numbers as one padded batch, for less work.
    """
    order = length_B.argsort(stable=True)
    parts = [(rows, length_B[rows]) for rows in order.split(group)]
    found = [score(ids_BL[rows, : int(length.max())], length) for rows, length in parts]
    return torch.cat(found)[order.argsort()]


@torch.no_grad()
def score_sequences(
    model: Any, sequences: Sequence[Sequence[int]], batch: int, tick: Callable[[int], None] = lambda n: None
) -> list[float]:
    """The reward of each token sequence [N], read at its last token; `tick` is told of each batch's size."""

    def score(ids_BL: Tensor, length_B: Tensor) -> Tensor:
        found = final_scores(model, ids_BL, length_B)
        tick(len(length_B))
        return found

    if not sequences:
        return []
    model.eval()
    ids = pad_sequence([torch.tensor(sequence) for sequence in sequences], True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return score_by_length(score, ids.to(model.device), lengths.to(model.device), batch).tolist()
