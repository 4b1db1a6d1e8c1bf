"""What somebody new to it meets first: one file given for another, and the functions of the package."""

import inspect

import pytest

import rlaif
from rlaif.config import load_config
from rlaif.constitution import Constitution
from rlaif.errors import UserError


def test_a_config_is_not_called_a_faulty_constitution(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("extends: configs/quickstart.yaml\nconstitution: mine.yaml\n")
    with pytest.raises(UserError) as error:
        Constitution.load(path)
    assert error.value.found == f"{path}: a config, not a constitution."
    assert "mine.yaml" in error.value.next


def test_a_constitution_is_not_called_a_faulty_config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: c\nprinciples:\n  - {id: a, text: Be kind.}\n")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert error.value.found == f"{path}: a constitution, not a config."
    assert "rlaif init" in error.value.next


def test_imported_pairs_alone_need_no_samples(tmp_path):
    path = tmp_path / "c.yaml"
    start = (
        "name: a\nconstitution: c.yaml\nprompts: p.jsonl\npolicy: {model: m}\nfeedback: {model: m}\nstages:\n"
    )
    path.write_text(f"{start}  - {{stage: pair, imported: people}}\n  - {{stage: label}}\n")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert "samples: false" in error.value.need
    path.write_text(f"{start}  - {{stage: pair}}\n  - {{stage: label}}\n")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert "samples: false" not in error.value.need


@pytest.mark.parametrize("name", ["compare", "judge", "load_run", "run"])
def test_the_functions_of_the_package_say_what_they_take_give_and_raise(name):
    assert name in rlaif.__all__
    said = inspect.getdoc(getattr(rlaif, name)) or ""
    assert all(f"{part}:\n" in said for part in ("Args", "Returns", "Raises"))
