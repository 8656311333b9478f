"A small pool of pictures and a network that change at random, one thing at a time: what test_features and benchmarks/cache ask whether `extract` sees."
import warnings
from contextlib import contextmanager, nullcontext
from operator import itemgetter
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from tlcourse.features import Depths, extract

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.data.core import Datasets, TfmdDL
    from fastai.torch_core import TensorImage
    from fastai.vision.augment import RandTransform
    from fasttransform import Transform

LEVEL = 1.

def plain(x): return x
def darker(x): return x*LEVEL - .1
def waves(x): return torch.sin(3*x)
helper = plain

def mean(self, x): return self.act(self.bn(self.conv(helper(x)*self.gain)))
def squared(self, x): return self.bn(self.act(self.conv(helper(x))*self.gain))**2
def shifted(self, x): return self.act(self.bn(self.conv(x + self.gain)))

class Block(nn.Module):
    gain = 1.
    forward = mean
    def __init__(self, n, to):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(n, to, 3), nn.BatchNorm2d(to), nn.ReLU()

class Brighter(Transform):
    def __init__(self, by): self.by = by
    def encodes(self, x:TensorImage): return x + self.by

class Noise(RandTransform):
    split_idx, order = 0, 99
    def encodes(self, x:TensorImage): return x + .3*torch.rand_like(x)

@dataclass
class Item: source: object; name: int

def source(o): return o.source
def opened(o): return TensorImage(torch.tensor(np.asarray(Image.open(o) if isinstance(o, str) else o)).permute(2, 0, 1)/255)

class Cropped(TfmdDL):
    def __init__(self, dataset, crop=10, **kwargs): super().__init__(dataset, **kwargs); self.crop = crop
    def new(self, *args, **kwargs): return super().new(*args, crop=self.crop, **kwargs)
    def create_batch(self, b): x, y = super().create_batch(b); return x[..., :self.crop], y


class Pool:
    "A dozen pictures, in memory or in files of `folder`, and a network; `change` draws what changes."
    def __init__(self, seed=0, folder=None):
        global LEVEL, helper
        LEVEL, helper, Block.forward, Block.gain = 1., plain, mean, 1.
        self.rng, self.folder = np.random.default_rng(seed), folder
        torch.manual_seed(seed)
        self.model = nn.Sequential(Block(3, 4), Block(4, 5), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(20, 3)).eval()
        self.items, self.names, self.labels, self.n = [], [], {}, 0
        for _ in range(12): self.more()
        self.tfm, self.by, self.crop, self.layer, self.views, self.seed, self.autocast = None, .1, 10, None, None, 0, False

    def _pick(self, *options): return options[self.rng.integers(len(options))]
    def _number(self, low, high): return round(self.rng.uniform(low, high), 3)
    def _block(self): return self.model[self.rng.integers(2)]
    def _picture(self, name):
        pixels = self.rng.integers(0, 255, (10, 10, 3), dtype=np.uint8)
        if not self.folder: return pixels
        Image.fromarray(pixels).save(f := self.folder/f'{name}.bmp') # of one size, whatever is in it
        return str(f)

    def nothing(self): pass
    def picture(self): i = self.rng.integers(len(self.items)); self.items[i] = self._picture(self.names[i])
    def label(self): name = self._pick(*self.names); self.labels[name] = (self.labels[name] + 1) % 3
    def more(self):
        self.items.append(self._picture(self.n)); self.names.append(self.n)
        self.labels[self.n], self.n = int(self.rng.integers(3)), self.n + 1
    def fewer(self): self.items.pop(); self.names.pop()
    def order(self):
        to = self.rng.permutation(len(self.items))
        self.items, self.names = [self.items[i] for i in to], [self.names[i] for i in to]
    def transform(self): self.tfm = self._pick(None, 'class', 'closure', 'global')
    def parameter(self): self.by = self._number(.05, 1)
    def constant(self): global LEVEL; LEVEL = self._number(.3, 1)
    def redefined(self): global helper; helper = self._pick(plain, darker, waves)
    def code(self): Block.forward = self._pick(mean, squared, shifted)
    def attribute(self): Block.gain = self._number(.5, 1.5)
    def weight(self):
        with torch.no_grad(): w = self._block().conv.weight.view(-1); w[self.rng.integers(len(w))] += .3
    def buffer(self): self._block().bn.running_mean[self.rng.integers(4)] += .3
    def setting(self): self._block().bn.eps = self._number(.01, .5)
    def activation(self): self._block().act = self._pick(nn.ReLU(), nn.GELU(), nn.LeakyReLU(self._number(.1, .9)))
    def hook(self): k = self._number(.5, 1.5); self.model[0].conv.register_forward_hook(lambda m, args, out: out*k)
    def dtype(self): self.model.to(self._pick(torch.float32, torch.float64, torch.bfloat16))
    def precision(self): self.autocast = not self.autocast
    def depth(self): self.layer = self._pick(None, 0, 1, [0, 1])
    def size(self): self.crop = int(self.rng.integers(7, 11))
    def augmented(self): self.views = self._pick(None, 1, 2)
    def drawn(self): self.seed = int(self.rng.integers(3))

    CHANGES = [picture, label, more, fewer, order, transform, parameter, constant, redefined, code, attribute, weight, buffer, setting, activation, hook,
               dtype, precision, depth, size, augmented, drawn]

    def change(self):
        "Change one thing, or, a time in three, nothing; the name of what it was."
        f = Pool.nothing if self.rng.random() < 1/3 else self._pick(*self.CHANGES)
        if f is Pool.fewer and len(self.items) < 10: f = Pool.more
        f(self)
        return f.__name__

    def loader(self):
        by, labels = self.by, self.labels
        tfm = {None: [], 'class': [Brighter(by)], 'closure': [lambda x: x*by if x.ndim == 4 else x], 'global': [lambda x: darker(x) if x.ndim == 4 else x]}[self.tfm]
        ds = Datasets([*map(Item, self.items, self.names)], [[source, opened], [lambda o: labels[o.name]]], splits=[range(len(self.items)), []])
        return Cropped(ds.train, crop=self.crop, bs=6, num_workers=0, after_batch=[Noise(), *tfm])

    def extract(self, cache=True):
        with torch.autocast('cpu', torch.bfloat16) if self.autocast else nullcontext():
            res = extract(self.model, self.loader(), layer=self.layer, views=self.views, seed=self.seed, cache=cache, bs=8, progress=False)
        return res if isinstance(res, list) else [res]


@contextmanager
def passes():
    "A list of how many items each batch had that went through a body."
    n = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda m, args: n.append(len(args[0])) if isinstance(m, Depths) else None)
    try: yield n
    finally: hook.remove()

def agree(a, b): return all(np.allclose(p.x, q.x, 1e-4, 1e-5) and np.array_equal(p.y, q.y) and p.vocab == q.vocab for p,q in zip(a, b, strict=True))

def draws(n, folder, each=30):
    """Draw `n` changes, and after each ask for features: (what changed, did they come from disk, are they what a fresh run gives).

    Every `each` draws another pool begins, every second of them with its pictures in files below `folder`."""
    for i in range(n):
        if i % each == 0:
            (at := folder/str(i)).mkdir()
            pool = Pool(i//each, at if i//each % 2 else None)
            pool.extract()
        what = pool.change()
        with passes() as batches: got = pool.extract()
        yield what, sum(batches) <= 12, agree(got, pool.extract(cache=False)) # eight are looked at again; in half precision folding is checked on two before, twice
