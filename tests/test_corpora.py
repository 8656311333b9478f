"Texts of any make to batches: labels, splits, order, and one line for each kind of bad text."
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tlcourse import assets, corpora as C
from tlcourse.corpora import Text, TextError
from tiny_texts import *

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


# ---- DataLoaders

def test_texts(tiny):
    df = sentences(60)
    dls = C.texts(df, 30, 20, bs=8, **on(tiny) | dict(max_length=12))
    x, y = dls.one_batch()
    assert x.dtype == y.dtype == torch.int64 and x.shape[0] == 8 and dls.vocab == ['cat', 'tax'] and dls.c == 2
    seen = [(row[row != 0].tolist(), dls.vocab[l]) for x,y in dls.train for row,l in zip(x, y)]
    items = dls.train_ds.items
    want = [(C.tokenizer(tiny)(o.text, truncation=True, max_length=12).input_ids, o.label) for o in items]
    assert sorted(seen) == sorted(want) and len(items) == 30 and isinstance(items[0], Text)
    assert not {o.id for o in items} & {o.id for o in dls.valid_ds.items} and len(dls.valid_ds.items) == 20
    assert 'cat' in dls.train_ds.decode(dls.train_ds[0])[0] + 'cat'

def test_batches_are_of_like_length(tiny):
    dls = C.texts(sentences(400), 300, 60, bs=8, **on(tiny))
    def waste(batches): return 1 - sum((x != 0).sum() for x in batches)/sum(x.numel() for x in batches)
    mixed = [nn.utils.rnn.pad_sequence([dls.train_ds[int(i)][0] for i in o], True) for o in torch.randperm(300).split(8)]
    first, again = [[x for x,_ in dls.train] for _ in range(2)]
    valid = [x.shape[1] for x,_ in dls.valid]
    assert waste(first) < .6*waste(mixed) and valid == sorted(valid, reverse=True)
    assert sum(map(len, first)) == 300 and len(first[-1]) == 300%8
    lengths = [x.shape[1] for x in first]
    assert lengths != sorted(lengths) and [x.tolist() for x in first] != [x.tolist() for x in again]

def test_small_training_sets_are_shuffled_too(tiny):
    "With pools of fifty batches, as in fastai, 32 texts would meet in the same batches in each epoch."
    dls = C.texts(sentences(60), 32, 10, bs=4, **on(tiny))
    def epoch(): return {frozenset(map(tuple, x.tolist())) for x,_ in dls.train}
    assert len(epoch() & epoch()) < 4

def test_order_and_split_follow_the_seed(tiny):
    def run(seed): return [x.tolist() for x,_ in C.texts(sentences(60), 30, 20, bs=8, seed=seed, **on(tiny)).train]
    assert run(1) == run(1) != run(2)

def test_splits_are_nested(tiny):
    def ids(n): dls = C.texts(sentences(60), n, 20, **on(tiny)); return [{o.id for o in ds.items} for ds in (dls.train_ds, dls.valid_ds)]
    (a, va), (b, vb) = ids(10), ids(30)
    assert a < b and va == vb and not b & vb

def test_a_corpus_that_comes_split_keeps_its_parts(tiny):
    df = sentences(80).assign(part=lambda d: np.where(np.arange(len(d)) < 50, 'train', 'test'))
    dls = C.texts(df, 10, 8, **on(tiny))
    def at(ds): return [int(o.id.split('/')[1]) for o in ds.items]
    assert max(at(dls.train_ds)) < 50 <= min(at(dls.valid_ds)) and set(at(C.texts(df, 20, 8, **on(tiny)).train_ds)) > set(at(dls.train_ds))
    whole = C.texts(df, **on(tiny))
    assert len(whole.train_ds) == 50 and len(whole.valid_ds) == len(df) - 50
    for n in (0, 51): fails(lambda: C.texts(df, n, **on(tiny)), f'n_train={n}', '1 to 50')
    fails(lambda: C.texts(df, 9, 99, **on(tiny)), 'n_valid=99', 'that part has')

def test_new_texts(tiny):
    dls = C.texts(sentences(), 20, 10, **on(tiny))
    x, = next(iter(dls.test_dl(['the cat', 'a very good game of ball s', ''])))
    assert [o[o != 0].tolist() for o in x] == C.tokenizer(tiny)(['the cat', 'a very good game of ball s', '']).input_ids

def test_texts_refuses(tiny):
    df = sentences()
    fails(lambda: C.texts(df, 5000, **on(tiny)), 'texts', 'n_train')
    fails(lambda: C.texts(df, 1, **on(tiny)), 'n_train=1')
    for n in (2, 21): fails(lambda: C.texts(df, **on(tiny) | dict(max_length=n)), f'max_length={n}', '3 to 20')
    fails(lambda: C.texts(df, encoder='nobody'), "'minilm' or 'hf:")


# ---- reading

def write(path, s, encoding='utf-8'):
    path.write_bytes(s if isinstance(s, bytes) else s.encode(encoding))
    return str(path)

def test_csv(tmp_path, tiny):
    s = 'id,review,stars\n1,"good, very good\nfilm",5\n2,bad film,1\n3,NA,1\n4,"שלום \U0001F600 عليكم",5\n5,bad film,1\n'
    df = C.read(write(tmp_path/'a.csv', s), text='review', label='stars')
    assert df.text.tolist() == ['good, very good\nfilm', 'bad film', 'NA', 'שלום \U0001F600 عليكم'] and df.label.tolist() == ['5', '1', '1', '5']
    assert C.read(write(tmp_path/'b.csv', 'label;text\nx;u\ny;v\n', 'utf-16'), sep=';', encoding='utf-16').text.tolist() == ['u', 'v']
    assert C.read(write(tmp_path/'c.tsv', '\ufefflabel\ttext\nx\tu\ny\tv\n')).label.tolist() == ['x', 'y']
    assert 'part' not in C.read(write(tmp_path/'d.csv', 'label,text,part\nx,u,1\ny,v,2\n'))
    assert C.read(write(tmp_path/'e.csv', 'label,text,part\nx,u,train\ny,v,test\n')).part.tolist() == ['train', 'test']
    dls = C.texts(str(tmp_path/'a.csv'), 2, 2, text='review', label='stars', **on(tiny))
    assert dls.vocab == ['1', '5'] and dls.one_batch()[0].shape[0] == 2

def test_long_and_strange_texts(tiny):
    df = pd.DataFrame(dict(text=['cat '*25_000, 'x'*100_000, '\U0001F600', 'שלום', '\x00\x01', 'dog'], label=list('ababab')))
    dls = C.texts(df, 2, 4, **on(tiny) | dict(max_length=8))
    m = T.load(tiny, 2)
    for x,y in dls.valid: assert x.shape[1] <= 8 and torch.isfinite(m(x)).all()

def test_bad_csv(tmp_path):
    read = lambda s, **kw: lambda: C.read(write(tmp_path/'a.csv', s), **kw)
    fails(lambda: C.read(tmp_path/'none.csv'), 'no such file', 'newsgroups')
    fails(lambda: C.read('bcc'), 'no such file', 'bbc')
    fails(read(''), 'empty')
    fails(read('text,label\n'), 'no rows')
    fails(read('text;label\nu;x\nv;y\n'), "no column 'text'", 'sep=')
    fails(read('body,label\nu,x\nv,y\n'), "'body'", 'text=')
    fails(read('text,topic\nu,x\nv,y\n'), "no column 'label'", 'label=')
    fails(read('text,label\ncafé,x\nv,y\n'.encode('cp1252')), 'not utf-8', "encoding='cp1252'")
    fails(read('text,label\ncafé,x\nv,y\n'.encode('utf-16')), 'not utf-8', 'utf-16')
    fails(read('text,label\nu,x\n', encoding='klingon'), 'klingon', 'utf-8')
    fails(read('text,label\nu,x\n ,y\nw,y\n,x\n'), '2 of 4 rows have no text', 'row 1, 3')
    fails(read('text,label\nu,x\nv,\n'), '1 of 2 rows have no label', 'row 1')
    fails(read('text,label\nu,x\nv,x\n'), "'x'", 'nothing to tell apart')
    fails(read('text,label\nu,x\nv,x,y,z\n'), 'no regular csv', 'quotes')
    fails(lambda: C.read(tmp_path), 'class')

def test_bad_tables(tiny):
    fails(lambda: C.texts(pd.DataFrame(dict(text=['u', None], label=['x', 'y'])), **on(tiny)), '1 of 2 rows have no text')
    fails(lambda: C.texts(pd.DataFrame(dict(text=['u', 'v\ud800w', 'z', 'q'], label=list('xyxy')), dtype=object), **on(tiny)), 'Unicode')
    fails(lambda: C.texts(pd.DataFrame(dict(texts=['u', 'v'], label=['x', 'y'])), **on(tiny)), "no column 'text'")

@pytest.mark.parametrize('name,n,c', [('bbc', 2127, 5), ('newsgroups', 18787, 20), ('reuters', 7595, 8), ('reuters52', 8997, 52)])
def test_corpora(name, n, c):
    try: df = C.read(name)
    except assets.AssetError as e: pytest.skip(str(e))
    assert df.shape[0] == n and df.label.nunique() == c and not df.text.duplicated().any() and ('part' in df) == (name != 'bbc')
