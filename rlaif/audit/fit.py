"""A judge fitted on few labels of people, and whether it is better for it.

    pairs ─► asked in both orders ─► prior ─┐
    people's opinions ─► outer folds: choose and fit on four, measure on the fifth ─► better? ─► fitted on all

Nothing that is measured has been fitted or chosen on the same prompts: kind, layer and ridge are chosen by
inner folds of the other four (nested cross-validation: Varma and Simon, BMC Bioinformatics 7, 2006).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.audit.fit_numerics import (
    HEAD_FROM,
    Numbers,
    Opinions,
    choose,
    fit_numbers,
    nested,
    order_priors,
    settings_for,
    unfitted,
)
from rlaif.audit.fit_readings import Collected, collect
from rlaif.audit.fit_verdict import measured_on_labels, measured_on_orders
from rlaif.constitution import Constitution
from rlaif.engines.fit import ADAPTER, HEADS, KINDS, SHARED, JudgeFit
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.feedback.labelled import LabelledPair, sides
from rlaif.records import content_hash
from rlaif.runs.folder import silent_progress

UNREAD = "opinion on a pair on which the judge could not be read"
UNASKED = "opinion on a pair to which no principle applies"


@dataclass(frozen=True)
class Fitting:
    """What a fit is made of: a judge that is not fitted yet, its constitution, and whether its hidden states
    can be read; `kept` is where its readings are kept meanwhile."""

    judge: Judge
    constitution: Constitution
    states: bool
    kept: Path
    seed: int = 0
    kinds: Sequence[str] = KINDS
    progress: Any = silent_progress
    dropped: Counter[str] = field(default_factory=Counter)

    def from_labels(self, pairs: Sequence[LabelledPair]) -> tuple[JudgeFit, dict[str, Any]]:
        """(the fit on all labels, what held-out labels say of it); raises UserError for labels that cannot
        tell."""
        asked = self._asked(pairs)
        wanted = sum(len(pair.opinions()) for pair, _ in asked)
        heads = self.states and wanted >= HEAD_FROM and any(kind in self.kinds for kind in HEADS)
        read, opinions = self._read(asked, heads)
        return self._fitted(read, opinions, sum(len(pair.labels) for pair in pairs))

    def from_training(self, pairs: Sequence[LabelledPair]) -> tuple[JudgeFit | None, dict[str, Any]]:
        """The same with an adapter trained on the labels; None where held-out labels do not improve."""
        from rlaif.audit.fit_adapter import SETTING, Training, require_opinions

        asked = self._asked(pairs)
        require_opinions(sum(len(pair.opinions()) for pair, _ in asked))
        read, opinions = self._read(asked, False)
        require_opinions(len(opinions.p_a))
        questions, names = [question for _, question in asked], self.constitution.ids
        training = Training(self, questions, read, opinions, self._fit(unfitted(len(names)), (), {}))
        later = training.heldout()
        found, numbers = training.temperatures(later)
        report = {
            **self._facts(read, numbers),
            "kind": ADAPTER,
            "setting": SETTING,
            "prior": {},
            "labels": sum(len(pair.labels) for pair in pairs),
            "opinions": len(opinions.p_a),
            "chosen": [],
            **measured_on_labels(found, read.readings, opinions, names, later),
        }
        if not report["taken"]:
            return None, report
        made, fit = training.trained(training.fold >= 0, "all labels"), self._fit(numbers, (), report)
        return replace(fit, kind=made.kind, adapter=made.adapter, alpha=made.alpha), report

    def _asked(self, pairs: Sequence[LabelledPair]) -> list[tuple[LabelledPair, JudgeQuestion]]:
        """Pairs with what the judge is asked about them; UserError for labels that cannot tell."""
        for_a, for_b = sides(pairs)
        if not (for_a and for_b):
            n, side = sum(len(pair.labels) for pair in pairs), "first" if for_a else "second"
            raise UserError(
                f"of {n} labels {for_a + for_b} prefer the {side} response, and none the other."
                if for_a + for_b
                else f"none of {n} labels prefers a response.",
                "labels on both sides: which response stands first must not tell which is better",
                "swap a and b in half of the rows, or import the file: rlaif data import",
            )
        asked = [(pair, pair.question(self.constitution)) for pair in pairs]
        self.dropped[UNASKED] += sum(len(pair.opinions()) for pair, q in asked if q is None)
        return [(pair, q) for pair, q in asked if q is not None]

    def _read(
        self, asked: Sequence[tuple[LabelledPair, JudgeQuestion]], states: bool
    ) -> tuple[Collected, Opinions]:
        """What the judge says of the pairs, and people's opinions of what could be read."""
        read = self._collect([q for _, q in asked], states)
        opinions = opinions_of([pair for pair, _ in asked], read, self.constitution, self.dropped)
        if not len(opinions.p_a):
            raise UserError(
                "the judge could be read on none of the labelled pairs.",
                "a judge that answers with A or B",
                "rlaif judge audit says what it answers",
            )
        return read, opinions

    def _fitted(self, read: Collected, opinions: Opinions, votes: int) -> tuple[JudgeFit, dict[str, Any]]:
        groups = len(self.constitution.principles)
        prior = order_priors(read.readings, groups)
        settings = settings_for(read.readings, opinions, self.kinds)
        with self.progress("held-out folds", len(opinions.p_a)) as tick:
            found = []
            for held, numbers in nested(settings, read.readings, opinions, prior, self.seed):
                found.append((held, numbers))
                tick(int(held.sum()))
        setting, _ = choose(settings, read.readings, opinions, prior, self.seed)
        numbers = fit_numbers(setting, read.readings, opinions, prior)
        report = {
            **self._facts(read, numbers),
            "labels": votes,
            "opinions": len(opinions.p_a),
            "chosen": Counter(_words(fold.setting, read.layers) for _, fold in found).most_common(),
            **measured_on_labels(found, read.readings, opinions, self.constitution.ids),
        }
        return self._fit(numbers, read.layers, report), report

    def from_orders(self, questions: Sequence[JudgeQuestion]) -> tuple[JudgeFit, dict[str, Any]]:
        """The same without labels: the prior alone, measured by the verdicts that change with the order."""
        read = self._collect(questions, False)
        groups = len(self.constitution.principles)
        clusters = {q.comparison.id: q.prompt.cluster for q in questions}
        of = np.unique([clusters[pair] for pair, _ in read.place], return_inverse=True)[1]
        numbers = unfitted(groups, order_priors(read.readings, groups))
        report = {
            **self._facts(read, numbers),
            "labels": 0,
            "opinions": 0,
            "chosen": [],
            **measured_on_orders(read.readings, of, groups, self.constitution.ids, self.seed),
        }
        return self._fit(numbers, read.layers, report), report

    def _collect(self, questions: Sequence[JudgeQuestion], states: bool) -> Collected:
        read = collect(self.judge, questions, self.constitution.ids, self.kept, states, self.progress)
        self.dropped["verdict that could not be read"] += read.unread
        return read

    def _facts(self, read: Collected, numbers: Numbers) -> dict[str, Any]:
        names = [*self.constitution.ids, "all others"]
        used = np.bincount(read.readings.principle, minlength=len(names)) > 0
        used[-1] = True
        scale = [None if s == 0 else 1 / s for s in numbers.scale.tolist()]
        return {
            "judge": self.judge.engine.fingerprint,
            "constitution": self.constitution.name,
            "seed": self.seed,
            "kind": numbers.setting.kind,
            "setting": _words(numbers.setting, read.layers),
            "readings": len(read.readings.own),
            "dropped": dict(sorted((+self.dropped).items())),
            "prior": {n: p for n, p, u in zip(names, numbers.prior.tolist(), used, strict=True) if u},
            "temperature": {n: t for n, t, u in zip(names, scale, used, strict=True) if u},
        }

    def _fit(self, numbers: Numbers, layers: tuple[int, ...], report: dict[str, Any]) -> JudgeFit:
        keys = [content_hash(self.judge.templates.comparison_suffix(p)) for p in self.constitution.principles]
        told = ("constitution", "seed", "labels", "opinions", "setting", "heldout")
        about = {name: report[name] for name in told if name in report}
        return JudgeFit(
            kind=numbers.setting.kind,
            model=self.judge.engine.fingerprint,
            wording=self.judge.wording,
            keys=(*keys, SHARED),
            prior=numbers.prior,
            scale=numbers.scale,
            head=numbers.head,
            middle=numbers.middle,
            layer=layers[numbers.setting.layer] if numbers.setting.kind in HEADS else 0,
            about=about,
        )


def opinions_of(
    pairs: Sequence[LabelledPair], read: Collected, constitution: Constitution, dropped: Counter[str]
) -> Opinions:
    """People's opinions as arrays; one on the whole comparison takes all principles that apply, by weight."""
    p_a, cluster, principle, rows = [], [], [], []
    for pair in pairs:
        weights = {p.id: p.weight for p in constitution.applicable(pair.prompt.tags)}
        for named, p in pair.opinions().items():
            parts = {named: 1.0} if named is not None else weights
            places = {read.place.get((pair.comparison.id, name)): w for name, w in parts.items() if w}
            if None in places or not places:
                dropped[UNREAD] += 1
                continue
            rows += [(len(p_a), place, w) for place, w in places.items()]
            p_a.append(p)
            cluster.append(pair.prompt.cluster)
            principle.append(-1 if named is None else constitution.ids.index(named))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return Opinions(
        np.array(p_a),
        np.unique(cluster, return_inverse=True)[1].astype(np.intp),
        np.array(principle, np.intp),
        np.array(columns[0], np.intp),
        np.array(columns[1], np.intp),
        np.array(columns[2], float),
    )


def _words(setting: Any, layers: Sequence[int]) -> str:
    """A setting in words."""
    if setting.kind not in HEADS:
        each = ", a principle its own" if setting.own else ""
        return {"prior": "order prior", "temperature": "order prior and temperature"}[setting.kind] + each
    where = {"responses": "the mean over each response", "verdicts": "the verdict's position"}[setting.kind]
    own = "a head a principle, drawn to a shared one" if setting.own else "one head"
    return f"{own} on {where}, layer {layers[setting.layer]}, ridge {setting.strength:g}"
