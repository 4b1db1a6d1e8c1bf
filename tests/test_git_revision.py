"""The revision in a manifest is read without running anything that the repository names."""

import subprocess
from pathlib import Path

import pytest

from rlaif.preflight.provenance import git_revision


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "config.yaml").write_text("name: mine\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_a_clean_and_a_changed_tree(repository: Path):
    revision = git(repository, "rev-parse", "HEAD")
    assert git_revision(repository) == revision
    (repository / "config.yaml").write_text("name: yours\n")
    assert git_revision(repository) == f"{revision}+changes"


def test_outside_a_repository(tmp_path: Path):
    assert git_revision(tmp_path) is None


def program(folder: Path, name: str) -> tuple[Path, Path]:
    """A program that leaves a file where it ran, and that file."""
    trace = folder / f"{name}.ran"
    path = folder / name
    path.write_text(f"#!/bin/sh\ntouch '{trace}'\ncat\n")
    path.chmod(0o755)
    return path, trace


@pytest.mark.parametrize("kind", ["fsmonitor", "hook", "hooks folder", "clean filter", "process filter"])
def test_no_program_of_the_repository_runs(repository: Path, tmp_path: Path, kind: str):
    run, trace = program(tmp_path, "evil")
    revision = git(repository, "rev-parse", "HEAD")
    if kind == "fsmonitor":
        git(repository, "config", "core.fsmonitor", str(run))
    elif kind == "hook":
        hook = repository / ".git" / "hooks" / "post-index-change"
        hook.parent.mkdir(exist_ok=True)
        hook.symlink_to(run)
    elif kind == "hooks folder":
        hooks = tmp_path / "hooks"
        hooks.mkdir()
        (hooks / "post-index-change").symlink_to(run)
        git(repository, "config", "core.hooksPath", str(hooks))
    else:
        (repository / ".git" / "info").mkdir(exist_ok=True)
        (repository / ".git" / "info" / "attributes").write_text("* filter=Evil.Name\n")
        git(repository, "config", f"filter.Evil.Name.{kind.split()[0]}", str(run))
    (repository / "config.yaml").write_text(
        "name: mine\n"
    )  # the time changes, so that the content is read again
    assert (git_revision(repository) or "").startswith(revision)
    assert not trace.exists()
    subprocess.run(["git", "-C", str(repository), "status"], capture_output=True, timeout=60)
    assert trace.exists(), "the trap itself works: plain git runs the program"
