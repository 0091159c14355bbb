"""Reading an analysis: what is none, or of a protocol that fails, is refused in one message."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.protocol import read_analysis
from tests.protocol.builder import Builder


def a_small_one() -> Builder:
    made = Builder()
    made.add("home")
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    return made


def test_read(tmp_path: Path) -> None:
    found = read_analysis(a_small_one().write(tmp_path / "a.json"))
    assert (found.name, found.robot, found.api, len(found.commands)) == ("a test", "OT-2 Standard", (2, 20), 4)
    assert [one.command_type for one in found.commands] == ["home", "loadLabware", "loadPipette", "pickUpTip"]
    assert [one.number for one in found.commands] == [0, 1, 2, 3]


def test_two_analyses_of_one_protocol_have_one_content(tmp_path: Path) -> None:
    one, other = a_small_one(), a_small_one()
    assert one.commands[1]["result"]["labwareId"] != other.commands[1]["result"]["labwareId"]
    first, second = read_analysis(one.write(tmp_path / "a.json")), read_analysis(other.write(tmp_path / "b.json"))
    assert first.sha256 == second.sha256
    other.commands[3]["params"]["wellName"] = "A2"
    assert read_analysis(other.write(tmp_path / "b.json")).sha256 != first.sha256


def test_gzip_byte_order_mark_and_the_wrapping_of_the_server(tmp_path: Path) -> None:
    data = a_small_one().analysis(status="completed")
    for name, raw in {
        "a.json.gz": gzip.compress(json.dumps(data).encode()),
        "b.json": json.dumps(data).encode("utf-8-sig"),
        "c.json": json.dumps({"data": data}).encode(),
    }.items():
        (tmp_path / name).write_bytes(raw)
        assert len(read_analysis(tmp_path / name).commands) == 4, name


FAILED = {"errorType": "ExceptionInProtocolError", "detail": "NameError [line 3]:\n name 'x' is not defined"}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "flex": ({"robotType": "OT-3 Standard"}, "Flex"),
    "another robot": ({"robotType": "OT-9"}, "unknown robot: OT-9"),
    "errors": ({"errors": [FAILED], "result": "not-ok"}, r"the protocol fails: NameError \[line 3\]: name 'x'"),
    "errors without words": ({"errors": ["x"]}, "the protocol fails"),
    "not ok": ({"result": "not-ok"}, "its result is not-ok"),
    "parameters": ({"result": "parameter-value-required"}, "needs values of its parameters"),
    "pending": ({"status": "pending"}, "status is pending"),
    "no commands": ({"commands": None}, "it has no commands"),
    "an empty list": ({"commands": []}, "it has no commands"),
    "nothing but an error": ({"commands": [], "errors": [FAILED]}, "the protocol fails: NameError"),
    "a command that is none": ({"commands": [3]}, "commands.0: a command is a JSON object"),
    "no type": ({"commands": [{"id": "a", "key": "b", "params": {}, "status": "succeeded"}]}, "commandType"),
    "a number for an id": ({"commands": [{"id": 1, "commandType": "home", "status": "succeeded"}]}, "'id'"),
    "params": ({"commands": [{"id": "1", "commandType": "home", "status": "x", "params": []}]}, "params and result"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    fields, message = BROKEN[case]
    with pytest.raises(InputError, match=message) as caught:
        read_analysis(a_small_one().write(tmp_path / "a.json", **fields))
    assert caught.value.exit_code == 2 and caught.value.fix


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"commands": {}}', b"[" * 5000,
        b'{"a": ' * 3000 + b"1" + b"}" * 3000,
        b'{"commands": [], "x": NaN}', b'{"commands": [], "x": 1e999}', b'{"commands": [], "x": "\\ud800"}',
        b'{"commands": [], "x": ' + b"[" * 90 + b"]" * 90 + b"}", b"\x1f\x8b\x08broken", b'{"x": ' + b"9" * 9999 + b"}",
        b"from opentrons import protocol_api\n",
    ],
)  # fmt: skip
def test_what_is_no_analysis(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_analysis(tmp_path / "a.json")
    assert len(caught.value.message()) < 600


def test_missing_folder_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_analysis(path)
    monkeypatch.setattr("deckbench.protocol.analysis.MAX_BYTES", 1000)
    (tmp_path / "bomb.json").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(InputError, match="larger than"):
        read_analysis(tmp_path / "bomb.json")
    monkeypatch.undo()
    monkeypatch.setattr("deckbench.protocol.analysis.MAX_PARTS", 9)
    with pytest.raises(InputError, match="more than 9 objects and lists"):
        read_analysis(a_small_one().write(tmp_path / "a.json"))
    monkeypatch.undo()
    monkeypatch.setattr("deckbench.protocol.analysis.MAX_COMMANDS", 3)
    with pytest.raises(InputError, match="4 commands; the limit is 3"):
        read_analysis(a_small_one().write(tmp_path / "a.json"))


def test_a_key_that_stands_twice_and_one_that_is_missing(tmp_path: Path) -> None:
    made = a_small_one()
    made.commands[2]["key"] = made.commands[1]["key"]
    with pytest.raises(InputError, match=r"commands\.2: the same key as command 1"):
        read_analysis(made.write(tmp_path / "a.json"))
    del made.commands[2]["key"]
    with pytest.raises(InputError, match=r"commands\.2: no key"):
        read_analysis(made.write(tmp_path / "a.json"))
    made.commands[2]["intent"] = "setup"
    assert not read_analysis(made.write(tmp_path / "a.json")).commands[2].in_chain


def test_a_command_that_failed(tmp_path: Path) -> None:
    made = a_small_one()
    made.commands[3]["status"] = "failed"
    with pytest.raises(InputError, match=r"command 3 \(pickUpTip\) has the status failed"):
        read_analysis(made.write(tmp_path / "a.json"))


def test_names_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    for place in ("metadata", "ordering", "params"):
        made = a_small_one()
        command = made.commands[1]
        if place == "params":
            command["params"]["displayName"] = "x" * 501
        elif place == "metadata":
            command["result"]["definition"]["metadata"]["displayName"] = "x" * 501
        else:
            command["result"]["definition"]["ordering"] = [["x" * 501]]
        with pytest.raises(InputError, match=r"commands\.1: a name of 501 letters; the limit is 500") as caught:
            read_analysis(made.write(tmp_path / "a.json"))
        assert caught.value.fix and len(caught.value.message()) < 600
