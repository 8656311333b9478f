#!/bin/sh
# A saved LoRA adapter leaves out BatchNorm's running statistics, which trained along with it.
#
# Versions  peft 0.21.2, torch 2.15.0
# Input     Convolution, BatchNorm, linear head; LoRA on the convolution, the head in modules_to_save; twenty
#           forward passes in training mode, then save_pretrained and from_pretrained on the same base.
# Expected  The reloaded model says what the saved one says.
# Seen      It differs by most of a unit: the statistics moved, are buffers of the base, and are not in the file.
#           With the BatchNorm named in modules_to_save too, the difference is 0.
# Way out   Name each BatchNorm in modules_to_save, or keep it in evaluation mode while training.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" peft==0.21.2 transformers==5.23.0 torch==2.15.0
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import copy, tempfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
    def forward(self, x): return self.head(self.bn(self.conv(x)).mean((2, 3)))

torch.manual_seed(0)
base, x, seen = Net(), torch.randn(16, 3, 5, 5)*3 + 2, []
for kept in (['head'], ['head', 'bn']):
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=['conv'], modules_to_save=kept)).train()
    for _ in range(20): model(x)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    seen.append((model(x) - again(x)).abs().max().item())
    print(f'modules_to_save={kept}: outputs before and after differ by {seen[-1]:.3f}')
raise SystemExit(not (seen[0] > .3 and seen[1] < 1e-6))
PY
