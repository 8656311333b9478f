#!/bin/sh
# MobileNetV1 and V2 of Transformers: BatchNorm keeps the statistics of the last batch only, and dropout takes 80 to 99.9 of 100 features.
#
# Versions  transformers 5.23.0, torch 2.15.0
# Input     MobileNetV2ForImageClassification and its V1 from their default configs, with random weights; five batches
#           of random pictures in training mode, each batch brighter than the one before.
# Expected  A running mean that follows slowly, as in torchvision and timm (momentum .1) or as in TensorFlow's
#           training code (decay .997, which is torch's momentum .003), and a light dropout before the head.
# Seen      momentum is .997 in V2 and .9997 in V1, where torch multiplies the NEW batch by it: after every step the
#           running mean is that of the last batch. classifier_dropout_prob is .8 and .999, TensorFlow's share to KEEP.
#           Fine-tuning with Trainer works on the training set and is evaluated with the statistics of one batch.
# Way out   for m in model.modules(): if isinstance(m, nn.BatchNorm2d): m.momentum = .003
#           and classifier_dropout_prob=.2 (V1: .001) when the model is made.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" transformers==5.23.0 torch==2.15.0 numpy
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import torch, transformers as tr
from torch import nn

tr.logging.set_verbosity_error()
seen = []
for kind in ('MobileNetV2', 'MobileNetV1'):
    torch.manual_seed(0)
    model = getattr(tr, f'{kind}ForImageClassification')(getattr(tr, f'{kind}Config')()).train()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    means = []
    norm.register_forward_pre_hook(lambda m, a: means.append(a[0].mean((0, 2, 3)).detach()))
    for step in range(5):
        with torch.no_grad(): model(torch.randn(4, 3, 64, 64) + step)
    far = ((norm.running_mean - means[-1]).abs().max()/(means[0] - means[-1]).abs().max()).item()
    drop = next(m.p for m in model.modules() if isinstance(m, nn.Dropout))
    seen.append((far < .01, norm.momentum, drop))
    print(f'{kind}: momentum {norm.momentum}, running mean within {far:.2%} of the last batch, dropout {drop}')
raise SystemExit(seen != [(True, .997, .8), (True, .9997, .999)])
PY
