"What `tlcourse.data` promises of its splits, batches, pickles and downloads."
import gzip, io, pickle, random, subprocess, sys, tarfile, threading
from collections import Counter
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.all import URLs
from PIL import Image

import tlcourse.data as D
from tlcourse.assets import AssetError
from tlcourse.data import DataError, card, datasets, images, split

SIZES = dict(animals=[937,812,992,996,997,1000,1000,997,985,1000], textile=[1000,500,500], digits=[178,182,177,183,181,182,181,179,174,180],
             rare=[400,37,5,2], pairs=[2]*7)


def one_line(e): return '\n' not in str(e.value) and len(str(e.value)) < 600


# ---- splits

@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('seed', [0,1,2])
def test_split(name, seed):
    "Disjoint, nested, one validation set a seed, every class on both sides, in proportion."
    y = np.random.default_rng(9).permutation(np.repeat(np.arange(len(SIZES[name])), SIZES[name]))
    n, c = len(y), len(SIZES[name])
    n_valid = max(c, n//5)
    last, first_valid = set(), None
    for n_train in np.unique(np.linspace(c, n-n_valid, 25).astype(int)):
        train, valid = split(y, int(n_train), n_valid, seed)
        assert len(set(train)) == len(train) == n_train and len(set(valid)) == len(valid) == n_valid
        assert not set(train) & set(valid) and last <= set(train)
        assert first_valid is None or np.array_equal(valid, first_valid)
        last, first_valid = set(train), valid
        for part in (train, valid):
            count = np.bincount(y[part], minlength=c)
            assert count.min() >= 1
            if name != 'rare': assert np.abs(count - np.array(SIZES[name])*len(part)/n).max() <= 1
    assert set(split(y, None, n_valid, seed)[0]) == set(range(n)) - set(first_valid)


def test_split_remainder_by_seed():
    "Which classes get one more than the others is drawn, not always the first ones."
    y = np.repeat(np.arange(10), 50)
    extra = [frozenset(np.flatnonzero(np.bincount(y[split(y, 23, 100, s)[0]]) == 3)) for s in range(40)]
    assert all(len(o) == 3 for o in extra) and len(set(extra)) > 20


def test_split_shuffles_inside_classes():
    y = np.repeat([0,1], 500)
    a, b = (split(y, 100, 100, s)[0] for s in (0,1))
    assert len(set(a) & set(b)) < 40 and np.median(a[y[a]==0]) > 100


def test_split_same_in_another_process():
    code = "import numpy as np; from tlcourse.data import split; print(*map(list, split(np.arange(60)%7, 20, 14, 5)))"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ' '.join(map(str, map(list, split(np.arange(60)%7, 20, 14, 5)))).split()


@pytest.mark.parametrize('args,says', [((1797,), 'at most n_train=1438'), ((9,), 'at least 10'), ((50,5), 'n_valid=5 is less'), ((1000,1000), 'n_train=797'),
                                       ((-1,), 'at least 10'), ((20,0), 'n_valid=0')])
def test_sizes_that_cannot_be(args, says):
    with pytest.raises(DataError, match=says) as e: images('digits', *args)
    assert one_line(e)


def test_shares():
    dls = images('digits', valid=.3, test=.2, size=16)
    assert [len(o) for o in (dls.train_ds, dls.valid_ds, dls.test.dataset)] == [899, 539, 359]
    ids = [o.id for ds in (dls.train_ds, dls.valid_ds, dls.test.dataset) for o in ds.items]
    assert len(set(ids)) == 1797 and [o.id for o in dls.test.dataset.items] == sorted(o.id for o in dls.test.dataset.items)
    with pytest.raises(DataError, match='say the same in two ways') as e: images('digits', n_valid=100, valid=.3)
    assert one_line(e)


# ---- loaders

def test_images_are_what_the_backbone_expects():
    dls = images('digits', 100, 100, size=64, bs=32)
    x, y = dls.valid.one_batch()
    raw = dls.valid_ds.items[0].source
    want = np.asarray(Image.fromarray(raw).resize((64,64), Image.BICUBIC)).astype(np.float32)
    assert x.shape == (32,3,64,64) and x.dtype == torch.float32 and y.dtype == torch.int64
    torch.testing.assert_close(torch.as_tensor(x[0,2]), torch.tensor((want-127)/128), atol=1e-5, rtol=0)
    assert dls.vocab[y[0]] == dls.valid_ds.items[0].label
    assert dls.valid_ds[0][0].dtype == torch.uint8


def test_shrinking_is_antialiased():
    "A fine checkerboard becomes gray, rather than black or white."
    board = (np.indices((512,512)).sum(0) % 2 * 255).astype(np.uint8)
    dls = images('digits', 20, 20, size=64)
    px = dls.train_ds.tls[0].tfms(board)
    assert 120 < px[:,8:-8,8:-8].min() and px[:,8:-8,8:-8].max() < 135


def test_no_label_is_lost_to_a_last_batch():
    dls = images('digits', 100, 100, bs=64)
    assert sum(len(y) for _,y in dls.train) == 100 == sum(len(y) for _,y in dls.valid)
    assert [len(y) for _,y in images('digits', 65, 100, bs=64).train] == [64]  # a batch of one would break batch normalization
    assert len(images('digits', 10, 10, bs=64).train) == 1


def epochs(seed): return [[y.tolist() for _,y in dl] for dl in [images('digits', 150, 50, bs=32, seed=seed).train] for _ in range(2)]

def test_order_is_the_seeds():
    random.seed(1); torch.manual_seed(1); np.random.seed(1)
    a = epochs(4)
    random.seed(2); torch.manual_seed(2); np.random.seed(2)
    assert a == epochs(4) and a[0] != a[1] and a != epochs(5)


def test_pictures_are_decoded_once(monkeypatch):
    calls, real = [], D._read
    monkeypatch.setattr(D, '_read', lambda *a: calls.append(1) or real(*a))
    dls = images('digits', 50, 50)
    for _ in range(3): list(dls.train)
    assert len(calls) <= 51  # one more, for the type of an item
    pixels = dls.train_ds.tls[0].tfms.pixels
    pixels.kept, pixels.bytes, pixels.keep = {}, 0, 96*96*10
    list(dls.train)
    assert len(pixels.kept) == 10 and pixels.bytes == 96*96*10


def test_plain_fastai(tmp_path):
    "It shows, trains, predicts on whatever a picture may be, exports small and is loaded again."
    import fastai.callback.progress  # gives a learner `no_bar`
    from fastai.learner import Learner, load_learner
    import matplotlib.pyplot as plt
    dls = images('digits', 40, 40, size=16, device='cpu')
    item = dls.valid_ds.items[0]
    png = tmp_path/'a b.png'
    Image.fromarray(item.source).save(png)
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16*16*3, dls.c)), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    with learn.no_bar():
        ps = [learn.predict(o)[2] for o in (item, item.source, Image.fromarray(item.source), Image.fromarray(item.source).convert('RGB'), png, str(png), png.read_bytes())]
        learn.export()
        ps.append(load_learner(tmp_path/'export.pkl').predict(png)[2])
    for p in ps[1:]: torch.testing.assert_close(p, ps[0])
    assert (tmp_path/'export.pkl').stat().st_size < 300_000
    dls.show_batch(max_n=4)
    assert [ax.get_title() for ax in plt.gcf().axes][0] in dls.vocab
    plt.close('all')
    with pytest.raises(DataError, match='No such file') as e: dls.test_dl([tmp_path/'none.png']).one_batch()
    assert one_line(e)


def test_item_transforms_get_whole_pictures():
    from fastai.vision.augment import RandomResizedCrop, aug_transforms
    seen = []
    def look(x:Image.Image): seen.append(x.size); return x
    dls = images('digits', 40, 40, size=32, item_tfms=look, batch_tfms=aug_transforms())
    assert dls.one_batch()[0].shape == (40,3,32,32) and set(seen) == {(8,8)}
    crop = images('digits', 40, 40, size=32, item_tfms=RandomResizedCrop(32, min_scale=.3))
    i = crop.train_ds[0]
    a, b = (crop.train.after_item(i)[0] for _ in range(2))
    assert a.shape == (3,32,32) and not torch.equal(a, b)
    x = [crop.valid.one_batch()[0] for _ in range(2)]
    assert torch.equal(*x)


def test_workers(): assert sum(len(y) for _,y in images('digits', 40, 40, num_workers=1).valid) == 40


# ---- the table and the cards

def test_texts_and_speech_are_reached_from_here():
    text, speech = pytest.importorskip('tlcourse.text'), pytest.importorskip('tlcourse.speech')
    assert D.texts is text.texts and D.speech is speech.speech
    for c in (card(o) for o in D._cards if card(o).of == 'texts'):
        df = text.read(c.name)
        assert (len(df), df.label.nunique(), f'{df.text.str.split().str.len().median():.0f} words') == (c.items, c.classes, c.original)
    with pytest.raises(DataError, match='it holds texts') as e: images('reuters')
    assert one_line(e)
    with pytest.raises(AttributeError): D.textes


def test_cards_and_table():
    t = datasets()
    assert list(t.index) == list(D._cards) and set(t.index[t['of'] == 'pictures']) == set(D._readers) and set(t['where']) == {'bundled', 'online'}
    for name in t.index:
        c = card(name)
        assert c.not_for and c.citation and c.licence and 'Not good for' in repr(c) and f'**{name}**' in c._repr_markdown_()
    with pytest.raises(DataError, match='did you mean textile') as e: images('textiles')
    assert one_line(e)


# ---- pickles

def fake_animals(path, x=None, y=None, protocol=4):
    x = np.random.default_rng(0).integers(0, 256, (60,28,28), dtype=np.uint8) if x is None else x
    y = np.arange(len(x)) % 10 if y is None else y
    for k,v in dict(images=x, labels=y).items(): (path/f'{k}.gz').write_bytes(gzip.compress(v if isinstance(v, bytes) else pickle.dumps(v, protocol)))
    return path


@pytest.fixture
def animals(tmp_path, monkeypatch):
    "A stand-in for the asset's folder."
    monkeypatch.setattr(D, 'fetch', lambda name: tmp_path)
    D._pictures.cache_clear()
    yield tmp_path
    D._pictures.cache_clear()


@pytest.mark.parametrize('protocol', range(3, 6))
def test_arrays_of_any_protocol(animals, protocol):
    fake_animals(animals, protocol=protocol)
    dls = images('animals', 20, 20)
    assert len(dls.train_ds) == 20 and dls.vocab == 'bear bird cat cow dog elephant giraffe horse sheep zebra'.split()


@pytest.mark.parametrize('old,new', [(b'numpy._core', b'numpy.core'), (b'numpy.core', b'numpy._core')])
def test_arrays_of_any_numpy(animals, old, new):
    "numpy 1 wrote numpy.core, numpy 2 writes numpy._core; protocol 3 names modules in lines of text."
    fake_animals(animals)
    for f in animals.glob('*.gz'): f.write_bytes(gzip.compress(pickle.dumps(D._array(f, np.integer, (None,)*(3 if 'im' in f.name else 1), 255), 3).replace(old, new)))
    assert len(images('animals', 20, 20).valid_ds) == 20


def test_copies_are_left_out(animals):
    x = np.random.default_rng(0).integers(0, 256, (60,28,28), dtype=np.uint8)
    x[50:] = x[:10]
    fake_animals(animals, x)
    dls = images('animals')
    ids = [o.id for o in [*dls.train_ds.items, *dls.valid_ds.items]]
    assert len(ids) == 50 and max(ids) == 'animals/00049'


class Touch:
    "Pickles to a call that would make a file."
    def __init__(self, path, how): self.path,self.how = path,how
    def __reduce__(self):
        if self.how == 'exec': return exec, (f"open({str(self.path)!r}, 'w')",)
        if self.how == 'open': return io.open, (str(self.path), 'w')
        if self.how == 'getattr': return getattr, (np.ndarray, 'tofile')
        import os
        return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('how', ['exec', 'open', 'system', 'getattr'])
@pytest.mark.parametrize('wrap', [lambda o: o, lambda o: np.array([o, None], dtype=object), lambda o: [np.zeros((2,28,28), np.uint8), o]])
@pytest.mark.parametrize('file', ['images', 'labels'])
def test_malicious_pickle(animals, how, wrap, file):
    "A pickle that would run code is refused before it runs."
    fake_animals(animals)
    mark = animals/'touched'
    raw = pickle.dumps(wrap(Touch(mark, how)))
    (animals/f'{file}.gz').write_bytes(gzip.compress(raw))
    with pytest.raises(DataError, match='which is no array') as e: images('animals', 20, 20)
    assert one_line(e) and not mark.exists()
    if how in ('exec', 'open'):  # the pickle does bite
        pickle.loads(raw)
        assert mark.exists()


def test_bounded_decompression(animals):
    fake_animals(animals)
    (animals/'images.gz').write_bytes(gzip.compress(b'\0'*(1<<27)))
    with pytest.raises(DataError, match='unpacks to more than 64 MB') as e: images('animals')
    assert one_line(e)


@pytest.mark.parametrize('x,y', [
    (b'', None), (b'no pickle', None), (pickle.dumps('text'), None), (np.zeros((5,28,28), np.float32), None), (np.zeros((5,28,27), np.uint8), None),
    (np.zeros((0,28,28), np.uint8), None), (np.zeros((5,784), np.uint8), None), (None, np.arange(59)%10), (None, np.arange(60)), (None, np.full(60, -1)),
    (None, np.arange(60)/10), (None, np.array(['a']*60)), (np.array([None]*5), None), (pickle.dumps(np.zeros((60,28,28), np.uint8))[:-500], None)])
def test_not_the_arrays(animals, x, y):
    fake_animals(animals, x, np.arange(60)%10 if y is None else y)
    with pytest.raises(DataError, match='delete its folder and fetch it again') as e: images('animals')
    assert one_line(e)


def test_not_gzip(animals):
    fake_animals(animals)
    (animals/'labels.gz').write_bytes(b'\x1f\x8b'+bytes(40))
    with pytest.raises(DataError, match='labels.gz was not read') as e: images('animals')
    assert one_line(e)


def test_not_the_table(animals):
    for text in ('1,2,3\n', ','.join(['300']*785)+'\n', 'a'*40, ''):
        (animals/'mnist_5k.csv.gz').write_bytes(gzip.compress(text.encode()))
        with pytest.raises(DataError, match='was not read') as e: images('mnist5k')
        assert one_line(e)


# ---- online sets, from a server on this machine

def jpg(color):
    b = io.BytesIO()
    Image.new('RGB', (40,30), color).save(b, 'JPEG')
    return b.getvalue()

PIC = [jpg((i*8, 255-i*8, 100)) for i in range(30)]
LAYOUT = dict(
    pets={f'oxford-iiit-pet/images/{c}_{i}.jpg': PIC[i] for c in ('Abyssinian', 'great_pyrenees', 'pug') for i in range(10)} | {'oxford-iiit-pet/annotations/list.txt': b'x'},
    imagenette={f'imagenette2-160/{p}/{c}/{c}_{i}.JPEG': PIC[i] for p,k in dict(train=7, val=3).items() for c in ('n03888257', 'n01440764') for i in range(k)},
    flowers={f'oxford-102-flowers/jpg/image_{i:05}.jpg': PIC[i] for i in range(30)} | {
        f'oxford-102-flowers/{k}.txt': ''.join(f'jpg/image_{i:05}.jpg {10-i%3}\n' for i in r).encode() for k,r in dict(train=range(9), valid=range(9,15), test=range(15,30)).items()})
VOCAB = dict(pets=['Abyssinian', 'great_pyrenees', 'pug'], imagenette=['tench', 'parachute'], flowers=['8','9','10'])


def tgz(path, files, *extra):
    with tarfile.open(path, 'w:gz') as t:
        for k,v in files.items():
            info = tarfile.TarInfo(k); info.size = len(v)
            t.addfile(info, io.BytesIO(v))
        for info in extra: t.addfile(info, io.BytesIO(b'x'*info.size))


@pytest.fixture
def server(home, tmp_path, monkeypatch):
    "A web server for the folder it gives; the three sets are looked for there."
    class Quiet(SimpleHTTPRequestHandler):
        gets = []
        def log_message(self, *args): self.gets.append(self.path)
    root = tmp_path/'www'
    root.mkdir()
    http = HTTPServer(('127.0.0.1', 0), partial(Quiet, directory=root))
    threading.Thread(target=http.serve_forever, args=(.02,), daemon=True).start()
    for k in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(k, raising=False)
    for name,attr in D._urls.items(): monkeypatch.setattr(URLs, attr, f'http://127.0.0.1:{http.server_port}/{next(iter(LAYOUT[name])).split("/")[0]}.tgz')
    D._pictures.cache_clear()
    yield root, Quiet.gets
    http.shutdown(); http.server_close()
    D._pictures.cache_clear()


@pytest.mark.parametrize('name', LAYOUT)
def test_online(name, server, home, monkeypatch):
    "The same call; from the network once, then from the cache, also offline."
    root, gets = server
    tgz(root/f'{getattr(URLs, D._urls[name]).rsplit("/")[-1]}', LAYOUT[name])
    for _ in range(2):
        dls = images(name, 9, 6, size=32)
        D._pictures.cache_clear()
        monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    assert len(gets) == 1 and dls.vocab == VOCAB[name] and dls.one_batch()[0].shape == (9,3,32,32)
    assert all(o.source.is_relative_to(home/'online'/name) and o.id.startswith(f'{name}/') and '\\' not in o.id for o in dls.train_ds.items)
    assert sorted(o.name for o in (home/'online').iterdir() if o.is_dir()) == [name]


def fails(name, says, home):
    with pytest.raises(DataError, match=says) as e: images(name)
    assert one_line(e) and str(e.value).startswith(f'{name}: ')
    assert not [o for o in (home/'online').glob('*') if o.is_dir()]  # nothing half-made


def test_offline(home, monkeypatch):
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    fails('pets', 'TLCOURSE_OFFLINE forbids.*use a bundled set: animals', home)


def test_server_without_the_file(server, home): fails('pets', 'answered 404.*check the network, or use a bundled set', home)

def test_no_server(home, monkeypatch):
    for k in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setattr(URLs, 'PETS', 'http://127.0.0.1:9/oxford-iiit-pet.tgz')
    fails('pets', 'download failed.*use a bundled set', home)


@pytest.mark.parametrize('data', [b'', b'<html>', gzip.compress(b'x'*9999)], ids=['empty', 'html', 'gzip'])
def test_not_an_archive(server, home, data):
    (server[0]/'oxford-iiit-pet.tgz').write_bytes(data)
    fails('pets', 'use a bundled set', home)


def test_truncated_archive(server, home):
    f = server[0]/'oxford-iiit-pet.tgz'
    tgz(f, LAYOUT['pets'])
    f.write_bytes(f.read_bytes()[:-900])
    fails('pets', 'use a bundled set', home)


def entry(name, **kw):
    info = tarfile.TarInfo(name)
    for k,v in kw.items(): setattr(info, k, v)
    return info

@pytest.mark.parametrize('bad', [
    [entry('../../escaped', size=1)], [entry('oxford-iiit-pet/../../../../escaped', size=1)],
    [entry('oxford-iiit-pet/out', type=tarfile.SYMTYPE, linkname='../../../..'), entry('oxford-iiit-pet/out/escaped', size=1)],
    [entry('oxford-iiit-pet/link', type=tarfile.SYMTYPE, linkname='/etc/passwd')], [entry('oxford-iiit-pet/hard', type=tarfile.LNKTYPE, linkname='../../escaped')],
    [entry('oxford-iiit-pet/fifo', type=tarfile.FIFOTYPE)], [entry('oxford-iiit-pet/dev', type=tarfile.CHRTYPE)]])
def test_archive_that_leaves_its_folder(server, home, tmp_path, bad):
    tgz(server[0]/'oxford-iiit-pet.tgz', LAYOUT['pets'], *bad)
    before = tarfile.TarFile.__dict__.get('extraction_filter')
    fails('pets', 'the archive was refused', home)
    assert not list(tmp_path.rglob('escaped')) and tarfile.TarFile.__dict__.get('extraction_filter') is before


def test_another_layout(server, home):
    tgz(server[0]/'oxford-iiit-pet.tgz', {'oxford-iiit-pet/readme.txt': b'x', 'oxford-iiit-pet/other.txt': b'y'})
    with pytest.raises(DataError, match='does not hold this data set') as e: images('pets')
    assert one_line(e)


def test_a_picture_that_a_string_names_is_read_again_when_it_changes(tmp_path):
    from tlcourse.data import Fit, Picture, Pixels
    read, item = Pixels(Fit(8, Image.Resampling.BILINEAR)), Picture('a', 'cat', str(tmp_path/'a.png'))
    for shade in (0, 200):
        Image.new('RGB', (8, 8 + shade), (shade,)*3).save(tmp_path/'a.png') # another size of file, whatever the clock
        assert read.load(item).float().mean() == shade


# ---- domains

def test_printed_digits():
    items = D._set('printed')
    x, y = np.stack([o.source for o in items]), np.array([o.label for o in items])
    assert x.shape == (2100, 28, 28) and x.dtype == np.uint8 and (np.unique(y, return_counts=True)[1] == 210).all()
    assert x.max((1, 2)).min() > 150 and x[:, [0, -1]].max() == 0                      # something is drawn, inside the frame
    mean = np.stack([x[y == d].reshape(210, -1).mean(0) for d in sorted(set(y))])
    assert (np.corrcoef(mean) - np.eye(10)).max() < .95                               # no font stands for others with a box
    for f in range(21): assert len({x[d*210 + f*10].tobytes() for d in range(10)}) == 10
    assert D._printed(None)[7].source.tobytes() == x[7].tobytes()


def test_solar_cells_as_published():
    for kind,counts in dict(mono=(705, 369), poly=(1098, 452)).items():
        items = D._set(f'elpv_{kind}')
        assert tuple(sum(o.label == c for o in items) for c in ('functional', 'defective')) == counts and card(f'elpv_{kind}').items == len(items)
        assert Image.open(items[0].source).size == (300, 300) and 'NC' in card(f'elpv_{kind}').licence
    assert not {o.id.split('/')[1] for o in D._set('elpv_mono')} & {o.id.split('/')[1] for o in D._set('elpv_poly')}
    dls = images('elpv_mono', 20, 20, size=32)
    assert dls.one_batch()[0].shape == (20, 3, 32, 32) and set(dls.vocab) == {'functional', 'defective'}


def test_icons():
    "Each name by three hands or four, each drawn whole in its square."
    try: items = images('icons', 300, 300, size=64).train_ds.items
    except AssetError as e: pytest.skip(str(e))
    from tlcourse.data import _set
    every = _set('icons')
    assert len(every) == 697 and len({o.label for o in every}) == 206 and {o.id.split('/')[1] for o in every} == {'material', 'phosphor', 'remix', 'awesome'}
    assert min(Counter(o.label for o in every).values()) == 3 and len({o.source.tobytes() for o in every}) == 697
    for o in every: assert o.source.shape == (64, 64) and .02 < o.source.mean()/255 < .9 and not o.source[[0, -1]].any() and not o.source[:, [0, -1]].any(), o.id
    heart = next(o for o in every if o.id == 'icons/material/heart').source # is a heart: mirrored in itself, wide above, a point below
    assert (abs(heart.astype(int) - heart[:, ::-1]).mean() < 6) and (heart[20] > 128).sum() > 3*(heart[50] > 128).sum() and len(items) == 300
