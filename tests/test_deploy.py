"Saved models: what timm, Transformers, peft and onnxruntime read of them, what they answer, and what is refused."
import errno, hashlib, json, os, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tlcourse import cli, deploy
from tlcourse.backbones import load as backbone
from tlcourse.data import folder, table
from tlcourse.deploy import DeployError, load, save
from tlcourse.features import Features, extract, probe, to_head
from tlcourse.learners import learner

SIZE = 40


def picture(seed, mode='RGB'):
    "A picture of 48 x 60 in one of two colors, with noise."
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 120, (48, 60, 3)) + np.array([120, 0, 60])*(seed % 2)
    return Image.fromarray(a.astype(np.uint8)).convert(mode)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Pictures of two classes, a table of them, and three saved models."
    root = tmp_path_factory.mktemp('deploy')
    rows = []
    for i in range(24):
        f = root/'pictures'/'ab'[i % 2]/f'{i:02}.{"jpg" if i % 3 else "png"}'
        f.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(f)
        rows.append(dict(path=f.relative_to(root).as_posix(), tags=['x|y', 'x', 'y'][i % 3], u=i/10, v=(i % 5)/3))
    pd.DataFrame(rows).to_csv(root/'table.csv', index=False)
    dls = folder(root/'pictures', size=SIZE, bs=8, seed=0)
    torch.manual_seed(0)
    learn = learner(dls, backbone('efficientnet_lite0', 2, pretrained=False))
    save(learn, root/'model', data='noise in two colors', licence='CC0', note='Which color?')
    return root, learn, load(root/'model')


def one(place): return place[0]/'pictures'/'a'/'00.png'


def preds(learn):
    with learn.no_bar(), learn.no_logging(): return learn.get_preds(dl=learn.dls.valid)[0].numpy()


def sources(dls): return [o.source for o in dls.valid_ds.items]


# The same answers as in training, and by other programs

def test_same_as_get_preds(place):
    _, learn, model = place
    df = model.predict(sources(learn.dls))
    np.testing.assert_allclose(df[['a', 'b']], preds(learn), atol=1e-5)
    assert df.label.tolist() == [list(learn.dls.vocab)[i] for i in preds(learn).argmax(1)]
    np.testing.assert_allclose(df.probability, preds(learn).max(1), atol=1e-5)


def test_timm_reads_it(place):
    import timm
    root, learn, model = place
    theirs = timm.create_model(f'local-dir:{root/"model"}', pretrained=True).eval()
    x = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad(): torch.testing.assert_close(theirs(x), learn.model.eval()(x), rtol=1e-4, atol=1e-5)
    cfg = theirs.pretrained_cfg
    assert cfg['input_size'] == (3, SIZE, SIZE) and cfg['interpolation'] == 'bicubic' and theirs.num_classes == 2
    assert json.loads((root/'model'/'config.json').read_text())['label_names'] == ['a', 'b']


def test_timm_scales_a_square_alike(place):
    from timm.data import create_transform, resolve_data_config
    import timm
    root, _, model = place
    theirs = timm.create_model(f'local-dir:{root/"model"}', pretrained=True)
    im = picture(1).resize((SIZE, SIZE))
    got = create_transform(**resolve_data_config({}, model=theirs), is_training=False)(im)
    np.testing.assert_allclose(deploy._picture(im, model.about['reading']), got.numpy(), atol=1e-5)


@pytest.mark.parametrize('y, kind', [('tags', 'several'), ('u', 'numbers'), (['u', 'v'], 'numbers')])
def test_several_labels_and_numbers(place, tmp_path, y, kind):
    dls = table(place[0]/'table.csv', y=y, label_delim='|' if y == 'tags' else None, size=SIZE, bs=8)
    learn = learner(dls, backbone('efficientnet_lite0', dls.c, pretrained=False))
    model = load(save(learn, tmp_path/'m'))
    df, want = model.predict(sources(dls)), preds(learn)
    assert model.about['target'] == kind
    np.testing.assert_allclose(df[model.about['names']].to_numpy().reshape(want.shape), want, atol=1e-5)
    if kind == 'several': assert df.label.tolist() == [tuple(n for n, v in zip(dls.vocab, row) if v > .5) for row in want]
    else: assert 'label' not in df and 'mean absolute error' in (tmp_path/'m'/'README.md').read_text()


def test_whole_pictures_and_flips(place, tmp_path):
    "With item transforms, pictures are read in full before they are made square; flips are for training alone."
    from fastai.vision.augment import Flip, FlipItem
    dls = folder(place[0]/'pictures', size=SIZE, bs=8, item_tfms=FlipItem(), batch_tfms=Flip())
    learn = learner(dls, backbone('efficientnet_lite0', 2, pretrained=False))
    np.testing.assert_allclose(load(save(learn, tmp_path/'m')).predict(sources(dls))[['a', 'b']], preds(learn), atol=1e-5)


def test_deep_pictures(tmp_path):
    for i in range(12):
        (f := tmp_path/'p'/'ab'[i % 2]/f'{i}.png').parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.random.default_rng(i).integers(0, 4000, (50, 50)) // (1 + i % 2)).astype(np.uint16)).save(f)
    dls = folder(tmp_path/'p', size=SIZE, bs=4, top=4095)
    learn = learner(dls, backbone('efficientnet_lite0', 2, pretrained=False))
    model = load(save(learn, tmp_path/'m'))
    np.testing.assert_allclose(model.predict(sources(dls))[['a', 'b']], preds(learn), atol=1e-5)
    assert model.about['reading']['top'] == 4095


def test_transformers_image_classifier(place, tmp_path):
    from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification
    from tlcourse.backbones import Logits, input_config
    cfg = {k: v for k, v in input_config('efficientnet_lite0').items()}
    net = Logits(ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2, layer_type='basic')), cfg)
    save(net, tmp_path/'m', dls=place[1].dls)
    theirs, x = AutoModelForImageClassification.from_pretrained(tmp_path/'m'), torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad(): torch.testing.assert_close(theirs(x).logits, net.eval()(x))
    assert theirs.config.id2label == {0: 'a', 1: 'b'} and set(load(tmp_path/'m').predict(one(place)).label) <= {'a', 'b'}


def test_loading_needs_no_fastai(place):
    code = ('import sys; from tlcourse import deploy; assert "torch" not in sys.modules; m = deploy.load(sys.argv[1]);'
            'print(m.predict(sys.argv[2]).probability.iloc[0], *{"fastai", "sklearn", "matplotlib", "transformers"} & set(sys.modules))')
    r = subprocess.run([sys.executable, '-c', code, place[0]/'model', one(place)], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert abs(float(r.stdout) - place[2].predict(one(place)).probability.iloc[0]) < 1e-6, r.stderr


# What predict takes

def test_all_forms_of_a_picture(place):
    root, _, model = place
    f = one(place)
    want = model.predict(f)[['a', 'b']].to_numpy()
    im = Image.open(f)
    for x in (str(f), f.read_bytes(), im, np.array(im), [f], (str(f),), pd.Series([f]), np.array(im)[None], [im], f.parent/'..'/'a'/'00.png'):
        np.testing.assert_allclose(model.predict(x)[['a', 'b']], want, atol=1e-6)
    assert model.predict(f).index.tolist() == [str(f)] and model.predict([im, f, im]).index.tolist() == [0, str(f), 2]


def test_folder_and_csv(place, tmp_path):
    root, _, model = place
    df = model.predict(root/'pictures')
    assert df.index.tolist() == sorted(f.relative_to(root/'pictures').as_posix() for f in (root/'pictures').rglob('*.*'))
    rows = pd.read_csv(root/'table.csv').path
    listed = model.predict(root/'table.csv')
    assert listed.index.tolist() == rows.tolist()
    by_name = df.set_index('pictures/' + df.index)
    np.testing.assert_allclose(listed[['a', 'b']], by_name.loc[rows, ['a', 'b']], atol=1e-6)
    pd.DataFrame({'n;r': [1], 'mine': [str(one(place))]}).to_csv(tmp_path/'t.csv', index=False)
    np.testing.assert_allclose(model.predict(tmp_path/'t.csv', column='mine')[['a', 'b']], model.predict(one(place))[['a', 'b']], atol=1e-6)


def test_batches_do_not_matter(place):
    root, _, model = place
    np.testing.assert_allclose(model.predict(root/'pictures', bs=1)[['a', 'b']], model.predict(root/'pictures', bs=7)[['a', 'b']], atol=1e-5)


def test_the_mode_of_the_network_is_as_it_was(place, tmp_path):
    learn = place[1]
    learn.model.train()
    learn.model.bn1.eval()
    before = [m.training for m in learn.model.modules()], {k: v.clone() for k, v in learn.model.state_dict().items()}
    save(learn, tmp_path/'m')
    assert [m.training for m in learn.model.modules()] == before[0]
    assert all(torch.equal(v, before[1][k]) for k, v in learn.model.state_dict().items())


def test_a_class_called_label(place, tmp_path):
    shutil.copytree(place[0]/'pictures'/'a', tmp_path/'p'/'label')
    shutil.copytree(place[0]/'pictures'/'b', tmp_path/'p'/'set')
    model = load(save(backbone('efficientnet_lite0', 2, pretrained=False), tmp_path/'m', dls=folder(tmp_path/'p', size=SIZE, bs=8)))
    df = model.predict(one(place), sure=.5)
    assert list(df) == ['label', 'probability', 'calibrated', 'set', 'p(label)', 'p(set)'] and df.label.iloc[0] in ('label', 'set')


# How sure

def test_quantile_against_counting():
    "Against the definition: the least score s such that at least (n+1) share of the n scores are up to s."
    rng = np.random.default_rng(0)
    for n in (1, 5, 19, 100):
        s = rng.random(n)
        for share in (.5, .8, .9, .95):
            fits = [v for v in sorted(s) if (s <= v).sum() >= (n + 1)*share - 1e-9]
            assert deploy.quantile(s, share) == (fits[0] if fits else np.inf)


def test_sets_and_temperature_against_scipy(place):
    from scipy.optimize import minimize
    root, learn, model = place
    p = preds(learn)
    y = np.array([list(learn.dls.vocab).index(o.label) for o in learn.dls.valid_ds.items])
    df = model.predict(sources(learn.dls), sure=.7)
    k = int(np.ceil((len(y) + 1)*.7 - 1e-9))
    least = np.sort(p[range(len(y)), y])[::-1][k-1]
    assert df.set.tolist() == [tuple(n for n, v in zip('ab', row) if v >= least - 2e-6) for row in p]
    assert np.mean([o.label in s for o, s in zip(learn.dls.valid_ds.items, df.set)]) >= .7
    def loss(t): z = np.log(p)/t[0]; return (np.logaddexp(z[:, 0], z[:, 1]) - z[range(len(y)), y]).mean()
    t = model.about['fitted']['temperature']
    if t != 1: assert abs(minimize(loss, [1.], method='Nelder-Mead', bounds=[(.01, 100)]).x[0] - t) < 1e-2*t
    np.testing.assert_allclose(df.calibrated, (q := np.exp(np.log(p)/t), q.max(1)/q.sum(1))[1], rtol=1e-4)


@pytest.mark.parametrize('k, n', [(0, 5), (5, 5), (3, 7), (190, 200), (1, 1)])
def test_wilson_against_statsmodels_formula(k, n):
    from scipy.stats import binomtest
    ci = binomtest(k, n).proportion_ci(method='wilson')
    assert deploy.wilson(k, n) == pytest.approx((ci.low, ci.high), abs=1e-6)


def test_the_card(place):
    root, learn, _ = place
    card = (root/'model'/'README.md').read_text(encoding='utf-8')
    right = sum(o.label == 'ab'[i] for o, i in zip(learn.dls.valid_ds.items, preds(learn).argmax(1)))
    n = len(learn.dls.valid_ds)
    for said in ('Which color?', 'noise in two colors', 'Licence of the data: CC0', f'Accuracy {right/n:.3f} on {n} validation items ({right} right',
                 'expected calibration error', 'apache-2.0', 'tf_efficientnet_lite0', '| a |', '| b |', f'torch {torch.__version__.split("+")[0]}'): assert said in card, said


# Nothing half

def test_no_pickles_and_true_sums(place):
    root = place[0]/'model'
    assert {f.name for f in root.iterdir()} == {'README.md', 'SHA256SUMS', 'config.json', 'model.safetensors', 'tlcourse.json'}
    sums = dict(reversed(o.split('  ')) for o in (root/'SHA256SUMS').read_text().splitlines())
    assert sums == {k: hashlib.sha256((root/k).read_bytes()).hexdigest() for k in ('config.json', 'model.safetensors', 'tlcourse.json')}


def test_the_card_by_group(place, tmp_path):
    _, learn, _ = place
    n = len(learn.dls.valid_ds)
    groups = ['few']*2 + ['many']*(n - 2)
    save(learn, tmp_path/'m', groups=groups)
    model, card = load(tmp_path/'m'), (tmp_path/'m'/'README.md').read_text(encoding='utf-8')
    right = (model.predict(sources(learn.dls)).label == [o.label for o in learn.dls.valid_ds.items]).to_numpy()
    told = model.about['groups']
    assert told['few'] == dict(items=2, right=int(right[:2].sum()), interval=[round(o, 4) for o in deploy.wilson(int(right[:2].sum()), 2)])
    assert told['many']['right'] == right[2:].sum() and '| few | 2 |' in card and 'Fewer than 30 items' in card
    assert 'were not computed' in (place[0]/'model'/'README.md').read_text(encoding='utf-8')
    for bad, says in ((groups[:-1], 'groups has'), ([None, *groups[1:]], 'missing'), (list(np.linspace(0, 1, n)) if n > 20 else [], 'groups')):
        with pytest.raises(DeployError, match=says): save(learn, tmp_path/'other', groups=bad)
    assert not (tmp_path/'other').exists()


@pytest.mark.parametrize('where', ['_write_tensors', '_judged', '_card', '_seal'])
@pytest.mark.parametrize('what', [KeyboardInterrupt, OSError(errno.ENOSPC, 'No space left on device')])
def test_interrupted(place, tmp_path, monkeypatch, where, what):
    "The old folder stays as it was, and nothing is left beside it."
    shutil.copytree(place[0]/'model', tmp_path/'m')
    before = {f.name: f.read_bytes() for f in (tmp_path/'m').iterdir()}
    def stop(*args, **kwargs): raise what
    monkeypatch.setattr(deploy, where, stop)
    with pytest.raises(KeyboardInterrupt if what is KeyboardInterrupt else DeployError): save(place[1], tmp_path/'m')
    assert {f.name: f.read_bytes() for f in (tmp_path/'m').iterdir()} == before and [f.name for f in tmp_path.iterdir()] == ['m']
    with pytest.raises((KeyboardInterrupt, DeployError)): save(place[1], tmp_path/'new')
    assert [f.name for f in tmp_path.iterdir()] == ['m']


def test_stopped_between_the_two_moves(place, tmp_path):
    shutil.copytree(place[0]/'model', tmp_path/'.m.old')
    assert load(tmp_path/'m').about == place[2].about and not (tmp_path/'.m.old').exists()


def test_replaced(place, tmp_path):
    save(place[1], tmp_path/'m', data='one')
    (tmp_path/'m'/'mine.txt').write_text('x')
    save(place[1], tmp_path/'m', data='two')
    assert load(tmp_path/'m').about['data'] == 'two' and not (tmp_path/'m'/'mine.txt').exists()


def test_a_card_may_be_edited_and_files_added(place, tmp_path):
    shutil.copytree(place[0]/'model', tmp_path/'m')
    (tmp_path/'m'/'README.md').write_text('mine')
    (tmp_path/'m'/'model.onnx').write_bytes(b'')
    load(tmp_path/'m')


# What stands on a body

def test_probe(place, tmp_path):
    dls = place[1].dls
    net = backbone('efficientnet_lite0', 2)
    fitted = probe(extract(net, dls.train, cache=False), extract(net, dls.valid, cache=False))
    save(fitted, tmp_path/'p', dls=dls, body='efficientnet_lite0')
    want = fitted.predict_proba(extract(net, dls.valid, cache=False).x)
    np.testing.assert_allclose(load(tmp_path/'p').predict(sources(dls))[['a', 'b']], want, atol=1e-4)
    assert sum(f.stat().st_size for f in (tmp_path/'p').iterdir()) < 100_000


def test_probe_of_another_body(place, tmp_path, monkeypatch):
    dls, net = place[1].dls, backbone('efficientnet_lite0', 2)
    save(probe(extract(net, dls.train, cache=False)), tmp_path/'p', dls=dls, body='efficientnet_lite0')
    other = backbone('efficientnet_lite0', 2)
    with torch.no_grad(): other.conv_stem.weight[0, 0, 0, 0] += 1e-3
    monkeypatch.setattr('tlcourse.backbones.load', lambda *a, **k: other)
    with pytest.raises(DeployError, match='weights are others'): load(tmp_path/'p')


def test_adapter_of_pictures_is_merged(place, tmp_path):
    import timm
    from tlcourse.lora import adapt
    net = adapt(backbone('efficientnet_lite0', 2, pretrained=False), 'lora', r=2)
    for k, p in net.named_parameters():
        if 'lora_B' in k: torch.nn.init.normal_(p, std=.1)
    save(net, tmp_path/'m', dls=place[1].dls)
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad(): torch.testing.assert_close(timm.create_model(f'local-dir:{tmp_path/"m"}', pretrained=True).eval()(x), net.eval()(x), rtol=1e-3, atol=1e-4)
    assert hasattr(net, 'adaptation')


@pytest.mark.parametrize('method', ['bottleneck', 'bitfit'])
def test_bottleneck_and_biases_of_pictures(place, tmp_path, method):
    from tlcourse.lora import adapt
    net = adapt(backbone('efficientnet_lite0', 2), method)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad: p.add_(.02*torch.randn(p.shape, generator=g))
    learn = learner(place[1].dls, net)
    model = load(save(learn, tmp_path/'m'))
    np.testing.assert_allclose(model.predict(sources(learn.dls))[['a', 'b']], preds(learn), atol=1e-4)
    if method == 'bottleneck':
        assert model.about['body'] == dict(name='efficientnet_lite0') and (tmp_path/'m'/'adapter.safetensors').is_file() and not (tmp_path/'m'/'model.safetensors').exists()
        out = load(model.to_onnx(tmp_path/'m.onnx')).predict(one(place))[['a', 'b']]
        np.testing.assert_allclose(out, model.predict(one(place))[['a', 'b']], atol=1e-4)


# Bad inputs: one line each, which says what to do

def test_a_file_in_use(place, tmp_path, monkeypatch):
    "Windows lets nobody move a folder from which a program reads: the old one stays, and one line says so."
    shutil.copytree(place[0]/'model', tmp_path/'m')
    was = Path.rename
    def busy(self, to):
        if self == tmp_path/'m': raise PermissionError(errno.EACCES, 'The process cannot access the file because it is being used by another process')
        return was(self, to)
    monkeypatch.setattr(Path, 'rename', busy)
    refused(lambda: save(place[1], tmp_path/'m'), 'used by another process')
    monkeypatch.undo()
    assert [f.name for f in tmp_path.iterdir()] == ['m'] and load(tmp_path/'m').about == place[2].about


def test_no_room_on_the_disk(place, tmp_path):
    "A disk of 2 MB, where one can be had: the old folder stays, nothing else does."
    (disk := tmp_path/'disk').mkdir()
    try: mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk], capture_output=True).returncode == 0
    except OSError: mounted = False
    if not mounted: pytest.skip('a small disk takes the right to mount one')
    try:
        refused(lambda: save(place[1], disk/'m'), 'free some space')
        assert not list(disk.iterdir())
        refused(lambda: place[2].to_onnx(disk/'m.onnx'), 'cannot be written')
        assert not list(disk.iterdir())
    finally: subprocess.run(['umount', disk], check=True)

def bad_sources(place, tmp):
    (tmp/'empty').mkdir()
    (tmp/'empty.png').write_bytes(b'')
    (tmp/'text.png').write_text('hello')
    (tmp/'photo.heic').write_bytes(b'ftypheic')
    (tmp/'cut.png').write_bytes(one(place).read_bytes()[:300])
    (tmp/'none.csv').write_text('')
    (tmp/'rows.csv').write_text('path\n')
    (tmp/'other.csv').write_text('a,b\n1,2\n')
    (tmp/'gap.csv').write_text('path,n\nx.png,1\n,2\n')
    (tmp/'lost.csv').write_text('path\nnothing.png\n')
    (tmp/'latin.csv').write_bytes('path\nstraße.png\n'.encode('latin-1'))
    return tmp


@pytest.mark.parametrize('ask, said', [
    ('tmp/"nothing.png"', 'no such file'), ('str(tmp/"nothing.png")', 'no such file'), ('tmp/"empty"', 'no picture in this folder'),
    ('tmp/"empty.png"', 'empty'), ('tmp/"text.png"', 'not a picture'), ('tmp/"photo.heic"', 'save it as PNG or JPEG'), ('tmp/"cut.png"', 'cut.png'),
    ('tmp/"none.csv"', 'cannot be read as a csv'), ('tmp/"rows.csv"', 'no rows'), ('tmp/"other.csv"', 'column='), ('tmp/"gap.csv"', 'row 1'),
    ('tmp/"lost.csv"', 'nothing.png'), ('tmp/"latin.csv"', 'cannot be read as a csv'), ('[]', 'nothing to predict'), ('None', 'NoneType is no picture'),
    ('7', 'int is no picture'), ('b""', 'not a picture'), ('b"abc"', 'not a picture'), ('np.zeros((5, 5), complex)', 'no picture'),
    ('np.zeros((3, 4, 5))', 'no picture'), ('np.zeros((5, 5, 3))', 'no picture'), ('[one, tmp/"nothing.png"]', 'no such file'), ('[one, 7]', 'item 1'),
    ('pd.DataFrame(dict(path=[1]))', 'one of them'), ('""', 'str is no picture'), ('torch.zeros(3, 40, 40)', 'Tensor is no picture'), ('{"a": 1}', 'dict is no picture'),
])
def test_bad_items(place, tmp_path, ask, said):
    tmp = bad_sources(place, tmp_path)
    x = eval(ask, dict(tmp=tmp, np=np, pd=pd, torch=torch, one=one(place)))
    refused(lambda: place[2].predict(x), said)


def refused(f, said):
    "A DeployError of one line that matches `said`."
    with pytest.raises(DeployError, match=said) as e: f()
    assert '\n' not in str(e.value) and str(e.value).endswith('.') and len(str(e.value)) < 400, str(e.value)


@pytest.mark.parametrize('kw, said', [(dict(sure=0), 'share'), (dict(sure=1), 'share'), (dict(sure=90), 'share'), (dict(sure=True), 'share'), (dict(bs=0), 'bs=0'),
                                      (dict(bs=2.5), 'bs=2.5')])
def test_bad_arguments(place, kw, said): refused(lambda: place[2].predict(one(place), **kw), said)


def broken(root, how):
    "A saved folder, and what has happened to it."
    f = root/'m'
    about = json.loads((f/'tlcourse.json').read_text())
    def again(**kw):
        (f/'tlcourse.json').write_text(json.dumps(about | kw))
        sums = ''.join(f'{hashlib.sha256((f/k).read_bytes()).hexdigest()}  {k}\n' for k in ('config.json', 'model.safetensors', 'tlcourse.json'))
        (f/'SHA256SUMS').write_text(sums)
    w = (f/'model.safetensors').read_bytes()
    dict(bit=lambda: (f/'model.safetensors').write_bytes(w[:-5] + bytes([w[-5] ^ 1]) + w[-4:]), cut=lambda: (f/'model.safetensors').write_bytes(w[:1000]),
         no_weights=lambda: (f/'model.safetensors').unlink(), no_config=lambda: (f/'config.json').unlink(), config=lambda: (f/'config.json').write_text('{}'),
         no_facts=lambda: (f/'tlcourse.json').unlink(), facts=lambda: (f/'tlcourse.json').write_text('{}'), no_sums=lambda: (f/'SHA256SUMS').unlink(),
         sums=lambda: (f/'SHA256SUMS').write_bytes(b'\xff\xfe'), no_line=lambda: (f/'SHA256SUMS').write_text(''), newer=lambda: again(format=99),
         kind=lambda: again(kind='smells'), not_json=lambda: ((f/'tlcourse.json').write_text('{'), sum_up(f)), names=lambda: again(names=[]),
         empty=lambda: (shutil.rmtree(f), f.mkdir()), file=lambda: (shutil.rmtree(f), f.write_text('x')), gone=lambda: shutil.rmtree(f),
         weights=lambda: ((f/'config.json').write_text('{"architecture": "nothing"}'), sum_up(f)))[how]()


def sum_up(f):
    names = ('config.json', 'model.safetensors', 'tlcourse.json')
    (f/'SHA256SUMS').write_text(''.join(f'{hashlib.sha256((f/k).read_bytes()).hexdigest()}  {k}\n' for k in names))


@pytest.mark.parametrize('how, said', [
    ('bit', 'model.safetensors is not the file'), ('cut', 'model.safetensors'), ('no_weights', 'model.safetensors'), ('no_config', 'config.json'), ('config', 'config.json'),
    ('no_facts', 'was not written by'), ('facts', 'tlcourse.json'), ('no_sums', 'was not written by'), ('sums', 'cannot be read'), ('no_line', 'SHA256SUMS'),
    ('newer', 'format is 99'), ('kind', 'smells'), ('not_json', 'tlcourse.json'), ('names', 'names='), ('empty', 'was not written by'), ('file', 'is a file'),
    ('gone', 'no such folder'), ('weights', 'cannot be built')])
def test_bad_folders(place, tmp_path, how, said):
    shutil.copytree(place[0]/'model', tmp_path/'m')
    broken(tmp_path, how)
    refused(lambda: load(tmp_path/'m'), said)


class Odd(torch.nn.Module):
    def forward(self, x): return x


@pytest.mark.parametrize('ask, said', [
    ('save(1, tmp/"m")', 'int cannot be saved'), ('save(net, tmp/"m")', 'dls='), ('save(Odd(), tmp/"m", dls=dls)', 'Odd'), ('save(fitted, tmp/"m", dls=dls)', 'body='),
    ('save(fitted, tmp/"m", body="efficientnet_lite0")', 'dls='), ('save(learn, tmp/"m", body="efficientnet_lite0")', 'body= is for a probe'),
    ('save(learn, tmp)', 'not written by save'), ('save(learn, tmp/"file")', 'not written by save'), ('save(learn, tmp/"file"/"m")', 'cannot be written|not written'),
    ('save(three, tmp/"m", dls=dls)', '3 outputs'), ('save(nan, tmp/"m", dls=dls)', 'NaN'), ('save(learn, tmp/"m", dls=resized)', 'answers otherwise'), ('save(learn, tmp/"m", dls=darker)', 'darker changes items'),
    ('save(hooked, tmp/"m", dls=dls)', 'answers otherwise'), ('save(learn, tmp/"m", dls=plain)', 'do not say how')])
def test_bad_saves(place, tmp_path, ask, said):
    from fastai.data.core import DataLoaders
    from fastai.data.all import Transform
    from fastai.vision.augment import Resize
    class darker(Transform):
        def encodes(self, x): return x/2
    learn = place[1]
    dls = learn.dls
    (tmp_path/'file').write_text('x')
    nan, three, hooked = (backbone('efficientnet_lite0', n, pretrained=False) for n in (2, 3, 2))
    with torch.no_grad(): nan.classifier.bias[0] = float('nan')
    hooked.register_forward_hook(lambda m, i, o: o + 1)
    rng = np.random.default_rng(0)
    env = dict(save=save, tmp=tmp_path, net=learn.model, Odd=Odd, dls=dls, learn=learn, nan=nan, three=three, hooked=hooked,
               fitted=probe(Features(rng.random((8, 1280), np.float32), np.arange(8) % 2)),
               resized=folder(place[0]/'pictures', size=SIZE, bs=8, item_tfms=Resize(64)) if 'resized' in ask else None,
               darker=folder(place[0]/'pictures', size=SIZE, bs=8, batch_tfms=darker()) if 'darker' in ask else None,
               plain=DataLoaders.from_dsets([(torch.zeros(3), 0)]*4, [(torch.zeros(3), 0)]*2, bs=2) if 'plain' in ask else None)
    refused(lambda: eval(ask, env), said)
    assert [f.name for f in tmp_path.iterdir()] == ['file']


# ONNX

@pytest.fixture(scope='module')
def exported(place):
    root, learn, model = place
    return model.to_onnx(root/'model.onnx', sources(learn.dls)), model


def test_onnx(place, exported):
    import onnx, onnxruntime
    file, model = exported
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    about = json.loads({o.key: o.value for o in proto.metadata_props}['tlcourse'])
    assert about['reading'] == model.about['reading'] and about['names'] == ['a', 'b']
    x = torch.randn(5, 3, SIZE, SIZE)
    out, = onnxruntime.InferenceSession(file).run(None, {'pixels': x.numpy()})
    with torch.no_grad(): want = place[1].model.eval()(x).numpy()
    assert np.abs(out - want).max() <= 1e-4*np.abs(want).max()
    np.testing.assert_allclose(load(file).predict(place[0]/'pictures')[['a', 'b']], model.predict(place[0]/'pictures')[['a', 'b']], atol=1e-4)


def test_onnx_without_torch(place, exported):
    code = 'import sys; from tlcourse import deploy; print(deploy.load(sys.argv[1]).predict(sys.argv[2]).probability.iloc[0], *{"torch", "timm", "fastai"} & set(sys.modules))'
    r = subprocess.run([sys.executable, '-c', code, exported[0], one(place)], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert abs(float(r.stdout) - exported[1].predict(one(place)).probability.iloc[0]) < 1e-4, r.stderr


def test_onnx_that_differs_is_not_written(place, tmp_path, monkeypatch):
    was = deploy.OnnxPredictor._run
    monkeypatch.setattr(deploy.OnnxPredictor, '_run', lambda self, x: was(self, x)*1.001)
    refused(lambda: place[2].to_onnx(tmp_path/'m.onnx'), 'answers otherwise')
    assert not list(tmp_path.iterdir())


def test_bad_onnx(place, exported, tmp_path, monkeypatch):
    import onnx
    refused(lambda: place[2].to_onnx(tmp_path/'m'), 'ends in .onnx')
    refused(lambda: load(tmp_path/'m.onnx'), 'no such file')
    (tmp_path/'bad.onnx').write_bytes(b'hello')
    refused(lambda: load(tmp_path/'bad.onnx'), 'cannot read it')
    proto = onnx.load(exported[0])
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path/'other.onnx')
    refused(lambda: load(tmp_path/'other.onnx'), 'was not written by')
    refused(lambda: load(exported[0]).to_onnx(tmp_path/'x.onnx'), 'copy that')
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    refused(lambda: place[2].to_onnx(tmp_path/'m.onnx'), r"tlcourse\[deploy\]")


# The command

def test_command(place, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('COLUMNS', '300')  # a path of any length in one row
    root, _, model = place
    f = str(one(place))
    p = model.predict(f)
    assert cli.main(['predict', root/'model', f]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ['item', 'label', 'probability'] and row.split()[-2:] == [p.label.iloc[0], f'{p.probability.iloc[0]:.3f}']
    assert cli.main(['predict', root/'model', f, root/'pictures', '--csv', '--sure', '.9']) == 0
    df = pd.read_csv(__import__('io').StringIO(capsys.readouterr().out))
    assert len(df) == 25 and list(df)[:2] == ['item', 'label'] and abs(df.a[0] - p.a.iloc[0]) < 1e-5
    assert cli.main(['predict', root/'model', f, '--json']) == 0
    assert json.loads(capsys.readouterr().out)[0]['label'] == p.label.iloc[0]
    monkeypatch.setattr('sys.stdin', __import__('io').StringIO(f'{f}\n{f}\n'))
    assert cli.main(['predict', root/'model', '-', '--csv']) == 0 and len(capsys.readouterr().out.splitlines()) == 3
    for args, code in ((['model', 'nothing.png'], 1), (['nothing', f], 1), (['model', f, '--sure', '3'], 1), (['model'], 2), (['model', f, '--csv', '--json'], 2)):
        assert cli.main(['predict', root/args[0], *args[1:]]) == code
        assert len(capsys.readouterr().err.splitlines()) == 1


# Texts

@pytest.fixture(scope='module')
def words(tmp_path_factory):
    "Texts of two classes, a probe on them, and a network with the probe for a head, saved."
    pytest.importorskip('transformers')
    from tlcourse.text import load as encoder, texts
    root = tmp_path_factory.mktemp('texts')
    rows = [(f'{w} number {i} of the {k}', k) for i, w in enumerate(('goal', 'match', 'team', 'win', 'cup', 'race')) for k in ('sport', 'market')]
    dls = texts(rows, n_valid=4, max_length=12, bs=4)
    net = encoder('minilm', dls.c)
    fitted = probe(extract(net, dls.train, cache=False))
    learn = learner(dls, to_head(fitted, net))
    save(learn, root/'model')
    return root, learn, load(root/'model'), fitted


def same_texts(learn, model):
    np.testing.assert_allclose(model.predict(learn.dls.valid_ds.items)[model.about['names']], preds(learn), atol=1e-5)


def test_texts(words):
    from transformers import AutoModel, AutoTokenizer
    from safetensors.torch import load_file
    root, learn, model, _ = words
    same_texts(learn, model)
    body, tok, head = AutoModel.from_pretrained(root/'model'), AutoTokenizer.from_pretrained(root/'model'), load_file(root/'model'/'head.safetensors')
    said = ['A cup race.', 'The market fell, and fell again, for longer than twelve tokens can say.']
    ids = tok(said, padding=True, truncation=True, max_length=12, return_tensors='pt')
    with torch.no_grad(): h, m = body.eval()(**ids).last_hidden_state, ids.attention_mask[..., None]
    p = torch.softmax((h*m).sum(1)/m.sum(1)@head['weight'].T + head['bias'], 1)
    np.testing.assert_allclose(model.predict(said)[model.about['names']], p, atol=1e-5)


def test_forms_of_texts(words, tmp_path):
    model = words[2]
    want = model.predict('A cup race.').drop(columns='label').to_numpy()
    (tmp_path/'t.txt').write_text('A cup race.')
    pd.DataFrame(dict(n=[1], text=['A cup race.'])).to_csv(tmp_path/'t.csv', index=False)
    for x in (['A cup race.'], pd.Series(['A cup race.']), tmp_path/'t.txt', str(tmp_path/'t.csv'), tmp_path):
        np.testing.assert_allclose(model.predict(x).drop(columns='label').to_numpy(), want, atol=1e-6)
    for x, said in (('', 'empty'), ([' '], 'empty'), ([None], 'no text'), (tmp_path/'none.txt', 'no such file'), (7, 'no text')): refused(lambda: model.predict(x), said)


def test_probe_of_texts(words, tmp_path):
    _, learn, _, fitted = words
    same_texts(learn, load(save(fitted, tmp_path/'p', dls=learn.dls, body='minilm')))
    assert sorted(f.name for f in (tmp_path/'p').iterdir()) == ['README.md', 'SHA256SUMS', 'head.safetensors', 'tlcourse.json']


def test_lora_of_texts(words, tmp_path):
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer
    from safetensors.torch import load_file
    from tlcourse import hub
    from tlcourse.lora import adapt, trainable
    from tlcourse.text import load as encoder
    _, learn, _, fitted = words
    tuned = learner(learn.dls, adapt(to_head(fitted, encoder('minilm', 2)), 'lora', r=4), splitter=trainable)
    with tuned.no_bar(), tuned.no_logging(): tuned.fit(1, 1e-2)
    model = load(save(tuned, tmp_path/'m'))
    same_texts(tuned, model)
    body = PeftModel.from_pretrained(hub.pretrained(AutoModel, 'minilm'), tmp_path/'m').eval()
    head, ids = load_file(tmp_path/'m'/'head.safetensors'), hub.tokenizer('minilm')('A cup race.', return_tensors='pt')
    with torch.no_grad(): p = torch.softmax(body(**ids).last_hidden_state.mean(1)@head['weight'].T + head['bias'], 1)
    np.testing.assert_allclose(model.predict('A cup race.')[model.about['names']], p, atol=1e-5)
    assert not (tmp_path/'m'/'model.safetensors').exists() and (tmp_path/'m'/'adapter_model.safetensors').stat().st_size < 2e6
    from tlcourse.lora import merge # saved over its adapter, a merged network must not get the adapter again (findings/peft-merged-into-its-folder.sh)
    whole = learner(learn.dls, merge(tuned.model))
    same_texts(whole, load(save(whole, tmp_path/'m')))
    assert not list((tmp_path/'m').glob('adapter*')) and not hasattr(AutoModel.from_pretrained(tmp_path/'m'), 'peft_config')


def test_a_classifier_of_transformers(words, tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
    net = BertForSequenceClassification(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2)).eval()
    items = words[1].dls.valid.new(bs=1) # one text a batch: nothing is padded, so no mask is missed
    dls = words[1].dls.__class__(words[1].dls.train, items)
    model = load(save(net, tmp_path/'m', dls=dls))
    theirs, ids = AutoModelForSequenceClassification.from_pretrained(tmp_path/'m'), model.tools('A cup race.', return_tensors='pt')
    with torch.no_grad(): p = theirs(**ids).logits.softmax(1)
    np.testing.assert_allclose(model.predict('A cup race.')[model.about['names']], p, atol=1e-6)


def test_texts_in_onnx(words, tmp_path):
    root, learn, model, _ = words
    file = model.to_onnx(tmp_path/'m.onnx', ['A cup race.', 'market', 'a text of more than twelve tokens, which is cut, cut and cut again'])
    code = 'import sys; from tlcourse import deploy; print(deploy.load(sys.argv[1]).predict("A cup race.").probability.iloc[0], *{"torch", "transformers"} & set(sys.modules))'
    r = subprocess.run([sys.executable, '-c', code, file], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert abs(float(r.stdout) - model.predict('A cup race.').probability.iloc[0]) < 1e-4, r.stderr


# Sounds

def tones(k, n): return (.3*np.sin(np.arange(16_000)*(.05 + .1*k + .002*n))).astype(np.float32)


def spoken(root, **kw):
    "Recordings of two tones."
    import soundfile
    from tlcourse.speech import speech
    for k in (0, 1):
        for n in range(8):
            (f := root/'tones'/f'{"lh"[k]}'/f'{n}.wav').parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(f, tones(k, n), 16_000)
    return speech(root/'tones', seconds=.5, bs=4, **kw)


def test_sounds(tmp_path):
    pytest.importorskip('soundfile')
    from transformers import AutoModelForAudioClassification
    from tlcourse.speech import load as encoder
    dls = spoken(tmp_path)
    net = encoder(n_out=2, seconds=.5)
    fitted = probe(extract(net, dls.train, cache=False))
    learn = learner(dls, to_head(fitted, net))
    model = load(save(learn, tmp_path/'m'))
    same_texts(learn, model)
    theirs, mel = AutoModelForAudioClassification.from_pretrained(tmp_path/'m').eval(), dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    with torch.no_grad(): torch.testing.assert_close(theirs(mel).logits, net.eval()(mel), rtol=1e-5, atol=1e-5)
    same_texts(learn, load(save(fitted, tmp_path/'p', dls=dls, body='whisper_tiny_en')))
    f = tmp_path/'tones'/'h'/'0.wav'
    want = model.predict(f)[['h', 'l']].to_numpy()
    for x in (str(f), f.read_bytes(), tones(1, 0), tones(1, 0).tolist(), torch.tensor(tones(1, 0)), [f]):
        np.testing.assert_allclose(model.predict(x)[['h', 'l']], want, atol=1e-3)
    assert len(model.predict(tmp_path/'tones')) == 16
    (tmp_path/'bad.wav').write_text('x')
    (tmp_path/'empty.wav').write_text('')
    for x, said in ((tmp_path/'bad.wav', 'not audio'), (tmp_path/'empty.wav', 'empty'), (np.zeros(0, np.float32), '0 samples'), (tmp_path/'no.wav', 'no such file'), (None, 'NoneType')):
        refused(lambda: model.predict(x), said)


def test_wav2vec(tmp_path):
    pytest.importorskip('soundfile')
    from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2Model
    from tlcourse.speech import load as encoder
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=[16]*7,
                                 num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)).save_pretrained(tmp_path/'w')
    dls = spoken(tmp_path, mel=False)
    net = encoder(f'hf:{tmp_path/"w"}', n_out=2, seconds=.5)
    learn = learner(dls, net)
    model = load(save(learn, tmp_path/'m'))
    same_texts(learn, model)
    x = dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    norm = (x - x.mean(1, keepdim=True))/(x.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
    with torch.no_grad(): torch.testing.assert_close(AutoModelForAudioClassification.from_pretrained(tmp_path/'m').eval()(norm).logits, net.eval()(x), rtol=1e-4, atol=1e-5)


def test_bottleneck_of_texts(words, tmp_path):
    from tlcourse.lora import adapt, trainable
    from tlcourse.text import load as encoder
    _, learn, _, fitted = words
    tuned = learner(learn.dls, adapt(to_head(fitted, encoder('minilm', 2)), 'bottleneck'), splitter=trainable)
    with tuned.no_bar(), tuned.no_logging(): tuned.fit(1, 1e-2)
    same_texts(tuned, load(save(tuned, tmp_path/'m')))


# Heads that tag and answer

@pytest.fixture(scope='module')
def heads(tmp_path_factory):
    "A tiny tagger and a tiny finder of answers, trained, and saved."
    transformers = pytest.importorskip('transformers')
    from tlcourse import heads as G
    root = tmp_path_factory.mktemp('heads')
    known = 'mr brown said the deal would she told nord ##wind systems who what .'.split()
    (root/'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *known]), encoding='utf-8')
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(known) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
                                                   max_position_embeddings=96, initializer_range=.3)).save_pretrained(root)
    transformers.BertTokenizer(str(root/'vocab.txt'), model_max_length=96).save_pretrained(root)
    V = ['O', 'B-PER', 'I-PER', 'B-OTHER', 'I-OTHER']
    m = G.with_head(transformers.BertForTokenClassification, f'hf:{root}', id2label=dict(enumerate(V)))
    words = [['the', 'Brown', 'deal'], ['she', 'told', 'Nordwind', 'Systems']]*4
    data = G.align(words, [[None, 'B-PER', 'O'], ['O', 'O', 'B-OTHER', 'I-OTHER']]*4, m.tokenizer, V)
    tags = learner(G.loaders(data, data, bs=4), m, loss_func=G.token_loss, metrics=[])
    with tags.no_bar(), tags.no_logging(): tags.fit(30, 1e-2)
    m = G.with_head(transformers.BertForQuestionAnswering, f'hf:{root}')
    df = pd.DataFrame([dict(question='who said?', context=f'{"the deal "*n}Mr Brown said', answer='Brown', start=9*n + 3) for n in range(6)])
    enc, y = G.locate(df, m.tokenizer)
    data = enc.input_ids, enc.attention_mask, enc.token_type_ids, y
    spans = learner(G.loaders(data, data, bs=3), m, loss_func=G.span_loss, metrics=[])
    with spans.no_bar(), spans.no_logging(): spans.fit(30, 1e-2)
    return root, tags, load(save(tags, root/'tags', data='made up')), spans, load(save(spans, root/'spans')), df


def test_a_tagger(heads):
    from transformers import AutoModelForTokenClassification, AutoTokenizer
    from tlcourse import heads as G
    root, learn, model, *_ = heads
    said = model.predict(['she told Nordwind Systems.', 'the Brown deal'])
    assert said.words[0] == ['she', 'told', 'Nordwind', 'Systems', '.'] and said.names[1] == [('PER', 'Brown')] and ('OTHER', 'Nordwind Systems') in said.names[0]
    assert said.tags.tolist() == G.tag(learn.model, said.words.tolist()) and model.predict(['the', 'Brown', 'deal']).tags[0] == said.tags[1]
    theirs, tok = AutoModelForTokenClassification.from_pretrained(root/'tags').eval(), AutoTokenizer.from_pretrained(root/'tags')
    ids = tok('the brown deal', return_tensors='pt')
    with torch.no_grad(): torch.testing.assert_close(theirs(**ids).logits, learn.model.eval()(**ids).logits)
    card = (root/'tags'/'README.md').read_text(encoding='utf-8')
    assert theirs.config.id2label[1] == 'B-PER' and 'F1 of names 1.000' in card and 'Tags the words' in card and not list((root/'tags').glob('*.bin'))


def test_a_finder_of_answers(heads, tmp_path):
    from transformers import AutoModelForQuestionAnswering
    root, *_, learn, model, df = heads
    assert model.predict(df).answer.tolist() == ['Brown']*6 and model.predict(('who said?', 'Mr Brown said')).answer.tolist() == ['Brown']
    theirs = AutoModelForQuestionAnswering.from_pretrained(root/'spans').eval()
    ids = learn.model.tokenizer('who said?', 'Mr Brown said', return_tensors='pt')
    with torch.no_grad(): torch.testing.assert_close(theirs(**ids).start_logits, learn.model.eval()(**ids).start_logits)
    df.to_csv(tmp_path/'q.csv', index=False)
    assert model.predict([tmp_path/'q.csv']).answer.tolist() == ['Brown']*6 and 'answers found exactly 1.000' in (root/'spans'/'README.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('which, x, said', [(2, 7, 'no sentence'), (2, [], 'nothing'), (2, [''], 'no sentence'), (2, [['a', '']], 'no sentence'), (2, [['a', 7]], 'no sentence'),
                                            (2, Path('none.txt'), 'cannot be read'), (4, 'who?', 'no pair'), (4, [('who?', '')], 'no pair'), (4, [], 'nothing'),
                                            (4, pd.DataFrame(dict(question=['a'])), "'context'"), (4, Path('none.csv'), 'cannot be read')])
def test_what_heads_refuse(heads, which, x, said): refused(lambda: heads[which].predict(x), said)


def test_heads_refuse_more(heads, tmp_path):
    refused(lambda: heads[2].predict('a b', sure=.9), 'sure=')
    refused(lambda: save(heads[1].model, tmp_path/'m'), 'dls=')
    hook = heads[1].model.classifier.register_forward_hook(lambda m, i, o: o + torch.arange(5))
    refused(lambda: save(heads[1], tmp_path/'m'), 'answers otherwise')
    hook.remove()
    assert not list(tmp_path.iterdir())


def test_heads_at_the_command_line(heads, capsys):
    assert cli.main(['predict', heads[0]/'tags', 'the Brown deal']) == 0 and 'B-PER' in capsys.readouterr().out
    assert cli.main(['predict', heads[0]/'tags', 'the Brown deal', '--json']) == 0 and json.loads(capsys.readouterr().out)[0]['tags'] == ['O', 'B-PER', 'O']
