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
    fails(lambda: C.texts(df, encoder='nobody'), "'minilm', 'e5' or 'hf:")

def test_other_languages_and_reviews():
    df = C.read('slovene')
    assert df.label.value_counts().to_dict() == dict(sport=829, business=590, other=213, politics=108) and df.text.str.contains('[čšž]').mean() > .4
    assert set(C.read('slovene', label='sentiment').label.value_counts()) == {580}
    df = C.read('tomatoes')
    assert df.label.value_counts().to_dict() == dict(fresh=7368, rotten=5384) and df.text.is_unique
    dls = C.texts('tomatoes', 20, 20, groups='film')
    assert len(dls.train_ds) == len(dls.valid_ds) == 20


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

@pytest.mark.parametrize('name,n,c', [('bbc', 2127, 5), ('newsgroups', 18787, 20), ('reuters', 7595, 8), ('reuters52', 8997, 52), ('tomatoes', 12752, 2), ('imdb', 200, 2)])
def test_corpora(name, n, c):
    try: df = C.read(name)
    except assets.AssetError as e: pytest.skip(str(e))
    assert df.shape[0] == n and df.label.nunique() == c and not df.text.duplicated().any() and ('part' in df) == (name not in ('bbc', 'tomatoes', 'imdb'))


# ---- own data of every shape

TEXTS20 = [f'text number {i} about ' + ('cats' if i%2 else 'ships') for i in range(20)]

def small(**columns): return pd.DataFrame(dict(text=TEXTS20) | columns)

def labels_of(dls):
    "Each text with its target, as the items give them, training and validation alike."
    return {o.text: y for ds in (dls.train_ds, dls.valid_ds) for o,(_,y) in zip(ds.items, ds)}

KIND_OF_LABELS = dict(strings=(['no', 'yes']*10, ['no', 'yes']), ints=([0, 1]*10, ['0', '1']), bools=([False, True]*10, ['False', 'True']), floats=([0., 1.]*10, ['0', '1']),
    Int64=(pd.array([0, 1]*10, dtype='Int64'), ['0', '1']), boolean=(pd.array([False, True]*10, dtype='boolean'), ['False', 'True']),
    category=(pd.Categorical(['b', 'a']*10), ['a', 'b']), ints_as_category=(pd.Categorical([2, 10]*10), ['2', '10']), numpy=(np.array(['x', 'y']*10), ['x', 'y']),
    string=(pd.array(['NA', 'None']*10, dtype='string'), ['NA', 'None']), many=([i%12 for i in range(20)], [str(i) for i in range(12)]))

@pytest.mark.parametrize('kind', KIND_OF_LABELS)
def test_labels_of_any_type_are_classes(tiny, kind):
    labels, vocab = KIND_OF_LABELS[kind]
    many = kind == 'many'
    dls = C.texts(pd.concat([small(label=labels), small(label=labels).assign(text=lambda d: d.text + ' s')]) if many else small(label=labels), bs=4, **on(tiny))
    assert list(dls.vocab) == vocab and dls.c == len(vocab) and dls.one_batch()[1].dtype == torch.int64
    for text,y in labels_of(dls).items(): assert dls.vocab[y] == str(labels[int(text.split()[2])])[:9].removesuffix('.0')

@pytest.mark.parametrize('gap', [None, float('nan'), np.nan, pd.NaT, pd.NA, '', '  '], ids=repr)
def test_only_gaps_are_no_label(gap):
    fails(lambda: C.read(small(label=pd.Series(['no', 'yes']*9 + ['no', gap], dtype=object))), '1 of 20 rows have no label', 'row 19')
    fails(lambda: C.read([(t, gap if i == 3 else 'a') for i,t in enumerate(TEXTS20)]), 'row 3')
    fails(lambda: C.read(small(label=pd.array([0, 1]*9 + [0, None], dtype='Int64'))), 'row 19')
    fails(lambda: C.read(small(label=[.5]*19 + [float('nan')])), 'row 19')

def test_numbers_with_a_fraction_are_targets_of_a_regression(tiny):
    y = [i/8 for i in range(20)]
    for df, more in ((small(label=y), {}), (small(label=pd.array(y, dtype='Float64')), {}), (small(label=[10*i for i in range(20)]), dict(target='numbers'))):
        dls = C.texts(df, bs=4, **more, **on(tiny))
        assert dls.c == 1 and dls.one_batch()[1].dtype == torch.float32 and type(dls.loss_func).__name__ == 'BaseLoss' and type(dls.loss_func.func).__name__ == 'MSELoss'
        for text,v in labels_of(dls).items(): assert float(v) == df.label[int(text.split()[2])]
    assert C.texts(small(label=[float(i%3) for i in range(20)]), 10, 5, **on(tiny)).c == 3
    fails(lambda: C.texts(small(label=['high', 'low']*10), target='numbers', **on(tiny)), 'not all numbers')
    fails(lambda: C.texts(small(label=['high', 'low']*10), target='number', **on(tiny)), "'numbers'")
    fails(lambda: C.texts(small(label=[.5]*20), **on(tiny)), 'nothing to tell apart')

def test_several_numbers_a_text(tiny):
    df = small(joy=[i/20 for i in range(20)], fear=[1 - i/40 for i in range(20)])
    for data, label in ((df, ['joy', 'fear']), (small(label=df[['joy', 'fear']].values.tolist()), 'label')):
        dls = C.texts(data, label=label, bs=4, **on(tiny))
        assert dls.c == 2 and dls.one_batch()[1].shape == (4, 2)
        for text,v in labels_of(dls).items(): np.testing.assert_allclose(v, df[['joy', 'fear']].iloc[int(text.split()[2])], atol=1e-7)
    fails(lambda: C.texts(df.assign(fear=[None, *df.fear[1:]]), label=['joy', 'fear'], **on(tiny)), '1 of 20', 'label', 'row 0')

SETS = [[], ['a'], ['b'], ['a', 'c'], ['c', 'b', 'a']]*4

@pytest.mark.parametrize('form', ['lists', 'tuples', 'sets', 'arrays', 'delimited', 'columns', 'csv', 'hugging face'])
def test_several_labels_a_text(tiny, tmp_path, form):
    "The oracle is scikit-learn's MultiLabelBinarizer."
    from sklearn.preprocessing import MultiLabelBinarizer
    want, more = MultiLabelBinarizer(classes=['a', 'b', 'c']).fit_transform(SETS), {}
    if form in ('lists', 'tuples', 'sets', 'arrays'): df = small(label=[dict(lists=list, tuples=tuple, sets=set, arrays=np.array)[form](o) for o in SETS])
    elif form == 'delimited': df, more = small(label=[' | '.join(o) for o in SETS]), dict(label_delim='|')
    elif form == 'hugging face':
        hf = pytest.importorskip('datasets')
        df = hf.Dataset.from_dict(dict(text=TEXTS20, label=[['abc'.index(v) for v in o] for o in SETS]),
                                  features=hf.Features(dict(text=hf.Value('string'), label=hf.Sequence(hf.ClassLabel(names=list('abc'))))))
    else: df, more = small(**{k: want[:, i] for i,k in enumerate('abc')}), dict(label=list('abc'))
    if form == 'csv':
        df.to_csv(tmp_path/'a.csv', index=False)
        df = str(tmp_path/'a.csv')
    dls = C.texts(df, bs=4, **more, **on(tiny))
    assert list(dls.vocab) == ['a', 'b', 'c'] and dls.c == 3 and 'BCEWithLogits' in type(dls.loss_func).__name__
    for text,y in labels_of(dls).items(): assert y.tolist() == want[int(text.split()[2])].tolist() and y.dtype == torch.float32

def test_numbers_in_a_csv(tiny, tmp_path):
    small(label=[i/8 for i in range(20)]).to_csv(tmp_path/'a.csv', index=False)
    assert C.texts(tmp_path/'a.csv', bs=4, **on(tiny)).c == 1 and C.read(tmp_path/'a.csv').label.dtype == float
    assert C.read(tmp_path/'a.csv', target='classes').label[1] == '0.125'
    small(label=['007', '7']*10).to_csv(tmp_path/'b.csv', index=False)
    assert C.texts(tmp_path/'b.csv', bs=4, **on(tiny)).vocab == ['007', '7']

def test_a_learner_takes_the_loss_of_the_data(tiny):
    from tlcourse.learners import learner
    for df, c in ((small(label=[i/8 for i in range(20)]), 1), (small(label=SETS), 3)):
        dls = C.texts(df, bs=4, **on(tiny))
        learn = learner(dls, T.load(tiny, dls.c))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        assert learn.loss_func is dls.loss_func and np.isfinite(learn.recorder.losses[-1]) and c == dls.c


# ---- tables of any make

def parts_of(dls): return tuple(sorted(o.text for o in ds.items) for ds in (dls.train_ds, dls.valid_ds, *([dls.test.dataset] if dls.test else [])))

def test_hugging_face_tables(tiny):
    hf = pytest.importorskip('datasets')
    feats = hf.Features(dict(text=hf.Value('string'), label=hf.ClassLabel(names=['neg', 'pos'])))
    ds = hf.Dataset.from_dict(dict(text=TEXTS20, label=[0, 1]*10), features=feats)
    for o in (ds, ds.with_format('torch'), ds.shuffle(seed=1), ds.to_iterable_dataset()):
        dls = C.texts(o, bs=4, **on(tiny))
        assert dls.vocab == ['neg', 'pos'] and all(dls.vocab[y] == ['neg', 'pos'][int(t.split()[2])%2] for t,y in labels_of(dls).items())
    bare = hf.Dataset.from_dict(dict(text=['an unknown text', 'and another'], label=[-1, -1]), features=feats)
    dd = hf.DatasetDict(train=ds.select(range(12)), validation=ds.select(range(12, 16)), test=ds.select(range(16, 20)))
    assert parts_of(C.texts(dd, bs=4, **on(tiny))) == tuple(map(sorted, (TEXTS20[:12], TEXTS20[12:16], TEXTS20[16:])))
    with pytest.warns(UserWarning, match='left out: test, unsupervised'):
        dls = C.texts(hf.DatasetDict(dd | dict(test=bare, unsupervised=bare)), bs=4, **on(tiny))
    assert parts_of(dls) == tuple(map(sorted, (TEXTS20[:12], TEXTS20[12:16])))
    assert parts_of(C.texts(dd['train'], valid=dd['validation'], bs=4, **on(tiny))) == tuple(map(sorted, (TEXTS20[:12], TEXTS20[12:16])))
    fails(lambda: C.texts(hf.DatasetDict(test=bare), **on(tiny)), 'none of these has labels')
    fails(lambda: C.texts(ds.rename_column('label', 'mood'), **on(tiny)), "no column 'label'", 'label=')
    assert len(C.read(bare, label=None)) == 2

@pytest.mark.parametrize('form', ['pairs', 'lists', 'columns', 'rows', 'jsonl', 'tsv', 'semicolon', 'folders'])
def test_other_makes(tiny, tmp_path, form):
    df, more = small(label=['no', 'yes']*10), {}
    pairs = list(zip(df.text, df.label))
    data = dict(pairs=pairs, lists=[list(o) for o in pairs], columns=df.to_dict('list'), rows=df.to_dict('records')).get(form)
    if form == 'jsonl': df.to_json(data := tmp_path/'a.jsonl', orient='records', lines=True)
    if form == 'tsv': df.to_csv(data := tmp_path/'a.tsv', sep='\t', index=False)
    if form == 'semicolon': df.to_csv(data := tmp_path/'a.csv', sep=';', index=False); more = dict(sep=';')
    if form == 'folders':
        data = tmp_path/'all'
        for l in ('no', 'yes'): (data/l).mkdir(parents=True)
        for i,(t,l) in enumerate(pairs): write(data/l/f'{i}.txt', t)
    dls = C.texts(data, bs=4, **more, **on(tiny))
    assert {t: dls.vocab[y] for t,y in labels_of(dls).items()} == dict(pairs)

def test_folders_that_come_split(tiny, tmp_path):
    for i,t in enumerate(TEXTS20):
        (d := tmp_path/('train' if i < 14 else 'test')/['neg', 'pos'][i%2]).mkdir(parents=True, exist_ok=True)
        write(d/f'{i}.txt', t)
    assert parts_of(C.texts(tmp_path, bs=4, **on(tiny))) == tuple(map(sorted, (TEXTS20[:14], TEXTS20[14:])))

def test_a_jsonl_keeps_what_is_in_it(tmp_path):
    rows = [dict(text='a\u2028b', label=1), dict(text='2020', label=2), dict(text='1999-01-01', label=10)]
    import json
    df = C.read(write(tmp_path/'a.jsonl', '\n'.join(json.dumps(o, ensure_ascii=False) for o in rows)))
    assert df.text.tolist() == ['a\u2028b', '2020', '1999-01-01'] and df.label.tolist() == ['1', '2', '10']
    fails(lambda: C.read(write(tmp_path/'b.jsonl', '{"text": "a", "label": 1}\n{"text": ')), 'no jsonl')

@pytest.mark.parametrize('bad', [5, None, [], 'abc', [('a',)], [1, 2], {'text': ['a'], 'label': ['x', 'y']}, ['a', 'b'], np.zeros(3)], ids=repr)
def test_other_things_are_refused(bad): fails(lambda: C.read(bad))

def test_odd_columns_are_named():
    fails(lambda: C.read(small(label=['no', 'yes']*10).assign(text=range(20))), "'text' holds int64 in row 0")
    fails(lambda: C.read(small(label=['no', 'yes']*10).assign(text=[*TEXTS20[:19], b'x'])), 'bytes in row 19')
    fails(lambda: C.read(pd.concat([small(label=['no', 'yes']*10)]*2, axis=1)), 'two columns')
    fails(lambda: C.read(small(label=[[]]*20)), 'no text has any label')
    fails(lambda: C.read(small(label=[['a'], ['b', None]]*10)), '10 of 20', 'row 1, 3')
    fails(lambda: C.read(small(label=[[.5, .2], [.5]]*10)), '10 of 20', 'row 1, 3')
    fails(lambda: C.read(small(label=[.5]*19 + [float('inf')])), 'row 19', 'finite')

def test_numbers_of_torch_and_numpy_are_labels(tiny):
    for y in ([torch.tensor(i%2) for i in range(20)], [np.int64(i%2) for i in range(20)], torch.arange(20) % 2):
        assert C.texts(dict(text=TEXTS20, label=y), bs=4, **on(tiny)).vocab == ['0', '1']
    assert C.texts([(t, torch.tensor(i/8)) for i,t in enumerate(TEXTS20)], bs=4, **on(tiny)).c == 1


# ---- splits

AT = dict(part=['train']*14 + ['test']*6, split=['training']*14 + ['Validation']*6, set=['TRAIN']*14 + ['dev']*6, is_valid=[False]*14 + [True]*6, fold=['train']*14 + ['val']*6)

@pytest.mark.parametrize('col', AT)
def test_a_given_split_is_kept(tiny, tmp_path, col):
    df = small(label=['no', 'yes']*10, **{col: AT[col]})
    df.to_csv(tmp_path/'a.csv', index=False)
    for data in (df, tmp_path/'a.csv', df.rename(columns={col: col.upper()}), df.sample(frac=1, random_state=0)):
        assert parts_of(C.texts(data, bs=4, **on(tiny))) == tuple(map(sorted, (TEXTS20[:14], TEXTS20[14:])))
    dls = C.texts(df, split=False, bs=4, **on(tiny))
    assert len(dls.train_ds) == 16 and parts_of(dls)[1] != sorted(TEXTS20[14:])

def test_three_parts_and_parts_by_name(tiny):
    df = small(label=['no', 'yes']*10, part=['train']*12 + ['valid']*4 + ['test']*4)
    want = tuple(map(sorted, (TEXTS20[:12], TEXTS20[12:16], TEXTS20[16:])))
    assert parts_of(C.texts(df, bs=4, **on(tiny))) == parts_of(C.texts(df.rename(columns=dict(part='mine')), split='mine', bs=4, **on(tiny))) == want
    dls = C.texts(df, bs=3, **on(tiny))
    assert {t: dls.vocab[y] for t,y in ((o.text, y) for o,(_,y) in zip(dls.test.dataset.items, dls.test.dataset))} == {t: ['no', 'yes'][int(t.split()[2])%2] for t in want[2]}
    fails(lambda: C.texts(df.assign(part=df.part.replace('test', 'later')), **on(tiny)), "'later'", 'part')
    fails(lambda: C.texts(df, split='nowhere', **on(tiny)), "no column 'nowhere'")
    folds = small(label=['no', 'yes']*10, fold=[i//4 for i in range(20)])
    fails(lambda: C.texts(folds, **on(tiny)), 'fold', 'valid=')
    assert parts_of(C.texts(folds, valid=3, bs=4, **on(tiny)))[1] == sorted(TEXTS20[12:16])
    assert parts_of(C.texts(folds, valid=[2, 3], test=4, bs=4, **on(tiny)))[1:] == (sorted(TEXTS20[8:16]), sorted(TEXTS20[16:]))
    fails(lambda: C.texts(folds, valid=7, **on(tiny)), '7')
    fails(lambda: C.texts(small(label=['no', 'yes']*10), valid=3, **on(tiny)), 'valid=3', 'share')

def test_shares_and_further_tables(tiny, tmp_path):
    df = small(label=['no', 'yes']*10)
    dls = C.texts(df, valid=.3, test=.2, bs=4, **on(tiny))
    a, b, c = map(set, parts_of(dls))
    assert (len(a), len(b), len(c)) == (10, 6, 4) and not a & b | a & c | b & c
    df[12:16].to_csv(tmp_path/'valid.csv', index=False)
    want = tuple(map(sorted, (TEXTS20[:12], TEXTS20[12:16], TEXTS20[16:])))
    got = C.texts(df[:12], valid=str(tmp_path/'valid.csv'), test=list(zip(df.text[16:], df.label[16:])), bs=4, **on(tiny))
    assert parts_of(got) == want
    assert parts_of(C.texts(pd.concat([df[:12], df[12:16]]), test=df[16:], n_valid=4, bs=4, **on(tiny)))[2] == want[2]
    split = df.assign(part=['train']*16 + ['test']*4)
    assert parts_of(C.texts(split, valid=.25, bs=4, **on(tiny)))[2] == sorted(TEXTS20[16:]) and len(C.texts(split, valid=.25, bs=4, **on(tiny)).valid_ds) == 4
    fails(lambda: C.texts(df, valid='nowhere.csv', **on(tiny)), 'no such file')
    fails(lambda: C.texts(df, valid=1.5, **on(tiny)), 'valid=1.5')

@pytest.mark.parametrize('target', ['classes', 'several', 'numbers'])
def test_no_group_is_on_both_sides(tiny, target):
    df = small(label=dict(classes=['no', 'yes']*10, several=SETS, numbers=[i/8 for i in range(20)])[target], writer=[i//2%7 for i in range(20)])
    for groups in ('writer', df.writer.tolist(), df.writer):
        for seed in range(3):
            a, b = parts_of(C.texts(df, groups=groups, seed=seed, bs=4, **on(tiny)))
            of = dict(zip(df.text, df.writer))
            assert {of[t] for t in a} | {of[t] for t in b} == set(range(7)) and not {of[t] for t in a} & {of[t] for t in b}
    fails(lambda: C.texts(df, groups=[1, 2], **on(tiny)), 'groups', '20 texts')
    fails(lambda: C.texts(df, groups='author', **on(tiny)), "no column 'author'")
    fails(lambda: C.texts(df.assign(part=['train', 'valid']*10), groups='writer', **on(tiny)), 'groups', 'valid')

def test_groups_stay_with_their_texts_when_copies_go(tiny):
    rows = [(t, ['no', 'yes'][i%2], i//2%5) for i,t in enumerate(TEXTS20)]
    df = pd.DataFrame([(TEXTS20[0], 'no', 4), *rows], columns=['text', 'label', 'who'])
    dls, of = C.texts(df, groups='who', bs=4, **on(tiny)), {t: g for t,_,g in rows} | {TEXTS20[0]: 4}
    a, b = parts_of(dls)
    assert not {of[t] for t in a} & {of[t] for t in b} and len(a) + len(b) == 20

def test_a_text_is_in_one_part_only(tiny):
    df = small(label=['no', 'yes']*10, part=['train']*14 + ['test']*6)
    a, b = parts_of(C.texts(pd.concat([df, df[:4].assign(part='test')]), bs=4, **on(tiny)))
    assert not set(a) & set(b) and len(a) == 14
    assert not set(parts_of(C.texts(df[:14].drop(columns='part'), valid=df[10:].drop(columns='part'), bs=4, **on(tiny)))[1]) & set(TEXTS20[:14])

def test_a_class_without_training_is_said(tiny):
    df = small(label=['no', 'yes']*7 + ['new']*6, part=AT['part'])
    with pytest.warns(UserWarning, match="label 'new'"): C.texts(df, bs=4, **on(tiny))


# ---- tokens

def test_tokens_are_kept_by_the_text_itself(tiny):
    "Two tables number their rows alike: 8 of 8 texts were read as those of the first."
    a, b = (pd.DataFrame(dict(text=[f'{w} {v} s' for w in ('cat', 'dog', 'ball') for v in words], label=['x', 'y']*6)) for words in (('good', 'bad', 'fine', 'poor'), ('law', 'tax', 'film', 'song')))
    one, two = C.texts(a, 4, 8, **on(tiny)), C.texts(b, 4, 8, **on(tiny))
    got = [o[o != 0].tolist() for x,*_ in one.test_dl(two.valid_ds.items) for o in x]
    assert sorted(got) == sorted(C.tokenizer(tiny)([o.text for o in two.valid_ds.items]).input_ids) and {o.id for o in two.valid_ds.items} & {o.id for o in [*one.train_ds.items, *one.valid_ds.items]}

def test_tokens_follow_encoder_and_length(tiny, tmp_path):
    t, text = C.Tokens(tiny, 6), Text('t/0', 'x', 'zzz good cat s game of ball')
    t.keep([text])
    assert t(text).tolist() == C.tokenizer(tiny)(text.text, truncation=True, max_length=6).input_ids
    t.max_length = 4
    assert len(t(text)) == 4 and t.length(text) == 4
    t.encoder = other = make(tmp_path, 'mpnet')
    assert t(text).tolist() == C.tokenizer(other)(text.text, truncation=True, max_length=4).input_ids != C.tokenizer(tiny)(text.text, truncation=True, max_length=4).input_ids

def test_strings_to_predict_stay_in_order(tiny):
    dls, new = C.texts(sentences(), 20, 10, bs=2, **on(tiny)), ['cat', 'the good cat s game of ball', '', 'a tax s s s', 'tax']
    got = [o[o != 0].tolist() for x, in dls.test_dl(new) for o in x]
    assert got == C.tokenizer(tiny)(new).input_ids

def test_workers_and_old_words(tiny):
    df = sentences()
    want = [x.tolist() for x,_ in C.texts(df, 20, 10, bs=4, **on(tiny)).valid]
    assert [x.tolist() for x,_ in C.texts(df, 20, 10, bs=4, num_workers=1, **on(tiny)).valid] == want
    class Upper(C.Transform):
        input_types = (Text, str)
        def encodes(self, o): return 'cat'
    with pytest.warns(FutureWarning, match='item_tfms'): dls = C.texts(df, 20, 10, tfms=Upper(), **on(tiny))
    assert {tuple(x.tolist()) for x,_ in dls.train_ds} == {tuple(C.tokenizer(tiny)('cat').input_ids)}

def test_what_moved_is_still_found():
    for name in ('ByLength', 'Tokens', 'Text', 'Pad'):
        with pytest.warns(FutureWarning, match=f'corpora.{name}'): assert getattr(T, name) is getattr(C, name)
    assert T.texts is C.texts and T.read is C.read and T.tokenizer is C.tokenizer and T.TextError is C.TextError
