"""PPO on two processes (gloo, CPU), whole or sharded: the same episodes, numbers and weights as one process
alone."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlaif.options import PpoOptions
from rlaif.rl.episodes import PromptTokens
from rlaif.rl.ppo import PPO
from rlaif.rl.ranks import Ranks
from rlaif.rl.sharding import full_tensor, shard
from tests.launching import on_two

EOS, PAD, WANTED = 1, 0, 7
SIZES = {
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "initializer_range": 0.1,
}


def wanted_share(episodes, sources):
    return torch.tensor(
        [r.count(WANTED) / len(r) + s for r, s in zip(episodes.responses(), sources, strict=True)]
    )


def made(ranks: Ranks, **changes) -> PPO:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval()
    value = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)).eval()
    options = PpoOptions.model_validate(
        {
            "stage": "ppo",
            "batch_size": 14,
            "micro_batch": 4,
            "minibatches": 3,
            "epochs": 2,
            "max_tokens": 6,
            "learning_rate": 1e-3,
            "warmup": 0,
            **changes,
        }
    )
    policy, reference, value = (shard(model, ranks) for model in (policy, copy.deepcopy(policy), value))
    return PPO(policy, reference, value, wanted_share, options, (EOS,), PAD, seed=1, ranks=ranks)


def trained_for(updates: int, ranks: Ranks, **changes):
    """(metrics of each update, all weights, the last update's response tokens) of a run on this many
    processes."""
    ppo = made(ranks, **changes)
    prompts = [PromptTokens([2 + n % 3, *range(3, 3 + n % 5)], n / 100) for n in range(14)]
    rows, experience = [], None
    for number in range(1, updates + 1):
        metrics, experience = ppo.update(number, prompts)
        rows.append({key: value for key, value in metrics.items() if key != "seconds"})
    weights = torch.cat(
        [full_tensor(p.detach()).flatten() for m in (ppo.policy, ppo.value) for p in m.parameters()]
    )
    return rows, weights, experience.episodes.responses()


CASES = [
    {},
    {"critic_warmup": 1, "whiten_rewards": True, "kl_target": 0.1, "kl_horizon": 100},
    {"minibatches": 14},
]


def main(folder: str, case: str) -> None:
    dist.init_process_group("gloo")
    ranks = Ranks.current()
    rows, weights, responses = trained_for(3, ranks, **CASES[int(case)])
    torch.save({"weights": weights}, Path(folder) / f"{ranks.rank}.pt")
    (Path(folder) / f"{ranks.rank}.json").write_text(json.dumps([rows, responses]))
    dist.barrier()
    dist.destroy_process_group()


def test_fewer_prompts_than_processes_are_answered_by_each():
    prompts = [PromptTokens([3, 4], 0.0), PromptTokens([5], 0.0)]
    one, other = (made(ranks).sample(prompts, "watch", 0).responses() for ranks in (Ranks(), Ranks(2, 4)))
    assert one == other


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, len(CASES)))]
)
def test_two_processes_give_what_one_does(tmp_path, case, sharded):
    done = on_two(tmp_path, __name__, str(tmp_path), str(case), sharded=sharded)
    assert done.returncode == 0, done.stderr
    rows, weights, responses = trained_for(3, Ranks(), **CASES[case])
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True)["weights"] for rank in (0, 1)]
    assert torch.equal(found[0], found[1])  # to the last bit, or they would drift apart
    torch.testing.assert_close(found[0], weights, atol=1e-5, rtol=1e-4)
    for rank in (0, 1):
        other_rows, other_responses = json.loads((tmp_path / f"{rank}.json").read_text())
        assert other_responses == responses
        for one, other in zip(rows, other_rows, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                assert other[key] == (value if value is None else pytest.approx(value, rel=1e-3, abs=1e-5)), (
                    key
                )
            assert other["ratio_first"] in (1.0, None)


def test_items_are_shared_out_and_put_together_in_order():
    assert [list(Ranks(r, 3).own_share([0, 1, 2, 3, 4])) for r in range(3)] == [[0, 3], [1, 4], [2]]
    assert [list(Ranks(r, 3).padding([0, 1, 2, 3, 4])) for r in range(3)] == [[], [], []]
    assert [list(Ranks(r, 3, True).padding([0, 1, 2, 3, 4])) for r in range(3)] == [[], [], [0]]
    assert Ranks().gather([5, 6]) == [5, 6]
