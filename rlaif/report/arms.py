"""The arms of a comparison: each is one run or several seeds of one experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.errors import UserError
from rlaif.records import Evaluation, Response
from rlaif.report.differences import differences, same_experiment
from rlaif.report.run_reader import RunReader

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SOURCES = {"ai": "AI", "human": "human", "simulated": "simulated human"}


@dataclass(frozen=True)
class ComparedRun:
    """A run in a comparison: its letter, its last policy (None: none was evaluated) and the evaluations by
    prompt."""

    letter: str
    name: str
    reader: RunReader
    policy: str | None
    rows: dict[str, Evaluation]

    def response(self, prompt_id: str) -> Response:
        """The last policy's response to a prompt."""
        return self.reader.responses[self.rows[prompt_id].response_id]

    @property
    def feedback(self) -> str:
        """Whose labels the run learned from: "AI", "human", "AI and simulated human", …, or "no"."""
        sources = self.reader.label_sources
        return " and ".join(SOURCES[kind] for kind in SOURCES if sources[kind]) or "no"


@dataclass(frozen=True)
class Arm:
    """Runs of one experiment that differ by their seeds."""

    letter: str
    sides: tuple[ComparedRun, ...]

    @property
    def first(self) -> ComparedRun:
        """The run that stands for the arm where only one can: its config, constitution and example
        responses."""
        return self.sides[0]

    @property
    def name(self) -> str:
        """The run's name, or the first run's with the number of seeds."""
        seeds = len(self.sides)
        return self.first.name if seeds == 1 else f"{self.first.name} ({seeds} seeds)"

    @property
    def rows(self) -> dict[str, Evaluation]:
        """The first run's evaluations of the prompts that every run of the arm has answered."""
        shared = set.intersection(*(set(side.rows) for side in self.sides))
        return {prompt: row for prompt, row in self.first.rows.items() if prompt in shared}


def arms_of(paths: Sequence[Path]) -> list[Arm]:
    """The runs grouped by experiment, in the order given; runs of one experiment alone are an arm each.

    Raises UserError where a run has neither an evaluated policy nor labels.
    """
    found = [RunReader(path) for path in paths]
    groups: list[list[RunReader]] = []
    for reader in found:
        of_its_kind = (group for group in groups if same_experiment(differences(group[0], reader)))
        group = next(of_its_kind, None)
        if group is None:
            groups.append([reader])
        else:
            group.append(reader)
    if len(groups) == 1:
        groups = [[reader] for reader in found]
    for group in groups:
        _require_seeds(group)
    return [Arm(letter, _sides(letter, group, paths)) for letter, group in zip(LETTERS, groups, strict=False)]


def _require_seeds(group: Sequence[RunReader]) -> None:
    """Refuse an arm that counts one seed twice, such as a run and its copy."""
    first: dict[int, RunReader] = {}
    for reader in group:
        other = first.setdefault(reader.run.config.seed, reader)
        if other is not reader:
            raise UserError(
                f"{other.path} and {reader.path}: the same experiment with the same seed "
                f"({reader.run.config.seed}), one run of an arm and not two.",
                "runs of an arm that differ by their seeds",
                f"leave {reader.path} out, or run it again with another seed (-s seed=…)",
            )


def _sides(letter: str, group: Sequence[RunReader], paths: Sequence[Path]) -> tuple[ComparedRun, ...]:
    letters = [letter] if len(group) == 1 else [f"{letter}{n}" for n in range(1, len(group) + 1)]
    return tuple(_side(own, reader, paths) for own, reader in zip(letters, group, strict=True))


def _side(letter: str, reader: RunReader, paths: Sequence[Path]) -> ComparedRun:
    path, policy = reader.path, reader.final_policy
    if policy is None and reader.last("label") is None:
        raise UserError(
            f"{path}: no policy of this run has been evaluated, and nothing is labelled.",
            "a run with a finished evaluate or label stage",
            f"finish it with `{reader.manifest.get('command', 'rlaif run CONFIG')}`",
        )
    names = Counter(other.resolve().name for other in paths)
    name = path.resolve().name if names[path.resolve().name] == 1 else str(path)
    rows = reader.evaluations[policy] if policy else {}
    stored = {i: row for i, row in rows.items() if row.response_id in reader.responses}
    return ComparedRun(letter, name, reader, policy, stored)
