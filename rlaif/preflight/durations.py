"""How long each stage of a config is likely to take on this machine, and about how much memory it takes.

From what has been measured of its models (`calibration`) and what its stages ask and compute. Texts are taken
to be as long as they were when measured, whatever the training makes of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rlaif.config import Config, ModelConfig
from rlaif.constitution import Constitution
from rlaif.options import CritiqueOptions, LabelOptions, StageOptions
from rlaif.options.plan import CHARACTERS, Asked, Plan, Work
from rlaif.preflight.calibration import MEGABYTE, Speed
from rlaif.preflight.estimate import amounts, plan_of
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.stats import sum_known

FLOAT = 4  # bytes of a number in fp32


def characters_in_a_token(speeds: Mapping[str, Speed]) -> tuple[float, float]:
    """Those of prompts, and of the judge's questions: measured, or the usual number."""
    policy, feedback = (
        speeds[role].characters if role in speeds else float(CHARACTERS) for role in ("policy", "feedback")
    )
    return policy, feedback


def at_most(characters: tuple[float, float]) -> tuple[float, float]:
    """The characters in a token by which no fewer tokens are counted than by the usual number."""
    return min(CHARACTERS, characters[0]), min(CHARACTERS, characters[1])


class Durations:
    """Seconds and megabytes, stage by stage in the order of the run, in one process."""

    def __init__(
        self,
        config: Config,
        constitution: Constitution,
        prompts: Sequence[Prompt],
        templates: Templates,
        speeds: Mapping[str, Speed],
    ) -> None:
        steady = speeds["feedback"].steady if "feedback" in speeds else None
        each = characters_in_a_token(speeds)
        self.likely = plan_of(config, constitution, prompts, templates, each, steady)
        self.most = plan_of(config, constitution, prompts, templates, at_most(each))
        self.config, self.speeds, self.trained = config, speeds, False
        self.begun, self.held = False, 0.0

    def of(self, options: StageOptions) -> dict[str, float | None]:
        """{seconds, memory} of the next stage, and the seconds of the judge's card where it makes one; None
        where a model that it asks is not known."""
        asked, work = self._gone_through(self.likely, self._with_likely_texts(options))
        asked_most, work_most = self._gone_through(self.most, options)
        # A process gives little of its memory back: a stage has at least that of the one before it.
        memory = self._memory(asked_most, work_most)
        self.held = max(self.held, memory or 0.0)
        found = {"seconds": self._seconds(asked, work), "memory": memory and self.held}
        card = [self._answering(question) for question in asked if question.examines]
        return found | ({"card_seconds": sum_known(card)} if card else {})

    def _gone_through(self, plan: Plan, options: StageOptions) -> tuple[list[Asked], Work | None]:
        asked, work = options.estimate(plan)[1], options.work(plan)
        plan.policies += "policy" in options.makes
        return asked, work

    def _with_likely_texts(self, options: StageOptions) -> StageOptions:
        """The options with texts as long as the model that writes them is likely to make them; a revision is
        as long as a response."""
        most, speeds = getattr(options, "max_tokens", None), self.speeds
        roles = ["feedback"] if isinstance(options, CritiqueOptions | LabelOptions) else ["policy"]
        if isinstance(options, CritiqueOptions):
            roles = ["feedback", "policy"] if options.critique else ["policy"]
        known = [speeds[role].expected(most) for role in roles if most and role in speeds]
        return options.model_copy(update={"max_tokens": mean(known)}) if known else options

    def _speed(self, model: ModelConfig | str) -> Speed | None:
        """That of the config's own model; another one is like the policy."""
        name = model if isinstance(model, str) else model.model
        role = "feedback" if name == self.config.feedback.model != self.config.policy.model else "policy"
        return self.speeds.get("feedback" if model is self.config.feedback else role)

    def _seconds(self, asked: Sequence[Asked], work: Work | None) -> float | None:
        total, opened = 0.0, set[int]()
        if not self.begun and self.speeds and (asked or work):
            total, self.begun = max(speed.imports for speed in self.speeds.values()), True
        for question in (question for question in asked if question.calls):
            answering, speed = self._answering(question), self._speed(question.model)
            if answering is None:
                return None
            total += answering
            if speed and self._priced(question) is None:
                total += speed.load if id(question.model) not in opened else 0.0
                opened.add(id(question.model))
        return self._computing(work, total)

    def _priced(self, question: Asked) -> float | None:
        """Seconds of 1,000 tokens by the config's price table."""
        price = self.config.prices.get(question.model.model)
        return price.seconds if price else None

    def _answering(self, question: Asked) -> float | None:
        """Seconds of all calls of a question, its model being loaded."""
        counts, speed, seconds = amounts(question), self._speed(question.model), self._priced(question)
        fresh = counts["prompt_tokens"] - counts["shared_tokens"]
        if seconds is not None:
            return (fresh + counts["tokens"]) / 1000 * seconds
        if speed is None:
            return None
        return fresh * (speed.read if question.written else speed.ask) + counts["tokens"] * speed.write

    def _computing(self, work: Work | None, total: float) -> float | None:
        if work is None:
            return total
        speed = self._speed(work.model)
        if speed is None:
            return None
        if work.learnt and not self.trained:
            total, self.trained = total + speed.training_imports, True
        total += work.learnt * speed.learn + work.read * speed.read + work.written * speed.writing(work.rows)
        return total + (work.trained + work.frozen) * speed.load

    def _memory(self, asked: Sequence[Asked], work: Work | None) -> float | None:
        """Megabytes of the process; on a GPU about as much of that, the libraries apart."""
        if not self.speeds:
            return None
        process = min(speed.process for speed in self.speeds.values())
        numbers = 0.0
        models = {id(q.model): q.model for q in asked if q.calls}
        for name, model in models.items():
            speed, own = self._speed(model), [q for q in asked if id(q.model) == name]
            batch = min(model.batch_tokens, max(q.calls * (q.shared + q.own + q.written) for q in own))
            numbers += speed.parameters + batch * speed.passing if speed else 0.0
        speed = self._speed(work.model) if work else None
        if work and speed:
            held = (work.frozen + 4 * work.trained) * speed.parameters + work.forward * speed.activations
            numbers += held
        return process + numbers * FLOAT / MEGABYTE


def durations(
    config: Config,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    templates: Templates,
    speeds: Mapping[str, Speed],
) -> list[dict[str, Any]]:
    """What `Durations.of` says of every stage of a run."""
    run = Durations(config, constitution, prompts, templates, speeds)
    return [run.of(options) for _, options in config.expanded]
