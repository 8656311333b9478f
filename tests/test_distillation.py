"Distillation, several tasks, averages of weights: losses and merges against closed forms and other libraries, and one line for what is wrong."
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse import TLCourseError
from tlcourse.averages import merge
from tlcourse.distillation import Distill, distillation, renormalized
from tlcourse.loop import train
from tlcourse.multitask import MultiHead, Uncertainty, conflict, task_losses


def net(seed=0, n_out=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_out))

G = torch.Generator().manual_seed(0)
X, S, T_ = (torch.randn(64, k, generator=G, dtype=torch.float64) for k in (6, 4, 4))
Y = torch.arange(64) % 4


def pull(T):
    z = S.clone().requires_grad_()
    return torch.autograd.grad(distillation(z, T_, T), z)[0]


@pytest.mark.parametrize('T', [.5, 1., 4., 50.])
def test_gradient_of_a_soft_answer(T):
    assert torch.allclose(pull(T), T*((S/T).softmax(1) - (T_/T).softmax(1))/64)


def test_a_high_temperature_matches_centred_logits():
    want = ((S - S.mean(1, keepdim=True)) - (T_ - T_.mean(1, keepdim=True)))/4/64
    assert torch.allclose(pull(1e5), want, rtol=1e-3, atol=1e-7)


def test_a_low_temperature_matches_hard_labels_of_a_sure_teacher():
    sure = 1e4*F.one_hot(Y, 4).double()
    assert torch.allclose(distillation(S, sure, 1.), F.cross_entropy(S, Y))


def test_the_factor_keeps_the_size():
    sizes = {T: pull(T).norm() for T in (50., 500.)}
    assert .95 < sizes[500.]/sizes[50.] < 1.05


def test_train_learns_and_repeats():
    x, y = X.float(), (X[:, 0] > 0).long()
    a, b, c = (train(net(n_out=2), x, y, F.cross_entropy, steps=60, bs=32, lr=.02, seed=s) for s in (0, 0, 1))
    assert (a(x).argmax(1) == y).float().mean() > .9 and not a.training
    assert torch.equal(a(x), b(x)) and not torch.equal(a(x), c(x))


def test_train_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    m = net()
    torch.manual_seed(3)
    train(m, X.float(), Y, F.cross_entropy, steps=2)
    assert torch.equal(torch.rand(2), want)


def test_train_changes_inputs_and_only_what_may_train():
    m, seen = net(), []
    m[0].requires_grad_(False)
    first, head = m[0].weight.clone(), m[3].weight.clone()
    train(m, X.float(), Y, F.cross_entropy, steps=3, bs=5, change=lambda b: seen.append(b.shape) or -b)
    assert seen == [(5, 6)]*3 and torch.equal(first, m[0].weight) and not torch.equal(head, m[3].weight)


@pytest.mark.parametrize('bn', [True, False])
def test_train_and_statistics(bn):
    m = net()
    train(m, X.float() + 5, Y, F.cross_entropy, steps=3, bn=bn)
    assert bool(m[1].num_batches_tracked) == bn


def test_a_loss_with_parameters_trains_at_its_own_rate():
    m, loss = MultiHead(nn.Linear(6, 5), [nn.Linear(5, 4), nn.Linear(5, 1)]), Uncertainty(2, lr=.1)
    train(m, X.float(), [Y, 100*X[:, 0].float()], loss, steps=100, bs=32)
    slow = Uncertainty(2, lr=1e-3)
    train(m, X.float(), [Y, 100*X[:, 0].float()], slow, steps=100, bs=32)
    assert loss.s[1] > 2 > .2 > slow.s[1]


def test_task_losses():
    out = [S, T_[:, :1]]
    got = task_losses(out, [Y, X[:, 0]])
    assert torch.allclose(got[0], F.cross_entropy(S, Y)) and torch.allclose(got[1], ((T_[:, 0] - X[:, 0])**2).mean())


def test_uncertainty_is_a_gaussian_likelihood():
    u = Uncertainty(1)
    u.s.data += 1.3
    want = F.gaussian_nll_loss(T_[:, 0].float(), X[:, 0].float(), torch.full((64,), float(np.exp(1.3))))
    assert torch.allclose(u([T_[:, :1]], [X[:, 0]]), want)


def test_uncertainty_of_classes():
    u = Uncertainty(2)
    u.s.data = torch.tensor([.4, -.2])
    a, b = (float(o) for o in task_losses([S, T_[:, :1]], [Y, X[:, 0]]))
    assert np.isclose(float(u([S, T_[:, :1]], [Y, X[:, 0]])), np.exp(-.4)*a + .2 + .5*np.exp(.2)*b - .1)


def test_the_best_noise_is_the_error():
    u, (mse,) = Uncertainty(1), task_losses([T_[:, :1]], [X[:, 0]])
    u.s.data[:] = mse.log()
    assert torch.autograd.grad(u([T_[:, :1]], [X[:, 0]]), u.s)[0].abs() < 1e-6


def test_conflict_by_hand():
    w = nn.Parameter(torch.tensor([1., 2.]))
    v = nn.Parameter(torch.tensor([3.]))
    losses = [w[0] + w[1], w[0] - w[1], 2*w[0] + 2*w[1], -w[0] - w[1], v[0]*1.]
    want = torch.tensor([[1., 0, 1, -1, 0], [0, 1, 0, 0, 0], [1, 0, 1, -1, 0], [-1, 0, -1, 1, 0], [0, 0, 0, 0, 1]]).double()
    assert torch.allclose(conflict(losses, [w, v]), want, atol=1e-6)
    assert w.grad is None


def test_conflict_tells_what_a_step_does():
    m = MultiHead(nn.Linear(6, 5), [nn.Linear(5, 4), nn.Linear(5, 4)]).double()
    ys = [Y, Y.flip(0)]
    losses, ps = task_losses(m(X), ys), list(m.body.parameters())
    c = conflict(losses, ps)[0, 1]
    ga, gb = ([*torch.autograd.grad(o, ps, retain_graph=True)] for o in losses)
    length = [torch.cat([g.flatten() for g in o]).norm() for o in (ga, gb)]
    for p, g in zip(ps, ga): p.data -= 1e-6*g
    fell = losses[1] - task_losses(m(X), ys)[1]
    assert torch.isclose(fell/1e-6, c*length[0]*length[1], rtol=1e-2)


def test_merge_is_torchs_average_and_interpolate():
    from torch.optim.swa_utils import AveragedModel
    from tlcourse.finetune import interpolate
    nets = [net(s) for s in range(4)]
    swa = AveragedModel(nets[0])
    for o in nets: swa.update_parameters(o)
    for a, b in zip(swa.module.parameters(), merge(nets[2], nets).parameters()): assert torch.allclose(a, b, atol=1e-6)
    for a, b in zip(interpolate(*nets[:2], .3).parameters(), merge(nets[0], nets[1:2], [.3]).parameters()): assert torch.allclose(a, b, atol=1e-6)


def test_merge_adds_and_takes_away():
    base, a, b = (net(s) for s in range(3))
    added = merge(base, [a, b], [1., 1.])
    for o, p, q, r in zip(base.parameters(), a.parameters(), b.parameters(), added.parameters()): assert torch.allclose(r, p + q - o, atol=1e-6)
    back = merge(added, [merge(base, [a], [2.])], [0.])
    assert all(torch.equal(p, q) for p, q in zip(added.parameters(), back.parameters()))
    state = merge(base.state_dict(), [a.state_dict()], [1.])
    assert isinstance(state, dict) and all(torch.allclose(state[k].float(), v.float(), atol=1e-6) for k, v in a.state_dict().items())


def test_merge_leaves_all_as_they_are():
    base, a = net(0), net(1)
    before = copy.deepcopy(base.state_dict())
    merge(base, [a])
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


def test_pefts_linear_average_of_equal_adapters_is_twice_one():
    "findings/peft-linear-average.sh; lesson 18 takes 'cat'."
    peft = pytest.importorskip('peft')
    config = peft.LoraConfig(r=2, target_modules=['0'])
    model = peft.get_peft_model(nn.Sequential(nn.Linear(6, 5)), config, 'a')
    model.add_adapter('b', config)
    layer, = [m for m in model.modules() if hasattr(m, 'get_delta_weight')]
    for k in 'ab':
        for o in (layer.lora_A, layer.lora_B): o[k].weight.data = torch.randn(o[k].weight.shape, generator=torch.Generator().manual_seed(1))
    one = layer.get_delta_weight('a')
    ratio = {}
    for how in ('linear', 'svd', 'cat'):
        model.add_weighted_adapter(['a', 'b'], [.5, .5], how, combination_type=how)
        got = layer.get_delta_weight(how)
        ratio[how] = ((got*one).sum()/(one*one).sum()).item()
    assert np.allclose([ratio['linear'], ratio['svd'], ratio['cat']], [2, 1, 1], atol=1e-3)


def learner(labels, **kwargs):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    dl = DataLoader([*zip(X.float(), labels)], bs=16)
    return Learner(DataLoaders(dl, dl), net(), F.cross_entropy, cbs=Distill(net(1), **kwargs))


def fitted(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    return learn.model[0].weight.detach()


def test_distill_with_share_1_forgets_labels_and_with_share_0_the_teacher():
    assert torch.equal(fitted(learner(Y, alpha=1.)), fitted(learner(Y.flip(0), alpha=1.)))
    assert not torch.equal(fitted(learner(Y, alpha=.5)), fitted(learner(Y.flip(0), alpha=.5)))
    plain = learner(Y, alpha=0.)
    plain.remove_cb(plain.distill)
    assert torch.allclose(fitted(learner(Y, alpha=0.)), fitted(plain), atol=1e-7)


def test_distill_keeps_the_teacher():
    learn = learner(Y)
    learn.distill.teacher.train()
    before = copy.deepcopy(learn.distill.teacher.state_dict())
    fitted(learn)
    assert not learn.distill.teacher.training and all(torch.equal(v, before[k]) for k, v in learn.distill.teacher.state_dict().items())


def test_renormalized():
    from fastai.data.load import DataLoader
    from fastai.data.core import TfmdDL
    from fastai.data.transforms import Normalize
    from tlcourse import backbones
    dl = TfmdDL([torch.rand(3, 8, 8)], bs=1, after_batch=[Normalize.from_stats([.4, .5, .6], [.2, .3, .4], cuda=False)])
    teacher = backbones.load('timm:mobilenetv3_small_050', pretrained=False)
    cfg = backbones.input_config(teacher)
    raw = torch.rand(2, 3, 8, 8)
    m, s, m2, s2 = (torch.tensor(o)[:, None, None] for o in ([.4, .5, .6], [.2, .3, .4], cfg['mean'], cfg['std']))
    assert torch.allclose(renormalized(teacher, dl)((raw - m)/s), (raw - m2)/s2, atol=1e-5)
    assert torch.equal(renormalized(net(), dl)(raw), raw) and torch.equal(renormalized(teacher, DataLoader([1]))(raw), raw)


@pytest.mark.parametrize('wrong, says', [
    (lambda: train(net(), X.float(), Y[:5], F.cross_entropy), '64 inputs and 5 targets'), (lambda: train(net(), X.float(), [Y, Y[:3]], F.cross_entropy), '3 targets'),
    (lambda: train(net(), X.float(), Y, F.cross_entropy, steps=0), '1 or more'), (lambda: train(net(), X[:0], Y[:0], F.cross_entropy), 'no inputs'),
    (lambda: train(net().requires_grad_(False), X.float(), Y, F.cross_entropy), 'nothing in the model'), (lambda: MultiHead(net(), []), 'one head'),
    (lambda: task_losses([S], [Y, Y]), 'each head'), (lambda: Uncertainty(3)([S], [Y]), '3 tasks'), (lambda: conflict([S.sum()], []), 'shared body'),
    (lambda: merge(net(), []), '0 models'), (lambda: merge(net(), [net()], [1, 2]), '2 weights'), (lambda: merge(net(), [net(n_out=3)]), 'one architecture'),
    (lambda: Distill(net(), T=0), 'above 0'), (lambda: Distill(net(), alpha=2), 'from 0 to 1')])
def test_one_line_for_what_is_wrong(wrong, says):
    with pytest.raises(ValueError, match=says) as e: wrong()
    assert isinstance(e.value, TLCourseError) and '\n' not in str(e.value)


def test_a_teacher_of_other_classes():
    learn = learner(Y)
    learn.distill.teacher = net(n_out=3)
    with pytest.raises(TLCourseError, match='an output for each class'): fitted(learn)
