"""Models of transformers: asked, trained, merged and loaded again; broken folders refused. No code in them is run."""

from __future__ import annotations

import csv
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file

from deckbench.answer import Question
from deckbench.errors import InputError
from deckbench.infer.predict import infer
from deckbench.models.auto.files import Settings
from deckbench.models.auto.model import Auto, load_auto
from deckbench.models.auto.network import language_linears, learn_answers
from deckbench.models.auto.prompt import Prompter
from deckbench.models.load import Blind, load_model, model_identity
from deckbench.models.loss import IGNORE
from deckbench.train import train
from deckbench.train.merge import merge
from tests.models import auto_video_small
from tests.models.auto_small import ASK, MAKE, save_small
from tests.models.models_helpers import edit_json, edit_weights

KINDS = sorted(MAKE)
QUESTION = ASK.format(a="red", b="blue")
OPEN = "Describe."
ITEMS_OF = [("images/0.png", [(QUESTION, "A"), (OPEN, "a red square.")]), ("images/1.png", [(QUESTION, "B")])]
TRAINING = {"max_steps": 30, "batch": 2, "lr": 1e-2, "rank": 8, "log_every": 5, "threads": 1, "warmup": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three checkpoints. Do not change them."""
    home = tmp_path_factory.mktemp("auto")
    return {kind: save_small(kind, home / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Auto]:
    return {kind: load_auto(folder, dtype=torch.float32) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red and a blue frame of two shapes, the same ones in train and test: what is learned can be told."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    Image.new("RGB", (64, 40), (220, 20, 20)).save(folder / "images/0.png")
    Image.new("RGB", (30, 60), (20, 20, 220)).save(folder / "images/1.png")
    rows: list[str] = []
    for image, pairs in ITEMS_OF:
        for question, answer in pairs:
            user = {"role": "user", "content": question, "image": image}
            sample: dict[str, Any] = {"messages": [user, {"role": "assistant", "content": answer}]}
            sample |= {"id": f"{image}-{len(rows)}", "kind": "open"}
            if question == QUESTION:
                sample |= {"kind": "choice", "option_a": "red", "option_b": "blue"}
            rows.append(json.dumps(sample) + "\n")
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(rows))
    return folder


def items(data: Path) -> list[Any]:
    return [(Image.open(data / image).convert("RGB"), pairs) for image, pairs in ITEMS_OF]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def logits_at_labels(network: Any, batch: dict[str, Any]) -> torch.Tensor:
    """What transformers' own forward predicts at the labelled tokens."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return network(**inputs).logits[:, :-1][batch["labels"][:, 1:] != IGNORE]


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind with `adapter` and `merged`."""
    home = tmp_path_factory.mktemp("trained")
    for kind, folder in folders.items():
        train(model=str(folder), data=data, out=home / kind / "adapter", overrides=TRAINING)
        merge(model=str(folder), adapter=home / kind / "adapter", out=home / kind / "merged")
    return {kind: home / kind for kind in folders}


# Prompts and labels


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_answer_and_its_stop_token(loaded: dict[str, Auto], data: Path, kind: str) -> None:
    model = loaded[kind]
    words = model.tokenizer.tokenizer
    stop = "<end_of_utterance>" if kind == "idefics3" else "</s>"
    batch = model.collate(items(data))
    answers = [answer for _, pairs in ITEMS_OF for _, answer in pairs]
    questions = [question for _, pairs in ITEMS_OF for question, _ in pairs]
    for row, question, answer in zip(range(3), questions, answers, strict=True):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        places = (labels != IGNORE).nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1)) and torch.equal(labels[places], ids[places])
        assert words.decode(labels[places]).strip() == f"{answer}{stop}"
        prompt = model.tokenizer.encode([items(data)[row // 2][0]], [model.tokenizer.text(question)])
        assert ids[: places[0]].tolist() == prompt["input_ids"][0].tolist()
        assert ids.tolist().count(words.bos_token_id) == 1
        assert not batch["attention_mask"][row][places[-1] + 1 :].any()
    assert words.convert_tokens_to_ids(stop) in model.tokenizer.stops


def check_batches(model: Auto, data: Path) -> None:
    together = logits_at_labels(model.module, model.collate(items(data)))
    rows = [(image, [pair]) for image, pairs in items(data) for pair in pairs]
    alone = torch.cat([logits_at_labels(model.module, model.collate([row])) for row in rows])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_gives_the_logits_of_one_by_one(loaded: dict[str, Auto], data: Path, kind: str) -> None:
    check_batches(loaded[kind], data)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_over_answer_tokens(loaded: dict[str, Auto], data: Path, kind: str) -> None:
    model = loaded[kind]
    batch = model.collate(items(data))
    wanted = batch["labels"][:, 1:]
    plain = logits_at_labels(model.module, batch)
    with torch.inference_mode():
        made = model.module(**batch)
        summed = model.module(**batch, num_items_in_batch=1)
    assert (made["logits"] - plain).abs().max() < 1e-5
    expected = torch.nn.functional.cross_entropy(plain, wanted[wanted != IGNORE])
    assert float(made["loss"]) == pytest.approx(float(expected), abs=1e-5)
    assert float(summed["loss"]) == pytest.approx(float(expected) * len(plain), rel=1e-5)


def check_asking(model: Auto, data: Path) -> None:
    """Logits of an answer in a training batch are those of writing it, the frame's features kept or not."""
    image, _ = items(data)[0]
    questions = [Question(QUESTION, "choice", 4), Question(OPEN, "open", 6)]
    answers = model.answer(image, questions)
    for question, answer in zip(questions, answers, strict=True):
        assert model.answer(image, [question])[0].text == answer.text
        asked = model.tokenizer.encode([image], [model.tokenizer.text(question.text)])
        made = model.generate([asked], [question.max_new_tokens])[0]
        batch = model.tokenizer.with_answers(asked, [[*made.ids, model.tokenizer.stop]])
        forced = logits_at_labels(model.module, batch)
        assert (forced[0] - made.first).abs().max() < 1e-5
        assert forced.argmax(-1).tolist()[: len(made.ids)] == made.ids
        assert model.tokenizer.decode(made.ids) == answer.text and answer.tokens_out == made.steps
    assert answers[0].p_a is not None and answers[0].p_b is not None and answers[1].p_a is None
    assert 0 < answers[0].p_a + answers[0].p_b < 1
    blind = Blind(model).answer(image, questions)
    assert [answer.tokens_in for answer in blind] == [answer.tokens_in for answer in answers]
    assert blind[0].p_a != answers[0].p_a


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_is_what_is_trained(loaded: dict[str, Auto], data: Path, kind: str) -> None:
    check_asking(loaded[kind], data)


def test_special_tokens_in_a_question_are_refused(loaded: dict[str, Auto], data: Path) -> None:
    with pytest.raises(InputError, match="special token <image>"):
        loaded["llava"].answer(items(data)[0][0], [Question("What is <image>?", "open", 2)])


def test_a_question_too_long_is_refused(loaded: dict[str, Auto], data: Path) -> None:
    model, (image, _) = loaded["llava"], items(data)[0]
    with pytest.raises(InputError, match="llava reads 512"):
        model.answer(image, [Question("x" * 600, "open", 2)])
    with pytest.raises(InputError, match="llava reads 512"):
        model.collate([(image, [("x" * 600, "A")])])


# Training, merging, asking


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_the_adapter_and_lowers_the_loss(
    folders: dict[str, Path], trained: dict[str, Path], kind: str
) -> None:
    adapter = trained[kind] / "adapter"
    with (adapter / "curve.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]
    state = load_file(adapter / "adapter_model.safetensors")
    ups = [tensor for name, tensor in state.items() if "lora_B" in name]
    assert ups and all(tensor.abs().max() > 0 for tensor in ups)
    assert len(ups) == 2 * 7  # query, key, value, output, gate, up and down of both layers
    assert not any("vision" in name or "projector" in name or "connector" in name for name in state)
    assert str(folders[kind]) not in (adapter / "adapter_config.json").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_is_answered(
    folders: dict[str, Path], trained: dict[str, Path], data: Path, tmp_path: Path, kind: str
) -> None:
    infer(model=str(folders[kind]), adapter=trained[kind] / "adapter", data=data, out=tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == [row["gold"] for row in rows] == ["A", "a red square.", "B"]
    assert float(rows[0]["p_a"]) > 0.5 > float(rows[2]["p_a"])


LOAD_ALONE = """
import json, sys, torch
from PIL import Image
from deckbench.models.load import load_model
for folder, frames, items, out in json.loads(sys.argv[1]):
    model = load_model(folder, device="cpu")
    batch = model.collate([(Image.open(frames + "/" + name), pairs) for name, pairs in items])
    with torch.inference_mode():
        torch.save(model.module(**batch).logits, out)
"""


@pytest.mark.slow
def test_a_merged_folder_is_base_plus_adapter_in_a_new_process(
    folders: dict[str, Path], trained: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    jobs = []
    for kind in KINDS:
        shutil.copytree(trained[kind] / "merged", tmp_path / kind)
        jobs.append([str(tmp_path / kind), str(data), ITEMS_OF, str(tmp_path / f"{kind}.pt")])
    command = [sys.executable, "-c", LOAD_ALONE, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for kind in KINDS:
        # The comparison is with plain transformers and plain peft: the adapter is a standard one.
        network = transformers.AutoModelForImageTextToText.from_pretrained(folders[kind], dtype=torch.float32)
        both = PeftModel.from_pretrained(network, trained[kind] / "adapter").eval()
        expected = logits_at_labels(both, load_auto(folders[kind]).collate(items(data)))
        assert (torch.load(tmp_path / f"{kind}.pt") - expected).abs().max() < 1e-5
        before, after = (load_file(folder / "model.safetensors") for folder in (folders[kind], tmp_path / kind))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before if "vision" in name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_saved_again_is_the_same(
    folders: dict[str, Path], loaded: dict[str, Auto], tmp_path: Path, kind: str
) -> None:
    model = loaded[kind]
    model.save(tmp_path / "again")
    before, after = (load_file(folder / "model.safetensors") for folder in (folders[kind], tmp_path / "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    names = {path.name for path in folders[kind].iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names
    assert json.loads((tmp_path / "again/config.json").read_text())["torch_dtype"] == "float32"
    assert model_identity(str(folders[kind]))["hash"] == model.base_hash
    assert load_auto(tmp_path / "again").base_hash == model.base_hash


def test_shards_are_read_and_the_broken_one_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["llava"], tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {"language_model": "model-00001-of-00002.safetensors", "": "model-00002-of-00002.safetensors"}
    placed = {name: next(file for part, file in halves.items() if part in name) for name in state}
    for file in halves.values():
        save_file({name: tensor for name, tensor in state.items() if placed[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    model = load_auto(folder)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.official_state().items())
    assert model.base_hash != load_auto(folders["llava"]).base_hash  # the files are what is hashed
    name = "language_model.model.norm.weight"
    part = {key: tensor for key, tensor in state.items() if placed[key] == placed[name]}
    save_file({**part, name: torch.ones(7)}, folder / placed[name])
    with pytest.raises(InputError, match=f"'{name}' has shape") as error:
        load_auto(folder)
    assert str(error.value.where) == str(folder / placed[name])


def test_gradients_are_checkpointed_on_request(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    settings = {**TRAINING, "max_steps": 2, "gradient_checkpointing": True, "vision": "absent"}
    train(model=str(folders["llava"]), data=data, out=tmp_path / "adapter", overrides=settings)
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()


def test_its_vision_is_not_trained(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the vision of llava is not trained"):
        train(model=str(folders["llava"]), data=data, out=tmp_path / "a", overrides={**TRAINING, "vision": "train"})


# Models whose processors need torchvision


def torchvision_missing() -> str:
    """Why torchvision does not load here, or nothing: a stock wheel beside a CPU torch raises more than ImportError."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"torchvision does not load here ({error}); it comes with deckbench[video]"
    return ""


@pytest.mark.parametrize("kind", auto_video_small.KINDS)
def test_lora_sits_on_the_language_model_alone(kind: str) -> None:
    network = auto_video_small.network_of(kind, auto_video_small.tokenizer_of(kind))
    pattern = language_linears(network)
    assert pattern is not None
    linears = [name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)]
    found = [name for name in linears if re.fullmatch(pattern, name)]
    fused = {"glm4v": 6, "phi4_multimodal": 4}  # linear layers of a block where some are one
    assert len(found) == 2 * fused.get(kind, 7)
    assert not any("vis" in name or "img" in name or "audio" in name or "connector" in name for name in found)


@pytest.mark.parametrize("kind", ["glm4v", "qwen2_5_vl", "smolvlm"])
def test_models_of_pictures_and_videos_are_asked_as_trained(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their networks and pictures, without torchvision: nothing of ours goes through a video processor."""
    monkeypatch.setattr(transformers.ProcessorMixin, "check_argument_for_proper_class", lambda *given: None)
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    tokenizer = auto_video_small.tokenizer_of(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = auto_video_small.network_of(kind, tokenizer)
    learn_answers(network, tmp_path)
    prompter = Prompter(
        auto_video_small.processor_of(kind, tokenizer, auto_video_small.NoVideo()),
        model_type=kind,
        stops=[],
        inputs=inspect.signature(network.forward).parameters,
        source=tmp_path,
    )
    model = Auto(network, Settings({"model_type": kind}), prompter, name=kind, small_files={})
    check_batches(model, data)
    check_asking(model, data)
    model.module(**model.collate(items(data))).loss.backward()


@pytest.mark.skipif(bool(torchvision_missing()), reason=torchvision_missing())
@pytest.mark.parametrize("kind", auto_video_small.KINDS)
def test_a_model_of_the_video_extra_is_trained_merged_and_asked(kind: str, data: Path, tmp_path: Path) -> None:
    base = str(auto_video_small.save_small(kind, tmp_path / kind))
    check_batches(load_auto(Path(base), dtype=torch.float32), data)
    train(model=base, data=data, out=tmp_path / "adapter", overrides=TRAINING)
    merge(model=base, adapter=tmp_path / "adapter", out=tmp_path / "merged")
    infer(model=str(tmp_path / "merged"), data=data, out=tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    network = transformers.AutoModelForMultimodalLM.from_pretrained(base, dtype=torch.float32)
    both = PeftModel.from_pretrained(network, tmp_path / "adapter").eval()
    merged = load_auto(tmp_path / "merged")
    batch = merged.collate(items(data))
    assert (logits_at_labels(merged.module, batch) - logits_at_labels(both, batch)).abs().max() < 1e-5


@pytest.mark.skipif(not torchvision_missing(), reason="torchvision loads here")
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "phi4_multimodal"])
def test_a_missing_torchvision_is_named(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    tokenizer = auto_video_small.tokenizer_of(kind)
    auto_video_small.network_of(kind, tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    names = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "phi4_multimodal": "Phi4MultimodalProcessor"}
    (tmp_path / "model/processor_config.json").write_text(json.dumps({"processor_class": names[kind]}))
    pictures = {"qwen2_5_vl": "Qwen2VLImageProcessor", "phi4_multimodal": "Phi4MultimodalImageProcessor"}
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps({"image_processor_type": pictures[kind]}))
    with pytest.raises(InputError, match="needs torchvision") as error:
        load_model(str(tmp_path / "model"), device="cpu")
    assert error.value.exit_code == 2 and "deckbench[video]" in str(error.value.fix)


# Broken folders


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", change)


def lose_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = {"lm_head.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def lose_processor(folder: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)


def own_code(config: dict[str, Any]) -> None:
    config.update(model_type="deck_vlm", auto_map={"AutoConfig": "configuration_deck.DeckConfig"})


def two_numbers(state: dict[str, Any]) -> None:
    name = next(name for name in state if name.endswith("layers.1.self_attn.q_proj.weight") and "language" in name)
    state[name] = torch.zeros(8, 8)


BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "has no config.json"),
    "no type": (edit_config(lambda c: c.pop("model_type")), "config.json", "'model_type' is None"),
    "no vision": (edit_config(lambda c: c.update(model_type="llama")), "config.json", "'model_type' is 'llama'"),
    "unknown": (edit_config(lambda c: c.update(model_type="deck_vlm")), "config.json", "'model_type' is 'deck_vlm'"),
    "own code": (edit_config(own_code), "config.json", "brings its own code, which is never run"),
    "no decoder": (
        edit_config(lambda c: (c.clear(), c.update(model_type="florence2"))),
        "config.json",
        "is no decoder that",
    ),
    "config garbage": (edit_config(lambda c: c.update(vision_config=3)), "config.json", "the config cannot be read"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config", "give it with --adapter"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model", "neither model.safetensors nor"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin",
        "pickled weights are not read",
    ),
    "truncated": (truncate, "model.safetensors", "not readable as safetensors"),
    "shard missing": (lose_shard, "model-00001-of-00002.safetensors", "the shard is missing"),
    "tensor missing": (
        lambda f: edit_weights(f, lambda s: s.pop(next(n for n in s if "linear_1.weight" in n))),
        "model.safetensors",
        "'multi_modal_projector.linear_1.weight' is missing",
    ),
    "tensor too many": (
        lambda f: edit_weights(f, lambda s: s.update({"deck.weight": torch.zeros(2)})),
        "model.safetensors",
        "'deck.weight' belongs to no part",
    ),
    "wrong shape": (
        lambda f: edit_weights(f, two_numbers),
        "model.safetensors",
        r"'language_model.model.layers.1.self_attn.q_proj.weight' has shape \[8, 8\]; the config asks for \[48, 48\]",
    ),
    "no processor": (lose_processor, "preprocessor_config.json", "has none of preprocessor_config.json"),
    "processor garbage": (
        lambda f: (f / "processor_config.json").write_text("{"),
        "processor_config.json",
        "not readable as JSON",
    ),
    "unknown processor": (
        lambda f: edit_json(f / "processor_config.json", lambda c: c.update(processor_class="DeckProcessor")),
        "processor_config.json",
        "this makes no processor of frames and text",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", "has none of tokenizer.json"),
    "template garbage": (
        lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
        "model",
        "the chat template cannot be used",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoint(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    damage, where, message = BAD[name]
    folder = shutil.copytree(folders["llava"], tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        load_model(str(folder), device="cpu")
    assert error.value.exit_code == 2 and where in str(error.value.where)


def test_a_processor_of_other_sizes_is_named(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["llava"], tmp_path / "model")
    edit_json(folder / "processor_config.json", lambda c: c.update(patch_size=16))
    model = load_auto(folder)
    with pytest.raises(InputError, match="does not take what its processor makes"):
        model.answer(items(data)[0][0], [Question(QUESTION, "choice", 2)])
    with pytest.raises(InputError, match="does not take what its processor makes"):
        model.module(**model.collate(items(data)))


def test_a_tokenizer_of_more_tokens_is_named(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["llava"], tmp_path / "model")
    added = {"id": 9999, "content": "Zqx", "special": False, "single_word": False, "normalized": False}
    added |= {"lstrip": False, "rstrip": False}
    edit_json(folder / "tokenizer.json", lambda c: c["added_tokens"].append(added))
    with pytest.raises(InputError, match="does not take what its processor makes"):
        load_auto(folder).answer(items(data)[0][0], [Question("What is Zqx?", "open", 2)])
