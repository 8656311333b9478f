"Features against what the network says itself, a cache that must never give back the wrong thing, and a probe against scikit-learn and by hand."
import copy, os, random, subprocess, sys, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tlcourse import features as F
from tlcourse.features import FeatureError, Features, extract, featurizer, probe, to_head
from tlcourse.speed import fold_batchnorm

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.data.core import Datasets, TfmdDL
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.torch_core import TensorImage
    from fastai.vision.augment import Flip, RandTransform
    from fasttransform import Transform

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


class Net(nn.Sequential):
    "conv-bn-relu, conv-bn, pool and flatten, head; with statistics that differ from a fresh BatchNorm's."
    def __init__(self, seed=0, c=3):
        torch.manual_seed(seed)
        super().__init__(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()), nn.Sequential(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5)),
                         nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(5, c))
        g = torch.Generator().manual_seed(seed)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                for t in (m.weight.data, m.bias.data, m.running_mean, m.running_var): t.copy_(torch.rand(len(t), generator=g) + .5)

def items(n=20, c=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(3, 9, 9, generator=g), i % c) for i in range(n)]

def loader(data=None, bs=6, **kw): return TfmdDL(items() if data is None else data, bs=bs, num_workers=0, **kw)

def direct(model, data, last=3):
    with torch.no_grad(): return nn.Sequential(*list(model.eval())[:last])(torch.stack([x for x,_ in data])).numpy()

def files(home): return sorted((home/'features').glob('*')) if (home/'features').exists() else []

@pytest.fixture
def runs():
    "How many batches went through a body."
    n = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda m, args: n.append(len(args[0])) if isinstance(m, F.Depths) else None)
    yield n
    hook.remove()

def fails(f, *words):
    with pytest.raises(FeatureError) as e: f()
    assert '\n' not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


# One pass ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('fold', [True, False])
def test_same_as_the_network(home, fold):
    m, data = Net(), items()
    f = extract(m, loader(data, shuffle=True, drop_last=True), fold=fold)
    np.testing.assert_allclose(f.x, direct(m, data), rtol=1e-4, atol=1e-5)
    assert f.y.tolist() == [y for _,y in data] and f.x.dtype == np.float32 and f.y.dtype == np.int64 and len(f) == 20
    assert repr(f) == 'Features: x [20, 5] float32, y [20], 0 classes'

def test_layers(home):
    m, data = Net(), items()
    two = extract(m, loader(data), layer=[2, 0])
    np.testing.assert_allclose(two[0].x, direct(m, data), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(two[1].x, direct(m, data, 1).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert isinstance(two, list) and isinstance(extract(m, loader(data), layer=range(1)), list)
    np.testing.assert_array_equal(extract(m, loader(data), layer=0, cache=False).x, two[1].x)

def test_tokens_and_channels_last_maps_are_averaged_over_places():
    x = torch.randn(2, 4, 5, 3)
    assert torch.equal(F.Depths([nn.Identity()], [0], nhwc=True)(x)[0], x.mean((1, 2)))
    assert torch.equal(F.Depths([nn.Identity()], [0])(x[:, 0])[0], x[:, 0].mean(1))

def test_model_and_chance_are_left_alone(home):
    m = Net().train()
    m[1].eval()
    state, modes = copy.deepcopy(m.state_dict()), [o.training for o in m.modules()]
    dl = loader()
    for again in range(2):  # from the network, then from disk
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        extract(m, dl)
        drawn = random.random(), np.random.rand(), torch.rand(1).item()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
    assert [o.training for o in m.modules()] == modes and all(torch.equal(a, b) for a,b in zip(state.values(), m.state_dict().values()))
    f = torch.from_numpy(extract(m, dl, cache=False).x)
    (nn.Linear(5, 2)(f).sum()).backward()  # may enter autograd: no inference tensors

def test_plain_tensors_reach_the_network(home, monkeypatch):
    seen = []
    old = F.Depths.forward
    monkeypatch.setattr(F.Depths, 'forward', lambda self, x: seen.append((type(x), x.is_contiguous(memory_format=torch.channels_last), torch.is_grad_enabled(),
                                                                         torch.is_inference(x))) or old(self, x))
    extract(Net(), loader([(TensorImage(x), y) for x,y in items()]))
    assert set(seen) == {(torch.Tensor, True, False, False)}

def test_a_kind_of_model_of_your_own(home):
    class Text(nn.Module):
        def __init__(self): super().__init__(); self.emb = nn.Embedding(7, 4)
    class Mean(nn.Module):
        def __init__(self, emb): super().__init__(); self.emb = emb
        def forward(self, ids): return [self.emb(ids).mean(1)]
    @featurizer.register
    def _(model:Text, layers=None): return Mean(model.emb)
    m, data = Text(), [(torch.tensor([i % 7, 1, 2]), i % 2) for i in range(9)]
    want = m.emb(torch.stack([x for x,_ in data])).mean(1).detach().numpy()
    np.testing.assert_allclose(extract(m, loader(data)).x, want, rtol=1e-5, atol=1e-6)


# Augmentation and views ----------------------------------------------------------------------------------------------

def pictures(tfms=(), n=20):
    "A training DataLoader with fastai's own split index."
    data = items(n)
    ds = Datasets(range(n), [[lambda i: TensorImage(data[i][0])], [lambda i: torch.tensor(data[i][1])]], splits=[list(range(n)), []])
    return ds.dataloaders(bs=6, num_workers=0, after_batch=list(tfms), device='cpu').train, data

def test_augmentation_is_off(home):
    m = Net()
    dl, data = pictures([Flip(p=1.)])
    np.testing.assert_allclose(extract(m, dl).x, direct(m, data), rtol=1e-4, atol=1e-5)
    x = dl.one_batch()[0]
    assert not any(torch.equal(torch.as_tensor(p), q) for p,(q,_) in zip(x, data))  # and on again

def test_views(home, runs):
    m = Net()
    dl, data = pictures([Flip(p=.5)])
    v = extract(m, dl, views=4)
    assert v.x.shape == (20, 4, 5) and v.y.tolist() == [y for _,y in data]
    both = np.stack([direct(m, data), direct(m, [(x.flip(-1), y) for x,y in data])], 1)
    off = np.abs(v.x[:, :, None] - both[:, None]).max(-1)  # each view is the picture or its mirror image
    assert off.min(2).max() < 1e-4 and .2 < (off.argmin(2) == 1).mean() < .8
    n = len(runs)
    assert (extract(m, dl, views=4).x == v.x).all() and sum(runs[n:]) <= 32                      # from disk, one batch looked at again
    next(iter(dl)), next(iter(dl))                                                               # transforms keep state of their last call
    assert (extract(m, dl, views=4).x == v.x).all() and sum(runs[n:]) <= 64
    assert (extract(m, dl, views=4, cache=False).x == v.x).all()                                 # drawn again
    assert (extract(m, dl, views=4, seed=1).x != v.x).any()

def test_transforms_without_a_dataset_of_fastai(home):
    m, data = Net(), items()
    dl = loader(data, after_batch=[Flip(p=1.)])
    plain = [(TensorImage(x), y) for x,y in data]
    np.testing.assert_allclose(extract(m, loader(plain, after_batch=[Flip(p=1.)])).x, direct(m, data), rtol=1e-4, atol=1e-5)
    flipped = extract(m, loader(plain, after_batch=[Flip(p=1.)]), views=1)
    np.testing.assert_allclose(flipped.x[:, 0], direct(m, [(x.flip(-1), y) for x,y in data]), rtol=1e-4, atol=1e-5)


# Folding -------------------------------------------------------------------------------------------------------------

def count(m): return sum(isinstance(o, nn.modules.batchnorm._BatchNorm) for o in m.modules())

def test_fold():
    m, x = Net().eval(), torch.randn(4, 3, 9, 9)
    body = featurizer(m)
    with torch.no_grad(): f = fold_batchnorm(body, x); torch.testing.assert_close(f(x), body(x))
    assert count(f) == 0 and count(body) == 2
    conv, bn = body.groups[1]
    s = bn.weight/(bn.running_var + bn.eps).sqrt()
    torch.testing.assert_close(f.groups[1][0].weight, conv.weight*s[:, None, None, None])
    torch.testing.assert_close(f.groups[1][0].bias, (conv.bias - bn.running_mean)*s + bn.bias)

@pytest.mark.parametrize('arch', ['tf_efficientnet_lite0', 'resnet18', 'densenet121', 'mobilenetv3_small_050'])
def test_fold_timm(arch):
    import timm
    torch.manual_seed(0)
    m = timm.create_model(arch).eval()
    for o in m.modules():
        if isinstance(o, nn.BatchNorm2d): o.running_mean.normal_(0, .1); o.running_var.uniform_(.5, 2)
    class All(nn.Module):
        def __init__(self): super().__init__(); self.m = m
        def forward(self, x): return [self.m(x)]
    x, body = torch.randn(2, 3, 64, 64), All()
    with torch.no_grad(): f = fold_batchnorm(body, x); torch.testing.assert_close(f(x)[0], m(x), rtol=1e-3, atol=1e-4)
    assert count(f) < count(m)/(1.5 if arch == 'densenet121' else 1e9) or count(f) == 0
    for sides in ((66, 34), (65, 65), (64, 63)): # other padding: even sides, odd ones, one of each
        x = torch.randn(1, 3, *sides)
        with torch.no_grad(): torch.testing.assert_close(f(x)[0], m(x), rtol=1e-3, atol=1e-4)

class Twice(nn.Module):
    "One convolution read by two BatchNorms, and a BatchNorm before its convolution: neither may be folded."
    def __init__(self): super().__init__(); self.c, self.a, self.b, self.d = nn.Conv2d(3, 3, 1), *(nn.BatchNorm2d(3, affine=True) for _ in 'ab'), nn.Conv2d(3, 3, 1)
    def forward(self, x):
        h = self.c(x)
        return [self.d(self.a(h)) + self.b(h) + h]

def test_fold_only_where_it_is_right():
    torch.manual_seed(0)
    m, x = Twice().eval(), torch.randn(4, 3, 5, 5)
    for o in (m.a, m.b): o.running_mean.normal_(); o.running_var.uniform_(.2, 3)
    with torch.no_grad(): torch.testing.assert_close(fold_batchnorm(m, x)(x), m(x))
    assert fold_batchnorm(none := nn.Sequential(nn.Flatten()), x) is none

def test_compile_falls_back(home, monkeypatch):
    def broken(*a, **k): raise RuntimeError('no C++ compiler')
    monkeypatch.setattr(torch, 'compile', broken)
    m, data = Net(), items()
    np.testing.assert_allclose(extract(m, loader(data), compile=True, bs=8).x, direct(m, data), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(torch, 'compile', lambda b, **k: lambda x: [o + 1 for o in b(x)])  # wrong numbers are not taken
    np.testing.assert_allclose(extract(m, loader(data), compile=True, bs=8, cache=False).x, direct(m, data), rtol=1e-4, atol=1e-5)
    used = []
    monkeypatch.setattr(torch, 'compile', lambda b, **k: lambda x: used.append(len(x)) or b(x))
    extract(m, loader(data), compile=True, bs=8, cache=False)
    assert used == [8, 8, 8]  # checked, then used for whole batches; the last, of 4, goes the usual way
    extract(m, loader(data), compile='auto', bs=2, cache=False)
    assert len(used) == 3     # a small job does not wait for it


# The cache ------------------------------------------------------------------------------------------------------------

SCALE = 1.
class Scaled(Transform):
    def __init__(self, by): self.by = by
    def encodes(self, x:TensorImage): return x*self.by

def variants():
    "name -> (model, loader): each differs from 'base' in one thing."
    def dl(tfm=None, data=None): return loader([(TensorImage(x), y) for x,y in (data or items())], after_batch=[tfm] if tfm else None)
    def one(seed=0):
        m = Net(seed)
        return m
    moved, buffer, act, code = Net(), Net(), Net(), Net()
    with torch.no_grad(): moved[0][0].weight[0, 0, 0, 0] += 1e-4; buffer[0][1].running_var[0] += 1e-4
    act[0][2] = nn.LeakyReLU(.1)
    late = items(); late[-1] = (late[-1][0] + 1e-3, late[-1][1])
    label = items(); label[-1] = (label[-1][0], 0)
    return {'base': (one(), dl()), 'weight': (moved, dl()), 'buffer': (buffer, dl()), 'activation': (act, dl()), 'last picture': (one(), dl(data=late)),
            'label': (one(), dl(data=label)), 'fewer': (one(), dl(data=items()[:-1])), 'order': (one(), dl(data=items()[::-1])),
            'parameter': (one(), dl(Scaled(2.))), 'parameter 3': (one(), dl(Scaled(3.))), 'lambda': (one(), dl(lambda x: x*4 if x.ndim == 4 else x)),
            'lambda 5': (one(), dl(lambda x: x*5 if x.ndim == 4 else x)), 'late only': (one(), dl(lambda x: x if x.shape[0] == 8 or x.ndim == 1 else x + 1))}

def test_every_difference_is_a_miss(home):
    got = {k: extract(*v) for k,v in variants().items()}
    assert len(files(home)) == len(got)
    again = {k: extract(*v) for k,v in variants().items()}  # made anew, with other addresses
    assert len(files(home)) == len(got) and all((got[k].x == again[k].x).all() for k in got)

def test_hits_do_not_run(home, runs):
    extract(Net(), loader())
    n = len(runs)
    extract(Net(c=7), loader(bs=3, shuffle=True))  # the head, the batch size and the order do not matter
    assert sum(runs[n:]) == 8 and len(files(home)) == 1  # eight are looked at again
    extract(Net(), loader(), layer=1), extract(Net(), loader(), fold=False)
    assert len(files(home)) == 3

def test_a_global_variable_is_seen(home, monkeypatch):
    dl = loader([(TensorImage(x), y) for x,y in items()], after_batch=[lambda x: x*SCALE if x.ndim == 4 else x])
    a = extract(Net(), dl)
    monkeypatch.setitem(globals(), 'SCALE', 2.)
    assert (extract(Net(), dl).x != a.x).any()

def test_files(home, tmp_path, runs):
    from tlcourse.data import folder
    from PIL import Image
    rng = np.random.default_rng(0)
    for c in 'ab':
        (tmp_path/'pics'/c).mkdir(parents=True)
        for i in range(4): Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path/'pics'/c/f'{i}.png')
    def get(): return extract(Net(), folder(tmp_path/'pics', size=16, device='cpu').train)
    a = get(); n = len(runs)
    assert a.vocab == ['a', 'b'] and (get().x == a.x).all() and sum(runs[n:]) == len(a)
    for f in (tmp_path/'pics').rglob('*.png'): Image.new('RGB', (16, 16)).save(f); os.utime(f, (1, 1))
    assert (get().x != a.x).any()

@pytest.mark.parametrize('harm', [lambda b: b[:-7], lambda b: b'', lambda b: b'pickle', lambda b: b[:-40] + bytes(40), lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]])
def test_damaged_files_are_taken_anew(home, harm):
    a = extract(Net(), loader())
    f, = files(home)
    good = f.read_bytes()
    f.write_bytes(harm(good))
    assert (extract(Net(), loader()).x == a.x).all() and f.read_bytes() == good

def test_a_file_of_other_features_is_not_taken(home):
    a = extract(Net(), loader()); f, = files(home)
    b = extract(Net(1), loader()); g, = [o for o in files(home) if o != f]
    f.write_bytes(g.read_bytes())
    assert (extract(Net(), loader()).x == a.x).all() and (a.x != b.x).any()

def test_no_pickle_on_disk(home):
    from safetensors import safe_open
    extract(Net(), loader())
    f, = files(home)
    with safe_open(f, 'numpy') as s: assert set(s.keys()) == {'x', 'y', 'widths', 'n', 'check'}

def test_what_cannot_be_compared_is_not_kept(home):
    import threading
    lock = threading.Lock()
    with pytest.warns(UserWarning, match='not kept on disk'): extract(Net(), loader(after_batch=[lambda x: (lock, x)[1]]))
    assert not files(home)

def test_full_disk(home, monkeypatch):
    from tlcourse import core
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(F._store, 'told', False)
    with monkeypatch.context() as m:
        m.setattr(core.os, 'replace', full)
        with pytest.warns(UserWarning, match='No space left on device') as w: f = extract(Net(), loader())
        extract(Net(1), loader())
    assert len(w) == 1 and f.x.shape == (20, 5) and not files(home)  # said once, and nothing half written is left

def test_a_home_that_cannot_be_written(home, monkeypatch, tmp_path):
    "As in a class that shares one: features go to a folder of the user's own, without a word."
    import platformdirs
    home.mkdir(); (home/'features').write_text('in the way')
    monkeypatch.setattr(platformdirs, 'user_cache_path', lambda *a, **k: tmp_path/'mine')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        a = extract(Net(), loader())
    assert len(list((tmp_path/'mine'/'features').glob('*.safetensors'))) == 1 and (extract(Net(), loader()).x == a.x).all()

def test_bounded(home, monkeypatch):
    for s in range(3): extract(Net(s), loader()); os.utime(files(home)[-1])
    monkeypatch.setattr(F._store, 'limit', 2.5*files(home)[0].stat().st_size)
    extract(Net(9), loader())
    assert len(files(home)) == 2

@pytest.mark.parametrize('views', [None, 3])
def test_interrupted(home, monkeypatch, runs, views):
    m = Net()
    dl, data = pictures([Flip(p=.5)])
    whole = extract(m, dl, views=views, bs=4, cache=False)
    old, seen = F._plain, []
    def stop(x):
        seen.append(1)
        if len(seen) == 4: raise KeyboardInterrupt
        return old(x)
    monkeypatch.setattr(F, '_plain', stop)
    with pytest.warns(UserWarning, match='stopped after 8 of'), pytest.raises(KeyboardInterrupt): extract(m, dl, views=views, bs=4)
    monkeypatch.setattr(F, '_plain', old)
    runs.clear()
    got = extract(m, dl, views=views, bs=4)
    np.testing.assert_allclose(got.x, whole.x, rtol=1e-5, atol=1e-6)
    again = 8 if views is None else 4  # what is there is looked at again, then the rest runs
    assert sum(runs) == again + 2 + 2 + 20*(views or 1) - 8 and len(files(home)) == 1
    runs.clear()
    assert (extract(m, dl, views=views, bs=4).x == got.x).all() and sum(runs) == again

def test_another_process_finds_them(home, tmp_path):
    code = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_features import *\nv = variants()\nfor k in v: extract(*v[k])\n'
    count = []
    for seed in '12':
        r = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONHASHSEED': seed}, capture_output=True, encoding='utf-8', timeout=300)
        assert r.returncode == 0, r.stderr
        count.append(len(files(home)))
    assert count[0] == count[1] == len(variants())


# What is refused ------------------------------------------------------------------------------------------------------

def test_refusals(home):
    m = Net()
    fails(lambda: extract(m, loader(), layer=3), 'layer', '0 to 2')
    fails(lambda: extract(m, loader(), layer=[0, -1]), '0 to 2')
    fails(lambda: extract(m, loader(), layer=[]), '0 to 2')
    fails(lambda: extract(m, loader(), views=0), 'views=0')
    fails(lambda: extract(m, loader([])), 'no items')
    fails(lambda: extract(m, items()), 'dls.train')
    fails(lambda: extract(m, torch.utils.data.DataLoader(items())), 'dls.train')
    fails(lambda: extract(nn.Sequential(nn.Linear(2, 2)), loader()), '1 layer group')
    fails(lambda: extract(m, loader([(x, [1., 0.]) for x,_ in items()])), 'one tensor')
    dl = loader(); dl.dataset = type('D', (list,), dict(vocab=['a', 'b']))(items())
    fails(lambda: extract(m, dl), '0 to 2', '2 classes')
    transformers = pytest.importorskip('transformers')
    bert = transformers.BertModel(transformers.BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=10))
    fails(lambda: extract(bert, loader()), 'featurizer.register')

def test_the_normalization_is_compared(home):
    m = Net()
    m.pretrained_cfg = dict(input_size=(3, 9, 9), mean=(.5,)*3, std=(.25,)*3, interpolation='bicubic', crop_pct=1.)
    data = [(TensorImage((x*40+128).clamp(0, 255).byte()), y) for x,y in items()]
    def dl(*tfms): return loader(data, after_batch=[IntToFloatTensor(), *tfms])
    fails(lambda: extract(m, dl(Normalize.from_stats((.4,)*3, (.25,)*3, cuda=False))), '[0.4, 0.4, 0.4]', '[0.5, 0.5, 0.5]', 'backbone=model')
    fails(lambda: extract(m, dl()), 'mean [0', '[0.5, 0.5, 0.5]')
    assert len(extract(m, dl(Normalize.from_stats((.5,)*3, (.25,)*3, cuda=False)))) == 20
    assert len(extract(m, loader())) == 20  # tensors that may be normalized already


# The probe ------------------------------------------------------------------------------------------------------------

def blobs(n=60, d=8, c=3, seed=0, far=2., centers=0):
    rng, at = np.random.default_rng(seed), np.random.default_rng(centers).normal(size=(c, d))*far
    y = np.arange(n) % c
    return Features((at[y] + rng.normal(size=(n, d))).astype(np.float32)*7 + 3, y, [str(o) for o in range(c)])

@pytest.mark.parametrize('n,d,c', [(60, 8, 3), (12, 40, 3), (30, 50, 2)])
@pytest.mark.parametrize('C', [.01, 1.])
def test_same_as_scikit_learn(n, d, c, C):
    a, b = blobs(n, d, c), blobs(100, d, c, seed=1)
    p = probe(a, b, Cs=[C])
    mean, scale = a.x.mean(0), a.x.std()
    want = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit((a.x - mean)/scale, a.y)
    np.testing.assert_allclose(p.predict_proba(b.x), want.predict_proba((b.x - mean)/scale), atol=5e-3)
    assert p.accuracy == p.score(b.x, b.y) and p.C == C

def test_the_strength_is_chosen_inside_train():
    a, b = blobs(40, 60, 2, far=.1), blobs(400, 60, 2, seed=1, far=.1)
    p = probe(a, b)
    upside = Features(b.x, 1 - b.y, b.vocab)
    assert probe(a, upside).C == p.C == probe(a).C and probe(a, upside).accuracy == pytest.approx(1 - p.accuracy) and not hasattr(probe(a), 'accuracy')
    assert p.C == p.losses.idxmin() and p.C < 1  # weak signal: held back
    assert probe(blobs(200, 4, 2, far=5)).C >= 1  # strong signal: let go

def test_two_pictures_a_class_or_one():
    for n in (6, 3, 4, 2): assert probe(blobs(n, 20, min(n, 3), far=9), blobs(30, 20, min(n, 3), seed=1, far=9)).accuracy > .9

def test_views_of_one_picture_stay_in_one_fold(monkeypatch):
    "Noise labels and near copies: with copies on both sides of a cut the probe would seem to work."
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 1, 30)).astype(np.float32), rng.integers(0, 2, 40)
    v = Features(x + .01*rng.normal(size=(40, 5, 30)).astype(np.float32), y, ['a', 'b'])
    assert probe(v).losses.min() > .6
    assert probe(v).coef_.shape == (1, 30)
    leaky = Features(v.x.reshape(200, 30), y.repeat(5), v.vocab)
    assert probe(leaky).losses.min() < .6

@pytest.mark.parametrize('c', [2, 3])
def test_to_head(c):
    a, m = blobs(60, 5, c), Net(c=c)
    p = probe(a)
    to_head(p, m)
    with torch.no_grad(): got = m[-1](torch.from_numpy(a.x)).softmax(1).numpy()
    np.testing.assert_allclose(got, p.predict_proba(a.x), atol=1e-4)

def test_probe_refuses():
    a = blobs()
    fails(lambda: probe(Features(a.x, a.y*0, a.vocab)), 'one class')
    fails(lambda: probe(a, blobs(d=9)), '8 features', '9')
    fails(lambda: probe(Features(a.x, a.y[:-1], a.vocab)), '[60, 8]', '[59]')
    fails(lambda: probe(Features(a.x, a.y + 1, a.vocab)), '1 to 3', '3 classes')
    fails(lambda: probe(a, Features(a.x, a.y - 1, a.vocab)), 'valid', '-1 to 1')
    fails(lambda: probe(Features(a.x*np.nan, a.y, a.vocab)), 'not finite')
    fails(lambda: probe(Features(a.x[:0], a.y[:0], a.vocab)), '[0, 8]')
    fails(lambda: to_head(probe(blobs(d=5)), Net(c=4)), 'one output for each class')
    two = blobs(d=5); two = Features(two.x[two.y < 2], two.y[two.y < 2] + 1, two.vocab)
    fails(lambda: to_head(probe(two), Net(c=2)), '[1, 2]')


def test_import_is_quiet():
    r = subprocess.run([sys.executable, '-c', 'import tlcourse.features'], capture_output=True, encoding='utf-8', timeout=120)
    assert r.returncode == 0 and not r.stdout + r.stderr
