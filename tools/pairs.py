"""Every candidate on every target: scores before training, and what the probe and fine-tuning reach. Writes tlcourse/full/pairs.tsv.

    python tools/pairs.py [TARGET ...] [--tune]

One row a candidate, target and number of training items. The scores and the leave-one-out probe see the first `n` of 300 training items; `accuracy` is
a logistic probe's on 300 others. `raw` needs no network: a support vector machine on 16x16 pixels, on the mean and the spread of each band of log-mel,
or on the numbers of a spectrum; for texts a logistic regression on TF-IDF. `far` says of pictures how far they are from what an ImageNet network knows:
0 as photos, 1 as noise. With --tune also `tuned`, the accuracy of LP-FT (4 epochs, 300 pictures, one seed). Rows that are there are kept.
"""
import sys
import time
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import set_seed
from PIL import Image
from sklearn.svm import SVC

from tlcourse import speech, text
from tlcourse.assets import fetch
from tlcourse.backbones import groups, load
from tlcourse.candidates import fitted
from tlcourse.compare import raw, tfidf
from tlcourse.data import images, table
from tlcourse.features import Features, extract, probe
from tlcourse.finetune import lp_ft
from tlcourse.learners import learner
from tlcourse.quality import unlike_photos
from tlcourse.scores import ridge, targets
from tlcourse.spectra import drawn, spectra
from tlcourse.transferability import evidence, h_score_of, leep_of
from tlcourse.voices import ACCENTS

FILE = Path(__file__).parent.parent/'tlcourse'/'full'/'pairs.tsv'
BODIES = 'efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'mobilenet_v2', 'craft', 'random'
TARGETS = dict(pictures='animals textile mnist5k digits printed elpv_mono elpv_poly textures spectra icons'.split(),
               texts='bbc slovene tomatoes reuters newsgroups'.split(), sounds='words accents voices'.split())
NS = 50, 100, 300
SETTING = dict(n_train=300, n_valid=300, device='cpu', seed=0)
ORDER = np.random.default_rng(0).permutation(300)  # of training items; the first n are n at random
TUNED = 'efficientnet_lite0', 'mobilenet_v2', 'random', 'efficientnet_lite1', 'efficientnet_lite2'  # CRAFT takes twenty times the arithmetic


# Pictures

def network(name, n_out=None):
    "A network by name; 'random' is Lite0 without what it has learned."
    set_seed(0)
    return load('efficientnet_lite0', n_out, pretrained=False) if name == 'random' else load(name, n_out)


def textures():
    "32x32 cuts of three photographs: the left halves to train on, the right halves to be judged by."
    for name in ('brick', 'grass', 'gravel'):
        im = np.array(Image.open(fetch('photos')/f'{name}.png').convert('L'))
        for i in range(0, 512, 32):
            for j in range(0, 512, 32): yield dict(picture=im[i:i+32, j:j+32], label=name, is_valid=j >= 256)


@lru_cache
def made(target):
    if target == 'textures': return pd.DataFrame(list(textures()))
    df = spectra()
    return pd.DataFrame(dict(picture=list(drawn(df.drop(columns='label'))), label=df.label))


def pictures(target, name, **kwargs):
    setting = SETTING | dict(size=64, backbone='efficientnet_lite0' if name == 'random' else name) | kwargs
    return table(made(target), 'picture', 'label', **setting) if target in ('textures', 'spectra') else images(target, **setting)


def all_of(dl):
    "Items and labels of a loader, in order."
    x, y = zip(*((b[0].as_subclass(torch.Tensor), b[1].as_subclass(torch.Tensor)) for b in dl.new(shuffle=False, drop_last=False)))
    return torch.cat(x), torch.cat(y).numpy()


def seen(target):
    "For each network: name, features of training and new pictures, probabilities of the source's classes or None."
    for name in BODIES:
        model, dls = network(name), pictures(target, name)
        train, new = (extract(model, dl, compile=False, progress=False) for dl in dls)
        head = groups(model)[-1]
        p = head(torch.from_numpy(train.x)).softmax(1).detach().numpy().astype(float) if isinstance(head, torch.nn.Linear) else None
        yield name, train, new, p


def pixels(target):
    "What needs no network: the numbers of training and new items."
    dls = pictures(target, 'random')
    if target != 'spectra': return *((torch.nn.functional.adaptive_avg_pool2d(all_of(dl)[0][:, :1], 16).flatten(1).numpy(), all_of(dl)[1]) for dl in dls),
    x = spectra().drop(columns='label').to_numpy()
    at = {o.tobytes(): i for i,o in enumerate(made(target).picture)}  # no two are drawn alike
    return *((x[[at[o.source.tobytes()] for o in ds.items]], all_of(dl)[1]) for ds,dl in ((dls.train_ds, dls.train), (dls.valid_ds, dls.valid))),


# Texts and sounds

def read_by(target):
    "For each layer of two encoders, and for random weights: name, features of training and new texts, None."
    dls = text.texts(target, max_length=64, **SETTING)
    for name, layers in dict(minilm=(2, 4, None), e5=(4, 8, None), random=(None,)).items():
        set_seed(0)
        model = text.load(pretrained=False) if name == 'random' else text.load(name)
        at = [len(groups(model)) - 2 if o is None else o for o in layers]  # None: the last before the head
        parts = [extract(model, fitted(dl, model), layer=at, compile=False, progress=False) for dl in dls]
        for layer, train, new in zip(layers, *parts): yield name if layer is None else f'{name} layer {layer}', train, new, None


def heard(target):
    what = dict(words=dict(label='text', takes=3), accents=dict(label='accent', accents=list(ACCENTS)), voices=dict(label='voice', takes=3))[target]
    return speech.speech('keywords', seconds=1., **SETTING, **what)


def heard_by(target):
    "The layers of Whisper's encoder, and random weights."
    dls = heard(target)
    for name, layers in {'whisper layer': range(6), 'random': [5]}.items():
        set_seed(0)
        model = speech.load(seconds=1., pretrained=name != 'random')
        parts = [extract(model, dl, layer=list(layers), compile=False, progress=False) for dl in dls]
        for layer, train, new in zip(layers, *parts): yield name if name == 'random' else f'{name} {layer}', train, new, None


def without(target, kind):
    "Accuracy of what needs no network, for each number of items."
    if kind == 'texts':
        dls = text.texts(target, max_length=64, **SETTING)
        items = [o for ds in (dls.train_ds, dls.valid_ds) for o in ds.items]
        y = np.array([list(dls.vocab).index(o.label) for o in items])
        for n in NS:
            at = ORDER[:n]
            x = tfidf([o.text for o in items], at)
            yield n, probe(Features(x[at], y[at]), Features(x[300:], y[300:]), folds=3).accuracy
        return
    if kind == 'sounds': (x, y), (new, z) = ((raw('sounds', dl.new(shuffle=False, drop_last=False)), all_of(dl)[1]) for dl in heard(target))
    else: (x, y), (new, z) = pixels(target)
    for n in NS: yield n, SVC(C=10., gamma='scale').fit(x[ORDER[:n]], y[ORDER[:n]]).score(new, z)


# All

def scores(train, new, p):
    "One dict for each number of training items."
    for n in NS:
        at = ORDER[:n]
        x, y = train.x[at].astype(float), train.y[at]
        if n <= len(train.vocab): continue
        t = targets('pairs', y, n)
        z = None if p is None else np.eye(p.shape[1])[p[at].argmax(1)]
        yield dict(n=n, leep=np.nan if p is None else leep_of(p[at])(t), nce=np.nan if p is None else leep_of(z)(t), logme=evidence(x)(t).mean()/n,
                   h_score=h_score_of(x)(t), probe=ridge(x)(t)[0], accuracy=probe(Features(x, y), new, folds=3).accuracy)


def tuned(target, name):
    "Accuracy of LP-FT on the new pictures."
    dls = pictures(target, name, bs=25)
    set_seed(0)
    learn = learner(dls, network(name, dls.c))
    with learn.no_bar(), learn.no_logging():
        lp_ft(learn, 4)
        return float(learn.validate()[1])


def write(rows):
    order = [o for k in TARGETS.values() for o in k]
    df = pd.DataFrame(rows).round(4)
    df.iloc[np.lexsort([df.n, df.target.map(order.index)])].to_csv(FILE, sep='\t', index=False)


def one(target, kind):
    "All rows of a target."
    base = dict(without(target, kind))
    far = unlike_photos(network('efficientnet_lite0'), all_of(pictures(target, 'random').train)[0])[0] if kind == 'pictures' else np.nan
    for name, *found in dict(pictures=seen, texts=read_by, sounds=heard_by)[kind](target):
        for o in scores(*found): yield dict(kind=kind, target=target, body=name, **o, raw=base[o['n']], tuned=np.nan, far=far)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    asked, tune = [o for o in sys.argv[1:] if o != '--tune'], '--tune' in sys.argv
    rows = pd.read_csv(FILE, sep='\t').to_dict('records') if FILE.exists() else []
    for kind, names in TARGETS.items():
        for target in (o for o in names if o in (asked or names)):
            start = time.process_time()
            if not any(o['target'] == target for o in rows): rows += list(one(target, kind))
            write(rows)
            print(f'{target}: {time.process_time() - start:.0f} s', flush=True)
    for body in TUNED if tune else ():  # body by body: whenever it is interrupted, each target has the same ones
        for row in (o for o in rows if (o['kind'], o['n'], o['body']) == ('pictures', 300, body) and o['target'] in (asked or TARGETS['pictures']) and np.isnan(o['tuned'])):
            start = time.process_time()
            row['tuned'] = tuned(row['target'], body)
            write(rows)
            print(f"{row['target']}, {body} tuned: {time.process_time() - start:.0f} s", flush=True)
