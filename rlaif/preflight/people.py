"""Who labels what, checked before anything runs: queues and tags exist, and the labels a queue needs."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config import Config, option_name
from rlaif.errors import UserError
from rlaif.human.routing import OPTION, no_such_tag, queue_of
from rlaif.options import LabelOptions, PairOptions
from rlaif.records import Prompt


def check_people(config: Config, prompts: Sequence[Prompt]) -> None:
    """Raises UserError for a queue that is not there or that goes by labels nobody gives, and for a tag that
    no prompt has; prompts that come with imported pairs are not known yet."""
    imported = any(isinstance(options, PairOptions) and options.imported for options in config.stages)
    known = {tag for prompt in prompts for tag in prompt.tags}
    for at, options in enumerate(config.stages):
        if not isinstance(options, LabelOptions) or options.human is None:
            continue
        queue, name = queue_of(options.human), option_name(config, at)
        needs, way_out = _missing(config, at, options)
        if queue.score is not None and needs:
            raise UserError(f"{name}.human.route: {queue.name} goes by {queue.needs}; {needs}.", way_out)
        for tag in () if imported else options.human.tags:
            if tag not in known:
                raise no_such_tag(name, tag, known, "of the prompts")


def _missing(config: Config, at: int, options: LabelOptions) -> tuple[str, str]:
    """What the queue of a label stage surely lacks and what to do about it, empty where nothing."""
    route = options.human.route if options.human else ""
    before = (made for one in config.stages[:at] for made in one.makes)
    if not options.ai:
        return "with ai: false no judge labels", f"ai: true or ai: rest, or {OPTION}: random"
    if route == "reward" and config.rounds == 1 and "reward_model" not in before:
        return "no stage before it makes a reward model", f"a reward stage before it, or {OPTION}: random"
    if route == "judges" and not options.labels_from:
        lacks = "this run has one judge"
        return lacks, f"labels_from: a run with the same pairs and another judge, or {OPTION}: random"
    return "", ""
