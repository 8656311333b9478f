#!/bin/sh
# LoRA on a tied embedding: merging changes what the model says, ensure_weight_tying or not.
#
# Versions  peft 0.21.2, transformers 5.23.0, torch 2.15.0
# Input     A tiny GPT-2 whose output layer is its embedding table; LoRA on wte with random adapter weights, in
#           evaluation mode; the logits with the adapter beside the table, and after merge_and_unload.
# Expected  Merging is arithmetic: the same logits up to rounding. At least with ensure_weight_tying=True.
# Seen      Logits of about 0.2 move by far more than their size. The adapter acts on the input side only, the
#           merged table on both. ensure_weight_tying=True makes no difference to that here.
# Way out   Keep LoRA off tied embeddings, or untie and copy them first.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" peft==0.21.2 transformers==5.23.0 torch==2.15.0
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import torch, transformers as tr
from peft import LoraConfig, get_peft_model

tr.logging.set_verbosity_error()
cfg = tr.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
ids, seen = torch.arange(8)[None], []
for options in ({}, dict(ensure_weight_tying=True)):
    torch.manual_seed(0)
    model = get_peft_model(tr.GPT2LMHeadModel(cfg).eval(), LoraConfig(r=2, target_modules=['wte'], **options)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p.add_(torch.randn_like(p)*.3)
        before = model(ids).logits
        after = model.merge_and_unload()(ids).logits
    seen.append((after - before).abs().max().item()/before.abs().max().item())
    print(f'{options or "default"}: logits up to {before.abs().max():.2f}, changed by up to {(after - before).abs().max():.2f}')
raise SystemExit(not all(o > 5 for o in seen))
PY
