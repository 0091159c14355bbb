"""`import`: a lab's old files become datasets that every other step reads."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from deckbench import artifact
from deckbench.build.importing import tables
from deckbench.build.importing.output import Facts, write_dataset, write_unmatched
from deckbench.build.importing.places import Places, parse_roots
from deckbench.build.importing.recover import Match, Old, recover
from deckbench.build.importing.refused import REASONS
from deckbench.build.importing.sources import OldSample, SourceFolder, Sources, UnmatchedRow, parse_maps, read_sources
from deckbench.cores import in_threads
from deckbench.errors import InputError
from deckbench.picture import PictureError, inspect_picture
from deckbench.progress import say, track
from deckbench.split import known_groups, share_out
from deckbench.yolo.frame import Pool

UNMATCHED = "unmatched.csv"
SHOWN_ROWS = 5
WAYS = ("files", "group", "train-only", "test-only")


def import_old(
    old: Path,
    *,
    out: Path,
    maps: Sequence[str] = (),
    image_roots: Sequence[str] = (),
    pool: Path | None = None,
    split: str = "files",
    columns: Sequence[str] = (),
    seed: int = 0,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Import a lab's old files as datasets.

    The content depends on the files, the pool and the options, never on where they lie.

    Args:
        old: The folder, or the file, with JSONL, JSON or CSV files.
        out: The dataset's folder, or with several maps the folder of one dataset each; must not exist yet.
        maps: `FOLDER=STAGE`, joined by commas; a dataset has its folder's name.
        image_roots: `OLD=NEW`: where the images of OLD lie now.
        pool: The pool that the images come from; frames and groups are recovered from it.
        split: `files` (as the files' names say), `group` (anew, by the pool's groups), `train-only` or `test-only`.
        columns: `question=NAME`, for tables with other headers; `ignore=NAME`, for fields to leave out.
        seed: Random seed.
        skip_bad: Leave out broken frames of the pool.

    Returns:
        Counts by dataset, and what was not matched: what the command prints.

    Raises:
        InputError: Nothing can be imported, or an option is wrong; nothing is written.
        OutsideError: The disk fails.
    """
    started = time.monotonic()
    old, out = Path(old), Path(out)
    artifact.check_free(out)
    if not old.exists():
        raise InputError("not found; a folder or file to import is expected here", old, "check the path")
    if split not in WAYS:
        raise InputError(f"{split!r} is not a way to split", "--split", f"use {', '.join(WAYS)}")
    if split == "group" and pool is None:
        raise InputError("groups are not known without a pool", "--split", "give --pool, or keep --split files")
    named, ignored = parse_columns(columns)
    maps_read = parse_maps(old, maps)
    places = Places(old if old.is_dir() else old.parent, parse_roots(image_roots))
    read = read_sources(old, maps_read, places, named, ignored)
    facts = inspect_images(read)
    classes = tables.compare(old, maps_read, named, read)
    if not read.asked:
        refuse_empty(read, places, old)
    frames = None if pool is None else _read_pool(pool, skip_bad)
    matches: dict[str, Match] = {}
    if frames is not None:
        matches = match_images(read, maps_read, facts, frames)
        list_strangers(read, matches)
    give_stages(read, maps_read, matches)
    give_parts(read, split, matches, facts, seed)
    if not read.asked:
        refuse_empty(read, places, old)
    read.asked, repeated = without_repeats(read)

    inputs: dict[str, Any] = {"files": {name: entry["sha256"] for name, entry in sorted(read.files.items())}}
    inputs |= {"pool": frames.content_hash} if frames is not None else {}
    synthetic = frames is not None and frames.synthetic
    report: dict[str, Any] = {"rows": read.rows, "repeated": repeated, "datasets": {}}
    params = {"task": None, "import": {m.name: m.stage for m in maps_read}, "split": split, "synthetic": synthetic}
    single = len(maps_read) == 1
    kind = "dataset" if single else "import"
    with artifact.writing(out, kind, inputs=inputs, params=params, seed=seed) as draft:
        for mapped in maps_read:
            mine = [asked for asked in read.asked if asked.dataset == mapped.name]
            if single:
                summary = write_dataset(draft.path, mine, facts, matches, frames, classes, seed)
                draft.params |= summary
            elif mine:
                own = {**params, "stage": mapped.stage}
                with artifact.writing(draft.path / mapped.name, "dataset", inputs=inputs, params=own, seed=seed) as one:
                    summary = write_dataset(one.path, mine, facts, matches, frames, classes, seed)
                    one.params |= summary
            else:
                summary = {"counts": {}}
            report["datasets"][mapped.name] = {"stage": mapped.stage, **summary}
        write_unmatched(draft.path / UNMATCHED, read.listed)
        reasons = Counter(one.reason for one in read.listed)
        report["unmatched"] = dict(sorted(reasons.items()))
        report["encodings"] = {name: entry["encoding"] for name, entry in sorted(read.files.items())}
        draft.params |= {"rows": read.rows, "repeated": repeated, "unmatched": report["unmatched"]}
        draft.observed |= {"wall_s": round(time.monotonic() - started, 3), "encodings": report["encodings"]}
    report_summary(report, places, read.listed)
    return report


def parse_columns(pairs: Sequence[str]) -> tuple[dict[str, str], frozenset[str]]:
    """`question=NAME,ignore=OTHER` -> {"question": "NAME"}, {"OTHER"}. Raises InputError."""
    found = {}
    ignored = set()
    for pair in (part for text in pairs for part in text.split(",") if part.strip()):
        ours, equals, theirs = pair.partition("=")
        if not equals or ours.strip() not in {"image", "question", "answer", "ignore"} or not theirs.strip():
            fix = "write image=NAME, question=NAME, answer=NAME or ignore=NAME"
            raise InputError(f"cannot read {pair!r}", "--columns", fix)
        if ours.strip() == "ignore":
            ignored.add(theirs.strip())
        else:
            found[ours.strip()] = theirs.strip()
    return found, frozenset(ignored)


def _read_pool(pool: Path, skip_bad: bool) -> Pool:
    from deckbench.yolo.read import read_pool

    return read_pool(pool, skip_bad=skip_bad)


def inspect_images(read: Sources) -> dict[str, Facts]:
    """Open every picture once; rows about those that cannot be read are listed. Returns sha256 -> facts."""
    paths = list(dict.fromkeys(asked.picture for asked in read.asked))

    def look(path: Path) -> Facts | PictureError:
        try:
            seen = inspect_picture(path)
        except PictureError as error:
            return error
        return Facts(path, seen.sha256, seen.width, seen.height)

    seen = in_threads(look, iter(paths))
    looks = dict(zip(paths, track(seen, "looking at images", total=len(paths)), strict=True))
    facts: dict[str, Facts] = {}
    kept = []
    for asked in read.asked:
        found = looks[asked.picture]
        if isinstance(found, PictureError):
            what = f"{asked.named}: {found}"
            read.listed.append(UnmatchedRow(asked.dataset, asked.file, asked.row, "unreadable-picture", what))
        else:
            asked.sha256 = found.sha256
            facts.setdefault(found.sha256, found)
            kept.append(asked)
    read.asked = kept
    return facts


def refuse_empty(read: Sources, places: Places, old: Path) -> None:
    """Nothing can be imported: say why, and what would help."""
    reasons = Counter(one.reason for one in read.listed)
    words = "; ".join(f"{count} x {REASONS[reason]}" for reason, count in reasons.most_common(4))
    fix = "give the folder that holds .jsonl, .json or .csv files, and name its parts with --map FOLDER=STAGE"
    if read.rows:
        fix = "change those rows (docs/import.md lists what is read), then import again"
    if reasons["absolute-path"]:
        fix = f"say where the images lie now, such as --image-root {places.strangers.most_common(1)[0][0]}=FOLDER"
    elif reasons["leaves-folder"]:
        fix = "name the images' folder with --image-root OLD=NEW; `cp -rL OLD COPY` copies what links point to"
    elif reasons["unknown-group"]:
        fix = "keep the files' own parts with --split files, or give the pool that the images come from"
    elif reasons["unknown-field"]:
        name = next(one.what.partition(":")[0] for one in read.listed if one.reason == "unknown-field")
        fix = f"if a field is no part of the question: --columns ignore={name.partition(' in a message')[0]}"
    lines = [f"no sample can be imported ({words or 'no files with samples'})"]
    lines += [f"  {place_of(one)}: {REASONS[one.reason]}: {one.what}" for one in read.listed[:SHOWN_ROWS]]
    if len(read.listed) > SHOWN_ROWS:
        lines.append(f"  ... and {len(read.listed) - SHOWN_ROWS} more")
    raise InputError("\n".join(lines), old, fix)


def place_of(one: UnmatchedRow) -> str:
    """`train.jsonl:3`, `train.json, record 3`, or the file where it is about all of it."""
    if not one.row:
        return one.file
    return f"{one.file}, record {one.row}" if one.file.lower().endswith(".json") else f"{one.file}:{one.row}"


def match_images(
    read: Sources, maps: Sequence[SourceFolder], facts: Mapping[str, Facts], pool: Pool
) -> dict[str, Match]:
    """sha256 of a picture -> where it comes from."""
    stage = {one.name: one.stage for one in maps}
    stages: dict[str, set[str]] = defaultdict(set)
    stems: dict[str, str] = {}
    for asked in read.asked:
        stages[asked.sha256].add(stage[asked.dataset])
        stems.setdefault(asked.sha256, PurePath(asked.named.replace("\\", "/")).stem)
    pictures = []
    for key, fact in facts.items():
        sure = stages[key] & {"S1", "S2", "S3"} or {"S1", "S2"}
        crop, whole = "S1" in sure, bool(sure & {"S2", "S3"})
        pictures.append(Old(fact.path, stems[key], key, fact.width, fact.height, crop, whole))
    by_path = {fact.path: key for key, fact in facts.items()}
    return {by_path[path]: match for path, match in recover(pictures, pool, known_groups(pool)).items()}


def list_strangers(read: Sources, matches: Mapping[str, Match]) -> None:
    """List pictures that are not in the pool, once each."""
    seen = set(matches)
    for asked in read.asked:
        if asked.sha256 not in seen:
            seen.add(asked.sha256)
            read.listed.append(UnmatchedRow(asked.dataset, asked.file, asked.row, "not-in-pool", asked.named))


def give_stages(read: Sources, maps: Sequence[SourceFolder], matches: Mapping[str, Match]) -> None:
    """A sample's stage is its folder's; in a mixed folder that of the other folder with its picture, else by match."""
    stage = {one.name: one.stage for one in maps}
    known = {asked.sha256: stage[asked.dataset] for asked in read.asked if stage[asked.dataset] in {"S1", "S2"}}
    for asked in read.asked:
        asked.stage = stage[asked.dataset]
        if asked.stage == "mix":
            match = matches.get(asked.sha256)
            by_match = "" if match is None else "S1" if match.how in {"label", "name"} else "S2"
            asked.stage = known.get(asked.sha256) or by_match


def give_parts(read: Sources, split: str, matches: Mapping[str, Match], facts: Mapping[str, Facts], seed: int) -> None:
    """Every sample's part: train, val or test. Raises InputError when the files do not say it."""
    if split in {"train-only", "test-only"}:
        for asked in read.asked:
            asked.part = split.partition("-")[0]
        return
    if split == "files":
        silent = next((asked for asked in read.asked if not asked.part), None)
        if silent is not None:
            raise InputError(
                "the file's name does not say whether it is train, val or test",
                silent.file,
                "rename it (train.jsonl), or use --split group (with --pool), train-only or test-only",
            )
        return
    sizes: dict[str, int] = {}
    for key in facts:
        if key in matches:
            sizes[matches[key].group] = sizes.get(matches[key].group, 0) + 1
    if len(sizes) < 3:
        what = f"the images come from {len(sizes)} of the pool's groups: too few to fill train, val and test"
        raise InputError(what, "--split", "keep --split files, or use test-only")
    parts = share_out(sizes, seed)
    kept = []
    for asked in read.asked:
        if asked.sha256 in matches:
            asked.part = parts[matches[asked.sha256].group]
            kept.append(asked)
        else:
            read.listed.append(UnmatchedRow(asked.dataset, asked.file, asked.row, "unknown-group", asked.named))
    read.asked = kept


def without_repeats(read: Sources) -> tuple[list[OldSample], int]:
    """Samples without those that a dataset's part has already, and their number; contradictions are listed."""
    seen: set[tuple[str, ...]] = set()
    answers: dict[tuple[str, ...], OldSample] = {}
    kept = []
    for asked in read.asked:
        question = (asked.dataset, asked.sha256, asked.question)
        same = (*question, asked.answer, asked.part)
        if same in seen:
            continue
        seen.add(same)
        first = answers.setdefault(question, asked)
        if first.answer != asked.answer:
            what = f"{asked.named}: {asked.question[:60]} -> {asked.answer[:20]}; {first.file}:{first.row} has another"
            read.listed.append(UnmatchedRow(asked.dataset, asked.file, asked.row, "other-answer", what))
        kept.append(asked)
    return kept, len(read.asked) - len(kept)


def report_summary(report: Mapping[str, Any], places: Places, listed: Sequence[UnmatchedRow]) -> None:
    """What a person should know at once."""
    for reason, count in report["unmatched"].items():
        first = next(one for one in listed if one.reason == reason)
        say(f"{count} x {reason}: {REASONS[reason]}; first: {place_of(first)}: {first.what}")
    if places.strangers:
        folder, count = places.strangers.most_common(1)[0]
        say(f"{count} rows name images in {folder}; if they are elsewhere now: --image-root {folder}=FOLDER")
    guessed = [name for name, encoding in report["encodings"].items() if encoding == "gb18030"]
    if guessed:
        say(f"read as GB18030, for they are not UTF-8: {', '.join(guessed[:5])}" + (" ..." if guessed[5:] else ""))
