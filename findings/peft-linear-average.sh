#!/bin/sh
# The 'linear' average of two equal LoRA adapters, half of each, is twice the adapter.
#
# Versions  peft 0.21.2, torch 2.15.0
# Input     One linear layer, two adapters with the same weights, add_weighted_adapter with weights .5 and .5.
# Expected  The average of two equal things: the thing itself, a ratio of 1.
# Seen      'cat' and 'svd' give 1, 'linear' gives 2.
# Way out   Take 'cat' (exact, rank grows) or 'svd'.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" peft==0.21.2 transformers==5.23.0 torch==2.15.0
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import copy
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)
    def forward(self, x): return self.layer(x)

torch.manual_seed(0)
base, x, seen = Net(), torch.randn(3, 8), {}
model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=['layer']), adapter_name='a')
model.add_adapter('b', LoraConfig(r=2, target_modules=['layer']))
layer = model.base_model.model.layer
with torch.no_grad():
    for name in 'ab':
        layer.lora_A[name].weight.fill_(1.)
        layer.lora_B[name].weight.fill_(1.)
    model.set_adapter('a')
    alone = model(x) - base(x)
    for how in ('linear', 'cat', 'svd'):
        model.add_weighted_adapter(['a', 'b'], [.5, .5], how, combination_type=how)
        model.set_adapter(how)
        seen[how] = ((model(x) - base(x))/alone).mean().item()
        print(f'{how}: {seen[how]:.3f} times one of them')
raise SystemExit(not all(abs(seen[k] - v) < 1e-3 for k, v in dict(linear=2, cat=1, svd=1).items()))
PY
