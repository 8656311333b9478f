"Rates against torch's schedulers, step by step, on toy networks."
import math, warnings

import numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.optim import lr_scheduler as S

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.callback.schedule import Learner, ParamScheduler
    from fastai.callback.tracker import ReduceLROnPlateau
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.optimizer import OptimWrapper

from tlcourse.rates import RateError, RateLog, fit_warmup_cosine, layer_decay, plot_rates, rehearse

RATES = np.array([1e-4, 1e-3, 1e-2])


def toy(n=7, k=3, cbs=None, **kwargs):
    "A Learner with `k` groups and `n` batches an epoch, that can learn a little."
    torch.manual_seed(0)
    items = [(torch.randn(4), torch.randn(4)) for _ in range(n)]
    dls = DataLoaders(DataLoader(items, bs=1), DataLoader(items[:2], bs=1), device='cpu')
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(k)])
    return Learner(dls, model, nn.MSELoss(), splitter=lambda m: [list(o.parameters()) for o in m], cbs=cbs, **kwargs)


def quiet(learn, fit, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): fit(learn, *args, **kwargs)
    return learn


def by_torch(make, steps, rates=RATES, opt=torch.optim.SGD):
    opt = opt([dict(params=[nn.Parameter(torch.zeros(1))], lr=r) for r in rates])
    sched, seen = make(opt), []
    for _ in range(steps):
        seen.append([g['lr'] for g in opt.param_groups])
        opt.step()
        sched.step()
    return np.array(seen)


def warm(steps, div, total):
    return lambda o: S.SequentialLR(o, [S.LinearLR(o, 1/div, total_iters=steps), S.CosineAnnealingLR(o, total - steps)], [steps])


# --- layer_decay

def test_layer_decay_is_a_geometric_row_that_ends_at_the_head():
    rates = layer_decay(toy(k=5), 1e-2, .5)
    assert np.allclose(rates, [1e-2/16, 1e-2/8, 1e-2/4, 1e-2/2, 1e-2], rtol=1e-12)
    assert np.allclose(layer_decay(toy(k=1), 1e-2, .5), [1e-2]) and np.allclose(layer_decay(toy(), 1e-2, 1), 1e-2)

def test_layer_decay_counts_the_groups_of_the_learners_splitter():
    learn = toy(k=4)
    learn.splitter = lambda m: [list(m[:2].parameters()), list(m[2:].parameters())]
    assert len(layer_decay(learn, 1e-3, .5)) == 2 and len(layer_decay(learn.model, 1e-3, .5)) == 4

def test_layer_decay_equals_timms_on_the_same_groups():
    from timm.optim import param_groups_layer_decay
    from tlcourse.backbones import groups, load
    model = load('efficientnet_lite0', 10, pretrained=False)
    blocks = {o['lr_scale'] for o in param_groups_layer_decay(model, layer_decay=.7)}
    ours = layer_decay(nn.Sequential(*[nn.Linear(1, 1) for _ in blocks]), 1., .7)
    assert np.allclose(sorted(blocks), ours)
    assert len(layer_decay(model, 1., .7)) == len(groups(model))

def test_layer_decay_reaches_the_optimizer_and_its_steps():
    learn = toy()
    rates = layer_decay(learn, 1e-3, .1)
    before = [o.weight.detach().clone() for o in learn.model]
    learn.wd = 0.
    log = RateLog()
    with learn.added_cbs(log): quiet(learn, Learner.fit, 1, rates)
    assert np.allclose(log.rates, rates)
    moved = [(o.weight - b).abs().max().item() for o,b in zip(learn.model, before)]
    assert 5 < moved[1]/moved[0] < 20 and 5 < moved[2]/moved[1] < 20

@pytest.mark.parametrize('lr', [0, -1., math.nan, math.inf, '1e-3', None, True, slice(1e-3), [1e-3]])
def test_a_rate_is_a_number_above_0(lr):
    with pytest.raises(RateError, match='is no learning rate'): layer_decay(toy(), lr, .5)

@pytest.mark.parametrize('factor', [0, -.5, 1.01, 2.6, math.nan, '1/2', None])
def test_a_factor_is_in_0_1(factor):
    with pytest.raises(RateError, match='factor=.*above 0 and at most 1'): layer_decay(toy(), 1e-3, factor)


# --- schedules

@pytest.mark.parametrize('n, epochs, warmup, div', [(7, 4, 1, 100), (7, 4, 2, 25), (5, 3, 0, 100), (1, 9, 3, 10), (6, 2, .5, 100)])
def test_warmup_cosine_is_torchs(n, epochs, warmup, div):
    got = rehearse(toy(n), fit_warmup_cosine, epochs, RATES, warmup=warmup, div=div)
    steps = round(n*warmup)
    make = warm(steps, div, n*epochs) if steps else lambda o: S.CosineAnnealingLR(o, n*epochs)
    assert got.shape == (n*epochs, 3) and np.allclose(got, by_torch(make, n*epochs), rtol=1e-4, atol=1e-8)

@pytest.mark.parametrize('pct', [.25, .3, .5])
def test_one_cycle_is_torchs_with_its_defaults_translated(pct):
    n = 7*4
    got = rehearse(toy(), Learner.fit_one_cycle, 4, RATES, pct_start=pct)
    def make(o): return S.OneCycleLR(o, list(RATES), total_steps=n + 1, pct_start=(pct*n + 1)/(n + 1), div_factor=25, final_div_factor=4000)
    want = by_torch(make, n, opt=torch.optim.Adam)
    assert np.allclose(got, want, rtol=1e-4, atol=1e-9)
    plain = by_torch(lambda o: S.OneCycleLR(o, list(RATES), total_steps=n), n, opt=torch.optim.Adam)
    assert not np.allclose(got, plain, rtol=.05)

def test_plateau_is_torchs_with_one_less_patience():
    learn = toy(cbs=[ReduceLROnPlateau(patience=2, factor=10.), log := RateLog()])
    quiet(learn, Learner.fit, 12, np.array([.1, .2, .3]))
    opt = torch.optim.SGD([dict(params=[nn.Parameter(torch.zeros(1))], lr=r) for r in (.1, .2, .3)])
    sched, want = S.ReduceLROnPlateau(opt, factor=.1, patience=1, threshold=0, eps=0), []
    for v in learn.recorder.values:
        want.append([g['lr'] for g in opt.param_groups])
        sched.step(v[1])
    got = log.rates.iloc[::7].to_numpy()
    assert np.allclose(got, want) and got[-1, 0] < .1

@pytest.mark.parametrize('fit, args', [(fit_warmup_cosine, dict(warmup=1)), (Learner.fit_one_cycle, {}), (Learner.fit_flat_cos, {})])
def test_a_rehearsal_is_what_training_does(fit, args):
    learn = toy(cbs=(log := RateLog()))
    expected = rehearse(learn, fit, 3, RATES, **args)
    assert not log.losses
    quiet(learn, fit, 3, RATES, **args)
    pd.testing.assert_frame_equal(log.rates, expected)
    assert len(log.losses) == 21 and all(map(math.isfinite, log.losses))

def test_a_rehearsal_changes_nothing_and_sees_freezing():
    learn = toy()
    learn.freeze()
    before = [p.detach().clone() for p in learn.model.parameters()]
    hypers, grads = [dict(h) for h in learn.opt.hypers], [p.requires_grad for p in learn.model.parameters()]
    rng = torch.get_rng_state()
    table = rehearse(learn, Learner.fine_tune, 2)
    assert (table.iloc[:7, :2] == 0).all(axis=None) and (table.iloc[:7, 2] > 0).all() and (table.iloc[7:] > 0).all(axis=None)
    assert all(torch.equal(p, b) for p,b in zip(learn.model.parameters(), before)) and hypers == [dict(h) for h in learn.opt.hypers]
    assert grads == [p.requires_grad for p in learn.model.parameters()] and all(not o.keys() - {'do_wd'} for o in learn.opt.state.values()) and torch.equal(rng, torch.get_rng_state())
    assert (rehearse(learn, Learner.fit_one_cycle, 1).iloc[:, :2] == 0).all(axis=None), 'a frozen Learner stays frozen in the rehearsal'

def test_rehearsal_works_with_torchs_optimizer_and_before_the_first_fit():
    learn = toy(opt_func=lambda ps, **kw: OptimWrapper(ps, torch.optim.AdamW, **kw))
    assert np.allclose(rehearse(learn, Learner.fit, 2, RATES), RATES) and learn.opt is None

def test_warmup_cosine_takes_what_fastai_takes():
    learn = toy(lr=.5)
    assert np.isclose(rehearse(learn, fit_warmup_cosine, 3).max(axis=None), .5)
    assert np.allclose(rehearse(learn, fit_warmup_cosine, 3, slice(1e-4, 1e-2)).max(), [1e-4, 1e-3, 1e-2])
    assert np.allclose(rehearse(learn, fit_warmup_cosine, 3, slice(1e-2)).max(), [1e-3, 1e-3, 1e-2])
    seen = []
    class Seen(RateLog):
        def after_fit(self): seen.append(len(self.losses))
    quiet(learn, fit_warmup_cosine, 2, 1e-3, cbs=Seen(), wd=.1)
    assert seen == [14] and learn.opt.hypers[0]['wd'] == .1

@pytest.mark.parametrize('args, kwargs, says', [
    ((2, 1e-3), dict(warmup=2), 'shorter than the 2 epochs'), ((2, 1e-3), dict(warmup=5), 'shorter than the 2 epochs'),
    ((2, 1e-3), dict(warmup=-1), 'warmup=-1'), ((2, 1e-3), dict(warmup='1'), "warmup='1'"), ((2, 1e-3), dict(div=0), 'div=0'),
    ((2, 0.), {}, 'no learning rate'), ((2, -1e-3), {}, 'no learning rate'), ((2, slice(0, 1e-3)), {}, 'no learning rate'), ((2, [1e-3, 0, 1e-3]), {}, 'no learning rate'),
    ((2, [1e-3, 1e-2]), {}, '2 rates for 3 groups'), ((2, np.ones(9)), {}, '9 rates for 3 groups'), ((2, []), {}, '0 rates for 3 groups')])
def test_one_line_for_each_misuse(args, kwargs, says):
    learn = toy()
    before = [p.detach().clone() for p in learn.model.parameters()]
    with pytest.raises(RateError, match=says) as e: quiet(learn, fit_warmup_cosine, *args, **kwargs)
    assert '\n' not in str(e.value) and all(torch.equal(p, b) for p,b in zip(learn.model.parameters(), before))


# --- the picture

def test_plot_rates_draws_a_line_for_each_group_and_says_what_it_shows():
    fig = plot_rates(rehearse(toy(), Learner.fit_one_cycle, 3, RATES))
    lines = fig.axes[0].lines
    assert len(lines) == 3 and np.isclose(lines[2].get_ydata().max(), 1e-2, rtol=.05) and 'last of 3' in fig.alt and '21 steps' in fig.alt
    assert lines[0].get_alpha() < lines[2].get_alpha()
