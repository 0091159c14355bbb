"""Why one row of a lab's old files is not imported: an error of one row, which never stops the others."""

from __future__ import annotations

# Every reason a row or a file can be listed for in `unmatched.csv`.
REASONS = {
    "broken-row": "the row cannot be read",
    "unknown-field": "a field holds a text that is no known part of a question (leave it out: --columns ignore=NAME)",
    "placeholder": "the text holds a mark that its tool would have filled in",
    "tool-call": "the row calls a tool; DeckBench reads questions and answers",
    "no-samples": "the file holds no question with an answer",
    "no-answer": "the question has no answer",
    "text-only": "the question has no image; DeckBench asks about one frame",
    "several-pictures": "the question has several images; DeckBench asks about one frame",
    "pictures-and-marks": "the images do not fit the <image> marks of the text",
    "not-a-file": "the image is an address, or lies inside the row; only files are read",
    "video-or-audio": "the row has a video or a sound",
    "absolute-path": "the image's absolute path lies under no --image-root",
    "leaves-folder": "the image's path, or a link, leaves the folder it is looked for in",
    "missing-picture": "the image is not there",
    "unreadable-picture": "the image cannot be read",
    "unknown-group": "the image was not found in the pool, so --split group cannot place it",
    "not-in-pool": "the image was not found in the pool: its frame and group stay unknown",
    "other-answer": "the same question about the same image has another answer elsewhere",
    "table-only": "the table's row is in no imported sample",
    "text-only-qa": "the text's question and answer are in no imported sample",
    "not-in-table": "the sample is in no row of the stage's table",
}
# Listed, but imported all the same.
KEPT = frozenset({"not-in-pool", "other-answer", "not-in-table"})


class Refused(Exception):
    """One row is left out. reason: a key of REASONS. what: the words of the row that explain it."""

    def __init__(self, reason: str, what: str) -> None:
        assert reason in REASONS
        self.reason = reason
        self.what = what
        super().__init__(f"{reason}: {what}")
