#!/bin/sh
# nbdime's merge strategies drop work that does not conflict: a cell added on one side, above a cell edited on the other.
#
# Versions  nbdime 4.0.4
# Input     Three small notebooks with cell ids: a base; one with an added cell; one with another text in the cell below that place.
#           nbmerge with --merge-strategy use-local and use-remote.
# Expected  A strategy decides what both sides changed. These two changes touch different cells, and both are kept.
# Seen      use-remote loses the added cell, use-local loses the new text; each ends with exit code 0 and announces no conflict.
#           Without a strategy both changes are kept, and a conflict is announced.
# Way out   Merge without a strategy and look at the conflicts; or pair cells by id, where notebooks have ids.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" nbdime==4.0.4
cd "$here"
"$here/venv/bin/python" -W ignore - <<'PY'
import json, subprocess, sys
from pathlib import Path


def notebook(name, *cells):
    cells = [dict(cell_type='markdown', id=k, metadata={}, source=s) for k, s in cells]
    Path(f'{name}.ipynb').write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=cells)))


def merged(*options):
    "Texts of the merged cells, and nbmerge's exit code."
    done = subprocess.run([str(Path(sys.executable).with_name('nbmerge')), *(f'{o}.ipynb' for o in ('base', 'local', 'remote')),
                           '--out', 'out.ipynb', *options], capture_output=True, text=True)
    return [''.join(c['source']) for c in json.loads(Path('out.ipynb').read_text())['cells']], done.returncode


first, last = ('a', 'Task one'), ('c', 'Task three')
notebook('base', first, ('b', 'Task two, with a slip'), last)
notebook('local', first, ('mine', 'My answer'), ('b', 'Task two, with a slip'), last)
notebook('remote', first, ('b', 'Task two, mended'), last)

both = ['Task one', 'My answer', 'Task two, mended', 'Task three']
seen = {'none': merged(), 'use-local': merged('--merge-strategy', 'use-local'), 'use-remote': merged('--merge-strategy', 'use-remote')}
for strategy, (cells, code) in seen.items(): print(f'{strategy}: exit code {code}, lacks {sorted(set(both) - set(cells)) or "nothing"}')
as_told = (seen['none'][0] == both and seen['use-local'][1] == seen['use-remote'][1] == 0
           and 'Task two, mended' not in seen['use-local'][0] and 'My answer' not in seen['use-remote'][0])
sys.exit(not as_told)
PY
