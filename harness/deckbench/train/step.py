"""The step: dataset and base model in, adapter out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.errors import InputError
from deckbench.train import lora
from deckbench.train.config import read_source, settle
from deckbench.train.data import training_items
from deckbench.train.evaluate import fit_dataset, make_eval_set
from deckbench.train.fit import deterministic, fit
from deckbench.train.launch import Places, launch
from deckbench.train.ranks import connect
from deckbench.train.run import check_place, finish_published, log_plan, open_run, prepare, publish, remove_unstarted


def train_in_ranks(
    places: Places,
    command: Sequence[str],
    *,
    out: Path,
    config: Path | None,
    overrides: Mapping[str, Any],
    resume: bool,
) -> None:
    """Run one LoRA training in several processes, as `train` does in one.

    Args:
        places: GPUs or processes, and machines.
        command: the command line of each rank (`train --model ...`), without the places.
        out: the adapter folder.
        config: yaml file, or name of a packaged one.
        overrides: settings that replace the config's.
        resume: continue an interrupted run.

    Raises:
        InputError: as a rank found it; nothing is written.
        OutsideError: names the rank that died or hung; the last checkpoint is kept.
    """
    settings = settle(read_source(config), overrides)
    check_place(out, resume)
    try:
        launch(command, places, out=out, timeout_s=settings.rank_timeout)
    except InputError:
        remove_unstarted(out)
        raise


def train(
    *,
    model: str,
    data: Path,
    out: Path,
    init: Path | None = None,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    seed: int = 0,
) -> Manifest:
    """Run one LoRA training; crash-safe, resumable, bitwise reproducible on CPU.

    Args:
        model: name or folder of the base.
        data: a dataset's folder; its train part is learned.
        out: the adapter folder; it appears when the training is complete.
        init: adapter of the previous stage, whose weights are trained on, in the same layers.
        config: yaml file, or name of a packaged one.
        overrides: settings that replace the config's.
        resume: continue from the last good checkpoint in `<out>.partial`, or start when there is none.
        seed: random seed.

    Returns:
        The manifest of `out`. The weights are the same whether or not the run was killed and resumed.

    Raises:
        InputError: wrong input; nothing is written.
        OutsideError: the disk or another process failed; the last checkpoint is kept.
    """
    data, out = Path(data), Path(out)
    started = time.monotonic()
    source = read_source(config)
    settings = settle(source, overrides or {})

    def where_set(setting: str) -> str:
        return "--set" if setting in (overrides or {}) else source.place(setting)

    with connect(settings.rank_timeout) as ranks, deterministic(settings):
        from deckbench.train.features import check as check_features

        check_place(out, resume)
        items = training_items(data)
        settings = fit_dataset(settings, source, overrides or {}, data)
        eval_set = None
        if settings.eval_every is not None:
            eval_set = make_eval_set(data, limit=settings.eval_limit, seed=seed)
        adapter = None if init is None else lora.read_adapter(Path(init))
        run = replace(prepare(model, data, source, settings, items, adapter, out, seed, ranks), eval_set=eval_set)
        lora.check_targets(run.model, run.config, where_set("targets"))
        check_features(run.model, run.config, where_set("feature_cache"))
        if (out / artifact.MANIFEST).exists():
            return finish_published(run)
        ranks.barrier()  # no rank writes before all have checked
        if ranks.is_main:
            open_run(run)
            log_plan(run)
        ranks.barrier()
        try:
            last = fit(run)
        except InputError:
            if ranks.is_main:
                remove_unstarted(out)
            raise
        if ranks.is_main:
            publish(run, last, wall_s=time.monotonic() - started)
            shutil.rmtree(run.partial, ignore_errors=True)
        ranks.barrier()
        return artifact.read(out, "adapter")
