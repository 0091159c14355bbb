"""A writer for tests: answers the prompts of `annotate` from what stands in them, as a good model would."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.endpoint.writing_server import text_in

FORMS = {
    "what": "What kind of object is this",
    "use": "What do people need it for",
    "look": "How can it be recognised",
    "condition": "How well is it kept",
    "next": "What would be done with it",
}
ZH = {
    "what": "这是哪一种物体",
    "use": "人们用它来做什么",
    "look": "怎样认出它",
    "condition": "它的状况如何",
    "next": "接下来怎样处理它",
}


def prompt_of(body: dict[str, Any]) -> str:
    return text_in(next(message for message in body["messages"] if message["role"] == "user")["content"])


def languages(prompt: str) -> list[str]:
    return [lang for lang in ("en", "zh") if f"({lang})" in prompt]


def find(pattern: str, prompt: str) -> str:
    found = re.search(pattern, prompt, re.MULTILINE)
    return found[1] if found else ""


def scene(prompt: str) -> dict[str, Any]:
    """A description and a judgement."""
    verdict = find(r"^\s*Verdict: (\w+)", prompt)
    labelled, _, rest = prompt.partition("What is wrong:")
    listed = re.findall(r"^\s*- (?!nothing)([^,(:\n]+?)(?: \(([^)]*)\))?(?:,|$)", labelled, re.MULTILINE)
    wrong = re.findall(r"^\s*- ([^:\n]+): ([^(\n]+?)(?: \(([^)]*)\))?$", rest.partition("Verdict:")[0], re.MULTILINE)
    names, zh_names = ([part for one in listed if (part := one[place])] for place in (0, 1))
    bad, bad_zh = [one[1] for one in wrong], [one[2] for one in wrong if one[2]]
    made: dict[str, Any] = {"anomalies": [one[0] for one in wrong], "verdict": verdict}
    if "en" in languages(prompt):
        made["description_en"] = f"The deck shows: {', '.join(names)}." if names else "The deck is in view."
        made["judgement_en"] = f"What stands out: {', '.join(bad)}." if wrong else "All is well."
        if verdict == "anomaly" and not wrong:
            made["judgement_en"] = "Something is wrong."
    if "zh" in languages(prompt):
        made["description_zh"] = f"画面中有:{'、'.join(zh_names)}。" if zh_names else "画面是台面。"
        made["judgement_zh"] = f"需要注意:{'、'.join(bad_zh)}。" if wrong else "一切正常。"
        if verdict == "anomaly" and not wrong:
            made["judgement_zh"] = "有异常。"
    return made


def concept(prompt: str) -> dict[str, Any]:
    """A question and an answer for each topic."""
    name, zh = find(r"^The object is: ([^(\n]+?)(?: \(|$)", prompt), find(r"^The object is: [^(\n]+\(([^)]+)\)", prompt)
    state = find(r"^\s*State: ([^/\n]+?)(?: /|$)", prompt)
    topics = re.findall(r"^\s*- (\w+): ", prompt, re.MULTILINE)
    pairs = []
    for topic in (topic for topic in topics if topic in FORMS):
        pair = {"topic": topic}
        if "en" in languages(prompt):
            said = state if topic == "condition" else f"{topic} of the {name}"
            pair |= {"question_en": f"{FORMS[topic]}?", "answer_en": said}
        if "zh" in languages(prompt):
            pair |= {"question_zh": f"{ZH[topic]}?", "answer_zh": f"{zh}:{'甲乙丙丁戊'[topics.index(topic)]}"}
        pairs.append(pair)
    return {"pairs": pairs}


def guided(prompt: str) -> dict[str, Any]:
    """Verdict questions."""
    noun = find(r"may be called: ([^(\n]+?)(?: \(|$)", prompt)
    zh = find(r"may be called: [^(\n]+\(([^)]+)\)", prompt)
    right = "anomaly" if "which is an anomaly" in prompt else "normal"
    forms = (
        "Is the {} in the box fit for use",
        "Would an operator accept the {}",
        "Does the {} need attention now",
        "Can the run go on with this {}",
    )
    forms_zh = ("框中的{}能用吗", "操作员会接受这个{}吗", "现在需要处理{}吗", "带着这个{}还能接着做实验吗")
    pairs = []
    for number in range(int(find(r"Write (\d+) questions", prompt))):
        pair: dict[str, str] = {}
        options = {"normal": ("accepted", "合格"), "anomaly": ("rejected", "不合格")}
        if "en" in languages(prompt):
            pair |= {"question_en": f"{forms[number % 4].format(noun)}?", "answer_en": options[right][0]}
            pair |= {"normal_en": "accepted", "anomaly_en": "rejected"}
        if "zh" in languages(prompt):
            pair |= {"question_zh": f"{forms_zh[number % 4].format(zh)}?", "answer_zh": options[right][1]}
            pair |= {"normal_zh": "合格", "anomaly_zh": "不合格"}
        pairs.append(pair)
    return {"pairs": pairs}


def write(body: dict[str, Any]) -> str:
    prompt = prompt_of(body)
    kinds = {"The object is:": concept, "may be called:": guided}
    made = next((make for mark, make in kinds.items() if mark in prompt), scene)(prompt)
    return json.dumps(made, ensure_ascii=False)
