"""Sign records: with a key of one's own, offline, and only what was checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deckbench.errors import AnswerIsNo, InputError


def sign_records(records: Sequence[Path], *, key: Path | None = None, new_key: Path | None = None) -> dict[str, Any]:
    """Sign records, or make a key.

    Args:
        records: their folders; each is checked against itself before any is signed.
        key: private key, ed25519 in PEM.
        new_key: where a private key is made; its public half is written beside it.

    Returns:
        {"files": what was written, "fingerprint": of the key}.

    Raises:
        InputError: a record or the key cannot be read, or both or neither of the two is asked for.
        AnswerIsNo: a record does not follow from what is in it.
    """
    from deckbench.record import signature
    from deckbench.record.read import read_record
    from deckbench.record.recompute import differences
    from deckbench.record.schema import SIGNATURE

    if new_key is not None:
        if records or key is not None:
            raise InputError("a key is made or used, not both", "--new-key", "first make it, then sign with --key")
        public, fingerprint = signature.new_key(Path(new_key))
        return {"files": [str(new_key), str(public)], "fingerprint": fingerprint}
    if not records or key is None:
        raise InputError("nothing to sign with", "--key", "give records and --key FILE, or --new-key FILE")
    for folder in records:
        if why := differences(read_record(Path(folder), signed=False)):
            raise AnswerIsNo(f"a record that does not reproduce is not signed: {why[0]}", folder)
    fingerprint = ""
    for folder in records:
        fingerprint = signature.sign(Path(folder), Path(key))
    return {"files": [str(Path(folder) / SIGNATURE) for folder in records], "fingerprint": fingerprint}
