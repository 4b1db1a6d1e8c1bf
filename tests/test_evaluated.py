"""What evaluate writes of two scripted policies, row by row: nothing of one stands at another's place."""

from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.engines import Scripted
from rlaif.records import Evaluation, Prompt, Response
from rlaif.runs.folder import Stage
from rlaif.runs.rows import Rows
from rlaif.stages.evaluate import Tools

HERE = "tests.test_evaluated"
NO = "I'm sorry, but I can't help with that."


def number_of(messages) -> int:
    return int("".join(c for c in messages[-1]["content"] if c.isdigit()))


def polite() -> Scripted:
    """Keeps every rule and always answers; its responses differ in length."""
    return Scripted(on_generate=lambda r: "nice " * (1 + number_of(r.messages)) + "day", name="polite")


def rude() -> Scripted:
    """Breaks a rule, or refuses every fourth prompt."""
    return Scripted(
        on_generate=lambda r: NO if number_of(r.messages) % 4 == 0 else "rude wrong rain", name="rude"
    )


@pytest.fixture
def evaluated(project, monkeypatch):
    """The rows by policy and prompt, the prompts in order, and the temperatures that the KL was taken at."""
    asked: list[float] = []

    def divergence(self, folder, prompts, responses, temperature, exact=True):
        asked.append(temperature)
        return [float(number_of(p.chat)) for p in prompts]

    policies = {"base": Path(f"{HERE}:polite"), "ppo": Path(f"{HERE}:rude")}
    monkeypatch.setattr(Stage, "policies", lambda self: policies)
    monkeypatch.setattr(Tools, "divergence", divergence)
    config = project / "config.yaml"
    text = config.read_text()
    config.write_text(
        text[: text.index("stages:")]
        + "stages: [{stage: evaluate, num_judged_prompts: 5, temperature: 0.5}]\n"
    )
    run = pipeline.run(config, project / "run", [f"policy.model={HERE}:polite"])
    folder = run.stages[0].dir
    found = {(row.policy, row.prompt_id): row for row in Rows(folder / "evaluation.jsonl", Evaluation)}
    texts = {row.id: row for row in Rows(folder / "responses.jsonl", Response)}
    return found, texts, run.evaluated(), asked


def test_every_row_is_of_its_own_policy_prompt_and_response(evaluated):
    rows, texts, prompts, asked = evaluated
    assert len(rows) == 2 * len(prompts) > 20
    assert set(asked) == {0.5}
    judged = {p.id for p in prompts[:5]}
    for prompt in prompts:
        number, rules = (
            number_of(prompt.chat),
            {"no-rude"} | ({"no-wrong"} if "fact" in prompt.tags else set()),
        )
        base, later = rows["base", prompt.id], rows["ppo", prompt.id]
        check(base, texts, prompt, kl=0.0, tokens=number + 2, refusal=False, kept=dict.fromkeys(rules, True))
        refused = number % 4 == 0
        tokens, kept = (8, True) if refused else (3, False)
        check(
            later, texts, prompt, kl=number, tokens=tokens, refusal=refused, kept=dict.fromkeys(rules, kept)
        )
        for row in (base, later):
            assert set(row.compliance) == (rules if prompt.id in judged else set())
            assert all((p > 0.5) == row.gold[rule] for rule, p in row.compliance.items())
        assert base.p_win is None
        if prompt.id not in judged:
            assert later.p_win is None
        else:
            assert later.p_win == pytest.approx(0.5) if refused else later.p_win < 0.2


def check(row: Evaluation, texts: dict[str, Response], prompt: Prompt, kl, tokens, refusal, kept) -> None:
    assert texts[row.response_id].prompt_id == prompt.id
    assert (row.kl, row.tokens, row.refusal) == (kl, tokens, refusal)
    assert row.gold == {"all": all(kept.values()), **kept}
