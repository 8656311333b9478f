#!/bin/sh
# A second vision_learner on the same DataLoaders goes on normalizing for the first network.
#
# Versions  fastai 2.8.12, torch 2.15.0, torchvision 0.29.2
# Input     One DataLoaders of eight pictures; two vision_learners in turn, whose networks state other means.
# Expected  The second one normalizes with the mean of its own network (or says that it does not).
# Seen      The DataLoaders keep the Normalize of the first learner; the second network gets pixels on the
#           first one's scale, without a word. Comparing two backbones in one notebook hurts the second.
# Way out   Make the DataLoaders anew for each network.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" fastai==2.8.12 torch==2.15.0 torchvision==0.29.2
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import numpy as np
from fastai.vision.all import *
from fastai.vision.learner import model_meta

pictures = [PILImage.create(np.full((32, 32, 3), 100, np.uint8)) for _ in range(8)]
dls = DataBlock((ImageBlock, CategoryBlock), get_x=lambda i: pictures[i], get_y=lambda i: 'ab'[i % 2],
                splitter=IndexSplitter([6, 7])).dataloaders(list(range(8)), bs=2, num_workers=0)
def one(pretrained): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
def other(pretrained): return one(pretrained)
model_meta[one] = dict(cut=-1, split=default_split, stats=([.5]*3, [.5]*3))
model_meta[other] = dict(cut=-1, split=default_split, stats=imagenet_stats)
seen = []
for arch in (one, other):
    vision_learner(dls, arch, pretrained=True)
    seen.append([round(v, 3) for f in dls.after_batch.fs if isinstance(f, Normalize) for v in f.mean.flatten().tolist()])
    print(arch.__name__, 'states mean', model_meta[arch]['stats'][0], 'and gets pixels normalized with', seen[-1])
raise SystemExit(seen != [[.5]*3]*2)
PY
