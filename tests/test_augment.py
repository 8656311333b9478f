"What the lesson on augmentation exports, counted pixel by pixel and held against independent implementations."
import random, warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.calibration import calibration_curve
from torchvision.transforms import v2

from tlcourse.augment import CutOut, PILTransform
from tlcourse.calibration import ece, reliability

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.callback.core import Callback
    from fastai.callback.mixup import CutMix, MixUp
    from fastai.callback.schedule import Learner
    from fastai.data.core import DataLoaders, Datasets
    from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
    from fastai.losses import CrossEntropyLossFlat
    from fastai.torch_core import set_seed
    from fastai.vision.core import PILImage, TensorImage


def ones(n, h=24, w=24): return TensorImage(torch.ones(n, 3, h, w))


def holes(L, n=3000, h=24, w=24, make=CutOut):
    "Hidden pixels as bool [n, h, w]; all channels of a pixel are hidden, or none."
    set_seed(0)
    out = make(L)(ones(n, h, w), split_idx=0)
    assert ((out == 0) | (out == 1)).all() and (out == out[:, :1]).all()
    return (out[:, 0] == 0).as_subclass(torch.Tensor)


def covered(L, size):
    "Pixels that an interval of length L covers on average, by going through its possible centers."
    return np.mean([len(set(range(c - L//2, c - L//2 + L)) & set(range(size))) for c in range(size)])


def check_area(L, h, w, make=CutOut):
    hole = holes(L, h=h, w=w, make=make)
    area = hole.sum((1, 2)).float()
    assert area.max() == L*L
    rows, cols = hole.any(2), hole.any(1)
    inner = (rows.sum(1) == L) & (cols.sum(1) == L)  # clipped at no border
    assert inner.any() and (area[inner] == L*L).all()
    assert (area == rows.sum(1)*cols.sum(1)).all()   # one filled rectangle
    assert abs(area.mean()/(covered(L, h)*covered(L, w)) - 1) < .03


# CutOut

@pytest.mark.parametrize('L', [1, 2, 7, 8])
@pytest.mark.parametrize('h,w', [(24, 24), (16, 30)])
def test_one_square_of_side_L(L, h, w): check_area(L, h, w)


def test_twice_the_side_is_found_out():
    class Twice(CutOut):
        def __init__(self, L): super().__init__(2*L)
    with pytest.raises(AssertionError): check_area(6, 24, 24, Twice)


@pytest.mark.parametrize('L', [4, 6, 12])
def test_formula_of_the_lesson(L): assert np.isclose(covered(L, 24), L - L**2/(4*24))


def test_centers_are_uniform():
    hole = holes(1, n=20_000, h=8, w=8)
    counts = hole.sum(0).flatten().float()
    chi2 = ((counts - 20_000/64)**2/(20_000/64)).sum()
    assert counts.min() > 0 and chi2 < 110  # 63 degrees of freedom: the 99.97th percentile


def test_pictures_are_independent():
    first = holes(4).flatten(1).float().argmax(1)
    a, b = first[:-1].float(), first[1:].float()
    assert len(first.unique()) > 100 and abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < .06


def test_same_seed_same_holes(): assert (holes(5, 20) == holes(5, 20)).all()


def test_input_is_left_alone():
    x = ones(4)
    out = CutOut(4)(x, split_idx=0)
    assert (x == 1).all() and type(out) is TensorImage


@pytest.mark.parametrize('L', [0, -3, 2.5])
def test_cutout_refuses_a_side_that_is_none(L):
    with pytest.raises(ValueError, match='whole number of pixels'): CutOut(L)


def test_cutout_refuses_a_square_larger_than_the_picture():
    assert (CutOut(16)(ones(3, 16, 30), split_idx=0) == 0).any()
    with pytest.raises(ValueError, match='at most L=16') as e: CutOut(17)(ones(3, 16, 30), split_idx=0)
    assert '\n' not in str(e.value)


def test_cutout_refuses_single_pictures():
    with pytest.raises(ValueError, match='batch_tfms'): CutOut(4)(ones(1)[0], split_idx=0)


# in a pipeline

def loaders(item=(), batch=(), n=12):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(1, 200, (24, 24, 3), dtype=np.uint8) for _ in range(n)]
    ds = Datasets(range(n), [[lambda i: PILImage.create(arrays[i])]], splits=[list(range(n//2)), list(range(n//2, n))])
    norm = Normalize.from_stats(*[[.5]*3]*2, cuda=False)
    return ds.dataloaders(bs=n//2, shuffle=False, device='cpu', after_item=[*item, ToTensor()], after_batch=[*batch, IntToFloatTensor(), norm])


def batches(dls): return [dl.new(shuffle=False).one_batch()[0].as_subclass(torch.Tensor) for dl in dls]


def test_cutout_runs_after_normalize_and_in_training_only():
    dls = loaders(batch=[CutOut(8)])
    assert [type(t).__name__ for t in dls.train.after_batch.fs][-2:] == ['Normalize', 'CutOut']
    (plain, valid), (cut, valid_cut) = batches(loaders()), batches(dls)
    hole = (cut != plain).any(1)
    assert (valid == valid_cut).all() and hole.flatten(1).any(1).all()
    assert (cut.permute(0, 2, 3, 1)[hole] == 0).all() and (plain.permute(0, 2, 3, 1)[~hole] == cut.permute(0, 2, 3, 1)[~hole]).all()


def timm_rand():
    from timm.data.auto_augment import rand_augment_transform
    return rand_augment_transform('rand-m9-n2', {})


@pytest.mark.parametrize('make', [v2.TrivialAugmentWide, v2.RandAugment, timm_rand])
def test_item_transforms_of_others(make):
    def run(seed):
        dls = loaders(item=[PILTransform(make())])
        set_seed(seed)
        return batches(dls)
    (plain, valid), (a, valid_a) = batches(loaders()), run(0)
    assert (valid == valid_a).all() and (a != plain).flatten(1).any(1).float().mean() > .4
    assert (run(0)[0] == a).all() and (run(1)[0] != a).any()


def test_item_transform_does_what_the_inner_one_does():
    im = PILImage.create(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    out = PILTransform(v2.RandomHorizontalFlip(1.))(im, split_idx=0)
    assert type(out) is PILImage and (np.array(out) == np.array(im)[:, ::-1]).all()
    assert PILTransform(v2.RandomHorizontalFlip(1.))(im, split_idx=1) is im


def test_item_transform_refuses_what_makes_no_picture():
    im = PILImage.create(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match='gave a Image where a PIL picture is needed|leave out what makes tensors'):
        PILTransform(v2.ToImage())(im, split_idx=0)
    with pytest.raises(ValueError, match='needs a transform to call'): PILTransform('RandAugment')


# fastai's callbacks, on which the lesson relies

class Spy(Callback):
    "The loss of each training batch beside the cross-entropy with the soft target."
    order = 50
    def before_fit(self): self.seen = []
    def after_loss(self):
        if not self.training: return
        mix = next(c for c in self.learn.cbs if isinstance(c, (MixUp, CutMix)))
        one = [F.one_hot(o.as_subclass(torch.Tensor), 3).float() for o in (self.yb[0], mix.yb1[0])]
        lam = mix.lam.view(-1, 1)
        self.seen.append((self.loss.item(), F.cross_entropy(self.pred.as_subclass(torch.Tensor), lam*one[0] + (1 - lam)*one[1]).item()))


def fit(x, model, cb, bs=8):
    torch.manual_seed(0)
    ds = list(zip(x, torch.randint(0, 3, (len(x),))))
    spy = Spy()
    learn = Learner(DataLoaders.from_dsets(ds, ds, bs=bs, device='cpu'), model, CrossEntropyLossFlat(), cbs=[cb, spy])
    with learn.no_logging(): learn.fit(2, 1e-2)
    return np.array(spy.seen)


def test_mixup_loss_is_cross_entropy_with_the_soft_target_on_features_too():
    seen = fit(torch.randn(32, 6), torch.nn.Linear(6, 3), MixUp(.4))
    assert len(seen) == 8 and np.allclose(*seen.T, atol=1e-6)


def test_cutmix_loss_is_cross_entropy_with_the_soft_target():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*64, 3))
    seen = fit(torch.randn(32, 3, 8, 8), model, CutMix(1.))
    assert len(seen) == 8 and np.allclose(*seen.T, atol=1e-6)


# calibration

def table(n=4000, c=5, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(c, .4), n)
    return probs, np.array([rng.choice(c, p=p) for p in probs])


def naive(probs, y, bins):
    "Guo et al. (2017), equation 3, word for word."
    total, n = 0., len(y)
    for m in range(1, bins + 1):
        inside = [i for i in range(n) if (m - 1)/bins < max(probs[i]) <= m/bins]
        if not inside: continue
        acc = sum(probs[i].argmax() == y[i] for i in inside)/len(inside)
        conf = sum(max(probs[i]) for i in inside)/len(inside)
        total += len(inside)/n*abs(acc - conf)
    return total


@pytest.mark.parametrize('bins', [1, 2, 10, 15])
def test_ece_is_that_of_the_paper(bins):
    probs, y = table(500)
    assert np.isclose(ece(probs, y, bins), naive(probs, y, bins))


def test_ece_by_hand():
    probs = np.array([[.9, .1], [.9, .1], [.9, .1], [.9, .1], [.3, .7], [.3, .7]])
    assert np.isclose(ece(probs, [0, 0, 0, 1, 1, 0], 10), 4/6*abs(.75 - .9) + 2/6*abs(.5 - .7))


def test_ece_at_the_ends():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert ece(sure, [0, 1, 2, 0]) == 0 and ece(sure, [1, 2, 0, 1]) == 1
    assert np.isclose(ece(np.full((4, 2), .5), [0, 0, 0, 0]), .5)


def test_calibrated_predictions_have_a_small_ece():
    probs, y = table()
    assert ece(probs, y) < .03 < .1 < ece(np.eye(5)[probs.argmax(1)]*.999 + .0002, y)


def test_gaps_of_opposite_sign_do_not_cancel():
    probs = np.array([[.55, .45]]*2 + [[.95, .05]]*2)
    y = [0, 0, 0, 1]
    assert np.isclose(ece(probs, y, 10), (.45 + .45)/2) and abs(.75 - .75) < ece(probs, y, 10)


def test_reliability_agrees_with_scikit_learn():
    probs, y = table()
    t = reliability(probs, y, 15)
    acc, conf = calibration_curve(probs.argmax(1) == y, probs.max(1), n_bins=15)
    assert np.allclose(t.accuracy, acc) and np.allclose(t.confidence, conf) and t.n.sum() == len(y)


def test_tensors_do_as_well_as_arrays():
    probs, y = table(100)
    assert np.isclose(ece(torch.tensor(probs, requires_grad=True), torch.tensor(y)), ece(probs, y))


@pytest.mark.parametrize('probs,y,message', [
    (np.array([[2., -1.], [0., 1.]]), [0, 1], 'apply softmax'),
    (np.array([[.5, .6]]), [0], 'rows that sum to 1'),
    (np.array([[np.nan, 1.]]), [0], 'must be probabilities'),
    (np.array([[.5, .5]]), [2], 'whole numbers from 0 to 1'),
    (np.array([[.5, .5]]), [-1], 'whole numbers from 0 to 1'),
    (np.array([[.5, .5]]), [.5], 'whole numbers from 0 to 1'),
    (np.array([[.5, .5]]), [0, 1], 'y shape'),
    (np.array([.5, .5]), [0, 1], 'probs must have shape'),
    (np.empty((0, 2)), [], 'n at least 1'),
])
def test_one_line_for_what_is_wrong(probs, y, message):
    for f in (ece, reliability):
        with pytest.raises(ValueError, match=message) as e: f(probs, y)
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('bins', [0, -1, 2.5])
def test_bins_are_counted(bins):
    with pytest.raises(ValueError, match='whole number of bins'): ece(np.array([[.5, .5]]), [0], bins)


def test_cutmix_counts_the_clipped_box():
    from types import SimpleNamespace
    torch.manual_seed(0)
    x, y = torch.arange(4.)[:, None, None, None].expand(4, 3, 32, 32), torch.arange(4)
    drawn, used = [], []
    class Noting(CutMix):
        def rand_bbox(self, W, H, lam):
            drawn.append(lam.item())
            return super().rand_bbox(W, H, lam)
    cb = Noting(1.)
    for _ in range(200):
        cb.learn = SimpleNamespace(x=x, y=y, xb=(x.clone(),), yb=(y,))
        cb.stack_y = True
        cb.before_batch()
        used.append(cb.lam.item())
        other = cb.yb1[0] != y
        kept = (cb.learn.xb[0] == x).float().mean((1, 2, 3))[other]
        assert torch.allclose(kept, cb.lam.float().expand(len(kept)))
    assert np.mean(np.array(used) - drawn) > .05  # had it kept what it drew, the labels would be wrong
