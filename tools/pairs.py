"""Every network on every target: scores before training, and what the probe and fine-tuning reach. Writes tlcourse/full/pairs.tsv.

    python tools/pairs.py [TARGET ...]

One row a network, target and number of training pictures. The scores and the leave-one-out probe see the first `n` of 300 training pictures;
`accuracy` is a logistic probe's on 300 others, `tuned` that of LP-FT (4 epochs, 300 pictures, one seed), `pixels` that of a support vector
machine on 16x16 pixels. Takes hours on two cores; rows that are there are kept.
"""
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import set_seed
from sklearn.svm import SVC

from tlcourse.backbones import groups, load
from tlcourse.data import images
from tlcourse.features import Features, extract, probe
from tlcourse.finetune import lp_ft
from tlcourse.learners import learner
from tlcourse.scores import ridge, targets
from tlcourse.transferability import evidence, h_score_of, leep_of

FILE = Path(__file__).parent.parent/'tlcourse'/'full'/'pairs.tsv'
BODIES = 'efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'mobilenet_v2', 'craft', 'random'
TARGETS = 'animals', 'textile', 'mnist5k', 'digits', 'icons'
SETTING = dict(n_train=300, n_valid=300, size=64, device='cpu', seed=0)
ORDER = np.random.default_rng(0).permutation(300) # of training pictures; the first n are n at random
TUNED = [b for b in BODIES if b != 'craft']  # twenty times the arithmetic


def network(name, n_out=None):
    "A network by name; 'random' is Lite0 without what it has learned."
    set_seed(0)
    return load('efficientnet_lite0', n_out, pretrained=False) if name == 'random' else load(name, n_out)


def loaders(target, name, **kwargs): return images(target, backbone='efficientnet_lite0' if name == 'random' else name, **SETTING | kwargs)


def seen(target, name):
    "Features and labels of training and new pictures, and probabilities of the source's classes or None."
    model, dls = network(name), loaders(target, name)
    train, new = (extract(model, dl, compile=False, progress=False) for dl in dls)
    head = groups(model)[-1]
    p = head(torch.from_numpy(train.x)).softmax(1).detach().numpy().astype(float) if isinstance(head, torch.nn.Linear) else None
    return train, new, p


def pixels(target, ns=(50, 100, 300)):
    "Accuracy of a support vector machine on 16x16 pixels, for each number of pictures."
    (x, y), (new, z) = ([torch.cat(o).numpy() for o in zip(*((torch.nn.functional.adaptive_avg_pool2d(x.as_subclass(torch.Tensor)[:, :1], 16).flatten(1), y)
                         for x,y in dl.new(shuffle=False, drop_last=False)))] for dl in loaders(target, 'random'))
    return {n: SVC(C=10., gamma='scale').fit(x[ORDER[:n]], y[ORDER[:n]]).score(new, z) for n in ns}


def scores(train, new, p, ns=(50, 100, 300)):
    "One dict for each number of training pictures."
    for n in ns:
        at = ORDER[:n]
        x, y = train.x[at].astype(float), train.y[at]
        if n <= len(np.unique(y)): continue
        t = targets('pairs', y, n)
        z = None if p is None else np.eye(p.shape[1])[p[at].argmax(1)]
        yield dict(n=n, leep=np.nan if p is None else leep_of(p[at])(t), nce=np.nan if p is None else leep_of(z)(t), logme=evidence(x)(t).mean()/n,
                   h_score=h_score_of(x)(t), probe=ridge(x)(t)[0], accuracy=probe(Features(x, y), new, folds=3).accuracy)


def tuned(target, name):
    "Accuracy of LP-FT on the new pictures."
    dls = loaders(target, name, bs=25)
    set_seed(0)
    learn = learner(dls, network(name, dls.c))
    with learn.no_bar(), learn.no_logging():
        lp_ft(learn, 4)
        return float(learn.validate()[1])


def write(rows): pd.DataFrame(rows).round(4).sort_values(['target', 'n'], kind='stable').to_csv(FILE, sep='\t', index=False)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    rows = pd.read_csv(FILE, sep='\t').to_dict('records') if FILE.exists() else []
    for target in sys.argv[1:] or TARGETS:
        raw = None
        for name in BODIES:
            if not any((r['target'], r['body']) == (target, name) for r in rows):
                raw = raw or pixels(target)
                rows += [dict(target=target, body=name, **o, pixels=raw[o['n']], tuned=np.nan) for o in scores(*seen(target, name))]
                write(rows)
            full = next((r for r in rows if (r['target'], r['body'], r['n']) == (target, name, 300)), None)
            if full and name in TUNED and np.isnan(full['tuned']):
                full['tuned'] = tuned(target, name)
                write(rows)
