"""Statements and signatures: in-toto over all files of a record, ed25519 keys, offline."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from deckbench.cli import main
from deckbench.errors import AnswerIsNo, InputError
from deckbench.pipeline.sign import sign_records
from deckbench.pipeline.verify import verify
from deckbench.record.read import read_record
from deckbench.report import report
from tests.record.forge import forge, seal


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public half."""
    place = tmp_path / "lab.key"
    sign_records([], new_key=place)
    return place, tmp_path / "lab.key.pub"


def statement(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "statement.json").read_text(encoding="utf-8"))
    return found


def test_a_record_carries_an_in_toto_statement(folder: Path) -> None:
    value, record = statement(folder), read_record(folder).record
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {subject["name"] for subject in value["subject"]} == files - {"statement.json"}
    build = value["predicate"]["buildDefinition"]
    assert build["externalParameters"]["command"] == record.command
    given = {entry["name"]: entry["digest"]["sha256"] for entry in build["resolvedDependencies"]}
    assert given == {entry.name: entry.sha256 for entry in record.inputs}
    assert value["predicate"]["runDetails"]["builder"]["id"] == "urn:deckbench:host"


@pytest.mark.parametrize("what", ["edited", "missing"])
def test_a_statement_that_is_not_the_records(folder: Path, what: str) -> None:
    place = folder / "statement.json"
    if what == "missing":
        place.unlink()
    else:
        place.write_text(place.read_text().replace("infer", "guess"))
    with pytest.raises(InputError, match=r"statement\.json: (is missing|does not say what the record says)"):
        read_record(folder)


def test_signed_verified_and_shown(one: Path, folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    fingerprint = sign_records([folder], key=private)["fingerprint"]
    run = read_record(folder)
    assert (run.signature.key, run.signature.checked) == (fingerprint, True)
    assert verify(folder, signature=True)["signature"] == f"signed by {fingerprint[:16]}"
    assert verify(folder, signature=True, key=public)["reproduced"]
    report(one, out=tmp_path / "site")
    page = (tmp_path / f"site/runs/{folder.name}.html").read_text()
    assert f"signed by {fingerprint[:16]}" in page
    for place in folder.rglob("*"):
        assert place.is_dir() or b"PRIVATE" not in place.read_bytes()


def test_the_envelope_is_dsse(folder: Path, keys: tuple[Path, Path]) -> None:
    """Verified by hand: the signature is of the pre-authentication encoding of the statement."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    sign_records([folder], key=keys[0])
    value = json.loads((folder / "signature.json").read_text())
    payload = base64.b64decode(value["payload"])
    assert json.loads(payload) == statement(folder)
    kind = value["payloadType"].encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key: Any = load_pem_public_key(keys[1].read_bytes())
    key.verify(base64.b64decode(value["signatures"][0]["sig"]), encoded)


def test_an_unsigned_record(one: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AnswerIsNo, match="unsigned"):
        verify(folder, signature=True)
    assert verify(folder)["signature"] == "unsigned"
    report(one, out=tmp_path / "site")
    assert "unsigned" in (tmp_path / f"site/runs/{folder.name}.html").read_text()


def test_another_key(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign_records([folder], key=keys[0])
    sign_records([], new_key=tmp_path / "other")
    with pytest.raises(InputError, match="signed by another key"):
        verify(folder, signature=True, key=tmp_path / "other.pub")


def test_a_signed_record_that_was_changed_with_all_it_was_made_from(folder: Path, keys: tuple[Path, Path]) -> None:
    """What a record alone cannot tell, a signature does: times and a date that were changed everywhere."""
    sign_records([folder], key=keys[0])
    forge(folder, observed=lambda value: value["latency"]["choice"]["answer"].update(p50=0.01))
    with pytest.raises(InputError, match="the signature is of another statement"):
        read_record(folder)
    (folder / "signature.json").unlink()
    assert verify(folder)["reproduced"]


EDITS = {
    "another signature": lambda value: value["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode()),
    "no signature": lambda value: value.update(signatures=[]),
    "two signatures": lambda value: value["signatures"].append(value["signatures"][0]),
    "another type": lambda value: value.update(payloadType="text/plain"),
    "no payload": lambda value: value.pop("payload"),
    "another payload": lambda value: value.update(payload=base64.b64encode(b"{}").decode()),
    "no base64": lambda value: value.update(payload="%"),
    "no key": lambda value: value.update(publicKey="none"),
    "another name of the key": lambda value: value["signatures"][0].update(keyid="0" * 64),
    "more": lambda value: value.update(more=1),
    "lists": lambda value: value.update(signatures=[[]]),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_bad_signature_is_refused(folder: Path, keys: tuple[Path, Path], what: str) -> None:
    sign_records([folder], key=keys[0])
    place = folder / "signature.json"
    value = json.loads(place.read_text())
    EDITS[what](value)
    place.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"signature\.json"):
        verify(folder)


def test_a_forged_record_is_not_signed(folder: Path, keys: tuple[Path, Path]) -> None:
    forge(folder, record=lambda value: value["model"].update(name="other"))
    with pytest.raises(AnswerIsNo, match="does not reproduce"):
        sign_records([folder], key=keys[0])
    assert not (folder / "signature.json").exists()


def test_a_record_is_signed_anew(folder: Path, keys: tuple[Path, Path]) -> None:
    """An older signature, of whatever, is replaced."""
    (folder / "signature.json").write_text("{}")
    sign_records([folder], key=keys[0])
    assert read_record(folder).signature.checked


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["deckbench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    key = str(tmp_path / "lab.key")
    assert code("sign", "--new-key", key) == 0
    assert code("sign", "--new-key", key) == 2  # never overwritten
    assert code("verify", str(folder), "--signature") == 4
    assert code("sign", str(folder)) == 2
    assert code("sign", str(folder), "--key", f"{key}.pub") == 2
    assert code("sign", str(folder), "--key", str(tmp_path / "none")) == 2
    assert code("sign", str(folder), "--key", key) == 0
    assert code("verify", str(folder), "--signature", "--key", f"{key}.pub") == 0
    seal(folder, restate=False)
    (folder / "signature.json").write_text("{}")
    assert code("verify", str(folder), "--signature") == 2
