"""A session of the ranking page: what it is about, the folder that it writes, and the page's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.human.annotating.actions import ActionLog
from rlaif.human.annotating.desk import Desk, Item, Settings, items_of
from rlaif.human.annotating.material import Material
from rlaif.human.annotating.opinions import Opinions
from rlaif.human.annotating.queues import ordered, queue_named
from rlaif.human.annotating.results import Results
from rlaif.pages.page import STATIC, render_page
from rlaif.records import TIE_MARGIN, Comparison, Prompt, Response
from rlaif.runs.rows import RowFile, Rows
from rlaif.runs.seeds import derive_seed

BLURRED = frozenset({"harmful", "risky", "unsafe", "toxic", "red-team", "nsfw"})

# What a call leaves before the first answer, and in which nothing is replaced.
_BEFORE = {"prompts.jsonl", "responses.jsonl", "comparisons.jsonl", "grades.jsonl"}


class Session:
    """The items of one session in their order, written to a folder beside the log of what people do."""

    def __init__(
        self,
        material: Material,
        out: Path,
        settings: Settings,
        ranking: bool = False,
        most: int | None = None,
    ) -> None:
        self.material, self.out, self.settings, self.ranking = material, out, settings, ranking
        queue = queue_named(settings.queue)
        self.opinions = Opinions(material)
        items = items_of(material.comparisons, ranking, material.left_out)
        if settings.assisted and not any(self._has_opinion(item) for item in items):
            raise UserError(
                f"--assist: {material.path} holds no judge's label on these items.",
                "pairs that a judge has labelled",
                "leave --assist out",
            )
        chosen = ordered(queue, items, self._evidence, derive_seed(settings.seed, "queue"))[:most]
        out.mkdir(parents=True, exist_ok=True)
        _refuse_others(out)
        self.log = ActionLog(out / "actions.jsonl")
        _refuse_mixed(out, self.log, ranking)
        self.desk = Desk(chosen, material, self.opinions, self.log, settings)
        self.harmful = self._write_rows(chosen)
        self.results = Results(out, self.log, material.waits_for)
        self.write()

    def write(self, at_once: bool = True) -> None:
        """Make the rows beside the log anew."""
        with self.desk.lock:
            self.results.write(at_once)

    def _evidence(self, item: Item) -> list[Any]:
        return [self.opinions.evidence(pair) for pair in item.comparisons]

    def _has_opinion(self, item: Item) -> bool:
        return len(item.response_ids) == 2 and self.opinions.on(item.id) is not None

    def _write_rows(self, items: Sequence[Item]) -> int:
        """The rows that the labels are about, each once; returns how many prompts are blurred."""
        prompts = Rows(self.out / "prompts.jsonl", Prompt)
        responses = Rows(self.out / "responses.jsonl", Response)
        comparisons = Rows(self.out / "comparisons.jsonl", Comparison)
        harmful = 0
        for item in items:
            prompt = self.material.prompt(item.prompt_id)
            harmful += bool(self.settings.blurred.intersection(prompt.tags))
            if item.prompt_id not in prompts:
                prompts.append([prompt])
            missing = [id for id in item.response_ids if id not in responses]
            responses.append(self.material.response(id) for id in missing)
            comparisons.append(item.comparisons)
        return harmful

    def site(self, name: str, failed: Callable[[str], None]) -> Any:
        """The page and its answers, for `PageServer`."""
        from rlaif.pages.server import Site

        def act(values: dict[str, Any]) -> dict[str, Any]:
            state = self.desk.act(values)
            self.write(at_once=False)
            return state

        return Site(
            page=lambda: render_page(
                "annotate.html.j2",
                name=name,
                items=len(self.desk.items),
                harmful=self.harmful,
                ranking=self.ranking,
                reasons=self.settings.reasons,
                assisted=self.settings.assisted,
                tie=TIE_MARGIN,
            ),
            asks={"/api/state": self.desk.state},
            tells={"/api/act": act},
            files={name: STATIC / name for name in ("annotate.js", "ranking.js", "annotate.css")},
            failed=failed,
        )


def _refuse_others(out: Path) -> None:
    """The rows beside the log are made anew from it: without a log they would be lost."""
    held = [path for path in out.iterdir() if path.name not in _BEFORE and path.name[:1] != "."]
    if not (out / "actions.jsonl").exists() and any(path.is_dir() or path.stat().st_size for path in held):
        raise UserError(
            f"{out}: holds other files, and nothing that was answered on this page.",
            "a new folder, or that of an earlier call",
            "name another folder with --out",
        )


def _refuse_mixed(out: Path, log: ActionLog, ranking: bool) -> None:
    """A pair that is chosen on and ranked would count twice."""
    pairs = {pair.id for pair in RowFile(out / "comparisons.jsonl", Comparison)}
    if any((action.item in pairs) == ranking for action in log.live()):
        held, asked = ("pairs", "--rank") if ranking else ("rankings", "no --rank")
        raise UserError(
            f"{out}: holds choices on {held}, and there is {asked}.", "a folder for each", "--out"
        )


def folder_of(path: Path) -> Path:
    """Where the labels on a run, a folder or a file go: into a folder inside it, or beside a file."""
    if path.is_dir():
        return path / "annotations"
    return path.with_name(f"{path.name.removesuffix('.gz').rpartition('.')[0] or path.name}-annotations")
