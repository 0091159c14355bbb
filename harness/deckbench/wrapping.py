"""What servers leave around an answer: one block of thinking before it, and known marks. All else stays as it came."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

# Pairs of marks that models think between: DeepSeek, Qwen, Magistral, Kimi, Seed, Cohere, MedGemma, Gemma, gpt-oss ...
THINKING = (
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("think", "thinking", "thought", "reasoning", "seed:think", "reflection")
    ),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
)
BOX = re.compile(r"<\|(?:begin|end)_of_box\|>|<\|(?:START|END)_RESPONSE\|>|<\|(?:begin|end)_of_solution\|>")
# Tokens that end an answer, where a server did not take them off.
END = re.compile(
    r"(?:</s>|<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|end\|>|<\|return\|>|<end_of_turn>|<turn\|>|<eos>"
    r"|<\|user\|>|<\|END_OF_TURN_TOKEN\|>|<｜end▁of▁sentence｜>)\s*$"
)
# Every mark begins with one of these; most answers hold none of them.
_FIRST = re.compile("[" + re.escape("".join(sorted({mark[0] for pair in THINKING for mark in (*pair, "<")}))) + "]")


class Answered(NamedTuple):
    """text: the answer. stripped: names of what was taken off around it. open: its thinking never ended."""

    text: str
    stripped: tuple[str, ...]
    open: bool = False


def unwrap(text: str) -> Answered:
    """An answer without one closed block of thinking before it, box marks and a token that ends it.

    A block whose opening mark stood in the prompt has only its end here. One that is not closed is no answer. A second
    block, or one after other text, is the model's own text and stays.
    """
    if not _FIRST.search(text):
        return Answered(text, ())
    stripped = []
    rest, never_ended = without_thinking(text)
    if never_ended:
        return Answered("", ("thinking",), open=True)
    if rest != text:
        stripped.append("thinking")
    boxless = BOX.sub("", rest)
    if boxless != rest:
        stripped.append("box")
    ended = END.sub("", boxless)
    if ended != boxless:
        stripped.append("end token")
    return Answered(ended.strip() if stripped else ended, tuple(stripped))


def without_thinking(text: str) -> tuple[str, bool]:
    """(the text after its leading block of thinking, whether that block never ends)."""
    start = text.lstrip()
    for opening, closing in THINKING:
        if start[: len(opening)].lower() == opening.lower():
            end = find(start, closing, len(opening))
            return (start, True) if end < 0 else (start[end + len(closing) :], False)
    # The prompt ended with the opening mark: all before the first closing one is thinking.
    ends = [(end, opening, closing) for opening, closing in THINKING if (end := find(text, closing, 0)) >= 0]
    for end, opening, closing in sorted(ends):
        if find(text[:end], opening, 0) < 0:
            return text[end + len(closing) :], False
        break
    return text, False


def find(text: str, mark: str, start: int) -> int:
    """Where a mark stands, in either case; -1 where it does not."""
    found = _pattern(mark).search(text, start)
    return found.start() if found else -1


@lru_cache(maxsize=64)
def _pattern(mark: str) -> re.Pattern[str]:
    """A mark in either case."""
    return re.compile(re.escape(mark), re.IGNORECASE)
