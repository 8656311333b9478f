"Forgetting: that each measure and each remedy is what its paper says, changes nothing where it should not, and that every mistake is one line."
import copy, random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from tlcourse.continual import AccuracyMatrix, Heads, Task, class_tasks, dls_tasks, evaluate, fisher, joined, labels, run_tasks, tensors
from tlcourse.forgetting import EWC, LwF, Replay, cka, distillation

from fastai.callback.core import Callback
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD


def blobs(n=60, d=6, c=4, seed=0):
    "`n` items of `c` classes that a linear model can tell apart."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % c
    return torch.randn(n, d, generator=g) + 2*torch.randn(c, d, generator=torch.Generator().manual_seed(7))[y], y

def data(n=60, d=6, c=4, bs=16, seed=0): return tensors(*blobs(n, d, c, seed), *blobs(40, d, c, seed+1), bs=bs, seed=seed)

def mlp(d=6, c=4): return nn.Sequential(nn.Linear(d, 8), nn.ReLU(), nn.Dropout(.2), nn.Linear(8, c))

def make(dls, c=4, cbs=None, **kwargs): return Learner(dls, mlp(c=c), CrossEntropyLossFlat(), lr=.01, cbs=cbs, **kwargs)

def quiet(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)

def shifted(c=4): # three tasks with the same classes in other places
    out = []
    for i in range(3):
        x, y, xv, yv = *blobs(seed=2*i), *blobs(40, seed=2*i+1)
        p = torch.randperm(6, generator=torch.Generator().manual_seed(i))
        out.append(Task(f't{i}', tensors(x[:, p], y, xv[:, p], yv, bs=16)))
    return out

def halves(): return class_tasks(data(), [[0, 1], [2, 3]], ['low', 'high'])

def state(m): return {k: v.clone() for k,v in m.state_dict().items()}

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def fails(f, *words, error=ValueError):
    with pytest.raises(error) as e: f()
    text = str(e.value)
    assert '\n' not in text and len(text) < 300
    for w in words: assert w in text, text


# The Fisher information ------------------------------------------------------------------------------------------

def logistic(n=4000, seed=0):
    "A linear softmax of two classes whose labels come from the model itself, and the exact diagonal of its weights, E[x^2 p(1-p)]."
    torch.manual_seed(seed)
    m, x = nn.Linear(3, 2), torch.randn(n, 3)*torch.tensor([.5, 1., 2.])
    with torch.no_grad(): p = m(x).softmax(1)
    y = torch.multinomial(p, 1)[:, 0]
    exact = (x.square()[:, None]*(p*(1-p))[:, :, None]).mean(0)
    return m, x, y, exact

@pytest.mark.parametrize('labels', ['model', 'data'])
@pytest.mark.parametrize('bs', [1, 7, 128, 4000])
def test_fisher_of_a_linear_softmax(bs, labels):
    m, x, y, exact = logistic(1000 if bs == 1 else 4000)
    got = fisher(m, zip(x.split(bs), y.split(bs)), labels)['weight']
    assert torch.allclose(got, exact, rtol=.15), got/exact

def test_fisher_of_batch_means_would_fail_that():
    m, x, y, exact = logistic()
    total = torch.zeros_like(m.weight)
    for a,b in zip(x.split(128), y.split(128)): total += torch.autograd.grad(F.cross_entropy(m(a), b), m.weight)[0]**2
    assert (exact/(total/32)).median() > 50

def test_fisher_does_not_depend_on_batches_and_matches_a_loop():
    m, (x, y) = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)), blobs(20, 16)
    x = x.view(-1, 1, 4, 4)
    loop = {k: torch.zeros_like(p) for k,p in m.named_parameters()}
    m.eval()
    for a,b in zip(x, y):
        for (k,p),g in zip(m.named_parameters(), torch.autograd.grad(F.cross_entropy(m(a[None]), b[None]), m.parameters())): loop[k] += g**2/20
    m.train()
    before = state(m)
    vmapped, batches = fisher(m, [(x, y)], 'data'), fisher(m, zip(x.split(3), y.split(3)), 'data')
    for k,f in loop.items():
        torch.testing.assert_close(vmapped[k], f, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(batches[k], f, rtol=1e-4, atol=1e-7)
    assert m.training and m[1].training and same(state(m), before)

def test_large_networks_go_one_by_one_and_give_the_same():
    torch.manual_seed(0)
    m, (x, y) = nn.Sequential(nn.Linear(6, 1500), nn.ReLU(), nn.Linear(1500, 1500), nn.ReLU(), nn.Linear(1500, 4)), blobs(3)
    assert 4_000_000//sum(p.numel() for p in m.parameters()) == 1
    threads = torch.get_num_threads()
    with torch.no_grad(): got = fisher(m, [(x, y)], 'data')['4.weight']
    with ThreadPoolExecutor(1) as pool: assert pool.submit(torch.get_num_threads).result() == threads # of a new thread, too
    assert torch.get_num_threads() == threads
    want = sum(torch.autograd.grad(F.cross_entropy(m(a[None]), b[None]), m[4].weight)[0]**2 for a,b in zip(x, y))/3
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-8)

def test_fisher_skips_what_is_frozen_and_masked():
    m, (x, y) = mlp(), blobs()
    m[0].requires_grad_(False)
    f = fisher(m, [(x[y < 2], y[y < 2])], heads=Heads([[0, 1], [2, 3]]))
    assert set(f) == {'3.weight', '3.bias'} and f['3.bias'][:2].min() > 0 and f['3.bias'][2:].abs().max() == 0


# EWC -------------------------------------------------------------------------------------------------------------

def learned(*cbs, **kwargs):
    torch.manual_seed(0)
    learn = make(data(), cbs=list(cbs), **kwargs)
    quiet(learn)
    return learn

def test_ewc_penalty_and_gradient():
    learn = learned(ewc := EWC(3., 30))
    ewc.end_task()
    assert ewc.penalty() == 0
    move = {k: torch.randn_like(p) for k,p in learn.model.named_parameters()}
    with torch.no_grad():
        for k,p in learn.model.named_parameters(): p += move[k]
    grads = torch.autograd.grad(ewc.penalty(), list(learn.model.parameters()))
    for (k,_),g in zip(learn.model.named_parameters(), grads): torch.testing.assert_close(g, 3*ewc.fisher[k]*move[k], rtol=1e-3, atol=1e-6)

class Point(nn.Module):
    "Two parameters."
    def __init__(self, start):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(start))
    def forward(self, x): return self.p.expand(len(x), 2)

def test_ewc_optimum_of_a_quadratic():
    "1/2 |p - b|^2 + lam/2 sum F (p - a)^2 is least at (b + lam F a)/(1 + lam F)."
    a, b, f, lam = torch.tensor([1., -1.]), torch.tensor([3., 2.]), torch.tensor([.5, 2.]), 4.
    ewc = EWC(lam)
    dls = tensors(torch.zeros(8, 1), torch.zeros(8), torch.zeros(8, 1), torch.zeros(8), bs=8)
    learn = Learner(dls, Point([0., 0.]), lambda out, y: ((out[0] - b)**2).sum()/2, opt_func=partial(SGD, mom=0.), lr=.1, wd=0., cbs=ewc)
    ewc.fisher, ewc.anchor = dict(p=f), dict(p=a)
    quiet(learn, 60)
    torch.testing.assert_close(learn.model.p.detach(), (b + lam*f*a)/(1 + lam*f), rtol=1e-4, atol=1e-4)

def test_ewc_adds_up_over_tasks_or_fades():
    learn = learned(both := EWC(1., 30), fading := EWC(1., 30, gamma=.5))
    both.end_task(); fading.end_task()
    first = {k: v.clone() for k,v in both.fisher.items()}
    quiet(learn)
    both.end_task(); fading.end_task()
    for k,p in learn.model.named_parameters():
        new = both.fisher[k] - first[k]
        torch.testing.assert_close(fading.fisher[k], new + first[k]/2, rtol=1e-4, atol=1e-7)
        assert torch.equal(both.anchor[k], p)

def test_ewc_holds_what_matters():
    "On two tasks in other inputs, a strong EWC forgets less than plain training."
    plain, held = (AccuracyMatrix(run_tasks(shifted(), make, o, lambda l: l.fit(8), 'domain', progress=False)) for o in ([], [EWC(1000., 60)]))
    assert held.bwt > plain.bwt + .05


# LwF -------------------------------------------------------------------------------------------------------------

def test_lwf_is_still_at_the_anchor():
    learn = learned()
    x, _ = blobs()
    learn.model.eval()
    old = learn.model(x).detach()
    grads = torch.autograd.grad(distillation(learn.model(x), old), list(learn.model.parameters()))
    assert max(g.abs().max() for g in grads) < 1e-6

@pytest.mark.parametrize('T', [1., 2., 5.])
def test_kl_and_cross_entropy_have_equal_gradients(T):
    torch.manual_seed(0)
    s, t = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    ce = -T*T*((t/T).softmax(1)*(s/T).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(*[torch.autograd.grad(o, s)[0] for o in (distillation(s, t, T), ce)])

def test_temperature_hardly_changes_the_weight():
    torch.manual_seed(0)
    s, t = torch.randn(50, 4, requires_grad=True), torch.randn(50, 4)
    norms = [torch.autograd.grad(distillation(s, t, T), s)[0].norm() for T in (2., 20.)]
    assert .5 < norms[0]/norms[1] < 2

def test_lwf_distils_old_outputs_only():
    lwf, seen = LwF(1.), []
    run_tasks(halves(), make, [lwf], progress=False)
    learn = learned(one := LwF(1.), Heads([[0, 1], [2, 3]]))
    one.end_task([0, 1])
    raw = torch.randn(4, 4, requires_grad=True)
    learn.training, learn.xb, learn.loss_grad, one.raw = True, (blobs(4)[0],), torch.zeros(()), raw
    one.after_loss()
    g = torch.autograd.grad(learn.loss_grad, raw)[0]
    assert g[:, :2].abs().min() > 0 and g[:, 2:].abs().max() == 0

def test_lwf_with_heads_is_one_softmax_a_task():
    raw, old = torch.randn(4, 4), torch.randn(4, 4)
    for heads,want in ((True, sum(distillation(raw[:, g], old[:, g]) for g in ([0, 1], [2, 3]))), (False, distillation(raw, old))):
        lwf = LwF(1.)
        learn = learned(lwf, *[Heads([[0, 1], [2, 3]])]*heads)
        lwf.end_task([0, 1]); lwf.end_task([2, 3])
        learn.training, learn.xb, learn.loss_grad, lwf.raw, lwf.teacher = True, (None,), torch.zeros(()), raw, lambda x: old
        lwf.after_loss()
        torch.testing.assert_close(learn.loss_grad, want)


# Replay ----------------------------------------------------------------------------------------------------------

def test_reservoir_is_uniform():
    "Chi-squared over 4,000 reservoirs of 5 out of 20, filled in two parts."
    random.seed(0)
    counts = np.zeros(20)
    for _ in range(4000):
        r, kept = Replay(5), {}
        for start,n in ((0, 8), (8, 12)): kept.update({j: start+i for j,i in r._slots(n).items()})
        assert len(kept) == 5
        for i in kept.values(): counts[i] += 1
    chi2 = ((counts - 1000)**2/1000).sum()/(1 - 5/20)*19/20
    assert stats.chi2.sf(chi2, 19) > .01

def test_replay_keeps_items_and_adds_them():
    learn = learned(replay := Replay(10, bs=3))
    replay.end_task()
    x, y = blobs()
    assert len(replay.items) == 10 and replay.seen == 60 and replay.nbytes == 10*(6*4 + 8)
    for a,b in replay.items: assert ((x == a).all(1) & (y == b)).any()
    shapes = []
    class Look(Callback):
        order = 5
        def before_batch(self): shapes.append((self.training, len(self.xb[0]), len(self.yb[0])))
    learn.add_cb(Look())
    quiet(learn)
    assert {s for s in shapes if s[0]} == {(True, 19, 19), (True, 15, 15)} and (False, 16, 16) in shapes

def test_replay_of_pictures_goes_through_batch_transforms():
    from tlcourse.data import images
    dls = images('digits', 20, 20, size=32, bs=10)
    learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10)), CrossEntropyLossFlat(), cbs=(r := Replay(8)))
    r.end_task()
    assert r.items[0][0].dtype == torch.uint8
    for again in range(2): # the second time after saving and loading
        x, y = next(iter(joined(dls.train, r.items)))
        assert x.shape == (20, 3, 32, 32) and x.dtype == torch.float32 and x[10:].min() < 0
        r.load_state_dict(copy.deepcopy(r.state_dict()))
    quiet(learn)


# All of them -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('cb', [EWC(0., 10), LwF(0.), Replay(0)], ids=lambda o: o.name)
def test_nothing_asked_is_naive_training(cb):
    def run(cbs):
        kept = []
        df = run_tasks(shifted(), lambda dls: kept.append(make(dls)) or kept[0], cbs, lambda l: l.fit(2), 'domain', progress=False)
        return df.accuracy, state(kept[0].model)
    (a, s), (b, t) = run([]), run([cb])
    assert (a == b).all() and same(s, t)

def test_remembering_leaves_the_learner_and_the_random_numbers_alone():
    def run(cbs):
        learn = learned(*cbs)
        for cb in cbs: cb.end_task()
        return learn, torch.rand(1), random.random(), np.random.rand()
    random.seed(0); np.random.seed(0)
    plain, *a = run([])
    random.seed(0); np.random.seed(0)
    learn, *b = run(cbs := [EWC(1., 10), LwF(1.), Replay(5)])
    assert a == b and same(state(plain.model), state(learn.model))
    assert learn.model.training == plain.model.training and all(p.requires_grad for p in learn.model.parameters())
    loss, opt = learn.loss_func, learn.opt
    learn.remove_cbs(cbs)
    assert learn.loss_func is loss and learn.opt is opt and [type(o) for o in learn.cbs] == [type(o) for o in plain.cbs]
    assert learn.model.state_dict().keys() == plain.model.state_dict().keys()

def test_two_in_a_row_compose():
    def loss_grad(*cbs):
        learn = learned()
        learn.add_cbs(cbs)
        for cb in cbs: cb.end_task()
        with torch.no_grad():
            for p in learn.model.parameters(): p += .1
        learn.model.eval()
        learn.training, (learn.xb, learn.yb) = True, [(o,) for o in blobs()]
        learn.pred = learn.model(*learn.xb)
        learn('after_pred')
        learn.loss_grad = torch.zeros(())
        learn('after_loss')
        return learn.loss_grad
    e, l = loss_grad(EWC(2., 20)), loss_grad(LwF(1.))
    both, other = loss_grad(EWC(2., 20), LwF(1.)), loss_grad(LwF(1.), EWC(2., 20))
    assert e > 0 and l > 0
    torch.testing.assert_close(both, e + l)
    torch.testing.assert_close(other, e + l)

def test_all_at_once_with_heads():
    df = run_tasks(halves(), make, [EWC(1., 10), LwF(1.), Replay(10)], lambda l: l.fit(3), progress=False)
    assert df.accuracy.between(0, 1).all() and df.MB.iloc[-1] > df.MB.iloc[0] == 0

def test_saving_and_loading_keeps_them_working(tmp_path):
    learn = learned(EWC(50., 20), LwF(1.), Replay(10), path=tmp_path)
    for cb in (learn.ewc, learn.lw_f, learn.replay): cb.end_task()
    learn.save('here')
    saved = learn.ewc.penalty()
    quiet(learn)
    assert learn.ewc.penalty() > saved == 0
    learn.load('here')
    assert learn.ewc.penalty() == 0
    learn.export('whole.pkl')
    with pytest.warns(UserWarning): other = load_learner(tmp_path/'whole.pkl')
    other.dls = data()
    assert other.ewc.penalty() == 0 and other.lw_f.groups == [[0, 1, 2, 3]] and len(other.replay.items) == 10
    quiet(other)
    assert other.ewc.penalty() > 0

def test_receipt():
    from tlcourse.receipt import receipt
    learn = learned(EWC(1., 10), LwF(1.), Replay(5))
    for p in learn.model[0].requires_grad_(False).parameters(): p.grad = None
    for cb in (learn.ewc, learn.lw_f, learn.replay): cb.end_task()
    before = state(learn.model)
    with receipt(learn): quiet(learn)
    after = state(learn.model)
    assert torch.equal(before['0.weight'], after['0.weight']) and not torch.equal(before['3.weight'], after['3.weight'])


# The accuracy matrix ---------------------------------------------------------------------------------------------

R = [[.9, .2, .1], [.7, .8, .3], [.6, .75, .95]]

def test_textbook_measures():
    m = AccuracyMatrix(R, baseline=[.1, .1, .2])
    assert m.acc == pytest.approx((.6 + .75 + .95)/3)
    assert m.bwt == pytest.approx(((.6 - .9) + (.75 - .8))/2)
    assert m.fwt == pytest.approx(((.2 - .1) + (.3 - .2))/2)
    assert m.forgetting == pytest.approx(((.9 - .6) + (.8 - .75))/2)

def test_forgetting_is_not_minus_bwt():
    "A task that got better before it got worse: the best, not the first, accuracy counts, and a gain at the last step is no forgetting."
    m = AccuracyMatrix([[.5, .1, .1], [.9, .6, .1], [.7, .8, .9]])
    assert m.forgetting == pytest.approx(((.9 - .7) + (.6 - .8))/2) and m.bwt == pytest.approx(((.7 - .5) + (.8 - .6))/2)

def test_rows_may_end_early():
    assert AccuracyMatrix([[.9], [.7, .8], [.6, .75, .95]]).bwt == AccuracyMatrix(R).bwt

def test_one_task(): assert AccuracyMatrix([[.9]]).acc == .9 and np.isnan(AccuracyMatrix([[.9]]).bwt)

def test_shows_itself():
    m = AccuracyMatrix(R, [.1, .1, .2], ['a', 'b', 'c'])
    html = m._repr_html_()
    assert '<table' in html and 'after b' in html and 'BWT -0.18' in html and 'BWT -0.18' in repr(m)
    assert 'BWT -0.18' in m.plot().alt and len(m.plot().axes) == 2

@pytest.mark.parametrize('args,words', [
    (([[.9, .1]],), ('1 rows', '[2]')), (([],), ('0 rows',)), (([[.9, .1], [.8, float('nan')]],), ('every task',)),
    (([[90., 10.], [80., 90.]],), ('divide',)), ((R, [.1, .1]), ('baseline has 2', '3 tasks')), ((R, None, ['a']), ('names has 1',))])
def test_bad_matrices(args, words): fails(lambda: AccuracyMatrix(*args), *words)

def test_fwt_needs_a_baseline(): fails(lambda: AccuracyMatrix(R).fwt, 'baseline')


# CKA -------------------------------------------------------------------------------------------------------------

def test_cka_of_independent_features_is_zero():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 100, 1000))
    a, b = (o - o.mean(0) for o in (x, y))
    biased = np.linalg.norm(a.T @ b)**2/np.linalg.norm(a.T @ a)/np.linalg.norm(b.T @ b)
    assert biased > .85 and abs(cka(x, y)) < .05

def test_cka_invariances():
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(50, 8)), np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert cka(x, 3*x @ q + 5) == pytest.approx(1) and cka(x, x + rng.normal(size=x.shape)) == pytest.approx(cka(x + 7, x + np.random.default_rng(1).normal(size=x.shape)), abs=.3)
    noisy = x + rng.normal(size=x.shape)
    assert cka(x, noisy) == pytest.approx(cka(noisy, x)) and 0 < cka(x, noisy) < .9

def test_cka_refuses_too_few(): fails(lambda: cka(np.ones((3, 2)), np.ones((3, 2))), 'at least 4')


# Sequences -------------------------------------------------------------------------------------------------------

def test_run_tasks_table():
    df = run_tasks(shifted(), make, fit=lambda l: l.fit(2), setting='domain', progress=False)
    assert list(df) == ['after', 'task', 'accuracy', 'seconds', 'MB'] and len(df) == 4*3
    m = AccuracyMatrix(df)
    assert m.names == ['t0', 't1', 't2'] and m.R.shape == (3, 3) and np.isfinite(m.fwt)
    assert m.R[1, 2] == df.query("after == 2 and task == 't2'").accuracy.item()

def test_baseline_is_the_untrained_model():
    first = []
    tasks = shifted()
    df = run_tasks(tasks, lambda dls: first.append(make(dls)) or first.append(copy.deepcopy(first[0].model)) or first[0], setting='domain', progress=False)
    assert list(AccuracyMatrix(df).baseline) == evaluate(first[1], tasks)

def test_heads_decide_what_counts():
    tasks, kept = halves(), []
    df = run_tasks(tasks, lambda dls: kept.append(make(dls)) or kept[0], fit=lambda l: l.fit(10), progress=False)
    learn = kept[0]
    with_hint, without = evaluate(learn.model, tasks, heads=True), evaluate(learn.model, tasks)
    assert with_hint == df.query('after == 2').accuracy.tolist() and with_hint[0] >= without[0]
    assert not any(isinstance(o, Heads) for o in learn.cbs)

def test_a_frozen_body_with_heads_forgets_nothing():
    def frozen(dls):
        learn = make(dls, wd=0.)
        learn.model[0].requires_grad_(False)
        return learn
    m = AccuracyMatrix(run_tasks(halves(), frozen, fit=lambda l: l.fit(5), progress=False))
    assert m.bwt == 0 and m.forgetting == 0

class Stop(Exception): pass

@pytest.mark.parametrize('setting', ['task', 'class'])
def test_an_interrupted_run_goes_on_and_ends_alike(tmp_path, setting):
    tasks = class_tasks(data(c=6), [[0, 1], [2, 3], [4, 5]])
    cbs, mk = [EWC(5., 20), LwF(1.), Replay(10)], partial(make, c=6)
    whole, fits = run_tasks(tasks, mk, cbs, lambda l: l.fit(2), setting, progress=False), []
    def until_second(learn):
        fits.append(1)
        if len(fits) == 2: raise Stop
        learn.fit(2)
    with pytest.raises(Stop): run_tasks(tasks, mk, cbs, until_second, setting, path=tmp_path/'run.pt', progress=False)
    fits.clear()
    rest = run_tasks(tasks, mk, cbs, lambda l: fits.append(1) or l.fit(2), setting, path=tmp_path/'run.pt', progress=False)
    assert len(fits) == 2 and len(rest) == len(whole)
    assert rest.accuracy.tolist() == whole.accuracy.tolist() and rest.MB.tolist() == whole.MB.tolist()
    again = run_tasks(tasks, mk, cbs, lambda l: fits.append(1), setting, path=tmp_path/'run.pt', progress=False)
    assert len(fits) == 2 and again.equals(rest)
    fails(lambda: run_tasks(tasks, mk, [], setting=setting, path=tmp_path/'run.pt'), 'another run')
    assert [o.name for o in tmp_path.iterdir()] == ['run.pt']

def test_a_saved_run_is_not_executed(tmp_path):
    import pickle
    class Evil:
        def __reduce__(self): return print, ('executed',)
    torch.save(dict(run=Evil()), tmp_path/'evil.pt')
    fails(lambda: run_tasks(halves(), make, path=tmp_path/'evil.pt'), 'is not a saved run')

def test_callbacks_given_are_copied():
    ewc = EWC(5., 20)
    a, b = (run_tasks(shifted(), make, [ewc], setting='domain', progress=False) for _ in range(2))
    assert not ewc.fisher and a.accuracy.tolist() == b.accuracy.tolist()

def test_progress_bar(capfd):
    run_tasks(halves(), make)
    assert 'tasks' in capfd.readouterr().err
    run_tasks(halves(), make, progress=False)
    assert not capfd.readouterr().err


# Bad input -------------------------------------------------------------------------------------------------------

def go(tasks, setting='task', c=4, cbs=()): return lambda: run_tasks(tasks, partial(make, c=c), cbs, setting=setting, progress=False)

def test_bad_tasks():
    x, y = blobs()
    all4 = tensors(x, y, x, y)
    fails(go(class_tasks(all4, [[0, 1], [1, 2]])), "'1' and '2' overlap in class 1")
    fails(go(class_tasks(all4, [[0, 1], [2, 3]]), 'domain'), 'class 0 is missing')
    fails(go([Task('a', all4, [0, 1, 2, 3, 5])]), 'class 5 is missing')
    fails(go([Task('a', all4, [0, 1])]), 'class 2', 'not one of its classes')
    fails(go([Task('a', tensors(x[:1], y[:1], x, y))]), "task 'a' has 1 training items")
    fails(go([Task('a', tensors(x, y, x[:1], y[:1]))]), "task 'a' has 1 validation items")
    fails(go([]), 'at least one')
    fails(go([Task('a', all4), Task('a', all4)], 'domain'), 'name of its own')
    fails(go(halves(), 'tasks'), "'tasks'")
    fails(go(class_tasks(all4, [[0, 1], [2, 9]])), 'class 9 is missing')

def test_head_of_the_wrong_size(): fails(go(halves(), c=3), '3 outputs', 'head of 4')

@pytest.mark.parametrize('f,word', [
    (lambda: EWC(-1.), 'lam'), (lambda: EWC(float('nan')), 'lam'), (lambda: EWC(1., 0), 'n_samples'), (lambda: EWC(1., gamma=-.1), 'gamma'),
    (lambda: EWC(1., labels='true'), 'labels'), (lambda: LwF(-1.), 'alpha'), (lambda: LwF(1., T=0.), 'T must'), (lambda: Replay(-1), 'size'),
    (lambda: Replay(5, bs=0), 'bs')])
def test_bad_settings(f, word): fails(f, word)

def test_a_fisher_with_nan():
    learn = learned(ewc := EWC(1., 10))
    with torch.no_grad(): learn.model[0].weight[0, 0] = float('nan')
    fails(ewc.end_task, 'EWC', 'not finite')
    assert not ewc.fisher
