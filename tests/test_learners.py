"The learner: the data's own loss, statistics that stay, the cause of NaN; each against what torch itself says."
import math, random, warnings

import pytest, torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.data.block import DataBlock
    from fastai.data.core import DataLoaders
    from fastai.data.transforms import Normalize, RandomSplitter
    from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
    from fastai.metrics import accuracy, accuracy_multi, mae
    from fastai.vision.augment import Resize
    from fastai.vision.core import PILImage
    from fastai.vision.data import ImageBlock
    from fastai.data.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
    from timm.layers import BatchNormAct2d

from tlcourse.backbones import input_config, load
from tlcourse.finetune import gradual_unfreeze, lp_ft
from tlcourse.learners import BnEval, FinetuneError, learner
from tlcourse.loaders import DataError, check_normalization
from tlcourse.receipt import receipt


def tensors(y, x=None, bs=8):
    x = torch.randn(len(y), 3, 8, 8, generator=torch.Generator().manual_seed(0)) if x is None else x
    items = list(zip(x, y))
    return DataLoaders.from_dsets(items, items, bs=bs, device='cpu', num_workers=0)


def classes(c=2, **kw):
    dls = tensors(torch.arange(24) % c, **kw)
    dls.c = c
    return dls


def quiet(learn, epochs=1, lr=.01):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)
    return learn


def line(f, *words, error=FinetuneError):
    with pytest.raises(error) as e: f()
    assert '\n' not in str(e.value) and all(o in str(e.value) for o in words), e.value


def pictures(block, get_y, batch_tfms=(), n=20):
    rows = [PILImage.create(torch.full((32, 32, 3), 10*i, dtype=torch.uint8).numpy()) for i in range(n)]
    return DataBlock((ImageBlock, block), get_x=lambda i: rows[i], get_y=get_y, splitter=RandomSplitter(seed=0), item_tfms=Resize(32),
                     batch_tfms=list(batch_tfms)).dataloaders(list(range(n)), bs=4, num_workers=0, device='cpu')


def small(n_out): return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, n_out))


# the loss of the data

LETTERS = lambda i: ['a', 'b', 'c'][:1 + i % 3]
@pytest.mark.parametrize('block,y,c,func,metric', [
    (CategoryBlock, lambda i: 'ab'[i % 2], 2, nn.CrossEntropyLoss, accuracy),
    (MultiCategoryBlock, LETTERS, 3, nn.BCEWithLogitsLoss, accuracy_multi),
    (RegressionBlock(n_out=2), lambda i: [i/20, 1.], 2, nn.MSELoss, mae),
    (RegressionBlock(n_out=1), lambda i: i/20, 1, nn.MSELoss, mae)])
def test_the_loss_of_fastai_blocks(block, y, c, func, metric):
    learn = learner(pictures(block, y), small(c))
    assert isinstance(learn.loss_func.func, func)
    assert [getattr(m, 'func', m) for m in learn.metrics] == [metric]
    before = [v.clone() for v in learn.model.parameters()]
    quiet(learn)
    assert all(not torch.equal(a, b) for a,b in zip(before, learn.model.parameters())) and math.isfinite(learn.recorder.values[-1][1])


@pytest.mark.parametrize('block,y,c', [(MultiCategoryBlock, LETTERS, 3), (RegressionBlock(n_out=2), lambda i: [i/20, 1.], 2), (RegressionBlock(), lambda i: i/20, 1)])
def test_a_name_gets_as_many_outputs_as_there_are_targets(block, y, c):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = learner(pictures(block, y), 'efficientnet_lite0')
    assert learn.model.get_classifier().out_features == c


@pytest.mark.parametrize('y,func,metric', [
    (torch.arange(24) % 3, nn.CrossEntropyLoss, [accuracy]), (torch.linspace(.1, 3, 24), nn.MSELoss, [mae]), (torch.linspace(0, 3, 24), nn.MSELoss, [mae]), (torch.rand(24, 3), nn.MSELoss, [mae]),
    (torch.zeros(24, 8, 8, dtype=torch.long), nn.CrossEntropyLoss, [])])
def test_the_loss_of_plain_tensors(y, func, metric):
    learn = learner(tensors(y), small(3))
    assert isinstance(learn.loss_func.func, func) and [getattr(m, 'func', m) for m in learn.metrics] == metric


def test_numbers_are_fitted():
    "The mean of each picture is learned to a small part of its variance."
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + torch.linspace(-2, 2, 64)[:, None, None, None]
    y = x.mean((1, 2, 3))
    torch.manual_seed(0)
    learn = quiet(learner(tensors(y, x), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))), 40, .1)
    assert learn.recorder.values[-1][1] < .01*y.var()


def test_what_cannot_be_told_names_loss_func():
    line(lambda: learner(tensors(torch.eye(24)), small(24)), 'loss_func=', 'BCEWithLogitsLossFlat')
    line(lambda: learner(tensors(torch.ones(24)), small(1)), 'loss_func=')
    assert learner(tensors(torch.eye(24)), small(24), loss_func=BCEWithLogitsLossFlat()).metrics[0].func is accuracy_multi


def test_what_is_given_is_taken():
    loss = CrossEntropyLossFlat(weight=torch.tensor([1., 2.]))
    learn = learner(classes(), small(2), loss_func=loss, metrics=[])
    assert learn.loss_func is loss and not learn.metrics
    own = lambda pred, y: pred.square().mean()
    assert learner(classes(), small(2), loss_func=own).metrics[0].func is accuracy


def test_one_class_is_refused_for_classes_alone():
    line(lambda: learner(classes(1), small(1)), 'one class')
    dls = tensors(torch.linspace(.1, 2, 24))
    dls.c = 1
    quiet(learner(dls, small(1)))


def test_telling_the_loss_draws_no_random_numbers():
    torch.manual_seed(3), random.seed(3)
    a = torch.rand(1), random.random()
    torch.manual_seed(3), random.seed(3)
    dls, model = classes(), small(2)
    torch.manual_seed(3), random.seed(3)
    learner(dls, model)
    assert (torch.rand(1), random.random()) == a


# statistics

def net(*norms, pretrained=True):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Conv2d(i, 4, 3, padding=1), o, nn.ReLU()) for i,o in zip((3, 4, 4), norms)],
                          nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    if pretrained:
        for m in model.modules():
            if getattr(m, 'running_mean', None) is not None: m.running_mean.fill_(.2)
    return model

NORMS = dict(batch=lambda: nn.BatchNorm2d(4), bare=lambda: nn.BatchNorm2d(4, affine=False), uncounted=lambda: nn.BatchNorm2d(4, momentum=None),
             instance=lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), bare_instance=lambda: nn.InstanceNorm2d(4, track_running_stats=True),
             timm=lambda: BatchNormAct2d(4))

def buffers(m): return {k: v.clone() for k,v in m.named_buffers()}
def moved(old, m): return {k for k,v in m.named_buffers() if not torch.equal(v, old[k])}


@pytest.mark.parametrize('norm', NORMS.values(), ids=NORMS)
@pytest.mark.parametrize('stage', [0, -1, -2])
def test_statistics_stay_frozen_or_not(norm, stage):
    learn = learner(classes(), net(norm(), norm()))
    learn.freeze_to(stage)
    old, weights = buffers(learn.model), [p.clone() for p in learn.model.parameters() if p.requires_grad]
    quiet(learn, 2)
    assert not moved(old, learn.model)
    assert all(not torch.equal(a, b) for a,b in zip(weights, [p for p in learn.model.parameters() if p.requires_grad])), 'weights and biases of its layers learn'


@pytest.mark.parametrize('norm', NORMS.values(), ids=NORMS)
def test_statistics_from_scratch_learn_where_their_group_does(norm):
    learn = learner(classes(), net(norm(), norm(), pretrained=False))
    learn.freeze_to(-2)
    old = buffers(learn.model)
    quiet(learn)
    assert moved(old, learn.model) == {k for k in old if k.startswith('1.') and ('running' in k or not isinstance(norm(), nn.InstanceNorm2d))} # those do not count
    old = buffers(learn.model)
    quiet(learn)
    assert {'1.1.running_mean', '1.1.running_var'} <= moved(old, learn.model), 'a second fit goes on'
    learn.unfreeze()
    old = buffers(learn.model)
    quiet(learn)
    assert moved(old, learn.model) >= {k for k in old if 'running' in k}


def test_what_batch_statistics_become():
    "From scratch the first batch moves them by a tenth, as torch does."
    dls = classes(bs=24)
    learn = learner(dls, net(nn.BatchNorm2d(4), pretrained=False))
    x = torch.stack([o[0] for o in dls.train.dataset])
    with torch.no_grad(): want = .1*learn.model[0][0](x).mean((0, 2, 3))
    quiet(learn)
    torch.testing.assert_close(learn.model[0][1].running_mean, want)


def test_train_bn_is_fastai_s_way():
    learn = learner(classes(), net(nn.BatchNorm2d(4), nn.BatchNorm2d(4)), train_bn=True)
    learn.freeze()
    old, weight = buffers(learn.model), learn.model[0][1].weight.clone()
    quiet(learn)
    assert moved(old, learn.model) == set(old) and not torch.equal(weight, learn.model[0][1].weight)


@pytest.mark.parametrize('wrap', [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_of_a_frozen_group(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.Dropout(.5)), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    learn = learner(classes(), model)
    learn.freeze()
    old, seen = buffers(model), []
    model[0][1].register_forward_hook(lambda m, a, o: seen.append(m.training))
    quiet(learn)
    assert not moved(old, model) and seen[0], 'dropout goes on'
    learn.unfreeze()
    quiet(learn)
    assert moved(old, model)


def test_lp_ft_and_gradual_unfreezing_mean_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv('TLCOURSE_HOME', str(tmp_path))
    def fitted(how, **kw):
        model = nn.Sequential(*net(nn.BatchNorm2d(4), nn.BatchNorm2d(4))[:2], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 2))
        learn, old = learner(classes(), model, **kw), buffers(model)
        with learn.no_bar(), learn.no_logging(): how(learn)
        return moved(old, model)
    assert not fitted(lambda o: lp_ft(o, 1)) and not fitted(lambda o: gradual_unfreeze(o, 1, 1e-2, (-1, 0)))
    assert fitted(lambda o: lp_ft(o, 1), train_bn=True) == set()  # its own argument says
    assert len(fitted(lambda o: lp_ft(o, 1, train_bn=True))) == 6
    assert len(fitted(lambda o: gradual_unfreeze(o, 1, 1e-2, (-1, 0)), train_bn=True)) == 6


def test_fresh_statistics_of_a_new_head_learn():
    model = net(nn.BatchNorm2d(4))
    model[-1] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    learn, old = learner(classes(), model), buffers(model)
    quiet(learn)
    assert {k[0] for k in moved(old, model)} == {'1'}


def test_a_loaded_learner_still_knows_which_were_fresh(tmp_path):
    import pickle
    learn = learner(classes(), model := net(nn.BatchNorm2d(4), nn.BatchNorm2d(4), pretrained=False), path=tmp_path)
    model[0][1].running_mean.fill_(.2)
    learn = learner(classes(), model)
    quiet(learn)
    other, cbs = pickle.loads(pickle.dumps((model, [cb for cb in learn.cbs if isinstance(cb, BnEval)])))
    learn = learner(classes(), other, train_bn=True, cbs=cbs)
    old = buffers(other)
    quiet(learn)
    assert {k[0] for k in moved(old, other)} == {'1'}


# NaN

def holed(where):
    x, y = torch.randn(40, 3, 8, 8), torch.linspace(.1, 2, 40)
    (x if where == 'x' else y)[3] = float('nan')
    return tensors(y, x)


@pytest.mark.parametrize('where,words', [('x', 'batch itself holds NaN'), ('y', 'targets hold NaN')])
def test_lr_find_names_the_cause_and_restores(tmp_path, where, words):
    learn = learner(holed(where), small(1), path=tmp_path)
    state = {k: v.clone() for k,v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        line(lambda: learn.lr_find(show_plot=False), words)
        assert all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
        assert not list((tmp_path/'models').iterdir()) and not hasattr(learn, 'lr_finder')
        line(lambda: learn.fit(1), words)


def test_lr_find_without_a_curve(tmp_path):
    "A rate so high from the start that nothing can be read."
    learn = learner(classes(), small(2), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): line(lambda: learn.lr_find(start_lr=1e30, end_lr=1e38, show_plot=False), 'rate')


def test_a_network_that_holds_nan():
    model = small(2)
    model[0][0].weight.data[0] = float('nan')
    line(lambda: quiet(learner(classes(), model)), 'network itself holds NaN')


def test_tokens_are_not_called_unnormalized():
    dls = DataLoaders.from_dsets(items := [(torch.randint(100, 900, (5,)), torch.tensor(i % 2)) for i in range(16)], items, bs=8, device='cpu', num_workers=0)
    model = nn.Sequential(nn.Embedding(1000, 4), nn.Flatten(), nn.Linear(20, 2))
    from fastai.optimizer import SGD
    line(lambda: quiet(learner(dls, model, opt_func=SGD), 5, 1e38), 'learning rate')


# pictures that were normalized for another network

def normalized(*stats): return pictures(CategoryBlock, lambda i: 'ab'[i % 2], [Normalize.from_stats(*o, cuda=False) for o in stats])

IMAGENET = [.485, .456, .406], [.229, .224, .225]

def test_normalization_is_checked():
    cfg = input_config('efficientnet_lite0')
    own, model = (cfg['mean'], cfg['std']), load('efficientnet_lite0', 2, pretrained=False)
    learner(normalized(own), model)
    line(lambda: learner(normalized(IMAGENET), model), 'mean [0.485', 'expects [', error=DataError)
    twice = normalized(own)
    twice.add_tfms([Normalize.from_stats(*own, cuda=False)], 'after_batch')
    line(lambda: learner(twice, model), '2 times', error=DataError)
    with pytest.warns(UserWarning, match='does not normalize'): learner(normalized(), model)
    line(lambda: check_normalization(model, normalized().train, 'extract'), 'extract: ', error=DataError)
    learner(normalized(IMAGENET), small(2))  # it does not say what it expects


def test_what_vision_learner_leaves_is_seen():
    "fastai keeps the first network's Normalize on the DataLoaders."
    from fastai.vision.learner import vision_learner
    from fastai.vision.models import squeezenet1_0
    dls = normalized()
    vision_learner(dls, squeezenet1_0, pretrained=False, n_out=2)
    if not any(isinstance(o, Normalize) for o in dls.train.after_batch.fs): # it adds one with pretrained=True alone, which needs a download
        dls.add_tfms([Normalize.from_stats(*IMAGENET, cuda=False)], 'after_batch')
    line(lambda: learner(dls, load('efficientnet_lite0', 2, pretrained=False)), 'expects', error=DataError)


# what wraps a network

def test_wrapped_networks(tmp_path):
    for wrap in (nn.DataParallel, lambda m: torch.compile(m, backend='eager')):
        model = net(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        learn = learner(classes(), wrap(model))
        learn.freeze_to(-2)
        old = buffers(model)
        with receipt(learn, show=False) as r: quiet(learn)
        assert not r.notes and not moved(old, model) and r.table.changed.tolist()[0] == 0 and r.table.changed.iloc[1] > 0
