"""Settings, where the key goes, and the way to the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.endpoint import spec, transport
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


@pytest.mark.parametrize(
    ("address", "environ", "proxy"),
    [
        ("http://127.0.0.1:8000/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://localhost:8000/v1", {"ALL_PROXY": "http://p:1"}, None),
        ("http://[::1]:8000/v1", {"http_proxy": "http://p:1"}, None),
        ("http://127.9.9.9/v1", {"http_proxy": "http://p:1"}, None),
        ("http://a.example/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a.example/v1", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://a.example/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": "b.example"}, "http://p:1"),
        ("https://a.example/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": ".example"}, None),
        ("https://a.example/v1", {"ALL_PROXY": "http://p:1", "no_proxy": "*"}, None),
        ("http://10.1.2.3:8000/v1", {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, None),
    ],
)
def test_which_way_requests_go(address: str, environ: dict[str, str], proxy: str | None) -> None:
    assert transport.proxy_of(address, environ) == proxy


def test_the_way_is_said_without_secrets() -> None:
    far = spec.Server("http://a.example:9/v1", SECRET)
    lines = transport.warnings_of(far, {"http_proxy": f"http://me:{SECRET}@p.example:3128"})
    assert len(lines) == 2 and "p.example:3128" in lines[0] and "clear text" in lines[1]
    assert SECRET not in " ".join(lines)
    assert transport.warnings_of(spec.Server("http://127.0.0.1:9/v1", SECRET), {"http_proxy": "http://p:1"}) == []
    assert transport.warnings_of(spec.Server("https://a.example/v1", SECRET), {}) == []
    for odd in ("socks4://p:1", "http://p:port", "nonsense://p:1"):
        with pytest.raises(InputError, match="the proxy") as caught:
            transport.open_client(far, environ={"http_proxy": odd})
        assert SECRET not in str(caught.value)
