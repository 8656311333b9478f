"Fine-tuning on toy networks: each claim against an independent oracle, each wrong use one line."
import math, pickle, warnings

import numpy as np, pytest, torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.callback.core import Callback
    from fastai.callback.schedule import Learner
    from fastai.callback.training import BnFreeze
    from fastai.data.core import DataLoaders
    from fastai.learner import load_learner
    from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
    from fastai.optimizer import SGD, OptimWrapper

from tlcourse import receipt as R
from tlcourse.finetune import freeze_except, gradual_unfreeze, interpolate, lp_ft
from tlcourse.learners import BnEval, FinetuneError, learner, parameter_groups
from tlcourse.receipt import receipt


def items(n=24, c=3, seed=0, scale=1.):
    "Three separable blobs in four dimensions."
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % c
    x = torch.randn(n, 4, generator=gen) + 3*nn.functional.one_hot(y, 4)
    return [(a*scale, b) for a,b in zip(x, y)]


def data(n=24, c=3, bs=8, shuffle=True, **kw):
    dls = DataLoaders.from_dsets(items(n, c, **kw), items(n, c, seed=1), bs=bs, device='cpu', num_workers=0, shuffle=shuffle)
    dls.c = c
    return dls


def net(c=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, c))


def quiet(learn):
    learn.remove_cbs([o for o in learn.cbs if type(o).__name__ == 'ProgressCallback'])
    learn.logger = lambda *a: None
    return learn


def make(model=None, dls=None, **kw): return quiet(learner(dls or data(), model or net(), **kw))


def plain(model=None, dls=None, **kw): return quiet(Learner(dls or data(), model or net(), CrossEntropyLossFlat(), **kw))


def state(m): return {k: v.clone() for k,v in m.state_dict().items()}


def moved(before, model): return {k for k,v in model.state_dict().items() if not torch.equal(v, before[k])}


def line(f, *contains, error=FinetuneError):
    with pytest.raises(error) as e: f()
    message = str(e.value)
    assert '\n' not in message and all(o in message for o in contains), message
    return message


# the learner

def test_a_plain_learner_with_the_groups():
    learn = make(dls=data(shuffle=False))
    assert type(learn) is Learner and [len(g) for g in learn.splitter(learn.model)] == [4, 4, 2]
    learn.freeze_to(-2)
    assert [p[0].requires_grad for p in learn.opt.param_lists] == [False, True, True]
    learn.fit(20, 1e-2)
    assert learn.validate()[1] > .8


@pytest.mark.parametrize('f,words', [
    (lambda: learner([1], net()), 'DataLoaders'),
    (lambda: learner(data(), 3), 'int'),
    (lambda: learner(data(c=1), net(1)), 'one class'),
    (lambda: learner(data(), net(7)), '7 outputs and the data 3 classes'),
    (lambda: learner(data(), nn.Sequential(nn.Linear(4, 3))), '1 layer groups'),
    (lambda: learner(data(), nn.Linear(4, 3)), 'no layer groups')])
def test_wrong_input_is_one_line(f, words): line(f, words)


def test_a_name_needs_the_number_of_classes():
    dls = data()
    del dls.c
    line(lambda: learner(dls, 'efficientnet_lite0'), 'dls.c')


def test_an_own_splitter_frees_from_groups():
    class Odd(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        def forward(self, x): return self.b(self.a(x))
    learn = make(Odd(), splitter=lambda m: [list(m.a.parameters()), list(m.b.parameters())])
    learn.freeze()
    learn.fit(1, .1)
    assert learn.model.a.weight.grad is None and learn.model.b.weight.grad is not None


def test_outputs_that_do_not_fit_are_found_when_training_starts():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 5)))  # the last group is no linear layer
    line(lambda: make(model).fit(1), '5 outputs', '3 classes')


@pytest.mark.parametrize('shift,bad', [(1, 3), (-1, -1)])
def test_labels_out_of_range(shift, bad):
    its = [(x, y + shift) for x,y in items()]
    dls = DataLoaders.from_dsets(its, its, bs=24, device='cpu', num_workers=0)
    line(lambda: make(dls=dls).fit(1), f'label {bad} ')
    line(lambda: make(dls=dls, loss_func=LabelSmoothingCrossEntropyFlat()).fit(1), f'label {bad} ')


def test_labels_that_the_loss_ignores_are_allowed():
    its = [(x, y if i else torch.tensor(-100)) for i,(x,y) in enumerate(items())]
    make(dls=DataLoaders.from_dsets(its, items(), bs=8, device='cpu', num_workers=0)).fit(1)


def test_nan_names_the_rate():
    message = line(lambda: make(opt_func=SGD).fit(20, 1e38), 'learning rate', '1e+38', 'try 1e+37')
    assert 'epoch' in message


def test_nan_names_unnormalized_batches():
    line(lambda: make(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), data(scale=100.), opt_func=SGD).fit(50, 1.), 'not normalized', 'mean')


def test_nan_names_a_batch_that_holds_nan():
    dls = data()
    dls.train.dataset[3][0][0] = float('nan')
    line(lambda: make(dls=dls).fit(1, 1e-3), 'the batch itself holds NaN')


def test_the_rate_finder_still_finds(tmp_path):
    learn = make(path=tmp_path)
    before = state(learn.model)
    found = learn.lr_find(start_lr=1e-4, end_lr=1e25, num_it=60, show_plot=False, stop_div=False)
    assert 1e-5 < found.valley < 1e25 and not moved(before, learn.model)


# frozen is frozen

@pytest.mark.parametrize('wd', [0., .1])
def test_what_is_frozen_again_stays_to_the_last_bit(wd):
    learn = make()
    learn.fit(1, 1e-2)
    learn.freeze()
    before = state(learn.model)
    learn.fit(1, 1e-2, wd=wd)
    assert moved(before, learn.model) == {'2.weight', '2.bias'}


def test_without_the_guard_weight_decay_moves_it():
    learn = plain(splitter=parameter_groups, train_bn=False, cbs=BnFreeze())
    learn.fit(1, 1e-2)
    learn.freeze()
    before = state(learn.model)
    learn.fit(1, 1e-2, wd=.1)
    assert {'0.0.weight', '1.0.weight'} <= moved(before, learn.model)
    torch.testing.assert_close(learn.model[0][0].weight, before['0.0.weight']*(1 - 1e-2*.1)**3)  # three batches


def test_weight_decay_is_the_one_that_was_asked_for():
    "AdamW's decay, by hand: with a gradient of zero a step only shrinks; BatchNorm and biases are spared."
    learn = make(wd=.3)
    learn.create_opt()
    before = state(learn.model)
    for p in learn.model.parameters(): p.grad = torch.zeros_like(p)
    learn.opt.set_hypers(lr=.1, wd=learn.wd)
    learn.opt.step()
    torch.testing.assert_close(learn.model[1][0].weight, before['1.0.weight']*(1 - .1*.3))
    assert moved(before, learn.model) == {'0.0.weight', '1.0.weight', '2.weight'}


def test_batchnorm_of_frozen_groups():
    learn = make()
    learn.freeze_to(-2)
    before = state(learn.model)
    learn.fit(1, 1e-2)
    assert not any(k.startswith('0.') for k in moved(before, learn.model)) and '1.1.running_mean' in moved(before, learn.model)
    live = make(train_bn=True)
    live.freeze()
    before = state(live.model)
    live.fit(1, 1e-2)
    assert {'0.1.running_mean', '0.1.weight'} <= moved(before, live.model) and '0.0.weight' not in moved(before, live.model)


def test_bn_eval_keeps_statistics_and_trains_the_rest():
    learn = make()
    before = state(learn.model)
    learn.fit(2, 1e-2, cbs=BnEval())
    assert {k for k in before} - moved(before, learn.model) == {k for k in before if 'running' in k or 'num_batches' in k}


def test_saved_and_loaded(tmp_path):
    learn = make(path=tmp_path)
    learn.fit(1, 1e-2)
    learn.save('here')
    kept = state(learn.model)
    learn.fit(1, 1e-2)
    learn.load('here')
    assert not moved(kept, learn.model)


def test_exported(tmp_path):
    from tlcourse.data import images
    learn = make(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), images('digits', 20, 20, size=8, bs=10), path=tmp_path)
    with receipt(learn, show=False): learn.fit(1, 1e-2)
    learn.export('learner.pkl')
    other = load_learner(tmp_path/'learner.pkl')
    assert not moved(state(learn.model), other.model) and other.splitter is parameter_groups
    assert [type(o).__name__ for o in other.cbs].count('Guard') == 1


def test_an_error_survives_pickling():
    e = pickle.loads(pickle.dumps(FinetuneError('one line')))
    assert type(e) is FinetuneError and str(e) == 'one line'


# which groups

@pytest.mark.parametrize('which,free', [(1, [1]), ([0, -1], [0, 2]), ([-1], [2]), (range(3), [0, 1, 2])])
def test_freeze_except(which, free):
    learn = make()
    freeze_except(learn, which)
    assert [i for i,g in enumerate(learn.opt.param_lists) if g[0].requires_grad] == free
    before = state(learn.model)
    learn.fit(1, 1e-2)
    assert {int(k[0]) for k in moved(before, learn.model)} == set(free)


def test_freeze_except_again_and_back():
    learn = make()
    learn.fit(1, 1e-2)
    freeze_except(learn, 0)
    before = state(learn.model)
    learn.fit(1, 1e-2, wd=.5)
    assert {k[0] for k in moved(before, learn.model)} == {'0'}
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize('which', [3, -4, [], 'head', [0, 5], .5])
def test_freeze_except_refuses(which): line(lambda: freeze_except(make(), which), 'of the 3 groups')


def test_one_group_is_refused():
    line(lambda: freeze_except(plain(), 0), 'one parameter group')
    line(lambda: gradual_unfreeze(plain()), 'one parameter group')


class Diary(Callback):
    "What trained, how long and how fast, in each fit."
    def __init__(self): self.days = []
    def before_fit(self): self.days.append([[g[0].requires_grad for g in self.opt.param_lists], self.n_epoch, []])
    def before_step(self): self.days[-1][2].append(tuple(h['lr'] for h in self.opt.hypers))


def test_gradual_unfreeze_is_freeze_to_stage_by_stage():
    diary = Diary()
    learn = make(cbs=diary)
    gradual_unfreeze(learn, epochs=[1, 2, 1], lr=[1e-2, slice(1e-4, 1e-2), 1e-3], stages=(-1, -2, 0))
    assert [(f, n) for f,n,_ in diary.days] == [([False, False, True], 1), ([False, True, True], 2), ([True]*3, 1)]
    peaks = [tuple(max(o) for o in zip(*lrs)) for *_,lrs in diary.days]
    assert math.isclose(peaks[1][2]/peaks[1][0], 100, rel_tol=1e-6) and peaks[2][0] == peaks[2][2] <= 1e-3
    torch.manual_seed(0)
    by_hand, twin = make(dls=data(shuffle=False)), make(dls=data(shuffle=False))
    torch.manual_seed(0); gradual_unfreeze(twin, 1, 1e-2, (-1, -2, 0))
    torch.manual_seed(0)
    for n in (-1, -2, 0): by_hand.freeze_to(n); by_hand.fit_one_cycle(1, 1e-2)
    for k,v in by_hand.model.state_dict().items(): torch.testing.assert_close(v, twin.model.state_dict()[k])


@pytest.mark.parametrize('kw,words', [
    (dict(stages=(-1, -1)), 'more groups than'), (dict(stages=(0, -1)), 'more groups than'), (dict(stages=()), 'more groups than'),
    (dict(stages=(-4,)), 'there are 3 groups'), (dict(stages=(-1, .5)), 'there are 3 groups'),
    (dict(stages=(-1, 0), epochs=[1, 2, 3]), '3 numbers of epochs'), (dict(stages=(-1, 0), lr=[1e-3]), '1 rates')])
def test_gradual_unfreeze_refuses(kw, words): line(lambda: gradual_unfreeze(make(), **kw), words)


# LP-FT

@pytest.fixture
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('TLCOURSE_HOME', str(tmp_path))


def test_lp_ft_starts_from_the_probe(own_cache):
    "With no step to take, the network is the probe; the body and its statistics are as they were."
    learn = make()
    before = state(learn.model)
    probe = lp_ft(learn, epochs=1, lr=0.)
    assert moved(before, learn.model) == {'2.weight', '2.bias'}
    x = torch.stack([x for x,_ in learn.dls.valid.dataset])
    logits = learn.model.eval()(x).detach()
    body = learn.model[:2](x).detach().numpy()
    np.testing.assert_allclose(logits.softmax(1), probe.predict_proba(body), atol=1e-4)


def test_lp_ft_trains_everything_but_the_statistics(own_cache):
    learn = make()
    learn.freeze()
    before = state(learn.model)
    lp_ft(learn, epochs=2, lr=1e-3)
    assert set(before) - moved(before, learn.model) == {k for k in before if 'running' in k or 'num_batches' in k}
    before = state(learn.model)
    lp_ft(learn, epochs=1, lr=1e-3, train_bn=True)
    assert '0.1.running_mean' in moved(before, learn.model)


# WiSE-FT

def two():
    a, b = net(), net()
    for p in b.parameters(): p.data.normal_(generator=torch.Generator().manual_seed(int(p.numel())))
    b[0][1].running_var.fill_(4.)
    b[0][1].num_batches_tracked.fill_(9)
    return a.eval(), b.eval()


@pytest.mark.parametrize('alpha', [0, .25, .5, 1])
def test_interpolate_against_numpy(alpha):
    a, b = two()
    was = state(a), state(b)
    mid = interpolate(a, b, alpha)
    for k,v in mid.state_dict().items():
        x, y = was[0][k].numpy(), was[1][k].numpy()
        want = (1 - alpha)*x + alpha*y if x.dtype.kind == 'f' else x if alpha < .5 else y
        np.testing.assert_allclose(v.numpy(), want, rtol=1e-6, atol=1e-7)
    assert not moved(was[0], a) and not moved(was[1], b) and mid is not a
    mid[0][0].weight.data.zero_()
    assert not moved(was[0], a)


def test_interpolate_ends_are_exact_and_state_dicts_work():
    a, b = two()
    for alpha,m in ((0, a), (1, b)): assert not moved(state(m), interpolate(a, b, alpha))
    mid = interpolate(a.state_dict(), b.state_dict(), .5)
    assert isinstance(mid, dict) and not moved(mid, interpolate(a, b.state_dict(), .5))
    linear = interpolate(nn.Linear(4, 3), nn.Linear(4, 3), .3)
    assert type(linear) is nn.Linear


def test_a_linear_network_halfway_is_the_mean_of_the_outputs():
    a, b, x = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(5, 4)
    torch.testing.assert_close(interpolate(a, b, .5)(x), (a(x) + b(x))/2)


@pytest.mark.parametrize('alpha', [-.1, 1.1, float('nan')])
def test_interpolate_refuses_alpha(alpha): line(lambda: interpolate(*two(), alpha), 'from 0')


def test_interpolate_refuses_other_architectures():
    line(lambda: interpolate(net(3), net(4), .5), '2.weight')
    line(lambda: interpolate(net(), nn.Sequential(nn.Linear(4, 8)), .5), '0.0.weight')


# the receipt

def test_receipt_counts_what_changed():
    learn = make()
    learn.freeze_to(-2)
    before = state(learn.model)
    with receipt(learn, show=False) as r: learn.fit_one_cycle(2, 1e-2, wd=.05)
    now, t = state(learn.model), r.table
    assert list(t.index) == ['0 0', '1 1', '2 2'] and not r.notes
    assert t.parameters.tolist() == [56, 88, 27] and t.trainable.tolist() == [0, 88, 27] and t['in optimizer'].tolist() == [56, 88, 27]
    assert t.changed.tolist() == [0, sum((now[k] != before[k]).sum().item() for k in now if k.startswith('1.') and 'running' not in k and 'num_' not in k), 27]
    w, w0 = [np.concatenate([s[k].numpy().ravel() for k in ('2.weight', '2.bias')]) for s in (now, before)]
    assert math.isclose(t.drift.iloc[2], np.linalg.norm(w - w0)/np.linalg.norm(w0), rel_tol=1e-5) and t.drift.iloc[0] == 0
    assert t['buffers changed'].tolist() == [0, 3, 0] and t['with state'].tolist() == [0, 88, 27]
    assert np.isnan(t['lr max'].iloc[0]) and t.wd.iloc[2] == .05
    lrs = learn.recorder.lrs
    assert math.isclose(t['lr max'].iloc[2], max(lrs)) and math.isclose(t['lr min'].iloc[2], min(lrs))


def test_receipt_tells_the_rates_of_each_group():
    learn = make()
    with receipt(learn, show=False) as r: learn.fit(1, slice(1e-4, 1e-2))
    np.testing.assert_allclose(r.table['lr max'], [1e-4, 1e-3, 1e-2])


def test_receipt_leaves_no_trace_and_survives_an_error():
    learn = make(opt_func=SGD)
    cbs = list(learn.cbs)
    with pytest.raises(FinetuneError), receipt(learn, show=False) as r: learn.fit(20, 1e38)
    assert list(learn.cbs) == cbs and r.table is not None
    twin, other = make(dls=data(shuffle=False)), make(dls=data(shuffle=False))
    twin.fit(2, 1e-2)
    with receipt(other, show=False): other.fit(2, 1e-2)
    for k,v in twin.model.state_dict().items(): torch.testing.assert_close(v, other.model.state_dict()[k])


def test_receipt_shows_itself(capsys):
    learn = make()
    with receipt(learn) as r: assert 'open' in repr(r); learn.fit(1)
    assert '0 0' in repr(r) and '<table' in r._repr_html_() and '0 0' in capsys.readouterr().out


def notes(learn, **kw):
    with receipt(learn, show=False) as r: learn.fit(1, 1e-2, **kw)
    return r.notes, r.table


def test_receipt_names_batchnorm_drift():
    learn = plain(splitter=parameter_groups)
    learn.freeze()
    (note,), t = notes(learn)
    assert note.startswith('groups 0, 1: frozen, yet BatchNorm') and t['buffers changed'].tolist() == [3, 3, 0]


def test_receipt_names_decay_of_what_is_frozen():
    learn = plain(splitter=parameter_groups, train_bn=False, cbs=BnFreeze())
    learn.fit(1)
    learn.freeze()
    (note,), t = notes(learn, wd=.1)
    assert 'weight decay' in note and t['stepped frozen'].tolist() == [56, 88, 0] and t.wd.iloc[0] == .1
    assert notes(make())[0] == []


def test_receipt_names_an_optimizer_made_before_unfreezing():
    model = net()
    model[:2].requires_grad_(False)
    learn = plain(model, cbs=BnFreeze(), train_bn=False)
    learn.fit(1)
    model.requires_grad_(True)
    (note,), t = notes(learn)
    assert 'groups 0, 1: trainable, but not in the optimizer' in note and t['in optimizer'].tolist() == [0, 0, 27] and t.changed.tolist()[:2] == [0, 0]


def test_receipt_names_it_for_torch_optimizers_too():
    model = net()
    opt = torch.optim.AdamW([p for p in model[2].parameters()], lr=1e-2, weight_decay=.2)
    (note, *_), t = notes(plain(model, opt_func=OptimWrapper(opt=opt)), wd=.2)
    assert 'not in the optimizer' in note and t['with state'].tolist() == [0, 0, 27] and t.wd.iloc[2] == .2 and t['lr max'].iloc[2] == 1e-2


def test_receipt_names_a_head_that_was_not_replaced():
    (note,), _ = notes(plain(net(1000), splitter=parameter_groups))
    assert '1000 outputs' in note and '3 classes' in note


def test_receipt_names_what_got_no_gradient():
    class Cut(nn.Module):
        def forward(self, x): return x.detach()
    model = nn.Sequential(nn.Linear(4, 8), Cut(), nn.Linear(8, 3))
    (note,), t = notes(make(model))
    assert note.startswith('group 0: trainable and in the optimizer, but no gradient')


def test_receipt_of_nothing():
    with receipt(make(), show=False) as r: pass
    assert r.notes == ['nothing was trained.'] and r.table.changed.sum() == 0


def test_receipt_when_the_head_is_replaced_inside():
    learn = make(net(3))
    with receipt(learn, show=False) as r:
        learn.model[2] = nn.Linear(8, 3, bias=False)
        learn.create_opt()
        learn.fit(1)
    assert r.table.changed.iloc[2] == 24


def test_receipt_of_a_real_backbone_names_its_groups():
    timm = pytest.importorskip('timm')
    model = timm.create_model('tf_efficientnet_lite0', num_classes=3)
    assert list(R._named(model))[:2] == ['0 conv_stem, bn1', '1 blocks.0'] and list(R._named(model))[-1] == '8 classifier'
