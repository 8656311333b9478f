"Candidates and their ranking: the same pixels for each network, scores by name, chance, and one line for what cannot be compared."
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from torch import nn

from tlcourse import TLCourseError
from tlcourse.backbones import input_config, load
from tlcourse.candidates import by_group, cost, fitted, look, pairs, taus
from tlcourse.data import images
from tlcourse.features import Features, extract
from tlcourse.scores import ScoreError, chance, ridge, spectrum, targets
from tlcourse.transferability import h_score, leep, logme, nce, rank

RNG = np.random.default_rng(0)


def made(n=60, d=20, classes=3, signal=2.):
    y = np.arange(n) % classes
    x = RNG.normal(size=(n, d)).astype(np.float32)
    x[:, :classes] += signal*np.eye(classes, dtype=np.float32)[y]
    return Features(x, y, [f'class {i}' for i in range(classes)])


class Net(nn.Sequential):
    "A network with a classifier of seven classes, on 8x8 pixels."
    def __init__(self): super().__init__(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 10)), nn.Linear(10, 7))


@pytest.fixture(scope='module')
def dls(): return images('digits', 60, 20, size=8, device='cpu')


# Ranking

def test_scores_are_the_functions_on_the_same_features(dls):
    torch.manual_seed(0)
    net = Net().eval()
    [(_, f, p, seconds)] = look({'net': net}, dls, cache=False)
    with torch.no_grad(): want = net(dls.train.new(shuffle=False, drop_last=False, bs=60).one_batch()[0].as_subclass(torch.Tensor)).softmax(1).numpy()
    assert np.allclose(p, want, atol=1e-5) and seconds > 0
    row = rank({'net': net}, dls, shuffles=9, cache=False).loc['net']
    for k,v in dict(leep=leep(p, f.y), nce=nce(p.argmax(1), f.y), logme=logme(f.x, f.y), h_score=h_score(f.x, f.y)).items(): assert abs(row[k] - v) < 1e-6, k


def test_the_better_features_come_first_and_noise_is_at_chance():
    good, f = made(signal=3.), made()
    noise = Features(RNG.normal(size=(60, 20)).astype(np.float32), f.y)
    t = rank({'noise': noise, 'good': good})
    assert list(t.index) == ['good', 'noise'] and not t['same as best']['noise'] and t['same as best']['good']
    assert t['at chance']['good'] == '' and 'probe' in t['at chance']['noise'] and 'leep' not in t
    assert t.attrs['chance']['noise']['probe'] < .5 and np.isnan(t.seconds).all()


def test_two_views_of_one_quality_are_not_told_apart():
    a = made(signal=1.5)
    b = Features(a.x[:, ::-1].copy(), a.y)
    assert rank({'a': a, 'b': b})['same as best'].all()


def test_same_seed_same_table():
    models = {'a': made(), }
    pd.testing.assert_frame_equal(rank(models), rank(models))


def test_each_network_sees_its_own_normalization(dls):
    net = load('efficientnet_lite0', pretrained=False)
    assert fitted(dls.train, nn.Linear(2, 2)) is dls.train
    net.pretrained_cfg = dict(net.pretrained_cfg, mean=(.1, .2, .3), std=(.5, .6, .7))
    old, new = (dl.one_batch()[0].as_subclass(torch.Tensor) for dl in (dls.valid, fitted(dls.valid, net)))
    cfg = input_config('efficientnet_lite0')
    pixels = old*torch.tensor(cfg['std']).view(3, 1, 1) + torch.tensor(cfg['mean']).view(3, 1, 1)
    assert torch.allclose(new, (pixels - torch.tensor([.1, .2, .3]).view(3, 1, 1))/torch.tensor([.5, .6, .7]).view(3, 1, 1), atol=1e-5)
    assert torch.equal(old, dls.valid.one_batch()[0].as_subclass(torch.Tensor)), 'the loader given is left alone'


def test_each_encoder_reads_its_own_tokens(tmp_path):
    tiny = pytest.importorskip('tiny_texts')
    from tlcourse import text as T
    rows = [dict(text=' '.join(RNG.choice(tiny.WORDS[:14], k)), label='ab'[i % 2]) for i,k in enumerate(RNG.integers(1, 9, 14))]
    one, other = (tiny.make(tmp_path/o, o) for o in ('bert', 'roberta'))
    kwargs = dict(valid=.2, device='cpu', max_length=20)
    dls, theirs = (T.texts(pd.DataFrame(rows), encoder=o, **kwargs) for o in (one, other))
    model = T.load(other)
    want = extract(model, theirs.train, cache=False, progress=False)
    assert fitted(dls.train, T.load(one)) is dls.train
    got = extract(model, fitted(dls.train, model), cache=False, progress=False)
    assert np.allclose(got.x, want.x, atol=1e-6) and (got.y == want.y).all()
    wrong = extract(model, dls.train, cache=False, progress=False)
    assert abs(wrong.x - want.x).max() > .01, 'the wrong tokens would be noticed'
    t = rank([one, other], dls, shuffles=9, cache=False)
    assert set(t.index) == {one, other} and (t.seconds > 0).all()


@pytest.mark.parametrize('models, says', [
    ({}, 'no models'), ({'a': Features(np.eye(4))}, 'no labels'), (['efficientnet_lite0'], 'need DataLoaders'), (dict(a=Net()), 'need DataLoaders'),
    ({'a': Features(np.eye(4), np.arange(4) % 2), 'b': Features(np.eye(4), np.arange(4) // 2)}, 'not those of the others'),
    ({'a': Features(np.eye(4), np.arange(4) % 2, list('ab')), 'b': Features(np.eye(4), np.arange(4) % 2, list('ac'))}, 'classes are not those'),
    ({'a': Features(np.eye(4), np.arange(4) % 2, list('abcde'))}, '4 items of 5 classes'), ({'a': Features(np.eye(4), np.arange(4))}, 'leave nothing to compare'),
    ({'a': Features(np.full((4, 2), np.nan), np.arange(4) % 2)}, 'not finite'), ({'a': Features(np.zeros((0, 2)), np.zeros(0, int))}, ''),
    ({'a': Features(np.eye(4), np.zeros(4, int))}, 'of one class'), ({'a': Features(np.eye(4), np.eye(4)[:, :2])}, 'one class an item')])
def test_what_cannot_be_ranked_is_one_line(models, says):
    with pytest.raises(ScoreError) as e: rank(models)
    assert isinstance(e.value, TLCourseError) and isinstance(e.value, ValueError) and says in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('call, says', [
    (lambda: rank({'a': made()}, shuffles=0), 'shuffles=0'), (lambda: rank({'a': Features(np.eye(6), np.array(['a', None]*3, object))}), 'of several kinds'),
    (lambda: rank({'a': Features(np.zeros((6, 2, 3)), np.arange(6) % 2)}), r'[6, 2, 3]'), (lambda: rank({'a': Features(np.eye(6), np.arange(6)/7)}), 'must be classes'),
    (lambda: rank(['no_such_network'], images('digits', 20, 20, size=8, device='cpu')), 'no_such_network')])
def test_other_ways_to_go_wrong(call, says):
    with pytest.raises(TLCourseError) as e: call()
    assert says in str(e.value) and '\n' not in str(e.value)


# What scores are made of

@pytest.mark.parametrize('n, d', [(20, 6), (20, 50)])
def test_leave_one_out_is_the_loop(n, d):
    x, y = RNG.normal(size=(n, d)) + 3, np.arange(n) % 3
    t, a = np.eye(3)[y], ((x - x.mean(0))**2).sum()/n
    for strength in (.01, 1., 50.):
        looped = np.stack([Ridge(strength*a).fit(np.delete(x, i, 0), np.delete(t, i, 0)).predict(x[[i]])[0] for i in range(n)])
        acc, out = ridge(x, [strength])(t)
        assert np.allclose(out, looped, atol=1e-8) and acc == (looped.argmax(1) == y).mean()


def test_chance_is_exact():
    "The score is the number of one item's class: its p-value is known."
    t = np.eye(2)[[1] + [0]*9]
    true, p, mean, std = chance(lambda t: t[0, 1], t, shuffles=999, seed=0)
    assert true == 1 and abs(p - .1) < .03 and abs(mean - .1) < .03


def test_spectrum_leaves_out_what_is_zero():
    x = RNG.normal(size=(8, 3))@RNG.normal(size=(3, 30))
    assert len(spectrum(x)[1]) == len(spectrum(x.T)[1]) == 3 and np.allclose(spectrum(x)[1][::-1], np.linalg.svd(x)[1][:3]**2)
    assert targets('x', ['b', 'a', 'b'], 3).tolist() == [[0, 1], [1, 0], [0, 1]]


# The map and the table

@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'resnet18', 'vit_tiny_patch16_224'])
def test_cost_is_that_of_the_built_network(name):
    import timm
    c, m = cost(name), timm.create_model(name)
    assert c['parameters (M)'] == round(sum(p.numel() for p in m.parameters())/1e6, 1) and c['features'] == m.num_features
    assert c['groups'] == len({v for v in timm.models.group_parameters(m, m.group_matcher(coarse=True), reverse=True).values()})


@pytest.mark.parametrize('name', ['vgg16_bn', 'inception_v3', 'resnet18', 'tf_efficientnet_lite0', 'vit_tiny_patch16_224', 'convnext_atto'])
def test_groups_add_up_to_the_whole(name):
    c, g = cost(name), by_group(name)
    assert len(g) == c['groups'] and abs(g['parameters (M)'].sum() - c['parameters (M)']) < .06 and abs(g['GFLOPs'].sum() - c['GFLOPs']) < .006
    assert g['hands on'].iloc[-1] == '1000' and g['hands on'].iloc[-2].isdigit()


def test_weights_of_a_vgg_by_hand():
    "Simonyan and Zisserman: 13 convolutions of 3x3, then 25,088 to 4,096 to 4,096 to 1,000."
    g = by_group('vgg16')
    wide = (25_088*4_096 + 4_096 + 4_096**2 + 4_096)/1e6
    assert g.layers.tolist() == [2, 2, 3, 3, 3, 2, 1] and abs(g['parameters (M)'].iloc[5] - wide) < 1e-6 and abs(g['parameters (M)'].sum() - 138.357544) < 1e-6
    assert g['hands on'].tolist()[:5] == ['64×112×112', '128×56×56', '256×28×28', '512×14×14', '512×7×7']


def test_what_cannot_be_cut_is_one_line():
    with pytest.raises(TLCourseError, match='no plain sequence'): by_group('mobilenetv3_small_050')


def test_flops_by_hand():
    "ResNet-18's published 1.8 billion multiply-adds."
    assert abs(cost('resnet18')['GFLOPs']/2 - 1.82) < .02


def test_taus_against_scipy():
    df = pd.DataFrame(dict(target=np.repeat(list('abc'), 5), s=RNG.normal(size=15), tuned=RNG.normal(size=15)))
    want = [kendalltau(g.s, g.tuned).statistic for _,g in df.groupby('target')]
    row = taus(df, ['s']).loc['s']
    assert abs(row.tau - np.mean(want)) < 1e-12 and row.low >= -1 and row.high <= 1 and row.targets == 3


def test_stored_pairs_are_whole():
    t = pairs()
    assert set(t) == {'kind', 'target', 'body', 'n', 'leep', 'nce', 'logme', 'h_score', 'probe', 'accuracy', 'raw', 'tuned', 'far'}
    assert not t.duplicated(['target', 'body', 'n']).any() and set(t.kind) == {'pictures', 'texts', 'sounds'} and t.target.nunique() >= 12
    each = t.groupby(['target', 'n'])
    assert (each.body.nunique() == t.kind.map(dict(pictures=6, texts=7, sounds=7)).groupby([t.target, t.n]).first()).all() and (each.raw.nunique() == 1).all()
    assert set(t[t.n == 300].target) == set(t.target) and set(t.n) == {50, 100, 300}
    for k in ('probe', 'accuracy', 'raw'): assert t[k].between(0, 1).all()
    assert (t.leep.dropna() <= 0).all() and t.leep.isna().equals((t.body == 'craft') | (t.kind != 'pictures')) and t.far.notna().equals(t.kind == 'pictures')
    assert t.tuned.dropna().between(0, 1).all() and t[t.tuned.notna()].target.nunique() >= 3


# Spectra, drawn

def test_curves_are_drawn_to_scale():
    from tlcourse.spectra import drawn
    x = RNG.normal(size=(6, 90)).cumsum(1)
    im = drawn(x, 90)
    height = (x - x.min())/np.ptp(x)*90
    assert im.dtype == np.uint8 and im.shape == (6, 90, 90) and np.allclose(im.sum(1)/255, height, atol=.3)
    assert (np.diff(im.astype(int), axis=1) >= 0).all(), 'filled from below'
    assert np.array_equal(drawn(7*x - 3, 90), im), 'the scale is that of all curves'
    assert drawn(np.ones((2, 5)), 8).max() == 0, 'nothing to tell apart'


@pytest.mark.parametrize('x, px, says', [(np.eye(3)[None], 64, '[1, 3, 3]'), (np.zeros((0, 4)), 64, '[0, 4]'), ([[1., np.inf]], 64, 'not finite'), (np.eye(3), 4, 'px=4')])
def test_what_cannot_be_drawn_is_one_line(x, px, says):
    from tlcourse.spectra import SpectrumError, drawn
    with pytest.raises(SpectrumError) as e: drawn(x, px)
    assert says in str(e.value) and '\n' not in str(e.value) and isinstance(e.value, (TLCourseError, ValueError))


def test_spectra_are_whole():
    from tlcourse import assets
    from tlcourse.spectra import spectra
    try: assets.fetch('spectra', progress=False)
    except assets.AssetError as e: pytest.skip(str(e))
    df = spectra()
    x = df.drop(columns='label')
    assert x.shape == (731, 234) and df.label.nunique() == 4 and np.isfinite(x.to_numpy()).all() and (np.diff(x.columns) > 0).all()
    df['label'] = ''
    assert spectra().label.nunique() == 4  # a copy was changed
