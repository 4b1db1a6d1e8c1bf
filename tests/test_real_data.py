"""The loop on what it did not grow up with: a story-telling model as policy and judge, real human pairs."""

import json
from pathlib import Path

import rlaif
from rlaif.human.importers import import_file
from rlaif.report.summary import summarise

CONFIG = """name: real
constitution: constitutions/general.yaml
prompts: hh/prompts.jsonl
templates: brief
policy: {{model: {model}}}
feedback: {{model: {model}}}
stages:
  - {{stage: sample, num_prompts: 24, max_tokens: 24}}
  - {{stage: critique, max_tokens: 24}}
  - {{stage: sample, num_prompts: 24, k: 2, max_tokens: 24}}
  - {{stage: pair, imported: hh, limit: 120}}
  - stage: label
    human: {{file: hh/labels.jsonl, weight: 1.0}}
  - {{stage: reward, learning_rate: 1.0e-4, batch_size: 32, max_length: 512}}
  - {{stage: ppo, updates: 5, batch_size: 8, max_tokens: 24}}
  - {{stage: evaluate, num_prompts: 12, max_tokens: 24}}
"""


def test_stories_judge_on_hh_pairs(test_data: Path, tmp_path: Path):
    counts = import_file("hh", test_data / "hh_rlhf" / "harmless-base-test.jsonl.gz", tmp_path / "hh")
    assert counts["in"] == 2312
    assert counts["dropped"] == {"empty chosen response": 4, "no shared prefix": 5}
    assert counts["kept"] == 2303
    config = tmp_path / "real.yaml"
    config.write_text(CONFIG.format(model=test_data / "models" / "stories260K_hf"))
    run = rlaif.run(config, tmp_path / "run")
    shown = json.loads(json.dumps(summarise(run.path)))
    assert shown["status"] == "done"
    assert shown["ppo"]["updates"] == 5
    assert shown["labels"]["sources"]["human"] > 0
    assert shown["labels"]["mass"] < 0.5
    for stage in shown["stages"]:
        assert stage["in"] == stage["kept"] + sum(stage["dropped"].values()), stage["name"]
    assert any("Human/Assistant" in note for stage in shown["stages"] for note in stage["notes"])
    page = (run.path / "report.html").read_text()
    assert "can hardly be trusted" in page
    assert "hardly answers the question" in page
