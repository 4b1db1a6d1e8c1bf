"""The sft stage: what it trains on, what it leaves out, and that the policy it writes speaks as it was
taught."""

import pytest

from rlaif.errors import UserError
from rlaif.records import Revision
from rlaif.stages import sft
from rlaif.training.loop import with_labels
from tests.tiny_models import hand_made_run, prompts_of, response, revision, tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def stage_of(tmp_path, policy, **options):
    return hand_made_run(tmp_path / "run", policy, {"stage": "sft", "batch_size": 4, **options})


def rows_of(stage, policy):
    """The rows of the stage's revisions and demonstrations, and the tokenizer."""
    from rlaif.engines.loading import load_tokenizer

    tokenizer = load_tokenizer(policy)
    limit = min(stage.options.max_length, 512)
    return sft._training_rows(stage, tokenizer, limit)[0], tokenizer


def test_the_loss_is_on_the_response_and_its_end_alone(tmp_path, policy):
    stage = stage_of(tmp_path, policy)
    prompt = prompts_of(stage)[0]
    revision(stage, response(stage, prompt, "rude"), response(stage, prompt, "thanks it is good", 1))
    rows, tokenizer = rows_of(stage, policy)
    (row,) = rows
    assert tokenizer.decode(row["input_ids"]) == (
        "<|user|>tell me about number 0<|end|><|assistant|>thanks it is good<|end|>"
    )
    row = with_labels(row)
    learned = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(learned) == "thanks it is good<|end|>"
    assert row["labels"][-len(learned) :] == learned


def test_a_response_cut_off_is_not_taught_to_end_there(tmp_path, policy):
    stage = stage_of(tmp_path, policy)
    prompt = prompts_of(stage)[0]
    open_ended = response(stage, prompt, "thanks it", finish_reason="length")
    revision(stage, open_ended, open_ended, status="unchanged")
    rows, tokenizer = rows_of(stage, policy)
    assert tokenizer.decode(rows[0]["input_ids"]).endswith("<|assistant|>thanks it")


def test_what_cannot_be_trained_on_is_counted(tmp_path, policy):
    stage = stage_of(tmp_path, policy, max_length=16)
    first, second, third, fourth = prompts_of(stage)[:4]
    for prompt in (first, second, third, fourth):
        response(stage, prompt, "rude")
    revision(stage, response(stage, first, "rude"), response(stage, first, "good", 1))
    revision(stage, response(stage, second, "rude"), response(stage, second, "rude"), status="invalid")
    revision(stage, response(stage, third, "rude"), response(stage, third, "good " * 20, 1))
    revision(stage, response(stage, fourth, "rude"), response(stage, fourth, " ", 1))
    rows, _ = rows_of(stage, policy)
    assert len(rows) == 1
    assert stage.dropped == {"invalid revision": 1, "longer than 16 tokens": 1, "empty response": 1}
    assert stage.summary["in"] == 4
    assert stage.summary["kept"] == 1


def test_nothing_to_train_on_is_the_users_to_mend(tmp_path, policy):
    stage = stage_of(tmp_path, policy)
    old = response(stage, prompts_of(stage)[0], "rude")
    revision(stage, old, old, status="invalid")
    with pytest.raises(UserError, match=r"none of 1 revisions.*invalid revision"):
        sft.run(stage)


def step(round, old, new, status="ok"):
    return Revision(
        prompt_id="p", round=round, principle_id="x", from_id=old, to_id=new, critique="", status=status
    )


def test_last_means_the_last_valid_one_of_each_chain():
    chains = [
        [step(1, "a", "b"), step(2, "b", "c")],
        [step(1, "d", "e"), step(2, "e", "e", "invalid")],
        [step(1, "f", "f", "unchanged"), step(2, "f", "g")],
        [step(1, "h", "h", "invalid"), step(2, "h", "h", "invalid")],
    ]
    # As the critique stage writes them: first every first round, then every second one.
    written = [chain[0] for chain in chains] + [chain[1] for chain in chains]
    assert [(r.to_id, r.status) for r in sft.last_of_each_chain(written)] == [
        ("c", "ok"),
        ("e", "ok"),
        ("g", "ok"),
        ("h", "invalid"),
    ]


def test_the_policy_learns_to_say_it_and_to_stop(tmp_path, policy):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlaif.prompting.chat import encode_chat

    stage = stage_of(tmp_path, policy, epochs=20, learning_rate=1e-2, heldout=0.2)
    for prompt in prompts_of(stage):
        revision(stage, response(stage, prompt, "rude"), response(stage, prompt, "thanks it is good", 1))
    sft.run(stage)
    assert stage.metrics["heldout_loss_after"] < 0.2 < 3 < stage.metrics["heldout_loss_before"]
    assert stage.metrics["steps"] == 20 * 3  # 10 of 12 prompts train, 4 a step
    folder = stage.dir / "policy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    import torch

    ids = torch.tensor([encode_chat(tokenizer, prompts_of(stage)[3].chat)])
    said = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said) == "thanks it is good<|end|>"
    assert model.config.attention_dropout == 0.1  # the model's own settings are left as they were


def test_a_finished_policy_is_not_trained_again(tmp_path, policy):
    stage = stage_of(tmp_path, policy)
    for prompt in prompts_of(stage):
        revision(stage, response(stage, prompt, "rude"), response(stage, prompt, "good", 1))
    sft.run(stage)
    written = {path: path.stat().st_mtime_ns for path in stage.dir.rglob("*") if path.name != "stage.json"}
    metrics = stage.metrics
    stage.begin()
    sft.run(stage)
    assert stage.metrics == metrics
    assert written == {
        path: path.stat().st_mtime_ns for path in stage.dir.rglob("*") if path.name != "stage.json"
    }
    assert not (stage.dir / "checkpoints").exists()


def test_a_real_model_without_a_chat_template(tmp_path, test_data):
    policy = test_data / "models" / "stories260K_hf"
    stage = stage_of(tmp_path, policy, epochs=3, learning_rate=1e-3)
    for prompt in prompts_of(stage):
        revision(
            stage,
            response(stage, prompt, "No."),
            response(stage, prompt, "Once upon a time there was a dog.", 1),
        )
    rows, tokenizer = rows_of(stage, policy)
    text = tokenizer.decode(rows[0]["input_ids"])
    assert text.endswith("Assistant: Once upon a time there was a dog.</s>")
    assert rows[0]["input_ids"].count(tokenizer.bos_token_id) == 1
    sft.run(stage)
    assert stage.metrics["heldout_loss_after"] < stage.metrics["heldout_loss_before"]
    from rlaif.engines.loading import load_causal_lm

    assert load_causal_lm(stage.dir / "policy", "cpu").generation_config.eos_token_id == [1, 2]
