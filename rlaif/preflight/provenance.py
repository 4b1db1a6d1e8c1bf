"""What a run was made with: versions, revision, devices, endpoints and what they serve."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rlaif import DISTRIBUTION, __version__
from rlaif.config import Config
from rlaif.preflight.opening import RunSpec

REPORTED = ("torch", "transformers", "trl", "datasets", "accelerate", "openai", "vllm", "pydantic")


def manifest(spec: RunSpec) -> dict[str, Any]:
    """What exactly this run is: versions, revision, machine, hashes, and the command that makes it again."""
    return {
        "rlaif": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **asked(spec),
        "config_folder": str(spec.folder),
        "git": git_revision(spec.folder),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "endpoints": endpoints(spec.config),
        "inputs": spec.inputs,
        "prompt_rows": spec.prompt_rows,
        "versions": {name: version(name) for name in REPORTED},
        "status": "running",
    }


def asked(spec: RunSpec) -> dict[str, Any]:
    """What a run's manifest says of what was asked for; the rest is of the machine and the moment."""
    return {
        "name": spec.config.name,
        "seed": spec.config.seed,
        "command": spec.command,
        "constitution_hash": spec.constitution.hash,
        "template_hashes": {name: spec.templates.hash(name) for name in spec.templates.sources},
    }


def endpoints(config: Config) -> dict[str, list[str]]:
    """The addresses that a run asks, by role."""
    roles = {"policy": config.policy, "feedback": config.feedback}
    return {name: sorted(role.endpoints) if role.kind.served else [] for name, role in roles.items()}


def version(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# A repository's own settings name programs that git starts: none may run only because a config lies inside
# it.
GIT = (
    "git",
    "--no-optional-locks",
    "-c",
    "core.fsmonitor=false",
    "-c",
    f"core.hooksPath={os.devnull}",
    "-c",
    "protocol.allow=never",
)


GIT_ENVIRONMENT = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}


def git_revision(folder: Path) -> str | None:
    """The git revision of a folder, with "+changes" where its tree is not clean; None outside a repository.

    The repository is not trusted: its hooks, file system monitor, filters, submodules and remotes are not
    used.
    """

    def git(*words: str, settings: Sequence[str] = ()) -> str:
        command = [
            *GIT,
            *(part for setting in settings for part in ("-c", setting)),
            "-C",
            str(folder),
            *words,
        ]
        environment = {**os.environ, **GIT_ENVIRONMENT}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=environment
        ).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        names = git("config", "--name-only", "--list").splitlines()
        # An empty filter command is none; what a filter would hide then counts as a change.
        unfiltered = [
            f"{name}=" for name in names if re.fullmatch(r"filter\..*\.(clean|smudge|process)", name)
        ]
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        return revision + ("+changes" if git(*status, settings=unfiltered) else "")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def other_owners() -> dict[str, str]:
    """Other installed packages with a module or command `rlaif`, whose files and ours overwrite each
    other."""
    commands = metadata.entry_points(group="console_scripts", name="rlaif")
    names = {script.dist.name for script in commands if script.dist}
    names.update(metadata.packages_distributions().get("rlaif", []))
    return {
        f"{name} {version(name)}": f"has a module or a command rlaif, too: pip uninstall {name}, "
        f"then install {DISTRIBUTION} again (pip install --force-reinstall --no-deps)"
        for name in sorted(names)
        if re.sub(r"[-_.]+", "-", name).lower() != DISTRIBUTION
    }


def environment() -> dict[str, Any]:
    """Versions and devices of this machine, for `rlaif check`."""
    found: dict[str, Any] = {
        "rlaif": __version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }
    found |= {name: version(name) or "not installed" for name in REPORTED}
    if conflicts := other_owners():
        found["conflicts"] = conflicts
    if version("torch"):
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["gpus"] = gpus or "none"
    return found
