"""The site: what it shows, that nothing a model wrote is obeyed, and that it appears whole or not at all."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.record.metrics_schema import Estimate
from deckbench.record.read import read_all
from deckbench.report import charts, report, site
from deckbench.report.board import boards_of
from deckbench.report.breakdown import breakdowns
from tests.record import fake

EVIL = (
    '<script>document.title = "pwned"</script>',
    '"><img src=x onerror="document.title=1">',
    "[click](javascript:alert(1)) javascript:alert(1)",
    "safe \u202egpj.exe\u202c \u2066hidden\u2069 zero\u200bwidth \x07bell",
    "</article></main><style>*{display:none}</style><!--",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
)


class Page(HTMLParser):
    """Collects what a test asks about: tags, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(suite_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    result = report(suite_records, out=out)
    assert result["records"] == 51 and result["boards"] == 2 and result["failed"] == []
    return out


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose only model answers with attacks."""
    work = tmp_path_factory.mktemp("evil")
    name = EVIL[0]
    fake.record(
        work / "r",
        work / "w",
        model=name,
        board=EVIL[1],
        texts={2 * i: text for i, text in enumerate(EVIL)},
    )
    report(work / "r", out=work / "site")
    return work / "site"


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_the_front_page_says_what_it_must(made: Path) -> None:
    text = Page(made / "index.html").text
    assert "Synthetic results do not establish safety." in text
    for word in (
        "ot2-concept@1",
        "ot2-guided@1",
        "ot2-scene@1",
        "same distribution",
        "shifted",
        "tiny-glm4v",
        "majority",
    ):
        assert word in text


def test_there_is_a_page_for_every_run_and_links_lead_somewhere(made: Path) -> None:
    assert len(list((made / "runs").glob("*.html"))) == 51
    for path in pages(made):
        ids = {a["id"] for _, a in Page(path).tags if "id" in a}
        for link in Page(path).all("a"):
            place, _, anchor = link["href"].partition("#")
            target = (path.parent / place).resolve() if place else path
            assert target.is_file(), link
            if anchor:
                there = ids if target == path else {a["id"] for _, a in Page(target).tags if "id" in a}
                assert anchor in there


def test_a_record_may_lie_in_a_folder_of_any_name(one: Path, folder: Path, tmp_path: Path) -> None:
    folder.rename(one / "my run #1 (50%)")
    report(one, out=tmp_path / "site")
    for path in pages(tmp_path / "site"):
        for link in Page(path).all("a"):
            place = unquote(link["href"].partition("#")[0])
            assert not place or (path.parent / place).is_file(), link


def test_nothing_is_fetched_from_elsewhere(made: Path) -> None:
    for path in pages(made):
        page = Page(path)
        for tag, attributes in page.tags:
            for name in ("src", "href", "action", "srcset", "poster"):
                assert not re.match(r"(?i)\s*(https?:|//|javascript:)", attributes.get(name, "")), (path, tag)
            assert not [name for name in attributes if name.startswith("on")]
            assert "style" not in attributes
        assert [s["src"] for s in page.all("script")] == [
            ("" if path.name == "index.html" else "../") + "static/board.js"
        ]
    for name in ("site.css", "board.js"):
        text = (made / "static" / name).read_text()
        assert "http" not in text and "innerHTML" not in text and "@import" not in text and "url(" not in text


def test_the_policy_allows_no_script_in_the_page(made: Path) -> None:
    for path in pages(made):
        policy = next(m["content"] for m in Page(path).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy and "unsafe" not in policy


def test_synthetic_and_real_are_never_on_one_board(made: Path, suite_records: Path) -> None:
    boards = boards_of(read_all(suite_records)[0])
    assert [(board.name, board.synthetic) for board in boards] == [("Bench camera", False), ("Invented deck", True)]
    for board in boards:
        kinds = {cell.run.record.pool.synthetic for row in board.rows for cell in row.cells.values()}
        assert kinds == {board.synthetic}


def test_a_synthetic_pool_under_a_real_pools_name_gets_its_own_board(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", synthetic=False, model="other")
    assert len(boards_of(read_all(one)[0])) == 2


def test_what_is_not_ranked_stands_last_and_is_labelled(suite_records: Path) -> None:
    board = boards_of(read_all(suite_records)[0])[1]
    assert [row.label for row in board.rows if not row.ranked] == ["random weights"]
    assert not board.rows[-1].ranked
    assert board.best is not None and board.best[0].model == "tiny-glm4v"
    assert all(cell.near_best is False for row in board.rows if not row.ranked for cell in row.cells.values())
    assert "big" not in {point.label.split()[0] for point in boards_points(board)}


def test_a_board_starts_with_the_column_that_most_rows_have() -> None:
    """The committed records of real anomalies: one model has all four levels of context, the others the fullest."""
    committed = Path(__file__).resolve().parents[2] / "results" / "records"
    board = next(board for board in boards_of(read_all(committed)[0]) if not board.synthetic)
    first = next(column for column in board.columns if column.key == board.first_sort)
    assert first.task == "ot2-check@1" and first.stage == "S3"
    assert len({column.task for column in board.columns}) == 4


def boards_points(board):  # type: ignore[no-untyped-def]
    from deckbench.report.board import points_of

    return [point for task in board.tasks for point in points_of(board, task, "choice")]


def test_an_emulated_run_is_not_ranked(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="other", emulated=True, skill=1.0)
    report(one, out=tmp_path / "site")
    assert "emulated · not ranked" in Page(tmp_path / "site/index.html").text


def test_other_test_sets_and_other_weights_do_not_share_a_cell(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", skill=0.7, data=fake.dataset(tmp_path / "other", seed=1))
    data = next((tmp_path / "work").glob("data-*"))
    said = fake.manifest(fake.predictions(tmp_path / "p.csv", data, skill=0.6), data, fake.IDENTITY)
    fake.record(one, tmp_path / "work", data=data, instead={"predictions": said})
    board = boards_of(read_all(one)[0])[0]
    assert len(board.columns) == 2 and len(board.rows) == 2
    assert len({row.note for row in board.rows} - {""}) == 2


def test_the_newest_of_two_runs_is_shown(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", data=next((tmp_path / "work").glob("data-*")), seed=5)
    cells = [cell for row in boards_of(read_all(one)[0])[0].rows for cell in row.cells.values()]
    assert [cell.older for cell in cells] == [1]


def test_every_number_stands_with_an_interval_and_n(made: Path) -> None:
    html = (made / "index.html").read_text()
    cells = re.findall(r'<span class="m" data-metric="[a-z0-9]+"(?: hidden)?>(.*?)</span></span>', html)
    assert cells
    for cell in re.findall(
        r'<span class="val[^>]*>0?\.?\d[^<]*</span>(?:<svg.*?</svg>)?<span class="ci">([^<]*)</span>', html
    ):
        assert re.search(r"n\xa0\d+|n&nbsp;\d+", cell)
        assert re.search(r"\d–\d", cell) or cell.startswith("p90")
    text = Page(made / "index.html").text
    assert not re.search(r"\d\s?%(?! false stops| confidence)", text.replace("95%", ""))


def test_wrong_answers_come_first_and_are_few_enough(made: Path) -> None:
    for path in (made / "runs").glob("*.html"):
        verdicts = [a["class"].split()[1] for a in Page(path).all("article")]
        assert verdicts == sorted(verdicts, reverse=True)
        assert len(verdicts) <= site.MAX_EXAMPLES


def test_model_output_is_text(evil: Path) -> None:
    for path in pages(evil):
        html, page = path.read_text(encoding="utf-8"), Page(path)
        assert len(page.all("script")) == 1
        assert not page.all("style")
        assert all("src" not in image or image["src"].startswith("../pictures/") for image in page.all("img"))
        assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
        assert not [a["href"] for a in page.all("a") if "javascript" in a["href"].lower()]
        assert not re.search("[\u200b\u202a-\u202e\u2066-\u2069\x07]", html)
    run = next((evil / "runs").glob("*.html"))
    text = Page(run).text
    assert "<script>document.title" in text and "U+202E" in text and "U+200B" in text and "U+0007" in text
    assert "{{ 7 * 7 }}" in text and "49" not in text.split("{{ 7 * 7 }}")[1][:10]


@given(st.text(max_size=200))
@settings(deadline=None)
def test_visible_text_is_inert_and_complete(text: str) -> None:
    shown = str(site.visible(text))
    assert not re.search(r"<(?!/?span)", shown)
    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\x00-\x08\x0e-\x1f\x7f]", shown)
    plain = re.sub(r"<[^>]+>", "", shown)
    for old, new in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        plain = plain.replace(old, new)
    if not site.HIDDEN.search(text):
        assert plain == text


def test_long_answers_are_cut_on_the_page() -> None:
    shown = str(site.visible("x" * 5000))
    assert len(shown) < 1400 and "3800 more characters" in shown


# ---- whole or not at all


def test_the_same_records_make_the_same_site(suite_records: Path, made: Path, tmp_path: Path) -> None:
    report(suite_records, out=tmp_path / "again")
    assert artifact.read(tmp_path / "again").content_hash == artifact.read(made).content_hash


def test_an_older_site_is_replaced(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    report(one, out=out)
    first = artifact.read(out).content_hash
    fake.record(one, tmp_path / "work", model="other")
    report(one, out=out)
    assert artifact.read(out, "site", verify=True).content_hash != first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records", "site", "work"]


def test_an_older_site_stays_when_the_new_one_fails(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    report(one, out=out)
    before = artifact.read(out).content_hash

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("while writing")

    monkeypatch.setattr(site, "front_page", fail)
    with pytest.raises(RuntimeError):
        report(one, out=out)
    assert artifact.read(out, verify=True).content_hash == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records", "site", "work"]


def test_an_older_site_stays_when_it_cannot_be_moved_aside(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    report(one, out=out)
    before = artifact.read(out).content_hash

    def refuse(*_: Path) -> None:
        raise OSError("no")

    monkeypatch.setattr(artifact, "exchange", refuse)
    with pytest.raises(OSError, match="no"):
        report(one, out=out)
    monkeypatch.undo()
    assert artifact.read(out, verify=True).content_hash == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records", "site", "work"]


def test_a_broken_record_gives_no_site(one: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "record.json").write_text("{")
    with pytest.raises(InputError, match=r"record\.json"):
        report(one, out=tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_other_peoples_folders_are_not_replaced(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        report(one, out=out)
    with artifact.writing(tmp_path / "pool", "pool") as draft:
        (draft.path / "x").write_text("x")
    with pytest.raises(InputError, match="not a site"):
        report(one, out=tmp_path / "pool")
    assert (out / "chapter1.txt").read_text() == "years of work"


def test_the_site_never_takes_the_place_of_the_records(one: Path, tmp_path: Path) -> None:
    for out in (one, tmp_path, one.parent):
        with pytest.raises(InputError, match=r"place of the records|not empty"):
            report(one, out=out)
    shutil.rmtree(tmp_path / "work")
    assert one.is_dir()
    with pytest.raises(InputError, match="among the records"):
        report(one, out=one / "site")
    assert report(one, out=tmp_path / "site")["records"] == 1


def test_a_site_beside_its_records_in_one_folder(one: Path, tmp_path: Path) -> None:
    """results/records and results/site, as the layout has it."""
    assert report(one, out=one.parent / "site")["records"] == 1


# ---- pictures


def test_charts_have_a_title_a_description_and_no_text_of_others(evil: Path) -> None:
    html = (evil / "index.html").read_text()
    for chart in re.findall(r'<svg class="chart.*?</svg>', html):
        assert chart.count("<title>") >= 1 and chart.count("<desc>") == 1
    assert "<script>document" not in html


def test_a_whisker_without_a_value_draws_no_dot() -> None:
    assert "dot" not in charts.whisker(Estimate(value=None, n=0), None)


@pytest.mark.parametrize(
    ("value", "words"), [(0.00085, "850 µs"), (0.0123, "12.3 ms"), (1.239, "1.24 s"), (12345.0, "12345 s")]
)
def test_seconds_for_people(value: float, words: str) -> None:
    assert charts.seconds(value) == words


def test_charts_of_many_models_show_the_best(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data")
    for index in range(9):
        fake.record(tmp_path / "r", tmp_path / "w", data=data, model=f"m{index}", skill=0.1 * index)
    fake.record(tmp_path / "r", tmp_path / "w", data=data, model="majority", kind="baseline", skill=0.5)
    report(tmp_path / "r", out=tmp_path / "site")
    html = (tmp_path / "site/index.html").read_text()
    legend = re.search(r'<ul class="legend".*?</ul>', html, re.DOTALL)
    assert legend is not None
    assert "m8" in legend[0] and "m0" not in legend[0] and "majority" in legend[0]
    assert "3 more are in the table" in html


CREDIT = {"title": "Lab <photos>", "source": "https://example.org/set", "licence": "CC BY 4.0"}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of credited real frames: a majority that is half right, a network, a model."""
    work = tmp_path_factory.mktemp("real")
    data = fake.dataset(work / "data", n=120, synthetic=False, pool="lab", credit=CREDIT)
    for name, kind, skill in (("majority", "baseline", 0.5), ("cnn", "baseline", 0.95), ("tiny-glm4v", "model", 0.5)):
        fake.record(work / "r", work / "w", data=data, model=name, kind=kind, skill=skill, board="lab")
    report(work / "r", out=work / "site")
    return work / "site"


def test_real_frames_are_credited_wherever_they_are_shown(real: Path) -> None:
    for page in pages(real):
        shown = Page(page)
        assert "Lab <photos> (https://example.org/set); licence: CC BY 4.0" in shown.text
        assert not shown.all("photos")


def test_a_board_of_real_frames_says_how_far_above_the_majority(real: Path) -> None:
    board = boards_of(read_all(real.parent / "r")[0])[0]
    tables = {table.title: table for table in breakdowns(board)}
    majority = next(row for row in board.rows if row.model == "majority")
    base = next(iter(majority.cells.values())).estimate("accuracy")
    found = {row.model: cells[0] for row, cells in tables["How far above the majority"].lines}
    assert set(found) == {"cnn", "tiny-glm4v"}
    network = found["cnn"]
    assert base is not None and base.value is not None and network is not None and network.low is not None
    assert network.value == pytest.approx(0.95 - base.value, abs=0.08)
    assert network.above and network.low < network.value
    kinds = tables["Found, by kind of anomaly"]
    assert kinds.columns[-1] == "normal"
    text = Page(real / "index.html").text
    assert "supervised ceiling" in text and "How far above the majority" in text
