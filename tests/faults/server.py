"""Runs `rlaif` in forked children of a process that has loaded torch once, with the shim preloaded: a trial
costs little.

Reads a line of JSON for each command from stdin: {words, root, mode, at, errors}; answers with a line of
JSON: {code, calls, unsynced}: the exit code (negative: the signal that killed it), how many calls the shim
saw, and the inodes of the files below `root` that were written and not forced to disk.
"""

import ctypes
import json
import os
import sys
import time

import torch

import rlaif.stages.evaluate
import rlaif.stages.ppo
import rlaif.stages.reward
import rlaif.stages.sft
import rlaif.training.groups
import tests.scripts
from rlaif import cli
from rlaif.training import loop as training

assert rlaif.training.groups
assert tests.scripts
torch.set_num_threads(1)
training.SAVE_SECONDS, training.SAVE_SHARE = 0.0, 1e9  # a checkpoint after every step
MOST = 120.0  # seconds that a command may take


def serve(shim: ctypes.CDLL) -> None:
    shim.faults_inode.restype = ctypes.c_ulong
    for line in sys.stdin:
        task = json.loads(line)
        shim.faults_prepare(task["root"].encode(), ctypes.c_long(task["mode"]), ctypes.c_long(task["at"]))
        child = os.fork()
        if not child:
            run(shim, task)
        code = wait(child)
        found = [shim.faults_inode(ctypes.c_long(i)) for i in range(shim.faults_dirty())]
        print(json.dumps({"code": code, "calls": shim.faults_count(), "unsynced": found}), flush=True)


def run(shim: ctypes.CDLL, task: dict) -> None:
    handle = os.open(task["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.dup2(handle, 1)
    sys.argv = ["rlaif", *task["words"]]
    code: object = 1
    try:
        shim.faults_arm()
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def wait(child: int) -> int:
    end = time.monotonic() + MOST
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 124


if __name__ == "__main__":
    serve(ctypes.CDLL(os.environ["LD_PRELOAD"]))
