"Features against what the network says itself, a cache that must never give back the wrong thing, and a probe against scikit-learn and by hand."
import copy, os, random, subprocess, sys, warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from changes import draws
from tlcourse import features as F, speed
from tlcourse.features import FeatureError, Features, extract, featurizer, probe, to_head
from tlcourse.speed import fold_batchnorm, lacking

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.data.core import Datasets, TfmdDL
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.torch_core import TensorImage
    from fastai.vision.augment import Flip, RandTransform
    from fasttransform import ItemTransform, Transform

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

class Counts(nn.Module):
    "Writes to itself as it runs."
    def __init__(self): super().__init__(); self.register_buffer('n', torch.zeros(1)); self.calls, self.twice = 0, nn.ReLU(); self.again = self.twice
    def forward(self, x): self.n += 1; self.calls += 1; return self.again(self.twice(x))

@pytest.mark.parametrize('train', [True, False])
def test_a_network_that_writes_to_itself_is_left_alone(home, runs, train):
    m, data = nn.Sequential(*list(Net())[:2], Counts(), *list(Net())[2:]).train(train), items()
    def look(): return [(p.data_ptr(), p.stride()) for p in m.parameters()], [b.clone() for b in m.buffers()], m[2].calls, {o.training for o in m.modules()}
    before = look()
    first, second = extract(m, loader(data)), (runs.clear(), extract(m, loader(data)))[1]
    after = look()
    assert before[0] == after[0] and all(map(torch.equal, before[1], after[1])) and before[2:] == after[2:] == (0, {train})
    assert sum(runs) == 8 and (first.x == second.x).all()
    np.testing.assert_allclose(first.x, direct(copy.deepcopy(m), data, 4), rtol=1e-4, atol=1e-5)

def test_a_scripted_part(home, runs):
    m, data = nn.Sequential(Net()[0], nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(6, 5, 3).eval(), nn.ReLU())), nn.Flatten()), nn.Linear(5, 2)).eval(), items()
    np.testing.assert_allclose(extract(m, loader(data), cache=False).x, direct(m, data, 2), rtol=1e-4, atol=1e-5)

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

def test_sixty_changes_drawn_at_random(home, tmp_path):
    "Cached features are the fresh ones after whatever change, and come from disk where nothing changed."
    seen = list(draws(60, tmp_path))
    assert not [what for what,_,right in seen if not right]
    hits = [hit for what,hit,_ in seen if what == 'nothing']
    assert len(hits) >= 15 and all(hits) and len({what for what,*_ in seen}) >= 15


# Attacks on the cache: something changes, and the cached answer must be the fresh one -------------------------------------

def small(head=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(16, head)).eval()

@pytest.fixture
def pngs(tmp_path):
    "Sixteen pictures of 12 x 12 in files 0.bmp to 15.bmp, all of one size."
    from PIL import Image
    at = tmp_path/'pngs'; at.mkdir()
    for i in range(16): Image.fromarray(np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(at/f'{i}.bmp')
    return at

def stays_right(model, dl, change, dl2=None, **kwargs):
    "Fill the cache, change something, and compare the cache's answer with a fresh one; gives the answers before and after."
    before = extract(model, dl, progress=False, **kwargs)
    change()
    dl2 = dl2() if dl2 else dl
    got, want = (extract(model, dl2, progress=False, cache=c, **kwargs) for c in (True, False))
    assert got.x.shape == want.x.shape and got.vocab == want.vocab
    np.testing.assert_allclose(got.x, want.x, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(got.y, want.y)
    return before, got

def differ(before, got): assert before.x.shape != got.x.shape or np.abs(before.x - got.x).max() > 1e-4  # the attack was one

def from_df(df, pngs):
    from fastai.vision.data import ImageDataLoaders
    return ImageDataLoaders.from_df(df, pngs, fn_col='f', label_col='y', valid_pct=.5, seed=0, bs=4, num_workers=0, device='cpu')

def table(n=16): return pd.DataFrame(dict(f=[f'{i}.bmp' for i in range(n)], y=(['a', 'b']*n)[:n]))

TABLE = {}
def by_table(o): return 'ab'[TABLE[Path(o).stem]]

def by_block(items, get_y=by_table):
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import IndexSplitter
    from fastai.vision.data import ImageBlock
    return DataBlock((ImageBlock, CategoryBlock(vocab=['a', 'b'])), get_y=get_y, splitter=IndexSplitter(range(8, len(items)))).dataloaders(items, bs=4, num_workers=0, device='cpu')

def test_a_label_corrected_in_row_12(home, pngs):
    for part in (0, 1):  # row 12 is in one of them
        df = table()
        def correct(): df.loc[12, 'y'] = 'b' if df.y[12] == 'a' else 'a'
        before, got = stays_right(small(), from_df(df, pngs)[part], correct, lambda: from_df(df, pngs)[part])
        assert (before.x == got.x).all() and (before.y != got.y).sum() == (12 in from_df(df, pngs)[part].items.index)

def test_a_label_corrected_in_a_global_table(home, pngs):
    TABLE.update({str(i): i % 2 for i in range(16)})
    items = [pngs/f'{i}.bmp' for i in range(16)]
    dl = by_block(items).valid
    before, got = stays_right(small(), dl, lambda: TABLE.update({'12': 1 - TABLE['12']}))  # the very same loader
    assert (before.y != got.y).tolist() == [i == 12 for i in range(8, 16)] and (before.x == got.x).all()

def test_a_longer_table_does_not_go_on_from_a_shorter(home, pngs, runs):
    TABLE.update({str(i): i % 2 for i in range(16)})
    items = [pngs/f'{i}.bmp' for i in range(16)]
    before, got = stays_right(small(), by_block(items[:14]).valid, lambda: None, lambda: by_block(items).valid)
    assert len(before) == 6 and len(got) == 8 and sum(runs) >= 6 + 8 + 8

def test_a_picture_replaced_on_disk_where_items_are_strings(home, pngs, monkeypatch):
    "One that is not looked at again, and of the same size."
    from PIL import Image
    monkeypatch.setattr(F, '_as_kept', lambda *a, **k: True)  # the name alone must tell
    items = [str(pngs/f'{i}.bmp') for i in range(16)]
    def replace():
        size = (pngs/'9.bmp').stat().st_size
        Image.new('RGB', (12, 12), 'red').save(pngs/'9.bmp')
        assert (pngs/'9.bmp').stat().st_size == size
        os.utime(pngs/'9.bmp', ns=(1, 1))
    before, got = stays_right(small(), by_block(items, lambda o: 'ab'[int(Path(o).stem) % 2]).valid, replace)
    assert (before.x != got.x).any(1).tolist() == [i == 9 for i in range(8, 16)]

def test_a_picture_replaced_that_rows_of_a_table_name(home, pngs, monkeypatch):
    from PIL import Image
    monkeypatch.setattr(F, '_as_kept', lambda *a, **k: True)
    def replace(): Image.new('RGB', (12, 12), 'red').save(pngs/'9.bmp'); os.utime(pngs/'9.bmp', ns=(1, 1))
    changed = [stays_right(small(), dl, replace) for dl in from_df(table(), pngs)]
    assert (changed[0][0].x != changed[0][1].x).any() or 9 in from_df(table(), pngs).valid.items.index

GAIN = 2.
def helper(x): return x*GAIN
class Helped(nn.Module):
    level = 1.
    def __init__(self): super().__init__(); self.c = nn.Conv2d(3, 4, 3)
    def forward(self, x): return (helper(self.c(x))*type(self).level).mean((2, 3))
class Calls(nn.Module):
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, x): return self.f(x)
def helped(): torch.manual_seed(0); return nn.Sequential(Helped(), nn.Linear(4, 2)).eval()

@pytest.fixture(params=[True, False], ids=['verified', 'by name alone'])
def verified(request, monkeypatch):
    "The name must change, whether or not eight items are looked at again."
    if not request.param: monkeypatch.setattr(F, '_as_kept', lambda *a, **k: True)

def test_a_helper_defined_anew(home, monkeypatch, verified):
    differ(*stays_right(helped(), loader(), lambda: monkeypatch.setitem(globals(), 'helper', lambda x: x*GAIN + 1)))

def test_a_constant_that_forward_looks_up(home, monkeypatch, verified):
    differ(*stays_right(helped(), loader(), lambda: monkeypatch.setitem(globals(), 'GAIN', 3.)))

def test_an_attribute_of_the_class(home, monkeypatch, verified):
    differ(*stays_right(helped(), loader(), lambda: monkeypatch.setattr(Helped, 'level', 2.)))

def test_a_method_replaced_by_patch(home, monkeypatch, verified):
    from fastcore.basics import patch
    monkeypatch.setattr(Helped, 'forward', Helped.forward)  # put back in the end
    def change():
        @patch
        def forward(self:Helped, x): return self.c(x).amax((2, 3))
    differ(*stays_right(helped(), loader(), change))

def test_weights_in_a_closure(home, verified):
    inner = nn.Conv2d(3, 4, 3)
    m = nn.Sequential(Calls(lambda x: inner(x).mean((2, 3))), nn.Linear(4, 2)).eval()
    differ(*stays_right(m, loader(), lambda: inner.weight.data.add_(1.)))

def test_autocast(home, verified):
    m, dl = small(), loader()
    plain = extract(m, dl)
    with torch.autocast('cpu', torch.bfloat16): got, want = extract(m, dl), extract(m, dl, cache=False)
    assert (got.x == want.x).all() and (got.x != plain.x).any() and (extract(m, dl).x == plain.x).all()

def test_batches_cut_elsewhere(home, verified):
    def cut(dl, n):
        old = dl.create_batch
        def create(b): x, y = old(b); return x[..., :n], y
        dl.create_batch = create
        return dl
    m, dl = small(), loader()
    differ(*stays_right(m, dl, lambda: None, lambda: cut(loader(), 7)))
    differ(*stays_right(m, cut(loader(), 7), lambda: None, lambda: cut(loader(), 6)))

class Sliced(TfmdDL):
    "A loader with an attribute of its own."
    def __init__(self, dataset, n=9, **kwargs): super().__init__(dataset, **kwargs); self.sides = n
    def new(self, *args, **kwargs): return super().new(*args, n=self.sides, **kwargs)
    def create_batch(self, b): x, y = super().create_batch(b); return x[..., :self.sides], y

def test_an_attribute_of_the_loader(home, verified):
    m, dl = small(), Sliced(items(), bs=4, num_workers=0)
    next(iter(dl))  # an iteration that was broken off leaves things behind
    differ(*stays_right(m, dl, lambda: setattr(dl, 'sides', 7)))

def test_another_pooling_of_a_vision_transformer(home, verified):
    import timm
    v = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=2, global_pool='avg', depth=1).eval()
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(3, 32, 32, generator=g), i % 2) for i in range(8)]
    differ(*stays_right(v, loader(data), lambda: v.reset_classifier(2, global_pool='token')))

def test_labels_that_a_batch_transform_changes(home, runs):
    class Swap(ItemTransform):
        def encodes(self, b): return b[0], 1 - b[1]
    for again in range(2):
        f = extract(small(), loader([(x, y % 2) for x,y in items()], after_batch=[Swap()]))
        assert f.y.tolist() == [1 - i % 3 % 2 for i in range(20)]


# Kinds of networks, items and labels ----------------------------------------------------------------------------------

def test_half_precision(home):
    m = small().bfloat16()
    f = extract(m, loader(), fold=False)
    with torch.no_grad(): want = m[0](torch.stack([x for x,_ in items()]).bfloat16()).float().numpy()
    assert f.x.dtype == np.float32
    np.testing.assert_allclose(f.x, want, rtol=.02, atol=.01)
    np.testing.assert_allclose(extract(m, loader(), cache=False).x, want, rtol=.05, atol=.03)

def test_batchnorm_without_statistics_is_refused(home):
    m = small()
    m[0][1] = nn.BatchNorm2d(4, track_running_stats=False)
    fails(lambda: extract(m, loader()), 'BatchNorm2d', 'track_running_stats=True')

def test_a_sparse_buffer(home, runs):
    m = small()
    m[0].register_buffer('graph', torch.eye(3).to_sparse())
    extract(m, loader())
    n = len(runs)
    extract(m, loader())
    assert sum(runs[n:]) == 8 and len(files(home)) == 1
    m[0].graph = (2*torch.eye(3)).to_sparse()
    extract(m, loader())
    assert len(files(home)) == 2

@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')], ids=['DataParallel', 'compile'])
def test_wrapped_networks_are_unwrapped(home, runs, wrap):
    a = extract(small(), loader())
    n = len(runs)
    assert (extract(wrap(small()), loader()).x == a.x).all() and sum(runs[n:]) == 8 and len(files(home)) == 1  # the same network, so the same name

def test_items_without_labels(home, pngs):
    df = table()
    dls = from_df(df, pngs)
    f = extract(small(), dls.test_dl(df.iloc[:3]))
    assert f.x.shape == (3, 16) and f.y is None and 'no labels' in repr(f)
    m = small()
    with_labels = extract(m, dls.test_dl(df.iloc[:3], with_labels=True))
    np.testing.assert_allclose(with_labels.x, f.x, rtol=1e-4, atol=1e-5)
    assert with_labels.y.tolist() == [0, 1, 0]
    fails(lambda: probe(f), 'no labels')
    one = extract(m, dls.test_dl(df.iloc[:3]))  # from disk
    assert one.y is None

def test_one_tensor_an_item(home):
    data = torch.stack([x for x,_ in items()])
    f = extract(small(), TfmdDL([(x,) for x in data], bs=4, num_workers=0))
    assert f.y is None and len(f) == 20

@pytest.mark.parametrize('make,dtype,shape', [(lambda i: torch.tensor([i % 2, i % 3 == 0, 1 - i % 2]).float(), np.float32, (20, 3)),
                                              (lambda i: torch.tensor(i/7), np.float32, (20,)), (lambda i: torch.tensor([i/7, -i/3]), np.float32, (20, 2))],
                         ids=['several labels', 'a number', 'two numbers'])
def test_other_labels(home, make, dtype, shape):
    data = [(x, make(i)) for i,(x,_) in enumerate(items())]
    for again in range(2):
        f = extract(small(), loader(data))
        assert f.y.dtype == dtype and f.y.shape == shape
        np.testing.assert_allclose(f.y, np.stack([np.asarray(y) for _,y in data]), rtol=1e-6)


# Processes that load --------------------------------------------------------------------------------------------------

class Half(Transform):
    def encodes(self, x:TensorImage): return x*.5

class Scene:
    "Pictures that a process makes for itself; at the top of a module, so that it goes to processes that are spawned."
    def __len__(self): return 12
    def __getitem__(self, i): return TensorImage(torch.full((3, 9, 9), float(i)) + torch.arange(9.)), i % 3

@pytest.fixture(params=['spawn', 'fork'])
def start_method(request):
    import multiprocessing
    if request.param not in multiprocessing.get_all_start_methods(): pytest.skip(f'there is no {request.param} here')
    old = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(old, force=True)

def test_processes_that_load(home, start_method, runs):
    def dl(workers): return TfmdDL(Scene(), bs=4, num_workers=workers, after_item=[Half()])
    want = extract(small(), dl(0), cache=False)
    got = extract(small(), dl(2), bs=4)
    np.testing.assert_allclose(got.x, want.x, rtol=1e-4, atol=1e-5)
    n = len(runs)
    assert got.y.tolist() == want.y.tolist() and (extract(small(), dl(0)).x == got.x).all() and sum(runs[n:]) == 8


# What once went wrong -------------------------------------------------------------------------------------------------

def test_a_longer_file_is_refused(home):
    "Features of more items than there are, under the right name and with a right checksum."
    a = extract(small(), loader())
    f, = files(home)
    kept = F._store.get(f.stem)
    F._store.put(f.stem, **{k: np.concatenate([v, v]) if k in 'xy' else v for k,v in kept.items()})
    assert (extract(small(), loader()).x == a.x).all()
    F._store.put(f.stem, **kept | dict(n=np.asarray(21)))
    assert (extract(small(), loader()).x == a.x).all()

def test_batches_draw_different_views(home):
    "Of one picture twenty times over, noise makes as many different ones: no two batches are seeded alike."
    class Noise(RandTransform):
        split_idx = 0
        def encodes(self, x:TensorImage): return x + torch.randn_like(x)
    x = TensorImage(torch.zeros(3, 9, 9))
    v = extract(small(), loader([(x, 0)]*20, after_batch=[Noise()]), views=2, bs=4).x.reshape(40, -1)
    assert len(np.unique(v.round(4), axis=0)) == 40

@pytest.mark.parametrize('breaks', [False, True])
def test_the_mode_of_the_network_is_put_back(home, monkeypatch, breaks):
    m = small().train()
    m[0][1].eval()
    before, modes = copy.deepcopy(m.state_dict()), [o.training for o in m.modules()]
    if breaks: monkeypatch.setattr(F.Depths, 'forward', lambda self, x: 1/0)
    try: extract(m, loader())
    except ZeroDivisionError: assert breaks
    assert [o.training for o in m.modules()] == modes
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())


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

def test_class_weight_is_scikit_learns():
    a, b = blobs(90, 8, 3, far=.5), blobs(60, 8, 3, seed=1, far=.5)
    keep = np.r_[np.flatnonzero(a.y == 0), np.flatnonzero(a.y > 0)[:12]]
    a = Features(a.x[keep], a.y[keep], a.vocab)
    z, mean, scale = (a.x - a.x.mean(0))/a.x.std(), a.x.mean(0), a.x.std()
    for weight in ('balanced', {0: 1, 1: 5, 2: 2}, None):
        want = LogisticRegression(C=.1, tol=1e-8, max_iter=10_000, class_weight=weight).fit(z, a.y).predict_proba((b.x - mean)/scale)
        np.testing.assert_allclose(probe(a, b, Cs=[.1], class_weight=weight).predict_proba(b.x), want, atol=5e-3)
    assert np.abs(probe(a, Cs=[.1], class_weight='balanced').predict_proba(b.x) - want).max() > .05
    fails(lambda: probe(Features(a.x, a.y/3.), class_weight='balanced'), 'class_weight')

def test_to_head_of_several_labels_and_numbers():
    from sklearn.linear_model import Ridge
    a = blobs(60, 5, 3)
    labels = Features(a.x, np.eye(3, dtype=np.float32)[a.y], a.vocab)
    p, m = probe(labels), Net(c=3)
    with torch.no_grad(): got = to_head(p, m)[-1](torch.from_numpy(a.x)).sigmoid().numpy()
    np.testing.assert_allclose(got, p.predict_proba(a.x), atol=1e-4)
    rng = np.random.default_rng(0)
    for y in (a.x@rng.normal(size=5).astype(np.float32), a.x@rng.normal(size=(5, 2)).astype(np.float32)):
        p, m = probe(Features(a.x, y), Cs=[1., 10.]), Net(c=1 if y.ndim == 1 else 2)
        with torch.no_grad(): got = to_head(p, m)[-1](torch.from_numpy(a.x)).numpy()
        np.testing.assert_allclose(got.reshape(y.shape), p.predict(a.x), rtol=1e-3, atol=1e-2)
        z = (a.x - a.x.mean(0))/a.x.std()
        np.testing.assert_allclose(p.predict(a.x), Ridge(p.alpha_).fit(z, y).predict(z), rtol=1e-3, atol=1e-2)

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


# Another runtime -----------------------------------------------------------------------------------------------------

fast = pytest.mark.skipif(lacking('openvino') is not None, reason='openvino is not installed')

@pytest.fixture
def engines(monkeypatch):
    "How many networks were given to another runtime."
    made = []
    monkeypatch.setattr(F, '_engines', OrderedDict())
    monkeypatch.setattr(F, 'engine', lambda *args: made.append(args[2:]) or speed.engine(*args))
    return made

@fast
@pytest.mark.parametrize('layer', [None, [2, 0]])
def test_openvino_says_the_same(home, engines, layer):
    m, data = Net(), items()
    got, want = (extract(m, loader(data), layer=layer, cache=False, **kw) for kw in (dict(backend='openvino'), {}))
    for a,b in zip(got if layer else [got], want if layer else [want]):
        assert a.x.dtype == np.float32 and a.y.tolist() == b.y.tolist()
        assert (np.linalg.norm(a.x - b.x, axis=1) <= 1e-4*np.linalg.norm(b.x, axis=1)).all()
    assert engines == [('openvino', torch.float32, False)]

@fast
def test_a_network_goes_to_the_runtime_once(home, engines):
    m = Net()
    extract(m, loader(items()), backend='openvino'), extract(m, loader(items(seed=1)), backend='openvino')
    assert len(engines) == 1
    with torch.no_grad(): m[0][0].weight.mul_(1.5)
    np.testing.assert_allclose(extract(m, loader(items()), backend='openvino').x, direct(m, items()), rtol=1e-4, atol=1e-5)
    assert len(engines) == 2

@pytest.mark.parametrize('backend', ['torch', pytest.param('openvino', marks=fast)])
def test_bfloat16_is_rounded_and_kept_as_exactly_as_ever(home, runs, backend):
    m, data = Net(), items()
    kw = dict(backend=backend, dtype='bfloat16')
    got, want = extract(m, loader(data), bs=10, **kw), direct(m, data)
    off = np.linalg.norm(got.x - want, axis=1)/np.linalg.norm(want, axis=1)
    assert got.x.dtype == np.float32 and off.max() < .05 and (backend == 'openvino' or off.max() > 1e-5)
    runs.clear()
    assert (extract(m, loader(data), bs=10, **kw).x == got.x).all() and sum(runs) == 8     # from disk, eight looked at again, in float32
    [f] = files(home)
    arrays = F._store.get(f.stem)
    F._store.put(f.stem, **dict(arrays, seen=arrays['seen']*np.float32(1.005)))            # less than bfloat16 tells apart
    runs.clear()
    extract(m, loader(data), bs=10, **kw)
    assert sum(runs) > 8

@fast
def test_backend_and_dtype_are_part_of_the_key(home):
    m, ways = Net(), [{}, dict(dtype='bfloat16'), dict(backend='openvino'), dict(backend='openvino', dtype=torch.bfloat16), dict(backend='auto')]
    for i,kw in enumerate(ways):
        extract(m, loader(), **kw)
        assert len(files(home)) == i + 1
    extract(m, loader(), backend='openvino', dtype='bfloat16'), extract(m, loader(), backend='torch', dtype='float32')
    assert len(files(home)) == len(ways)

@pytest.mark.parametrize('kw, words', [(dict(backend='jax'), ("backend='jax'", "'openvino'")), (dict(backend=None), ('backend=None',)), (dict(dtype='float16'), ("dtype='float16'", 'bfloat16')),
                                       (dict(dtype=torch.int8), ('dtype=torch.int8',)), (dict(backend='onnx', dtype='bfloat16'), ('onnxruntime', "backend='openvino'"))])
def test_a_backend_or_dtype_that_there_is_not(kw, words): fails(lambda: extract(Net(), loader(), cache=False, **kw), *words)

def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(speed, 'find_spec', lambda name: None)
    fails(lambda: extract(Net(), loader(), cache=False, backend='openvino'), "needs openvino; run pip install 'tlcourse[fast]'")
    fails(lambda: extract(Net(), loader(), cache=False, backend='onnx'), 'needs onnxruntime')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        np.testing.assert_array_equal(extract(Net(), loader(), cache=False, backend='auto').x, extract(Net(), loader(), cache=False).x)

class Odd(nn.Module):
    "Says something else of each batch; and what is written down of it once, says the first."
    n = 0
    def forward(self, x): Odd.n += 1; return x*(1 + Odd.n % 7)

class Stubborn(nn.Module):
    def forward(self, x):
        if torch.jit.is_tracing(): raise RuntimeError('this cannot be traced\nat all')
        return x

@fast
@pytest.mark.parametrize('part, words', [(Odd, 'off by'), (Stubborn, 'this cannot be traced')])
def test_torch_runs_what_the_runtime_cannot(home, engines, part, words):
    net = Net()
    m = nn.Sequential(net[0], net[1], part(), net[2], net[3])
    with pytest.warns(UserWarning, match=words) as told: f = extract(m, loader(), backend='openvino', cache=False, fold=False)
    assert len(told) == 1 and '\n' not in str(told[0].message) and "backend='openvino'" in str(told[0].message)
    if part is Stubborn: np.testing.assert_allclose(f.x, direct(net, items()), rtol=1e-4, atol=1e-5)

@fast
def test_auto_takes_what_pays(home, engines, monkeypatch):
    extract(Net(), loader(items(60)), cache=False, bs=6, backend='auto')
    assert not engines                                                               # over before another runtime had started
    clock = iter(np.arange(0., 1e6, 100.))
    monkeypatch.setattr(F.time, 'perf_counter', lambda: next(clock))
    monkeypatch.setattr(F, '_seconds', lambda f, xs: 1. if isinstance(f, speed.Engine) else 2.)
    seen = []
    monkeypatch.setattr(speed.Engine, '_out', lambda self, xs, old=speed.Engine._out: seen.append(len(xs[0])) or old(self, xs))
    f = extract(Net(), loader(items(60)), cache=False, bs=6, backend='auto', compile=False)
    assert len(engines) == 1 and len(seen) > 5
    np.testing.assert_allclose(f.x, direct(Net(), items(60)), rtol=1e-4, atol=1e-5)

@fast
def test_incomplete_batches_and_other_shapes(home):
    body, x = featurizer(Net().eval()), torch.stack([x for x,_ in items(7)])
    e = speed.engine(body, [x[:4]])
    with torch.no_grad():
        for n in (1, 3, 4, 5, 7): torch.testing.assert_close(e(x[:n])[0], body(x[:n])[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(e(x[:, :, :8, :7])[0], body(x[:, :, :8, :7])[0])

@pytest.mark.skipif(lacking('onnx') is not None, reason='onnxruntime is not installed')
def test_onnxruntime_says_the_same(home, engines):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        np.testing.assert_allclose(extract(Net(), loader(), cache=False, backend='onnx').x, direct(Net(), items()), rtol=1e-4, atol=1e-5)
    assert engines == [('onnx', torch.float32, False)]


# Linear layers -------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not speed._x86(), reason='for x86 processors with oneDNN')
@pytest.mark.parametrize('shape', [(20, 7, 5), (20, 3, 4, 5), (20, 5), (3, 7, 5)])
@pytest.mark.parametrize('bias', [True, False])
def test_a_linear_layer_as_a_convolution(shape, bias):
    torch.manual_seed(0)
    body, x, convs = nn.Sequential(nn.Linear(5, 6, bias=bias), nn.GELU(), nn.Linear(6, 4)).eval(), torch.randn(shape), []
    turned = speed.pointwise(body, x)
    assert turned is not body and [type(m) for m in body[::2]] == [nn.Linear]*2 and all(a is b for a,b in zip(turned.parameters(), body.parameters()))
    with torch.no_grad(), torch.profiler.profile() as p: got = turned(x)
    torch.testing.assert_close(got, body(x), rtol=1e-4, atol=1e-5)
    assert got.is_contiguous() and any('conv' in e.key for e in p.key_averages()) == (len(shape) > 2 and len(x) >= 16)

def test_linear_layers_that_stay():
    x = torch.randn(2, 3, 5)
    for body in (nn.Sequential(nn.Linear(5, 2).double()), nn.Sequential(nn.GELU())): assert speed.pointwise(body, x.double()) is body
    class Asks(nn.Module):
        def __init__(self): super().__init__(); self.one = nn.Linear(5, 5)
        def forward(self, x): return self.one(x) if type(self.one) is nn.Linear else x
    body = Asks()
    assert speed.pointwise(body, x) is body
