"""What does `PrefixCache` save while a part of the network is frozen? fastai's own fit beside it: python benchmarks/frozen.py (20 minutes; a third of that with SEEDS=1 in the environment)"""
import os, time, warnings

import pandas as pd, torch

warnings.simplefilter('ignore')
from fastai.callback.schedule import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from tlcourse.backbones import load
from tlcourse.data import images
from tlcourse.features import extract, probe
from tlcourse.learners import learner, parameter_groups
from tlcourse.prefix import PrefixCache

CACHED, EXACT, LAID = 'PrefixCache', 'PrefixCache(fold=False)', 'fastai, channels last'
SEEDS, N, VALID = range(int(os.environ.get('SEEDS', 3))), 500, 1000


def make(kind, seed, ahead):
    "A Learner on the animals at 96 pixels; the same pictures, head and order of batches for each kind."
    dls = images('animals', n_train=N, n_valid=VALID, size=96, seed=seed)
    torch.manual_seed(seed)
    model = load('efficientnet_lite0', dls.c)
    if kind == 'fastai': model = model.to(memory_format=torch.contiguous_format) # as timm makes it
    if kind in ('fastai', LAID): return Learner(dls, model, CrossEntropyLossFlat(), splitter=parameter_groups, metrics=accuracy)
    return learner(dls, model, cbs=[PrefixCache(ahead=ahead, fold=kind != EXACT)] if 'PrefixCache' in kind else None)

def timed(kind, seed, stages, epochs):
    "Seconds, accuracy, and the model after `epochs` at each stage of unfreezing."
    learn = make(kind, seed, ahead=len(stages) - 1)
    torch.manual_seed(seed)
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        for n in stages:
            learn.freeze_to(n)
            learn.fit(epochs, 2e-3 if n == -1 else 3e-4)
    return dict(kind=kind, seed=seed, seconds=time.perf_counter() - start, accuracy=learn.recorder.values[-1][-1]), learn.model

def by_probe(seed):
    dls = images('animals', n_train=N, n_valid=VALID, size=96, seed=seed)
    start = time.perf_counter()
    acc = probe(*(extract(load('efficientnet_lite0'), dl, cache=False) for dl in (dls.train, dls.valid))).accuracy
    return dict(kind='extract and probe', seed=seed, seconds=time.perf_counter() - start, accuracy=acc)

def table(title, rows, promised):
    "One line a kind: median seconds, how much slower than PrefixCache over the seeds, mean accuracy."
    df = pd.DataFrame(rows)
    seconds, acc = df.groupby('kind', sort=False).seconds.median(), df.groupby('kind', sort=False).accuracy
    took = df.pivot(index='seed', columns='kind', values='seconds')
    print(f'### {title}\n\n| | seconds | times as long (seeds) | accuracy | seeds |\n|---|---|---|---|---|')
    for k in seconds.index:
        ratios = ', '.join(f'{o:.1f}' for o in took[k]/took[CACHED])
        print(f"| {k} | {seconds[k]:.1f} | {seconds[k]/seconds[CACHED]:.1f} ({ratios}) | {acc.mean()[k]:.3f} | {', '.join(f'{a:.3f}' for a in acc.get_group(k))} |")
    for k,least in promised.items():
        got = seconds[k]/seconds[CACHED]
        wide = df.pivot(index='seed', columns='kind', values='accuracy')
        behind = (wide[k] - wide[CACHED]).mean()
        print(f"\n{'Kept' if got >= least and behind <= .01 else '**Not kept**'}: at least {least} times as fast as {k} ({got:.1f}), accuracy {-100*behind:+.1f} points.")
    print()

def main():
    print(f'## Frozen groups\n\n{N} + {VALID} animals at 96 pixels, EfficientNet-Lite0, {torch.get_num_threads()} threads; {"medians over " + str(len(SEEDS)) + " seeds" if len(SEEDS) > 1 else "one seed"}. '
          f'"fastai" is its Learner with the network as timm makes it, "{LAID}" with the memory layout of `backbones.load`, which all the others have; '
          '"BatchNorm in eval" is `learners.learner` without the cache. PrefixCache folds BatchNorm in its pass unless it is told not to.\n')
    kinds = 'fastai', LAID, 'BatchNorm in eval', EXACT, CACHED
    table('Ten epochs, the head alone', [timed(k, s, [-1], 10)[0] for s in SEEDS for k in kinds] + [by_probe(s) for s in SEEDS],
          {'fastai': 30, 'BatchNorm in eval': 8})
    runs = {(k, s): timed(k, s, [-1, -2, -3], 3) for s in SEEDS for k in kinds}
    table('Three epochs each: head, last stage, last two stages', [o for o,_ in runs.values()], {'fastai': 10})
    a, b = (runs[k, 0][1].state_dict() for k in kinds[2:4])
    moved = torch.cat([(a[k] - o).flatten() for k,o in load('efficientnet_lite0').state_dict().items() if a[k].shape == o.shape and a[k].is_floating_point()])
    apart = torch.cat([(a[k] - b[k]).flatten() for k in a if a[k].is_floating_point()])
    c = runs[CACHED, 0][1].state_dict()
    rounded = torch.cat([(a[k] - c[k]).flatten() for k in a if a[k].is_floating_point()])
    print(f'Without the cache and with it, the weights and buffers end within {apart.abs().max():.1e} of each other unfolded, and within {rounded.abs().max():.1e} folded; '
          f'training moved them by up to {moved.abs().max():.1e}.')

if __name__ == '__main__': main()
