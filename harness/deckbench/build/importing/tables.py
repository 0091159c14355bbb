"""The source lab's tables and texts beside its datasets: do they say the same, and which class is a question about?

`Box_QA.csv` and `Box_txt/` belong to stage S1, `YOLO_QA_2.csv` and `Yolo_txt/` to S2. They lie up to two folders above
the imported one (`train_v4/GLM_SFT/Singel` -> `train_v4`). Only files of these names are looked at there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from deckbench.build.importing.sources import SourceFolder, Sources, UnmatchedRow, read_text, shown
from deckbench.build.importing.text import plain, question_pairs, table_rows
from deckbench.disk import real_path
from deckbench.errors import InputError

TABLES = {"S1": "box_qa.csv", "S2": "yolo_qa_2.csv"}
TEXTS = {"S1": "box_txt", "S2": "yolo_txt"}
UP = 2


def compare(
    old: Path, maps: Sequence[SourceFolder], columns: Mapping[str, str], read: Sources
) -> dict[str, dict[str, str]]:
    """List in `read` what the tables and texts have and the samples have not, and the other way round.

    Returns stage -> {question and answer -> class}, from the names of the text files, where only one file has them.
    Raises InputError for a table that cannot be read.
    """
    base = old if old.is_dir() else old.parent
    sources = {real_path(base / name) for name in read.files}
    for mapped, path in read.tables:
        try:
            _table(old, path, {mapped.name}, columns, read, complete=False)
        except InputError as error:  # some other table that lies about, such as old predictions
            read.listed.append(UnmatchedRow(mapped.name, shown(path, old), 0, "no-samples", error.what))
    classes: dict[str, dict[str, str]] = {}
    for stage in TABLES:
        names = {one.name for one in maps if one.stage in {stage, "mix"}}
        whole = {one.name for one in maps if one.stage == stage}
        table = beside(old, TABLES[stage])
        if whole and table is not None and table.is_file() and real_path(table) not in sources:
            _table(old, table, names, columns, read, complete=True, owners=whole)
        folder = beside(old, TEXTS[stage])
        if whole and folder is not None and folder.is_dir():
            classes[stage] = _texts(old, folder, names, read)
    return classes


def beside(old: Path, name: str) -> Path | None:
    """A file or folder of this name (case does not matter) in the imported folder or up to two above it."""
    folder = (old if old.is_dir() else old.parent).resolve()
    for place in (folder, *list(folder.parents)[:UP]):
        for entry in sorted(place.iterdir()):
            if entry.name.lower() == name and not entry.is_symlink():
                return entry
    return None


def _table(
    old: Path,
    path: Path,
    names: set[str],
    columns: Mapping[str, str],
    read: Sources,
    *,
    complete: bool,
    owners: set[str] | None = None,
) -> None:
    """complete: samples of `owners` that the table lacks are listed as well."""
    said = {(question, answer, picture) for name, question, answer, picture in read.said if name in names}
    pairs = {(question, answer) for question, answer, _ in said}
    file, label = shown(path, old), "+".join(sorted(names))
    held: set[tuple[str, str, str]] = set()
    pictured = False
    for number, row in table_rows(read_text(path, old, read), path, columns):
        if row is None:
            read.listed.append(UnmatchedRow(label, file, number, "broken-row", "the row's cells do not fit the header"))
            continue
        question, answer = plain(row.get("question", "")), plain(row.get("answer", ""))
        picture = PurePath(row.get("image", "").replace("\\", "/")).name
        pictured |= bool(picture)
        held.add((question, answer, picture))
        if not ((question, answer, picture) in said if picture else (question, answer) in pairs):
            what = f"{picture}: {question[:60]} -> {answer[:20]}"
            read.listed.append(UnmatchedRow(label, file, number, "table-only", what))
    if complete:
        for asked in read.asked:
            picture = PurePath(asked.named.replace("\\", "/")).name if pictured else ""
            if asked.dataset in (owners or set()) and (plain(asked.question), plain(asked.answer), picture) not in held:
                what = f"{picture}: {plain(asked.question)[:60]}"
                read.listed.append(UnmatchedRow(asked.dataset, asked.file, asked.row, "not-in-table", what))


def _texts(old: Path, folder: Path, names: set[str], read: Sources) -> dict[str, str]:
    pairs = {(question, answer) for name, question, answer, _ in read.said if name in names}
    label = "+".join(sorted(names))
    stems: dict[str, set[str]] = defaultdict(set)
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".txt" and not p.is_symlink()):
        found = question_pairs(read_text(path, old, read))
        if not found:
            read.listed.append(UnmatchedRow(label, shown(path, old), 0, "no-samples", path.name))
        for pair in found:
            question, answer = plain(pair.question), plain(pair.answer)
            stems[key(question, answer)].add(path.stem)
            if (question, answer) not in pairs:
                what = f"{question[:60]} -> {answer[:20]}"
                read.listed.append(UnmatchedRow(label, shown(path, old), pair.line, "text-only-qa", what))
    return {pair: next(iter(found)) for pair, found in stems.items() if len(found) == 1}


def key(question: str, answer: str) -> str:
    """A question and its answer as one text to look up."""
    return f"{plain(question)}\0{plain(answer)}"
