"""What a reply may hold, what an error means, how an answer is unwrapped, where probabilities stand."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deckbench.artifact import canonical
from deckbench.endpoint import faults, reply
from deckbench.endpoint.text import all_text


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
        ({"tokens": ["A"]}, "no known form"),
        (None, "no probabilities served"),
        ([], "no probabilities served"),
        ({"content": None}, "no probabilities served"),
        ({"content": [{"token": "A", "logprob": None, "top_logprobs": None}]}, "no known form"),
        ({"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": None}]}]}, "that are none"),
        ({"content": [{"token": "token_id:32", "top_logprobs": [{"token": "token_id:32", "logprob": 0}]}]}, "number"),
    ],
)
def test_letters_that_are_not_believed(logprobs: Any, why: str) -> None:
    made = reply.read_reply(completion(logprobs=logprobs), letters=True)
    assert made.text == "A" and made.p_a is None and made.p_b is None
    assert why in made.strange


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
        except (faults.Again, faults.Refused, faults.NotAnswered, faults.ErrorReply) as fault:
            assert str(fault).isprintable() and len(str(fault)) < 1000
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
        *((status, faults.Refused) for status in (400, 403, 413, 415, 422, 451, 501)),
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
    error = {"error": {"message": "no", "param": "temperature"}}
    assert faults.field_refused(400, error, fields) == "temperature"
    assert faults.field_refused(422, {"detail": [{"loc": ["body", "logprobs"], "msg": "extra"}]}, fields) == "logprobs"
    assert faults.field_refused(400, "temperatures vary", fields) is None
    assert faults.field_refused(429, error, fields) is None
    echoed = {"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": {"logprobs": True}}]}
    assert faults.field_refused(422, echoed, fields) is None


@pytest.mark.parametrize(
    "text",
    [
        "Logprobs is not enabled",
        "`log_probs` unsupported",
        "log probabilities are off",
        "topLogprobs: extra",
        "logProbs",
    ],
)
def test_probabilities_in_any_spelling(text: str) -> None:
    for status in (400, 403, 405, 422, 500, 501):
        assert faults.field_refused(status, {"error": text}, ["logprobs"]) == "logprobs"


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", True),
        ("max_tokens: Extra inputs are not permitted", True),
        ("unknown field max_tokens", True),
        ("max_tokens is too large: 144. This model supports at most 128 completion tokens", False),
        ("max_tokens must be less than 100", False),
        ("Unsupported value: 'max_tokens' does not support 144 with this model", False),
        ("max_tokens must be at least 1024", False),
        ("maximum context length is 128 tokens; reduce the messages or max_tokens", False),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", False),
    ],
)
def test_max_tokens_is_another_field_only_where_it_is_unknown(text: str, refused: bool) -> None:
    assert (
        faults.field_refused(400, {"error": {"message": text, "param": "max_tokens"}}, ["max_tokens"]) is not None
    ) == refused


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached. Limit 3, Used 3. Please try again in 20s. Visit the page 429.", 20),
        ("Please try again in 6m0s.", 360),
        ("try again in 350ms", 0.35),
        ("retry after 12 seconds", 12),
        ("Please retry in 37.5s", 37.5),
        ('{"error": {"details": [{"retryDelay": "17s"}]}}', 17),
        ('{"retry_after": 5}', 5),
        ("wait 1 minute and 30 seconds", 90),
        ("Please wait for 2 hours", 7200),
        ("请在 20 秒后重试", 20),
        ('{"error": "Model is loading", "estimated_time": 20.5}', 20.5),
        ("try again later. Request id: 83475934", None),
        ("slow down", None),
    ],
)
def test_how_long_to_wait_in_words(text: str, seconds: float | None) -> None:
    body = json.loads(text) if text.startswith("{") else {"error": {"message": text}}
    assert faults.wait_of({}, all_text(body)) == pytest.approx(seconds)
    assert faults.wait_of({"retry-after": "3"}, all_text(body)) == 3


@pytest.mark.parametrize(
    "said",
    [
        "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        "this model is missing data required for image input",
        "tiny is not a multimodal model",
        "At most 0 image(s) may be provided in one prompt.",
        "Failed to deserialize: messages[0]: unknown variant `image_url`, expected `text`",
        "Invalid content type. image_url is only supported by certain models.",
        "messages[0].content must be a string",
        "Model does not support images. Please use a model that does.",
        "No endpoints found that support image input",
        "Image input is not enabled for this model",
        "This is a text-only model",
    ],
)
def test_a_model_without_eyes_says_so(said: str) -> None:
    assert said[:20] in faults.lacks_vision({"error": {"message": said}})
    assert faults.lacks_vision(said)


@pytest.mark.parametrize(
    "said",
    [
        "You uploaded an unsupported image. Please make sure your image has one of the following formats: png",
        "image is too large", "cannot decode image", "Image was rejected: not allowed by the content policy",
        "internal error", "Unable to process input image", "list index out of range",
    ],
)  # fmt: skip
def test_a_picture_of_no_use_is_no_blind_model(said: str) -> None:
    assert not faults.lacks_vision({"error": {"message": said}})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "overloaded"}}, "overloaded"),
        ({"error": "overloaded"}, "overloaded"),
        ({"object": "error", "message": "overloaded", "code": 50}, "overloaded"),
        ({"detail": "overloaded"}, "overloaded"),
        ({"error_code": 17, "error_msg": "overloaded"}, "overloaded"),
        ({"base_resp": {"status_code": 1002, "status_msg": "overloaded"}, "choices": None}, "overloaded"),
        ({"success": False, "msg": "overloaded"}, "overloaded"),
        ({"choices": [{"error": {"code": 1, "message": "overloaded"}, "finish_reason": "error"}]}, "overloaded"),
        ({"choices": [{"message": {"content": "overloaded"}, "finish_reason": "error"}]}, "overloaded"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": {"type": "abort", "message": "gone"}}]}, "gone"),
        ({"error": {"message": '{"error": {"message": "overloaded"}}'}}, "overloaded"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": '{"message": "no GPU"}'}}}, "no GPU"),
    ],
)
def test_an_error_in_an_answer_is_shown(body: dict[str, Any], said: str) -> None:
    with pytest.raises((faults.Again, faults.ErrorReply), match=said):
        reply.read_reply(json.dumps(body).encode(), letters=False)


def test_a_page_is_shown_as_its_text() -> None:
    page = "<html><head><title>413 Request Entity Too Large</title><script>var a = 1</script></head><body><center><h1>"
    page += "413 Request Entity Too Large</h1></center><hr>nginx/1.25</body></html>"
    fault = faults.fault_of(413, page, {}, "KEY")
    assert str(fault).startswith("HTTP 413: 413 Request Entity Too Large, nginx/1.25")
    assert isinstance(fault, faults.Refused) and "picture: jpeg" in fault.fix and "max_side" in fault.fix
    with pytest.raises(faults.Again, match="not JSON: 502 Bad Gateway"):
        reply.read_reply(b"<html><h1>502 Bad Gateway</h1></html>", letters=False)


ENDS: dict[str, type[Exception] | None] = {
    **dict.fromkeys(("stop", "STOP", "length", "eos", "eos_token", "end_turn", "stop_sequence", "max_tokens"), None),
    **dict.fromkeys(("done", "finished", "max_new_tokens", "Stop ", "EOS_TOKEN"), None),
    **dict.fromkeys(("MAX_TOKENS", "FinishReason.STOP", "FINISH_REASON_STOP", "model_length", "COMPLETE"), None),
    **dict.fromkeys(("abort", "network_error", "insufficient_system_resource", "error", "cancelled"), faults.Again),
    **dict.fromkeys(("tool_calls", "OTHER", "load", "timeout", "not_finished", "ERROR_LIMIT", "", " "), faults.Again),
    **dict.fromkeys(("sensitive", "SAFETY", "content_filter", "RECITATION", "PROHIBITED_CONTENT"), faults.Refused),
    **dict.fromkeys(("refusal", "BLOCKLIST", "SPII", "guardrail_intervened", "IMAGE_SAFETY"), faults.Refused),
    **dict.fromkeys(("ERROR_TOXIC", "content_policy_violation", "content_filter: SAFETY"), faults.Refused),
    "model_context_window_exceeded": faults.Refused,
}


@pytest.mark.parametrize("reason", ENDS)
def test_what_an_ending_means(reason: str) -> None:
    kind = ENDS[reason]
    if kind is None:
        assert reply.read_reply(completion(finish_reason=reason), letters=False).text == "A"
        return
    with pytest.raises(kind) as caught:
        reply.read_reply(completion(finish_reason=reason), letters=False)
    assert reason.strip() in str(caught.value) or "context" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "answer", "stripped"),
    [
        ("<think>A or B? A says intact.</think>B", "B", ["thinking"]),
        ("\n<think>\n\n</think>\n\nB", "B", ["thinking"]),
        ("Looks bent.</think>B", "B", ["thinking"]),
        ("<thinking>A</thinking> B.", "B.", ["thinking"]),
        ("[THINK]A[/THINK]B", "B", ["thinking"]),
        ("◁think▷A◁/think▷B", "B", ["thinking"]),
        ("<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>", "B",
         ["thinking", "end token"]),
        ("<|begin_of_box|>B<|end_of_box|>", "B", ["box"]),
        ("<think>A</think><|begin_of_box|>B<|end_of_box|>", "B", ["thinking", "box"]),
        ("B</s>", "B", ["end token"]),
        ("B<|im_end|>", "B", ["end token"]),
        ("<think>A</think><think>A</think>B", "<think>A</think>B", ["thinking"]),
        ("A. <think>or B</think>", "A. <think>or B</think>", []),
        (" B ", " B ", []),
        ("<b>B</b>", "<b>B</b>", []),
    ],
)  # fmt: skip
def test_what_is_taken_off_around_an_answer(text: str, answer: str, stripped: list[str]) -> None:
    made = reply.read_reply(completion(text), letters=False)
    assert (made.text, list(made.stripped)) == (answer, stripped)
    assert made.raw == (text if stripped else "")


@pytest.mark.parametrize(
    "body",
    [
        completion("<think>Let me see", finish_reason="length"),
        completion("<think>Let me see"),
        completion("<think>A</think>", finish_reason="length"),
        completion("", finish_reason="length"),
        completion(message={"content": None, "reasoning_content": "Let me see"}, finish_reason="length"),
        completion(message={"content": "", "reasoning": "Let me see"}),
        json.dumps({
            "choices": [{"message": {"content": ""}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 16, "completion_tokens_details": {"reasoning_tokens": 16}},
        }).encode(),
    ],
)  # fmt: skip
def test_thoughts_alone_are_no_answer(body: bytes) -> None:
    with pytest.raises(faults.NotAnswered, match="thinking_tokens"):
        reply.read_reply(body, letters=True)


def position(token: str, *pairs: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": name, "logprob": math.log(p)} for name, p in pairs]
    return {"token": token, "logprob": -0.1, "top_logprobs": top}


A_OR_B = ("A", 0.7), ("B", 0.25), ("The", 0.04)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("A", [position("ĠA", ("ĠA", 0.7), ("ĠB", 0.25), ("The", 0.04))]),
        ("A", [position("▁A", ("▁A", 0.7), ("▁B", 0.25), ("The", 0.04))]),
        ("A", [position("A", ("A", 0.6), ("ĠA", 0.1), ("▁B", 0.25), ("The", 0.04))]),
        ("A", [position("<0x41>", ("<0x41>", 0.7), ("<0x42>", 0.25), ("The", 0.04))]),
        ("A", [position("", ("", 0.99)), position("A", *A_OR_B)]),
        ("A", [position("Ċ", ("Ċ", 0.99)), position("A", *A_OR_B)]),
        ("<|begin_of_box|>A<|end_of_box|>",
         [position("<|begin_of_box|>", ("<|begin_of_box|>", 1.0)), position("A", *A_OR_B), position("<|end_of_box|>")]),
        ("<think>B</think>\nA",
         [position("<think>"), position("B", ("B", 0.9)), position("</think>"), position("\n"), position("A", *A_OR_B),
          position("<|im_end|>")]),
        ("A", [{"token": "token_id:32", "bytes": [65], "logprob": -0.4, "top_logprobs": [
            {"token": "token_id:32", "bytes": [65], "logprob": math.log(0.7)},
            {"token": "token_id:33", "bytes": [32, 66], "logprob": math.log(0.25)},
            {"token": "token_id:9", "bytes": [84], "logprob": math.log(0.04)}]}]),
    ],
)  # fmt: skip
def test_tokens_as_servers_write_them(text: str, content: list[Any]) -> None:
    made = reply.read_reply(completion(text, logprobs={"content": content}), letters=True)
    assert made.strange == "" and (made.p_a, made.p_b) == pytest.approx((0.7, 0.25)) and made.text == "A"


def test_probabilities_of_thoughts_are_not_those_of_the_answer() -> None:
    body = completion("<think>B</think>A", logprobs={"content": [position("<think>", ("<think>", 1.0))]})
    made = reply.read_reply(body, letters=True)
    assert made.p_a is None and "where the answer begins" in made.strange


def test_how_long_to_wait_by_a_limit_s_own_headers() -> None:
    headers = {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "1m30s"}
    assert faults.reset_of(headers) == 90 and faults.reset_of({"ratelimit-reset": "12"}) == 12
    assert faults.reset_of({"x-ratelimit-reset": str(time.time() + 50)}) == pytest.approx(50, abs=2)
    assert faults.reset_of({"x-ratelimit-reset": "soon"}) is None
    waits = [getattr(faults.fault_of(status, "no", headers, "KEY"), "wait_s", None) for status in (429, 500)]
    assert waits == [90, None]


def test_parts_that_are_thoughts_are_not_the_answer() -> None:
    thought = {"type": "thinking", "thinking": "A or B"}
    parts = [thought, {"type": "reasoning", "text": "A"}, {"type": "text", "text": "B"}]
    assert reply.read_reply(completion(message={"content": parts}), letters=False).text == "B"
    with pytest.raises(faults.NotAnswered):
        reply.read_reply(completion(message={"content": [thought]}), letters=False)


def test_numbers_and_names_without_measure() -> None:
    body = json.loads(completion())
    body |= {"usage": {"prompt_tokens": 10**400, "completion_tokens": -1}, "model": "m" * 10**6}
    made = reply.read_reply(json.dumps(body).encode(), letters=False)
    assert (made.tokens_in, made.tokens_out) == (None, None) and len(made.model) <= 200


def test_parameters_in_general_are_the_probabilities() -> None:
    text = "No endpoints found that can handle the requested parameters."
    assert faults.field_refused(404, {"error": {"message": text}}, ["logprobs", "temperature"]) == "logprobs"
    assert faults.field_refused(404, {"error": {"message": text}}, ["temperature"]) is None
