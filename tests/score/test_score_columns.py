"""A lab's old result files: any column names, odd files; one message where they cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.predictions.columns import parse_columns, read_columns
from deckbench.score import score
from tests.score.score_helpers import choice, make_data, prompt

NAMES = {"question": "Question", "gold": "Label", "prediction": "Output"}
ROWS = (
    "Question,Label,Output\n"
    '"Which state?\nA. intact\nB. damaged",B,B\n'
    '"Which state?\nA. intact\nB. damaged",A,"Answer: AB"\n'
    "What is shown?,tip rack,It is a tip rack.\n"
    "What is shown?,trash bin,Trash bin\n"
)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "old.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def accuracy(result: dict[str, Any], kind: str, name: str = "accuracy") -> tuple[int, int]:
    found = result["kinds"][kind]["metrics"][name]
    return found["k"], found["n"]


def test_an_old_file_is_scored_and_the_rest_is_unknown(tmp_path: Path) -> None:
    result = score(write(tmp_path, ROWS), columns=NAMES, out=tmp_path / "score.json")
    assert accuracy(result, "choice") == (1, 2)
    assert accuracy(result, "open") == (1, 2)
    assert accuracy(result, "open", "substring_accuracy") == (2, 2)
    assert accuracy(result, "choice", "substring_accuracy") == (2, 2)  # "ab" holds "a": what the strict parse refuses
    assert (
        result["inputs"]["data_content"] is None
        and not {"auroc", "miss_rate"} & result["kinds"]["choice"]["metrics"].keys()
    )
    assert (tmp_path / "scored.csv").read_text().splitlines()[1].startswith("row1,B,true,true,,")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
    ],
    ids=["BOM", "CRLF", "semicolons", "tabs"],
)
def test_odd_files_say_the_same(tmp_path: Path, change: Any) -> None:
    table = read_columns(write(tmp_path, change(ROWS)), NAMES)
    assert list(table["gold"]) == ["B", "A", "tip rack", "trash bin"]
    assert list(table["kind"]) == ["choice", "choice", "open", "open"]
    assert table["question"][0] == "Which state?\nA. intact\nB. damaged"


def test_optional_columns_are_taken(tmp_path: Path) -> None:
    text = "n;kind;q;g;p;grp;first;second;pa\n7;choice;Is it so?;b;no;s1;yes;no;0.25\n8;open;Colour?;A;A;s2;;;\n"
    names = parse_columns(
        "id=n,kind=kind,question=q,gold=g,prediction=p,group=grp,option_a=first,option_b=second,p_a=pa"
    )
    path = write(tmp_path, text)
    table = read_columns(path, names)
    assert list(table["id"]) == ["7", "8"] and list(table["gold"]) == ["B", "A"]
    result = score(path, columns=names)
    assert accuracy(result, "choice") == (1, 1) and accuracy(result, "open") == (1, 1)
    assert result["group_by"] == "group" and result["groups"] == 2


@pytest.mark.parametrize(
    ("gold", "options", "kind"),
    [
        ("A", False, "choice"),
        ("B", True, "choice"),
        ("(b)", True, "choice"),
        ("Ｂ.", True, "choice"),
        ("b", False, "open"),
        ("A tip", True, "open"),
        ("The rack is full. Verdict: normal.", False, "scene"),
        ("吸头盒缺一个。结论：异常。", False, "scene"),
        ("", False, "open"),
    ],
)
def test_the_kind_follows_from_the_gold_answer(tmp_path: Path, gold: str, options: bool, kind: str) -> None:
    question = prompt("Which?", "intact", "damaged") if options else "Which?"
    path = tmp_path / "old.csv"
    path.write_text(f'Question,Label,Output\n"{question}",{gold},x\n', encoding="utf-8")
    assert list(read_columns(path, NAMES)["kind"]) == [kind]


def test_chinese_columns_and_answers(tmp_path: Path) -> None:
    path = write(tmp_path, '问题,标准答案,回答\n"状态?\nA. 完好\nB. 损坏",B,答案是B。\n图中是什么?,吸头盒,吸头盒。\n')
    result = score(path, columns=parse_columns("question=问题,gold=标准答案,prediction=回答"))
    assert accuracy(result, "choice") == (1, 1) and accuracy(result, "open") == (1, 1)


BAD_NAMES = [
    ("question=Q,gold=G", "prediction must be named"),
    ("", "must be named"),
    ("question=Q,gold=G,prediction", "prediction must be named"),
    ("Q,G,P", "not NAME=COLUMN"),
    ("question=Q,gold=G,prediction=", "not NAME=COLUMN"),
    ("question=Q,gold=G,answer=P", "'answer' is no name of ours"),
    ("question=Q,gold=G,gold=H,prediction=P", "given twice"),
]


@pytest.mark.parametrize(("text", "what"), BAD_NAMES)
def test_wrong_names_are_refused(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as error:
        parse_columns(text)
    assert "fix:" in error.value.message()


def test_a_column_may_have_a_comma_or_an_equals_sign(tmp_path: Path) -> None:
    names = parse_columns("question=Question, asked, gold=a=b,prediction=P")
    assert names == {"question": "Question, asked", "gold": "a=b", "prediction": "P"}
    path = write(tmp_path, '"Question, asked",a=b,P\nq,x,x\n')
    assert score(path, columns=names)["n"] == 1


BAD_FILES: list[tuple[str, str | bytes, str, str]] = [
    ("no such column", "Q,Label,Output\nx,y,z\n", "no column 'Question'", "'Q', 'Label', 'Output'"),
    ("empty", "", "no header", ""),
    ("only a header", "Question,Label,Output\n", "holds no rows", ""),
    ("twice", "Question,Label,Output,Output\na,b,c,d\n", "'Output' occurs twice", ""),
    ("too many cells", "Question,Label,Output\na,b,c,d\n", "do not fit the header", ""),
    ("too few cells", "Question,Label,Output\na,b\n", "do not fit the header", ""),
    ("open quote", 'Question,Label,Output\n"a,b,c\n', "not a valid CSV", ""),
    ("UTF-16", ROWS.encode("utf-16"), "UTF-16", "iconv"),
    ("UTF-16 without a BOM", ROWS.encode("utf-16-le"), "UTF-16", "iconv"),
    ("GBK", "Question,Label,Output\n图,吸头盒,吸头盒\n".encode("gbk"), "not UTF-8", "GB18030"),
    ("latin", "Question,Label,Output\nx,é,é\n".encode("latin-1"), "not UTF-8", ""),
    ("spreadsheet", b"PK\x03\x04rest", "spreadsheet", "save it as CSV"),
    ("JSON", '[{"Question": "x"}]\n', "no column 'Question'", ""),
]


@pytest.mark.parametrize(
    ("text", "what", "more"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_files_that_cannot_be_read_give_one_message(tmp_path: Path, text: str | bytes, what: str, more: str) -> None:
    path = write(tmp_path, text)
    out = tmp_path / "out" / "score.json"
    with pytest.raises(InputError) as error:
        score(path, columns=NAMES, out=out)
    message = error.value.message()
    assert what in message and more in message and "fix:" in message and str(path) in message
    assert not out.parent.exists() and error.value.exit_code == 2


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(InputError, match="expected"):
            score(path, columns=NAMES)


def test_ids_that_occur_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "n,Question,Label,Output\n1,a,b,c\n1,a,b,c\n")
    with pytest.raises(InputError, match="occurs twice"):
        score(path, columns={**NAMES, "id": "n"})
    assert score(path, columns=NAMES)["n"] == 2


def test_a_dataset_is_joined_by_a_named_id(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(4)]
    data = make_data(tmp_path / "data", samples)
    rows = "".join(f'{s["id"]},"{s["question"]}",{s["gold"]},A\n' for s in samples)
    path = write(tmp_path, "n,Question,Label,Output\n" + rows)
    with pytest.raises(InputError, match="names none"):
        score(path, columns=NAMES, data=data)
    result = score(path, columns={**NAMES, "id": "n"}, data=data)
    assert result["kinds"]["choice"]["by_class"] and result["kinds"]["choice"]["metrics"]["miss_rate"]["n"] == 2
