#!/bin/sh
# With class weights, fastai's valid_loss depends on the batch size and is not the weighted mean.
#
# Versions  fastai 2.8.12, torch 2.15.0
# Input     Eight items, seven of class 0 and one of class 1, cross-entropy with weights 1 and 9, a model that
#           gives every item the same logits (2, 0); validated in one batch and in batches of four.
# Expected  The same loss both times: sum(w_i l_i)/sum(w_i) over all items, as torch computes it in one batch.
# Seen      Each batch's weighted mean counts by its number of items, not by its sum of weights: 0.88 instead
#           of 1.25. Early stopping and the choice of the best epoch go by that number.
# Way out   Collect predictions with get_preds and compute the loss once.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" fastai==2.8.12 torch==2.15.0
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.callback.progress import ProgressCallback # Learner.no_bar comes with it
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([2., 0.]))
    def forward(self, x): return self.logits.expand(len(x), 2)

x, y, w = torch.zeros(8, 1), torch.tensor([0]*7 + [1]), torch.tensor([1., 9.])
true, seen = F.cross_entropy(Same()(x), y, weight=w).item(), {}
for bs in (8, 4):
    items = TensorDataset(x, y)
    learn = Learner(DataLoaders(*[DataLoader(items, bs=bs) for _ in range(2)]), Same(), CrossEntropyLossFlat(weight=w))
    with learn.no_bar(): seen[bs] = learn.validate()[0]
    print(f'validated in batches of {bs}: {seen[bs]:.3f}; the weighted mean is {true:.3f}')
raise SystemExit(not (abs(seen[8] - true) < 1e-4 and abs(seen[4] - .8769) < 1e-3))
PY
