#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: importing one small causal language model, for eager CPU inference that compiles
# and shards nothing, also imports torch._dynamo, torch._inductor's package, DTensor (torch.distributed.tensor), FSDP and
# sympy. There is no switch: masking_utils imports from torch._dynamo at its top, distributed/sharding_utils imports
# DTensor wherever torch.distributed is available, and `torch.compiler.disable`, used as a decorator on the paged cache,
# imports torch._dynamo by itself. With scipy installed, loss_for_object_detection imports scipy.optimize as well.
# Seen: 2,434 modules after the import, 1,067 of them by the import of the model class; about 1.4 of 4 CPU seconds.
# A tool whose every step is a fresh process pays this each time. Exit 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "transformers==5.24.0" numpy
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers

before = set(sys.modules)
from transformers import GlmForCausalLM  # noqa: F401

loaded = set(sys.modules) - before
print("torch", torch.__version__, "transformers", transformers.__version__, "modules", len(sys.modules))
heavy = ["torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy"]
print({name: name in sys.modules for name in heavy}, "new by the model's import:", len(loaded))
changed = [name for name in heavy if name not in sys.modules]
sys.exit(f"no longer imported: {changed}" if changed else 0)
PY
