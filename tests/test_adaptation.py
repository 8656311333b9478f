"Adaptation: each method is its formula, does what it says to a network, leaves the rest alone, and says in one line what it cannot do."
import copy

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
import fastai.callback.progress, fastai.callback.schedule
from sklearn.linear_model import LogisticRegression
from torch import nn

from tlcourse import adaptation as A
from tlcourse.adaptation import AdaptationError, CORAL, DANN, MMD, adapt_batchnorm, dann_lambda, domain_gap, recolor, self_training, tent


def points(n=128, shift=0., seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    return torch.randn(n, 4, generator=g) + 2*y[:, None] + shift, y

def loader(x, y, bs=32): return DataLoader(list(zip(x, y)), bs=bs, shuffle=False)

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

def train(cbs, epochs=3, seed=0, **kw):
    dl = loader(*points())
    learn = Learner(DataLoaders(dl, dl), net(seed), loss_func=nn.CrossEntropyLoss(), cbs=cbs, **kw)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-2)
    return learn

def fails(f, *words):
    with pytest.raises(AdaptationError) as e: f()
    assert '\n' not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


# ---------------------------------------------------------------- distances as losses

def test_coral_is_its_formula():
    s, t = torch.randn(2, 20, 5)
    want = ((np.cov(s.numpy().T) - np.cov(t.numpy().T))**2).sum()/(4*25)
    assert abs(CORAL.distance(None, s, t) - want) < 1e-5


def test_the_loss_mmd_is_zero_for_equal_batches_and_knows_no_order():
    "A well-known library's estimate is -.4 for equal batches, or depends on the order."
    s, t = torch.randn(2, 16, 5)
    assert abs(MMD.distance(None, s, s)) < 1e-6 and abs(MMD.distance(None, s, s[torch.randperm(16)])) < 1e-6
    assert torch.isclose(MMD.distance(None, s, t), MMD.distance(None, s[torch.randperm(16)], t[torch.randperm(16)]), atol=1e-6)
    assert MMD.distance(None, s, t + 2) > MMD.distance(None, s, t + .5) > 0


def test_lambda_goes_from_0_to_1():
    "A well-known library's schedule ends at .46."
    p = np.linspace(0, 1, 11)
    assert dann_lambda(0) == 0 and dann_lambda(1) > .9999 and (np.diff(dann_lambda(p)) > 0).all()


def test_the_gradient_is_turned_around():
    x = torch.randn(4, 3, requires_grad=True)
    w = torch.randn(3)
    y = A.Reverse.apply(x, .3)
    assert torch.equal(y, x)
    (y @ w).sum().backward()
    assert torch.allclose(x.grad, (-.3*w).expand(4, 3))


# ---------------------------------------------------------------- callbacks

@pytest.mark.parametrize('kind', [CORAL, MMD, DANN])
def test_weight_0_is_training_without(kind):
    "The only other trace is in BatchNorm's statistics, which see the target too: take a network without."
    def run(cbs):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2))
        dl = loader(*points())
        learn = Learner(DataLoaders(dl, dl), model, loss_func=nn.CrossEntropyLoss(), cbs=cbs)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
        return learn
    plain = run([])
    zero, some = (run([kind(loader(*points(shift=3, seed=1)), w)]) for w in (0., 1.))
    for p,q in zip(plain.model.parameters(), zero.model.parameters()): assert torch.allclose(p, q, atol=1e-6)
    assert any(not torch.allclose(p, q, atol=1e-4) for p,q in zip(plain.model.parameters(), some.model.parameters()))


@pytest.mark.parametrize('kind,weight', [(CORAL, 10), (MMD, 5)])
def test_the_distance_falls(kind, weight):
    x, _ = points()
    t, y = points(seed=1)
    t = t*3 + 2
    def gap(model):
        with torch.no_grad(): return kind.distance(None, *(model.eval()[:-1](o) for o in (x, t))).item()
    assert gap(train([kind(loader(t, y), weight)]).model) < .7*gap(train([]).model)


def test_dann_judges_and_its_hooks_go():
    cb = DANN(loader(*points(shift=3, seed=1)))
    learn = train([cb], epochs=5)
    lam, acc = np.array(cb.seen).T
    assert len(lam) == 20 and lam[0] == 0 and .99 < lam[-1] < 1 and (acc >= 0).all() and (acc <= 1).all()
    assert not learn.model[-1]._forward_pre_hooks
    n = len(cb.seen)
    learn.validate()
    assert len(cb.seen) == n  # judged in training alone
    assert sum(p.numel() for p in learn.model.parameters()) == sum(p.numel() for p in net().parameters())


def test_callbacks_use_no_target_labels():
    x, y = points(shift=2, seed=1)
    a, b = (train([MMD(loader(x, o))]).model for o in (y, 1 - y))
    for p,q in zip(a.parameters(), b.parameters()): assert torch.equal(p, q)


@pytest.mark.parametrize('kind', [CORAL, MMD, DANN])
def test_callbacks_refuse(kind):
    fails(lambda: kind(), kind.__name__, 'target=', 'DataLoader')
    fails(lambda: kind(DataLoader([], bs=4)), kind.__name__, 'no items')
    target = loader(*points())
    target.vocab = ['a', 'c']
    dl = loader(*points())
    dls = DataLoaders(dl, dl)
    dls.vocab = ['a', 'b']
    learn = Learner(dls, net(), loss_func=nn.CrossEntropyLoss(), cbs=kind(target))
    with learn.no_bar(), learn.no_logging(), pytest.raises(AdaptationError, match="class 'c', which the source lacks"): learn.fit(1)


# ---------------------------------------------------------------- BatchNorm

def test_adabn_takes_the_statistics_of_all_items_whatever_the_batches():
    x, y = points(shift=3)
    for bs in (32, 50):
        m = net()
        before = copy.deepcopy(m.state_dict())
        assert adapt_batchnorm(m, loader(x, y, bs)) is m and not m.training
        with torch.no_grad(): h = m[0](x)
        assert torch.allclose(m[1].running_mean, h.mean(0), atol=1e-5) and m[1].momentum == .1
        assert torch.allclose(m[1].running_var, h.var(0), rtol=.1)
        for k,v in m.state_dict().items(): assert 'running' in k or 'tracked' in k or torch.equal(v, before[k])


def test_tent_lowers_entropy_moves_batchnorm_alone_and_puts_all_back():
    x, y = points(256, shift=1)
    m = train([]).model
    m[0].weight.requires_grad_(False)
    before, needs = copy.deepcopy(m.state_dict()), [p.requires_grad for p in m.parameters()]
    p = tent(m, loader(x, y, 64), lr=1e-2)
    assert p.shape == (256, 2) and np.allclose(p.sum(1), 1, atol=1e-5)
    moved = {k for k,v in m.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {'1.weight', '1.bias'} and needs == [p.requires_grad for p in m.parameters()]
    h = lambda p: -(p*np.log(p + 1e-12)).sum(1).mean()
    q = tent(copy.deepcopy(m), loader(x, y, 64), lr=0.)
    first = tent(train([]).model, loader(x, y, 64), lr=0.)
    assert h(q) < h(first)


def test_without_batchnorm_or_items():
    plain, dl = nn.Sequential(nn.Linear(4, 2)), loader(*points())
    for f,name in ((adapt_batchnorm, 'adapt_batchnorm'), (tent, 'tent')):
        fails(lambda: f(plain, dl), name, 'BatchNorm')
        fails(lambda: f(net(), []), name, 'no items')
        fails(lambda: f(net(), loader(*points(33))), name, 'one item')
    m = net()
    fails(lambda: tent(m, loader(*points(33))), 'one item')
    assert m[1].running_mean is not None and all(p.requires_grad for p in m.parameters())


# ---------------------------------------------------------------- features

def test_recolored_features_have_the_targets_mean_and_covariance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + 3
    c = recolor(a, b, shrink=0)
    assert np.allclose(c.mean(0), b.mean(0)) and np.allclose(np.cov(c.T), np.cov(b.T))
    assert np.allclose(recolor(a, a), a) and np.isfinite(recolor(a[:3], b[:3])).all()


def test_self_training_follows_a_small_shift_and_stops_before_a_class_is_lost():
    x, y = (o.numpy() for o in points(300))
    t, u = (o.numpy() for o in points(300, shift=.8, seed=1))
    fit = lambda x, y: LogisticRegression().fit(x, y)
    assert self_training(fit, x, y, t).score(t, u) >= fit(x, y).score(t, u)
    far = self_training(fit, x, y, t + 100)  # all of one class: nothing is taken
    assert np.allclose(far.coef_, fit(x, y).coef_)
    fails(lambda: self_training(fit, x, y*0, t), 'one class')
    fails(lambda: self_training(fit, x, y[:9], t), '9 labels for 300 items')
    fails(lambda: self_training(fit, x, y, None), 'x_t is missing')
    fails(lambda: recolor(x*np.nan, t), 'x_s')
    assert domain_gap is A.domain_gap
