"L2SP and KeepBest against autograd, closed forms, plain loops and fastai's own callback; on toys of a few weights."
import math, pickle, warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.callback.core import Callback, CancelFitException, CancelStepException, CancelValidException
    from fastai.callback.schedule import Learner
    from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
    from fastai.callback.training import GradientAccumulation, GradientClip
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import ValueMetric
    from fastai.optimizer import SGD, Adam, OptimWrapper

from tlcourse.backbones import BackboneError
from tlcourse.learners import parameter_groups
from tlcourse.regularize import L2SP, KeepBest

torch.manual_seed(0)
X, Y = torch.randn(12, 4), torch.randn(12, 2)


def toy(bn=False):
    torch.manual_seed(1)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5) if bn else nn.Tanh()), nn.Linear(5, 3), nn.Linear(3, 2))


def make(model=None, bs=12, opt_func=SGD, **kwargs):
    "A quiet learner; one batch an epoch unless `bs` says otherwise, never shuffled."
    dls = DataLoaders(DataLoader(TensorDataset(X, Y), bs=bs), DataLoader(TensorDataset(X[:6], Y[:6]), bs=6))
    learn = Learner(dls, toy() if model is None else model, nn.MSELoss(), opt_func=opt_func, splitter=parameter_groups, lr=.1, **kwargs)
    learn.logger, learn.create_mbar = lambda *args: None, False
    learn.remove_cbs(o for o in list(learn.cbs) if o.name == 'progress')
    return learn


def state(model): return {k: v.clone() for k,v in model.state_dict().items()}
def same(a, b): return all(torch.equal(a[k], b[k]) for k in a)
def wds(learn): return [h['wd'] for h in learn.opt.hypers]


class Grads(Callback):
    "The gradients of each step, as the optimizer gets them."
    order = 99
    def before_fit(self): self.all = []
    def before_step(self): self.all.append([None if p.grad is None else p.grad.clone() for p in self.model.parameters()])


def formula(model, anchor, alpha, beta):
    "The paper's penalty, written out with the names of the toy's parameters."
    out = 0.
    for k,p in model.named_parameters():
        out = out + (beta/2*(p*p).sum() if k.startswith('2.') else alpha/2*((p - anchor[k])**2).sum())
    return out


def coupled(*args, **kwargs): return L2SP(*args, decoupled=False, **kwargs)


@pytest.mark.parametrize('bn', [False, True])
def test_gradient_is_that_of_the_formula(bn):
    model = toy(bn)
    anchor = {k: torch.randn_like(v) if v.is_floating_point() else v for k,v in model.state_dict().items()}
    twin, grads, l2sp = deepcopy(model), Grads(), coupled(.7, .3, anchor)
    make(model).fit(1, cbs=[l2sp, grads])
    (nn.MSELoss()(twin(X), Y) + formula(twin, anchor, .7, .3)).backward()
    for g,p in zip(grads.all[0], twin.parameters()): assert torch.allclose(g, p.grad, atol=1e-6)


def test_penalty_is_the_formula_and_a_metric():
    model = toy()
    anchor = {k: torch.randn_like(v) for k,v in model.state_dict().items()}
    l2sp = L2SP(.7, .3, anchor)
    assert l2sp.penalty() == 0
    learn = make(model, metrics=ValueMetric(l2sp.penalty, 'l2sp'))
    learn.fit(2, cbs=l2sp)
    assert l2sp.penalty().item() == pytest.approx(formula(model, anchor, .7, .3).item(), rel=1e-5)
    assert learn.recorder.values[-1][-1] == pytest.approx(l2sp.penalty().item(), rel=1e-5)


@pytest.mark.parametrize('decoupled', [True, False])
def test_on_a_quadratic_the_optimum_is_the_closed_form(decoupled):
    "loss h/2 (θ - t)² has its optimum with L2-SP at (h t + alpha θ₀)/(h + alpha), the head's at h t/(h + beta)."
    class Weight(nn.Module):
        def __init__(self, v): super().__init__(); self.w = nn.Parameter(torch.tensor(v))
        def forward(self, x): return x
    model = nn.Sequential(Weight([1., -2.]), Weight([.5, 3.]))
    h, t, u = torch.tensor([2., .5]), torch.tensor([3., 1.]), torch.tensor([-1., 2.])
    loss = lambda *_: (h/2*(model[0].w - t)**2).sum() + (h/2*(model[1].w - u)**2).sum()
    learn = make(model)
    learn.loss_func = loss
    learn.fit(400, .3, wd=5., cbs=L2SP(.8, .4, decoupled=decoupled))
    assert torch.allclose(model[0].w, (h*t + .8*torch.tensor([1., -2.]))/(h + .8), atol=1e-4)
    assert torch.allclose(model[1].w, h*u/(h + .4), atol=1e-4)


@pytest.mark.parametrize('decoupled', [True, False])
@pytest.mark.parametrize('opt', [SGD, Adam])
def test_no_strength_is_naive_training_exactly(opt, decoupled):
    a, b = make(opt_func=opt, bs=4), make(opt_func=opt, bs=4)
    a.fit(3, wd=0.)
    b.fit(3, cbs=L2SP(0, 0, decoupled=decoupled))
    assert same(state(a.model), state(b.model))


def test_anchor_is_the_first_start_and_stays():
    l2sp, learn = L2SP(.5, 0.), make()
    start = state(learn.model)
    learn.fit(2, cbs=l2sp)
    learn.fit(2, cbs=l2sp)
    assert same(l2sp.anchor, start) and set(l2sp.anchor) == {k for k in start if not k.startswith('2.')}
    assert not torch.equal(learn.model[0][0].weight, start['0.0.weight'])


def test_a_given_anchor_is_copied_and_may_have_another_head():
    model = toy()
    l2sp = L2SP(.5, .1, model.state_dict())
    start = state(model)
    make(model).fit(3, cbs=l2sp)
    assert same(l2sp.anchor, start) and not same(start, state(model))
    old_head = {**start, '2.weight': torch.zeros(1000, 3), '2.bias': torch.zeros(1000)}
    other = toy()
    make(other).fit(3, cbs=L2SP(.5, .1, old_head))
    assert same(state(other), state(model))


def test_frozen_parameters_are_left_alone():
    learn, grads = make(), Grads()
    learn.freeze_to(1)
    before = state(learn.model)
    learn.fit(3, cbs=[L2SP(5., 1., {k: torch.zeros_like(v) for k,v in before.items()}), grads])
    after = state(learn.model)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith('0.'))
    assert not any(torch.equal(before[k], after[k]) for k in before if not k.startswith('0.'))
    assert grads.all[0][0] is None


def test_all_frozen_adds_nothing():
    learn = make()
    for p in learn.model.parameters(): p.requires_grad_(False)
    l2sp = L2SP(1., 1.)
    l2sp.learn = learn
    learn.create_opt()
    l2sp.before_train()
    assert l2sp.penalty() == 0


def test_unfreezing_later_keeps_the_anchor():
    learn, l2sp = make(), L2SP(.5, 0.)
    start = state(learn.model)
    learn.freeze_to(-1); learn.fit(1, cbs=l2sp)
    learn.unfreeze(); learn.fit(2, cbs=l2sp)
    assert same(l2sp.anchor, {k: start[k] for k in l2sp.anchor}) and not torch.equal(learn.model[0][0].weight, start['0.0.weight'])


def test_losses_shown_are_those_of_the_data():
    plain, learn = make(), make()
    plain.fit(1, lr=0., wd=0.)
    learn.fit(1, lr=0., cbs=L2SP(9., 9.))
    assert learn.recorder.values[0][:2] == plain.recorder.values[0][:2]
    assert learn.validate()[0] == plain.validate()[0]


@pytest.mark.parametrize('opt', [SGD, Adam, lambda params, lr: OptimWrapper(params, torch.optim.AdamW, lr=lr, weight_decay=.3)])
def test_weight_decay_is_off_and_restored(opt):
    seen = []
    class See(Callback):
        order = 98
        def before_step(self): seen.append(wds(self.learn))
    learn = make(opt_func=opt)
    learn.create_opt()
    learn.opt.set_hypers(wd=[.1, .2, .3])
    learn.fit(2, cbs=[L2SP(), See()])
    assert seen == [[0., 0., 0.]]*2 and wds(learn) == [.1, .2, .3]
    learn.fit(1, wd=.05, cbs=L2SP())
    assert wds(learn) == [.05]*3


@pytest.mark.parametrize('e', [KeyboardInterrupt, RuntimeError, CancelFitException])
def test_weight_decay_is_restored_after_an_interruption(e):
    class Stop(Callback):
        def before_step(self): raise e('stop')
    learn = make(wd=None, opt_func=Adam)
    try: learn.fit(1, cbs=[L2SP(), Stop()])
    except (KeyboardInterrupt, RuntimeError): pass
    assert wds(learn) == [.01]*3 and not learn._grab_cbs(L2SP)


def test_a_callback_of_the_learner_itself():
    learn = make(opt_func=Adam, cbs=L2SP(.5, .1))
    learn.fit(1); assert wds(learn) == [.01]*3
    learn.fit(1); assert wds(learn) == [.01]*3
    learn.remove_cb(L2SP); assert wds(learn) == [.01]*3


def test_lr_find_leaves_all_as_it_was(tmp_path):
    learn = make(opt_func=Adam, cbs=L2SP(.5, .1), path=tmp_path)
    before = state(learn.model)
    learn.lr_find(num_it=8, show_plot=False)
    assert same(before, state(learn.model)) and wds(learn) == [.01]*3
    learn.fit(1)
    assert same(learn.l2_sp.anchor, {k: v for k,v in before.items() if not k.startswith('2.')})


@pytest.mark.parametrize('decoupled', [True, False])
def test_weight_decay_does_not_shrink_what_sits_at_its_anchor(decoupled):
    "Where the loss is flat, decay would pull toward zero; under L2-SP the body stays where it is, exactly."
    learn = make()
    learn.loss_func = lambda pred, y: 0.*pred.sum()
    before = state(learn.model)
    learn.fit(5, wd=.5, cbs=L2SP(1., .5, decoupled=decoupled))
    after = state(learn.model)
    assert all(torch.equal(before[k], after[k]) for k in before if not k.startswith('2.'))
    assert torch.allclose(after['2.weight'], before['2.weight']*(1 - .1*.5)**5)


def test_with_accumulation_and_clipping_it_is_still_the_formula():
    model, grads = toy(), Grads()
    anchor = {k: torch.randn_like(v) for k,v in model.state_dict().items()}
    twin = deepcopy(model)
    make(model, bs=4).fit(1, cbs=[coupled(.7, .3, anchor), GradientAccumulation(12), GradientClip(.5), grads])
    assert len(grads.all) == 1
    (nn.MSELoss()(twin(X), Y) + formula(twin, anchor, .7, .3)).backward()
    nn.utils.clip_grad_norm_(twin.parameters(), .5)
    for g,p in zip(grads.all[0], twin.parameters()): assert torch.allclose(g, p.grad, atol=1e-6)


def test_under_loss_scaling_it_is_still_the_formula():
    "What fastai's MixedPrecision does, at its place in the order, without the need for a GPU."
    class Scale(Callback):
        order = 10
        def before_backward(self): self.learn.loss_grad = self.loss_grad*1024
        def before_step(self):
            for p in self.model.parameters(): p.grad /= 1024
    model, grads = toy(), Grads()
    anchor = {k: torch.randn_like(v) for k,v in model.state_dict().items()}
    twin = deepcopy(model)
    make(model).fit(1, cbs=[coupled(.7, .3, anchor), Scale(), grads])
    (nn.MSELoss()(twin(X), Y) + formula(twin, anchor, .7, .3)).backward()
    for g,p in zip(grads.all[0], twin.parameters()): assert torch.allclose(g, p.grad, atol=1e-6)


def test_with_another_penalty_gradients_add():
    class Other(Callback):
        def after_loss(self):
            if self.training: self.learn.loss_grad = self.loss_grad + self.model[0][0].weight.sum()
    model, grads = toy(), Grads()
    twin = deepcopy(model)
    make(model).fit(1, cbs=[Other(), coupled(0., .3), grads])
    (nn.MSELoss()(twin(X), Y) + twin[0][0].weight.sum() + formula(twin, state(twin), 0., .3)).backward()
    for g,p in zip(grads.all[0], twin.parameters()): assert torch.allclose(g, p.grad, atol=1e-6)


def test_it_goes_on_after_save_and_load(tmp_path):
    a, la = make(opt_func=Adam, path=tmp_path), L2SP(.5, .1)
    a.fit(2, cbs=la)
    a.save('half')
    b, lb = make(opt_func=Adam, path=tmp_path), L2SP(.5, .1, la.anchor)
    b.create_opt()
    b.load('half', weights_only=False)
    a.fit(2, cbs=la)
    b.fit(2, cbs=lb)
    assert same(state(a.model), state(b.model)) and wds(a) == wds(b) == [.01]*3


@pytest.mark.parametrize('bad', [dict(alpha=-1), dict(beta=-.1), dict(alpha=math.nan), dict(beta=math.inf)])
def test_a_strength_is_no_less_than_zero(bad):
    with pytest.raises(ValueError, match=rf'^{list(bad)[0]}={list(bad.values())[0]} is no strength') as e: L2SP(**bad)
    assert '\n' not in str(e.value)


def test_wrong_anchors_and_models_say_so():
    with pytest.raises(TypeError, match='give a state dict'): L2SP(anchor=toy())
    wrong = {**toy().state_dict(), '1.weight': torch.zeros(7, 5)}
    with pytest.raises(ValueError, match=r'1.weight of shape \[3, 5\] is of shape \[7, 5\] in the anchor'): make().fit(1, cbs=L2SP(anchor=wrong))
    with pytest.raises(ValueError, match=r'0.0.weight of shape \[5, 4\] is missing in the anchor'): make().fit(1, cbs=L2SP(anchor={'a': X}))
    class Odd(nn.Module):
        def __init__(self): super().__init__(); self.f = nn.Linear(4, 2)
        def forward(self, x): return self.f(x)
    learn = make()
    learn.model = Odd()
    learn.splitter = lambda m: [list(m.parameters())]
    with pytest.raises(BackboneError, match='no layer groups'): learn.fit(1, cbs=L2SP())


def test_it_can_be_copied_and_pickled():
    learn, l2sp = make(), L2SP(.5, .1)
    learn.fit(1, cbs=l2sp)
    for twin in (deepcopy(l2sp), pickle.loads(pickle.dumps(l2sp))):
        assert (twin.alpha, twin.beta) == (.5, .1) and same(twin.anchor, l2sp.anchor)
        make().fit(1, cbs=twin)


def test_validate_and_get_preds_leave_it_alone():
    learn = make(opt_func=Adam, cbs=L2SP(.5, .1))
    learn.validate(); learn.get_preds()
    assert learn.l2_sp.anchor is None
    learn.fit(1)
    learn.validate(); learn.get_preds()
    assert wds(learn) == [.01]*3


def test_a_refused_fit_keeps_weight_decay():
    learn = make(opt_func=Adam)
    with pytest.raises(ValueError): learn.fit(1, cbs=L2SP(anchor={'a': X}))
    assert wds(learn) == [.01]*3


# The decoupled form

def flat(model): return lambda *_: 0.*sum(p.sum() for p in model.parameters())

def torch_adamw(params, lr): return OptimWrapper(params, torch.optim.AdamW, lr=lr, weight_decay=0.)

OPTS = pytest.mark.parametrize('opt', [SGD, Adam, torch_adamw], ids=['SGD', 'Adam', 'AdamW of torch'])

def pulled(alpha, opt, decoupled, steps=1, lr=.1, start=2., beta=None):
    "Where weights that start at 2 end, with their anchor (and the head's zero) at 0 and nothing to learn."
    learn = make(opt_func=opt)
    learn.loss_func = flat(learn.model)
    with torch.no_grad():
        for p in learn.model.parameters(): p.fill_(start)
    zeros = {k: torch.zeros_like(v) for k,v in learn.model.state_dict().items()}
    learn.fit(steps, lr, cbs=L2SP(alpha, alpha if beta is None else beta, zeros, decoupled=decoupled))
    return learn.model


@OPTS
@pytest.mark.parametrize('alpha', [.01, .1, 2.])
def test_repeated_pull_is_the_closed_form(opt, alpha):
    "After n steps at rate lr the distance is (1 - lr alpha)^n of what it was."
    model = pulled(alpha, opt, True, steps=7, beta=alpha/2)
    assert model[0][0].weight.unique().item() == pytest.approx(2*(1 - .1*alpha)**7, rel=1e-5)
    assert model[2].weight.unique().item() == pytest.approx(2*(1 - .1*alpha/2)**7, rel=1e-5)


def test_coupled_under_adam_has_no_strength_and_every_other_form_has():
    "One step from 2 toward 0: the strength counts, but for the coupled form under Adam, where it is 1.9 for .01, .1 and 10 alike."
    at = lambda opt, decoupled: [pulled(a, opt, decoupled)[0][0].weight[0, 0].item() for a in (.01, .1, 10.)]
    assert at(Adam, False) == pytest.approx([1.9]*3, abs=2e-3)
    for opt,decoupled in ((SGD, False), (SGD, True), (Adam, True)): assert at(opt, decoupled) == pytest.approx([2*(1 - .1*a) for a in (.01, .1, 10.)], abs=1e-6)


def test_the_default_does_something_under_adam():
    a, b, far = make(opt_func=Adam), make(opt_func=Adam), []
    start = state(a.model)
    a.fit(20, .01, wd=0.)
    b.fit(20, .01, cbs=L2SP())
    far = [sum((l.model.state_dict()[k] - start[k]).square().sum() for k in start if not k.startswith('2.')).sqrt().item() for l in (a, b)]
    assert far[1] < .7*far[0] and b.model[2].weight.norm() < a.model[2].weight.norm()


@pytest.mark.parametrize('bs', [12, 4])
def test_with_its_anchor_at_zero_it_is_adamw(bs):
    "Weight for weight, over many steps with momentum, against torch's own AdamW and its weight decay."
    a = make(bs=bs, opt_func=lambda params, lr: OptimWrapper(params, torch.optim.AdamW, lr=lr))
    b = make(bs=bs, opt_func=torch_adamw)
    zeros = {k: torch.zeros_like(v) for k,v in b.model.state_dict().items()}
    a.fit(5, .02, wd=.4)
    b.fit(5, .02, cbs=L2SP(.4, .4, zeros))
    for p,q in zip(a.model.parameters(), b.model.parameters()): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_each_group_is_pulled_at_its_own_rate():
    learn = make(opt_func=Adam)
    learn.loss_func = flat(learn.model)
    start = state(learn.model)
    anchor = {k: torch.zeros_like(v) for k,v in start.items()}
    learn.fit(1, np.array([.01, .1, .2]), cbs=L2SP(2., .5, anchor))
    for k,factor in (('0.0.weight', 1 - .02), ('1.weight', 1 - .2), ('2.weight', 1 - .1)):
        torch.testing.assert_close(learn.model.state_dict()[k], start[k]*factor)


def test_a_huge_strength_holds_and_never_overshoots():
    learn = make()
    start = state(learn.model)
    learn.fit(5, cbs=L2SP(1e6, 1e6))
    for k,v in learn.model.state_dict().items(): assert (v - (0 if k.startswith('2.') else start[k])).abs().max() < .1 # one step's worth


def test_accumulated_steps_pull_once_and_cancelled_ones_not():
    class Cancel(Callback):
        order = 20
        def before_step(self): raise CancelStepException
    for cb,times in ((GradientAccumulation(12), 1), (Cancel(), 0)):
        learn = make(bs=4, opt_func=Adam)
        learn.loss_func = flat(learn.model)
        start = state(learn.model)
        learn.fit(1, cbs=[L2SP(1., 1., {k: torch.zeros_like(v) for k,v in start.items()}), cb])
        for k,v in learn.model.state_dict().items(): torch.testing.assert_close(v, start[k]*.9**times)


def test_what_is_frozen_is_not_pulled():
    learn = make(opt_func=Adam)
    learn.freeze_to(1)
    before = state(learn.model)
    learn.fit(2, cbs=L2SP(5., 1., {k: torch.zeros_like(v) for k,v in before.items()}))
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items() if k.startswith('0.'))


@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')], ids=['DataParallel', 'compiled'])
@pytest.mark.parametrize('decoupled', [True, False])
def test_a_wrapped_model_trains_as_the_bare_one(wrap, decoupled):
    "With the anchor's names bare or as the wrapper writes them; DataParallel without a GPU hands on to the module."
    bare, anchor = make(opt_func=Adam), {k: v + .1 for k,v in toy().state_dict().items()}
    bare.fit(3, cbs=L2SP(.5, .1, anchor, decoupled))
    model = wrap(toy())
    prefix = next(iter(model.state_dict())).partition('.')[0]
    for names in (anchor, {f'{prefix}.{k}': v for k,v in anchor.items()}):
        twin = toy()
        learn = make(wrap(twin), opt_func=Adam)
        learn.fit(3, cbs=(l2sp := L2SP(.5, .1, names, decoupled)))
        for k,v in bare.model.state_dict().items(): torch.testing.assert_close(twin.state_dict()[k], v)
        assert set(l2sp.anchor) == set(anchor)


# KeepBest

class Script(Callback):
    "Weights that count the epochs, and a validation loss from a script."
    order = 55  # after the Recorder has its values, before TrackerCallback
    def __init__(self, losses): self.losses = losses
    def after_train(self): nn.init.constant_(self.model[2].bias, self.epoch)
    def after_epoch(self): self.recorder.values[-1][1] = self.losses[self.epoch]


def run(losses, *cbs, monitor='valid_loss', **kwargs):
    learn, keep = make(), KeepBest(monitor, **kwargs)
    learn.fit(len(losses), cbs=[Script(losses), keep, *cbs])
    return keep, learn.model[2].bias[0].item()


@pytest.mark.parametrize('losses, best', [([3, 1, 2], 1), ([1, 2, 3], 0), ([3, 2, 1], 2), ([2, 1, 1], 1), ([math.nan, 2, 3], 1), ([2, math.nan, 1], 2),
                                          ([1, math.nan], 0), ([math.inf, 5], 1)])
def test_the_first_best_epoch_is_kept(losses, best):
    keep, bias = run(losses)
    assert keep.best_epoch == bias == best and keep.best == losses[best]


def test_it_maximizes_metrics_and_takes_comp_and_min_delta():
    assert run([1, 3, 2], comp=np.greater)[0].best_epoch == 1
    assert run([3, 2.95, 2.8], min_delta=.1)[0].best_epoch == 2
    learn, keep = make(metrics=lambda p, y: p.mean()), KeepBest('<lambda>')
    learn.fit(1, cbs=keep)
    assert keep.comp is np.greater


def test_nothing_but_nan_keeps_the_last_weights_and_warns():
    with pytest.warns(UserWarning, match='valid_loss was never a number'): keep, bias = run([math.nan]*3)
    assert keep.best_epoch is None and bias == 2


def test_it_does_what_fastai_does_with_files(tmp_path):
    def train(cb):
        learn = make(bs=4, path=tmp_path)
        learn.fit(6, .8, cbs=cb)
        return cb, state(learn.model)
    (a, theirs), (b, ours) = train(SaveModelCallback()), train(KeepBest())
    assert same(theirs, ours) and a.best == b.best and b.best_epoch < 5


def test_it_keeps_the_best_where_early_stopping_stops(capsys):
    keep, bias = run([3, 1, 2, 2, 2, 2], EarlyStoppingCallback(patience=2))
    assert keep.best_epoch == bias == 1


def test_each_fit_starts_anew_unless_told():
    learn, keep = make(), KeepBest()
    learn.fit(2, cbs=[Script([1, 2]), keep]); learn.fit(2, cbs=[Script([5, 4]), keep])
    assert keep.best == 4 and keep.best_epoch == 1
    learn, keep = make(), KeepBest(reset_on_fit=False)
    learn.fit(2, cbs=[Script([1, 2]), keep]); learn.fit(2, cbs=[Script([5, 4]), keep])
    assert keep.best == 1 and learn.model[2].bias[0].item() == 0


def test_buffers_are_kept_too():
    learn = make(toy(bn=True), bs=4)
    seen = []
    class See(Script):
        def after_train(self): super().after_train(); seen.append(self.model[0][1].running_mean.clone())
    learn.fit(3, cbs=[See([2, 1, 3]), KeepBest()])
    assert torch.equal(learn.model[0][1].running_mean, seen[1])


@pytest.mark.parametrize('monitor', ['acuracy', 'time', 'epoch'])
def test_an_unknown_monitor_is_named(monitor):
    with pytest.raises(ValueError, match=f'{monitor} is not recorded; there are train_loss, valid_loss'): make().fit(1, cbs=KeepBest(monitor))


def test_lr_find_is_not_disturbed(tmp_path):
    learn = make(opt_func=Adam, cbs=KeepBest(), path=tmp_path)
    before = state(learn.model)
    learn.lr_find(num_it=8, show_plot=False)
    assert same(before, state(learn.model))


@pytest.mark.parametrize('monitor', ['valid_loss', 'mean'])
def test_validate_is_no_epoch_of_training(monitor):
    "fastai's own trackers stumble here when they belong to the learner."
    def mean(p, y): return p.mean()
    learn = make(cbs=KeepBest(monitor), metrics=mean)
    learn.validate()
    learn.fit(2)
    best, before = learn.keep_best.best, state(learn.model)
    learn.validate()
    assert learn.keep_best.best == best and same(before, state(learn.model))


def test_without_validation_it_keeps_nothing_and_warns():
    class Blind(Callback):
        def before_validate(self): raise CancelValidException
    with pytest.warns(UserWarning, match='never a number'): make().fit(2, cbs=[Blind(), KeepBest()])
