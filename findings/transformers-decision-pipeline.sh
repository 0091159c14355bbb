#!/usr/bin/env bash
# transformers 5.24.0, `pipeline("decision")` and so `/v1/systemone` of `transformers serve`: with the default settings a
# LLaVA cannot be asked. `sanitize_control_tokens` is on by default, and the tokenizer refuses it wherever it would set
# a token of its own (<s>) in front of what the chat template writes: NotImplementedError; the server answers HTTP 500.
# With `"sanitize_control_tokens": false` in decision.json, or in the file of `serve --decision-config`, it is asked.
# Also: `JevForDecision.from_pretrained(..., output_loading_info=True)` raises AttributeError, so nobody can tell which of
# a head's tensors were missing and drawn anew. Seen, and exit 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "transformers==5.24.0" numpy pillow
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import sys

import transformers as t
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

t.logging.set_verbosity_error()
special = ["<pad>", "<s>", "</s>", "<image>"]
plain = Tokenizer(models.BPE({x: n for n, x in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}, []))
plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
plain.decoder = decoders.ByteLevel()
plain.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<image>"]}
tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=plain, **names)
template = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
pictures = t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
processor = t.LlavaProcessor(
    pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=template,
    num_additional_image_tokens=1,
)
small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
config = t.LlavaConfig(
    vision_config=t.CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=16, **small),
    text_config=t.LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **small),
    image_token_index=3,
)
t.LlavaForConditionalGeneration(config).save_pretrained("llava")
processor.save_pretrained("llava")
question = {"type": "choice", "instructions": "Which?", "criteria": {"red": None, "blue": None}}
request = {"state": "img-1", "assets": {"img-1": Image.new("RGB", (28, 28), "red")}, "questions": {"q": question}}


def outcome(work):
    try:
        return "answered" if work() else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"


default = outcome(lambda: t.pipeline("decision", model="llava", device="cpu")(request))
settings = t.DecisionConfig(sanitize_control_tokens=False)
without = outcome(lambda: t.pipeline("decision", model="llava", device="cpu", decision_config=settings)(request))
t.JevForDecision(t.JevConfig(hidden_size=16, text_config=config.to_dict())).save_pretrained("jev")
report = outcome(lambda: t.JevForDecision.from_pretrained("jev", output_loading_info=True))
print("transformers", t.__version__, *(f"\n  {line}" for line in (default, without, report)))
same = default.startswith("NotImplementedError") and without == "answered" and report.startswith("AttributeError")
sys.exit(not same)
PY
