"""The YAML reader: done or one InputError with file and line, whatever the file holds."""

from __future__ import annotations

import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench import yamlfile
from deckbench.endpoint.spec import read_spec
from deckbench.errors import InputError
from deckbench.ontology import load_ontology
from deckbench.questions import load_bank
from deckbench.schema import Strict
from deckbench.suite import load_suite
from deckbench.train.config import read_source, settle
from deckbench.yamlfile import parse, parse_settings, read_document, read_text, read_yaml
from deckbench.yolo.dataset_yaml import find_yaml, read_names
from deckbench.yolo.dataset_yaml import load as load_pool_yaml

LOADERS = [yaml.SafeLoader, yamlfile.LOADER]


class Part(Strict):
    size: int
    kind: Literal["big", "small"] = "big"


class Whole(Strict):
    name: str
    parts: dict[str, Part]
    order: tuple[Part, ...] = ()
    maybe: Part | None = None
    loose: bool | tuple[str, ...] = False
    epochs: float = 1.0


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "LOADER", request.param)


def values(text: str) -> Any:
    return parse(text, "text").value("")


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: {}\nb: []\nc:\nd: ~", {"a": {}, "b": [], "c": None, "d": None}),
        ("[1, -7, +3, 0, 0x1F, 0b11, 1_000]", [1, -7, 3, 0, 31, 3, 1000]),
        ("[1.5, 1e-3, 5E4, .5, 1., -1.0e+3, .inf, -.inf]", [1.5, 1e-3, 5e4, 0.5, 1.0, -1e3, math.inf, -math.inf]),
        ("[yes, No, TRUE, off]", [True, False, True, False]),
        ("[2026-01-01, 2026-13-45, 2026-01-01T10:00:00Z]", ["2026-01-01", "2026-13-45", "2026-01-01T10:00:00Z"]),
        ("[010, 0o17, 1:30, 12:30:45, 1.2.3, =]", ["010", "0o17", "1:30", "12:30:45", "1.2.3", "="]),
        ("['1', \"yes\", !!str 2, ! x]", ["1", "yes", "2", "x"]),
        ("[!!int '3', !!float 3, !!bool 'on', !!null '']", [3, 3.0, True, None]),
        ("0: a\n1.50: b\nno: c\n2026-01-01: d", {"0": "a", "1.50": "b", "no": "c", "2026-01-01": "d"}),
        ("a: &x [1, {b: 2}]\nc: *x", {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
        ("- &x {b: 1}\n- &y {b: 2, c: 2}\n- <<: [*x, *y]", [{"b": 1}, {"b": 2, "c": 2}, {"b": 1, "c": 2}]),
        ("'<<': 1", {"<<": 1}),
        ("%YAML 1.1\n---\na: 1\n...\n", {"a": 1}),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    assert repr(values(text)) == repr(value)


def test_what_an_alias_stands_for_is_copied() -> None:
    read = values("a: &x [1]\nb: *x")
    read["a"].append(2)
    assert read["b"] == [1]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' occurs twice (first in line 1)"),
        ("a:\n  b:\n  - c: 1\n    d: 2\n    c: 3", 5, "the key 'c' occurs twice (first in line 3)"),
        ("{0: a, '0': b}", 1, "the key '0' occurs twice"),
        ("a: {b: 1}\nc: {<<: {b: 1}, <<: {b: 2}}", 2, "the key '<<' occurs twice"),
        ("a: 1\n<<: 3", 2, "<< takes a map, or a list of maps"),
        ("a: 1\n? [b, c]\n: 2", 2, "a key is a text"),
        ("a: &x b\n*x : 2", 2, "a key is a text"),
        ("a: 1\nb: !!binary aGk=", 2, "the tag !!binary is not allowed"),
        ("a: !!set {b}", 1, "the tag !!set is not allowed"),
        ("a: !!timestamp 2026-01-01", 1, "the tag !!timestamp is not allowed"),
        ("a: !!python/object/apply:os.getcwd []", 1, "the tag !!python/object/apply:os.getcwd is not allowed"),
        ("a: !mine 3", 1, "the tag !mine is not allowed"),
        ("a: !!int many", 1, "this is no int"),
        ("a: 1\nb: *x", 2, "the alias *x has no anchor"),
        ("a: &x [1, *x]", 1, "the alias *x has no anchor"),
        ("a: 1\n--- \nb: 1", 2, "a second document"),
        ("a: [1\nb: 2", None, "not valid YAML"),
        ("a: 'x", None, "not valid YAML"),
        ("a: b: c", 1, "not valid YAML"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("a: 1\nb: 9223372036854775808", 2, "does not fit in 64 bits"),
        ("a: " + "9" * 5000, 1, "does not fit in 64 bits"),
        ("a: 0x" + "f" * 5000, 1, "does not fit in 64 bits"),
        ("a: 1.0e+400", 1, "too large"),
        ("a: 1\nb: \x01", 2, "the character U+0001"),
        ("a: 1\n\ufeffb: 2", 2, "the character U+FEFF"),
        ('a: 1\nb: "\\0"', 2, "NUL"),
        ('a: "\\ud800"', 1, ""),
        ('a: "\\U00110000"', 1, "not valid YAML"),
        ("a: " + "[" * 100 + "]" * 100, 1, "nested deeper than 50 levels"),
        ("a: " * 1, None, None),
        ("- " * 60 + "a", 1, "nested deeper than 50 levels"),
        ("\n".join(["- &a0 [1]", *(f"- &a{n} [*a{n - 1}]" for n in range(1, 60))]), 49, "nested deeper than 50 levels"),
    ],
)
def test_faults_of_the_text(tmp_path: Path, text: str, where: int | None, what: str | None) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    if what is None:
        read_document(path).value("")
        return
    with pytest.raises(InputError) as caught:
        read_document(path).value("fix it")
    assert what in caught.value.what and caught.value.fix
    assert str(caught.value.where).startswith(f"{path}:")
    assert where is None or str(caught.value.where) == f"{path}:{where}"


@pytest.mark.usefixtures("loader")
def test_more_values_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "MAX_VALUES", 1000)
    parse(f"[{'a,' * 999}]", "text")
    with pytest.raises(InputError, match="more than 1000 values"):
        parse(f"[{'a,' * 1000}]", "text")


GOOD = "name: x\nparts:\n  one: {size: 1}\n"


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "epoch: 3\n", "4: epoch: unknown field; did you mean 'epochs'?"),
        (GOOD + "  two: {sizes: 1}\n", "4: parts.two.sizes: unknown field; did you mean 'size'?"),
        (GOOD + "  size: {size: 1,\n    knd: big}\n", "5: parts.size.knd: unknown field; did you mean 'kind'?"),
        (
            GOOD + "order:\n- size: 1\n- size: 2\n  colour: red\n",
            "7: order.1.colour: unknown field; there are size, kind",
        ),
        (GOOD + "maybe:\n  sizes: 2\n", "5: maybe.sizes: unknown field; did you mean 'size'?"),
        (GOOD + "maybe:\n  size: x\n", "5: maybe.size: Input should be a valid integer"),
        (GOOD + "maybe:\n  kind: big\n", "4: maybe.size: Field required"),
        (GOOD + "loose: 7\n", "4: loose: Input should be a valid boolean"),
        (GOOD + "epochs: .nan\n", "4: epochs: Input should be a finite number"),
        ("parts: {}\n", "1: name: Field required"),
        ("- name\n", "1: a map of fields is expected"),
        ("", "1: a map of fields is expected"),
        ("a: &x {size: q}\n" + GOOD.replace("{size: 1}", "*x"), "1: parts.one.size"),
    ],
)
def test_faults_of_fields(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(path, Whole)
    assert f"{path}:{message}" in str(caught.value) or f"\n{path}:{message}" in str(caught.value)


def test_all_faults_at_once_in_order(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("epoch: 3\nname: [x]\nparts:\n  one: {size: x}\n  one: {size: 2}\nwhen: !!binary aGk=\n")
    with pytest.raises(InputError) as caught:
        read_yaml(path, Whole, "see the manual")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == ["1", "2", "4", "5", "6", "6"]
    assert lines[-1] == "  fix: see the manual"
    path.write_text(GOOD + "".join(f"wrong{number}: 1\n" for number in range(30)))
    with pytest.raises(InputError) as caught:
        read_yaml(path, Whole)
    lines = str(caught.value).splitlines()
    assert len(lines) == 10 and lines[-2] == "... and 22 more"


def test_no_value_of_the_file_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("name: [sk-secret]\nparts: sk-secret\nmaybe: {size: sk-secret}\nepochs: 77777777777777777777\n")
    with pytest.raises(InputError) as caught:
        read_yaml(path, Whole)
    assert "sk-secret" not in str(caught.value) and "7777" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("merge", [False, True])
def test_a_small_file_never_needs_much_memory(merge: bool) -> None:
    inner = "{<<: [%s]}" if merge else "[%s]"
    lines = ["- &a0 {" + ", ".join(f"k{n}: 1" for n in range(10)) + "}"]
    lines += [f"- &a{n} " + inner % ", ".join([f"*a{n - 1}"] * 10) for n in range(1, 30)]
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 200000 values, aliases expanded"):
        parse("\n".join(lines), "bomb")
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    path.write_text("a: 1")
    path.chmod(0)


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**31)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "a directory exists where a file is expected"),
        (fifo, "no regular file"),
        (lambda path: None, "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (too_large, "larger than 4 MiB"),
        (lambda path: path.write_bytes(b"a: 1\nb: \xff\n"), "some.yaml:2: not UTF-8"),
        (lambda path: path.write_bytes("a: 1".encode("utf-16")), "some.yaml:1: not UTF-8"),
        pytest.param(unreadable, "Permission denied", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may")),
    ],
)
def test_what_is_no_readable_file(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "some.yaml"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        read_document(path)
    assert str(path) in str(caught.value) and caught.value.fix


def test_permissions_are_the_readers_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def denied(self: Path, **given: Any) -> Any:
        if self.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return stat(self, **given)

    monkeypatch.setattr(Path, "stat", denied)
    for read in (
        lambda p: load_suite(str(p)),
        load_ontology,
        load_bank,
        read_source,
        lambda p: read_spec(f"endpoint:{p}"),
    ):
        with pytest.raises(InputError, match="cannot be read \\(Permission denied\\)"):
            read(tmp_path / "x.yaml")


@pytest.mark.parametrize("path", ["a\0b.yaml", "x" * 300 + ".yaml"])
def test_paths_that_cannot_be(path: str) -> None:
    for read in (read_text, lambda p: load_suite(str(p)), load_ontology, load_bank, read_source):
        with pytest.raises(InputError):
            read(Path(path))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = read_document(tmp_path / "a.yaml")
    assert document.value("") == {"a": 1, "b": 2}
    assert document.where("b") == f"{tmp_path / 'a.yaml'}:2"


USERS: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    # reads a file, a good field, a field misspelt, what was meant
    "suite": (lambda path: load_suite(str(path)), "name: x", "pool: {}", "pools"),
    "ontology": (load_ontology, "name: x", "class: {}", "classes"),
    "questions": (load_bank, "questions: []", "question: []", "questions"),
    "training": (lambda path: settle(read_source(path), {}), "rank: 8", "epoch: 3", "epochs"),
    "endpoint": (lambda path: read_spec(f"endpoint:{path}"), "model: m", "concurrence: 3", "concurrency"),
}


@pytest.mark.parametrize("user", USERS)
def test_every_user_says_the_same(user: str, tmp_path: Path) -> None:
    read, field, wrong, meant = USERS[user]
    path = tmp_path / "some.yaml"
    path.write_text(f"{field}\n{wrong}\n{field}\n")
    with pytest.raises(InputError) as caught:
        read(path)
    text, name = str(caught.value), wrong.partition(":")[0]
    assert f"{path}:2: {name}: unknown field; did you mean {meant!r}?" in text
    assert f"{path}:3: the key {field.partition(':')[0]!r} occurs twice (first in line 1)" in text
    assert caught.value.exit_code == 2
    for broken in (
        "a: [" * 2000,
        "a: 2026-99-99\nb: 1e999999",
        "a: " + "9" * 9999,
        "a: &x [*x]",
        "\0",
        "a: !!binary x",
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"some\.yaml:\d+: "):
            read(path)


def test_a_pools_yaml_may_hold_more_but_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("train: images\nnames: [a, b]\ndownload: 2026-01-01\nroboflow: {version: 010}\n")
    assert read_names(load_pool_yaml(path)) == (("a", "b"), [])
    path.write_text("train: images\nnames: {0: a}\nnames: [a, b]\n")
    with pytest.raises(InputError, match=r"data\.yaml:3: the key 'names' occurs twice"):
        load_pool_yaml(path)
    for count in ("900000000000", "0", "yes", "9" * 400):
        path.write_text(f"train: images\nnc: {count}\n")
        with pytest.raises(InputError, match=r"data\.yaml:2: "):
            read_names(load_pool_yaml(path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a folder nor a regular file"):
        find_yaml(tmp_path / "pipe")


def test_settings_on_the_command_line() -> None:
    given_ = ["lr=1e-3", "rank=8", "targets=[a, b]", "eval_every=", "deepspeed=2026-01-01"]
    assert parse_settings(given_) == {
        "lr": 1e-3, "rank": 8, "targets": ["a", "b"], "eval_every": None, "deepspeed": "2026-01-01",
    }  # fmt: skip
    for pair in (
        "lr=[",
        "lr=" + "[" * 5000,
        "lr=" + "9" * 5000,
        "lr={a: 1, a: 2}",
        "lr=\udcff",
        "lr=\0",
        "lr=!!binary x",
    ):
        with pytest.raises(InputError, match=r"^--set lr: "):
            parse_settings([pair])


def is_read(text: str | bytes, path: Path) -> None:
    """Done or InputError, with either parser of PyYAML."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    for loader_ in LOADERS:
        yamlfile.LOADER = loader_
        try:
            read_document(path).value("fix it")
        except InputError as error:
            assert str(path) in str(error) and error.fix
        try:
            read_yaml(path, Whole)
        except InputError as error:
            assert str(path) in str(error) and error.fix


SCALARS = st.one_of(
    st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none(), st.dates(), st.datetimes(), st.binary()
)  # fmt: skip
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4), max_leaves=20
)
FIELDS = st.dictionaries(st.sampled_from(["name", "parts", "order", "maybe", "loose", "epochs", "epoch"]), TREES)
PIECES = st.lists(
    st.sampled_from(
        ["a", "&a", "*a", "<<", ":", ": ", "- ", "? ", "\n", "\n  ", "[", "]", "{", "}", ",", "'", '"', "!!int ",
         "!!binary ", "!x ", "%YAML 9.9\n", "---\n", "...\n", "|", ">", "#", "0x", "1e9", "010", "2026-01-01", "\\",
         "\\x", "\\U00110000", "\t", "\ufeff", "\x85", "\u2028", "~", "=", "name", "parts"]
    ), max_size=40
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    text=st.one_of(
        PIECES, st.text(max_size=60), st.binary(max_size=60), TREES.map(yaml.safe_dump), FIELDS.map(yaml.safe_dump)
    )
)
def test_whatever_it_holds_it_is_read_or_refused(text: str | bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    before, folder = yamlfile.LOADER, tmp_path_factory.getbasetemp() / "any-yaml"
    folder.mkdir(exist_ok=True)
    try:
        is_read(text, folder / "some.yaml")
    finally:
        yamlfile.LOADER = before


@settings(max_examples=200, deadline=None)
@given(
    tree=st.recursive(
        st.text("abc: -#'\"\n\u00e9\u4e2d", max_size=8) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz", max_size=4), inner, max_size=4),
        max_leaves=20,
    )
)  # fmt: skip
def test_what_was_dumped_is_read_again(tree: Any) -> None:
    assert values(yaml.safe_dump(tree)) == tree
