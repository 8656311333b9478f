#!/bin/sh
# torchmetrics' calibration error puts predictions of confidence 1.0 into a bin of their own.
#
# Versions  torchmetrics 1.9.0, torch 2.15.0
# Input     Ten predictions in one bin: five with confidence 1.0, all wrong, and five with .95, all right.
# Expected  One bin: mean confidence .975, accuracy .5, so an error of .475.
# Seen      .525, also with n_bins=1: the certain ones are kept apart, so two errors that cancel inside a bin
#           are added up. A network that saturates looks worse calibrated than one that stops at .9999.
# Way out   Compute the bins by hand, the upper edge included.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" torchmetrics==1.9.0 torch==2.15.0
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

probs = torch.tensor([[1., 0.]]*5 + [[.95, .05]]*5)
labels = torch.tensor([1]*5 + [0]*5)
seen = {n: multiclass_calibration_error(probs, labels, num_classes=2, n_bins=n).item() for n in (1, 10)}
for n, v in seen.items(): print(f'{n} bins: {v:.3f}; by hand .475')
raise SystemExit(not all(abs(v - .525) < 1e-4 for v in seen.values()))
PY
