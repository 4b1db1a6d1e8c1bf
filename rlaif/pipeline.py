"""THE FLOW: a run is an ordered list of stages, each a function over the run folder.

    prompts → sample → critique ⇄ revise → sft → sample K → pair → label → reward → ppo → evaluate → report
              ▲                                                                      │
              └───────────────── next round, from the new policy ◄──────────────────┘

`run` opens or continues a folder, calls the stages that are not done yet, and writes the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlaif.config import Config, find, stage_number
from rlaif.errors import Paused, UserError
from rlaif.feedback.gold import load_gold, no_gold, ungraded
from rlaif.human.waiting import pause
from rlaif.preflight.calibration import Speed, calibrated
from rlaif.preflight.combinations import combinations
from rlaif.preflight.counting import counted
from rlaif.preflight.durations import at_most, characters_in_a_token, durations
from rlaif.preflight.estimate import estimate, in_words, totals
from rlaif.preflight.fork import Fork, fork_of
from rlaif.preflight.functions import try_functions
from rlaif.preflight.opening import RunSpec
from rlaif.preflight.people import check_people
from rlaif.preflight.readiness import Readiness, missing_models, readiness
from rlaif.preflight.run_folder import open_run
from rlaif.prompting.prompt_files import left_out_in_words
from rlaif.report.following import describe
from rlaif.runs import processes
from rlaif.runs.catalog import is_run
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Run, Stage
from rlaif.runs.locking import locked
from rlaif.runs.spending import BudgetReached
from rlaif.runs.storage import os_errors_as_user_errors, write_json


def run(
    config: Mapping[str, Any] | Path | str | None = None,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    until: str | None = None,
    progress: Any = None,
    tell: Callable[[str], None] = lambda line: None,
    source: Path | str | None = None,
    at: str | None = None,
    check: bool = False,
) -> Run:
    """Run a config's stages into a folder, or continue where an earlier start of the same run stopped.

    `overrides` are `stage.option=value` texts; `until` names the last stage to run. `source` is a run to
    fork: its finished stages before `at` are shared, and a config is not needed; without `at` the fork begins
    at the first stage that what differs can reach. `tell` gets a line a stage. With `check` models and
    endpoints are asked first whether they respond (`preflight.readiness`). Raises UserError for what the user
    can fix, BudgetReached where the budget is, and Paused where people's labels are waited for; what was done
    stays.
    """
    with os_errors_as_user_errors():
        folder, spec, fork = _wanted(config, out, overrides, source, at)
        return _start(folder, spec, until, progress, tell, check, fork)


def _wanted(
    config: Mapping[str, Any] | Path | str | None,
    out: Path | str | None,
    overrides: Sequence[str],
    source: Path | str | None,
    at: str | None,
) -> tuple[Path, RunSpec, Fork | None]:
    """(folder, what it is to be, what is forked) of a call of `run`."""
    folder = Path(out) if out else None
    if source is not None:
        if isinstance(config, Mapping):
            raise UserError(
                "config: a mapping, with a run to fork.",
                "a config file, or overrides",
                "leave the config out",
            )
        return fork_of(Path(source), folder, at, None if config is None else str(config), overrides)
    if config is None or at is not None:
        raise UserError(
            "no config." if config is None else f"--at {at}: without --from.",
            "a config file, or a run to fork",
            "rlaif run CONFIG, or rlaif run --from RUN --at STAGE --out DIR",
        )
    if isinstance(config, Mapping):
        spec = RunSpec.of_mapping(config, overrides)
    elif Path(config).is_dir():
        run = is_run(Path(config))
        raise UserError(
            f"{config}: a {'run ' if run else ''}folder.",
            "a config file",
            resume_command(Path(config)) if run else "name the file in it",
        )
    else:
        spec = RunSpec.of_config(find(str(config)), overrides)
    return folder or Path("runs") / spec.config.name, spec, None


def resume(
    run: Path | str,
    overrides: Sequence[str] = (),
    until: str | None = None,
    progress: Any = None,
    tell: Callable[[str], None] = lambda line: None,
    check: bool = False,
) -> Run:
    """Continue a run from its folder alone, with what it was asked for; `overrides` may change what `run`
    lets change.
    """
    with os_errors_as_user_errors():
        spec = RunSpec.of_run(Run.load(Path(run)), overrides)
        return _start(Path(run), spec, until, progress, tell, check)


def _start(
    folder: Path,
    spec: RunSpec,
    until: str | None,
    progress: Any,
    tell: Callable[[str], None],
    check: bool,
    fork: Fork | None = None,
) -> Run:
    """The run in its folder, on every process of the launch."""
    last = last_stage(spec.config, until)
    plan = {} if _is_done(folder, last) else planned(spec, last)
    with processes.init_distributed(spec.config.policy.device):
        if not processes.is_rank0():
            processes.worker_loop(folder)
            return Run.load(folder)
        return _run(folder, spec, last, plan, progress, tell, check, fork)


def _is_done(folder: Path, last: int) -> bool:
    """Whether all that is asked for is there: files that its stages were given may be gone."""
    stages = Run.load(folder).stages[:last] if is_run(folder) else []
    return len(stages) == last and all(stage.is_done for stage in stages)


def _run(
    folder: Path,
    spec: RunSpec,
    last: int,
    plan: dict[str, Any],
    progress: Any,
    tell: Callable[[str], None],
    check: bool,
    fork: Fork | None,
) -> Run:
    """The stages that are not done yet, one after the other, and the report."""
    with locked(folder):
        for line in fork.in_words() if fork else ():
            tell(line)
        this = open_run(folder, spec, fork.into if fork else lambda making: {}, tell)
        this.progress, this.tell = progress or this.progress, tell
        if this.config != spec.config and all(stage.is_done for stage in this.stages):
            tell("every stage is done: options given now change nothing")
        waiting = [stage for stage in this.stages[:last] if not stage.is_done]
        processes.check_fsdp(waiting)
        processes.check_even_shares(waiting)
        if waiting:
            stages = zip(plan["stages"], this.stages[:last], strict=True)
            plan |= totals([counted(row, stage) for row, stage in stages if not stage.is_done])
            if left_out := left_out_in_words(spec.prompt_rows, spec.config.prompts.name):
                tell(left_out)
            for warning in plan["warnings"]:
                tell(f"warning: {warning}")
            for line in [*in_words(plan), *no_gold(plan["no_gold"], spec.config.gold)]:
                tell(line)
            _convert_models(spec.config, tell)
        if check and waiting:
            found = readiness(spec, [stage.options for stage in waiting], tell=tell)
            found.require()
            for warning in found.warnings:
                tell(f"warning: {warning}")
        goes_on = resume_command(folder)
        try:
            for stage in this.stages[:last]:
                if not stage.is_done:
                    tell(f"{stage.dir.name}: {'continues' if stage.summary else 'starts'}")
                    with this.progress(stage.dir.name, None):
                        run_stage(stage)
                tell(describe(stage.summary))
        except UserError as error:  # the budget, or the user's to fix: the report says where the run stands
            with suppress(UserError):
                finish(this)
            _name_command(error, goes_on)
            raise
        except BaseException as error:  # Ctrl-C, or a fault inside
            error.add_note(f"to go on: {goes_on}")
            raise
        finish(this)
        following = next((stage for stage in this.stages if not stage.is_done), None)
        if following:
            waits = pause(following)
            tell(str(waits) if waits else f"next: {following.dir.name}; to go on: {resume_command(folder)}")
    return this


def _name_command(error: UserError, goes_on: str) -> None:
    """Say in the error which command continues the run, unless it says so."""
    if isinstance(error, BudgetReached):
        error.name_command(goes_on)
    elif error.code == UserError.code and not any(c in error.next for c in ("rlaif run ", goes_on)):
        error.add_next(f"{goes_on} continues this run")


def _convert_models(config: Config, tell: Callable[[str], None]) -> None:
    """Convert the GGUF files that the config names before a stage waits for them in silence."""
    from rlaif.engines.gguf import to_convert

    names = {role.model for role in (config.policy, config.feedback) if role.kind.folder}
    for name in sorted(names):
        if folder := to_convert(name):
            from rlaif.engines.loading import model_folder

            tell(f"{name}: converted into {folder}, once")
            model_folder(name)


def run_stage(stage: Stage) -> None:
    """One stage, its status kept in stage.json also after an error."""
    if stage.config.threads:
        import torch

        torch.set_num_threads(stage.config.threads)
    stage.begin()
    try:
        with processes.join_stage(stage):
            processes.module(stage).run(stage)
    except KeyboardInterrupt:
        stage.save("interrupted")
        raise
    except BudgetReached as error:
        stage.save("stopped", error=error.found, caps=error.caps)
        raise
    except Paused as error:
        stage.save("paused", error=error.found)
        raise
    except BaseException as error:
        stage.save("failed", error=str(error).split("\n")[0])
        raise
    finally:
        stage.run.ledger.flush()
        write_json(
            stage.run.path / "manifest.json", {**stage.run.manifest, "spent": stage.run.ledger.figures()}
        )
    stage.finish()


def finish(this: Run) -> None:
    """Write the report; a run is done when all its stages are."""
    from rlaif.report.report import write_report

    done = all(stage.is_done for stage in this.stages)
    write_json(this.path / "manifest.json", {**this.manifest, "status": "done" if done else "stopped"})
    write_report(this.path, this.progress)


def last_stage(config: Config, until: str | None) -> int:
    """The number of the stage named by `--until`, which without a name is the last one."""
    return len(config.expanded) if until is None else stage_number(config, until, "--until")


def dry_run(
    config: Mapping[str, Any] | Path | str | None,
    overrides: Sequence[str] = (),
    source: Path | str | None = None,
    at: str | None = None,
    out: Path | str | None = None,
    until: str | None = None,
    measure: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What `run` would do: the resolved config, prompt counts, and each stage's rows and model calls.

    Seconds and memory stand there where the models' speed on this machine is known; `measure` measures it
    where it is not. Under "problems" are models that are named and not there.
    """
    _, spec, fork = _wanted(config, out, overrides, source, at)
    speeds = calibrated(spec.config, spec.constitution, spec.prompts, spec.templates, measure, tell)
    last = last_stage(spec.config, until)
    plan = planned(spec, last, speeds)
    first = fork.shared if fork else 0
    plan["problems"], absent = missing_models(spec, [o for _, o in spec.config.expanded[first:last]])
    plan["warnings"] += absent
    if fork:
        plan |= totals(plan["stages"][fork.shared :])
        plan["shared"] = [stage.dir.name for stage in fork.parent.stages[: fork.shared]]
        for hint in fork.hints:
            tell(hint)
    return {"config": spec.config.model_dump(mode="json"), **plan}


def check(
    config: Path | str, overrides: Sequence[str] = (), tell: Callable[[str], None] = lambda line: None
) -> Readiness:
    """What would stop a run of this config or is doubtful about it, its models and endpoints asked."""
    spec = RunSpec.of_config(find(str(config)), overrides)
    plan = planned(spec, len(spec.config.expanded))
    found = readiness(spec, thorough=True, tell=tell)
    found.warnings[:0] = [*plan["warnings"], *no_gold(plan["no_gold"], spec.config.gold)]
    return found


def planned(spec: RunSpec, last: int, speeds: Mapping[str, Speed] | None = None) -> dict[str, Any]:
    """The estimate of what is asked for, up to the `last` stage; the gold scorer is opened on the way."""
    gold = load_gold(spec.config.gold, spec.constitution)
    check_people(spec.config, spec.prompts)
    try_functions(spec.config, spec.constitution, spec.prompts)
    asked = spec.config, spec.constitution, spec.prompts, spec.templates
    plan = estimate(*asked, at_most(characters_in_a_token(speeds or {})))
    plan["warnings"] = combinations(spec.config, spec.constitution, plan)
    for stage, figures in zip(plan["stages"], durations(*asked, speeds) if speeds else [], strict=False):
        card = figures.pop("card_seconds", None)
        stage |= figures
        if card is not None:
            stage["judge_card"]["seconds"] = card
    plan |= totals(plan["stages"][:last])
    plan["prompt_rows"] = spec.prompt_rows
    return {**plan, "no_gold": ungraded(gold, spec.constitution, spec.prompts)}
