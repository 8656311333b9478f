#!/bin/sh
# A forward hook is skipped in a compiled model if another one of the same shape was compiled before.
#
# Versions  torch 2.15.0, backend aot_eager
# Input     Two equal small nn.Sequential models in one process. The first has no hook and is compiled and called;
#           the second gets a forward hook on its inner layer, and is then compiled and called twice.
# Expected  The hook runs twice, as it does when this model is the only one in the process.
# Seen      It runs 0 times, silently; alone it runs twice. Probes, activation caches and attribution by hooks
#           come back empty in a notebook that has compiled a sibling before.
# Way out   torch._dynamo.reset() before compiling the second, or hooks on the uncompiled module.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" torch==2.15.0 numpy
cd "$here"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$here/venv/bin/python" -W ignore - <<'PY'
import torch
from torch import nn

x = torch.randn(3, 4)
def net(): return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
def calls(model):
    seen = []
    model[1].register_forward_hook(lambda m, args, out: seen.append(1))
    fast = torch.compile(model, backend='aot_eager')
    fast(x)
    fast(x)
    return len(seen)

alone = calls(net())
torch._dynamo.reset()
torch.compile(net(), backend='aot_eager')(x)
after = calls(net())
print(f'calls of the hook in two passes: {alone} alone, {after} after a model of the same shape was compiled')
raise SystemExit((alone, after) != (2, 0))
PY
