"""What does it cost to verify what comes from disk, how much faster is that than a run, and is it ever wrong? python benchmarks/cache.py [pictures] [repeats] [draws]"""
import os, sys, tempfile, time
from collections import Counter
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from _turns import rounds
from tlcourse import features
from tlcourse.backbones import load
from tlcourse.data import images
from tlcourse.features import extract

sys.path.insert(0, str(Path(__file__).parent.parent/'tests'))
from changes import draws

def timed(f, times):
    "`f`, which keeps how long each call took."
    def g(*args, **kwargs):
        t = time.perf_counter()
        try: return f(*args, **kwargs)
        finally: times.append(time.perf_counter() - t)
    return g

def promised(got, want, kept): return f'{got} | {want} | {"yes" if kept else "**no**"} |'

def main(n=512, repeat=9, changes=500):
    dl, model, checks = images('animals', n_train=n, n_valid=10, size=96, bs=32).train, load('efficientnet_lite0'), []
    with tempfile.TemporaryDirectory() as tmp:
        with patch.object(features, '_as_kept', timed(features._as_kept, checks)):
            work = {'run': lambda: extract(model, dl, cache=False, progress=False), 'from disk': lambda: extract(model, dl, progress=False)}
            work['from disk']()
            seconds = {k: median(n/o for o in v) for k,v in rounds(work, n, repeat).items()}
        share, faster = median(checks)/seconds['run'], seconds['run']/seconds['from disk']
        with patch.dict(os.environ, TLCOURSE_HOME=tmp): seen = list(draws(changes, Path(tmp)))
    stale, same = Counter(what for what,_,right in seen if not right), [hit for what,hit,_ in seen if what == 'nothing']
    print(f'## Features from disk: verified, fast, right\n\n{torch.get_num_threads()} threads; {n} silhouettes at 96 pixels through EfficientNet-Lite0, '
          f'median of {repeat} rounds by turns: {seconds["run"]:.2f} s to run, {seconds["from disk"]:.3f} s from disk, {median(checks):.3f} s of it to verify. '
          f'Then {changes} changes drawn at random (`tests/changes.py`), each followed by a cached answer and a fresh one.\n')
    print('| what | measured | promised | kept |\n|---|---|---|---|')
    print(f'| verifying, share of a run | {promised(f"{share:.1%}", "at most 5%", share <= .05)}')
    print(f'| from disk, times as fast as a run | {promised(f"{faster:.1f}", "at least 8", faster >= 8)}')
    print(f'| stale answers in {changes} draws | {promised(stale.total(), "0", not stale)}')
    print(f'| from disk where nothing had changed | {promised(f"{sum(same)} of {len(same)}", "a third", sum(same) >= len(same)/3)}')
    if stale: print(f'\nStale after: {dict(stale)}.')

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
