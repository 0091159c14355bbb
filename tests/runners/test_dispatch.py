"""From a command line to a job: what the container sees, and what it cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from deckbench.containers.spec import load_images
from deckbench.errors import InputError
from deckbench.models.families import served_as, split_path
from deckbench.runners.dispatch import (
    Mounts,
    Target,
    check_target,
    dispatch,
    is_available,
    job_of,
    limits_of,
    value_inside,
)
from deckbench.runners.job import GIB, Job
from deckbench.runners.kinds import Kind, Option
from deckbench.runners.paths import Inputs
from tests.runners.options import options

IMAGES = load_images()


def job(verb: str, image: str = "x86-cpu", target: Target = Target("docker"), **given: Any) -> Job:
    return job_of(verb, options(verb, **given), IMAGES[image], target)


def seen(made: Job) -> dict[str, str]:
    return {place: str(path) for place, path in made.inputs}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder the caller stands in."""
    place = tmp_path / "lab"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def folders(*names: str) -> None:
    for name in names:
        Path(name).mkdir(parents=True)


def test_relative_paths_stay_as_they_were_written(here: Path) -> None:
    folders("data/S1", "adapters/S1")
    given: dict[str, Any] = {"adapter": Path("adapters/S1"), "data": Path("data/S1"), "out": Path("answers/a.csv")}
    made = job("infer", model="tiny-glm4v", **given, limit=3)
    paths = ("--data=data/S1", "--out=/out/a.csv", "--adapter=adapters/S1")
    assert made.command == ("infer", "--model=tiny-glm4v", *paths, "--split=test", "--limit=3")
    assert made.cwd == f"/in{here}"
    assert seen(made) == {f"/in{here}/adapters/S1": "adapters/S1", f"/in{here}/data/S1": "data/S1"}
    assert (made.output, made.inside, made.network) == (Path("answers/a.csv"), "/out/a.csv", False)


def test_absolute_paths_and_links_lead_to_their_place(here: Path, tmp_path: Path) -> None:
    folders("../store/S1")
    Path("latest").symlink_to(tmp_path / "store" / "S1")
    for written in (tmp_path / "store" / "S1", Path("latest")):
        made = job("build", task="ot2-guided@1", pool=Path("nowhere"), out=Path("o"), ontology=written)
        assert f"--ontology=/in{tmp_path}/store/S1" in made.command
        assert made.command[-2:] == ("--", "ot2-guided@1")
        assert "--pool=nowhere" in made.command  # the step itself says that it is not there
        assert seen(made) == {f"/in{tmp_path}/store/S1": str(written)}


def test_models_of_all_kinds(here: Path) -> None:
    folders("models/phi", "data/S1")
    assert split_path("models/phi?num_crops=4") == ("", Path("models/phi"), "?num_crops=4")
    assert split_path("blind:models/phi") == ("blind:", Path("models/phi"), "")
    assert split_path("nearest:data/S1") == ("nearest:", Path("data/S1"), "")
    for ref in (
        "tiny-glm4v",
        "rule:gold",
        "majority",
        "endpoint:gpt",
        "glm-4v-9b",
        "no-such",
        "phi-3-vision?num_crops=4",
    ):
        assert split_path(ref) == (ref, None, "")
    made = job("infer", model="blind:models/phi?num_crops=4", data=Path("data/S1"), out=Path("a.csv"))
    assert made.command[1] == "--model=blind:models/phi?num_crops=4"
    assert f"/in{here}/models/phi" in seen(made)
    for ref, name in (("tiny-phi3v", "tiny-phi3v"), ("blind:tiny-phi3v", "tiny-phi3v"), ("rule:gold", "baselines"),
                      ("endpoint:x", "endpoint"), ("phi-3-vision?num_crops=4", "phi-3-vision")):  # fmt: skip
        assert served_as(ref) == name


def asked_of(*pictures: str) -> str:
    """A JSONL file's text: a question about each picture."""
    turns = [
        [{"role": "user", "content": "?", "image": name}, {"role": "assistant", "content": "A"}] for name in pictures
    ]
    return "".join(json.dumps({"messages": turn}) + "\n" for turn in turns)


def test_of_a_data_file_nothing_is_seen_but_its_pictures(here: Path) -> None:
    folders("images/day 1", ".ssh", "models")
    for name in (".ssh/id", "models/weights.bin", "images/day 1/a.jpg", "b.jpg", "secret.env"):
        Path(name).touch()
    Path("q.jsonl").write_text(asked_of("images/day 1/a.jpg", "b.jpg", "../c.jpg", "/etc/passwd", "gone/d.jpg"))
    made = job("infer", model="tiny-glm4v", data=Path("q.jsonl"), out=Path("a.csv"))
    assert "--data=q.jsonl" in made.command
    assert seen(made) == {f"/in{here}/{name}": name for name in ("q.jsonl", "b.jpg", "images/day 1")}

    Path("q.csv").write_text("image,question\nb.jpg,?\n")
    assert seen(job("infer", model="tiny-glm4v", data=Path("q.csv"), out=Path("a.csv"))) == {
        f"/in{here}/{name}": name for name in ("q.csv", "b.jpg")
    }


def test_a_data_file_that_cannot_be_read_is_refused_here(here: Path) -> None:
    Path("q.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"q\.jsonl:1"):
        job("infer", model="tiny-glm4v", data=Path("q.jsonl"), out=Path("a.csv"))


def test_of_a_yaml_nothing_is_seen_but_its_pool(here: Path, tmp_path: Path) -> None:
    folders("frames/images/train", "frames/labels", ".ssh", "../cam/images", "real")
    yaml = Path("pool.yaml")
    for text, expected in (
        ("path: frames\ntrain: images/train\nnames: [tip]\n", {"pool.yaml", "frames"}),
        (f"path: {tmp_path}/cam\ntrain: images\nnames: [tip]\n", {"pool.yaml", "../cam"}),
    ):
        yaml.write_text(text)
        made = job("build", task="t", pool=yaml, out=Path("o"))
        assert "--pool=pool.yaml" in made.command
        places = {os.path.normpath(f"/in{here}/{name}") for name in expected}
        assert places <= seen(made).keys()
        assert seen(made).keys() - places <= {f"{tmp_path}/cam"}
    Path("link").symlink_to("real")
    Path("real/images").mkdir()
    Path("real/pool.yaml").write_text("train: images\nnames: [tip]\n")
    made = job("build", task="t", pool=Path("link/pool.yaml"), out=Path("o"))
    assert f"--pool=/in{here}/real/pool.yaml" in made.command and f"/in{here}/real" in seen(made)


def test_a_file_of_a_dataset_brings_the_dataset(here: Path) -> None:
    folders("data/S1", "preds")
    Path("data/S1/manifest.json").write_text("{}")
    Path("data/S1/test.jsonl").touch()
    made = job("infer", model="tiny-glm4v", data=Path("data/S1/test.jsonl"), out=Path("a.csv"))
    assert seen(made) == {f"/in{here}/data/S1": "data/S1"}
    for name in ("a.csv", "a.manifest.json", "b.csv"):
        Path("preds", name).touch()
    made = job("score", predictions=Path("preds/a.csv"), out=Path("s.json"), data=Path("data/S1"), plots=Path("plots"))
    assert seen(made) == {f"/in{here}/{name}": name for name in ("data/S1", "preds/a.csv", "preds/a.manifest.json")}
    assert made.more == (("/out/.plots", Path("plots")),)
    Path("preds/a.judge.json").touch()
    again = job("score", predictions=Path("preds/a.csv"), out=Path("s.json"))
    assert f"/in{here}/preds/a.judge.json" in seen(again)
    assert "--plots=/out/.plots" in made.command


def test_links_that_leave_a_folder_are_seen_too(here: Path, tmp_path: Path) -> None:
    """As in a cache of downloaded models: a snapshot is a folder of links."""
    folders("hub/blobs", "hub/snapshots/1", "../far")
    for name in ("config", "weights"):
        Path("hub/blobs", name).write_text(name)
        Path("hub/snapshots/1", name).symlink_to(f"../../blobs/{name}")
    (tmp_path / "far" / "tokens").write_text("tokens")
    Path("hub/snapshots/1/tokens").symlink_to(tmp_path / "far" / "tokens")
    inputs = Inputs()
    inputs.add(Path("hub/snapshots/1"))
    assert dict(inputs.mounts()) == {
        f"/in{here}/hub/snapshots/1": Path("hub/snapshots/1"),
        f"/in{here}/hub/blobs/config": here.resolve() / "hub/blobs/config",
        f"/in{here}/hub/blobs/weights": here.resolve() / "hub/blobs/weights",
        str(tmp_path / "far" / "tokens"): tmp_path.resolve() / "far" / "tokens",
    }
    Path("hub/snapshots/1/bad").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="the image has its own files"):
        Inputs().add(Path("hub/snapshots/1"))


def test_a_pool_whose_yaml_leads_elsewhere(here: Path, tmp_path: Path) -> None:
    folders("pool", "../cam/images", "beside/images")
    Path("pool/data.yaml").write_text(f"train: {tmp_path}/cam/images\nval: ../beside/images\nnames: [tip]\n")
    made = job("build", task="t", pool=Path("pool"), out=Path("o"))
    assert {f"/in{here}/pool", f"{tmp_path}/cam", f"/in{here}/beside"} <= seen(made).keys()


def test_a_suite_of_one_s_own_brings_all_it_names(here: Path, tmp_path: Path) -> None:
    folders("suites", "pools/mine", "models/m", "banks", "mytask", "../labels")
    Path("mytask/task.yaml").touch()
    Path("suites/own.yaml").write_text(
        f"""
name: own
pools: {{mine: {{path: ../pools/mine}}}}
data: {{S2: {{task: ot2-guided@1, pool: mine, qa: ../banks}}, own: {{task: ../mytask, pool: mine}}}}
tests: [{{data: S2}}]
models: [{{ref: models/m}}]
baselines: [majority, 'rule:{tmp_path}/labels']
"""
    )
    made = job("run", suite="suites/own.yaml")
    assert made.command == ("run", "--work=/out/own", "--", "suites/own.yaml")
    assert (made.output, made.in_place) == (Path("work/own"), True)
    assert seen(made).keys() == {
        f"{tmp_path}/labels",
        *(f"/in{here}/{name}" for name in ("suites/own.yaml", "pools/mine", "models/m", "banks", "mytask")),
    }
    assert job("run", suite="demo").inputs == ()


def test_a_key_is_passed_on_and_the_network_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("server.yaml").write_text("model: m\nbase_url: http://10.0.0.7:8000/v1\nkey_env: LAB_KEY\n")
    monkeypatch.setenv("LAB_KEY", "a-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "no_proxy", "NO_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    made = job("infer", model="endpoint:server.yaml", data=Path("d"), out=Path("a.csv"))
    assert (made.network, made.loopback, dict(made.env)) == (True, False, {"LAB_KEY": "a-secret"})
    assert "a-secret" not in repr(made)
    Path("server.yaml").write_text("model: m\nbase_url: http://127.0.0.1:8000/v1\n")
    assert job("infer", model="blind:endpoint:server.yaml", data=Path("d"), out=Path("a.csv")).loopback
    with pytest.raises(InputError, match="the server is on this machine"):
        job("infer", target=Target(host="ssh://x"), model="endpoint:server.yaml", data=Path("d"), out=Path("a.csv"))
    monkeypatch.delenv("LAB_KEY")
    Path("server.yaml").write_text("model: m\nbase_url: http://10.0.0.7:8000/v1\nkey_env: LAB_KEY\n")
    with pytest.raises(InputError, match="LAB_KEY"):
        job("infer", model="endpoint:server.yaml", data=Path("d"), out=Path("a.csv"))


def test_trainings(here: Path) -> None:
    folders("data/S1", "configs")
    Path("configs/mine.yaml").write_text("deepspeed: ds.json\n")
    Path("configs/ds.json").write_text("{}")
    made = job("train", model="tiny-glm4v", data=Path("data/S1"), config=Path("configs/mine.yaml"), nproc=2,
               settings=["lr=1", "rank=4"], resume=True)  # fmt: skip
    assert made.output == Path("adapters/tiny-glm4v-S1")
    assert {"--set=lr=1", "--set=rank=4", "--resume", "--nproc=2", "--out=/out/tiny-glm4v-S1"} <= set(made.command)
    assert f"/in{here}/configs/ds.json" in seen(made)
    for given in ({"feature_cache": Path("f")}, {"settings": ["feature_cache=f"]}):
        with pytest.raises(InputError, match="can keep no features in another folder"):
            job("train", model="tiny-glm4v", data=Path("data/S1"), **given)
    for text in ("feature_cache=~", "feature_cache=", "feature_cache=Null"):
        assert f"--set={text}" in job("train", model="tiny-glm4v", data=Path("data/S1"), settings=[text]).command
    Path("ds.json").write_text("{}")
    for text in ('deepspeed="ds.json"', "deepspeed= ds.json", "deepspeed=ds.json # x"):
        assert f"/in{here}/ds.json" in seen(job("train", model="tiny-glm4v", data=Path("data/S1"), settings=[text]))
    Path("configs/kept.yaml").write_text("feature_cache: f\n")
    with pytest.raises(InputError, match="can keep no features in another folder"):
        job("train", model="tiny-glm4v", data=Path("data/S1"), config=Path("configs/kept.yaml"))
    with pytest.raises(InputError, match="several machines"):
        job("train", model="tiny-glm4v", data=Path("data/S1"), nnodes=2)
    with pytest.raises(InputError, match="uses no GPU"):
        job("train", model="tiny-glm4v", data=Path("data/S1"), gpus="0")
    on_cards = job("train", "x86-cuda", model="tiny-glm4v", data=Path("data/S1"), gpus="2,3")
    assert on_cards.gpus == ("2", "3")
    assert "--gpus=0,1" in on_cards.command  # the two that it is given have new numbers there


def test_a_task_of_one_s_own_is_mounted(here: Path) -> None:
    folders("mytask", "pool", "ot2-guided@1")
    Path("mytask/task.yaml").touch()
    made = job("build", task="./mytask", pool=Path("pool"), out=Path("d"))
    assert f"/in{here}/mytask" in seen(made) and "mytask" in made.command
    assert f"/in{here}/ot2-guided@1" not in seen(job("build", task="ot2-guided@1", pool=Path("pool"), out=Path("d")))


def test_an_image_root_without_a_folder_is_refused(here: Path) -> None:
    for text in ("/x=", "/x= ", "=new", "new"):
        mounts = Mounts(IMAGES["x86-cpu"], output="/out/d")
        with pytest.raises(InputError, match="cannot read"):
            value_inside(Option("image_roots", "--image-root", [text], Kind.RENAMED_FOLDER), mounts)
        assert mounts.inputs.mounts() == ()


def test_an_output_with_too_long_a_name_is_refused(here: Path) -> None:
    for target in (Target(), Target(runner="docker")):
        for out in (Path("n", f"{'a' * 250}.json"), Path("a" * 252), Path("a" * 300, "x"), Path("é" * 101)):
            with pytest.raises(InputError, match="too long"):
                dispatch("score", [Option("out", "--out", out, Kind.OUTPUT)], target)
    assert list(here.iterdir()) == []


def test_what_others_may_not_read_is_said_before(here: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root's steps run as another user")
    folders("data/S1")
    Path("data/S1/test.jsonl").touch(mode=0o600)
    with pytest.raises(InputError, match="others may not read this") as said:
        job("infer", model="majority", data=Path("data/S1"), out=Path("x"))
    assert said.value.fix == "make it readable: chmod -R o+rX data/S1"


class Answers:
    """A client of a daemon that has every image and says `info` of itself, or nothing."""

    def __init__(self, info: dict[str, Any] | None, url: str = "http+docker://localhost") -> None:
        self.api, self.images, self.said = SimpleNamespace(base_url=url), SimpleNamespace(get=str), info

    def info(self) -> dict[str, Any]:
        if self.said is None:
            raise requests.exceptions.ReadTimeout("too late")
        return self.said

    def close(self) -> None: ...


PLAIN = {"Name": "lab", "Architecture": "x86_64", "SecurityOptions": [], "Runtimes": {"runc": {}}}


@pytest.mark.parametrize(
    ("client", "image", "said"),
    [
        (Answers(PLAIN), None, "runner: docker, "),
        (Answers({**PLAIN, "SecurityOptions": ["name=rootless"]}), None, "local; this docker daemon maps user ids"),
        (Answers(PLAIN), "x86-cuda", "local; this docker daemon has no nvidia runtime"),
        (Answers(PLAIN, "http://10.0.0.7:2375"), None, "local; this docker daemon is on no socket of this machine"),
        (Answers(None), None, "local; asking the daemon: lost the connection to the Docker daemon"),
    ],
)
def test_auto_takes_a_container_where_it_can_run(
    client: Answers, image: str | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deckbench.runners.dispatch.connect", lambda timeout: client)
    taken = is_available([Option("model", "--model", "tiny-glm4v", Kind.MODEL)], Target("auto", image=image))
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert taken == shown.startswith("runner: docker")


def test_where_a_step_runs() -> None:
    check_target(Target("docker", limits="memory=2"))
    check_target(Target(host="ssh://lab@orin", image="l4t-jp6"))
    with pytest.raises(InputError, match="the runner 'podman' is not known"):
        check_target(Target("podman"))
    with pytest.raises(InputError, match="has no image and no limits"):
        check_target(Target(limits="memory=2"))
    assert limits_of("memory=2.5, minutes=90,pids=7") == {"memory_gib": 2.5, "minutes": 90, "pids": 7}
    assert limits_of("minutes=0") == {"minutes": 0}
    assert limits_of(None) == {}
    for text in ("memory=0", "memory", "disk=3", "minutes=soon", "memory=nan"):
        with pytest.raises(InputError, match="cannot read"):
            limits_of(text)
    for text in ("pids=0.5", "pids=1.5"):
        with pytest.raises(InputError, match="is no number of processes"):
            limits_of(text)
    with pytest.raises(InputError, match="less than docker gives to any container"):
        limits_of("memory=0.005")
    assert limits_of("memory=0.006")["memory_gib"] * GIB > 6 << 20
