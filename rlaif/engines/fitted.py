"""A fitted judge as an engine: the model behind, with its verdicts corrected by a `JudgeFit`.

Questions on pairs get the fit's log-odds; the probability on both answers together stays the model's. With a
head on responses, the score of one response moves with them: its choices' log-probabilities are tilted by the
head's utility, so that the difference of two responses' log-odds moves as the verdict on them does (a
Bradley–Terry utility). An adapter is on the model only while it is asked about pairs. Everything else
(texts, other questions) is the model's own.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.config import ModelConfig
from rlaif.engines import Engine, GenerateRequest, Generation, ScoreRequest, Scores, Subject
from rlaif.engines.fit import ADAPTER, HEADS, Floats, JudgeFit
from rlaif.errors import UserError

PAIR = ("A", "B")
WINDOW = 512  # questions whose responses' states are read before they are asked
REMEMBERED = 8192  # responses whose states are kept
UNSEEN = "the judge's fit has no numbers of its own for some principles: the shared ones are used"
UNSEALED = (
    "the judge's fit is of an earlier version and has no checksum: whether its numbers are as written "
    "is not known (fit again to have one)"
)


def fitted(engine: Engine, config: ModelConfig, cache: Path | None) -> tuple[Engine, bool]:
    """(the engine with the config's fit, whether what it says may be cached).

    A fit without head and adapter is arithmetic on the model's scores: these are cached, and serve any such
    fit. Raises UserError where the fit cannot be read, is of another model, or needs what the engine has not.
    """
    where = Path(config.fit or "")
    fit = JudgeFit.load(where)
    fit.require(engine.fingerprint, where)
    if fit.kind not in (*HEADS, ADAPTER):
        if cache is not None:
            from rlaif.engines.cache import CachedEngine

            engine = CachedEngine(engine, cache)
        return FittedEngine(engine, fit), False
    kind, name = config.kind, config.engine
    if not (kind.takes_adapters if fit.kind == ADAPTER else kind.gives_states):
        a_head = f"a head on hidden states, which engine: {name} does not give"
        what = f"an adapter, which engine: {name} does not load" if fit.kind == ADAPTER else a_head
        raise UserError(
            f"{where}: {what}.",
            f"engine: transformers, or a fit without {'an adapter' if fit.kind == ADAPTER else 'a head'}",
            "rlaif judge fit with this engine makes one",
        )
    return FittedEngine(engine, fit), True


class FittedEngine:
    """An engine whose verdicts are corrected by a fit."""

    def __init__(self, engine: Any, fit: JudgeFit) -> None:
        self.engine, self.fit = engine, fit
        self.usage, self.notes, self.batched = engine.usage, engine.notes, engine.batched
        if not fit.sealed:
            self.notes.append(UNSEALED)
        self._known: OrderedDict[tuple[str, str], Floats | None] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)  # what single engines have beside the protocol, such as health

    @property
    def fingerprint(self) -> str:
        """The model's, and the fit's."""
        return f"{self.engine.fingerprint}+fit@{self.fit.fingerprint}"

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """The model's own texts."""
        yield from self.engine.generate(requests)

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """The fitted verdicts on pairs and scores of responses; other questions as the model answers them."""
        for start in range(0, len(requests), WINDOW):
            part = requests[start : start + WINDOW]
            for request in part:
                self._require_fitting(request)
            if self.fit.kind == "verdicts":
                for index, scores, states in self.engine.score_with_states(part, [self.fit.layer]):
                    own = states[:, 0].astype(float) if states.size else None
                    yield start + index, self._corrected(part[index], scores, own)
                continue
            if self.fit.kind == "responses":
                self._look_at([r.subject for r in part if r.subject])
            ask = self._with_adapter if self.fit.kind == ADAPTER else self.engine.score_choices
            for index, scores in ask(part):
                yield start + index, self._corrected(part[index], scores, None)

    def _with_adapter(self, part: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """The model's scores, on pairs with the adapter: all of them at once, so that nothing that is asked
        between two of them finds it there."""
        from rlaif.engines.adapter import adapted

        pairs = [at for at, request in enumerate(part) if request.choices == PAIR]
        others = [at for at, request in enumerate(part) if request.choices != PAIR]
        if pairs:
            with adapted(self.engine.model, self.fit.adapter, self.fit.alpha):
                read = list(self.engine.score_choices([part[at] for at in pairs]))
            yield from ((pairs[at], scores) for at, scores in read)
        for at, scores in self.engine.score_choices([part[at] for at in others]):
            yield others[at], scores

    def _require_fitting(self, request: ScoreRequest) -> None:
        """UserError for a question on a pair that is not asked as it was when the fit was made."""
        if request.choices != PAIR or (request.subject and request.subject.wording == self.fit.wording):
            return
        raise UserError(
            "the judge's fit is of verdicts on pairs that were asked about otherwise: by other templates or "
            "few-shot examples, or without reasoning or all responses at once.",
            "mode: pairwise without cot, with the templates and few_shot of the fit",
            "set them so, or fit the judge as it is asked here: rlaif judge fit CONFIG",
        )

    def _corrected(self, request: ScoreRequest, scores: Scores, states: Floats | None) -> Scores:
        about = request.subject
        if about is None or scores.too_long:
            return scores
        paired = request.choices == PAIR
        utilities = None
        if self.fit.kind == "responses":
            read = [self._known.get(_key(about, text)) for text in about.responses]
            if any(x is None for x in read):
                return Scores(((),) * len(request.suffixes), scores.prompt_tokens)
            utilities = np.array(read)
        rows = []
        for at, suffix in enumerate(request.suffixes):
            row = scores.logprobs[at] if at < len(scores.logprobs) else ()
            if not scores.readable(at):
                rows.append(row)
            elif paired:
                x = states[at] if states is not None else None
                x = utilities[0] - utilities[1] if utilities is not None else x
                rows.append(self._verdict(suffix, row, x))
            elif utilities is not None and about.worth:
                rows.append(self._tilted(suffix, row, about.worth, utilities[0]))
            else:
                rows.append(row)
        return Scores(tuple(rows), scores.prompt_tokens, refused=scores.refused)

    def _verdict(self, suffix: str, row: Sequence[float], x: Floats | None) -> tuple[float, ...]:
        """The log-probabilities of A and B with the fit's log-odds and the model's mass."""
        at = self.fit.row(suffix)
        if at == len(self.fit.keys) - 1 and len(self.fit.keys) > 1 and UNSEEN not in self.notes:
            self.notes.append(UNSEEN)
        top = max(row)
        mass = top + math.log(sum(math.exp(r - top) for r in row))
        z = self.fit.logit(at, row[0] - row[1], x)
        return mass - float(np.logaddexp(0, -z)), mass - float(np.logaddexp(0, z))

    def _tilted(
        self, suffix: str, row: Sequence[float], worth: Sequence[float], x: Floats
    ) -> tuple[float, ...]:
        """The choices' log-probabilities with the best against the worst moved by the head's utility."""
        low, high = min(worth), max(worth)
        utility = float(self.fit.head[self.fit.row(suffix)] @ x)
        moved = [r + utility * (w - low) / (high - low) for r, w in zip(row, worth, strict=True)]
        before, after = (max(rs) + math.log(sum(math.exp(r - max(rs)) for r in rs)) for rs in (row, moved))
        return tuple(r + before - after for r in moved)

    def _look_at(self, subjects: Sequence[Subject]) -> None:
        """Read the states of these subjects' responses that are not known yet."""
        missing: dict[str, tuple[Subject, dict[str, None]]] = {}
        for about in subjects:
            for text in about.responses:
                key = _key(about, text)
                if key in self._known:
                    self._known.move_to_end(key)
                else:
                    missing.setdefault(key[0], (about, {}))[1][text] = None
        asked = [(about, tuple(texts)) for about, texts in missing.values()]
        read = self.engine.response_states([(s.prompt, texts) for s, texts in asked], [self.fit.layer])
        for index, states in read:
            about, texts = asked[index]
            for at, text in enumerate(texts):
                self._known[_key(about, text)] = states[at, 0].astype(float) if states.size else None
        while len(self._known) > max(REMEMBERED, 2 * WINDOW):
            self._known.popitem(last=False)


def _key(about: Subject, text: str) -> tuple[str, str]:
    return "\0".join(f"{m['role']}\1{m['content']}" for m in about.prompt), text
