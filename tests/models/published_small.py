"""The published configs with few layers of little width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deckbench.models.families import published, resolve

SIZES = {
    "glm-4v-9b": {
        "hidden_size": 64,
        "ffn_hidden_size": 96,
        "num_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 16,
    },
    "phi-3-vision": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}


def shrink(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the published model `ref` is small."""
    folder = tmp_path / "published"
    folder.mkdir()
    for path in published()[ref].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    raw = json.loads((folder / "config.json").read_text()) | SIZES[ref]
    if ref == "glm-4v-9b":
        raw["vision_config"] |= {"image_size": 56, "num_positions": 17, "hidden_size": 32, "num_heads": 2}
        raw["vision_config"] |= {"num_hidden_layers": 1, "intermediate_size": 48}
    else:
        raw["rope_scaling"] = {**raw["rope_scaling"], "short_factor": [1.0] * 8, "long_factor": [1.5] * 8}
        clip: dict[str, object] = {
            "hidden_size": 32,
            "image_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 2,
        }
        clip |= {"num_hidden_layers": 2, "patch_size": 8, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
        raw["img_processor"] |= {"clip": clip, "image_dim_out": 32, "num_img_tokens": 4}
    (folder / "config.json").write_text(json.dumps(raw))
    monkeypatch.setitem(resolve(ref).family.published, ref, folder)
