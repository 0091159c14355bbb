"""Checkpoints that are complete or absent: written aside, checksummed, fsynced, renamed.

Layout, inside the folder of the unfinished run: `checkpoint-<step>/` with files and `seal.json`
({"step": int, "files": {name: {"sha256", "size"}}}). A folder whose seal does not match is never resumed from.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from deckbench import artifact, disk
from deckbench.errors import OutsideError
from deckbench.progress import say

SEAL = "seal.json"
KEEP = 2
_NAME = re.compile(r"checkpoint-(\d+)")
_ASIDE = re.compile(r"\.checkpoint-\d+\.aside")


def step_of(checkpoint: Path) -> int:
    """The optimizer step a checkpoint folder stands for."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"not a checkpoint folder: {checkpoint.name}")
    return int(match[1])


def all_of(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, good or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def write(folder: Path, step: int, files: Mapping[str, bytes]) -> Path:
    """Write `files` as the checkpoint of `step`; keep the last two. Raises OutsideError when the disk fails.

    The bytes come from memory, so that a full disk shows up here as an OSError whatever made them.
    """
    place = folder / f"checkpoint-{step}"
    aside = folder / f".checkpoint-{step}.aside"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, data in files.items():
            (aside / name).write_bytes(data)
            disk.fsync_path(aside / name)
        seal = {"step": step, "files": artifact.list_files(aside)}
        (aside / SEAL).write_text(json.dumps(seal, indent=1) + "\n", encoding="utf-8")
        disk.fsync_path(aside / SEAL)
        disk.fsync_path(aside)
        shutil.rmtree(place, ignore_errors=True)  # only ever a damaged one that was skipped
        aside.rename(place)
        disk.fsync_path(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OutsideError(
            f"cannot write the checkpoint of step {step}: {error.strerror}",
            folder,
            "free disk space, then rerun with --resume; the last good checkpoint is kept",
        ) from error
    for old in all_of(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def is_good(checkpoint: Path) -> bool:
    """Whether the seal matches every file; a torn or edited checkpoint is not good."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        files = artifact.list_files(checkpoint)
        files.pop(SEAL)
        return bool(seal["step"] == step_of(checkpoint) and seal["files"] == files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def latest_good(folder: Path) -> Path | None:
    """The newest checkpoint whose seal matches, or None. Damaged ones are reported and removed."""
    for leftover in folder.glob(".checkpoint-*.aside"):
        if _ASIDE.fullmatch(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)
    for checkpoint in all_of(folder):
        if is_good(checkpoint):
            return checkpoint
        say(f"skipping a damaged checkpoint: {checkpoint.name}")
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None
