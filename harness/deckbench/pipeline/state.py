"""State of one run of a suite: which outputs there are, and where a step's output lies.

A step's folder name ends in its key: a hash of the step's parameters, of its inputs' content and of its own code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.pipeline.code import code_hash
from deckbench.pipeline.provenance import identity_of
from deckbench.progress import say
from deckbench.suite import Suite

if TYPE_CHECKING:
    from deckbench.yolo.frame import Pool

Code = tuple[str, ...]  # modules, as `code_hash` takes them


@dataclass(frozen=True)
class StepOutput:
    """The output of a finished step: its path and identity."""

    path: Path
    content_hash: str


@dataclass
class Run:
    """State of one run of a suite: the outputs so far, all under `work`, and the names of the steps it ran.

    ref: what records call the suite, as `suite_source` has it. given: folders of the pools that are its arguments.
    """

    suite: Suite
    ref: str
    file: Path
    work: Path
    given: dict[str, Path] = field(default_factory=dict)
    pools: dict[str, StepOutput] = field(default_factory=dict)
    data: dict[str, StepOutput] = field(default_factory=dict)
    train_sets: dict[str, StepOutput] = field(default_factory=dict)
    adapters: dict[tuple[str, str], StepOutput] = field(default_factory=dict)
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    audit_folders: dict[str, Path] = field(default_factory=dict)
    identities: dict[str, Any] = field(default_factory=dict)
    read_pools: dict[str, Pool] = field(default_factory=dict)
    steps_run: list[str] = field(default_factory=list)

    @property
    def thumbnails(self) -> Path:
        """Keeps what steps see of images, by the hash of the file: split, audits and overlap look at the same ones."""
        return self.work / "thumbnails.sqlite"

    def identity(self, ref: str) -> Any:
        """`identity_of`, once a run: hashing the weights of a large model takes minutes."""
        if ref not in self.identities:
            self.identities[ref] = identity_of(ref)
        return self.identities[ref]

    def frames(self, pool: str) -> Pool:
        """A pool that is there, read once a run."""
        if pool not in self.read_pools:
            from deckbench.yolo.read import read_pool

            self.read_pools[pool] = read_pool(self.pools[pool].path)
        return self.read_pools[pool]

    def step(
        self, step_dir: str, name: str, key: dict[str, Any], code: Code, write: Callable[[Path], Any]
    ) -> StepOutput:
        """A step's output; `write(path)` makes it where it does not exist.

        key: all that decides its content. code: the modules that make it. Raises InputError where it exists and was
        changed since.
        """
        path = self.output_path(step_dir, name, key, code)
        if (path / artifact.MANIFEST).is_file():
            try:
                artifact.read(path, verify=True)
            except InputError as error:
                raise InputError(error.what, error.where, f"remove {path} and run again") from error
        else:
            began = time.monotonic()
            say(f"{step_dir} {name} ...")
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            say(f"{step_dir} {name}: {time.monotonic() - began:.1f} s")
            self.steps_run.append(f"{step_dir}/{name}")
        return StepOutput(path, artifact.read(path).content_hash)

    def output_path(self, step_dir: str, name: str, key: dict[str, Any], code: Code) -> Path:
        """The folder of a step's output."""
        digest = artifact.hash_json({"room": step_dir, "code": code_hash(*code), **key})
        return self.work / step_dir / f"{name.replace('+', '_').replace(':', '-').replace('/', '-')}-{digest[:8]}"

    def path_in_suite(self, relative: str | None) -> Path | None:
        """A file that the suite names relative to itself."""
        return self.file.parent / relative if relative else None
