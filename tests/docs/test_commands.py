"""What the pages tell people to type works: every verb and option exists, and what a small pool allows is run.

The commands of a page are one session in a folder of its own. Inputs that the page does not make itself (`pools/mine`,
`data/S1`, `frame.jpg` ...) are there beforehand: they are what the README's own session made.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from tests.build.old_tree import make_tree
from tests.docs.commands import Command, block_commands, fenced_blocks, spans, stray_lines

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CHINESE = [ROOT / "README.zh.md", *sorted((ROOT / "docs/zh").glob("*.md"))]
NOX_VERBS = {
    "train-glm4v": "train",
    "train-phi3v": "train",
    "bench-x86": "bench",
    "build-data": "build",
    "leaderboard": "report",
}
# Less work for the same commands; what a page says itself is left as it is.
SMALLER: dict[str, tuple[tuple[str, ...], ...]] = {
    "pool synth": (("--frames", "32"), ("--size", "320x180")),
    "build": (("--set", "max_train=24"), ("--set", "max_val=8"), ("--set", "max_test=8")),
    "train": (("--set", "max_steps=1"), ("--set", "processes=1")),
    "bench": (("--min-seconds", "0.1"),),
}
RUN_TOO = {"cp": "cp", "mkdir": "mkdir", "python": sys.executable}
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def every_command(pages: Sequence[Path]) -> list[Command]:
    return [
        command for page in pages for command in [*block_commands(page, name_of(page)), *spans(page, name_of(page))]
    ]


def problem(argv: Sequence[str], whole: bool) -> str:
    """What is wrong with `deckbench ARGV` as written; whole: what is required must be there too."""
    from deckbench.cli.app import app

    command: Any = typer.main.get_command(app)
    rest = [word for word in argv if word != "--help"]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    if hasattr(command, "commands"):
        return ""
    context = command.context_class(command, info_name=command.name, **command.context_settings)
    try:
        given, extra, _ = command.make_parser(context).parse_args(rest)
    except Exception as error:  # typer brings its own copy of click since 0.26, so its errors have no name to rely on
        if not hasattr(error, "format_message"):
            raise
        # Named in passing, an option may stand without its value.
        return "" if not whole and "requires" in error.format_message() else error.format_message()
    extra = [word for word in extra if word != "..." and not context.allow_extra_args]
    if extra:
        return f"unexpected argument {extra[0]!r}"
    complete = whole and not {"...", "--help"} & set(argv)
    missing = [param.name for param in command.params if param.required and given.get(param.name) in (None, ())]
    return f"without {missing}" if complete and missing else ""


def deckbench_words(argv: Sequence[str]) -> list[str] | None:
    """The arguments that DeckBench gets of a command line, or None when it is another program's."""
    words = list(argv)
    if words and words[0] == "sudo":
        words = words[1:]
    if words[:1] == ["deckbench"]:
        return words[1:]
    if "deckbench" in words[1:] and words[words.index("deckbench") - 1] == "-m":
        return words[words.index("deckbench") + 1 :]
    if words[:1] == ["nox"] and "--" in words:
        session = words[words.index("-s") + 1]
        return [NOX_VERBS.get(session, session), *words[words.index("--") + 1 :]]
    return None


@pytest.mark.parametrize("page", [*PAGES, *CHINESE], ids=name_of)
def test_verbs_and_options_exist(page: Path) -> None:
    blocks, passing = block_commands(page, name_of(page)), spans(page, name_of(page))
    found = []
    for command in [*blocks, *passing]:
        words = deckbench_words(command.argv)
        if words and words[0] != "tests":
            found.append((command, problem(words, whole=command in blocks)))
    assert not [f"{command}\n  {wrong}" for command, wrong in found if wrong]


def test_nox_sessions_exist() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = {
        *re.findall(r'nox\.session\(.*?name="([\w-]+)"', noxfile),
        *re.findall(r"^def (\w+)\(session", noxfile, re.M),
    }
    for command in every_command([*PAGES, *CHINESE]):
        if command.argv[0] == "nox" and "-s" in command.argv:
            named = command.argv[command.argv.index("-s") + 1 :]
            named = named[: named.index("--")] if "--" in named else named
            assert {word for word in named if not word.startswith("-")} <= sessions, str(command)


@pytest.mark.parametrize("page", [*PAGES, *CHINESE], ids=name_of)
def test_commands_stand_in_blocks_that_are_read(page: Path) -> None:
    assert not stray_lines(page)


def test_links_lead_somewhere() -> None:
    dead = []
    for page in [*PAGES, *CHINESE, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.partition("#")[0]).exists():
                dead.append(f"{name_of(page)}: {target}")
    assert not dead


@pytest.mark.parametrize("page", [*PAGES, *CHINESE], ids=name_of)
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:harness|tests|benchmarks|tasks)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_room_is_on_a_floor() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    floors = set(re.findall(r"\w+", page.partition("## Floors")[2].split("```")[1]))
    rooms = {path.stem for path in (ROOT / "harness/deckbench").iterdir() if path.suffix in {".py", ""}}
    assert rooms - {"__init__", "__main__", "__pycache__", "_data"} <= floors


def test_one_version_everywhere() -> None:
    from deckbench import __version__

    for name, line in (("CITATION.cff", f"version: {__version__}"), ("CHANGELOG.md", f"## [{__version__}] - ")):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert any(written.startswith(line) for written in text.splitlines()), name


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("retrain --model m", "there is no command 'retrain'"),
        ("pool verify p", "there is no command 'verify'"),
        ("train --model m --dataa d", "--dataa"),
        ("train --model m", "data"),
        ("build t --pool p --out", "--out"),
        ("pool check one two", "unexpected argument 'two'"),
    ],
)
def test_a_wrong_command_is_noticed(words: str, wrong: str) -> None:
    assert wrong in problem(words.split(), whole=True)


def test_the_smallest_family_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import deckbench.models
    from deckbench.answer import Question
    from deckbench.models.families import resolve

    blocks = fenced_blocks(ROOT / "docs/adding-a-model.md")
    code = next("\n".join(line for _, line in block.lines) for block in blocks if block.language == "python")
    (tmp_path / "always_a").mkdir()
    (tmp_path / "always_a/__init__.py").touch()
    (tmp_path / "always_a/family.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(deckbench.models, "__path__", [*deckbench.models.__path__, str(tmp_path)])
    found = resolve("always-a")
    answer = found.family.load(found, "cpu", "auto").answer(Image.new("RGB", (8, 8)), [Question("?", "choice", 1)])
    assert [one.text for one in answer] == ["A"]


# -- running them ------------------------------------------------------------------------------------------------------


class Shell:
    """Runs `deckbench` commands in forks of one process that has torch imported already."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.docs.fork_server"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
        )

    def run(self, argv: Sequence[str], folder: Path) -> tuple[int, str]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([str(folder), *argv]) + "\n")
        self.process.stdin.flush()
        code, output = json.loads(self.process.stdout.readline())
        return code, output

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("the pages train and run models; torch is not installed")
    shell = Shell()
    yield shell
    shell.close()


def smaller(argv: list[str]) -> list[str]:
    """The same command with less to do."""
    verb = " ".join(argv[:2]) if argv[0] in {"pool", "models"} else argv[0]
    words = list(argv)
    if verb == "pool synth" and "--frames" in words:
        words[words.index("--frames") + 1] = "32"
    for option, value in SMALLER.get(verb, ()):
        key = value.partition("=")[0] if option == "--set" else option
        if not any(word == key or word.startswith(f"{key}=") for word in words):
            words += [option, value]
    return words


def session(page: Path, folder: Path, shell: Shell, inputs: Path | None) -> None:
    """Run the commands of a page in `folder`, in order; what it does not make itself is copied from `inputs`."""
    for command in block_commands(page, name_of(page)):
        words = deckbench_words(command.argv)
        if command.skipped or command.argv[0] == "nox" or (words is None and command.argv[0] not in RUN_TOO):
            continue
        if inputs is not None:
            provide(command.argv, inputs, folder)
        if words is None:
            subprocess.run([RUN_TOO[command.argv[0]], *command.argv[1:]], cwd=folder, check=True, env=ENVIRONMENT)
            continue
        code, output = shell.run(smaller(words), folder)
        assert code == command.exit_code, f"{command}\nexit code {code}\n{output[-3000:]}"


def provide(argv: Sequence[str], inputs: Path, folder: Path) -> None:
    """Copy what a command reads and what is not there: any path among its words but the one after --out."""
    outputs = {argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "--out"}
    paths = {part for word in argv if word not in outputs for part in (word.partition(":")[0], word.rpartition("=")[2])}
    for path in sorted(paths, key=len):  # a folder before what lies in it
        source, target = inputs / path, folder / path
        if not path or path.startswith(("/", ".")) or not source.exists() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """Everything that a lab has which followed the README: pool, datasets, adapters, answers."""
    folder = tmp_path_factory.mktemp("lab")
    code, output = shell.run(smaller(["pool", "synth", "pools/demo"]), folder)
    assert code == 0, output
    lab_pool(folder / "pools/demo", folder / "pools/mine")
    shutil.copy(next((folder / "pools/mine/images").iterdir()), folder / "frame.jpg")
    shutil.copy(ROOT / "tasks/ontology/ot2.yaml", folder / "mine.yaml")
    for name in ("tasks", "containers"):
        (folder / name).symlink_to(ROOT / name)
    make_tree(folder / "train_v4")
    session(ROOT / "README.md", folder, shell, None)
    return folder


def lab_pool(synthetic: Path, pool: Path) -> None:
    """A pool as a lab has it, from a synthetic one: no frames.csv, and file names with date and time."""
    for name in ("images", "labels"):
        (pool / name).mkdir(parents=True)
        for file in sorted((synthetic / name).iterdir()):
            number, frame = re.fullmatch(r"s(\d+)_f(\d+)", file.stem).groups()  # type: ignore[union-attr]
            shutil.copy(file, pool / name / f"deck_20260301_{int(number):02d}00{int(frame):02d}{file.suffix}")
    shutil.copy(synthetic / "dataset.yaml", pool)


@pytest.mark.slow
def test_the_readme_runs(lab: Path) -> None:
    """The session itself is the fixture; here, what it promises to leave behind."""
    for name in (
        "pools/mine/frames.csv",
        "data/S1_and_S2/train.jsonl",
        "adapters/S2/manifest.json",
        "results/site/index.html",
    ):
        assert (lab / name).is_file(), name


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=name_of)
def test_a_page_runs(page: Path, lab: Path, shell: Shell, tmp_path: Path) -> None:
    session(page, tmp_path, shell, lab)
