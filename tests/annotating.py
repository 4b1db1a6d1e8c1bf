"""Pairs to annotate and a session on them, for the tests of the ranking page."""

import json
from contextlib import contextmanager
from pathlib import Path

from rlaif.human.annotating.desk import Settings
from rlaif.human.annotating.opening import open_material
from rlaif.human.annotating.page import BLURRED, Session
from rlaif.pages.server import PageServer


def write_file(path: Path, items: int = 6, responses: int = 2, tags=(), texts=None) -> Path:
    """Prompts without a verdict, each with responses whose texts say which they are."""
    rows = [
        {
            "prompt": f"Question {n}?",
            "responses": texts or [f"item {n} {'xyzuvw'[k]}" for k in range(responses)],
            "tags": list(tags),
        }
        for n in range(items)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def session(source: Path, out: Path, ranking: bool = False, most=None, material=None, **settings) -> Session:
    """A session on a file, a folder or a run."""
    asked = Settings(**{"queue": "in-order", "blurred": BLURRED, **settings})
    return Session(material or open_material(source), out, asked, ranking, most)


@contextmanager
def served(made: Session, name: str = ""):
    """The page's address, while it is served."""
    said: list[str] = []
    with PageServer(made.site(name, said.append)).running() as address:
        yield address
    assert not said
    made.write()


class Person:
    """An annotator who asks and answers as the page does, without a browser."""

    def __init__(self, made: Session, name: str = "Ana") -> None:
        self.desk, self.name = made.desk, name

    @property
    def state(self) -> dict:
        return self.desk.state({"annotator": self.name})

    def does(self, kind: str, ranks=None, **more) -> dict:
        state = self.state
        task = state["task"]["id"] if state["task"] and kind != "undo" else ""
        asked = {"annotator": self.name, "step": state["step"], "kind": kind, "task": task, "ranks": ranks}
        return self.desk.act({**asked, "seconds": 2.0, **more})

    def prefers(self, text: str, **more) -> dict:
        """Choose the shown response that ends with a text."""
        shown = self.state["task"]["responses"]
        return self.does("choice", [1 if response.endswith(text) else 2 for response in shown], **more)


def rows(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
