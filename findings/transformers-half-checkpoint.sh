#!/bin/sh
# A float16 checkpoint stays float16, and where its config names no dtype the first tensor decides.
#
# Versions  transformers 5.23.0, torch 2.15.0
# Input     A tiny BERT with random weights: saved in float16; and saved in float32 with one LayerNorm bias
#           in float16 and no dtype in config.json. Both are loaded without any dtype argument.
# Expected  float32 parameters, as every version before 5 gave, and as a CPU and an optimizer want.
# Seen      All parameters are float16, those of a fresh classification head too. In the mixed file the first
#           floating tensor decides for all others: the float32 weights are rounded to float16.
# Way out   from_pretrained(..., dtype=torch.float32).
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" transformers==5.23.0 torch==2.15.0 safetensors
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import json, tempfile
from pathlib import Path
import torch, transformers as tr
from safetensors.torch import load_file, save_file

tr.logging.set_verbosity_error()
tr.logging.disable_progress_bar()
cfg = tr.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
seen = {}
with tempfile.TemporaryDirectory() as d:
    tr.BertModel(cfg).half().save_pretrained(d)
    model = tr.AutoModelForSequenceClassification.from_pretrained(d, num_labels=2)
    seen['float16 file, body'] = str(model.bert.dtype)
    seen['float16 file, fresh head'] = str(model.classifier.weight.dtype)
    seen['float16 file, dtype=torch.float32'] = str(tr.AutoModel.from_pretrained(d, dtype=torch.float32).dtype)
with tempfile.TemporaryDirectory() as d:
    tr.BertModel(cfg).save_pretrained(d)
    config, weights = Path(d)/'config.json', Path(d)/'model.safetensors'
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != 'dtype'}))
    tensors = load_file(weights)
    first = min(tensors)
    save_file(tensors | {first: tensors[first].half()}, weights, metadata={'format': 'pt'})
    seen['float32 file whose first tensor is float16'] = ', '.join({str(p.dtype) for p in tr.AutoModel.from_pretrained(d).parameters()})
for k, v in seen.items(): print(f'{k}: {v}')
raise SystemExit(list(seen.values()) != ['torch.float16', 'torch.float16', 'torch.float32', 'torch.float16'])
PY
