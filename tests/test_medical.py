"Counts of objects, thresholds and intervals against other libraries; archives of MedMNIST and weights of torchxrayvision, tiny ones of the same layout made here."
import json, os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tlcourse import medical as M
from tlcourse.core import TLCourseError
from tlcourse.medical import MedicalError

CASE = Path(__file__).parent.parent/'nbs'/'cases'/'medical.ipynb'


def fails(f, *words):
    with pytest.raises(TLCourseError) as e: f()
    assert isinstance(e.value, ValueError) and '\n' not in str(e.value) and len(str(e.value)) < 300
    for w in words: assert w in str(e.value), str(e.value)


@pytest.mark.parametrize('seed', range(6))
def test_objects_against_an_assignment(seed):
    "The pairs above an IoU of one half are those of the best assignment."
    from scipy.ndimage import label
    from scipy.optimize import linear_sum_assignment
    rng = np.random.default_rng(seed)
    true = label(rng.random((40, 40)) > .6)[0]
    pred = label((true > 0) ^ (rng.random((40, 40)) > .93))[0]*3  # other numbers, with gaps
    a, b = [np.stack([m == i for i in np.unique(m)[1:]]).reshape(len(np.unique(m)) - 1, -1).astype(float) for m in (pred, true)]
    inter = a@b.T
    iou = inter/(a.sum(1)[:, None] + b.sum(1)[None] - inter)
    i, j = linear_sum_assignment(-iou)
    hits = iou[i, j][iou[i, j] > .5]
    got = M.objects(pred, true)
    assert (got['drawn'], got['true'], got['found']) == (len(a), len(b), len(hits)) and got['found'] > 3
    np.testing.assert_allclose([got['precision'], got['recall'], got['F1'], got['IoU']], [len(hits)/len(a), len(hits)/len(b), 2*len(hits)/(len(a) + len(b)), hits.mean()])


def test_nothing_drawn_and_nothing_there():
    none, one = np.zeros((3, 3), int), np.eye(3, dtype=int)
    assert np.isnan(M.objects(none, none)['F1']) and M.objects(none, one)['recall'] == 0 and np.isnan(M.objects(none, one)['precision'])
    assert M.objects(one, none)['precision'] == 0 and M.objects(np.ones((3, 3), int), np.ones((3, 3), int))['F1'] == 1
    fails(lambda: M.objects(one, one, iou=.4), 'two partners')
    fails(lambda: M.objects(one[:2], one), 'same size')


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('specificity', [.5, .8, .9, .95, 1.])
def test_threshold_against_the_roc_curve(specificity, ties):
    "No threshold of scikit-learn's ROC curve that leaves as many of the healthy alone has a higher sensitivity."
    from sklearn.metrics import roc_curve
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 200)
        s = y + rng.normal(size=200)
        if ties: s = s.round(1)
        t = M.threshold_at(y, s, specificity)
        fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
        assert (s[y == 0] <= t).mean() >= specificity
        np.testing.assert_allclose((s[y == 1] > t).mean(), tpr[fpr <= 1 - specificity + 1e-12].max())


def test_rates_against_sklearn_and_their_intervals():
    from scipy.stats import beta
    from sklearn.metrics import recall_score
    rng = np.random.default_rng(0)
    y, f = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    t = M.rates(y, f)
    np.testing.assert_allclose(t.value, [recall_score(y, f), recall_score(y, f, pos_label=0)])
    for row,k,n in zip(t.itertuples(), ((y & f).sum(), ((1 - y) & (1 - f)).sum()), (y.sum(), (1 - y).sum())):
        np.testing.assert_allclose([row.low, row.high], [beta.ppf(.025, k, n - k + 1), beta.ppf(.975, k + 1, n - k)])
        assert row.n == n
    assert np.isnan(M.rates([0, 0], [0, 1]).loc['sensitivity', 'value'])


def test_intervals_hold_what_they_say():
    "Over simulated studies of patients with ten alike cases each: by patient the interval holds the truth, by case it does not."
    held = {k: 0 for k in ('cases', 'patients')}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sick, seen = rng.integers(0, 2, 60), rng.random(60) < .8
        patient = np.repeat(np.arange(60), 10)
        y, f = sick[patient], np.where(sick, seen, ~seen)[patient]
        for k,g in dict(cases=None, patients=patient).items():
            o = M.rates(y, f, groups=g, draws=200).loc['sensitivity']
            held[k] += o.low <= .8 <= o.high
    assert held['patients'] >= 51 and held['cases'] < 40, held


def test_answered():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([.3]*4, 400)
    y = np.array([rng.choice(4, p=o) for o in p])
    t = M.answered(p, y)
    for row in t.itertuples():
        mine = p.max(1) >= row.threshold
        np.testing.assert_allclose([mine.mean(), (p.argmax(1) == y)[mine].mean()], [row.answered, row.accuracy])
    assert t.accuracy.is_monotonic_increasing and (t.low < t.accuracy).all()


def test_wrong_results_are_named():
    fails(lambda: M.threshold_at([0, 1, 2], [1, 2, 3]), '1 for the sick')
    fails(lambda: M.threshold_at([1, 1], [.2, .3]), 'no healthy case')
    fails(lambda: M.threshold_at([0, 1], [.2]), 'one value a case')
    fails(lambda: M.threshold_at([0, 1], [.2, .3], 95), 'a share')
    fails(lambda: M.threshold_at([0, 1], [np.nan, .3]), 'NaN')
    fails(lambda: M.rates([], []), 'one value a case')
    fails(lambda: M.answered([.2, .8], [1]), 'probs need shape')
    fails(lambda: M.answered([[.2, .8]], [1], shares=[0]), 'shares')


# Archives ----------------------------------------------------------------------------------------------------------------

def tiny(path, color=False, classes=2, size=28, n=(60, 10, 40), several=0, **other):
    "An archive of the layout of MedMNIST: bright and dark blobs by class."
    rng, arrays = np.random.default_rng(0), {}
    for k,m in zip(('train', 'val', 'test'), n):
        y = np.arange(m) % classes
        x = rng.integers(0, 60, (m, size, size)) + (y*150//max(classes - 1, 1))[:, None, None]
        x = np.repeat(x[..., None], 3, -1) if color else x
        arrays[f'{k}_images'] = x.astype(np.uint8)
        arrays[f'{k}_labels'] = rng.integers(0, 2, (m, several)) if several else y[:, None].astype(np.uint8)
    np.savez_compressed(path, **arrays | other)
    return path


@pytest.mark.parametrize('color', [False, True])
def test_an_archive_is_read(tmp_path, color):
    parts = M.read_archive(tiny(tmp_path/'a.npz', color, 3))
    assert {k: x.shape for k,(x, _) in parts.items()} == {k: (m, 28, 28) + (3,)*color for k,m in zip(('train', 'val', 'test'), (60, 10, 40))}
    assert all(y.dtype == int and y.ndim == 1 and set(y) == {0, 1, 2} for _,y in parts.values())
    x, y = M.read_archive(tiny(tmp_path/'b.npz', several=14))['val']
    assert y.shape == (10, 14)


class Bomb:
    def __reduce__(self): return os.mkdir, ('unpickled',)


def test_malformed_archives_are_named_and_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    f = tmp_path/'x.npz'
    fails(lambda: M.read_archive(f), 'is not there')
    for data in (b'', b'text', b'PK\3\4' + bytes(100)):
        f.write_bytes(data)
        fails(lambda: M.read_archive(f), 'no archive of MedMNIST')
    np.savez(f, train_images=np.zeros(3))
    fails(lambda: M.read_archive(f), 'no archive of MedMNIST')
    objects = np.empty(60, object)
    objects[:] = [Bomb() for _ in objects]
    fails(lambda: M.read_archive(tiny(f, train_images=objects)), 'no archive of MedMNIST')
    assert not (tmp_path/'unpickled').exists()
    fails(lambda: M.read_archive(tiny(f, train_images=np.zeros((60, 28, 28)))), 'uint8')
    fails(lambda: M.read_archive(tiny(f, test_images=np.zeros((40, 28), np.uint8))), 'test_images')
    fails(lambda: M.read_archive(tiny(f, train_labels=np.zeros((9, 1), int))), 'train_labels')
    fails(lambda: M.read_archive(tiny(f, val_labels=np.zeros((10, 1)))), 'whole numbers')
    whole = tiny(f).read_bytes()
    f.write_bytes(whole[:len(whole)//2])
    fails(lambda: M.read_archive(f), 'no archive of MedMNIST')
    monkeypatch.setattr(M, '_LIMIT', 1000)
    fails(lambda: M.read_archive(tiny(f)), 'unpacks to more')


def test_fetching(tmp_path, monkeypatch):
    import pooch
    monkeypatch.setenv('TLCOURSE_MEDMNIST', str(tmp_path))
    monkeypatch.delenv('TLCOURSE_OFFLINE', raising=False)
    fails(lambda: M.fetch_archive('pneumonia'), 'did you mean pneumoniamnist?')
    asked = []
    def retrieve(url, known_hash, fname, path, downloader):
        asked.append((url, known_hash))
        return tiny(Path(path)/fname)
    monkeypatch.setattr(pooch, 'retrieve', retrieve)
    assert M.archives() == []
    f = M.fetch_archive('pneumoniamnist')
    assert asked == [('https://zenodo.org/record/6496656/files/pneumoniamnist.npz?download=1', 'md5:28209eda62fecd6e6a2d98b1501bb15f')]
    assert M.fetch_archive('pneumoniamnist') == f and len(asked) == 1 and M.archives() == [f]
    def broken(*args, **kwargs): raise OSError('no route\nto host')
    monkeypatch.setattr(pooch, 'retrieve', broken)
    fails(lambda: M.fetch_archive('dermamnist'), 'the network did not deliver it')
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    fails(lambda: M.fetch_archive('retinamnist'), 'TLCOURSE_OFFLINE')


def cell_of(*starts):
    "The code of the case's cells that begin so."
    code = [''.join(c['source']) for c in json.loads(CASE.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    return '\n'.join(next(o for o in code if s in o) for s in starts)


@pytest.mark.skipif(not CASE.is_file(), reason='the case is not there')
@pytest.mark.parametrize('name, color, classes', [('pneumoniamnist', False, 2), ('dermamnist', True, 7), ('retinamnist', True, 5)])
def test_the_cells_of_the_case_on_an_archive(tmp_path, monkeypatch, name, color, classes):
    "X-ray, skin and retina by the very cells of the case, on tiny archives."
    monkeypatch.setenv('TLCOURSE_MEDMNIST', str(tmp_path))
    tiny(tmp_path/f'{name}.npz', color, classes, n=(30*classes, 10, 20*classes))
    imports = '\n'.join(''.join(c['source']) for c in json.loads(CASE.read_text(encoding='utf-8'))['cells'][:8] if c['cell_type'] == 'code' and 'import' in ''.join(c['source']))
    ns = {}
    last = cell_of('label: tbl-archives').rstrip()
    exec('\n'.join([imports, cell_of('def fit(', 'def seen_by(', 'def untrained(', 'def looked_at('), last[:last.rindex('\n')], 'result = ' + last[last.rindex('\n') + 1:]]), ns)
    t = ns['result']
    assert isinstance(t, pd.DataFrame) and t.index.get_level_values(0).unique().tolist() == [name] and {'pixels', 'pretrained', 'untrained'} <= set(t.index.get_level_values(1))
    assert t.AUC.between(0, 1).all() and t.AUC.max() > .9


# A network for X-rays ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def theirs():
    "torchxrayvision's DenseNet: torchvision's layout with one input channel and 18 outputs."
    from torchvision.models import densenet121
    torch.manual_seed(0)
    net = densenet121(num_classes=18)
    net.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 1.5)
    return net.eval()


@pytest.mark.parametrize('kind', ['safetensors', 'torch'])
def test_a_network_for_xrays_says_what_theirs_says(tmp_path, theirs, kind):
    from PIL import Image
    from safetensors.torch import save_file
    from tlcourse.backbones import preprocess
    f, state = tmp_path/('w.safetensors' if kind == 'safetensors' else 'w.pth'), theirs.state_dict() | dict(op_threshs=torch.zeros(18))
    save_file(state, f) if kind == 'safetensors' else torch.save(state, f)
    net = M.xray(f)
    im = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8))
    x = (2*torch.from_numpy(np.array(im)).float()[None, None]/255 - 1)*1024  # as xrv.datasets.normalize
    with torch.no_grad(): want, got = theirs(x), net(preprocess(net)(im)[None])
    assert got.shape == (1, 18) and torch.allclose(got, want, rtol=1e-3, atol=1e-3*want.abs().max())


def test_other_weights_are_refused(tmp_path, theirs):
    torch.save(theirs, f := tmp_path/'model.pt')  # as they are published: a pickled model
    fails(lambda: M.xray(f), 'not a file of plain tensors')
    torch.save({'a': torch.zeros(3)}, f)
    fails(lambda: M.xray(f), 'not the weights of a DenseNet')
    torch.save(theirs.state_dict() | {'features.norm5.weight': torch.zeros(7)}, f)
    fails(lambda: M.xray(f), 'do not fit DenseNet-121 at features.norm5.weight')
