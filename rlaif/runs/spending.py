"""What a run asks of its models, in calls, tokens and money; and the budget at which it stops.

`spending.jsonl` in the run folder gets a line for every second or so of responses, by stage and model, so
that a killed process forgets next to nothing. Responses from the cache cost nothing. Training is not counted:
it asks no model.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import Config
from rlaif.errors import UserError
from rlaif.options.base import BudgetOptions, PriceOptions
from rlaif.runs.lookup import damaged_line, drop_torn_line, json_rows

FLUSH_SECONDS = 1.0
COUNTED = ("calls", "cached", "prompt_tokens", "shared_tokens", "tokens")
Amounts = Mapping[str, float]  # some of COUNTED


class BudgetReached(UserError):
    """The next question could exceed the budget; what was answered before is kept.

    `spent` is what has been spent of what, `caps` the options to raise, `command` the command that
    takes them.
    """

    code = 3

    def __init__(self, spent: str, caps: Sequence[str], command: str = "the same command") -> None:
        self.spent, self.caps = spent, caps
        super().__init__(
            f"The budget is reached: {spent} spent, and the next question could exceed it.",
            "a larger budget",
            f"{with_larger_budget(command, caps)} continues; every finished row is kept",
        )

    def name_command(self, command: str) -> None:
        """Say by which command the work continues."""
        BudgetReached.__init__(self, self.spent, self.caps, command)


def with_larger_budget(command: str, caps: Iterable[str]) -> str:
    """A command with the options that raise these caps."""
    return " ".join([command, *(f"-s {cap}=…" for cap in caps)])


def money(used: Amounts, price: PriceOptions | None) -> float:
    """What tokens cost; those served from a shared prefix at the price of cached ones where the table has
    one."""
    if price is None:
        return 0.0
    shared = used.get("shared_tokens", 0)
    cached = price.prompt if price.cached is None else price.cached
    fresh = used.get("prompt_tokens", 0) - shared
    return (fresh * price.prompt + shared * cached + used.get("tokens", 0) * price.completion) / 1e6


def amount_in_words(what: str, amount: float, digits: str = ",.10g") -> str:
    """An amount of calls, tokens or money; of money a config says how much, and not in which currency."""
    return f"{amount:{digits}} {'in the currency of the prices' if what == 'money' else what}"


class Ledger:
    """The spending of one run, added up over all its starts."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config, self.budget = path, config, config.budget or BudgetOptions()
        self.mended = False
        self.used: dict[tuple[str, str], Counter[str]] = {}
        self.waiting: dict[tuple[str, str], Counter[str]] = {}
        self.flushed = time.monotonic()
        for number, row in enumerate(json_rows(path), 1):
            try:
                self._add(self.used, row.pop("stage"), row.pop("model"), row)
            except (KeyError, TypeError, ValueError):
                raise damaged_line(path, number) from None

    @staticmethod
    def _add(to: dict[tuple[str, str], Counter[str]], stage: str, model: str, used: Amounts) -> None:
        to.setdefault((stage, model), Counter()).update({key: int(n) for key, n in used.items() if n})

    def price(self, model: str) -> PriceOptions | None:
        """The price of a model, None where the table has none."""
        return self.config.prices.get(self._role(model))

    def _role(self, model: str) -> str:
        """A model that the config does not name is one that the run made of its policy."""
        return model if model == self.config.feedback.model else self.config.policy.model

    def by_endpoint(self, model: str) -> bool:
        """Whether a server answers for the model, so that one question may take several requests."""
        roles = (self.config.feedback, self.config.policy)
        return any(role.kind.served for role in roles if role.model == self._role(model))

    def spend(self, stage: str, model: str, used: Amounts) -> None:
        """Count what a model was asked for."""
        model = self._role(model)
        self._add(self.used, stage, model, used)
        self._add(self.waiting, stage, model, used)
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what has not been written yet."""
        self.flushed = time.monotonic()
        rows = [{"stage": s, "model": m, **used} for (s, m), used in self.waiting.items() if used]
        if rows:
            if not self.mended:
                drop_torn_line(self.path)
            self.mended = False  # until all of it is written
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())  # or a power cut would give money back
            self.mended = True
        self.waiting.clear()

    def figures(self, stage: str | None = None) -> dict[str, Any]:
        """Calls, tokens and money so far, of the whole run or of one stage."""
        own = {key: used for key, used in self.used.items() if stage in (None, key[0])}
        total: Counter[str] = sum(own.values(), Counter())
        cost = sum(money(used, self.price(model)) for (_, model), used in own.items())
        return dict.fromkeys(COUNTED, 0) | total | ({"money": round(cost, 6)} if self.config.prices else {})

    def remaining(self) -> dict[str, float]:
        """What the budget still allows of each thing it caps."""
        so_far = self.figures()
        so_far["tokens"] += so_far["prompt_tokens"]
        return {key: cap - so_far[key] for key, cap in self.budget.model_dump(exclude_none=True).items()}

    def affordable(self, model: str, most: Iterable[Amounts]) -> int:
        """How many of the next questions fit, each at the most it can cost; raises BudgetReached where none
        does."""
        left, price = self.remaining(), self.price(model)
        count = 0
        for need in most:
            costs = {**need, "tokens": need["tokens"] + need["prompt_tokens"], "money": money(need, price)}
            left = {key: rest - costs[key] for key, rest in left.items()}
            over = [key for key, rest in left.items() if rest < -1e-9]
            if over:
                if not count:
                    raise self._reached(over)
                break
            count += 1
        return count

    def _reached(self, over: Sequence[str]) -> BudgetReached:
        """`over` are the caps that the next question could exceed."""
        left = self.remaining()
        caps = self.budget.model_dump(exclude_none=True)
        spent = ", ".join(
            f"{caps[key] - left[key]:,.10g} of {amount_in_words(key, caps[key])}" for key in caps
        )
        return BudgetReached(spent, [f"budget.{key}" for key in over])


class Account:
    """One stage's page in the ledger, with what its engines have to say."""

    def __init__(self, ledger: Ledger, stage: str) -> None:
        self.ledger, self.stage = ledger, stage
        self._noted: list[list[str]] = []

    def track_notes(self, notes: list[str]) -> None:
        """Keep an eye on an engine's notes, which may grow as it answers."""
        self._noted.append(notes)

    @property
    def notes(self) -> list[str]:
        """What the engines have noted so far, each thing once."""
        return list(dict.fromkeys(note for notes in self._noted for note in notes))

    def spend(self, model: str, used: Amounts) -> None:
        """Count what a model was asked for in this stage."""
        self.ledger.spend(self.stage, model, used)
