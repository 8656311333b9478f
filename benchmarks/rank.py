"""Does ranking six networks cost at most 1.5 times their passes over the pictures? python benchmarks/rank.py [pictures] [side] [repeats]"""
import platform, statistics, sys, time

import torch

from tlcourse.backbones import load
from tlcourse.candidates import fitted
from tlcourse.data import images
from tlcourse.features import extract
from tlcourse.transferability import rank


def main(n=500, size=96, repeat=3):
    print(f'## Ranking: scores, probe and shuffles against the passes alone\n\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; '
          f'{n} silhouettes at {size} px, six networks, nothing on disk, {repeat} rounds by turns\n')
    torch.manual_seed(0)
    models = {o: load(o) for o in ('efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'mobilenet_v2', 'craft')}
    models['random'] = load('efficientnet_lite0', pretrained=False)
    dls = images('animals', n_train=n, n_valid=20, size=size, device='cpu')
    for m in models.values(): extract(m, fitted(dls.valid, m), cache=False, compile=False, progress=False)  # warm
    passes, ranks = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        for m in models.values(): extract(m, fitted(dls.train, m), cache=False, compile=False, progress=False)
        passes.append(time.perf_counter() - start)
        start = time.perf_counter()
        rank(models, dls, cache=False)
        ranks.append(time.perf_counter() - start)
    ratios = [b/a for a,b in zip(passes, ranks)]
    kept = 'kept' if statistics.median(ratios) <= 1.5 else '**not kept**'
    print(f'| passes, s | rank, s | ratio | promised at most |\n|---|---|---|---|\n| {statistics.median(passes):.1f} | {statistics.median(ranks):.1f} | '
          f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | 1.5, {kept} |')


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
