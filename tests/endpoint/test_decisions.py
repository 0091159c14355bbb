"""Choice questions as typed decisions: one request a frame, and nothing believed that is no probability."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deckbench.answer import Question
from deckbench.endpoint import decider, decisions, systemone
from deckbench.endpoint.typed import typed
from deckbench.errors import InputError, OutsideError
from deckbench.infer import ask, infer
from tests.endpoint import deciding, faulty
from tests.endpoint.test_endpoint_infer import observed, rows_of
from tests.train import micro_world

APIS = ("decisions", "systemone")
Settings = Callable[..., str]
LINES = "Is the tip straight?\nA. yes\nB. no\n"


@pytest.fixture
def server() -> Iterator[deciding.Server]:
    with deciding.serving() as found:
        yield found


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames with eight choice questions each, in one JSONL file."""
    folder = tmp_path_factory.mktemp("eight")
    micro_world.make_dataset(folder / "d", 4)
    rows = []
    for number in range(4):
        for place in range(8):
            row = micro_world.rows_of(number)[place % 2]
            row["messages"][0]["content"] = f"({place}) {row['messages'][0]['content']}"
            row["messages"][0]["image"] = f"d/{row['messages'][0]['image']}"
            rows.append({**row, "id": f"{number}-{place}", "pair_id": None})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "test.jsonl"


@pytest.mark.parametrize("api", APIS)
def test_one_request_a_frame(api: str, server: deciding.Server, settings: Settings, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    made = infer(model=settings(api=api, price_in=2.0), data=data, out=out)
    rows = rows_of(out)
    assert len(rows) == 36 and all(row["prediction"] == row["gold"] for row in rows)
    choices = [row for row in rows if row["kind"] == "choice"]
    for row in choices:
        right, wrong = ("p_a", "p_b") if row["gold"] == "A" else ("p_b", "p_a")
        assert (row[right], row[wrong]) == ("0.90000000", "0.10000000")
        assert row["p_anomaly"] == (
            row["p_a"] if row["question"].index("red") < row["question"].index("blue") else row["p_b"]
        )
    # the two choice questions of a frame share a request, its open question is a chat completion
    assert sorted(server.calls) == sorted([(api, 2)] * 12 + [("chat", 1)] * 12)
    assert [sum(int(row[name]) for row in choices) for name in ("tokens_in", "tokens_out")] == [12 * 62, 0]
    seen = observed(out)
    assert seen["requests"] == 24 and seen["answers"] == 36
    assert "cost" not in seen  # the chat answers have output tokens, and no price
    assert made.content["endpoint"] == {"dropped": [], "api": {api: 24}, "unanswered": []}
    assert made.content["inputs"]["model"]["api"] == api
    lines = [json.loads(line) for line in (tmp_path / "p.transcript.jsonl").read_text().splitlines()]
    shown = json.loads(next(line["text"] for line in lines if line["id"] == rows[0]["id"]))
    assert shown["type"] == "choice" and shown["choice"] == "red"
    assert all(faulty.KEY not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("api", APIS)
def test_eight_questions_cost_one_request_and_no_output(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    infer(model=settings(api=api, price_in=2.0), data=eight, out=out)
    assert server.calls == [(api, 8)] * 4
    assert observed(out)["cost"] == pytest.approx(4 * (40 + 88) * 2 / 1e6)
    assert all(row["prediction"] == row["gold"] for row in rows_of(out))
    (body, *_) = server.bodies
    assert len(json.dumps(body).split("base64")) <= 3  # the frame travels once


@pytest.mark.parametrize("api", APIS)
def test_blank_frames(api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    made = infer(model=f"blind:{settings(api=api)}", data=eight, out=out)
    assert made.content["inputs"]["model"]["blank"] is True
    assert {row["prediction"] for row in rows_of(out)} == {"B"}  # no colour is seen: the server names the last option


@pytest.mark.parametrize("api", APIS)
def test_ask_reads_the_options_from_the_prompt(
    api: str, server: deciding.Server, settings: Settings, data: Path
) -> None:
    question = micro_world.PROMPT.format(a="red", b="blue")
    answer = ask(model=settings(api=api), frame=data / "images/0.png", questions=[question])[0]
    assert (answer.text, answer.p_a) == ("A", 0.9)


# What goes wrong

WHOLE = (
    "429",
    "500",
    "502",
    "503",
    "hang",
    "drip",
    "reset",
    "malformed",
    "html",
    "empty",
    "cut",
    "cut chunks",
    "error in 200",
)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fault", WHOLE)
def test_a_fault_changes_nothing(
    fault: str, api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: fault if attempt == 1 else None
    out = tmp_path / "p.csv"
    waits = {"timeout_s": 2} if fault in {"hang", "drip"} else {}
    infer(model=settings(api=api, **waits), data=eight, out=out)
    assert all(row["prediction"] == row["gold"] for row in rows_of(out)) and len(rows_of(out)) == 32
    assert len(server.decided) == 32 and set(server.decided.values()) == {1}


def entries(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a reply of either API."""
    answers = reply["answers"]
    return list(answers.values()) if isinstance(answers, dict) else answers


def with_shares(change: Callable[[dict[str, float]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A reply in which the first answer's probabilities are changed."""

    def alter(reply: dict[str, Any]) -> dict[str, Any]:
        first = entries(reply)[0]
        if isinstance(first["probabilities"], dict):
            first["probabilities"] = change(first["probabilities"])
        else:
            shares = change({share["value"]: share["probability"] for share in first["probabilities"]})
            first["probabilities"] = [{"value": value, "probability": p} for value, p in shares.items()]
        return reply

    return alter


def renamed(reply: dict[str, Any]) -> dict[str, Any]:
    if isinstance(reply["answers"], dict):
        reply["answers"]["q99"] = reply["answers"].pop("q1")
    else:
        reply["answers"][0]["name"] = "q99"
    return reply


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def alter(reply: dict[str, Any]) -> dict[str, Any]:
        entries(reply)[0].update(fields)
        return reply

    return alter


def first_left_out(reply: dict[str, Any]) -> dict[str, Any]:
    answers = reply["answers"]
    del answers["q1" if isinstance(answers, dict) else 0]
    return reply


def answered_twice(reply: dict[str, Any]) -> Any:
    """The first question has two answers, which differ."""
    answers = reply["answers"]
    if isinstance(answers, list):
        answers.append({**answers[0], "probabilities": answers[1]["probabilities"]})
        return reply
    return json.dumps(reply).replace('"q2": ', '"q1": ' + json.dumps(answers["q2"]) + ', "q2": ').encode()


def option_twice(reply: dict[str, Any]) -> Any:
    """The first answer's first option has two probabilities."""
    shares = entries(reply)[0]["probabilities"]
    if isinstance(shares, list):
        shares.append(shares[0])
        return reply
    return json.dumps(reply).replace('"probabilities": {', '"probabilities": {"blue": 0.2, ', 1).encode()


def without_names(*places: int) -> Callable[[dict[str, Any]], Any]:
    """Answers without their names; that of another question where an API's names are the keys."""

    def alter(reply: dict[str, Any]) -> dict[str, Any]:
        answers = reply["answers"]
        for place in places:
            if isinstance(answers, list):
                answers[place]["name"] = None
            else:
                answers[""] = answers.pop(f"q{place + 1}")
        return reply

    return alter


STRANGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "above 1": with_shares(lambda shares: {**shares, "red": 1.7}),
    "below 0": with_shares(lambda shares: {"red": 1.2, "blue": -0.2}),
    "not a number": with_shares(lambda shares: dict.fromkeys(shares, math.nan)),
    "infinite": with_shares(lambda shares: dict.fromkeys(shares, math.inf)),
    "huge": with_shares(lambda shares: dict.fromkeys(shares, 10**400)),
    "a text": with_shares(lambda shares: dict.fromkeys(shares, "0.5")),
    "true": with_shares(lambda shares: {"red": True, "blue": False}),
    "null": with_shares(lambda shares: dict.fromkeys(shares)),
    "both 0.7": with_shares(lambda shares: dict.fromkeys(shares, 0.7)),
    "sum 0.5": with_shares(lambda shares: dict.fromkeys(shares, 0.25)),
    "an option missing": with_shares(lambda shares: {"red": 1.0}),
    "no option": with_shares(lambda shares: {}),
    "another option": with_shares(lambda shares: {"red": 0.5, "green": 0.5}),
    "an option more": with_shares(lambda shares: {**shares, "green": 0.0}),
    "letters": with_shares(lambda shares: {"A": 0.5, "B": 0.5}),
    "no shares": changed(probabilities=None),
    "shares of another form": changed(probabilities=[0.9, 0.1]),
    "a list in a list": changed(probabilities=[[["red"], 0.9]]),
    "another choice": changed(choice="green"),
    "no choice": changed(choice=None),
    "the unlikely choice": lambda reply: changed(choice="red" if entries(reply)[0]["choice"] == "blue" else "blue")(
        reply
    ),
    "another type": changed(type="noul"),
    "another question": renamed,
    "a question left out": first_left_out,
    "no answers": lambda reply: {**reply, "answers": None},
    "a text for answers": lambda reply: {**reply, "answers": "A"},
    "a question answered twice": answered_twice,
    "an option twice": option_twice,
    "some names": without_names(0),
    "nothing": lambda reply: {},
    "a list": lambda reply: [],
    "answers that are none": lambda reply: {**reply, "answers": [1, 2]},
}
NOTHING_GOOD = {
    *("another question", "no answers", "a text for answers", "nothing", "a list", "answers that are none"),
    *("a question answered twice", "some names"),
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_believed_is_asked_again(
    name: str, api: str, server: deciding.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """And only that: the other question of the frame, whose answer was good, is not asked twice."""
    server.plan = lambda key, attempt, body: {"alter": STRANGE[name]} if attempt == 1 and "|" in key else None
    rows = [row for row in micro_world.rows_of(0) if row["kind"] == "choice"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.png").write_bytes((data / "images/0.png").read_bytes())
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "p.csv"
    infer(model=settings(api=api), data=tmp_path / "t.jsonl", out=out)
    assert [(row["prediction"], row["p_a"]) for row in rows_of(out)] == [("A", "0.90000000"), ("B", "0.10000000")]
    assert server.calls == [(api, 2), (api, 2 if name in NOTHING_GOOD else 1)]


@pytest.mark.parametrize("number", [7, 8, 9])
def test_answers_without_any_name_are_in_the_order_of_the_questions(
    number: int, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    """As many as were asked; otherwise nobody knows which is which."""

    def alter(reply: dict[str, Any]) -> dict[str, Any]:
        answers = without_names(*range(8))(reply)["answers"]
        return {**reply, "answers": [*answers, answers[-1]][:number]}

    server.plan = lambda key, attempt, body: {"alter": alter} if attempt == 1 else None
    infer(model=settings(api="decisions"), data=eight, out=tmp_path / "p.csv")
    assert all(row["prediction"] == row["gold"] for row in rows_of(tmp_path / "p.csv"))
    assert len(server.calls) == (4 if number == 8 else 8)


@pytest.mark.parametrize("api", APIS)
def test_what_is_never_believed_is_unanswered(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    """Not guessed, and no wrong answer either."""
    server.plan = lambda key, attempt, body: {"alter": STRANGE["both 0.7"]} if "(0)" in key else None
    out = tmp_path / "p.csv"
    infer(model=settings(api=api, tries=2, unanswered="leave-out"), data=eight, out=out)
    assert [row["id"] for row in rows_of(tmp_path / "p.unanswered.csv")] == [f"{n}-0" for n in range(4)]
    assert "add up to 1.4" in rows_of(tmp_path / "p.unanswered.csv")[0]["reason"]
    assert len(rows_of(out)) == 28 and all(row["prediction"] == row["gold"] for row in rows_of(out))


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_is_never_believed_ends_the_run(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: {"alter": STRANGE["a text for answers"]}
    with pytest.raises(OutsideError, match="holds no"):
        infer(model=settings(api=api, tries=2, concurrency=1), data=eight, out=tmp_path / "p.csv")
    assert len(server.calls) == 6  # three frames in a row, two tries each


@pytest.mark.parametrize("api", APIS)
def test_a_refusal_is_an_unanswered_question(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    server.declined = "(3)"
    out = tmp_path / "p.csv"
    made = infer(model=settings(api=api, unanswered="leave-out"), data=eight, out=out)
    assert made.content["endpoint"]["refused"] == [f"{number}-3" for number in range(4)]
    assert len(rows_of(out)) == 28 and server.calls == [(api, 8)] * 4
    server.declined = "("
    with pytest.raises(OutsideError, match="declines"):
        infer(model=settings(api=api), data=eight, out=tmp_path / "all.csv")


def test_only_what_got_no_answer_is_asked_in_the_next_run(
    server: deciding.Server, settings: Settings, eight: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    server.declined = "(3)"
    for _ in range(2):
        with pytest.raises(OutsideError, match="4 questions got no answer"):
            infer(model=settings(api="systemone"), data=eight, out=out)
    assert server.calls == [("systemone", 8)] * 4 + [("systemone", 1)] * 4
    server.declined = ""
    server.plan = lambda key, attempt, body: "500" if "(3)" in key and len(server.calls) % 2 else None
    infer(model=settings(api="systemone"), data=eight, out=out)
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [f"{number}-{place}" for number in range(4) for place in range(8)]
    assert all(row["prediction"] == row["gold"] for row in rows)
    assert observed(out)["answers"] == 32
    lines = [json.loads(line)["id"] for line in (tmp_path / "p.transcript.jsonl").read_text().splitlines()]
    assert lines == [row["id"] for row in rows]


@pytest.mark.parametrize("api", APIS)
def test_what_stays_open_in_a_row_is_left_out_by_the_next_run(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    """The next run asks nothing but what has no answer; a server that is down still ends it."""
    out, apis = tmp_path / "p.csv", {"api": api, "concurrency": 1, "tries": 2}

    def no_answer_to_the_fourth(reply: dict[str, Any]) -> dict[str, Any]:
        del reply["answers"]["q4" if api == "systemone" else 3]
        return reply

    def plan(key: str, attempt: int, body: dict[str, Any]) -> Any:
        return {"alter": no_answer_to_the_fourth} if "|" in key else "500" if "(3)" in key else None

    server.plan = plan
    with pytest.raises(OutsideError, match="4 questions got no answer"):
        infer(model=settings(**apis), data=eight, out=out)
    server.plan = lambda key, attempt, body: "500"
    with pytest.raises(OutsideError, match="run again when the server answers"):
        infer(model=settings(**apis, unanswered="leave-out"), data=eight, out=out)
    server.plan = plan
    made = infer(model=settings(**apis, unanswered="leave-out"), data=eight, out=out)
    assert made.content["endpoint"]["unanswered"] == [f"{number}-3" for number in range(4)]
    assert len(rows_of(out)) == 28


@pytest.mark.parametrize("api", APIS)
def test_a_filter_takes_its_question_alone(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    """A request that is refused whole is asked in halves: the others of the frame are answered."""
    refusal = {"status": 400, "body": {"error": {"message": "flagged by the content policy"}}}
    server.plan = lambda key, attempt, body: refusal if "(5)" in key else None
    out = tmp_path / "p.csv"
    made = infer(model=settings(api=api, unanswered="leave-out", concurrency=1), data=eight, out=out)
    assert made.content["endpoint"]["refused"] == [f"{number}-5" for number in range(4)]
    assert [number for _, number in server.calls[:7]] == [8, 4, 4, 2, 1, 1, 2]


# Limits


@pytest.mark.parametrize("api", APIS)
def test_a_stated_limit_is_learned_once(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    server.limit = 3
    infer(model=settings(api=api, concurrency=1), data=eight, out=tmp_path / "p.csv")
    assert [number for _, number in server.calls] == [8, *[3, 3, 2] * 4]
    assert set(server.decided.values()) == {1} and len(server.decided) == 32


@pytest.mark.parametrize("api", APIS)
def test_a_limit_that_nobody_states_is_found(
    api: str, server: deciding.Server, settings: Settings, eight: Path, tmp_path: Path
) -> None:
    full = {"status": 400, "body": {"error": {"message": "maximum context length is 8192 tokens"}}}
    server.plan = lambda key, attempt, body: full if len(body["questions"]) > 2 else None
    infer(model=settings(api=api, concurrency=1), data=eight, out=tmp_path / "p.csv")
    assert [number for _, number in server.calls] == [8, 4, 2, 2, 2, 2, *[2] * 12]


@pytest.mark.parametrize(("api", "most"), [("decisions", 400), ("systemone", 64)])
def test_the_api_s_own_limit(
    api: str, most: int, server: deciding.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    made = micro_world.PROMPT.format(a="red", b="blue")
    questions = [f"({number}) {made}" for number in range(most + 1)]
    answers = ask(model=settings(api=api), frame=data / "images/0.png", questions=questions)
    assert {answer.text for answer in answers} == {"A"} and server.calls == [(api, most), (api, 1)]


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("questions: Dictionary should have at most 64 items after validation, not 65", 64),
        ("Too many questions: the maximum is 16", 16),
        ("at most 32 questions are allowed", 32),
        ("1–400 questions", None),
        ("a request takes 1–40 questions", 40),
        ("questions must contain between 1 and 20 entries", 20),
        ("`questions` is limited to 8", 8),
        ("maximum context length is 32 tokens", None),
        ("image: at most 4 MB", None),
    ],
)
def test_limits_in_words(text: str, most: int | None) -> None:
    assert decider.stated_limit(text, 65) == most


# What a server has


@pytest.mark.parametrize(
    ("apis", "found"),
    [
        ({"decisions", "systemone", "chat"}, "decisions"),
        ({"systemone", "chat"}, "systemone"),
        ({"chat"}, None),
    ],
)
def test_auto_finds_out_once_and_says_so(
    apis: set[str],
    found: str | None,
    server: deciding.Server,
    settings: Settings,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.apis = apis
    out = tmp_path / "p.csv"
    made = infer(model=settings(api="auto"), data=data, out=out)
    assert all(row["prediction"] == row["gold"] for row in rows_of(out))
    said = capsys.readouterr().err
    if found is None:
        assert made.content["endpoint"]["api"] == {"chat": 24} and "no typed decisions" in said
        assert [call for call in server.calls if call[0] != "chat"] == []
    else:
        assert made.content["endpoint"]["api"] == {found: 24} and f"/{found}" in said
        assert server.calls.count((found, 1)) == 1 and server.calls.count((found, 2)) == 12


def test_auto_waits_for_a_busy_server(server: deciding.Server, settings: Settings, data: Path, tmp_path: Path) -> None:
    server.plan = lambda key, attempt, body: "429" if "questions" in body and attempt == 1 else None
    made = infer(model=settings(api="auto"), data=data, out=tmp_path / "p.csv")
    assert made.content["endpoint"]["api"] == {"decisions": 24}


def test_auto_takes_a_page_for_no_answer(
    server: deciding.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """A server that answers every path with 200."""
    server.plan = lambda key, attempt, body: "html" if "questions" in body else None
    made = infer(model=settings(api="auto"), data=data, out=tmp_path / "p.csv")
    assert made.content["endpoint"]["api"] == {"chat": 24}


@pytest.mark.parametrize("api", APIS)
def test_a_server_without_chat_leaves_the_rest_unanswered(
    api: str, server: deciding.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.apis = {api}
    out = tmp_path / "p.csv"
    infer(model=settings(api=api, unanswered="leave-out"), data=data, out=out)
    assert len(rows_of(out)) == 24
    left = rows_of(tmp_path / "p.unanswered.csv")
    assert len(left) == 12 and {row["reason"] for row in left} == {
        "the server has no chat completions for this model, and open and scene questions need them"
    }


@pytest.mark.parametrize("api", APIS)
def test_a_server_without_the_api(
    api: str, server: deciding.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.apis = {"chat"}
    with pytest.raises(OutsideError, match=f"no /{api}") as caught:
        infer(model=settings(api=api), data=data, out=tmp_path / "p.csv")
    assert "api: auto" in str(caught.value.fix)


@pytest.mark.parametrize("api", APIS)
def test_a_model_that_takes_no_images(
    api: str, server: deciding.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    said = {"status": 400, "body": {"detail": "Images need a model whose processor handles them."}}
    server.plan = lambda key, attempt, body: said
    with pytest.raises(OutsideError, match="takes no images"):
        infer(model=settings(api=api), data=data, out=tmp_path / "p.csv")
    assert len(server.calls) <= 2


def test_settings(tmp_path: Path) -> None:
    from deckbench.endpoint.spec import endpoint_identity, read_spec

    def written(**given: Any) -> str:
        (tmp_path / "e.yaml").write_text(yaml.safe_dump({"model": "m", **given}))
        return f"endpoint:{tmp_path / 'e.yaml'}"

    chat = endpoint_identity(written())
    assert chat == endpoint_identity(written(api="chat")) and "api" not in chat
    hashes = {endpoint_identity(written(api=api))["hash"] for api in ("chat", "auto", *APIS)}
    assert len(hashes) == 4
    assert read_spec(written(api="decisions", price_in=0.1)).price_out is None
    cases: list[tuple[dict[str, Any], str]] = [
        ({"api": "batch"}, "api"),
        ({"api": "auto", "price_in": 1}, "both price_in"),
        ({"api": "decisions", "price_out": 1}, "both price_in"),
        ({"api": "systemone", "extra": {"state": 1}}, "state is set by DeckBench"),
    ]
    for wrong, message in cases:
        with pytest.raises(InputError, match=message):
            read_spec(written(**wrong))


# The words


@pytest.mark.parametrize(
    ("text", "options", "instructions", "given"),
    [
        (f"{LINES}Answer with A or B only.", None, "Is the tip straight?", ("yes", "no")),
        ("枪头直吗?\nA. 是\nB. 否\n只回答 A 或 B。", None, "枪头直吗?", ("是", "否")),
        ("枪头直吗?\nA. 是\nB. 否\n请用字母作答", None, "枪头直吗?", ("是", "否")),
        (f"{LINES}Answer with the letter.", None, "Is the tip straight?", ("yes", "no")),
        (LINES.replace("\n", "\r\n"), None, "Is the tip straight?", ("yes", "no")),
        (f"{LINES}Look at slot 3.\nReply A or B.", None, "Is the tip straight?\nLook at slot 3.", ("yes", "no")),
        (f"Is A or B nearer?\n\n{LINES}", None, "Is A or B nearer?\n\nIs the tip straight?", ("yes", "no")),
        ("Is it straight?", ("yes", "no"), "Is it straight?", ("yes", "no")),
        (LINES, ("straight", "bent"), LINES.strip(), ("straight", "bent")),
    ],
)
def test_a_question_keeps_its_words(
    text: str, options: tuple[str, str] | None, instructions: str, given: tuple[str, str]
) -> None:
    made = typed(Question(text, "choice", 16, options), "q1")
    assert made is not None and (made.instructions, made.options) == (instructions, given)


@pytest.mark.parametrize(
    "question",
    [
        Question("Describe.", "open", 32),
        Question("Is it?", "choice", 16),
        Question("Is it?\nA. yes\nB. yes", "choice", 16),
        Question("Is it?", "choice", 16, ("yes", "yes ")),
    ],
)
def test_what_is_no_choice_between_two(question: Question) -> None:
    assert typed(question, "q1") is None


def test_no_question_holds_the_image_s_name() -> None:
    made = typed(Question("Is img-1 or img-2 sharper?", "choice", 16, ("img-3", "img-12")), "q1")
    assert made is not None
    body = systemone.fields("data:image/png;base64,AAAA", [made])
    assert body["state"] == "img-4" and list(body["assets"]) == ["img-4"]
    assert body["questions"]["q1"]["criteria"] == {"img-3": None, "img-12": None}
    assert decisions.fields("data:image/png;base64,AAAA", [made])["questions"][0]["choices"] == [
        {"value": "img-3"},
        {"value": "img-12"},
    ]
