"PrefixCache: the same training as without it, or a clear refusal."
import copy, math, pickle, random

import pytest, torch
from torch import nn

from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.progress import ProgressCallback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import Learner  # with fit_one_cycle, lr_find
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders, TfmdDL
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import RandTransform
from timm.layers import DropPath

from tlcourse import prefix
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
    (a, va), (b, vb) = fitted([], stages), fitted(PrefixCache(fold=False, **kwargs), stages)
    assert_same(a.model, b.model)
    for x, y in zip(va, vb): assert list(x) == pytest.approx(list(y), abs=1e-5)
    assert list(a.validate()) == pytest.approx(list(b.validate()), abs=1e-5)
    assert [s for s in a.opt.state] and len(a.opt.state) == len(b.opt.state)


@pytest.mark.parametrize('stages', [(-2,), (-3,), (-1, -2, -3), (-4, -4, -2)])
def test_folded_the_losses_are_the_same_to_rounding(stages):
    "A bias before BatchNorm that trains has a gradient of nothing but rounding, which Adam makes large; what the network says does not depend on it."
    (_, va), (b, vb) = fitted([], stages), fitted(PrefixCache(ahead=1), stages)
    for x, y in zip(va, vb): assert list(x) == pytest.approx(list(y), abs=1e-3)


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
    learn, _ = fitted(cache := PrefixCache(ahead=1), (-1, -2))
    assert_same(fitted([], (-1, -2))[0].model, learn.model, atol=1e-4)
    assert [m for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d)], 'the model itself keeps its BatchNorm'
    exact = fitted(unfolded := PrefixCache(ahead=1, fold=False), (-1,))[0]
    a, b = (o.kept[l.dls.train].h[3] for o,l in ((cache, learn), (unfolded, exact)))
    assert 0 < (a - b).abs().max() < 1e-5 and cache.computed == 32*4
    assert_same(fitted([], (-1, -2))[0].model, fitted(PrefixCache(fold=False, ahead=1), (-1, -2))[0].model, atol=0)


@pytest.mark.parametrize('change, folded', [(1e-7, True), (1e-3, False)])
def test_a_group_that_folding_changes_keeps_its_batchnorm(monkeypatch, change, folded):
    class Near(nn.Module):
        def __init__(self, g): super().__init__(); self.g = g
        def forward(self, x): return self.g(x)*(1 + change)
    monkeypatch.setattr(prefix, 'fold_batchnorm', lambda g, h: Near(g))
    g = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with torch.no_grad(): assert isinstance(prefix._folded([g], torch.randn(2, 3, 8, 8))[0], Near) is folded


@pytest.mark.parametrize('dtype, folded', [(torch.float32, True), (torch.float64, False), (torch.bfloat16, False)])
def test_only_float32_is_folded(dtype, folded):
    g = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().to(dtype)
    with torch.no_grad(): f, = prefix._folded([g], torch.randn(2, 3, 8, 8, dtype=dtype))
    assert (f is not g) is folded


def test_folding_leaves_autocast_alone():
    g = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with torch.no_grad(), torch.autocast('cpu'): f, = prefix._folded([g], torch.randn(2, 3, 8, 8))
    assert f is g


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


# only training uses it, and it leaves nothing behind

def again(learn, epochs=1, n=None):
    if n is not None: learn.freeze_to(n)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, .01)


def test_prediction_never_starts_it(tmp_path):
    learn = learner(data(), net(), cbs=(cache := PrefixCache()), path=tmp_path)
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        loss = learn.validate()[0]
        preds = learn.get_preds()[0]
    assert cache.computed == 0 and not cache.kept
    again(learn)
    count, x = cache.computed, torch.stack([o[0] for o in learn.dls.valid.dataset])
    with torch.no_grad(): learn.model[0][0].weight.mul_(3)  # kept activations would answer for the old weights
    with learn.no_bar(), learn.no_logging(): preds = learn.get_preds()[0]
    assert torch.allclose(preds, learn.model.eval()(x).softmax(1), atol=1e-5) and cache.computed == count and loss > 0


def test_predict_after_export_and_load(tmp_path):
    from fastai.learner import load_learner
    from tlcourse.data import images
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 10))
    learn = learner(images('digits', 20, 20, size=8, bs=10), model, cbs=PrefixCache(), path=tmp_path)
    again(learn, n=-1)
    learn.export('learner.pkl')
    assert (tmp_path/'learner.pkl').stat().st_size < 200_000
    other, item = load_learner(tmp_path/'learner.pkl'), learn.dls.valid_ds.items[0]
    with learn.no_bar(), other.no_bar(): assert torch.allclose(other.predict(item)[2], learn.predict(item)[2], atol=1e-6)


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError('boom')])
@pytest.mark.parametrize('event', ['after_pred', 'before_step', 'after_batch', 'before_validate'])
def test_removed_after_an_interruption_it_leaves_nothing(error, event):
    class Stop(Callback): pass
    def stop(self):
        if self.epoch == 1 and (event != 'after_pred' or not self.training): raise error
    setattr(Stop, event, stop)
    model = net()
    learn = learner(data(), model, cbs=[cache := PrefixCache(), Stop()])
    learn.freeze()
    kinds = {k: type(v) for k,v in vars(learn).items() if callable(v)}
    with pytest.raises(type(error) if isinstance(error, Exception) else error), learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert learn.model is model and {k: type(v) for k,v in vars(learn).items() if callable(v)} == kinds | dict(progress=ProgressCallback)
    x = torch.stack([o[0] for o in learn.dls.valid.dataset])
    for remove in (False, True):
        if remove: learn.remove_cbs([cache, next(cb for cb in learn.cbs if isinstance(cb, Stop))])
        with learn.no_bar(), learn.no_logging(): preds = learn.get_preds(dl=learn.dls.valid)[0]
        assert torch.allclose(preds, model.eval()(x).softmax(1), atol=1e-5)
    again(learn)
    assert learn.dls.train.one_batch()[0].shape == (4, 3, 8, 8)


def test_modes_are_put_back():
    "The pass runs in evaluation mode; what training mode finds afterwards is what it would find without the cache."
    class Look(Callback):
        def before_backward(self): self.seen = {type(m).__name__: m.training for m in whole[-1].modules()}
    seen = []
    for cbs in ([], [PrefixCache()]):
        learn = learner(data(), whole := net(), cbs=[*cbs, look := Look()])
        again(learn, n=-1)
        seen.append((look.seen, {k: m.training for k,m in learn.model.named_modules()}))
    assert seen[0][0] == seen[1][0] and seen[0][0]['Dropout']
    assert seen[0][1] == seen[1][1]


# what is kept is what a fresh run gives

def same_as_fresh(change, dls=None, rerun=True, n=-1, **kwargs):
    "After `change(learn)`, the next fit is that of a learner that kept nothing; returns how many passes of groups it took."
    learns = []
    for kept in (True, False):
        cache = PrefixCache(**kwargs)
        learn, _ = fitted(cache, (n,), dls=data(n=21) if dls is None else dls())
        if not kept: cache.kept = {}
        before = cache.computed
        change(learn)
        learn.dls.train.rng = random.Random(8)
        torch.manual_seed(4)
        again(learn)
        learns.append((learn, cache.computed - before))
    assert_same(learns[0][0].model, learns[1][0].model)
    assert list(learns[0][0].recorder.values[-1]) == pytest.approx(list(learns[1][0].recorder.values[-1]), abs=1e-5)
    assert (learns[0][1] > 0) == rerun
    return learns[0][1]


def picture(learn):
    x, y = learn.dls.train.dataset[5]
    x.mul_(-3.)

def label(learn):
    x, y = learn.dls.train.dataset[7]
    y.fill_((y + 1) % 3)

def activation(learn): learn.model[1][2] = nn.Sigmoid()
def slope(learn): learn.model[1][2].forward = nn.functional.silu
def eps(learn): learn.model[0][1].eps = .5
def stride(learn): learn.model[0][0].padding = (2, 2)
def weight(learn): learn.model[0][0].weight.data.add_(.1)
def hook(learn): learn.model[1].register_forward_hook(lambda m, args, out: out*2)
def nothing(learn): pass

@pytest.mark.parametrize('change', [picture, label, activation, slope, eps, weight, hook])
def test_a_change_between_fits_is_seen(change): same_as_fresh(change)


def test_what_did_not_change_is_used_again():
    assert same_as_fresh(lambda learn: None, rerun=False) == 0


class Scale:
    "A transform with a setting."
    def __init__(self, by): self.by = by
    def __call__(self, b): return (b[0]*self.by, *b[1:]) if isinstance(b, tuple) else b*self.by if b.is_floating_point() else b

class Brighter(RandTransform):
    "No RandTransform in evaluation; here with a setting."
    split_idx = 1
    def __init__(self, by): super().__init__(); self.by = by
    def encodes(self, x: torch.Tensor): return x*self.by if x.ndim > 1 else x

def test_a_setting_of_a_transform():
    from fasttransform import Transform
    class Times(Transform):
        def __init__(self, by): self.by = by
        def encodes(self, x: torch.Tensor): return x*self.by if x.ndim > 1 else x
    dls = lambda: data(after_batch=[Times(2.)])
    def change(learn): learn.dls.train.after_batch.fs[0].by = .5
    same_as_fresh(change, dls)
    def replace(learn): learn.dls.train.after_batch.fs[:] = [Times(-1.)]
    same_as_fresh(replace, dls)
    def added(learn): learn.dls.train.after_batch.add(Times(3.))
    same_as_fresh(added, dls)


def test_a_global_that_the_network_reads():
    "Neither weights nor settings change; the items that are asked again do."
    class Power(nn.Module):
        def forward(self, x): return x*POWER[0]
    global POWER
    POWER = [1.]
    def fit(cbs):
        POWER[0] = 1.
        model = nn.Sequential(Power(), *net())
        learn, _ = fitted(cbs, model=model)
        POWER[0] = 2.
        again(learn)
        return learn
    assert_same(fit([]).model, fit(PrefixCache()).model)


def test_autocast_is_part_of_what_is_kept():
    "Under bfloat16 the frozen groups give what they give without the cache there, and what was kept in float32 is not used."
    def fit(cbs, low):
        learn, _ = fitted(cbs)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=low): again(learn)
        return learn
    low, cached, full = fit([], True), fit(cache := PrefixCache(), True), fit([], False)
    gap = lambda a, b: max((x - y).abs().max().item() for x,y in zip(a.model[-1].parameters(), b.model[-1].parameters()))
    assert gap(low, cached) < .2*gap(low, full) and cache.computed == 2*32*4
    assert cache.kept[cached.dls.train].h[4].dtype == torch.bfloat16


def test_a_bfloat16_network():
    class Float(nn.Module):
        def forward(self, x): return x.float()
    dls, model = data(after_batch=[lambda x: x.bfloat16() if x.is_floating_point() else x]), net().bfloat16()
    dls.valid.after_batch, model[4] = dls.train.after_batch, nn.Sequential(Float(), net()[4])
    learn, _ = fitted(cache := PrefixCache(), dls=dls, model=model, epochs=1)
    assert cache.kept[dls.train].h[4].dtype == torch.bfloat16
    count = cache.computed
    again(learn)
    assert cache.computed == count
    again(learn, n=-2)


@pytest.mark.parametrize('m', [nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)])
def test_other_statistics_in_the_frozen_groups(m):
    def fit(cbs):
        gen = torch.Generator().manual_seed(2)
        m.running_mean.normal_(generator=gen), m.running_var.fill_(2.)
        model = net(copy.deepcopy(m))
        return fitted(cbs, (-1, -2), model=model)[0]
    assert_same(fit([]).model, fit(PrefixCache()).model)


def test_compiled_and_parallel_networks():
    whole = fitted([])[0].model
    assert_same(whole, fitted(PrefixCache(), model=nn.DataParallel(net()))[0].model.module)


# views

def drawn(views, epochs, fits=1):
    "Which view of item 0 each epoch saw."
    class Look(Callback):
        def before_batch(self):
            if self.training: seen[-1].append(self.xb[0].clone())
        def before_epoch(self): seen.append([])
    seen, dls = [], data(after_batch=[Noise()])
    learn = learner(dls, net(), cbs=[cache := PrefixCache(views=views), Look()])
    for _ in range(fits): again(learn, epochs, n=-1)
    h = cache.kept[dls.train].h[4][:, 0]
    rows = [torch.cat(o) for o in seen]
    return [[v for v in range(views) if any(torch.equal(r, h[v]) for r in row)] for row in rows], cache

def test_each_epoch_draws_its_own_views():
    views, _ = drawn(4, 12)
    views = [tuple(o) for o in views if o]  # the last batch is dropped
    assert len(views) >= 8 and len(set(views)) >= 3, views

def test_a_second_fit_draws_others():
    views, cache = drawn(4, 6, fits=2)
    assert views[:6] != views[6:] and cache.computed == (4*22 + 10)*4, 'the views are kept from fit to fit'

def test_items_of_a_batch_do_not_share_their_view():
    class Look(Callback):
        def before_batch(self):
            if self.training: seen.append(self.xb[0].clone())
    seen, dls = [], data(after_batch=[Noise()])
    learn = learner(dls, net(), cbs=[cache := PrefixCache(views=4), Look()])
    again(learn, 2, n=-1)
    h = cache.kept[dls.train].h[4]
    views = [[next(v for v in range(4) if (h[v] == r).all(1).any()) for r in batch] for batch in seen]
    assert any(len(set(o)) > 1 for o in views)
    assert views[:5] != views[5:], 'each epoch draws anew, whatever the order of items'


# what lies on disk

def on_disk(folder, **kwargs):
    "Pictures that strings name, each with its label in a text file beside it."
    from fastai.data.core import Datasets
    from fastai.data.transforms import Categorize, IntToFloatTensor, ToTensor
    from fastai.vision.core import PILImage
    from PIL import Image
    for i in range(24):
        noise = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)).numpy()
        Image.fromarray(noise).save(folder/f'{i:02d}.png')
        (folder/f'{i:02d}.txt').write_text(str(i % 3))
    def label(name): return (folder/f'{name[-6:-4]}.txt').read_text()
    random.seed(0)
    return Datasets([str(folder/f'{i:02d}.png') for i in range(24)], [[PILImage.create], [label, Categorize(vocab=list('012'))]],
                    splits=[range(16), range(16, 24)]).dataloaders(bs=4, after_item=[ToTensor()], after_batch=[IntToFloatTensor()])

def another_picture(folder, dls):
    from PIL import Image
    Image.new('RGB', (8, 8), 'red').save(folder/'05.png')
def another_label(folder, dls): (folder/'05.txt').write_text('0')
def other_batches(folder, dls):
    old = dls.train.create_batch
    dls.train.create_batch = lambda items: (255 - old(items)[0], old(items)[1])

@pytest.mark.parametrize('views', [None, 2])
@pytest.mark.parametrize('change', [another_picture, another_label, other_batches])
def test_a_change_that_no_item_names(tmp_path, change, views):
    "The picture is none of the eight that are looked at again, and of views none is; the key tells."
    cache = PrefixCache(views=views)
    learn, _ = fitted(cache, dls=on_disk(tmp_path))
    change(tmp_path, learn.dls)
    again(learn, n=-1)
    kept, k = cache.kept[learn.dls.train], frozen_groups(learn.model)
    x, y = next(iter(learn.dls.train.new(bs=16, shuffle=False)))
    with torch.no_grad(): h = learn.model.eval()[:k](x.as_subclass(torch.Tensor))
    assert torch.equal(kept.y[0], y.as_subclass(torch.Tensor))
    for v in range(views or 1): assert torch.allclose(kept.h[k][v], h, atol=1e-4)
