"""The ranking page's server, killed again and again while two people answer: no vote is lost or doubled."""

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.annotating import rows, write_file

ROOT = Path(__file__).parent.parent


class Client(threading.Thread):
    """Answers as the page does: an action whose answer was lost is sent again, unchanged."""

    def __init__(self, name, where):
        super().__init__(daemon=True)
        self.name_, self.where, self.rng = name, where, random.Random(name)
        self.acknowledged = []  # what the server said is on disk
        self.resent = 0

    def ask(self, method, path, body=None):
        port, token = self.where["address"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        data = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, data
        return data

    def until_answered(self, *request):
        while True:
            try:
                return self.ask(*request)
            except (OSError, http.client.HTTPException, ValueError):
                self.resent += request[0] == "POST"
                time.sleep(0.02)

    def run(self):
        state = self.until_answered("GET", f"/api/state?annotator={self.name_}")
        while task := state["task"]:
            kind = self.rng.choice(
                ["choice", "choice", "choice", "skip", "undo"] if state["can_undo"] else ["choice"]
            )
            ranks = self.rng.choice([[1, 2], [2, 1], [1, 1]]) if kind == "choice" else None
            action = {
                "annotator": self.name_,
                "step": state["step"],
                "kind": kind,
                "task": task["id"],
                "ranks": ranks,
            }
            state = self.until_answered("POST", "/api/act", action)
            self.acknowledged.append(action)


@pytest.mark.slow
def test_no_vote_is_lost_or_doubled_over_many_kills(tmp_path):
    source, out = write_file(tmp_path / "f.jsonl", items=400), tmp_path / "out"
    line = [sys.executable, "-m", "rlaif.cli", "annotate", str(source), "--out", str(out)]
    where, rng, kills = {}, random.Random(0), 0

    def start():
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ))
        port, token = re.search(r":(\d+)/\?token=(\S+)", process.stdout.readline()).groups()
        where["address"] = int(port), token
        return process

    process = start()
    clients = [Client("Ana", where), Client("Ben", where)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients) and kills < 40:
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        process = start()
    for client in clients:
        client.join(120)
        assert not client.is_alive()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130)
    votes = sum(len(client.acknowledged) for client in clients)
    print(f"{votes} actions, {kills} kills, {sum(c.resent for c in clients)} requests without an answer")
    assert kills >= 4
    for client in clients:
        log = [row for row in rows(out / "actions.jsonl") if row["annotator"] == client.name_]
        assert (
            [row["step"] for row in log] == list(range(len(log))) == [a["step"] for a in client.acknowledged]
        )
        for row, action in zip(log, client.acknowledged, strict=True):
            assert row["kind"] == action["kind"]
            assert row["task"] == (action["task"] if row["kind"] != "undo" else "")
            shown = [row["ranks"][place] for place in row.get("order", [])] if row["ranks"] else None
            assert shown == action["ranks"]
        undone = {row["undoes"] for row in log if row["kind"] == "undo"}
        live = [row for row in log if row["kind"] == "choice" and row["id"] not in undone]
        labels = [row for row in rows(out / "labels.jsonl") if row["annotator"]["id"] == client.name_]
        assert sorted(row["item"] for row in live) == sorted(row["comparison_id"] for row in labels)
