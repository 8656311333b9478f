"""Does `load`'s channels-last layout pay on this CPU? Pictures a second with the pictures as they come (NCHW): python benchmarks/backbones.py"""
import platform, statistics, time

import torch

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

if __name__ == '__main__': main()
