"""Features to Parquet files: as fast as features in memory, in bounded memory, and whole after twenty kills? python benchmarks/shards.py [pictures] [repeats]"""
import random, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

SIZE, SHARD = 64, 512


class Often:
    "The pictures of a data set again and again, `n` in all: many items without many files."
    def __init__(self, ds, n): self.ds, self.n = ds, n
    def __len__(self): return self.n
    def __getitem__(self, i): return self.ds[i % len(self.ds)]


def loader(n):
    from fastai.data.load import DataLoader
    from tlcourse.data import images
    dls = images('animals', n_train=500, n_valid=10, size=SIZE, bs=32)
    tfms, batch = dls.train.after_item, dls.train.after_batch
    return DataLoader(Often(dls.train_ds, n), bs=32, num_workers=0, after_item=tfms, after_batch=batch)


def work(n, to):
    "One pass, in a process of its own; seconds and the peak of its memory in GB."
    import resource
    from tlcourse.backbones import load
    from tlcourse.features import extract
    model, dl = load('efficientnet_lite0'), loader(n)
    extract(model, loader(64), cache=False, progress=False)
    begin, base = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    extract(model, dl, cache=False, progress=False, **dict(to=to, shard=SHARD) if to else {})
    unit = 1 if sys.platform == 'darwin' else 1024
    print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/1e9)


def child(n, to=''): return [sys.executable, '-X', 'utf8', __file__, '--work', str(n), str(to)]

def measured(n, to=''): return tuple(map(float, subprocess.run(child(n, to), capture_output=True, text=True, check=True).stdout.split()))


def killed(n, to, times=20):
    "Kill a run `times` times, a moment after it wrote a file; then let it end. Rows doubled or lost, and how often it was killed."
    rng, count = random.Random(0), 0
    for _ in range(times):
        p = subprocess.Popen(child(n, to), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        had = len(list(to.glob('*.parquet')))
        while len(list(to.glob('*.parquet'))) <= had and p.poll() is None: time.sleep(.005)
        time.sleep(rng.uniform(0, .5))
        p.kill()
        count += p.wait() == -signal.SIGKILL
    measured(n, to)
    from tlcourse.shards import batches
    items = np.concatenate([b['item'] for b in batches(to, 'item')])
    return n - len(np.unique(items)), len(items) - len(np.unique(items)), count


def main(n=20_000, repeat=3):
    with tempfile.TemporaryDirectory() as tmp:
        tmp, memory, files = Path(tmp), [], []
        for k in range(repeat):
            memory.append(measured(n))
            files.append(measured(n, tmp/f'{k}'))
        small = measured(n//4, tmp/'small')
        lost, doubled, count = killed(n, tmp/'killed')
    ratios = [a[0]/b[0] for a,b in zip(memory, files)]
    print(f'## Features in files, beside features in memory\n\nEfficientNet-Lite0, {n:,} pictures of {SIZE} pixels, files of {SHARD}, each run in a process of its own, by turns.\n')
    print('| what | measured | promised | kept |\n|---|---|---|---|')
    def row(what, measured, promised, kept): print(f"| {what} | {measured} | {promised} | {'yes' if kept else 'NO'} |")
    r, peak = statistics.median(ratios), max(o[1] for o in files)
    row('pictures a second, files against memory', f'{r:.2f} ({min(ratios):.2f} to {max(ratios):.2f})', 'at least .95', r >= .95)
    row('peak memory', f'{peak:.2f} GB; {small[1]:.2f} GB for a quarter; {max(o[1] for o in memory):.2f} GB in memory', 'under 1.5 GB', peak < 1.5)
    row(f'rows lost, doubled after {count} kills', f'{lost}, {doubled}', 'none', lost == doubled == 0 and count == 20)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--work']: work(int(sys.argv[2]), sys.argv[3])
    else: main(*map(int, sys.argv[1:]))
