#!/bin/sh
# torchmetrics' mean average precision is not COCO's where a recall is a multiple of .01: its 101 recalls are float32.
#
# Versions  torchmetrics 1.9.0, pycocotools 2.0.11, torch 2.15.0
# Input     One picture with five objects of a class; three are found, then three false boxes, then the other two.
# Expected  What pycocotools itself says, which torchmetrics calls: recall .6 is reached with precision 1, so 61 of 101 recalls count 1.
# Seen      60 of 101. torch.linspace(0, 1, 101).tolist() holds .6000000238, which a recall of .6 does not reach. A threshold is lost
#           wherever float32 rounds up: here .004 of AP; small, but it keeps an oracle test from ever passing at 1e-6.
# Way out   rec_thresholds=numpy.linspace(0, 1, 101).tolist()
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" torchmetrics==1.9.0 torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import numpy as np, torch
from torchmetrics.detection import MeanAveragePrecision

true = torch.tensor([[20.*i, 0, 20.*i + 10, 10] for i in range(5)])
false = torch.tensor([[20.*i, 50, 20.*i + 10, 60] for i in range(3)])
boxes = torch.cat([true[:3], false, true[3:]])
def ap(**kw):
    m = MeanAveragePrecision(iou_thresholds=[.5], **kw)
    m.update([dict(boxes=boxes, scores=torch.linspace(.9, .2, 8), labels=torch.zeros(8, dtype=int))],
             [dict(boxes=true, labels=torch.zeros(5, dtype=int))])
    return m.compute()['map'].item()

by_hand = (61 + 40*5/8)/101
seen, mended = ap(), ap(rec_thresholds=np.linspace(0, 1, 101).tolist())
print(f'by hand {by_hand:.6f}, torchmetrics {seen:.6f}, with recalls in float64 {mended:.6f}')
raise SystemExit(not (abs(mended - by_hand) < 1e-6 < abs(seen - by_hand)))
PY
