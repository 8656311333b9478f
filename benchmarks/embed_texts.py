"""Does `extract` embed texts at least twice as fast as sentence-transformers? python benchmarks/embed_texts.py [texts] [repeats]

TLCOURSE_PEERS names the Python of an environment with sentence-transformers, optimum-intel and openvino (their pins differ from ours):
    python -m venv peers && peers/bin/pip install sentence-transformers optimum-intel openvino"""
import json, os, platform, statistics, subprocess, sys, tempfile, time, warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from tlcourse.assets import fetch
from tlcourse.features import Features, extract, probe
from tlcourse.speed import lacking
from tlcourse.text import load, texts

warnings.simplefilter('ignore')
OURS = {'extract': {}, 'extract, openvino': dict(backend='openvino'), 'extract, bfloat16': dict(dtype='bfloat16'),
        'extract, openvino bfloat16': dict(backend='openvino', dtype='bfloat16')}


class Peer:
    "sentence-transformers, running in another process; `error` where it does not."
    def __init__(self, backend, length):
        python = os.environ.get('TLCOURSE_PEERS') or sys.executable
        self.process = subprocess.Popen([python, Path(__file__).with_name('_sentences.py'), fetch('minilm'), backend, str(length)], text=True, encoding='utf-8',
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, 'HF_HUB_OFFLINE': '1'})
        said = self.process.stdout.readline()
        self.about = json.loads(said) if said else dict(error='it ended without a word')
        self.error = self.about.get('error')
    def __call__(self, texts, to=None):
        self.process.stdin.write(json.dumps(dict(texts=texts, to=to and str(to))) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())['seconds']
    def close(self): self.process.stdin.close(); self.process.wait(20)

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start

def quartiles(v): return f'{statistics.median(v):.2f} ({np.quantile(v, .25):.2f} to {np.quantile(v, .75):.2f})'

def relative(a, b): return (np.linalg.norm(a - b, axis=1)/np.linalg.norm(b, axis=1)).max()

def measure(name, cut, n, repeat, model, ways):
    drawn = texts(name, n_train=n, n_valid=20, max_length=cut, device='cpu')
    table = pd.DataFrame([dict(text=o.text, label=o.label) for ds in (drawn.train_ds, drawn.valid_ds) for o in ds.items])  # in memory for all
    def read(): return texts(table, n_train=n, n_valid=20, max_length=cut, device='cpu')
    def ours(**kw): return extract(model, read().train, cache=False, progress=False, **kw).x
    items = read().train_ds
    raw, length = [o.text for o in items.items], np.mean([len(x) for x,_ in items])
    peers = {f'sentence-transformers, {b}': Peer(b, cut) for b in ('torch', 'onnx', 'openvino')}
    work = {k: (lambda p=p: p(raw)) for k,p in peers.items() if not p.error} | {k: (lambda kw=kw: seconds(lambda: ours(**kw))) for k,kw in ways.items()}
    with tempfile.TemporaryDirectory() as tmp:
        base = 'sentence-transformers, torch'
        want = (peers[base](raw, to := Path(tmp)/'x.npy'), time.sleep(1), np.load(to))[-1] if base in work else ours()
        off = {k: relative(ours(**kw), want) for k,kw in ways.items()}
    times = {k: [] for k in work}
    first = {k: f() for k,f in work.items()}  # warms up
    for _ in range(repeat):
        for k,f in work.items(): times[k].append(f())
    against = base if base in work else 'extract'
    for k in [*peers, *ways]:
        if k not in work: print(f'| {name} | {cut} | {length:.0f} | {k} | not available: {peers[k].error} |  |  |')
        else: print(f'| {name} | {cut} | {length:.0f} | {k} | {n/statistics.median(times[k]):.1f} | {quartiles([a/b for a,b in zip(times[against], times[k])])} | '
                    f"{'' if k not in off else f'{off[k]:.0e}'} |", flush=True)
    for p in peers.values():
        if not p.error: p.close()

def probes(model, ways, cut=128):
    "Accuracy of probes over five draws, in points away from torch's."
    print('\n| reuters, 500 to learn from, 500 others, five draws | accuracy | away from torch, points: mean (largest) |\n|---|---|---|')
    right = {k: [] for k in ways}
    for seed in range(5):
        dls = texts('reuters', n_train=500, n_valid=500, max_length=cut, seed=seed, device='cpu')
        for k,kw in ways.items(): right[k].append(probe(*(extract(model, dl, cache=False, progress=False, **kw) for dl in (dls.train, dls.valid))).accuracy)
    for k,v in right.items():
        away = 100*(np.array(v) - right['extract'])
        print(f'| {k} | {np.mean(v):.4f} | {away.mean():+.2f} ({np.abs(away).max():.2f}) |', flush=True)

def main(n=512, repeat=5):
    ways = {k: kw for k,kw in OURS.items() if not lacking(kw.get('backend', 'torch'))}
    load_now = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else 'unknown'
    print(f'## Texts: extract against sentence-transformers\n\n{platform.machine()}, {torch.get_num_threads()} threads, load at the start {load_now}, torch {torch.__version__}; MiniLM, '
          f'{n} texts, batches of 32, {repeat} rounds by turns after one to warm up; from raw texts to vectors, tokens and all (ours reads them into a DataLoader and starts '
          'the other runtime within the first round only). "Times as fast" is the median (quartiles) of rounds against sentence-transformers on torch; "off by" is the largest '
          'relative difference of a vector from its own.\n')
    print('| corpus | cut after | mean tokens | way | texts/s | times as fast | off by |\n|---|---|---|---|---|---|---|')
    logging.disable_progress_bar()
    model = load()
    for name, cut in (('reuters', 128), ('reuters', 256), ('bbc', 128)): measure(name, cut, n, repeat, model, ways)
    probes(model, ways)

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
