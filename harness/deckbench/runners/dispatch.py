"""From a verb's command line to a `Job`: which image, what it may read, where its result goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.artifact import check_name
from deckbench.containers.spec import Image
from deckbench.errors import DeckBenchError, InputError
from deckbench.machine import hardware
from deckbench.machine.daemon import connect, failures
from deckbench.machine.facts import printable, reason_of
from deckbench.models.families import split_path
from deckbench.predictions import PredictionFiles
from deckbench.progress import say
from deckbench.runners.job import IN, OUT, Job
from deckbench.runners.kinds import Kind, Option
from deckbench.runners.paths import Inputs, absolute, add_data, add_pool, container_path, server_access, split_weight
from deckbench.runners.select_image import image_for, machine_of, models_of

if TYPE_CHECKING:
    from docker import DockerClient

RUNNERS = ("local", "docker", "auto")
ENDPOINT = "endpoint:"
LEAST_GIB = 0.006  # docker refuses less than 6 MiB


@dataclass(frozen=True)
class Target:
    """Where a step is to run. runner: one of RUNNERS. host: `ssh://USER@HOST`. image: a name in containers.toml."""

    runner: str = "local"
    host: str | None = None
    image: str | None = None
    limits: str | None = None

    @property
    def is_local(self) -> bool:
        return self.runner == "local" and self.host is None


@dataclass
class Mounts:
    """What a step reads and writes. output: in the container. extra: further outputs (there, on this machine)."""

    image: Image
    output: str
    inputs: Inputs = field(default_factory=Inputs)
    extra: list[tuple[str, Path]] = field(default_factory=list)


def check_target(target: Target) -> None:
    """Raises InputError for an unknown runner, and for options that need a container where there is none."""
    if target.runner not in RUNNERS:
        raise InputError(f"the runner {target.runner!r} is not known", "--runner", f"one of: {', '.join(RUNNERS)}")
    if target.is_local and (target.image or target.limits):
        what = "a step that runs without a container has no image and no limits"
        raise InputError(what, "--image" if target.image else "--limits", "add --runner docker")


def dispatch(verb: str, options: Sequence[Option], target: Target) -> int | None:
    """Run a verb in a container, if that is its target.

    Args:
        verb: Its name on the command line.
        options: All that were given or have a default; the output among them.
        target: Where it is to run.

    Returns:
        The exit code of the step, or None: the caller is to run it itself, without a container.

    Raises:
        DeckBenchError: A container cannot do what is asked, or the daemon or the machine fails.
    """
    for option in options:
        if option.kind in {Kind.OUTPUT, Kind.WORK_FOLDER, Kind.EXTRA_OUTPUT} and option.value is not None:
            check_name(Path(option.value))
    if target.is_local or (target.runner == "auto" and target.host is None and not is_available(options, target)):
        recover_output(Path(output_of(options).value))
        return None
    from deckbench.runners.local.container import check_user_ids

    client = connect(target.host)
    try:
        with failures("asking the daemon", target.host):
            info = client.info()
        check_user_ids(info)
        machine = machine_of(info, local=target.host is None)
        job = job_of(verb, options, image_for(models_of(options), machine, target.image), target)
        if target.host is None:
            from deckbench.runners.local.container import run_job

            return run_job(job, client)
    finally:
        client.close()
    from deckbench.runners.remote.run import run_job_at

    return run_job_at(job, target.host)


def recover_output(output: Path) -> None:
    """Before a step runs without a container: take over what a containerised one left. Not in one of its ranks."""
    from deckbench.runners.local.staging import Staging

    if hardware.container() is None and "RANK" not in os.environ and Staging(output.absolute()).folder.is_dir():
        from deckbench.runners.local.cleanup import recover

        recover(output)


def is_available(options: Sequence[Option], target: Target) -> bool:
    """Whether `--runner auto` means a container: a daemon answers, has the image and can run it. Says which it is."""
    try:
        import docker.errors
    except ModuleNotFoundError:
        say("runner: local; the Python package docker is not installed")
        return False

    from deckbench.runners.local.container import check_image, check_socket

    client: DockerClient | None = None
    try:
        client = connect(timeout=20)
        check_socket(client)
        with failures("asking the daemon"):
            info = client.info()
        image = image_for(models_of(options), machine_of(info, local=True), target.image)
        check_image(image, info)
        client.images.get(image.tag)
    except docker.errors.ImageNotFound:
        say(f"runner: local; the docker daemon has no image {image.tag}")
        return False
    except (DeckBenchError, docker.errors.DockerException, OSError) as error:
        say(f"runner: local; {printable(error.what) if isinstance(error, DeckBenchError) else reason_of(error)}")
        return False
    finally:
        if client is not None:
            client.close()
    say(f"runner: docker, {image.tag}")
    return True


def output_of(options: Sequence[Option]) -> Option:
    """The option that says what a command writes."""
    return next(option for option in options if option.kind in {Kind.OUTPUT, Kind.WORK_FOLDER})


def job_of(verb: str, options: Sequence[Option], image: Image, target: Target) -> Job:
    """The job of a command line.

    Args:
        verb: Its name on the command line.
        options: All that were given or have a default; the output among them.
        image: What it runs in.
        target: Its host and limits are read.

    Returns:
        The job: the command as the container gets it, its mounts, its network and its limits.

    Raises:
        InputError: A container cannot do what is asked, or a file that the options name is wrong.
    """
    output = output_of(options)
    mounts = Mounts(image, output=f"{OUT}/{Path(absolute(Path(output.value))).name}")
    flags: list[str] = []
    arguments: list[str] = []
    for option in options:
        value = None if option.value is None else value_inside(option, mounts)
        (flags if option.flag else arguments).extend(argv(option.flag, value))
    add_training_files(options, mounts.inputs)
    served = [ref for ref in models_of(options) if ref.removeprefix("blind:").startswith(ENDPOINT)]
    env, loopback = dict[str, str](), False
    for ref in served:
        variables, here = server_access(ref.removeprefix("blind:"))
        env |= variables
        loopback |= here
    if loopback and target.host is not None:
        fix = "give it an address that the other machine can reach, or remove --host"
        raise InputError("the server is on this machine, the step on another", served[0], fix)
    gpus = next((option.value for option in options if option.kind is Kind.GPUS), None)
    return Job(
        image=image,
        command=(verb, *flags, *(["--", *arguments] if arguments else [])),
        inputs=mounts.inputs.mounts(),
        output=Path(output.value),
        inside=mounts.output,
        env=env,
        network=bool(served),
        loopback=loopback,
        in_place=output.kind is Kind.WORK_FOLDER,
        more=tuple(mounts.extra),
        gpus=tuple(gpus.split(",")) if gpus else (),
        cwd=f"{IN}{Path.cwd()}".rstrip("/"),
        **limits_of(target.limits),
    )


def argv(flag: str, value: Any) -> list[str]:
    """An option as it stands on a command line."""
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    texts = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
    return [f"{flag}={text}" if flag else text for text in texts]


def value_inside(option: Option, mounts: Mounts) -> Any:
    """An option's value as the step gets it; what it refers to is added to the mounts.

    An input that does not exist stays as it was written: the step reports it. Raises InputError where a container
    cannot give what is asked.
    """
    value, inputs = option.value, mounts.inputs
    match option.kind:
        case None | Kind.TEXT:
            return value
        case Kind.OUTPUT | Kind.WORK_FOLDER:
            return mounts.output
        case Kind.EXTRA_OUTPUT:
            place = f"{OUT}/.{option.name}"
            mounts.extra.append((place, Path(value)))
            return place
        case Kind.INPUT | Kind.POOL | Kind.DATA | Kind.PREDICTIONS | Kind.LINKS:
            many = isinstance(value, list | tuple)
            return [mounted(one, option.kind, inputs) for one in value] if many else mounted(value, option.kind, inputs)
        case Kind.SPLIT:
            from deckbench.split import artifact_of

            folder = artifact_of(value)
            return value if folder is None else mounted(folder, Kind.INPUT, inputs)
        case Kind.TASK:
            from deckbench.task import own_task

            folder = own_task(value)
            return value if folder is None else mounted(folder, Kind.INPUT, inputs)
        case Kind.MODEL:
            before, path, after = split_path(value)
            return value if path is None else f"{before}{mounted(path, Kind.INPUT, inputs)}{after}"
        case Kind.WEIGHTED_DATA:
            parts = [split_weight(text) for text in value]
            return [f"{mounted(path, Kind.DATA, inputs)}{weight}" for path, weight in parts]
        case Kind.RENAMED_FOLDER:
            from deckbench.build.importing.places import parse_roots

            return [f"{old}={mounted(new, Kind.INPUT, inputs)}" for old, new in parse_roots(value)]
        case Kind.NAMED_POOL:
            return [named_pool(text, inputs) for text in value]
        case Kind.SUITE:
            add_suite(value, inputs)
            return value
        case Kind.TRAIN_CONFIG:
            return mounted(value, Kind.INPUT, inputs)
        case Kind.TRAIN_SETTINGS:  # what they hold is seen to together with the config: `add_training_files`
            return value
        case Kind.CACHE:
            raise no_cache(option.flag)
        case Kind.GPUS:
            return renumbered(value, mounts.image)
        case Kind.MACHINES:
            if value == 1:  # --nnodes 1: this machine alone
                return value
            what = "several machines cannot work together out of containers: a step there has no network"
            raise InputError(what, option.flag, "run it without a container, or on one machine")
    raise AssertionError(f"no rule for {option.kind}")


def named_pool(text: str, inputs: Inputs) -> str:
    """Mount the pool of `POOL` or `NAME=POOL`."""
    name, equals, place = text.partition("=")
    if not equals or Path(text).exists():
        return mounted(text, Kind.POOL, inputs)
    return f"{name}={mounted(place, Kind.POOL, inputs)}"


def mounted(value: Path | str, kind: Kind, inputs: Inputs) -> str:
    """Mount an existing path and return what the command says for it; any other value stays as it was written."""
    path = Path(value)
    if not path.exists():
        return str(value)
    if kind is Kind.POOL:
        return rewritten(path, add_pool(inputs, path))
    if kind is Kind.DATA and path.is_file():
        return rewritten(path, add_data(inputs, path))
    if kind is Kind.PREDICTIONS:
        files = PredictionFiles(path)
        for beside in (files.manifest, files.judged):
            if beside.is_file():
                inputs.add(beside, str(Path(container_path(path)).with_name(beside.name)))
    return rewritten(path, inputs.add(path))


def rewritten(path: Path, place: str) -> str:
    """A relative path stays as it was written where it leads to the same file there."""
    return place if path.is_absolute() or f"{IN}{absolute(path)}" != place else str(path)


def renumbered(gpus: str, image: Image) -> str:
    """`--gpus 2,3` in a container that is given these two alone: `0,1`. Raises InputError for an image without GPU."""
    if image.gpu == "none":
        raise InputError(f"the image {image.name} uses no GPU", "--gpus", "choose another --image, or --nproc")
    return ",".join(str(number) for number, _ in enumerate(gpus.split(","))) if image.gpu == "devices" else gpus


def no_cache(where: str) -> InputError:
    """Why a step cannot keep features in a folder besides its output."""
    what = "a step in a container writes its output alone, so it can keep no features in another folder"
    return InputError(what, where, "remove it (`run` keeps them in its work folder), or --runner local")


def add_training_files(options: Sequence[Option], inputs: Inputs) -> None:
    """Mount the DeepSpeed file that a training config or its overrides name. Raises InputError for a feature cache."""
    given = {option.kind: option.value for option in options}
    if not given.keys() & {Kind.TRAIN_CONFIG, Kind.TRAIN_SETTINGS}:
        return
    from deckbench.train.config import read_source
    from deckbench.yamlfile import parse_settings

    config = given.get(Kind.TRAIN_CONFIG)
    try:
        values = dict(read_source(config).values) if config is not None else {}
    except DeckBenchError:  # the step reports it
        values = {}
    values |= parse_settings(given.get(Kind.TRAIN_SETTINGS) or [])
    if values.get("feature_cache") is not None:
        raise no_cache("feature_cache")
    name = str(values.get("deepspeed") or "")
    folders = [Path(), *([] if config is None else [config.parent, config.parent.parent])]
    file = next((folder / name for folder in folders if name and (folder / name).is_file()), None)
    if file is not None:
        inputs.add(file, f"{IN}{absolute(file)}")


def add_suite(ref: str, inputs: Inputs) -> None:
    """Mount a suite of one's own: its yaml, and the pools, models, tasks, ontologies and question banks it names."""
    from deckbench.suite import load_suite, task_in
    from deckbench.task import own_task

    suite, file = load_suite(ref)
    for model in [*(model.ref for model in suite.models), *suite.baselines]:
        _, path, _ = split_path(model)
        if path is not None:
            inputs.add_as_written(path)
    if not Path(ref).is_file():  # an embedded one is in the image, with all that it names
        return
    inputs.add_as_written(Path(ref))
    beside = file.parent
    for pool in suite.pools.values():
        if pool.path is not None and (beside / pool.path).exists():
            place = add_pool(inputs, beside / pool.path)
            if place != f"{IN}{absolute(beside / pool.path)}" or Path(pool.path).is_absolute():
                inputs.add_as_written(beside / pool.path)
    for spec in suite.data.values():
        task = own_task(task_in(file, spec.task))
        for path in (task, *(beside / name for name in (spec.ontology, spec.qa) if name)):
            if path is not None and path.exists():
                inputs.add_as_written(path)


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
