"""The files of `rlaif judge fit`: what is damaged or was changed is refused, or asked for again."""

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rlaif.engines import Scripted
from rlaif.engines import fit as fit_module
from rlaif.engines.fit import FILE, PARTIAL, SHARED, JudgeFit
from rlaif.engines.fitted import UNSEALED, FittedEngine
from rlaif.errors import UserError
from rlaif.runs import storage
from tests.test_judge_fit import a_fit, biased, fitting, some_pairs


def test_the_same_fit_is_the_same_file_and_nothing_else_is_ever_in_its_folder(tmp_path, monkeypatch):
    """Not even of a writing that was killed: a file of another name would make the folder another's."""
    kept: list[set[str]] = []
    moved = storage.move_into_place

    def look(partial, final):
        kept.append({path.name for path in partial.parent.iterdir()})
        moved(partial, final)

    monkeypatch.setattr(storage, "move_into_place", look)
    monkeypatch.setattr(Path, "write_bytes", half(Path.write_bytes))
    with pytest.raises(KeyboardInterrupt):
        a_fit().save(tmp_path / "0")
    assert fit_module.is_unwritten(tmp_path / "0")
    for name in "0123456789":
        a_fit().save(tmp_path / name)
        assert (tmp_path / name / FILE).read_bytes() == (tmp_path / "0" / FILE).read_bytes()
    assert kept == [{PARTIAL}] * 10


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(UserError, match=rf"{FILE}.partial: No space left"),
        storage.os_errors_as_user_errors(),
    ):
        a_fit().save(tmp_path)


def half(write):
    """Writing that a kill ends the first time."""
    killed = []

    def writes(path, data):
        if killed:
            return write(path, data)
        killed.append(write(path, data[: len(data) // 2]))
        raise KeyboardInterrupt

    return writes


@pytest.mark.parametrize("change", ["numbers", "keys", "rows", "nan"])
def test_changed_readings_are_asked_again(tmp_path, change):
    engine = Scripted(on_score=biased)
    _, first = fitting(tmp_path, engine).from_labels(some_pairs(80))
    files = (tmp_path / "readings").glob("*.safetensors")
    file = max(files, key=lambda path: path.stat().st_size)  # 64 questions, not the last 32
    with safe_open(file, "np") as opened:
        names, facts = opened.keys(), opened.metadata()
        table = {name: opened.get_tensor(name) for name in names}
    if change == "numbers":
        table["own"] += 1
    else:  # of no checksum, as an earlier version wrote them
        facts = None
        own = table["own"]
        changed = {"keys": {"x": own}, "nan": table | {"own": own * np.nan}}
        table = changed.get(change) or {name: x[:1] for name, x in table.items()}
    save_file(table, file, facts)
    _, again = fitting(tmp_path, engine).from_labels(some_pairs(80))
    assert engine.usage.calls == 160 + 64
    assert again["heldout"] == first["heldout"]
    with safe_open(file, "np") as opened:
        old = {name: opened.get_tensor(name) for name in names}
    save_file(old, file)
    fitting(tmp_path, engine).from_labels(some_pairs(80))
    assert engine.usage.calls == 160 + 64  # whole ones without a checksum are read


def test_a_fit_comes_back_as_it_was_written(tmp_path):
    fit = a_fit(kind="responses", layer=2, about={"labels": 3})
    fit.save(tmp_path / "fit")
    back = JudgeFit.load(tmp_path / "fit")
    assert back.fingerprint == fit.fingerprint
    assert back.about == {"labels": 3}
    assert [path.name for path in (tmp_path / "fit").iterdir()] == [FILE]
    assert a_fit(scale=np.array([2.0, 0.6])).fingerprint != fit.fingerprint


@pytest.mark.parametrize(
    "damage", ["cut", "text", "nan", "shape", "scalar", "kind", "model", "keys", "missing"]
)
def test_a_damaged_fit_is_refused(tmp_path, damage):
    file = tmp_path / FILE
    changes = {"nan": {"prior": np.array([np.nan, 0])}, "shape": {"scale": np.ones(3)}, "kind": {"kind": "x"}}
    changes |= {"scalar": {"head": np.array(0.0)}}
    changes |= {"model": {"model": None}, "keys": {"keys": (SHARED, SHARED)}}
    if damage != "missing":
        a_fit(**changes.get(damage, {})).save(tmp_path)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    if damage == "text":
        file.write_text("{}")
    with pytest.raises(UserError, match=FILE):
        JudgeFit.load(tmp_path)


@pytest.mark.parametrize("what", ["scale", "about", "middle"])
def test_a_fit_whose_numbers_were_changed_is_refused(tmp_path, what):
    a_fit(kind="verdicts", about={"labels": 300}).save(tmp_path)
    with safe_open(tmp_path / FILE, "np") as opened:
        names = opened.keys()
        facts, arrays = opened.metadata(), {name: opened.get_tensor(name) for name in names}
    if what == "about":
        facts["fit"] = facts["fit"].replace("300", "900")
    else:
        arrays[what].flat[0] += 1
    save_file(arrays, tmp_path / FILE, facts)
    with pytest.raises(UserError, match="checksum is not that of its numbers"):
        JudgeFit.load(tmp_path)


def test_a_fit_of_an_earlier_version_is_read_with_a_note(tmp_path):
    fit = a_fit()
    fit.save(tmp_path)
    with safe_open(tmp_path / FILE, "np") as opened:
        names = opened.keys()
        facts, arrays = opened.metadata(), {name: opened.get_tensor(name) for name in names}
    del facts["checksum"]
    save_file(arrays, tmp_path / FILE, facts)
    old = JudgeFit.load(tmp_path)
    assert old.fingerprint == fit.fingerprint
    assert FittedEngine(Scripted(), old).notes == [UNSEALED]
    fit.save(tmp_path)
    assert FittedEngine(Scripted(), JudgeFit.load(tmp_path)).notes == []
