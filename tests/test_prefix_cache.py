"PrefixCache: the same training as without it, or a clear refusal."
import copy, math, pickle, random

import pytest, torch
from torch import nn

from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import Learner  # with fit_one_cycle, lr_find
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders, TfmdDL
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import RandTransform
from timm.layers import DropPath

from tlcourse.learners import FinetuneError, learner
from tlcourse.prefix import PrefixCache, frozen_groups


def net(*middle):
    "Four groups and a head on pictures [3, 8, 8], with BatchNorm and an activation among them."
    torch.manual_seed(0)
    block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(block(3, 8), block(8, 8), *middle, block(8, 16), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                         nn.Sequential(nn.Dropout(.3), nn.Linear(16, 3)))


class Items(list):
    "A training set, as fastai's random transforms recognize it."
    split_idx = 0


def data(n=22, n_valid=10, bs=4, **kwargs):
    gen = torch.Generator().manual_seed(1)
    items = [(torch.randn(3, 8, 8, generator=gen), torch.tensor(i % 3)) for i in range(n + n_valid)]
    random.seed(0)
    train, valid = TfmdDL(Items(items[:n]), bs=bs, shuffle=True, drop_last=True, **kwargs), TfmdDL(items[n:], bs=bs)
    dls = DataLoaders(train, valid)
    dls.c, train.rng = 3, random.Random(5)
    return dls


def fitted(cbs, stages=(-1,), epochs=2, model=None, dls=None, lr=.01):
    "A Learner trained stage by stage, and the losses and metrics of all its epochs."
    learn = learner(dls or data(), model or net(), cbs=cbs, lr=lr)
    torch.manual_seed(3)
    values = []
    with learn.no_bar(), learn.no_logging():
        for n in stages:
            learn.freeze_to(n)
            learn.fit(epochs, lr)
            values += learn.recorder.values
    return learn, values


def assert_same(a, b, atol=1e-6):
    for (k, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items()): assert torch.allclose(x.float(), y.float(), atol=atol), k


@pytest.mark.parametrize('stages', [(-1,), (-2,), (-3,), (-1, -2, -3), (-3, -1), (-4, -4, -2)])
@pytest.mark.parametrize('kwargs', [{}, dict(ahead=2)])
def test_exactly_the_training_without_it(stages, kwargs):
    (a, va), (b, vb) = fitted([], stages), fitted(PrefixCache(**kwargs), stages)
    assert_same(a.model, b.model)
    for x, y in zip(va, vb): assert list(x) == pytest.approx(list(y), abs=1e-5)
    assert list(a.validate()) == pytest.approx(list(b.validate()), abs=1e-5)
    assert [s for s in a.opt.state] and len(a.opt.state) == len(b.opt.state)


def test_the_comparison_can_fail():
    a, b = fitted([])[0], fitted([], lr=.0101)[0]
    with pytest.raises(AssertionError): assert_same(a.model, b.model)


def test_in_a_file(tmp_path):
    cache = PrefixCache(folder=tmp_path, ahead=1)
    (a, _), (b, _) = fitted([], (-1, -2)), fitted(cache, (-1, -2))
    assert_same(a.model, b.model)
    assert sum(o.stat().st_size for o in tmp_path.rglob('*.bin')) == cache.size > 0


def test_half_precision_is_close():
    (a, _), (b, _) = fitted([], (-2,)), fitted(PrefixCache(dtype=torch.float16), (-2,))
    assert_same(a.model, b.model, atol=.02)
    with pytest.raises(AssertionError): assert_same(a.model, b.model)


def test_folded_is_equal_to_rounding():
    learn, _ = fitted(cache := PrefixCache(fold=True, ahead=1), (-1, -2))
    assert_same(fitted([], (-1, -2))[0].model, learn.model, atol=1e-4)
    assert [m for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d)], 'the model itself keeps its BatchNorm'
    exact = fitted(unfolded := PrefixCache(ahead=1), (-1,))[0]
    a, b = (o.kept[l.dls.train].h[3] for o,l in ((cache, learn), (unfolded, exact)))
    assert 0 < (a - b).abs().max() < 1e-5 and cache.computed == 32*4


class Tokens(nn.Module):
    "Vectors for tokens, zeros where the token is 0."
    def __init__(self): super().__init__(); self.table = nn.Embedding(20, 6, padding_idx=0)
    def forward(self, x): return self.table(x)

class Mixing(nn.Module):
    "Each place sees the mean over the text; places of zeros stay out of it, and zeros."
    def __init__(self): super().__init__(); self.lin = nn.Linear(6, 6)
    def forward(self, h):
        mask = h.ne(0).any(-1, keepdim=True)
        return (self.lin(h) + (h*mask).sum(1, keepdim=True)/mask.sum(1, keepdim=True))*mask

class Mean(nn.Module):
    def __init__(self, masked=True): super().__init__(); self.masked = masked
    def forward(self, h): return h.sum(1)/(h.ne(0).any(-1).sum(1, keepdim=True) if self.masked else h.shape[1])

def texts(masked=True):
    "Texts of 1 to 9 tokens in batches as long as their longest, and a network for them."
    gen, pad = torch.Generator().manual_seed(1), nn.utils.rnn.pad_sequence
    items = [(torch.randint(1, 20, (1 + 7*i % 9,), generator=gen), torch.tensor(i % 3)) for i in range(32)]
    def collate(b): return pad([o[0] for o in b], batch_first=True), torch.stack([o[1] for o in b])
    dls = DataLoaders(*(TfmdDL(o, bs=4, shuffle=s, drop_last=s, create_batch=collate) for o,s in ((items[:22], True), (items[22:], False))))
    dls.c, dls.train.rng = 3, random.Random(5)
    torch.manual_seed(0)
    return dict(dls=dls, model=nn.Sequential(Tokens(), Mixing(), Mixing(), Mean(masked), nn.Linear(6, 3)))


@pytest.mark.parametrize('kwargs', [{}, dict(ahead=2), dict(fold=True)])
def test_texts_of_any_length(kwargs):
    (a, va), (b, vb) = fitted([], (-1, -3, -4), **texts()), fitted(cache := PrefixCache(**kwargs), (-1, -3, -4), **texts())
    assert_same(a.model, b.model)
    for x, y in zip(va, vb): assert list(x) == pytest.approx(list(y), abs=1e-5)
    h, dl = cache.kept[b.dls.train].h[1], b.dls.train
    for i in (0, 3, 21): assert torch.equal(h[0, i].ne(0).any(-1), torch.arange(9) < len(dl.dataset[i][0]))


@pytest.mark.parametrize('stage', [-2, -3])  # padding matters below the cut, or above it
def test_texts_padded_otherwise_are_refused(stage):
    with pytest.raises(FinetuneError, match='padding'): fitted(PrefixCache(), (stage,), **texts(masked=False))


def test_each_item_runs_once():
    cache = PrefixCache()
    fitted(cache, (-1, -1), epochs=5)
    assert cache.computed == 32*4 and frozen_groups(net()) == 0
    cache = PrefixCache(ahead=3)
    fitted(cache, (-1, -2, -3))
    assert cache.computed == 32*4
    cache = PrefixCache()
    fitted(cache, (-1, -2, -3))
    assert cache.computed == 32*(4 + 2)  # nothing trains in the pooling group, so the second cut is where the first was


def test_size_is_told(capsys):
    cache = PrefixCache()
    learn = learner(data(), net(), cbs=cache)
    learn.freeze_to(-2)
    with learn.no_logging(): learn.fit(1)
    assert cache.size == 32*16*4  # 32 items, 16 x 1 x 1 float32
    assert '4 of 5 groups are frozen' in capsys.readouterr().out


def test_trained_prefix_is_run_again():
    cache = PrefixCache()
    learn, _ = fitted(cache, (-1,))
    before, count = copy.deepcopy(learn.model), cache.computed
    with torch.no_grad(): learn.model[0][0].weight.mul_(2)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert cache.computed == 2*count
    with torch.no_grad(): before[0][0].weight.mul_(2)
    h = before[:4].eval()(torch.stack([o[0] for o in learn.dls.train.dataset]))
    assert torch.allclose(cache.kept[learn.dls.train].h[4][0], h, atol=1e-6)


def test_batchnorm_statistics_are_part_of_the_prefix():
    cache = PrefixCache()
    learn, _ = fitted(cache, (-1,))
    count = cache.computed
    learn.model[0][1].running_mean.add_(1)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert cache.computed == 2*count


def test_other_data_are_run_anew():
    cache = PrefixCache()
    learn, _ = fitted(cache, (-1,))
    learn.dls = data(n=30)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert cache.kept[learn.dls.train].h[4].shape == (1, 30, 16)
    assert set(cache.kept) == {learn.dls.train, learn.dls.valid}, 'the other data are still held'


def test_only_an_epoch_sees_the_rest():
    seen = {}
    class Look(Callback):
        def before_epoch(self): seen['before_epoch'] = self.model
        def before_batch(self): seen['before_batch'] = self.model, self.xb[0].shape[1:]
        def after_epoch(self): seen['after_epoch'] = self.model
    model = net()
    learn, _ = fitted([PrefixCache(), Look()], model=model)
    assert seen['before_epoch'] is seen['after_epoch'] is learn.model is model
    assert len(seen['before_batch'][0]) == 1 and seen['before_batch'][1] == (16,)
    x, y = learn.dls.train.one_batch()
    assert x.shape == (4, 3, 8, 8) and learn.get_preds(dl=learn.dls.valid)[0].shape == (10, 3)


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError('boom')])
def test_interruption_gives_the_learner_back(error):
    class Stop(Callback):
        def after_loss(self):
            if self.epoch == 1: raise error
    model = net()
    learn = learner(data(), model, cbs=[PrefixCache(), stop := Stop()])
    learn.freeze()
    with pytest.raises(type(error) if isinstance(error, Exception) else error), learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert learn.model is model and learn.dls.train.one_batch()[0].shape[1:] == (3, 8, 8)
    learn.remove_cb(stop)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert '_do_epoch' not in vars(learn)


def test_cancelled_epoch_and_lr_find_and_best_checkpoint(tmp_path):
    class Cancel(Callback):
        def before_validate(self):
            if self.epoch == 0: raise CancelEpochException
    learn, values = fitted([PrefixCache(), Cancel()], epochs=3)
    assert [len(o) for o in values] == [1, 3, 3]
    learn = learner(data(), net(), cbs=PrefixCache(), path=tmp_path)
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=10, show_plot=False)
        learn.fit(2, cbs=SaveModelCallback())
    saved = torch.load(tmp_path/'models'/'model.pth', weights_only=True)
    assert set(saved) == set(net().state_dict())


def test_removed_it_leaves_nothing():
    cache = PrefixCache()
    learn, _ = fitted(cache)
    learn.remove_cb(cache)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    (a, _) = fitted([], epochs=2)
    with a.no_bar(), a.no_logging(): a.fit(1)
    assert len(learn.dls.train.one_batch()) == 2
    assert_same(a.model, learn.model)


def test_whole_model_trains_as_ever():
    (a, _), (b, _) = fitted([], (0,)), fitted(cache := PrefixCache(), (0,))
    assert_same(a.model, b.model)
    assert not cache.kept


def test_export_leaves_activations_behind():
    learn, _ = fitted(PrefixCache())
    cache = next(cb for cb in learn.cbs if isinstance(cb, PrefixCache))
    assert cache.kept and not pickle.loads(pickle.dumps(PrefixCache())).kept and cache.__getstate__()['kept'] == {}


class Noise(RandTransform):
    def encodes(self, x: torch.Tensor): return x + torch.randn_like(x) if x.ndim > 1 else x


def hidden_noise(x): return x + torch.randn_like(x) if x.is_floating_point() else x


def test_views():
    dls = data(after_batch=[Noise()])
    cache = PrefixCache(views=3)
    learn, _ = fitted(cache, dls=dls, epochs=4)
    h = cache.kept[dls.train].h[4]
    assert h.shape == (3, 22, 16) and not torch.allclose(h[0], h[1]) and cache.kept[dls.valid].h[4].shape == (1, 10, 16)
    again = PrefixCache(views=3)
    fitted(again, dls=dls, epochs=1)
    assert torch.equal(again.kept[dls.train].h[4], h), 'seeded'


def refused(message, dls=None, model=None, cbs=(), n=-1, learn=None, **kwargs):
    learn = learn or learner(dls or data(), model or net(), cbs=[PrefixCache(**kwargs), *cbs])
    learn.freeze_to(n)
    state = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(FinetuneError, match=message) as e, learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert '\n' not in str(e.value)
    for k, o in learn.model.state_dict().items(): assert torch.equal(o, state[k]), f'{k} changed although refused'


class Odd(nn.Sequential):
    "Its groups in sequence are not what it computes."
    def forward(self, x): return super().forward(x) + 1


class Wobble(nn.Module):
    "Random in training, and known to no list."
    def forward(self, x): return x + torch.rand_like(x) if self.training else x


class Two(nn.Module):
    def forward(self, x): return x, x
class Join(nn.Module):
    def forward(self, o): return o[0] + o[1]


def test_random_augmentation_is_refused():
    refused('Noise.*views=K', data(after_batch=[Noise()]))
    refused('Noise.*views=K', data(after_item=[Noise()]))
    refused('differently the second time.*views=K', data(after_batch=[hidden_noise]))

def test_random_layers_in_the_prefix_are_refused():
    refused('Dropout2d', model=net(nn.Dropout2d(.2)))
    refused('DropPath', model=net(DropPath(.2)))
    refused('something else in training', model=net(Wobble()))
    fitted(PrefixCache(), model=net(nn.Dropout(0.)))  # does nothing, so it may stay
    fitted(PrefixCache(), stages=(-3,), model=net()[:3].append(nn.Flatten()).append(nn.Dropout(.5)).append(nn.Linear(16, 3)))

def test_live_batchnorm_is_refused():
    refused('BatchNorm2d', learn=learner(data(), net(), train_bn=True, cbs=PrefixCache()))
    refused('BatchNorm2d', learn=Learner(data(), net(), CrossEntropyLossFlat(), splitter=lambda m: [list(o.parameters()) for o in m], cbs=PrefixCache()))

def test_mixing_callbacks_are_refused():
    for mix in (MixUp(), CutMix()): refused(type(mix).__name__, cbs=[mix])

def test_models_that_are_no_sequence_are_refused():
    refused('Odd is not the sequence of its groups', model=Odd(*net()))
    refused('group 2 gives a tuple', model=net(nn.Sequential(Two()), Join()))

def test_memory_is_limited(tmp_path):
    refused('more than the limit of 1e-06 GB', limit=1e-6)

def test_full_disk(tmp_path, monkeypatch):
    import builtins, errno, io
    class Full(io.RawIOBase):
        def write(self, b): raise OSError(errno.ENOSPC, 'No space left on device')
    real = builtins.open
    monkeypatch.setattr(builtins, 'open', lambda f, mode='r', *a, **k: Full() if str(f).endswith('.bin') and 'w' in mode else real(f, mode, *a, **k))
    refused('No space left on device', folder=tmp_path)

@pytest.mark.parametrize('kwargs,message', [(dict(ahead=-1), 'ahead'), (dict(views=0), 'views'), (dict(dtype=torch.int8), 'dtype'),
                                            (dict(dtype='float16'), 'dtype'), (dict(folder='no/such/place'), 'no folder')])
def test_arguments(kwargs, message):
    with pytest.raises(FinetuneError, match=message): PrefixCache(**kwargs)
