"Receipts: what moved, frozen or not, in plain and wrapped networks."
import pytest, torch
from torch import nn

from fastai.callback.schedule import Learner
from fastai.losses import CrossEntropyLossFlat

from test_learners import classes, net, quiet
from tlcourse.learners import learner, parameter_groups
from tlcourse.receipt import receipt


def notes(learn):
    with receipt(learn, show=False) as r: quiet(learn)
    return r.notes, r.table


def plain(model, **kw): return Learner(classes(), model, CrossEntropyLossFlat(), splitter=parameter_groups, **kw)
def two(**kw): return net(nn.BatchNorm2d(4), nn.BatchNorm2d(4), **kw)


def test_statistics_that_move_while_training_are_named():
    (note,), t = notes(plain(two(), train_bn=False))
    assert note.startswith('groups 0, 1: trained, and BatchNorm statistics moved') and t['statistics changed'].tolist() == [2, 2, 0]
    assert t['buffers changed'].tolist() == [3, 3, 0]


def test_they_are_no_news_where_they_were_fresh_or_asked_for():
    assert notes(plain(two(pretrained=False)))[0] == []
    assert notes(learner(classes(), two(), train_bn=True))[0] == []
    assert notes(learner(classes(), two()))[0] == [] and notes(learner(classes(), two(pretrained=False)))[0] == []


@pytest.mark.parametrize('norm', [lambda: nn.BatchNorm2d(4, affine=False), lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)])
def test_every_kind_is_named_in_frozen_groups(norm):
    learn = plain(net(norm()), train_bn=False)
    learn.freeze()
    (note,), t = notes(learn)
    assert note.startswith('group 0: frozen, yet BatchNorm statistics moved') and t['statistics changed'].iloc[0] == 2


def test_spectral_norm_in_a_frozen_group():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    learn = plain(model)
    learn.freeze()
    (note,), t = notes(learn)
    assert 'or other buffers' in note and t['statistics changed'].tolist() == [0, 0]
    learn = learner(classes(), model)
    learn.freeze()
    assert notes(learn)[0] == []


@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')])
def test_wrapped_networks_have_the_receipt_of_the_one_inside(wrap):
    a, b = notes(plain(two(), train_bn=False)), notes(plain(wrap(two()), train_bn=False))
    assert a[0] == b[0] and a[1].drop(columns='drift').equals(b[1].drop(columns='drift')) and a[1].index.tolist() == b[1].index.tolist()
