"""The application: its groups of verbs, and the exit code of the process."""

import contextlib
import errno
import os
import re
import sys
from typing import Annotated, Any

import typer

from deckbench import __version__
from deckbench.errors import DeckBenchError, InputError, OutsideError

TRAINING = ("train", "run")  # verbs that need the extra `train`, which holds `models`

app = typer.Typer(
    name="deckbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help='Which vision-language model can be trusted to watch an Opentrons OT-2 and say "stop"?',
    epilog="Examples: deckbench run demo --work work/demo; deckbench run demo --runner docker",
)
pool_app = typer.Typer(
    no_args_is_help=True,
    help="Pools of frames: render, import, check, group, split.",
    epilog="Example: deckbench pool check pools/mine",
)
models_app = typer.Typer(
    no_args_is_help=True,
    help="Known models: ls, check numerical parity, pretrain.",
    epilog="Example: deckbench models ls",
)
containers_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Container images: ls, lock, build, verify, clean up.",
    epilog="Example: deckbench containers wheels x86-cpu && deckbench containers build x86-cpu",
)
app.add_typer(pool_app, name="pool")
app.add_typer(models_app, name="models")
app.add_typer(containers_app, name="containers")


def version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options that stand before the verb."""


def left_to_launcher(error: DeckBenchError) -> bool:
    """In a rank of `train`: leave the error to the launcher, which says it once."""
    from deckbench.train.launch import report_error

    return report_error(error)


def verb_of(words: list[str]) -> str:
    """`pool synth OUT` -> `pool synth`, from the words after the program's name."""
    groups = {group.name for group in app.registered_groups}
    return " ".join(words[: 2 if words[:1] and words[0] in groups else 1])


def missing_extra(error: ModuleNotFoundError, verb: str) -> DeckBenchError:
    """An import that failed, as the error to show; raised again where no extra of DeckBench would help."""
    from deckbench.extras import EXTRAS, is_installed, missing

    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS or is_installed(package):
        raise error
    return missing(package, verb, "train" if verb in TRAINING and EXTRAS[package] == "models" else None)


def check_words(words: list[str]) -> None:
    """Refuse arguments that are no text: no manifest could name them. Raises InputError."""
    for word in words:
        if not word.isprintable() and re.search("[\0\ud800-\udfff]", word):
            shown = word.encode("utf-8", "backslashreplace").decode()
            raise InputError("the argument is not valid UTF-8", shown, "rename the file, or write the text in UTF-8")


def outside(error: Exception) -> DeckBenchError | None:
    """What the file system or the memory refused in the middle of a step, as the error to show; None for a bug."""
    if isinstance(error, MemoryError):
        return OutsideError("out of memory", None, "give a smaller input, or free memory, then rerun")
    if isinstance(error, UnicodeEncodeError):
        text = error.object[max(0, error.start - 20) : error.end + 20].encode("utf-8", "backslashreplace").decode()
        return InputError(f"a text holds half a surrogate pair: {text!r}", None, "fix the input that holds it")
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return None
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    wrong = error.errno in {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
    kind = InputError if wrong else OutsideError
    return kind(f"cannot be read or written ({error.strerror})", place, "check the path, its permissions and the disk")


def main() -> None:
    """What `deckbench` runs: `run_verb`, and what Ctrl-C says."""
    try:
        run_verb()
    except KeyboardInterrupt:
        print("deckbench: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def run_verb() -> None:
    """Exit codes: 0 done, 2 wrong input, 3 outside failure, 4 the answer is no, 1 a bug, 130 interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    stream: Any
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # another stream, or a closed one
            stream.reconfigure(errors="backslashreplace")  # a path or an answer may hold what has no UTF-8
    try:
        check_words(sys.argv[1:])
        app(standalone_mode=True)
    except DeckBenchError as error:
        sys.exit(report(error))
    except BrokenPipeError:
        sys.exit(0)
    except ModuleNotFoundError as error:
        sys.exit(report(missing_extra(error, verb_of(sys.argv[1:]))))
    except (OSError, UnicodeEncodeError, MemoryError) as error:
        if (shown := outside(error)) is None:
            raise
        sys.exit(report(shown))
    except SystemExit as ended:  # typer turns Ctrl-C into one
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            raise KeyboardInterrupt from ended
        raise


def report(error: DeckBenchError) -> int:
    """Print an error, unless this is a rank of `train`, whose launcher does; returns the exit code."""
    if not ("RANK" in os.environ and left_to_launcher(error)):
        print(f"deckbench: {error.message()}", file=sys.stderr)
    return error.exit_code
