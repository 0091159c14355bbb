"""The site in a real browser: headless Chromium, from file://, without network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deckbench.report import report
from tests.record import fake

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; `apt-get install chromium` to run these")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=4000")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small site: one model at four curricula, baselines, an unranked run, and answers that are attacks."""
    work = tmp_path_factory.mktemp("browser")
    attack = '<img src=x onerror="document.title=\'pwned\'"><script>document.title="pwned"</script>'
    data = fake.dataset(work / "data", n=60, task="ot2-scene@1")
    shared: dict[str, Any] = {"data": data, "task": "ot2-scene@1"}
    for stage, skill in (("base", 0.5), ("S1", 0.6), ("S1+S2", 0.7), ("S1+S2+S3", 0.9)):
        fake.record(work / "r", work / "w", curriculum=stage, skill=skill, p50=skill, texts={0: attack}, **shared)
    fake.record(work / "r", work / "w", model="majority", kind="baseline", skill=0.55, p50=None, **shared)
    fake.record(work / "r", work / "w", model="random", weights="random", skill=1.0, p50=0.001, **shared)
    shifted = {**shared, "data": fake.dataset(work / "data2", n=60, seed=1, task="ot2-scene@1"), "condition": "shifted"}
    fake.record(work / "r", work / "w", curriculum="S1+S2", skill=0.95, **shifted)
    report(work / "r", out=work / "site")
    return work / "site"


def dom(page: Path, tmp_path: Path) -> str:
    """The page after its script ran, as Chromium sees it."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout


def acted(made: Path, tmp_path: Path, script: str) -> str:
    """The front page's DOM after `script` ran behind the site's own (the policy allows no other)."""
    site = tmp_path / "site"
    shutil.copytree(made, site)
    place = site / "static/board.js"
    place.write_text(place.read_text() + f"\n{script}\n")
    return dom(site / "index.html", tmp_path)


def order(html: str) -> list[str]:
    """`model curriculum` of the board's rows from top to bottom, those hidden left out."""
    body = html.split("<tbody>")[2] if 'class="leader"' in html else html.split("<tbody>")[1]
    rows = re.findall(r"<tr data-role=.*?</tr>", body.split("</tbody>")[0], re.DOTALL)
    names = []
    for row in rows:
        head = row.split(">")[0]
        name = re.search(r'class="name">([^<]*)<', row)
        stage = re.search(r'class="chip stage">([^<]*)<', row)
        if name and not re.search(r'class="[^"]*\boff\b', head):
            names.append(" ".join(part[1] for part in (name, stage) if part))
    return names


TRAINED = ["tiny-glm4v S1+S2+S3", "tiny-glm4v S1+S2", "tiny-glm4v S1"]


def test_sorted_by_the_last_stage_at_first_and_the_unranked_last(made: Path, tmp_path: Path) -> None:
    names = order(dom(made / "index.html", tmp_path))
    assert [name for name in names if name in TRAINED] == TRAINED
    assert names[-1] == "random base" and len(names) == 6


def test_a_click_sorts_and_a_second_click_turns_it_round(made: Path, tmp_path: Path) -> None:
    click = "document.querySelector('th[data-sort=\"latency\"] button').click();"
    once = acted(made, tmp_path / "1", click)
    twice = acted(made, tmp_path / "2", click * 2)
    timed = [name for name in order(once) if name.startswith("tiny")]
    assert timed == ["tiny-glm4v base", *reversed(TRAINED)]
    assert [name for name in order(twice) if name.startswith("tiny")] == timed[::-1]
    for html in (once, twice):
        assert order(html)[-2:] == ["majority", "random base"]  # no time: after the others; not ranked: last
    assert 'data-sort="latency" aria-sort="ascending"' in once
    assert 'data-sort="latency" aria-sort="descending"' in twice


def test_the_metric_can_be_changed(made: Path, tmp_path: Path) -> None:
    choose = "const c = document.querySelector('[data-control=metric]'); c.value = 'miss'; "
    html = acted(made, tmp_path, choose + "c.dispatchEvent(new Event('change', {bubbles: true}));")
    shown = set(re.findall(r'class="m" data-metric="(\w+)">', html))
    assert shown == {"miss"}
    assert 'aria-sort="ascending"' in html  # fewer misses are better
    assert order(html)[0] == "tiny-glm4v S1+S2+S3"


def test_filters_hide_columns_and_rows(made: Path, tmp_path: Path) -> None:
    script = """
    for (const [name, value] of [["condition", "shifted"], ["rows", "model"]]) {
      const control = document.querySelector(`[data-control=${name}]`);
      control.value = value;
      control.dispatchEvent(new Event("change", { bubbles: true }));
    }"""
    html = acted(made, tmp_path, script)
    heads = re.findall(r'<th scope="col" data-sort="\w+" [^>]*data-condition="([^"]*)"([^>]*)>', html)
    assert {condition for condition, rest in heads if "off" not in rest} == {"shifted"}
    names = order(html)
    assert "majority" not in names and names[0] == "tiny-glm4v S1+S2"


def test_no_answer_of_a_model_runs(made: Path, tmp_path: Path) -> None:
    run = next(path for path in (made / "runs").glob("*.html") if "onerror" in path.read_text())
    html = dom(run, tmp_path)
    assert "<title>pwned" not in html
    assert html.count("<script") == 1 and "&lt;script&gt;" in html


def test_style_and_script_are_allowed_from_disk(made: Path, tmp_path: Path) -> None:
    probe = """
    document.body.dataset.paper = getComputedStyle(document.documentElement).getPropertyValue("--paper").trim();
    document.body.dataset.wide = String(document.documentElement.scrollWidth <= window.innerWidth);"""
    html = acted(made, tmp_path, probe)
    assert re.search(r'data-paper="#[0-9a-f]{6}"', html)
    assert 'data-wide="true"' in html


@pytest.mark.parametrize("name", ["index.html", "runs"])
def test_a_phone_needs_no_sideways_scrolling(made: Path, tmp_path: Path, name: str) -> None:
    site = tmp_path / "site"
    shutil.copytree(made, site)
    page = site / name if name.endswith(".html") else next((site / name).glob("*s1-s2-s3*.html"))
    script = site / "static/board.js"
    script.write_text(script.read_text() + "\nparent.postMessage(document.documentElement.scrollWidth, '*');\n")
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe width="390" height="844" src="{page.as_uri()}"></iframe>'
        "<script>onmessage = (event) => { document.body.dataset.wide = event.data; };</script>"
    )
    html = dom(frame, tmp_path)
    assert re.search(r'data-wide="(\d+)"', html), html[:400]
    assert int(re.search(r'data-wide="(\d+)"', html)[1]) <= 390  # type: ignore[index]
