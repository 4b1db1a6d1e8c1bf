"""Two judges that read one principle differently: what is nice is no "day" for one and no "sun" for the
other."""

import re

from rlaif.engines import Scripted


def _judge(nice: str, name: str) -> Scripted:
    def score(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
        rule = re.findall(r"Rule: (.*)", suffix)[-1]
        word = nice if rule == "Be nice." else re.findall(r"Never say (\w+)", rule)[0]
        text = messages[-1]["content"]
        a, b = (word in re.findall(rf"Reply {side}: (.*)", text)[-1].split() for side in "AB")
        return [0.45, 0.45] if a == b else ([0.09, 0.81] if a else [0.81, 0.09])

    return Scripted(on_score=score, name=name)


def first() -> Scripted:
    return _judge("day", "first")


def second() -> Scripted:
    return _judge("sun", "second")
