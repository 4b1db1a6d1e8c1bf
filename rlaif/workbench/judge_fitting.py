"""`rlaif judge fit`: opening what a fit needs, and writing it where held-out labels improve."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.audit.card import JudgeSetting
from rlaif.audit.cases import from_examples, sampled
from rlaif.audit.fit import Fitting
from rlaif.audit.fit_numerics import PRIOR_FROM
from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.engines.fit import ADAPTER, FILE, KINDS, JudgeFit, is_unwritten
from rlaif.errors import UserError
from rlaif.feedback.judge import JudgeQuestion
from rlaif.feedback.labelled import LabelledPair
from rlaif.human.folder import keep_last, said_of, with_implied_p
from rlaif.records import Label, Prompt
from rlaif.runs.folder import silent_progress
from rlaif.workbench.pairs import read_pairs


def fit_judge(
    config: Config,
    base: Path,
    prompts: Sequence[Prompt],
    labels: Sequence[Path],
    out: Path,
    pairs: int = 200,
    seed: int | None = None,
    progress: Any = silent_progress,
    kinds: Sequence[str] = KINDS,
    train: bool = False,
) -> dict[str, Any]:
    """Fit a config's feedback model on people's labels, or without any on the two orders alone, and write the
    folder `out` where that is better on what the fit has not seen (`taken` in the report). With `train` the
    labels train an adapter, in place of what is chosen among `kinds`.

    Readings and adapters of a command that was killed or refused stay in `out` with the ending .readings, and
    are taken from there. Raises UserError where `out` holds something, or nothing can be fitted.
    """
    if train:
        _require_trainable(config, labels)
    if out.name in ("", ".."):  # "." has no name that an ending could be put to
        out = Path(os.path.abspath(out))
    kept = Path(f"{out}.readings")
    # With readings beside it, the command that wrote a fit was killed before it removed them.
    written = kept.is_dir() and (out / FILE).is_file()
    if out.exists() and not (out.is_dir() and is_unwritten(out)) and not written:
        raise _is_there(out)
    constitution = Constitution.load(Path(config.constitution))
    dropped: Counter[str] = Counter()
    read = people_labels(labels, constitution, dropped) if labels else []
    plain = config.model_copy(update={"feedback": config.feedback.model_copy(update={"fit": None})})
    setting = JudgeSetting.of(plain, base)
    if setting.reasoning:
        raise UserError(
            "the label stage lets the judge reason first (cot), and a fit is of verdicts read at once.",
            "cot: false",
            "-s label.cot=false",
        )
    judge = setting.judge(constitution)
    states, number = config.feedback.kind.gives_states, config.seed if seed is None else seed
    fitting = Fitting(judge, constitution, states, kept, number, kinds, progress, dropped)
    if written:
        _require_same(out, fitting, sum(len(pair.labels) for pair in read), train)
    if train:
        fit, report = fitting.from_training(read)
    elif labels:
        fit, report = fitting.from_labels(read)
    else:
        fit, report = fitting.from_orders(_unlabelled(plain, prompts, pairs, fitting))
    report = {"out": str(out), "model": config.feedback.model, **report}
    if fit is None or not report["taken"]:
        return report | {"fit": None}
    if not written:
        fit.save(out)
    elif JudgeFit.load(out).fingerprint != fit.fingerprint:
        raise _is_there(out)
    shutil.rmtree(kept)
    return report | {"fit": fit.fingerprint}


def _require_same(out: Path, fitting: Fitting, labels: int, train: bool) -> None:
    """UserError where the fit in `out` is another one than this command's, as far as that is known before
    anything is asked."""
    there = JudgeFit.load(out)
    about = {**(there.about or {}), "model": there.model}
    here = {
        "model": fitting.judge.engine.fingerprint,
        "constitution": fitting.constitution.name,
        "labels": labels,
        "seed": fitting.seed,
    }
    kinds = [ADAPTER] if train else fitting.kinds if labels else ["prior"]
    if train:
        from rlaif.audit.fit_adapter import SETTING

        here["setting"] = SETTING
    found = [
        f"{key} {about.get(key)}, here {value}" for key, value in here.items() if about.get(key) != value
    ]
    if there.kind not in kinds:
        found.append(f"kind {there.kind}, here {' or '.join(kinds)}")
    if found:
        raise _is_there(out, f", and another fit ({'; '.join(found)})")


def _is_there(out: Path, differs: str = "") -> UserError:
    return UserError(
        f"{out}: is there already{differs}.", "a folder of its own for each fit", "name another, or remove it"
    )


def _require_trainable(config: Config, labels: Sequence[Path]) -> None:
    """UserError where an adapter cannot be trained, before anything is asked."""
    judge = config.feedback
    if not labels:
        raise UserError(
            "--train: no labels to train on.",
            "people's labels of pairs",
            "--labels people.jsonl, or leave --train out",
        )
    if not judge.kind.takes_adapters:
        raise UserError(
            f"--train: feedback.engine is {judge.engine}, through which {judge.model} cannot be trained.",
            "engine: transformers, which has the model's weights on this machine",
            "name the model as a folder or hub id with engine: transformers, or leave --train out: a "
            "temperature needs no weights",
        )
    from rlaif.rl.lora import require_peft

    require_peft("--train")


def people_labels(
    paths: Sequence[Path], constitution: Constitution, dropped: Counter[str]
) -> list[LabelledPair]:
    """The pairs that people labelled, with their texts; `dropped` counts what was left out, by reason. Of two
    labels of one person on one pair the last counts, in the order of the paths.

    Raises UserError where a path cannot be read or no label can be used.
    """
    found: dict[str, LabelledPair] = {}
    for path in paths:
        pairs = read_pairs(path)
        dropped.update(pairs.left_out)
        for comparison, labels in pairs.labels.items():
            if comparison not in pairs.comparisons:
                dropped["label on a pair that is not there"] += len(labels)
                continue
            said = {said_of(row): row for row in found[comparison].labels} if comparison in found else {}
            for label in labels:
                if reason := _why_not(label, constitution):
                    dropped[reason] += 1
                else:
                    keep_last(said, said_of(label), with_implied_p(label), dropped)
            if said:
                pair, texts = pairs.comparisons[comparison], pairs.texts(comparison)
                found[comparison] = LabelledPair(pair, pairs.prompt(comparison), *texts, tuple(said.values()))
    if not found:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in sorted((+dropped).items())) or "there is none"
        raise UserError(
            f"{', '.join(map(str, paths))}: no label can be used ({reasons}).",
            "people's labels on pairs, under the constitution's principles or on the whole",
            "rlaif annotate makes them, rlaif data import reads those of other projects",
        )
    return list(found.values())


def _why_not(label: Label, constitution: Constitution) -> str | None:
    """Why a label says nothing here, None where it does."""
    if label.annotator.kind == "ai":
        return "label by a judge"
    if label.verdict in ("abstain", "invalid"):
        return "label without a verdict"
    known = label.principle_id is None or label.principle_id in constitution.ids
    return None if known else "label under a principle that the constitution lacks"


def _unlabelled(
    config: Config, prompts: Sequence[Prompt], pairs: int, fitting: Fitting
) -> list[JudgeQuestion]:
    """The examples of the constitution, and pairs of the policy's own responses where there are prompts."""
    constitution, seed = fitting.constitution, fitting.seed
    cases = from_examples(constitution, seed, fitting.judge.shots)
    if prompts:
        cases += sampled(config, constitution, prompts, pairs, seed, None, fitting.dropped, fitting.progress)
    found = {(c.question.comparison.id, c.question.principles): c.question for c in cases}
    if len(found) < PRIOR_FROM:
        raise UserError(
            f"{len(found)} pairs to ask about in both orders.",
            f"{PRIOR_FROM} at least: a config with prompts, or labelled pairs",
            "rlaif judge fit CONFIG, or --labels people.jsonl",
        )
    return list(found.values())
