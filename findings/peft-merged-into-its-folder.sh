#!/bin/sh
# A merged model saved into the folder of its adapter comes back with the adapter applied twice.
#
# Versions  peft 0.21.2, transformers 5.23.0, torch 2.15.0
# Input     A tiny BERT classifier with LoRA on query and value. The adapter is saved to a folder; then the model is
#           merged (merge_and_unload) and saved to the same folder with save_pretrained, over what is there.
# Expected  from_pretrained of that folder gives the merged model: it holds its config.json and model.safetensors.
# Seen      adapter_config.json is still there, so Transformers loads the merged weights and puts the adapter on top
#           of them. No error, no warning; the logits are those of twice the update.
# Way out   Save a merged model to a folder of its own. (tlcourse.deploy replaces a folder as a whole.)
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" peft==0.21.2 transformers==5.23.0 torch==2.15.0
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import torch, transformers as tr
from peft import LoraConfig, PeftModel, get_peft_model

tr.logging.set_verbosity_error()
tr.logging.disable_progress_bar()
cfg = tr.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
ids, Bert = torch.arange(8)[None], tr.BertForSequenceClassification
def logits(m):
    with torch.no_grad(): return m.eval()(ids).logits

torch.manual_seed(0)
model = get_peft_model(Bert(cfg), LoraConfig(r=4, lora_alpha=64, target_modules=['query', 'value'], init_lora_weights=False))
model.save_pretrained('mine')
merged = model.merge_and_unload()
merged.save_pretrained('mine')
want, got = logits(merged), logits(Bert.from_pretrained('mine'))
merged.save_pretrained('alone')
alone = logits(Bert.from_pretrained('alone'))
twice = logits(PeftModel.from_pretrained(Bert.from_pretrained('alone'), 'mine'))
for name,x in (('merged', want), ('from a folder of its own', alone), ("from the adapter's folder", got), ('the adapter applied twice', twice)):
    print(f'{name:26}', [round(v, 4) for v in x[0].tolist()])
raise SystemExit(not (torch.allclose(alone, want, atol=1e-6) and torch.allclose(got, twice, atol=1e-6) and not torch.allclose(got, want, atol=1e-3)))
PY
