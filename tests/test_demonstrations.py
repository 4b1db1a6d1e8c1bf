"""Demonstrations: the formats that are read, what of them sft learns from, and in which share."""

import json

import pytest

from rlaif.config import load_config
from rlaif.errors import UserError
from rlaif.options.data import DataSourceOptions
from rlaif.prompting.conversations import Unusable
from rlaif.prompting.demonstrations import demonstration, read_demonstrations
from rlaif.runs.folder import is_heldout, split_of
from rlaif.stages import sft
from tests.test_arms import run_of
from tests.tiny_models import hand_made_run, prompts_of, response, revision, tiny_policy

USER = {"role": "user", "content": "tell me now"}
GOOD = {"role": "assistant", "content": "it is good"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "tell me now", "response": "it is good"},
        {"prompt": "tell me now", "completion": "it is good", "response": None},
        {"prompt": [USER], "completion": [GOOD]},
        {"messages": [USER, GOOD]},
        {
            "conversations": [
                {"from": "human", "value": "tell me now"},
                {"from": "gpt", "value": "it is good"},
            ]
        },
    ],
)
def test_formats(row):
    prompt, written = demonstration(row)
    assert prompt.chat == [USER]
    assert (written.prompt_id, written.text) == (prompt.id, "it is good")


def test_earlier_turns_a_system_prompt_and_the_group_are_kept():
    turns = [USER, GOOD, {"role": "user", "content": "and today"}, {"role": "assistant", "content": "warm"}]
    prompt, written = demonstration({"messages": turns, "system": "You are kind.", "group": 7})
    assert prompt.chat == [{"role": "system", "content": "You are kind."}, *turns[:3]]
    assert (prompt.group, written.text) == ("7", "warm")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a text", "a row without columns"),
        ({"text": "x"}, "neither a prompt with a response nor a conversation"),
        ({"prompt": "x"}, "neither a prompt with a response nor a conversation"),
        ({"prompt": "x", "response": 3}, "neither a text nor a list of turns"),
        ({"messages": [USER]}, "no response at the end"),
        ({"messages": [USER, GOOD, GOOD]}, "two responses in a row"),
        ({"messages": [GOOD]}, "no user's turn to respond to"),
        ({"messages": "x"}, "a conversation that is no list"),
        ({"prompt": "x", "response": "\ud800"}, "not valid Unicode text"),
        ({"prompt": "x", "response": "a\0b"}, "a zero byte in its text"),
        ({"prompt": "a\0b", "response": "x"}, "a zero byte in its text"),
    ],
)
def test_what_is_no_demonstration_has_a_reason(row, why):
    assert demonstration(row) == Unusable(why)


def written(folder, rows, name="shown.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_without_any_is_refused_with_the_reasons(tmp_path):
    path = written(tmp_path, [{"text": "a"}, {"text": "b"}])
    with pytest.raises(UserError, match=r"sft.demonstrations: .*no demonstration \(2 × neither a prompt"):
        read_demonstrations(DataSourceOptions(path=path), "sft.demonstrations")


def shown(n):
    return [{"prompt": f"tell me about number {i}", "response": f"it is number {i}"} for i in range(n)]


def rows_of(stage, policy, limit=64):
    from rlaif.engines.loading import load_tokenizer

    tokenizer = load_tokenizer(policy)
    rows, _ = sft._training_rows(stage, tokenizer, limit)
    return [tokenizer.decode(row["input_ids"]) for row in rows]


def test_too_long_empty_and_held_out_ones_are_counted(tmp_path, policy):
    held_group = next(f"g{i}" for i in range(99) if is_heldout(f"g{i}", 0.5))
    trained_group = next(f"g{i}" for i in range(99) if not is_heldout(f"g{i}", 0.5))
    rows = [
        *shown(24),
        {"prompt": "tell me", "response": "good " * 70},
        {"prompt": "tell me", "response": " "},
        {"prompt": "sunny", "response": "warm", "group": held_group},
        {"prompt": "rain", "response": "cold", "group": trained_group},
        {"prompt": "bad"},
    ]
    run = run_of(tmp_path / "run", policy, {"stage": "sft", "demonstrations": written(tmp_path, rows)})
    stage = run.stages[0]
    apart = sum(split_of(prompt, run.config) != "train" for prompt in prompts_of(stage))
    assert 0 < apart < 24
    texts = rows_of(stage, policy)
    assert stage.dropped == {
        "neither a prompt with a response nor a conversation": 1,
        "held out for evaluation": apart + 1,
        "longer than 64 tokens": 1,
        "empty response": 1,
    }
    assert (stage.summary["in"], stage.summary["kept"]) == (29, 29 - apart - 4)
    assert texts[-1] == "<|user|>rain<|end|><|assistant|>cold<|end|>"


def mixed(tmp_path, policy, revisions, demonstrations, **options):
    path = written(tmp_path, [{"prompt": f"sunny {i}", "response": "warm"} for i in range(demonstrations)])
    last = {"stage": "sft", "demonstrations": path, **options}
    stage = hand_made_run(tmp_path / "run", policy, last, prompts=revisions)
    for prompt in prompts_of(stage):
        revision(stage, response(stage, prompt, "rude"), response(stage, prompt, "good", 1))
    texts = rows_of(stage, policy)
    return sum("sunny" in text for text in texts), len(texts), +stage.dropped


@pytest.mark.parametrize(
    ("revisions", "demonstrations", "share", "expected"),
    [
        (12, 8, None, (8, 20, 0)),
        (12, 8, 0.25, (4, 16, 4)),
        (12, 2, 0.25, (2, 8, 6)),
        (12, 8, 1, (8, 8, 0)),
    ],
)
def test_demonstrations_and_revisions_are_mixed_by_a_share(
    tmp_path, policy, revisions, demonstrations, share, expected
):
    options = {} if share is None else {"demonstration_share": share}
    found, total, dropped = mixed(tmp_path, policy, revisions, demonstrations, **options)
    assert (found, total, dropped["left out for the share of demonstrations"]) == expected


def test_demonstrations_alone_need_no_revisions(project, policy):
    config = project / "config.yaml"
    path = written(project, shown(4))
    text = config.read_text()
    head = text[: text.index("stages:")]
    for options, wanted in (
        ("", True),
        (", demonstration_share: 1", True),
        (", demonstration_share: 0.5", False),
    ):
        config.write_text(f"{head}stages:\n  - {{stage: sft, demonstrations: {path}{options}}}\n")
        if wanted:
            load_config(config)
        else:
            with pytest.raises(UserError, match='stage "sft" needs revisions'):
                load_config(config)
    config.write_text(f"{head}stages:\n  - {{stage: sft, demonstration_share: 0.5}}\n")
    with pytest.raises(UserError, match="no demonstrations are named"):
        load_config(config)


def test_the_policy_learns_what_it_is_shown(tmp_path, policy):
    path = written(tmp_path, [{"prompt": f"tell me about {i}", "response": "thanks"} for i in range(20)])
    options = {"stage": "sft", "demonstrations": path, "epochs": 8, "learning_rate": 1e-2, "batch_size": 4}
    stage = run_of(tmp_path / "run", policy, options).stages[0]
    sft.run(stage)
    assert stage.metrics["heldout_loss_after"] < 0.5 < stage.metrics["heldout_loss_before"]
    assert stage.metrics["n_demonstrations"] == 20
