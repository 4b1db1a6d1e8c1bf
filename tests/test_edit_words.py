"""What an edit's terminal lines and page say: why preferences are lost, and what has been asked."""

from rlaif.runs.folder import Run
from rlaif.workbench.diff import diff
from rlaif.workbench.edit_page import write_edit
from rlaif.workbench.edit_text import in_words
from tests.test_edit import ASKING, REWORDED, constitution, preferences, relabelled, run  # noqa: F401


def test_why_preferences_and_verdicts_are_there_no_longer(project, run):  # noqa: F811
    """Two principles narrowed: nothing is said of the other prompts, and their pairs have no preference."""
    new = constitution(project / "new.yaml", {0: {"applies_to": ["fact"]}, 2: {"applies_to": ["fact"]}})
    before, after = preferences(run), relabelled(run, new)
    dropped = Run.load(run.parent / "anew").stages[4].summary["dropped"]
    was = Run.load(run).stages[4].summary["dropped"]
    data = diff(run, new)
    found = data["preferences"]
    assert found["lost"] == len(before.keys() - after.keys()) > 0
    assert found["lost_why"] == {
        why: n - was.get(why, 0) for why, n in dropped.items() if n > was.get(why, 0)
    }
    told = ", ".join(f"{why} {n}" for why, n in found["lost_why"].items())
    assert "no principle applies" in told
    lines = in_words(data)
    assert [line for line in lines if f"{found['lost']} lost ({told}), 0 gained; mean shift" in line]
    gone = data["principles"]["no-sun"]["verdicts"]["lost"]
    rest = f"{gone} no longer judged (prompt without a tag of applies_to {gone})"
    assert [line for line in lines if line.startswith("  no-sun: ") and line.endswith(rest)]
    page = write_edit(project / "page.html", data).read_text()
    assert f"loses {found['lost']} ({told}) and gains 0." in page
    removed = in_words(diff(run, constitution(new, without=(1,))))
    assert [line for line in removed if line.startswith("  no-wrong: ") and "(principle removed " in line]
    back = in_words(diff(run.parent / "anew", constitution(new), ask=True, trust=True))
    assert [line for line in back if f", {found['lost']} gained (before: {told})" in line]


def test_after_asking_it_says_that_none_is_stale(project, run):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    first, asked, again = diff(run, new), diff(run, new, **ASKING), diff(run, new, **ASKING)
    kept, stale = (first["labels"][key] for key in ("kept", "stale"))
    words = f"{kept} stay, {stale} were stale and have been asked for: none is stale now"
    lines = in_words(asked)
    assert f"labels of {run}: {words}" in lines
    assert f"  Asked: {stale} calls; the labels are kept in {run}/asked" in lines
    assert not [line for line in lines if "are stale" in line or "to refresh" in line]
    page = write_edit(project / "page.html", asked).read_text()
    assert f"<p>{words}. Asked: {stale} calls;" in page
    assert f"labels of {run}: {kept + stale} stay, none is stale" in in_words(again)
    assert f"labels of {run}: {kept} stay, {stale} are stale" in in_words(first)
    assert (
        f"{kept} stay, {stale} are stale. To refresh" in write_edit(project / "first.html", first).read_text()
    )
