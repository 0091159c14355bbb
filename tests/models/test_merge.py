"""A merged folder answers as base plus adapter do, alone, and is the base wherever no adapter sits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.models.glm4v.model import load_glm4v
from deckbench.models.load import load_model
from deckbench.models.phi3v.model import load_phi3v
from deckbench.models.weights import LAYOUTS
from deckbench.train.merge import merge
from tests.models.glm4v_small import make_small
from tests.models.models_helpers import make_adapter, split_in_shards
from tests.models.phi3v_small import make_phi

FAMILIES: dict[str, tuple[Any, Any]] = {"glm4v": (make_small, load_glm4v), "phi3v": (make_phi, load_phi3v)}
ALONE = """
import sys
from safetensors.torch import load_file, save_file
from deckbench.models.glm4v.model import load_glm4v
from deckbench.models.load import load_model
from deckbench.models.phi3v.model import load_phi3v
batch = load_file(sys.argv[1])
for folder in sys.argv[2:]:
    model = load_model(folder, device="cpu")
    save_file({"logits": model.module(**batch).logits.detach()}, f"{folder}.logits")
"""


def make_base(family: str, folder: Path, dtype: torch.dtype, *, sharded: bool = True) -> Path:
    model = FAMILIES[family][0]()
    with torch.no_grad():
        model.module.language.lm_head.weight.mul_(0.25)  # logits of a trained model's size
    model.save(folder, dtype)
    (folder / "modeling_other.py").write_text("# code that other tools run\n")
    if sharded:
        split_in_shards(folder)
    return folder


def batch_of(model: Any, frame: Image.Image) -> dict[str, torch.Tensor]:
    batch = model.collate([(frame, [("What is in slot 3?", "A"), ("What is in slot 4?", "white plate")])])
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def stored(folder: Path) -> dict[str, tuple[str, torch.dtype, bytes]]:
    """Tensor -> (file, type, bytes) of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                found[name] = (path.name, tensor.dtype, tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("glm4v", torch.float32),
        pytest.param("glm4v", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("phi3v", torch.float32, marks=pytest.mark.slow),
        pytest.param("phi3v", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_it_answers_alone_as_base_plus_adapter(
    family: str, dtype: torch.dtype, tmp_path: Path, frames: list[Image.Image]
) -> None:
    base = make_base(family, tmp_path / "base", dtype)
    adapter = make_adapter(base, tmp_path / "adapter", size=0.05)
    adapted = load_model(str(base), adapter=adapter, device="cpu")
    batch = batch_of(adapted, frames[0])
    save_file({name: tensor.contiguous() for name, tensor in batch.items()}, tmp_path / "batch.safetensors")
    unmerged = load_model(str(base), device="cpu")
    plain = unmerged.module(**batch).logits.detach()
    PeftModel.from_pretrained(unmerged.module, str(adapter))
    beside, wanted = (model.module(**batch).logits.detach() for model in (unmerged, adapted))
    assert (beside - plain).abs().max() > 0.01

    for layout in LAYOUTS:
        merge(model=str(base), adapter=adapter, out=tmp_path / "there" / layout, layout=layout)
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    shutil.rmtree(base)
    shutil.rmtree(adapter)
    folders = [tmp_path / "elsewhere" / layout for layout in LAYOUTS]
    command = [sys.executable, "-c", ALONE, *map(str, (tmp_path / "batch.safetensors", *folders))]
    subprocess.run(command, check=True, timeout=300)
    for folder in folders:
        found = load_file(f"{folder}.logits")["logits"]
        assert torch.equal(found, wanted)
        assert (found - beside).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_no_adapter_touched_keeps_its_bytes(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_base(family, tmp_path / "base", dtype)
    merged = merge(model=str(base), adapter=make_adapter(base, tmp_path / "a"), out=tmp_path / "merged").path
    before, after = stored(base), stored(merged)
    assert before.keys() == after.keys()
    assert {name: file for name, (file, *_) in before.items()} == {name: file for name, (file, *_) in after.items()}
    linears = {
        "glm4v": ("query_key_value.weight", "dense.weight", "4h.weight", "to_h.weight", "fc1.weight", "fc2.weight"),
        "phi3v": ("_proj.weight", "fc1.weight", "fc2.weight", "img_projection.0.weight", "img_projection.2.weight"),
    }[family]
    linears += ("vision.linear_proj.linear_proj.weight", "vision.linear_proj.gate_proj.weight")
    touched = {name for name in before if before[name] != after[name]}
    assert touched == {name for name in before if name.endswith(linears) and "encoder.layers.2." not in name}
    assert all(after[name][1] == torch.float32 for name in touched)
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for name, (file, *_) in after.items()}
    assert index["metadata"]["total_size"] == sum(len(data) for *_, data in after.values())
    others = {path.name for path in base.iterdir()} - {path.name for path in base.glob("model*")}
    assert {"config.json", "generation_config.json", "tokenizer_config.json"} & others
    assert all((base / name).read_bytes() == (merged / name).read_bytes() for name in others)
    if family == "glm4v":
        assert json.loads((merged / "tokenizer_config.json").read_text())["image_size"] == 64
    # One type is computed in, whatever the types in the files.
    assert {parameter.dtype for parameter in FAMILIES[family][1](merged).module.parameters()} == {dtype}


@pytest.mark.parametrize("family", FAMILIES)
def test_native_and_back(family: str, tmp_path: Path) -> None:
    base = make_base(family, tmp_path / "base", torch.float32)
    names = set(load_model(str(base), device="cpu").module.state_dict())
    first = make_adapter(base, tmp_path / "a")
    native = merge(model=str(base), adapter=first, out=tmp_path / "native", layout="native").path
    official = merge(model=str(base), adapter=first, out=tmp_path / "official").path
    assert set(stored(native)) - {"transformer.rotary_pos_emb.inv_freq"} == names
    second = make_adapter(native, tmp_path / "b", seed=1)
    back = merge(model=str(native), adapter=second, out=tmp_path / "back").path
    again = make_adapter(official, tmp_path / "c", seed=1)
    straight = merge(model=str(official), adapter=again, out=tmp_path / "straight").path
    one, two = stored(back), stored(straight)
    assert {name: found[1:] for name, found in one.items()} == {name: found[1:] for name, found in two.items()}


def test_a_single_file_stays_one(tmp_path: Path) -> None:
    base = make_base("glm4v", tmp_path / "base", torch.float32, sharded=False)
    made = merge(model=str(base), adapter=make_adapter(base, tmp_path / "a"), out=tmp_path / "merged")
    assert made.content["params"] == {"layout": "official"}
    assert {path.name for path in made.path.iterdir()} == {path.name for path in base.iterdir()} | {artifact.MANIFEST}


def test_an_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the layout 'flat' is not known"):
        merge(model="tiny-glm4v", adapter=tmp_path / "a", out=tmp_path / "merged", layout="flat")
