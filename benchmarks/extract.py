"""Is `extract`, pictures and all, as fast as the bare network on tensors in memory? python benchmarks/extract.py [pictures] [repeats]"""
import platform, sys

import torch
from torch import nn

from _turns import rates
from tlcourse.backbones import groups, load
from tlcourse.data import images
from tlcourse.features import extract


def bare(body, x):
    "A forward pass over batches of tensors that are there already."
    def run():
        with torch.no_grad(): return [body(b) for b in x]
    return run

def main(n=512, repeat=5):
    print(f'## Features: extract against the bare network\n\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; '
          f'{n} pictures, pictures a second, median of {repeat} rounds by turns; extract includes decoding, fingerprint and all\n')
    print('| data | pixels | way | pictures/s | ratio |\n|---|---|---|---|---|')
    for name, px in (('animals', 96), ('textile', 96), ('animals', 224)):
        dls, model = images(name, n_train=n, n_valid=10, size=px, bs=32), load('efficientnet_lite0')
        dl, body = dls.train.new(shuffle=False, drop_last=False), nn.Sequential(*groups(model)[:-1])
        x = [b.as_subclass(torch.Tensor).to(memory_format=torch.channels_last) for b,_ in dl]
        work = {'bare, channels last': bare(body.to(memory_format=torch.channels_last), x),
                'extract, not folded': lambda: extract(model, dl, cache=False, fold=False, progress=False),
                'extract': lambda: extract(model, dl, cache=False, progress=False)}
        got = rates(work, n, repeat)
        extract(model, dl, progress=False)
        got['extract, from disk'] = rates({'disk': lambda: extract(model, dl, progress=False)}, n, repeat)['disk']
        for k,v in got.items(): print(f"| {name} | {px} | {k} | {v:.0f} | {v/got['bare, channels last']:.2f} |", flush=True)

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
