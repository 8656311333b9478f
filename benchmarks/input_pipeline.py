"""What `images` adds to the bare forward pass of EfficientNet-Lite0: the same pictures, in ready tensors and through the pipeline, turn by turn.

    python benchmarks/input_pipeline.py [TURNS]

Prints a section of Markdown; the ratio is taken turn by turn."""
import sys, warnings
from statistics import median, quantiles
from time import perf_counter

import torch

warnings.simplefilter('ignore')
from tlcourse.backbones import load
from tlcourse.data import images


def seconds(model, batches):
    "Time for `model` to see all `batches`."
    start = perf_counter()
    with torch.inference_mode():
        for b in batches: model(b[0])
    return perf_counter() - start


def main(turns=9):
    model = load('efficientnet_lite0').eval().to(memory_format=torch.channels_last)
    print(f'## Input pipeline\n\nEfficientNet-Lite0, channels_last, batches of 64, {torch.get_num_threads()} threads; milliseconds a picture, median of {turns} turns.\n')
    print('| pictures | bare forward pass | with `images` | with `images`, first time | ratio (quartiles) | promised | kept |\n|---|---|---|---|---|---|---|')
    for name,size,n in [('animals', 96, 512), ('textile', 224, 192)]:
        dls = images(name, 64, n, size=size, seed=0, device='cpu')
        ready = [(torch.as_tensor(x).as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last),) for x,_ in dls.valid]
        dls = images(name, 64, n, size=size, seed=0, device='cpu')
        seconds(model, ready)
        first = seconds(model, dls.valid)  # decodes too
        pairs = []
        for i in range(turns):  # who goes first changes, so that neither has the warmer caches
            if i%2: bare, full = seconds(model, ready), seconds(model, dls.valid)
            else: full, bare = seconds(model, dls.valid), seconds(model, ready)
            pairs.append((bare, full))
        bare, full = (median(o)*1e3/n for o in zip(*pairs))
        low, mid, high = quantiles([b/a for a,b in pairs], n=4)
        print(f'| {name}, {size} px | {bare:.2f} | {full:.2f} | {first*1e3/n:.2f} | {mid:.3f} ({low:.3f} to {high:.3f}) | 1.10 | {"yes" if mid<=1.1 else "no"} |', flush=True)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
