"The report on one's own data: its statistics against formulas and loops by hand, its verdicts on planted truths, its files."
import base64, io, shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import t as student
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from tlcourse import cli, compare, deploy, page, report as R, sources, verdict
from tlcourse.core import TLCourseError
from tlcourse.compare import corrected, doubling
from tlcourse.quality import batchnorm_gap, held_out, pieces_per_word, predictable, twins, wrong_labels
from tlcourse.report import ReportError, report


def test_corrected_is_the_formula_and_ends_where_a_difference_must():
    d = np.random.default_rng(0).normal(.1, .05, 10)
    half = student.ppf(.975, 9)*(d.var(ddof=1)*(1/10 + 1/4))**.5
    assert np.allclose(corrected(d, 1/4), (d.mean(), d.mean() - half, d.mean() + half))
    assert np.isclose(corrected(d, 1/4, level=.975)[2] - d.mean(), half*student.ppf(.9875, 9)/student.ppf(.975, 9))
    assert corrected([.9, 1., .4], 1/4, 0.)[2] == 1. and corrected([.3], 1/4)[1:] == (-1., 1.)

def test_held_out_predictions_are_those_of_a_ridge_regression():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)) + 3, rng.normal(size=30)
    got, alpha = held_out(x, None, 1)@y, ((x - x.mean(0))**2).sum()/30
    for i,j in KFold(5, shuffle=True, random_state=1).split(x):
        assert np.allclose(got[j], Ridge(alpha).fit(x[i], y[i]).predict(x[j]))

def test_shuffled_labels_cannot_be_predicted_and_true_ones_can():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    x = rng.normal(size=(120, 30)) + np.eye(30)[y]
    assert predictable(x, y) == 1/201
    assert sum(predictable(x, rng.permutation(y), seed=s) > R.LEVEL for s in range(20)) >= 19

def test_groups_that_share_a_label_are_shuffled_whole():
    "40 speakers with voices of their own and labels at random: item by item that looks like a signal, speaker by speaker it is none."
    said = []
    for s in range(10):
        rng = np.random.default_rng(s)
        g = np.repeat(np.arange(40), 5)
        x, y = rng.normal(size=(40, 10))[g] + .1*rng.normal(size=(200, 10)), rng.integers(0, 2, 40)[g]
        said.append((predictable(x, y, seed=s, shuffles=120) > R.LEVEL, predictable(x, y, g, seed=s, shuffles=120) > R.LEVEL))
    assert np.sum(said, 0)[0] <= 4 and np.sum(said, 0)[1] >= 9

def test_twins_are_found_across_parts_first():
    x = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    x[7], x[40], x[30] = x[3], x[5], x[31] + .02
    t = twins(x, np.arange(50) >= 35)
    assert [tuple(o) for o in t[['first', 'second']].to_numpy()][0] == (5, 40) and set(map(tuple, t[['first', 'second']].to_numpy())) == {(5, 40), (3, 7), (30, 31)}
    assert t.across.tolist() == [True, False, False] and t.cosine.iloc[0] > .9999

def test_wrong_labels_as_a_loop_finds_them():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    z = rng.normal(size=(300, 4)) + 2.5*np.eye(4)[y]
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    given = y.copy()
    given[:20] = (y[:20] + 1) % 4
    want = set()
    for i in range(300):
        sure = [c for c in range(4) if p[i, c] >= np.mean([p[k, c] for k in range(300) if given[k] == c])]
        if sure and (c := max(sure, key=lambda c: p[i, c])) != given[i] and p[i, c] > p[i, given[i]]: want.add((i, c))
    got = wrong_labels(p, given)
    assert set(zip(got['item'], got.likely)) == want and (got['item'] < 20).sum() >= 12 and (got['item'][:5] < 20).all() and got.margin.is_monotonic_decreasing


def test_the_best_of_two_bodies_needs_a_wider_interval():
    w = SimpleNamespace(raw='raw', r=page.Report('pictures', ['a', 'b']))
    w.rows = [dict(method=m, repeat=0, split=k, part=1, n=80, accuracy=v, seconds=1.) for m,u in (('raw', 0.), ('probe on a', .1), ('probe on b', .2))
              for k,v in enumerate(u + np.array([.5, .6, .5, .4, .5])*(1 + u))]
    R._means(w)
    d = w.r.differences.set_index(['method', 'minus'])
    s = pd.DataFrame(w.rows).pivot(index='split', columns='method', values='accuracy')
    assert np.allclose(d.loc[('probe on b', 'raw'), ['low', 'high']].astype(float), corrected(s['probe on b'] - s.raw, 1/4, level=.975)[1:])
    assert np.allclose(d.loc[('probe on b', 'probe on a'), ['low', 'high']].astype(float), corrected(s['probe on b'] - s['probe on a'], 1/4)[1:])

def compared(probe, raw):
    "A comparison whose splits have these accuracies."
    w = SimpleNamespace(kind='pictures', raw='regression on 16x16 pixels', best='probe on x', worth=.03, apart=(), right={}, r=page.Report('pictures', ['a', 'b']))
    w.rows = [dict(method=m, repeat=0, split=k, part=1, n=80, accuracy=v, seconds=1.) for m,vs in ((w.raw, raw), (w.best, probe)) for k,v in enumerate(vs)]
    R._means(w)
    return verdict.transfer(w)[1]

def test_the_verdict_follows_the_interval():
    v = np.array([.50, .52, .48, .51, .49])
    assert compared(v + .2, v[::-1]).startswith('Transfer:')
    assert compared(v, v[::-1] + .2).startswith('Negative transfer')
    assert compared(v + [.2, -.2, .1, -.1, .05], v).startswith('Not enough data')
    assert compared(v + [.01, -.01, .01, -.01, 0], v).startswith('No transfer needed')
    assert compared(v + [.04, -.03, .04, -.03, .01], v).endswith('take the regression on 16x16 pixels, which is cheaper.')
    assert compared(v + [.2, -.2, .1, -.1, .05], v - .1).endswith('take the probe on x, which is ahead.')
    assert compared(v + [.015, .01, .02, .01, .02], v).startswith('No transfer needed: the network adds less than the 3 points')


def draw(path, seed, kind):
    "A picture of noise with a disc or a square in it."
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 90, (40, 40, 3)).astype(np.uint8)
    i, (y, x) = np.mgrid[:40, :40], rng.integers(12, 28, 2)
    a[(np.hypot(i[0] - y, i[1] - x) < 9) if kind else (abs(i[0] - y) < 9) & (abs(i[1] - x) < 2)] = rng.integers(150, 255, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(path)

@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')/'shapes'
    for i in range(30):
        draw(root/'disc'/f'{i:02}.png', i, True)
        draw(root/'b<b>&'/f'{i:02}.png', 100 + i, False)
    (root/'disc'/'empty.png').write_bytes(b'')
    return root

@pytest.fixture(scope='module')
def found(shapes, tmp_path_factory): return report(shapes, minutes=.3, out=tmp_path_factory.mktemp('out')/'r', size=64, progress=False)

def test_a_folder_of_pictures(found, shapes):
    out = found.folder
    assert found.kind == 'pictures' and found.p < .01 and found.n == dict(development=48, kept=12)
    assert 'empty.png' in str(found.bad) and found.table.accuracy['majority'] < .55 < found.table.accuracy['probe on efficientnet_lite0']
    assert found.test[0] == pytest.approx(1 - len(found.errors)/12) and found.verdict[0].startswith('The labels can be predicted')
    got = pd.read_csv(out/'results.csv')
    assert np.isclose(got[(got.method == 'majority') & (got.part == 1)].accuracy.mean(), found.table.accuracy['majority'])
    assert deploy.load(out/'model').predict(shapes/'disc'/'03.png').label.iloc[0] in ('disc', 'b<b>&')

def test_the_html_needs_no_other_file_and_escapes_what_it_shows(found):
    page = (found.folder/'report.html').read_text(encoding='utf-8')
    assert 'b<b>' not in page and 'b&lt;b&gt;&amp;' in page and 'src="http' not in page and 'href' not in page and '<script' not in page
    images = page.split('<img ')[1:]
    assert images and all('src="data:image/png;base64,' in o and 'alt="' in o and 'alt=""' not in o for o in images)
    assert found.verdict[1].split(':')[0] in page

def test_a_leak_is_found_and_left_out(shapes, tmp_path):
    for part,names in dict(train=range(24), valid=range(24, 30)).items():
        for i in names:
            for c in ('disc', 'b<b>&'): (tmp_path/'d'/part/c).mkdir(parents=True, exist_ok=True); shutil.copy(shapes/c/f'{i:02}.png', tmp_path/'d'/part/c/f'{i:02}.png')
    shutil.copy(shapes/'disc'/'05.png', tmp_path/'d'/'valid'/'disc'/'again.png')
    r = report(tmp_path/'d', minutes=.05, size=64, progress=False)
    said = next(o for o in r.verdict if o.startswith('A leak'))
    assert said.startswith('A leak: 1 of the 13 items') and 'again.png' in said and r.twins.across.sum() == 1 and r.classes.kept.sum() == 12

def test_labels_at_random_give_no_model(shapes, tmp_path):
    rng, files = np.random.default_rng(1), sorted(shapes.glob('*/??.png'))
    pd.DataFrame(dict(path=files, label=rng.permutation(np.arange(60) % 2))).to_csv(tmp_path/'t.csv', index=False)
    r = report(tmp_path/'t.csv', minutes=.3, out=tmp_path/'out', size=64, progress=False)
    assert r.verdict[0].startswith('These labels cannot be predicted from these items') and not (tmp_path/'out'/'model').exists() and not r.test

def test_groups_stay_together(shapes):
    w = R._Work(sources.read_source(shapes, 0, r'(\d|y)\.png', 64), 1, 0, False)
    R._look(w, sources.grouped(w.items, w.kind, shapes, r'(\d|y)\.png'))
    digit = np.array([w.items[i].source.stem[1] for i in w.dev])
    assert not set(digit) & {w.items[i].source.stem[1] for i in w.kept}
    for i,j in R._cuts(w, 0): assert not set(digit[i]) & set(digit[j])

def test_ctrl_c_gives_what_there_is(shapes, tmp_path, monkeypatch):
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(R, '_fewer', stop)
    r = report(shapes, minutes=.3, out=tmp_path/'out', size=64, progress=False)
    assert r.stopped and 'Stopped' in r.verdict[0] and len(r.table) >= 3 and any('In cross-validation' in o for o in r.verdict) and (tmp_path/'out'/'report.html').exists()
    monkeypatch.setattr(R, '_look', stop)
    assert report(shapes, minutes=.3, size=64, progress=False).stopped

def test_a_table_of_texts(tmp_path):
    pytest.importorskip('transformers')
    rng, words = np.random.default_rng(0), dict(sport='match goal team coach season'.split(), money='shares profit bank market price'.split())
    rows = [dict(story=' '.join(rng.choice(w, 5)) + f' on day {i}', topic=k) for k,w in words.items() for i in range(20)]
    pd.DataFrame(rows).to_csv(tmp_path/'t.csv', index=False)
    r = report(tmp_path/'t.csv', minutes=.1, out=tmp_path/'out', progress=False)
    assert r.kind == 'texts' and r.test[0] > .8 and r.table.accuracy['regression on TF-IDF'] > .8
    assert deploy.load(tmp_path/'out'/'model').predict('the bank and its shares').label.iloc[0] == 'money'

def test_a_folder_of_recordings(tmp_path):
    pytest.importorskip('transformers')
    soundfile = pytest.importorskip('soundfile')
    rng, t = np.random.default_rng(0), np.arange(8000)/16000
    for k,hz in dict(low=200, high=900).items():
        (tmp_path/'d'/k).mkdir(parents=True)
        for i in range(12): soundfile.write(tmp_path/'d'/k/f'{i}.wav', .3*np.sin(2*np.pi*hz*t*rng.uniform(.8, 1.2)) + .01*rng.normal(size=8000), 16000)
    r = report(tmp_path/'d', minutes=.1, progress=False)
    assert r.kind == 'sounds' and r.p < .01 and r.table.accuracy['regression on mel statistics'] > .9

def test_what_a_report_cannot_be_made_of(shapes, tmp_path):
    (tmp_path/'odd').mkdir()
    (tmp_path/'odd'/'a.xyz').write_text('?')
    pd.DataFrame(dict(path=sorted(shapes.glob('*/??.png')), label=np.linspace(0, 1, 60))).to_csv(tmp_path/'n.csv', index=False)
    (tmp_path/'file').write_text('x')
    (tmp_path/'empty').mkdir()
    (tmp_path/'two.csv').write_text('text,label\nhello,x\nworld,y\n')
    (tmp_path/'odd.csv').write_text('text,verdict\nhello,x\n')
    for kw in (dict(source=tmp_path/'none'), dict(source=tmp_path/'odd'), dict(source=tmp_path/'n.csv', size=64), dict(source=3), dict(source=tmp_path/'empty'), dict(source=tmp_path/'two.csv'),
               dict(source=tmp_path/'odd.csv'), dict(source=tmp_path/'odd.csv', label='zzz'), dict(source=sorted(shapes.glob('*/??.png'))[0]), dict(source=shapes, minutes=0), dict(source=shapes, worth=3),
               dict(source=shapes, out=tmp_path/'odd'), dict(source=shapes, out=tmp_path/'file')):
        with pytest.raises(TLCourseError) as e: report(progress=False, **kw)
        assert '\n' not in str(e.value) and str(e.value).endswith('.')

def test_the_command(shapes, tmp_path, capsys, monkeypatch):
    asked, answer = [], page.Report('pictures', ['a', 'b'], verdict=['Transfer: yes.'])
    monkeypatch.setattr(R, 'report', lambda *a, **kw: asked.append((a, kw)) or answer)
    assert cli.main(['try', str(shapes), '--minutes', '2', '--out', str(tmp_path/'o'), '--groups', r'(\d)']) == 0 and 'Transfer: yes.' in capsys.readouterr().out
    assert asked == [((shapes, 2., 0, tmp_path/'o'), dict(groups=r'(\d)', size=None, label=None, worth=.03))]
    answer.stopped = True
    assert cli.main(['try', str(shapes)]) == 130
    monkeypatch.undo()
    assert cli.main(['try', str(tmp_path/'none')]) == 1 and 'no such file or folder' in capsys.readouterr().err

def test_too_many_items_for_the_time_are_thinned_evenly(shapes):
    w = R._Work(sources.read_source(shapes, 0, None, 64), 1, 0, False)
    before = [o.id for o in w.items]
    g = R._fewer_items(w, before, 55)
    assert g == [o.id for o in w.items] and 48 <= len(g) <= 52
    left = [sum(w.items[i].label == c for i in w.dev) for c in w.r.vocab]
    assert abs(left[0] - left[1]) <= 1 and len(w.kept) and w.r.n['development'] == len(w.dev)

def test_fine_tuning_is_compared_and_saved_where_it_wins(shapes, tmp_path, monkeypatch):
    cuts, row = R._cuts, R.difference
    monkeypatch.setattr(R, 'EPOCHS', 1)
    monkeypatch.setattr(R, '_cuts', lambda w, repeat: cuts(w, repeat)[:2] if repeat == 0 else [])
    for m in (R, verdict): monkeypatch.setattr(m, 'difference', lambda w, a, b: (.2, .1, .3) if a.startswith('LP-FT') else row(w, a, b))
    monkeypatch.setattr(R, 'SCRATCH', 1)
    r = report(shapes, minutes=5, out=tmp_path/'out', size=64, progress=False)
    assert r.best == 'LP-FT of efficientnet_lite0' and r.table.splits['LP-FT of efficientnet_lite0'] == 2
    assert any(o.startswith('LP-FT of efficientnet_lite0 is better than') for o in r.verdict)
    files = sorted(shapes.glob('*/??.png'))
    assert deploy.load(tmp_path/'out'/'model').predict(files[:5]).shape == (5, 4) and 'linear probe' not in (tmp_path/'out'/'model'/'README.md').read_text(encoding='utf-8')

def test_dataloaders_and_their_own_parts():
    from tlcourse import data
    dls = data.images('animals', n_train=60, n_valid=30, size=64, test=.01)
    w = R._Work(dls, 1, 0, False)
    assert w.r.n == dict(development=90, kept=len(dls.test.items)) and w.r.vocab == list(dls.vocab)
    assert [o.id for o in w.items[90:]] == [o.id for o in dls.test.items]

def test_several_labels_and_numbers_get_one_line(shapes, tmp_path):
    from tlcourse import data
    files = sorted(shapes.glob('*/??.png'))
    for y in (np.arange(60)/7, ['a|b' if i % 2 else 'a' for i in range(60)]):
        dls = data.table(pd.DataFrame(dict(path=files, label=y)), size=64, label_delim='|' if isinstance(y, list) else None)
        with pytest.raises(ReportError, match='several labels or numbers'): report(dls, progress=False)


# Each piece against an oracle

def jpeg(im, quality=75):
    im.convert('RGB').save(f := io.BytesIO(), 'JPEG', quality=quality)
    return Image.open(f).convert('RGB')

def test_copies_are_found_by_the_pictures_as_a_loop_finds_them():
    rng = np.random.default_rng(0)
    near, x = rng.normal(size=(40, 12)), rng.normal(size=(40, 6))
    near[7] = near[3] + .01*rng.normal(size=12)
    near[30] = near[31] + .2*rng.normal(size=12)
    far = np.linalg.norm(near[:, None] - near, axis=2)
    fifth = np.sort(far, 1)[:, 5]
    want = {(i, j) for i in range(40) for j in range(i + 1, 40) if far[i, j] <= .25*min(fifth[i], fifth[j])}
    got = twins(x, near=near, at=1.1)
    assert {*zip(got['first'], got['second'])} == want == {(3, 7), (30, 31)} and len(twins(x, at=1.1)) == 0

def test_items_that_are_all_alike_are_no_copies_by_themselves():
    x = np.random.default_rng(0).normal(size=(20, 6))
    assert len(twins(x, near=np.ones((20, 4)))) == 0 and len(twins(np.ones((3, 2)) + np.arange(3)[:, None], near=np.ones((3, 4)))) <= 3

def test_a_jpeg_copy_of_a_small_picture_in_the_other_part_is_a_leak(tmp_path):
    from tlcourse import data
    dls = data.images('animals', n_train=60, n_valid=30, size=64)
    for part,ds in (('train', dls.train_ds), ('valid', dls.valid_ds)):
        for i,o in enumerate(ds.items):
            (d := tmp_path/'d'/part/o.label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(o.source).save(d/f'{part}{i}.png')
    for i,o in enumerate(dls.train_ds.items[:4]): jpeg(Image.fromarray(o.source)).save(tmp_path/'d'/'valid'/o.label/f'again{i}.jpg', quality=75)
    r = report(tmp_path/'d', minutes=.05, size=64, progress=False)
    found = r.twins[r.twins.across]
    assert len(found) == 4 and all('again' in o for o in found.second) and sum('A leak: 4 of the 34' in o for o in r.verdict) == 1

@pytest.mark.parametrize('floor, a, b', [(0, 2, .5), (0, 1, .3), (.1, 2, .5), (.2, 2, .7), (.3, 0, .5), (.05, 4, 1)])
def test_twice_the_labels_covers_the_truth(floor, a, b):
    rng, e, found = np.random.default_rng(0), floor + a*np.array([25, 50, 100, 200.])**-b, 0
    for _ in range(100):
        got = e[:3] + .015*rng.normal(size=3) + .03*rng.normal(size=(5, 3))
        _, low, high = doubling(got, 1/4, draws=400)
        found += low <= e[2] - e[3] <= high
    assert found >= 88

def test_twice_the_labels_without_noise_is_between_the_two_formulas():
    e = np.array([.4, .3, .24])
    without, floor = .24*(1 - (.24/.4)**.5), .06*.06/.1
    got = doubling(np.tile(e, (5, 1)), 1/4)
    assert got == pytest.approx(((without + floor)/2, floor, without), abs=1e-3)
    assert doubling(e[None], 1/4)[1:] == (-1., 1.)

def test_planted_wrong_labels_are_found_by_held_out_probes():
    "20 of 300 labels of real pictures are changed: most of what is found is planted, and most of what is planted is found."
    from tlcourse import data
    from tlcourse.backbones import load
    from tlcourse.features import extract
    f = extract(load('efficientnet_lite0', 10), data.images('animals', n_train=300, n_valid=10, size=96).train, progress=False)
    rng, given = np.random.default_rng(0), f.y.copy()
    at = rng.choice(300, 20, replace=False)
    given[at] = (given[at] + rng.integers(1, 10, 20)) % 10
    p = np.zeros((300, 10))
    for i,j in compare.splits(given, np.arange(300), 0): p[j] = compare.regression(f.x[i], given[i], f.x[j], 10)[0]
    found = wrong_labels(p, given)['item'].tolist()
    hit = len(set(found) & set(at))
    assert hit/20 >= .6 and hit/len(found) >= .5 and len(set(found[:8]) & set(at)) >= 6 # by chance: 1 in 15

def test_real_pictures_with_shuffled_labels_cannot_be_predicted():
    from tlcourse import data
    from tlcourse.backbones import load
    from tlcourse.features import extract
    f = extract(load('efficientnet_lite0', 10), data.images('animals', n_train=300, n_valid=10, size=96).train, progress=False)
    said = [predictable(f.x[:100], np.random.default_rng(s).permutation(f.y[:100]), seed=s) for s in range(20)]
    assert sum(o > R.LEVEL for o in said) >= 19 and predictable(f.x[:100], f.y[:100]) <= R.LEVEL

def test_the_gap_against_statistics_by_hand():
    import torch
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), torch.randn(8, 3, 9, 9)
    net.train()
    for _ in range(300): net(x)
    assert batchnorm_gap(net, x) < .02 and net.training # as in training
    h, bn = net[0](2*x + 1), net[1]
    mean, std, s = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=False)**.5, bn.running_var**.5
    want = ((((mean - bn.running_mean)/s)**2 + (std/s - 1)**2)**.5).detach().numpy()
    assert batchnorm_gap(net, 2*x + 1) == pytest.approx(np.sort(want)[1], rel=1e-4) # torch's median is the lower of two
    assert np.isnan(batchnorm_gap(torch.nn.Conv2d(3, 4, 3), x))

def test_how_far_pictures_are_is_between_photos_and_noise():
    import torch
    from tlcourse.backbones import load, preprocess
    from tlcourse.quality import unlike_photos
    data, net, rng = pytest.importorskip('skimage.data'), load('efficientnet_lite0'), np.random.default_rng(5)
    def batch(ims): return torch.stack([preprocess(net)(Image.fromarray(o)) for o in ims])
    photos = [im[a:a+200, b:b+200] for im in (data.chelsea(), data.astronaut(), data.rocket()) for a in (0, 90) for b in (0, 120, 240)]
    noise = [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(20)]
    (a, *_), (b, gap, near, noisy) = (unlike_photos(net, batch(o)) for o in (photos, noise))
    assert -.2 < a < .35 and abs(b - 1) < .1 and near < noisy and b == (gap - near)/(noisy - near)

def test_how_far_known_data_lies():
    "Photos, silhouettes, noise; English, another language, letters; speech, a tone."
    pytest.importorskip('transformers')
    from tlcourse.quality import nobody_speaks
    from tlcourse.corpora import read, tokenizer
    rng, tok = np.random.default_rng(0), tokenizer('minilm')
    bbc = read('bbc').text[:100].tolist()
    letters = [' '.join(''.join(rng.choice(list('abcdefghijklmnopqrstuvwxyz'), 6)) for _ in range(50)) for _ in range(5)]
    german = ['Der Mietvertrag wird auf unbestimmte Zeit geschlossen und kann mit einer Frist von drei Monaten gekündigt werden.']
    a, b, c = (pieces_per_word(o, tok) for o in (bbc, german, letters))
    assert abs(a - 1.25) < .15 and a < b < c and abs(c - 3.5) < .5
    t = np.arange(32000)/16000
    assert nobody_speaks(np.stack([.3*np.sin(2*np.pi*h*t) for h in (150, 440)])).min() > .5


# What is kept, and what is shown

def test_a_trained_split_is_kept_and_taken_from_disk(shapes, monkeypatch):
    "Asked again, as after Ctrl-C, a split that was trained is not trained again; one that differs in anything is."
    w, asked = R._Work(sources.read_source(shapes, 0, None, 64), 1, 0, False), []
    w.y = np.array([w.r.vocab.index(o.label) for o in w.items])
    monkeypatch.setattr(R, '_trained', lambda w, arm, i, j: (asked.append(arm) or np.full((len(j), 2), .5), None))
    i, j = np.arange(20), np.arange(20, 30)
    first = R._network(w, 'LP-FT of x', i, j)
    assert np.array_equal(R._network(w, 'LP-FT of x', i, j), first) and asked == ['LP-FT of x']
    R._network(w, 'LP-FT of x', i, j + 1)
    R._network(w, 'from scratch: x', i, j)
    w.y = 1 - w.y
    R._network(w, 'LP-FT of x', i, j)
    assert asked == ['LP-FT of x', 'LP-FT of x', 'from scratch: x', 'LP-FT of x']

def test_from_scratch_is_compared_where_there_is_time(shapes, tmp_path, monkeypatch):
    cuts = R._cuts
    monkeypatch.setattr(R, 'EPOCHS', 1)
    monkeypatch.setattr(R, 'SCRATCH', 1)
    monkeypatch.setattr(R, '_cuts', lambda w, repeat: cuts(w, repeat)[:2] if repeat == 0 else [])
    r = report(shapes, minutes=20, size=64, progress=False)
    arm = 'from scratch: efficientnet_lite0'
    assert r.table.splits[arm] == 2 and any(o.startswith(arm) for o in r.verdict) and r.table.accuracy[arm] <= r.table.accuracy.max()

def test_how_far_pictures_are_is_said(found):
    assert np.isfinite(found.far) and any(o.startswith('These pictures are') and 'photos' in o and 'noise' in o for o in found.verdict)

def test_where_raw_data_wins_it_is_recommended_and_what_is_saved_is_said():
    w = SimpleNamespace(kind='pictures', raw='SVM on 16x16 pixels', best='probe on x', saved=True, worth=.03, apart=(), right={}, kept=np.arange(9), r=page.Report('pictures', ['a', 'b']))
    w.rows = [dict(method=m, repeat=0, split=k, part=1, n=80, accuracy=v + .01*k, seconds=1.) for m,v in ((w.raw, .9), (w.best, .8)) for k in range(5)]
    R._means(w)
    w.r.best, w.r.test = w.raw, (.9, .8, .95)
    said = verdict.method(w)
    assert said[0].startswith('Recommended: SVM on 16x16 pixels.') and 'holds the probe on x instead' in said[1] and verdict.transfer(w)[0].startswith('No transfer')

def test_cards_hold_what_they_show():
    x = np.random.default_rng(0).random((3, 40, 40)).astype(np.float32)
    media, caption = page.picture_card(x, 'a<b')
    im = Image.open(io.BytesIO(base64.b64decode(media.split('base64,')[1].split('"')[0])))
    assert im.size == (160, 160) and 'alt="a&lt;b"' in media and caption == 'a<b'
    wave = np.sin(np.arange(100_000)*.05).astype(np.float32)
    media, _ = page.sound_card(wave, 'l, taken for h')
    import soundfile
    got, rate = soundfile.read(io.BytesIO(base64.b64decode(media.split('base64,')[1].split('"')[0])), dtype='float32')
    assert rate == 16_000 and len(got) == 64_000 and np.allclose(got, wave[:64_000], atol=1e-4) and 'aria-label="l, taken for h"' in media
    assert page.text_card('a <i>\n b ' + 'c'*500, '')[0].startswith('<blockquote>a &lt;i&gt; b ccc') and page.text_card('c'*500, '')[0].endswith(' ...</blockquote>')

def test_the_curve_says_where_it_may_go():
    rows = pd.DataFrame([dict(part=p, n=round(80*p), accuracy=a + .01*k) for p,a in ((.25, .5), (.5, .6), (1, .7)) for k in range(5)])
    fig = page.curve_of(rows, 1/4, (.05, -.01, .1))
    assert '20 labels 0.520' in fig.alt and '80 labels 0.720' in fig.alt and '160 labels would give 0.770 (0.710 to 0.820)' in fig.alt

@pytest.mark.parametrize('d, raw', [((.2, .1, .3), False), ((.01, .005, .015), True), ((.02, .005, .035), False), ((.01, -.04, .06), True),
                                    ((-.1, -.2, -.05), True), ((0, -.01, .01), True), ((.1, -.05, .25), False)])
def test_the_cheaper_one_is_recommended_where_the_network_adds_less_than_it_is_worth(d, raw):
    "In step with the headline: where it says transfer, the network; where it says no, what needs none; where it cannot say, the estimate."
    w = SimpleNamespace(raw='r', best='b', worth=.03, apart=(), right={}, r=SimpleNamespace(table=pd.DataFrame(dict(accuracy=[.5, .5]), index=['r', 'b']),
                        differences=pd.DataFrame([('b', 'r', *d)], columns=['method', 'minus', 'difference', 'low', 'high'])))
    head, said = verdict.transfer(w)
    assert verdict.cheaper(w) == raw
    assert head.startswith('No ') == raw if head[:3] != 'Not' else said.endswith('take the r, which is cheaper.' if raw else 'take the b, which is ahead.')

def test_paired_and_pooled_are_their_formulas():
    a, b = np.repeat([1, 1, 0, 0], [30, 8, 2, 10]), np.repeat([1, 0, 1, 0], [30, 8, 2, 10])
    m, n = 6/52, 52 # one more on either side: 9 and 3 of 52
    half = 1.959964*(((9 + 3)/n - m*m)/n)**.5
    assert compare.paired(a, b) == pytest.approx((m, m - half, m + half), abs=1e-6) and compare.paired([], []) == (0, -1, 1)
    assert compare.pooled((.1, 0, .2), (.2, .1, .3)) == pytest.approx((.15, .15 - .1/2**.5, .15 + .1/2**.5))
    assert compare.pooled((.1, .1, .1), (.2, .1, .3)) == (.1, .1, .1) == compare.pooled((.2, .1, .3), (.1, .1, .1))

def centroids(x, y, to): # the nearest of ten centers
    m = np.stack([x[y == c].mean(0) if (y == c).any() else np.full(x.shape[1], 9.) for c in range(10)])
    return (to@m.T - (m*m).sum(1)/2).argmax(1)

def planted(extra, rng, n=100, kept=25):
    "Two methods that see ten classes in noise of their own, the first with a stronger signal: what is measured, and what is true."
    signal, at = (1.8 + extra, 1.8), rng.integers(0, 10, 4000)
    x = [s*np.eye(12)[at] + rng.normal(size=(4000, 12)) for s in signal]
    def right(i, j): return [centroids(o[i], at[i], o[j]) == at[j] for o in x]
    whole = right(np.arange(n), np.arange(n, 4000))
    folds = [right(i, j) for repeat in range(4) for i,j in KFold(5, shuffle=True, random_state=repeat).split(np.arange(n))]
    d = compare.pooled(corrected([a.mean() - b.mean() for a,b in folds], 1/4, level=.975), compare.paired(*(o[:kept] for o in whole)))
    return d, whole[0].mean() - whole[1].mean()

@pytest.mark.parametrize('extra, worth', [(0, .03), (.12, .03), (.5, .15), (.9, .03)])
def test_the_verdict_errs_as_rarely_as_it_says(extra, worth):
    "The interval holds the truth in 93 % of cases or more; what does not help is rarely called helpful, what is worth it rarely not needed; a clear gain is seen."
    rng = np.random.default_rng(0)
    found, true = zip(*(planted(extra, rng) for _ in range(150)))
    true, said = np.mean(true), [compare.judged(d, worth) for d in found]
    assert np.mean([low <= true <= high for _,low,high in found]) >= .93
    if true < .005: assert said.count('helps') <= 6
    if true > worth: assert said.count('not needed') + said.count('worse') <= 6
    if true > .25: assert said.count('helps') >= 140

def test_the_column_of_labels_can_be_named(tmp_path):
    (tmp_path/'t.csv').write_text('story,verdict\n' + ''.join(f'it was {k} {i},{k}\n' for i in range(4) for k in ('good', 'bad')))
    assert sources.modality(tmp_path/'t.csv', 'verdict') == ('texts', 'story', 'verdict')
