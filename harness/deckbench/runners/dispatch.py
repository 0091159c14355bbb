"""From a verb's command line to a `Job`: which image, what it may see, where its result goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.containers.spec import Image
from deckbench.errors import DeckBenchError, InputError
from deckbench.machine import hardware
from deckbench.machine.daemon import connect, failures
from deckbench.progress import say
from deckbench.runners.job import IN, OUT, Job
from deckbench.runners.paths import Inputs, add_data, add_pool, inside, plain, server, split_model
from deckbench.runners.select_image import image_for, machine_of, models_of

if TYPE_CHECKING:
    from docker import DockerClient

RUNNERS = ("local", "docker", "auto")
ENDPOINT = "endpoint:"
LEAST_GIB = 0.006  # docker refuses less than 6 MiB


@dataclass(frozen=True)
class Asked:
    """Where a step is to run. runner: one of RUNNERS. host: `ssh://USER@MACHINE`. image: a name in containers.toml."""

    runner: str = "local"
    host: str | None = None
    image: str | None = None
    limits: str | None = None

    @property
    def is_local(self) -> bool:
        return self.runner == "local" and self.host is None


@dataclass(frozen=True)
class Option:
    """One option or argument of a command line. flag: `--data`, empty for an argument."""

    name: str
    flag: str
    value: Any


def check_asked(asked: Asked) -> None:
    """Raises InputError for a runner that is none, and for options that need a container where there is none."""
    if asked.runner not in RUNNERS:
        raise InputError(f"the runner {asked.runner!r} is not known", "--runner", f"one of: {', '.join(RUNNERS)}")
    if asked.runner == "local" and asked.host is None and (asked.image or asked.limits):
        what = "a step on this machine itself has no image and no limits"
        raise InputError(what, "--image" if asked.image else "--limits", "add --runner docker")


def run_elsewhere(verb: str, options: list[Option], asked: Asked) -> int | None:
    """Run a verb where it was asked to run; its exit code, or None: it is to run here, without a container.

    options: all that were given or have a default. Raises DeckBenchError.
    """
    given = {option.name: option.value for option in options}
    output = output_of(verb, given)
    if asked.is_local or (asked.runner == "auto" and asked.host is None and not auto(verb, given, asked)):
        stay(output)
        return None
    client = connect(asked.host)
    try:
        with failures("asking the daemon", asked.host):
            info = client.info()
        machine = machine_of(info, here=asked.host is None)
        job = job_of(verb, options, image_for(verb, given, machine, asked.image), asked)
        if asked.host is None:
            from deckbench.runners.local.container import run_job

            return run_job(job, client)
    finally:
        client.close()
    from deckbench.runners.remote.run import run_job_at

    return run_job_at(job, asked.host)


def stay(output: Path) -> None:
    """Before a step runs without a container: take what a containerised one left behind. Not in one of its ranks."""
    from deckbench.runners.local.staging import Staging

    if hardware.container() is None and "RANK" not in os.environ and Staging(output.absolute()).folder.is_dir():
        from deckbench.runners.local.cleanup import recover

        recover(output)


def auto(verb: str, given: Mapping[str, Any], asked: Asked) -> bool:
    """Whether `--runner auto` means a container: a daemon answers, has the image and can run it. Says which it is."""
    import docker.errors

    from deckbench.runners.local.container import check_image, check_socket

    client: DockerClient | None = None
    try:
        client = connect(timeout=20)
        check_socket(client)
        with failures("asking the daemon"):
            info = client.info()
        image = image_for(verb, given, machine_of(info, here=True), asked.image)
        check_image(image, info)
        client.images.get(image.tag)
    except docker.errors.ImageNotFound:
        say(f"runner: this machine itself; its docker daemon has no image {image.tag}")
        return False
    except (DeckBenchError, docker.errors.DockerException, OSError) as error:
        reason = error.what if isinstance(error, DeckBenchError) else str(error)
        say(f"runner: this machine itself; {reason.splitlines()[0][:200]}")
        return False
    finally:
        if client is not None:
            client.close()
    say(f"runner: docker, {image.tag}")
    return True


def output_of(verb: str, given: Mapping[str, Any]) -> Path:
    """What a command writes. Raises InputError where the suite that names it is wrong."""
    if verb == "run":
        from deckbench.suite import load_suite

        return Path(given["work"]) if given["work"] else Path("work") / load_suite(given["suite"])[0].name
    if verb == "train" and given["out"] is None:
        return Path("adapters", f"{Path(given['model']).name}-{Path(given['data']).resolve().name}")
    return Path(given["out"])


def job_of(verb: str, options: list[Option], image: Image, asked: Asked) -> Job:
    """The job of a command. Raises InputError where a container cannot do what is asked."""
    given = {option.name: option.value for option in options}
    inputs, env = Inputs(), dict[str, str]()
    output = output_of(verb, given)
    name = Path(plain(output)).name
    words: list[str] = []
    arguments: list[str] = []
    more: list[tuple[str, Path]] = []
    for option in options:
        value = option.value
        if option.name in {"out", "work"}:
            value = f"{OUT}/{name}"
        elif option.name == "plots" and value is not None:
            more.append((f"{OUT}/.plots", value))
            value = f"{OUT}/.plots"
        elif option.name == "gpus" and value is not None:
            value = cards(value, image)
        elif value is not None:
            value = seen(option, inputs)
        texts = as_words(option.flag, value)
        (words if option.flag else arguments).extend(texts)
    see_beside(verb, given, inputs)
    served = [ref for ref in models_of(verb, given) if ref.removeprefix("blind:").startswith(ENDPOINT)]
    loopback = False
    for ref in served:
        variables, here = server(ref.removeprefix("blind:"))
        env |= variables
        loopback |= here
    if loopback and asked.host is not None:
        fix = "give it an address that the other machine can reach, or leave --host away"
        raise InputError("the server is on this machine, the step on another", served[0], fix)
    return Job(
        image=image,
        command=(verb, *words, *(["--", *arguments] if arguments else [])),
        inputs=inputs.mounts(),
        output=output,
        inside=f"{OUT}/{name}",
        env=env,
        network=bool(served),
        loopback=loopback,
        in_place=verb == "run",
        more=tuple(more),
        gpus=tuple(given["gpus"].split(",")) if given.get("gpus") else (),
        cwd=f"{IN}{Path.cwd()}".rstrip("/"),
        **limits_of(asked.limits),
    )


def as_words(flag: str, value: Any) -> list[str]:
    """An option as words of a command line."""
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    texts = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
    return [word for text in texts for word in ([f"{flag}={text}"] if flag else [text])]


def seen(option: Option, inputs: Inputs) -> Any:
    """An option's value as the container is to get it; what it names is added to `inputs`.

    What is not there stays as it was written: the step says so itself.
    """
    name, value = option.name, option.value
    if name in {"model"}:
        before, path, after = split_model(value)
        return value if path is None else f"{before}{word(path, inputs)}{after}"
    if name not in {"pool", "data", "adapter", "init", "config", "ontology", "qa", "predictions"}:
        return value
    path = Path(value)
    if not path.exists():
        return value
    if name == "pool":
        return rewritten(path, add_pool(inputs, path))
    if name == "data" and path.is_file():
        return rewritten(path, add_data(inputs, path))
    if name == "predictions":
        manifest = path.with_name(f"{path.stem}.manifest.json")
        if manifest.is_file():
            inputs.add(manifest, str(Path(inside(path)).with_name(manifest.name)))
    return word(path, inputs)


def word(path: Path, inputs: Inputs) -> str:
    """Add an existing path and return what the command says for it."""
    return rewritten(path, inputs.add(path))


def rewritten(path: Path, place: str) -> str:
    """A relative path stays as it was written where it leads to the same file there."""
    return place if path.is_absolute() or f"{IN}{plain(path)}" != place else str(path)


def cards(text: str, image: Image) -> str:
    """`--gpus 2,3` in a container that is given these two alone: `0,1`. Raises InputError for an image without GPU."""
    if image.gpu == "none":
        raise InputError(f"the image {image.name} uses no GPU", "--gpus", "choose another --image, or --nproc")
    return ",".join(str(number) for number, _ in enumerate(text.split(","))) if image.gpu == "devices" else text


def see_beside(verb: str, given: Mapping[str, Any], inputs: Inputs) -> None:
    """Add what the named files name themselves. Raises InputError for what a container cannot do."""
    if verb == "train":
        see_training(given, inputs)
    if verb == "run":
        see_suite(given["suite"], inputs)


def see_training(given: Mapping[str, Any], inputs: Inputs) -> None:
    """A training's DeepSpeed file is seen; what needs another folder or another machine is refused."""
    if given.get("nnodes", 1) > 1 or given.get("rendezvous"):
        what = "several machines cannot train together out of containers: a step there has no network"
        raise InputError(what, "--nnodes, --rendezvous", "train without a container, or on one machine")
    from deckbench.train.config import read_source

    config = given["config"]
    values = dict(text.partition("=")[::2] for text in given.get("settings") or [])
    try:
        source = read_source(config).values if config is not None else {}
    except DeckBenchError:  # the step says what is wrong with it
        source = {}
    if given.get("feature_cache") or values.get("feature_cache") or source.get("feature_cache"):
        what = "a step in a container writes its output alone, so it can keep no features in another folder"
        raise InputError(what, "feature_cache", "leave it out (`run` keeps them in its work folder), or --runner local")
    zero = values.get("deepspeed") or source.get("deepspeed")
    folders = [Path(), *([] if config is None else [config.parent, config.parent.parent])]
    file = next((folder / str(zero) for folder in folders if zero and (folder / str(zero)).is_file()), None)
    if file is not None:
        inputs.add(file, f"{IN}{plain(file)}")


def see_suite(ref: str, inputs: Inputs) -> None:
    """A suite of one's own, the pools and models that it names, its ontologies and question banks."""
    from deckbench.suite import load_suite

    suite, file = load_suite(ref)
    for model in [*(model.ref for model in suite.models), *suite.baselines]:
        _, path, _ = split_model(model)
        if path is not None:
            inputs.as_written(path)
    if not Path(ref).is_file():  # an embedded one is in the image, with all that it names
        return
    inputs.as_written(Path(ref))
    beside = file.parent
    for pool in suite.pools.values():
        if pool.path is not None and (beside / pool.path).exists():
            place = add_pool(inputs, beside / pool.path)
            if place != f"{IN}{plain(beside / pool.path)}" or Path(pool.path).is_absolute():
                inputs.as_written(beside / pool.path)
    for spec in suite.data.values():
        for name in (spec.ontology, spec.qa):
            if name and (beside / name).exists():
                inputs.as_written(beside / name)


def limits_of(text: str | None) -> dict[str, Any]:
    """`memory=24,minutes=90,pids=512` as fields of a Job. Raises InputError."""
    known = {"memory": "memory_gib", "minutes": "minutes", "pids": "pids"}
    found: dict[str, Any] = {}
    for part in (text or "").split(","):
        name, _, value = part.strip().partition("=")
        if not name:
            continue
        try:
            number = float(value)
            good = (name in known and 0 < number < float("inf")) or (name == "minutes" and number == 0)
        except ValueError:
            good = False
        if not good:
            fix = "write memory=GIB,minutes=N,pids=N, one of them or more"
            raise InputError(f"cannot read {part.strip()!r}", "--limits", fix)
        if name == "pids" and number != int(number):  # docker takes 0 for no limit
            raise InputError(f"{part.strip()!r} is no number of processes", "--limits", "give a whole number")
        if name == "memory" and number < LEAST_GIB:
            what = f"{part.strip()!r} is less than docker gives to any container"
            raise InputError(what, "--limits", f"give GiB, at least {LEAST_GIB:g}; a step takes some GiB")
        found[known[name]] = int(number) if name == "pids" else number
    return found
