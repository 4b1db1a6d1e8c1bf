"""Signals end a command without a traceback, with the exit code that shells expect, at any moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlaif.runs.storage import read_json

ROOT = Path(__file__).parent.parent
AT_IMPORT = """
import builtins, os, signal, sys
moment, number, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[1:] = sys.argv[4:]
load, fired = builtins.__import__, []
def watched(name, *rest, **more):
    if name == moment and not fired:
        fired.append(name)
        for _ in range(times):
            os.kill(os.getpid(), number)
    return load(name, *rest, **more)
from rlaif.__main__ import main
builtins.__import__ = watched
main()
"""


@pytest.mark.parametrize(
    "moment", ["typer", "rich.console", "rlaif.preflight.opening", "pydantic", "ruamel.yaml", "jinja2"]
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_command_line_is_loading(project, moment, number, code):
    words = ["run", str(project / "config.yaml"), "--out", str(project / "run")]
    command = [sys.executable, "-c", AT_IMPORT, moment, str(int(number)), "1", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGTERM], 143), ([signal.SIGINT], 130), ([signal.SIGINT] * 2, 130)],
)
def test_signals_in_the_middle_of_a_stage(project, signals, code):
    command = [
        sys.executable,
        "-m",
        "rlaif",
        "run",
        str(project / "config.yaml"),
        "--out",
        str(project / "run"),
    ]
    child = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "SLOW": "0.5"}
    )
    stage = project / "run" / "01_sample" / "stage.json"
    while not stage.exists():
        assert child.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    for number in signals:
        child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code, errors
    assert "Traceback" not in errors
    if len(signals) == 1:
        assert read_json(stage)["status"] == "interrupted"
        assert "Run the same command again to continue" in errors
        assert f"to go on: rlaif resume {project / 'run'}" in errors
