"""What do other runtimes and bfloat16 give, from files to features, the first call included? python benchmarks/runtimes.py [pictures] [repeats]"""
import json, os, platform, statistics, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np
import torch

from tlcourse.backbones import load
from tlcourse.data import images
from tlcourse.features import extract, probe
from tlcourse.speed import lacking

warnings.simplefilter('ignore')
WAYS = {'torch': {}, 'torch, bfloat16': dict(dtype='bfloat16'), 'openvino': dict(backend='openvino'), 'openvino, bfloat16': dict(backend='openvino', dtype='bfloat16'),
        'auto': dict(backend='auto')}
GOALS = {('openvino', 224): 2.2, ('openvino', 96): 1.15, ('openvino, bfloat16', 224): 4., ('openvino, bfloat16', 96): 2.4}


def jobs(kind, n, px):
    "The network and its loader."
    if kind == 'speech':
        from tlcourse.speech import load as speech_load, speech
        return speech_load(seconds=2.), speech('keywords', n_train=n, n_valid=20, seconds=2., device='cpu').train
    return load('efficientnet_lite0'), images('animals', n_train=n, n_valid=10, size=px, bs=32).train

def one(kind, way, n, px):
    "In a process of its own: seconds of the first call and of a second, after a few items by torch."
    model, dl = jobs(kind, n, px)
    few = jobs(kind, 64, px)[1]
    extract(model, few, cache=False, progress=False)
    if kind == 'speech': extract(model, dl, cache=False, progress=False) # speaks the clips
    res = []
    for _ in range(2):
        start = time.perf_counter()
        extract(model, dl, cache=False, progress=False, **WAYS[way])
        res.append(time.perf_counter() - start)
    print(json.dumps(res))

def quartiles(v): return f'{statistics.median(v):.2f} ({np.quantile(v, .25):.2f} to {np.quantile(v, .75):.2f})'

def measure(kind, n, px, ways, repeat):
    times = {k: [] for k in ways}
    for _ in range(repeat):
        for k in ways:
            r = subprocess.run([sys.executable, '-W', 'ignore', __file__, 'one', kind, k, str(n), str(px)], stdout=subprocess.PIPE, text=True, check=True)
            times[k].append(json.loads(r.stdout.splitlines()[-1]))
    for k in ways:
        first, again = ([a[i]/b[i] for a,b in zip(times['torch'], times[k])] for i in range(2))
        goal = GOALS.get((k, px)) if kind == 'pictures' else 1.7 if kind == 'speech' and k == 'openvino' else None
        told = '' if goal is None else f'{goal:g}, ' + ('kept' if statistics.median(first) >= goal else 'kept from the second call on' if statistics.median(again) >= goal else '**not kept**')
        a, b = (statistics.median(o[i] for o in times[k]) for i in range(2))
        what = f'{kind}, {px} px' if kind == 'pictures' else kind
        print(f'| {what} | {k} | {a:.2f} | {b:.2f} | {n/b:.0f} | {quartiles(first)} | {quartiles(again)} | {told} |', flush=True)

def probes(ways, n=500):
    print(f'\n| animals, {n} to learn from, {n} others, five draws | pixels | accuracy | away from torch, points: mean (largest) | off by, median (largest) |\n|---|---|---|---|---|')
    model = load('efficientnet_lite0')
    for px in (96, 224):
        right, off = {k: [] for k in ways}, {k: [] for k in ways}
        for seed in range(5):
            dls, want = images('animals', n_train=n, n_valid=n, size=px, bs=32, seed=seed), None
            for k in ways:
                train, valid = (extract(model, dl, cache=False, progress=False, **WAYS[k]) for dl in (dls.train, dls.valid))
                want = valid.x if want is None else want
                off[k] += [*(np.linalg.norm(valid.x - want, axis=1)/np.linalg.norm(want, axis=1))]
                right[k].append(probe(train, valid).accuracy)
        for k in ways:
            away = 100*(np.array(right[k]) - right['torch'])
            print(f'| {k} | {px} | {np.mean(right[k]):.4f} | {away.mean():+.2f} ({np.abs(away).max():.2f}) | {np.median(off[k]):.0e} ({max(off[k]):.0e}) |', flush=True)

def main(n=512, repeat=5):
    ways = [k for k,kw in WAYS.items() if not lacking(kw.get('backend', 'torch').replace('auto', 'openvino'))]
    load_now = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else 'unknown'
    print(f'## Features: other runtimes\n\n{platform.machine()}, {torch.get_num_threads()} threads, load at the start {load_now}, torch {torch.__version__}; {n} items from files to '
          f'features, median of {repeat} rounds by turns, each in a process of its own; the first call starts the runtime, the second finds it started. Ratios against torch '
          'in float32: median (quartiles).\n')
    print('| what | way | first, s | again, s | items/s | first, times as fast | again | goal |\n|---|---|---|---|---|---|---|---|')
    for px in (224, 96): measure('pictures', n, px, ways, repeat)
    measure('pictures', 4*n, 96, ways, max(1, repeat - 2))
    measure('speech', 256, 0, ways, max(1, repeat - 2))
    probes([k for k in ways if k != 'auto'])

if __name__ == '__main__':
    if sys.argv[1:2] == ['one']: one(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    else: main(*map(int, sys.argv[1:]))
