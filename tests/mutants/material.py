"""The mutants of constitutions, data and annotators: linted, imported, exported, published, compared."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MATERIAL = (
    # The linter.
    Mutant(
        "LEVELS[: LEVELS.index(level) + 1]", "LEVELS[: LEVELS.index(level)]", "test_lint_command", "exit_code"
    ),
    Mutant(
        "subject.source.silenced(finding.line, first)",
        "subject.source.silenced(finding.line, finding.line)",
        "test_lint",
        "silence",
    ),
    Mutant("asked + 2 * each + reasoning", "asked + each + reasoning", "test_lint", "does_not_fit"),
    Mutant(
        "return not better and (worse or self.firm)",
        "return not better and worse",
        "test_lint",
        "contradicts",
    ),
    Mutant("if not (a.ordered and b.ordered):", "if a.ordered and b.ordered:", "test_lint", "opposed"),
    # Imported and exported data, what is wrong with it, and what is published.
    Mutant(
        '("a" if number < 1.5 else "b"), 2 - number',
        '("a" if number < 1.5 else "b"), number - 1',
        "test_formats_votes",
    ),
    Mutant("order = sorted({rating for", "order = sorted({-rating for", "test_formats_chosen", "ratings"),
    Mutant(
        "turned = not self.format.sided and first.id > second.id",
        "turned = False",
        "test_human_import",
        "not_always",
    ),
    Mutant("if swapped and not preferred:", "if swapped:", "test_formats_chosen", "swapped"),
    Mutant(
        '"repeats" if self.written.verdict',
        '"contradicts" if self.written.verdict',
        "test_human_import",
        "one_reason",
    ),
    Mutant(
        '(label.verdict == "a") == (a > b)', '(label.verdict == "a") == (a < b)', "test_data_lint", "pandalm"
    ),
    Mutant(
        "if a < b and (b, a) in own",
        "if a < b and (a, b) in own",
        "test_data_lint",
        "contradictions or clean",
    ),
    Mutant("repo_type=kind, private=not public", "repo_type=kind, private=public", "test_publish", "private"),
    Mutant("if not private and not public:", "if private and not public:", "test_publish", "unless_asked"),
    Mutant("signs @ own >= total", "signs @ own <= total", "test_induce", "by_hand"),
    Mutant("better, worse = (a, b)", "better, worse = (b, a)", "test_induce", "put_together"),
    Mutant("who not in silent}", "who}", "test_executors"),
    Mutant(
        "v.agrees + 1) / (v.agrees", "v.agrees) / (v.agrees", "test_constitution_formats", "suggest or size"
    ),
    Mutant("Likeness(words, 0.85", "Likeness(words, 0.45", "test_similarity"),
    Mutant("(phrases, 0.8)", "(phrases, 0.7)", "test_similarity"),
    Mutant(
        "range(TRIES * self.wanted.number)",
        "range(TRIES * self.wanted.number + 1)",
        "test_generate_prompts",
        "three_tries",
    ),
    Mutant(
        'group="/".join((*sorted(ids)',
        'group="/".join((*ids, *sorted(ids)',
        "test_generate_prompts",
        "tags_group",
    ),
    Mutant(
        "value is not None or key not in _LATER",
        "value is not None or key in _LATER",
        "test_constitution_source",
        "earlier_versions",
    ),
    Mutant(
        '"principles": {"__all__": {"source"}}',
        '"principles": {}',
        "test_constitution_source",
        "where_it_comes",
    ),
    # Agreement of annotators.
    Mutant("(counts_IC * (counts_IC - 1)).sum(1)", "(counts_IC**2).sum(1)", "test_agreement", "published"),
    Mutant(
        "np.sign(scores[kept, 1] - scores[kept, 0])",
        "np.sign(scores[kept, 0] - scores[kept, 1])",
        "test_agreement",
        "its_paper",
    ),
    Mutant("+ weight * _shift(f, g)", "- weight * _shift(f, g)", "test_agreement", "its_authors"),
    Mutant(
        '"p_a": None if label.p_a is None else 1 - label.p_a,',
        '"p_a": label.p_a,',
        "test_agree",
        "whichever_way",
    ),
    Mutant(
        '[check.line for check in checks(card, limits) if check.decision["verdict"] == "fails"]',
        '[check.line for check in checks(card, limits) if check.decision["verdict"] != "holds"]',
        "test_auditing",
        "inconclusive",
    ),
    Mutant(
        "ci[0] >= limit if at_least else", "value >= limit if at_least else", "test_agreement", "verdicts"
    ),
    Mutant("_is_again(history.actions[step], values)", "False", "test_annotate", "twice"),
    Mutant('kind == "final" or action.anchored', 'kind == "final"', "test_annotate", "seen"),
    Mutant("order.index(first) < action", "order.index(first) > action", "test_annotate", "whatever_side"),
    Mutant("].since < HELD", "].since > HELD", "test_annotate", "another_one_holds"),
    Mutant("-abs(fmean(said) - 0.5)", "abs(fmean(said) - 0.5)", "test_annotate_queues", "queue_shows"),
    Mutant('"repeats" if action.repeat', '"labels" if action.repeat', "test_annotate", "repeated_items"),
    Mutant("there not in ours", "there in ours", "test_annotate", "waits or somebody"),
    Mutant("return 1 - p_a if turned", "return p_a if turned", "test_anchoring", "apart"),
    Mutant("sum(x != y == judge", "sum(x != y != judge", "test_anchoring", "apart"),
    Mutant("if self._about(label) not in there", "if True", "test_anchoring", "once"),
)
