"""What does EWC's Fisher information cost beside a plain epoch over the same pictures? python benchmarks/fisher.py"""
import platform, time

import torch
from torch import nn

from tlcourse import backbones
from tlcourse.continual import fisher


def seconds(f, repeat=3):
    "The best of `repeat` times."
    def once():
        t = time.perf_counter()
        f()
        return time.perf_counter() - t
    return min(once() for _ in range(repeat))

def epoch(model, batches):
    "Plain training: forward, backward, a step of Adam for each batch."
    opt = torch.optim.Adam(model.parameters(), 1e-5)
    def run():
        model.train()
        for x,y in batches:
            opt.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
        model.eval()
    return run

def main(n=1000, bs=64):
    torch.manual_seed(0)
    print(f'## EWC: Fisher information of {n:,} items\n\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; seconds, the best of three\n')
    print('| network | a training epoch | Fisher | ratio |\n|---|---|---|---|')
    perceptron = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    for name,model,shape in (('perceptron 784-200-200-10', perceptron, (784,)),
                             ('efficientnet_lite0, 96 px', backbones.load('efficientnet_lite0', 10, pretrained=False), (3, 96, 96))):
        batches = list(zip(torch.randn(n, *shape).split(bs), torch.randint(10, (n,)).split(bs)))
        a, b = seconds(epoch(model, batches)), seconds(lambda: fisher(model, batches))
        print(f'| {name} | {a:.2f} | {b:.2f} | {b/a:.2f} |', flush=True)
    print(f"\n{'Kept' if b <= 3*a else '**Not kept**'}: at most 3 epochs for {name}.")

if __name__ == '__main__': main()
