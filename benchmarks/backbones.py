"""Do `load`'s channels-last layout and its `Depthwise` pay on this CPU? Pictures a second with the pictures as they come (NCHW): python benchmarks/backbones.py"""
import copy, platform, statistics, time

import torch
from torch import nn

from tlcourse import backbones


def rate(step, n, repeat=5):
    "Pictures a second: the median of `repeat` steps of `n` pictures."
    step()
    def once():
        t = time.perf_counter()
        step()
        return n/(time.perf_counter() - t)
    return statistics.median(once() for _ in range(repeat))

def steps(model, x):
    "A forward step without gradients, and a whole training step."
    y = torch.zeros(len(x), dtype=torch.long)
    def forward():
        with torch.inference_mode(): model.eval()(x)
    def train(): torch.nn.functional.cross_entropy(model.train()(x), y).backward()
    return dict(forward=forward, train=train)

def depthwise(n=20, rounds=15):
    "A training step with torch's own depthwise layers and with `Depthwise`, by turns."
    print(f"\n### Training with torch's own depthwise layers and with `Depthwise`\n\nefficientnet_lite0, pictures a second, batch of {n}, the median of {rounds} steps by turns\n")
    print('| pixels | nn.Conv2d | Depthwise | ratio |\n|---|---|---|---|')
    quick = backbones.load('efficientnet_lite0', pretrained=False)
    plain = copy.deepcopy(quick)
    for o in plain.modules():
        if type(o) is backbones.Depthwise: o.__class__ = nn.Conv2d
    for px in (48, 64, 96, 128, 224):
        x = torch.randn(n, 3, px, px)
        train = [steps(m, x)['train'] for m in (plain, quick)]
        a, b = (statistics.median(o) for o in zip(*[[rate(s, n, 1) for s in train] for _ in range(rounds)]))
        print(f'| {px} | {a:.0f} | {b:.0f} | {b/a:.2f} |', flush=True)

def main():
    print(f'## Backbones: memory layout\n\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; pictures a second, batch of 32\n')
    print('| backbone | pixels | step | contiguous | channels last | ratio |\n|---|---|---|---|---|---|')
    for name in ('efficientnet_lite0', 'timm:resnet18'):
        for px in (96, 224):
            x, models = torch.randn(32, 3, px, px), {}
            for layout in (torch.contiguous_format, torch.channels_last):
                models[layout] = steps(backbones.load(name, pretrained=False).to(memory_format=layout), x)
            for step in ('forward', 'train'):
                a, b = (rate(m[step], len(x)) for m in models.values())
                print(f'| {name} | {px} | {step} | {a:.0f} | {b:.0f} | {b/a:.2f} |', flush=True)
    depthwise()

if __name__ == '__main__': main()
