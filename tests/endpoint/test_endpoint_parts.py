"""Settings, where the key goes, what a reply may hold, and what an HTTP error means."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deckbench.artifact import canonical
from deckbench.endpoint import faults, reply, spec
from deckbench.errors import InputError
from deckbench.models.families import known_models
from deckbench.models.load import load_model, model_identity

SECRET = "sk-secret-0123456789"


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "e.yaml").write_text(text)
    return f"endpoint:{tmp_path / 'e.yaml'}"


def test_a_name_is_enough() -> None:
    found = spec.read_spec("endpoint:Qwen/Qwen2-VL-7B-Instruct")
    assert found.model == "Qwen/Qwen2-VL-7B-Instruct" and found.base_url is None
    server = spec.find_server(found, {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1/"})
    assert (server.address, server.key) == ("http://127.0.0.1:8000/v1", None)
    assert any(name.startswith("endpoint:") for name in known_models())


@pytest.mark.parametrize(
    ("given_", "environ", "key"),
    [
        ({}, {"OPENAI_API_KEY": SECRET}, SECRET),
        ({}, {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": "http://a:1/v1"}, SECRET),
        ({"base_url": "https://api.openai.com/v1"}, {"OPENAI_API_KEY": SECRET}, SECRET),
        ({"base_url": "http://a:1/v1"}, {"OPENAI_API_KEY": SECRET}, None),
        ({"base_url": "https://api.openai.com.evil.example/v1"}, {"OPENAI_API_KEY": SECRET}, None),
        ({"base_url": "https://evilapi.openai.com.example/v1"}, {"OPENAI_API_KEY": SECRET}, None),
        ({"base_url": "http://a:1/v1", "key_env": "MINE"}, {"MINE": SECRET, "OPENAI_API_KEY": "x"}, SECRET),
    ],
)
def test_a_key_goes_only_where_it_belongs(given_: dict[str, Any], environ: dict[str, str], key: str | None) -> None:
    server = spec.find_server(spec.EndpointSpec(model="m", **given_), environ)
    assert server.key == key
    assert SECRET not in repr(server)


@pytest.mark.parametrize(
    ("given_", "environ", "message"),
    [
        ({}, {}, "OPENAI_API_KEY is not set"),
        ({"key_env": "MINE", "base_url": "http://a:1/v1"}, {"OPENAI_API_KEY": SECRET}, "MINE is not set"),
        ({}, {"OPENAI_BASE_URL": f"http://me:{SECRET}@a:1/v1"}, "password or a query"),
        ({}, {"OPENAI_BASE_URL": f"http://a:1/v1?key={SECRET}"}, "password or a query"),
        ({}, {"OPENAI_BASE_URL": "localhost:8000"}, "not like http"),
        ({}, {"OPENAI_API_KEY": f"{SECRET}\nb"}, "characters that no key has"),
    ],
)
def test_servers_that_cannot_be(given_: dict[str, Any], environ: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        spec.find_server(spec.EndpointSpec(model="m", **given_), environ)
    assert SECRET not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"model: m\napi_key: {SECRET}", "api_key: unknown field"),
        (f"model: m\nkey_env: {SECRET}", "key_env: String should match"),
        (f"model: m\nbase_url: http://u:{SECRET}@a/v1", "password or a query"),
        (f"model: m\nextra: {{stream: {SECRET}}}", "stream is set by DeckBench"),
        ("model: m\nprice_in: 1", "both price_in and price_out"),
        ("model: m\nconcurrency: 0", "concurrency"),
        ("- m", "a map of fields is expected"),
        ("model: [", "not valid YAML"),
        ("{}", "model: Field required"),
    ],
)
def test_broken_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        spec.read_spec(written(tmp_path, text))
    assert str(tmp_path / "e.yaml") in str(caught.value) and SECRET not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("ref", ["endpoint:", "endpoint: ", "endpoint:nowhere.yaml"])
def test_no_such_endpoint(ref: str) -> None:
    with pytest.raises(InputError):
        spec.read_spec(ref)


def test_identity_is_names_and_what_decides_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    ref = "endpoint:/home/somebody/models/tiny"
    identity = model_identity(ref)
    assert identity["name"] == "endpoint:tiny" and "somebody" not in json.dumps(identity)
    assert load_model(ref).identity == identity
    assert load_model(f"blind:{ref}").identity == model_identity(f"blind:{ref}") != identity
    base = model_identity(written(tmp_path, "model: tiny"))
    assert base["hash"] == identity["hash"]
    for same in (
        "concurrency: 9",
        "timeout_s: 5",
        "base_url: http://b:2/v1",
        "unanswered: leave-out",
        "price_in: 1\nprice_out: 1",
    ):
        assert model_identity(written(tmp_path, f"model: tiny\n{same}")) == base
    for other in ("picture: jpeg", "max_side: 64", "extra: {seed: 1}", "thinking_tokens: 9", "logprobs: false"):
        assert model_identity(written(tmp_path, f"model: tiny\n{other}"))["hash"] != base["hash"]
    with pytest.raises(InputError, match="behind a server"):
        load_model(ref, adapter=tmp_path)


def completion(text: str = "A", **choice: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop", **choice}]}).encode()


def listed(*pairs: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": math.log(p)} for token, p in pairs]
    return {"content": [{**top[0], "top_logprobs": top}]}


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ([("A", 0.6), (" A", 0.1), ("B", 0.2), ("b", 0.05)], (0.7, 0.2)),
        ([("A", 0.98), ("The", 0.015)], (0.98, 0.0)),  # what is left for B is below 0.01
        ([("A", 0.6), ("The", 0.3), ("x", 0.001)], (0.6, 0.0)),  # B is below the smallest that is listed
    ],
)
def test_letters(shares: list[tuple[str, float]], found: tuple[float, float]) -> None:
    made = reply.read_reply(completion(logprobs=listed(*shares)), letters=True)
    assert (made.p_a, made.p_b) == pytest.approx(found) and made.strange == ""
    assert reply.read_reply(completion(logprobs=listed(*shares)), letters=False).p_a is None


@pytest.mark.parametrize(
    ("logprobs", "why"),
    [
        (listed(("A", 0.6), ("The", 0.3)), "too few"),
        (listed(("B", 0.9), ("A", 0.1)), "another answer"),
        (listed(("A", 0.9), ("B", 0.9)), "more than 1"),
        ({"content": [{"token": "A"}]}, "no known form"),
        ({"content": "A"}, "no known form"),
        ({"tokens": ["A"]}, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_letters_that_are_not_believed(logprobs: Any, why: str) -> None:
    made = reply.read_reply(completion(logprobs=logprobs), letters=True)
    assert made.text == "A" and made.p_a is None and made.p_b is None
    assert why in made.strange and (made.strange == "") == (why == "")


def test_numbers_too_large_for_a_float() -> None:
    top = [{"token": token, "logprob": value} for token, value in (("A", 0), ("B", -(10**400)))]
    logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    made = reply.read_reply(completion(logprobs=logprobs), letters=True)
    assert (made.p_a, made.p_b) == (1.0, 0.0)


def test_texts_a_reply_may_hold() -> None:
    assert reply.read_reply(completion(), letters=False).tokens_in is None
    parts = [{"type": "text", "text": "A"}, {"type": "image"}]
    assert reply.read_reply(completion(message={"content": parts}), letters=False).text == "A"
    declined = {"content": None, "refusal": "I cannot help with that."}
    assert reply.read_reply(completion(message=declined), letters=False).text == "I cannot help with that."
    assert reply.read_reply(completion(message={"content": None}), letters=False).text == ""
    assert reply.read_reply(completion(finish_reason="length"), letters=False).cut
    with pytest.raises(faults.Refused):
        reply.read_reply(completion(finish_reason="content_filter"), letters=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "finish_reason", "logprobs", "top_logprobs", "token"])
            | st.sampled_from(["logprob", "usage", "prompt_tokens", "error", "model"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.booleans())
def test_no_reply_is_a_bug(value: Any, letters: bool) -> None:
    """Whatever comes is an answer that can be written down, or one of the known faults."""
    choice = {"message": {"content": "A"}, "finish_reason": "stop"}
    for body in (
        value,
        {"choices": [{**choice, "logprobs": {"content": [value]}}]},
        {"choices": [choice], "usage": value},
    ):
        try:
            made = reply.read_reply(json.dumps(body).encode(), letters=letters)
        except (faults.Again, faults.Refused):
            continue
        canonical([made.text, made.model, made.fingerprint, made.tokens_in, made.tokens_out, made.p_a, made.p_b])
        assert made.p_a is None or 0 <= made.p_a <= 1


@given(st.binary(max_size=40))
def test_no_bytes_are_a_bug(body: bytes) -> None:
    with pytest.raises(faults.Again):
        reply.read_reply(body, letters=True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, faults.Again) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, faults.Refused) for status in (400, 403, 413, 415, 422, 451)),
        *((status, faults.Stop) for status in (401, 402, 404, 405, 410, 302)),
    ],
)
def test_what_a_status_means(status: int, kind: type[Exception]) -> None:
    assert type(faults.fault_of(status, {"error": {"message": "m"}}, {}, "KEY")) is kind


def test_how_long_to_wait() -> None:
    assert faults.wait_of({"retry-after": "7"}) == 7
    assert faults.wait_of({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert faults.wait_of({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    for odd in ("", "soon", "-1", "1e9", "nan"):
        assert faults.wait_of({"retry-after": odd}) is None


def test_a_field_is_named_as_a_word() -> None:
    fields = ["logprobs", "temperature"]
    assert faults.field_named({"error": {"message": "no", "param": "temperature"}}, fields) == "temperature"
    assert faults.field_named({"detail": [{"loc": ["body", "logprobs"]}]}, fields) == "logprobs"
    assert faults.field_named("top_logprobs is too large; temperatures vary", fields) is None
