"""A judge trained on people's labels: LoRA (arXiv 2106.09685) on the log-probabilities of its verdicts.

    opinions ─► outer folds: train on four, ask about the fifth ─► temperature ─► better? ─► train on all

The loss of an opinion is the cross-entropy of the log-odds in either order against it, and −log of the
probability on both answers together, so that these stay the model's answers: for one verdict the two are the
cross-entropy over the whole vocabulary. Nothing is chosen, so that the outer folds measure what is trained;
the settings are constants here.

Few labels train a judge that is too sure. Its temperature is fitted on what the folds' adapters say of the
prompts that they have not seen; a fold is measured with that of the other folds. (Adapters of the others have
seen its labels, so that one number depends on them, with no bias for them; the side of a verdict, on which
labels without information are refused, does not change with it.)

Each adapter is kept beside the readings when it is trained: a killed command goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from rlaif.audit.fit_numerics import OUTER, Numbers, Opinions, Readings, Setting, fit_numbers, folds
from rlaif.audit.fit_readings import Collected, collect
from rlaif.engines.fit import ADAPTER, JudgeFit
from rlaif.engines.fitted import PAIR, FittedEngine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.options import LoraOptions
from rlaif.records import ORDERS, content_hash
from rlaif.rl.lora import attach

if TYPE_CHECKING:
    from rlaif.audit.fit import Fitting

TRAIN_FROM = 50  # opinions from which an adapter is trained
RANK, ALPHA = 8, 16
EPOCHS, BATCH = 4, 16  # passes over the opinions, opinions a step
RATE, WARM_UP = 0.02, 0.1  # of AdamW: the highest times √hidden_size, the share of steps in which it rises
TOKENS = 2048  # in one pass with gradients; an opinion's own questions at least
SETTING = f"a LoRA adapter of rank {RANK} on all linear layers, {EPOCHS} epochs"


def require_opinions(count: int) -> None:
    """UserError where there are too few opinions to train on."""
    if count < TRAIN_FROM:
        raise UserError(
            f"--train: {count} opinions.",
            f"{TRAIN_FROM} at least, of which four fifths train and one fifth measures, in turn",
            "label more pairs (rlaif annotate), or leave --train out",
        )


@dataclass(frozen=True)
class Training:
    """What adapters are trained on: the questions on labelled pairs, what the judge said of them and what
    people say. `blank` is a fit to put adapters in."""

    fitting: Fitting
    questions: Sequence[JudgeQuestion]
    read: Collected
    opinions: Opinions
    blank: JudgeFit

    @property
    def judge(self) -> Judge:
        """The judge that is not fitted yet."""
        return self.fitting.judge

    @cached_property
    def fold(self) -> NDArray[np.intp]:
        """The outer fold of each opinion [N], whole prompts each."""
        return folds(self.opinions.cluster, OUTER, self.fitting.seed)

    def heldout(self) -> Readings:
        """What is said of each pair by a judge that was trained on the other folds. Where that cannot be read
        it says ½, and another response in the other order."""
        given, fold = self.fitting, self.fold
        own, lean = np.zeros(len(self.read.readings.own)), np.ones(len(self.read.readings.own))
        for held in range(OUTER):
            if not (fold == held).any():
                continue
            fit = self.trained(fold != held, f"fold {held + 1} of {OUTER}")
            asked = set(self.opinions.reading[(fold == held)[self.opinions.opinion]].tolist())
            pairs = {pair for (pair, _), at in self.read.place.items() if at in asked}
            judge = replace(self.judge, engine=FittedEngine(self.judge.engine, fit))
            part = [q for q in self.questions if q.comparison.id in pairs]
            said = collect(judge, part, given.constitution.ids, given.kept, False, given.progress)
            for place, at in said.place.items():
                if (row := self.read.place.get(place)) in asked:
                    own[row], lean[row] = said.readings.own[at], said.readings.lean[at]
        return Readings(own, lean, self.read.readings.principle)

    def temperatures(self, later: Readings) -> tuple[list[tuple[NDArray[np.bool_], Numbers]], Numbers]:
        """(which opinions are held out, the temperature of `heldout` on all others), fold by fold; and that
        on all."""
        none = np.zeros(len(self.blank.keys))

        def fitted(rows: NDArray[np.bool_]) -> Numbers:
            return fit_numbers(Setting("temperature"), later, self.opinions.of(rows), none)

        found = [(self.fold == held, fitted(self.fold != held)) for held in range(OUTER)]
        return found, fitted(self.fold >= 0)

    def trained(self, kept: NDArray[np.bool_], what: str) -> JudgeFit:
        """The fit with an adapter trained on these opinions, from its file where it was trained before."""
        opinions = self.opinions.of(kept)
        places = [place for place, _ in sorted(self.read.place.items(), key=lambda pair: pair[1])]
        told = [opinions.p_a.tolist(), opinions.opinion.tolist(), opinions.weight.tolist()]
        told.append([places[at] for at in opinions.reading])
        made = [RANK, ALPHA, EPOCHS, BATCH, RATE, WARM_UP]
        fit, seed = self.blank, self.fitting.seed
        name = content_hash(ADAPTER, fit.model, fit.wording, fit.keys, made, seed, *told)
        folder = self.fitting.kept / f"{ADAPTER}-{name}"
        try:
            return JudgeFit.load(folder)
        except UserError:  # it is not there, or damaged
            pass
        with self.fitting.progress(f"training: {what}", EPOCHS * len(opinions.p_a)) as tick:
            weights = self._train(opinions, places, tick)
        fit = replace(fit, kind="adapter", adapter=weights, alpha=float(ALPHA))
        fit.save(folder)
        return fit

    def _train(
        self, opinions: Opinions, places: Sequence[tuple[str, str]], tick: Callable[[int], None]
    ) -> dict[str, NDArray[np.float32]]:
        """The weights of an adapter."""
        from peft import get_peft_model_state_dict

        engine: Any = self.judge.engine
        rows = self._rows(places)
        model = attach(engine.model, LoraOptions(rank=RANK, alpha=ALPHA), "", self.fitting.seed)
        try:
            weights = [w for w in engine.model.parameters() if w.requires_grad]
            steps = EPOCHS * -(-len(opinions.p_a) // BATCH)
            rate = RATE / engine.model.config.get_text_config().hidden_size ** 0.5
            optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
            rng = np.random.default_rng(self.fitting.seed)
            for _ in range(EPOCHS):
                order = rng.permutation(len(opinions.p_a)).tolist()
                for start in range(0, len(order), BATCH):
                    batch = order[start : start + BATCH]
                    for part in _within(batch, opinions, rows):
                        (self._loss(opinions, part, rows) / len(batch)).backward()
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                    tick(len(batch))
            state = get_peft_model_state_dict(model, save_embedding_layers=False)
            made = {name: w.detach().float().cpu().numpy().copy() for name, w in state.items()}
        finally:
            model.unload()
        if not all(np.isfinite(w).all() for w in made.values()):
            raise UserError(
                f"--train: the training diverged, its weights are not numbers (in {engine.dtype}).",
                "a model whose log-probabilities and their gradients are finite",
                "-s feedback.dtype=float32, or leave --train out",
            )
        return made

    def _rows(self, places: Sequence[tuple[str, str]]) -> list[list[list[int]]]:
        """The tokens of the questions about each pair under a principle, in both orders."""
        questions, engine = {q.comparison.id: q for q in self.questions}, cast(Any, self.judge.engine)
        rows = []
        for pair, principle in places:
            question = questions[pair]
            asked = [p for p in question.principles if p.id == principle]
            rows.append([engine.tokens_of(self.judge.request(question, order, asked)) for order in ORDERS])
        return rows

    def _loss(self, opinions: Opinions, part: Sequence[int], rows: Sequence[Sequence[list[int]]]) -> Tensor:
        """The loss of some opinions, added up."""
        engine: Any = self.judge.engine
        of = [at for n in part for at in np.flatnonzero(opinions.opinion == n).tolist()]  # M of N opinions
        tokens = [rows[opinions.reading[at]][order] for order in (0, 1) for at in of]
        answers = engine.choice_logprobs(tokens, PAIR).unflatten(0, (2, len(of)))  # [2, M, 2]
        turn = answers.new_tensor([[1.0], [-1.0]])  # the first response is b in the other order
        odds, mass = turn * (answers[..., 0] - answers[..., 1]), answers.logsumexp(-1)
        where = torch.tensor([part.index(opinions.opinion[at]) for at in of], device=odds.device)
        weight = odds.new_tensor(opinions.weight[of])
        none = odds.new_zeros(2, len(part))
        total = none[0].index_add(0, where, weight)
        z = none.index_add(1, where, weight * odds)
        captured = none.index_add(1, where, weight / total[where] * mass)
        y = odds.new_tensor(opinions.p_a[list(part)]).expand_as(z)
        return (cross_entropy(z, y, reduction="none") - captured).mean(0).sum()


def _within(batch: Sequence[int], opinions: Opinions, rows: Sequence[Sequence[list[int]]]) -> list[list[int]]:
    """A batch in parts whose questions have at most TOKENS tokens, padding included; one opinion at least."""
    parts: list[list[int]] = []
    count = longest = 0
    for number in batch:
        read = opinions.reading[opinions.opinion == number].tolist()
        own, most = 2 * len(read), max(len(ids) for at in read for ids in rows[at])
        if not parts or (count + own) * max(longest, most) > TOKENS:
            parts.append([])
            count = longest = 0
        parts[-1].append(int(number))
        count, longest = count + own, max(longest, most)
    return parts


def _rate(step: int, steps: int) -> float:
    """The share of the highest rate at a step: linear up to it and down to 0."""
    up = max(1, round(WARM_UP * steps))
    return min((step + 1) / up, (steps - step) / max(1, steps - up + 1))
