"""A run on several processes, as torchrun or `accelerate launch` starts them: the first runs the flow.

The others wait until a stage that trains begins and then do their share of it, in a temporary copy of its
folder: whatever a stage writes is kept once, by the first process (rank 0), and no stage has to know its
rank.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlaif.errors import UserError
from rlaif.runs.folder import Run, Stage

WAIT = timedelta(days=30)  # for the first process: sampling and labelling take as long as they take
FAILED = "rlaif/rank 0 failed"  # a key in the store that all processes share
GRACE = 5.0  # seconds: all processes may meet the same error, rank 0 a little later than the others


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_rank0() -> bool:
    """Whether this process runs the flow."""
    return os.environ.get("RANK", "0") == "0"


def fsdp_requested() -> bool:
    """Whether the launch asks for FSDP: each process holds a share of the models."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


@contextmanager
def init_distributed(device: str) -> Iterator[None]:
    """All processes connected, where there are several; on GPUs each with one of its own."""
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if fsdp_requested():
        version = os.environ.get("FSDP_VERSION", "1")
        if version != "2":
            raise UserError(
                f"this launch asks for FSDP {version}.",
                "fsdp_version: 2 in its config",
                "accelerate launch --config_file configs/accelerate/fsdp.yaml …",
            )
        # Or transformers would give every process but the first empty weights, to be filled by its own
        # trainer.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=WAIT)
    try:
        yield
        if is_rank0():
            _broadcast_stage(None)
        dist.barrier()
    except BaseException as error:
        if _rank0_failed():
            yield_to_rank0()
            raise SystemExit(1) from None
        if isinstance(error, UserError) and not is_rank0():
            raise RuntimeError(f"in process {dist.get_rank()} alone: {error}") from error
        raise
    finally:
        dist.destroy_process_group()


def yield_to_rank0() -> None:
    """Wait, so that rank 0 prints its message first: a launcher ends all processes as soon as one fails."""
    time.sleep(GRACE)


def _rank0_failed() -> bool:
    """Whether rank 0 has failed, too, so that its message is the one to print; rank 0 itself announces that
    it has."""
    from torch.distributed.distributed_c10d import _get_default_store

    store = _get_default_store()
    if is_rank0():
        store.set(FAILED, "")
        return False
    try:
        store.wait([FAILED], timedelta(seconds=GRACE))
    except RuntimeError:  # not announced in time, or rank 0 was killed and its store with it
        return False
    return True


@contextmanager
def join_stage(stage: Stage) -> Iterator[None]:
    """The other processes run the same stage where it is declared as SHARED; otherwise they wait."""
    if world_size() == 1 or not _declares(stage, "SHARED"):
        yield
        return
    check_fsdp([stage])
    import torch.distributed as dist

    _broadcast_stage(stage.number)
    dist.barrier()  # copied by all, may be changed
    yield
    dist.barrier()


def check_fsdp(stages: Iterable[Stage]) -> None:
    """Raises UserError where FSDP is asked for and a stage that all processes run cannot shard its model."""
    if world_size() == 1 or not fsdp_requested():
        return
    unfit = [stage for stage in stages if _declares(stage, "SHARED") and not _declares(stage, "SHARDED")]
    if unfit:
        raise UserError(
            f"{unfit[0].dir.name}: this launch asks for FSDP, and {unfit[0].name} does not shard its model.",
            "a launch without it for that stage; any launch can go on where another one ended",
            "the same with configs/accelerate/ddp.yaml, or this with --until the stage before it first",
        )


def worker_loop(folder: Path) -> None:
    """What every process but rank 0 does: its share of each stage that rank 0 announces, until none is
    left."""
    import torch
    import torch.distributed as dist

    while (number := _broadcast_stage(None)) is not None:
        stage = Run.load(folder).stages[number - 1]
        if stage.config.threads:
            torch.set_num_threads(stage.config.threads)
        with TemporaryDirectory(prefix="rlaif-") as scratch:
            stage.dir = Path(shutil.copytree(stage.dir, Path(scratch) / stage.dir.name))
            if getattr(stage.options, "tracker", None):
                stage.options = stage.options.model_copy(update={"tracker": None})
            dist.barrier()
            stage.begin()
            module(stage).run(stage)
        dist.barrier()


def module(stage: Stage) -> Any:
    """The stage's file."""
    return import_module(f"rlaif.stages.{stage.name}")


def check_even_shares(stages: Iterable[Stage]) -> None:
    """Raises UserError where an optimiser step of a stage has to be shared out evenly (its `minibatch`) and
    cannot be."""
    for stage in stages:
        o, minibatch = stage.options, getattr(stage.options, "minibatch", 0)
        if minibatch % world_size():
            raise UserError(
                f"{stage.dir.name}: {minibatch} responses an optimiser step (batch_size {o.batch_size} / "
                f"minibatches {o.minibatches}) on {world_size()} processes.",
                "a multiple of the number of processes",
                f"-s {stage.name}.batch_size=… or -s {stage.name}.minibatches=…, or another number of "
                "processes",
            )


def _declares(stage: Stage, what: str) -> bool:
    return getattr(module(stage), what, False)


def _broadcast_stage(number: int | None) -> int | None:
    """Rank 0 sends all processes the number of the stage to run, or None where there is none left."""
    import torch.distributed as dist

    sent: list[Any] = [number]
    dist.broadcast_object_list(sent, src=0)
    return sent[0]
