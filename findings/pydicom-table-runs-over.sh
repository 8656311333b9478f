#!/bin/sh
# pydicom's table of shades runs over: an X-ray of 12 bits shown through a table of 8-bit entries comes out in stripes.
#
# Versions  pydicom 3.0.2, numpy 2.4.6
# Input     A ramp from 0 to 4095, and a VOI LUT of 4,096 entries of 8 bits each, entry i being i//16: a valid and usual one.
# Expected  The ramp in 8 bits, 0 to 255, without a fall.
# Seen      apply_voi keeps the index in the type of an entry, uint8: value 256 gets the shade of value 0, and the ramp
#           becomes 16 short ones. No error, no warning; a network trained on such pictures sees contours that are not there.
#           With entries of 10 to 16 bits it is right.
# Way out   Look the table up by hand: entries[clip(value - first, 0, len - 1)].
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" pydicom==3.0.2 numpy==2.4.6
cd "$here"
"$here/venv/bin/python" - <<'PY'
import warnings
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi
from pydicom.sequence import Sequence

ramp, item, ds = np.arange(4096, dtype=np.uint16), Dataset(), Dataset()
item.LUTDescriptor = [4096, 0, 8]
item.add_new('LUTData', 'US', (np.arange(4096)//16).tolist())
ds.VOILUTSequence = Sequence([item])
want = np.array(item.LUTData)[np.clip(ramp.astype(int), 0, 4095)]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    got = apply_voi(ramp, ds)
falls = int((np.diff(got.astype(int)) < 0).sum())
print(f'shade of 255, 256 and 4095: {got[255]}, {got[256]} and {got[4095]}, where {want[255]}, {want[256]} and {want[4095]} are right; '
      f'falls in the ramp: {falls}; warnings: {len(said)}')
raise SystemExit(not (got[256] == 0 and falls == 15 and not said))
PY
