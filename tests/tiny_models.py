"""A language model of a few thousand parameters, and a run folder whose rows are written by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.records import Comparison, Preference, Prompt, Response, Revision
from rlaif.runs.folder import Run, Stage

TEXTS = [
    "tell me about the weather today please now number " + " ".join(str(n) for n in range(100)),
    "thanks it is good bad fine rude sunny rain cold and warm",
]

FEW = 16  # responses that fix the scores' scale here: enough, and quick


@contextmanager
def few_reference_samples() -> Iterator[None]:
    """Within it FEW responses fix the scores' scale. Set for good it would hold for every test of the
    process, and for none of the processes that it starts."""
    from rlaif.training import rewards

    before, rewards.REFERENCE_SAMPLES = rewards.REFERENCE_SAMPLES, FEW
    try:
        yield
    finally:
        rewards.REFERENCE_SAMPLES = before


def tiny_policy(folder: Path, seed: int = 0, context: int = 64) -> Path:
    """A random Llama with a chat template, saved to `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlaif.playground.tokenizer import build_tokenizer

    tokenizer = build_tokenizer([*TEXTS, *(f" {word}" for text in TEXTS for word in text.split())], context)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            attention_dropout=0.1,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def hand_made_run(folder: Path, policy: Path, last: dict, prompts: int = 12) -> Stage:
    """The last stage of a run of sample, critique, pair, label and `last`, begun; earlier rows are to be
    written."""
    folder.mkdir(exist_ok=True)
    stages = [{"stage": "sample"}, {"stage": "critique"}, {"stage": "pair"}, {"stage": "label"}, last]
    config = Config.model_validate(
        {
            "name": "tiny",
            "constitution": "c",
            "prompts": "p",
            "policy": {"model": str(policy), "device": "cpu"},
            "feedback": {"model": str(policy)},
            "stages": stages,
            "threads": 1,
        }
    )
    constitution = Constitution.model_validate(
        {"name": "tiny", "principles": [{"id": "kind", "text": "Be kind."}]}
    )
    run = Run(folder, config, constitution)
    rows = [
        Prompt(messages=({"role": "user", "content": f"tell me about number {n}"},)) for n in range(prompts)
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    for stage in run.stages:
        stage.begin()
    return run.stages[-1]


def prompts_of(stage: Stage) -> list[Prompt]:
    """The run's prompts in file order."""
    return list(stage.prompts_by_id().values())


def response(
    stage: Stage, prompt: Prompt, text: str, index: int = 0, finish_reason: str = "stop"
) -> Response:
    """A sampled response, written to the run."""
    row = Response(prompt_id=prompt.id, text=text, index=index, finish_reason=finish_reason)
    stage.run.stages[0].rows("responses", Response).append([row])
    return row


def revision(stage: Stage, old: Response, new: Response, round: int = 1, status: str = "ok") -> Revision:
    """A critique–revision step, written to the run."""
    row = Revision(
        prompt_id=old.prompt_id,
        round=round,
        principle_id="kind",
        from_id=old.id,
        to_id=new.id,
        critique="It is rude.",
        status=status,
    )
    stage.run.stages[1].rows("revisions", Revision).append([row])
    return row


def preference(stage: Stage, a: Response, b: Response, p_a: float, weight: float = 1.0) -> Preference:
    """A judged comparison, written to the run."""
    pair = Comparison(prompt_id=a.prompt_id, a=a.id, b=b.id)
    stage.run.stages[2].rows("comparisons", Comparison).append([pair])
    row = Preference(comparison_id=pair.id, p_a=p_a, weight=weight)
    stage.run.stages[3].rows("preferences", Preference).append([row])
    return row
