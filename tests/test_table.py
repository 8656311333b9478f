"What `table` makes of tables: labels of every type, several labels, numbers, given splits, groups, files that are not there."
import io, os, warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tlcourse.data import DataError, class_weight, table

pytestmark = pytest.mark.filterwarnings('error::UserWarning:tlcourse', 'error::UserWarning:test_table')


def picture(k, size=(9, 8)): return Image.new('RGB', size, (k % 256, k//256 % 256, 60))

@pytest.fixture
def rows(tmp_path):
    "Twenty pictures, no two alike, and their table."
    (tmp_path/'pics').mkdir()
    for i in range(20): picture(i).save(tmp_path/'pics'/f'{i:02}.png')
    return pd.DataFrame(dict(file=[f'pics/{i:02}.png' for i in range(20)], label=['cat', 'dog']*10))

def load(df, root=None, **kw): return table(df, **{**dict(size=16, bs=4, device='cpu', root=root), **kw})
def at(ds): return [int(o.source.stem) for o in ds.items]

def refused(says, *args, **kw):
    with pytest.raises(DataError, match=says) as e: load(*args, **kw)
    assert '\n' not in str(e.value) and len(str(e.value)) < 600, str(e.value)


# ---- labels

@pytest.mark.parametrize('name,labels,vocab', [
    ('text', ['no', 'yes']*10, ['no', 'yes']), ('ints', [0, 1]*10, ['0', '1']), ('bools', [False, True]*10, ['False', 'True']), ('floats', [0., 1.]*10, ['0', '1']),
    ('Int64', pd.array([0, 1]*10, dtype='Int64'), ['0', '1']), ('boolean', pd.array([False, True]*10, dtype='boolean'), ['False', 'True']),
    ('category', pd.Categorical(['a', 'b']*10, ['b', 'a']), ['a', 'b']), ('uint8', np.array([2, 10]*10, np.uint8), ['2', '10']), ('objects', np.array([1, 2]*10, object), ['1', '2']),
    ('string', pd.array(['x', 'y']*10, dtype='string'), ['x', 'y']), ('dates', pd.to_datetime(['2024-01-01', '2025-01-01']*10), ['2024-01-01 00:00:00', '2025-01-01 00:00:00'])])
def test_labels(rows, tmp_path, name, labels, vocab):
    dls = load(rows.assign(label=labels), tmp_path)
    assert dls.vocab == vocab and dls.c == 2 and type(dls.loss_func.func).__name__ == 'CrossEntropyLoss'
    for ds in (dls.train_ds, dls.valid_ds):
        for o,(_,y) in zip(ds.items, ds): assert vocab[int(y)] == vocab[int(o.source.stem) % 2]

@pytest.mark.parametrize('gap', [None, np.nan, pd.NA, ''])
def test_a_gap(rows, tmp_path, gap):
    rows['label'] = ['cat', 'dog']*9 + ['cat', gap]
    refused(r"the table, column 'label': 1 of 20 pictures have no label \(row 19", rows, tmp_path)

def test_gap_of_a_number(rows, tmp_path):
    refused('2 of 20 pictures have no label', rows.assign(label=[0, 1]*9 + [np.nan]*2), tmp_path)
    refused('no label', rows.assign(label=[.5, 1.]*9 + [np.nan]*2), tmp_path)
    refused('no label', rows.assign(label=pd.array([0, 1]*9 + [None]*2, dtype='Int64')), tmp_path)

def test_one_class(rows, tmp_path): refused(r'a classifier needs two classes, and here is one \(cat\)', rows.assign(label='cat'), tmp_path)
def test_thin_class(rows, tmp_path):
    rows.loc[3, 'label'] = 'cow'
    refused('cow .class with 1 usable picture, of at least 2', rows, tmp_path)
    with pytest.warns(UserWarning, match='skipped cow'): dls = load(rows, tmp_path, bad='skip')
    assert dls.vocab == ['cat', 'dog'] and 3 not in at(dls.train_ds) + at(dls.valid_ds) and list(dls.bad.file) == ['cow']


# ---- several labels

def several(rows):
    t = [[], ['b'], ['a', 'b'], ['c']]*5
    return rows.drop(columns='label').assign(lists=t, tuples=[tuple(o) for o in t], sets=[set(o) for o in t], text=['|'.join(o) for o in t], spaced=[' , '.join(o) for o in t],
                                             **{k: [int(k in o) for o in t] for k in 'abc'}, **{f'{k}_flag': [k in o for o in t] for k in 'abc'})

@pytest.mark.parametrize('kw', [dict(y='lists'), dict(y='tuples'), dict(y='sets'), dict(y='text', label_delim='|'), dict(y='spaced', label_delim=','), dict(y=['a', 'b', 'c']), dict(y=['a_flag', 'b_flag', 'c_flag'])])
def test_several_labels(rows, tmp_path, kw):
    df = several(rows)
    dls = load(df, tmp_path, **kw)
    assert [o[0] for o in dls.vocab] == ['a', 'b', 'c'] and dls.c == 3 and type(dls.loss_func.func).__name__ == 'BCEWithLogitsLoss'
    for ds in (dls.train_ds, dls.valid_ds): assert torch.equal(torch.stack([torch.as_tensor(y) for _,y in ds]), torch.tensor(df.loc[at(ds), ['a', 'b', 'c']].to_numpy(np.float32)))
    learn = learner(dls)
    learn.fit(1)
    assert learn.get_preds()[0].shape == (4, 3)

def test_several_labels_of_numbers(rows, tmp_path):
    dls = load(rows.assign(label=[[1, 10], [2]]*10), tmp_path)
    assert sorted(dls.vocab) == ['1', '10', '2'] and dls.one_batch()[1].shape == (4, 3)

def test_gaps_of_several(rows, tmp_path):
    refused('no label', rows.assign(label=[['a'], None]*10), tmp_path)
    refused("column 'b' has no number in row 1", rows.assign(a=0, b=[1, np.nan]*10), tmp_path, y=['a', 'b'])
    refused("column 'b' is not of numbers", rows.assign(a=0, b='x'), tmp_path, y=['a', 'b'])
    df = several(rows)
    df.loc[0, 'text'] = None
    assert load(df, tmp_path, y='text', label_delim='|').c == 3, 'with a separator, an empty cell has no label'

def test_rare_labels_are_on_both_sides(rows, tmp_path):
    for seed in range(8):
        dls = load(rows.assign(label=[['rare', 'often'] if i in (3, 11) else ['often'] for i in range(20)]), tmp_path, seed=seed)
        assert [sum('rare' in o.label for o in ds.items) for ds in (dls.train_ds, dls.valid_ds)] == [1, 1]


# ---- numbers

def learner(dls):
    from fastai.learner import Learner
    import fastai.callback.progress
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*16*16, dls.c)))
    learn.remove_cbs(learn.progress)
    learn.logger = lambda o: None
    return learn

@pytest.mark.parametrize('y', [[i/7 for i in range(20)], np.linspace(0, 1, 20, dtype=np.float32), [i/7 if i else 3 for i in range(20)]])
def test_numbers(rows, tmp_path, y):
    dls = load(rows.assign(age=y), tmp_path, y='age')
    assert dls.c == 1 and type(dls.loss_func.func).__name__ == 'MSELoss' and dls.one_batch()[1].dtype == torch.float32
    for ds in (dls.train_ds, dls.valid_ds): assert np.allclose([float(o[1]) for o in ds], np.asarray(y)[at(ds)])
    learn = learner(dls)
    learn.fit(1)
    pred, want = learn.get_preds()
    assert np.isclose(learn.validate()[0], ((pred.flatten() - want)**2).mean(), atol=1e-5), 'the loss is the mean squared error'

def test_whole_numbers_by_name(rows, tmp_path):
    refused("of at least 2", rows.assign(age=range(20)), tmp_path, y='age')
    dls = load(rows.assign(age=range(20)), tmp_path, y='age', target='numbers')
    assert [float(o[1]) for o in dls.valid_ds] == at(dls.valid_ds)

@pytest.mark.parametrize('kw', [dict(y=['h', 'w']), dict(y='both')])
def test_several_numbers(rows, tmp_path, kw):
    h, w = np.arange(20)/3, np.arange(20)/5
    dls = load(rows.assign(h=h, w=w, both=[[a, b] for a,b in zip(h, w)]), tmp_path, **kw)
    assert dls.c == 2 and np.allclose(np.stack([np.asarray(o[1]) for o in dls.valid_ds]), np.stack([h, w], 1)[at(dls.valid_ds)])
    learner(dls).fit(1)

@pytest.mark.parametrize('y', [[.5, float('inf')]*10, [[.5], [.5, 1.]]*10, [[.5, 'x']]*20])
def test_no_numbers(rows, tmp_path, y): refused("finite number|as many numbers", rows.assign(y=y), tmp_path, y='y', target='numbers')
def test_unknown_target(rows, tmp_path): refused("target='number' is not known", rows, tmp_path, target='number')


# ---- splits

@pytest.mark.parametrize('column,values,valid,test', [
    ('part', ['train']*12 + ['valid']*4 + ['test']*4, range(12, 16), range(16, 20)), ('split', ['Training']*14 + ['Validation']*6, range(14, 20), None),
    ('set', ['dev']*4 + ['train']*16, range(4), None), ('is_valid', [False]*14 + [True]*6, range(14, 20), None), ('is_valid', [0]*14 + [1]*6, range(14, 20), None),
    ('Part', ['tr']*10 + ['val']*10, range(10, 20), None), ('subset', ['test']*2 + ['val']*4 + ['train']*14, range(2, 6), range(2))])
def test_given_split(rows, tmp_path, column, values, valid, test):
    dls = load(rows.assign(**{column: values}), tmp_path)
    assert at(dls.valid_ds) == list(valid) and (dls.test is None if test is None else at(dls.test.dataset) == list(test))
    assert sorted(at(dls.train_ds)) == [i for i in range(20) if i not in valid and i not in (test or ())]

def test_train_and_test_keep_the_test_apart(rows, tmp_path):
    dls = load(rows.assign(part=['train']*14 + ['test']*6), tmp_path)
    assert at(dls.test.dataset) == list(range(14, 20)) and sorted(at(dls.train_ds) + at(dls.valid_ds)) == list(range(14))
    x, y = dls.test.one_batch()
    assert torch.equal(x[0], dls.test_dl([tmp_path/'pics'/'14.png']).one_batch()[0][0]) and y.tolist() == [0, 1, 0, 1]

def test_folds(rows, tmp_path):
    df = rows.assign(fold=[0, 1, 2, 3, 4]*4)
    refused('0, 1, 2, 3, 4 is no part of a split', df, tmp_path)
    dls = load(df, tmp_path, valid=1, test=[2])
    assert at(dls.valid_ds) == [1, 6, 11, 16] and at(dls.test.dataset) == [2, 7, 12, 17]
    assert len(load(df, tmp_path, split=False).valid_ds) == 4

def test_unknown_value(rows, tmp_path): refused("'tset' is no part of a split", rows.assign(part=['train']*14 + ['tset']*6), tmp_path)
def test_a_set_that_is_none(rows, tmp_path): assert len(load(rows.assign(set=['red', 'blue']*10), tmp_path).valid_ds) == 4
def test_named_split(rows, tmp_path): assert at(load(rows.assign(use=['train']*14 + ['val']*6), tmp_path, split='use').valid_ds) == list(range(14, 20))
def test_nothing_twice(rows, tmp_path): refused('has a valid part of its own', rows.assign(part=['train']*14 + ['valid']*6), tmp_path, valid=.5)

def test_shares(rows, tmp_path):
    dls = load(rows, tmp_path, valid=.3, test=.2)
    assert [len(o) for o in (dls.train_ds, dls.valid_ds, dls.test.dataset)] == [10, 6, 4] and at(dls.test.dataset) == sorted(at(dls.test.dataset))
    assert at(load(rows, tmp_path, n_train=4, test=.2).test.dataset) == at(dls.test.dataset)

def test_groups(rows, tmp_path):
    df = rows.assign(patient=[i//4 for i in range(20)])
    dls = load(df, tmp_path, groups='patient', test=.2)
    sides = [{i//4 for i in at(o)} for o in (dls.train_ds, dls.valid_ds, dls.test.dataset)]
    assert sum(map(len, sides)) == 5 == len(set.union(*sides))
    refused('groups: 3 is in the train part and in the valid part', df.assign(part=['train']*14 + ['valid']*6), tmp_path, groups='patient')
    refused("column 'patient' has no group in row 2", df.assign(patient=[0, 1, None, 3]*5), tmp_path, groups='patient')
    refused("no column 'patent'; did you mean patient", df, tmp_path, groups='patent')
    by_list = load(df.drop(columns='patient'), tmp_path, groups=df.patient.tolist(), test=.2)
    assert [[o.id for o in p.items] for p in (by_list.train_ds, by_list.valid_ds)] == [[o.id for o in p.items] for p in (dls.train_ds, dls.valid_ds)]
    assert [o.id for o in load(df, tmp_path, group='patient', test=.2).valid_ds.items] == [o.id for o in dls.valid_ds.items]
    refused('one value for each of the', df, tmp_path, groups=[1, 2])
    refused('say the same', df, tmp_path, group='patient', groups='patient')

def test_the_old_name_of_label_delim(rows, tmp_path):
    with pytest.warns(FutureWarning, match='label_delim='): assert load(several(rows), tmp_path, y='text', sep='|').c == 3

def test_numbers_by_group(rows, tmp_path):
    dls = load(rows.assign(age=np.arange(20)/3, patient=[f'p{i//4}' for i in range(20)]), tmp_path, y='age', groups='patient')
    assert not {i//4 for i in at(dls.train_ds)} & {i//4 for i in at(dls.valid_ds)}


# ---- where pictures come from

def test_csv(rows, tmp_path):
    for name,kw in (('a.csv', {}), ('b.tsv', dict(sep='\t')), ('c.csv', dict(sep=';'))):
        rows.to_csv(tmp_path/name, index=False, **kw)
        dls = table(tmp_path/name, size=16, device='cpu')
        assert dls.vocab == ['cat', 'dog'] and len(dls.train_ds) == 16, 'files are beside the csv'
    text = 'id,label\n' + ''.join(f'{i:02},{["NA", "None"][i%2]}\n' for i in range(20))
    (tmp_path/'pics'/'d.csv').write_text(text, encoding='utf-8-sig')
    dls = table(str(tmp_path/'pics'/'d.csv'), size=16, suffix='.png', device='cpu')
    assert dls.vocab == ['NA', 'None'] and 'pics/07.png' in [o.id[-11:] for o in [*dls.train_ds.items, *dls.valid_ds.items]], '07 is a name'

def test_csv_that_is_none(tmp_path):
    refused('there is no such file', tmp_path/'none.csv')
    for data,says in ((b'', 'no regular csv'), ('file,label\nä.png,1\n'.encode('utf-16'), 'not UTF-8'), (b'file,label\n', 'has no rows'), (b'a,b\n1,2,3\n4\n"', 'no regular csv')):
        (tmp_path/'x.csv').write_bytes(data)
        refused(says, tmp_path/'x.csv')

def test_columns(rows, tmp_path):
    refused("no column path or file or filename; it has 'what', 'label': say with x=", rows.rename(columns=dict(file='what')), tmp_path)
    refused("no column label or labels or class; it has 'file', 'of': say with y=", rows.rename(columns=dict(label='of')), tmp_path)
    refused("no column 'labl'; did you mean label", rows, tmp_path, y='labl')
    assert load(rows.rename(columns=dict(file='what', label='of')), tmp_path, x='what', y='of').vocab == ['cat', 'dog']

def test_missing_and_broken_files(rows, tmp_path):
    (tmp_path/'pics'/'05.png').unlink(); (tmp_path/'pics'/'07.png').write_bytes(b'no')
    refused('05.png .No such file or directory.*07.png .it is not a picture', rows, tmp_path)
    with pytest.warns(UserWarning, match='skipped'): dls = load(rows, tmp_path, bad='skip')
    assert {5, 7} == set(range(20)) - {*at(dls.train_ds), *at(dls.valid_ds)} and len(dls.bad) == 2
    refused('row 0, counted from 0, names no picture', rows.assign(file=None), tmp_path)

@pytest.mark.parametrize('form', ['array', 'gray', 'PIL', 'bytes', 'Path'])
def test_sources(tmp_path, form):
    def make(i):
        im = picture(i)
        if form == 'Path': im.save(tmp_path/f'{i}.png'); return tmp_path/f'{i}.png'
        b = io.BytesIO(); im.save(b, 'PNG')
        return dict(array=np.asarray(im), gray=np.full((8, 9), i*9, np.uint8), PIL=im, bytes=b.getvalue())[form]
    df = pd.DataFrame(dict(image=[make(i) for i in range(12)], label=['a', 'b']*6, k=range(12)))
    dls = load(df)
    for o in dls.valid_ds.items:
        i = next(i for i in range(12) if df.image[i] is o.source or form == 'Path' and df.image[i] == o.source)
        want = np.asarray((Image.fromarray(df.image[i]) if form == 'gray' else picture(i)).convert('RGB').resize((16, 16)))[0, 0]
        assert dls.valid_ds.tls[0].tfms(o)[:, 0, 0].tolist() == want.tolist()

def test_of_huggingface():
    datasets = pytest.importorskip('datasets')
    kind = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['cat', 'dog']))
    make = lambda at: datasets.Dataset.from_dict(dict(image=[picture(i) for i in at], label=[i % 2 for i in at]), features=kind)
    dls = load(make(range(12)))
    assert dls.vocab == ['cat', 'dog'] and len(dls.train_ds) == 10
    x = dls.valid_ds[0]
    i = int(x[0][0, 0, 0])
    assert x[0][:, 0, 0].tolist() == [i, 0, 60] and int(x[1]) == i % 2
    dls = load(datasets.DatasetDict(train=make(range(8)), validation=make(range(8, 12)), test=make(range(12, 18))))
    assert [len(o) for o in (dls.train_ds, dls.valid_ds, dls.test.dataset)] == [8, 4, 6]
    assert [int(o[0][0, 0, 0]) for o in dls.test.dataset] == list(range(12, 18))

def test_two_tables_do_not_mix():
    "Rows of the same number and label in two tables: on old code the second was given the first one's pixels."
    a, b = ([np.full((8, 8, 3), v + i, np.uint8) for i in range(10)] for v in (10, 200))
    one, two = (load(pd.DataFrame(dict(image=o, label=['a', 'b']*5))) for o in (a, b))
    list(one.train); list(one.valid); list(two.valid)
    x = (one.test_dl(two.valid_ds.items).one_batch()[0]*128 + 127).round()
    assert x.min() >= 199 and torch.equal(x, (two.valid.one_batch()[0]*128 + 127).round())

def test_an_array_that_changes():
    a = [np.full((8, 8, 3), i, np.uint8) for i in range(10)]
    dls = load(pd.DataFrame(dict(image=a, label=['a', 'b']*5)))
    before = dls.valid.one_batch()[0]
    dls.valid_ds.items[0].source[:] = 250
    after = dls.valid.one_batch()[0]
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])

def test_copies_in_a_table(rows, tmp_path):
    with pytest.warns(UserWarning, match='1 picture is an exact copy of one in another part, such as .*pics/00.png .valid. of .*pics/00.png .train') as said:
        load(pd.concat([rows, rows[:1]]).assign(part=['train']*14 + ['valid']*7), tmp_path)
    assert len(said) == 1 and said[0].filename == __file__


# ---- it is plain fastai

def test_finetunes_whatever_the_target(rows, tmp_path):
    from tlcourse.finetune import learner
    net = lambda c: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*16*16, c))
    for kw,loss in ((dict(y='label'), 'CrossEntropyLoss'), (dict(y=['u', 'v']), 'BCEWithLogitsLoss'), (dict(y='n'), 'MSELoss')):
        dls = load(rows.assign(n=np.arange(20)/3, u=[0, 1]*10, v=1), tmp_path, **kw)
        learn = learner(dls, net(dls.c), metrics=[])
        assert type(learn.loss_func.func).__name__ == loss
        with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_shows_predicts_and_exports(rows, tmp_path):
    import matplotlib.pyplot as plt
    from fastai.learner import load_learner
    for kw in (dict(y='label'), dict(y='l'), dict(y='n'), dict(y=['n', 'm'])):
        dls = load(rows.assign(n=np.arange(20)/3, m=np.arange(20)/2, l=[['a', 'b'], ['b']]*10, part=['train']*14 + ['test']*6), tmp_path, **kw)
        dls.show_batch(max_n=2); dls.test.show_batch(max_n=2)
        plt.close('all')
        learn = learner(dls)
        learn.path = tmp_path
        learn.fit(1)
        f = tmp_path/'pics'/'03.png'
        ps = [learn.predict(o)[2] for o in (f, str(f), f.read_bytes(), Image.open(f), np.asarray(Image.open(f)), dls.test.dataset.items[0].__class__('x', 'cat', f))]
        learn.logger = print
        learn.export('x.pkl')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            new = load_learner(tmp_path/'x.pkl')
        with new.no_bar(): ps.append(new.predict(f)[2])
        for p in ps: assert torch.allclose(p, ps[0], atol=1e-6)
        assert (tmp_path/'x.pkl').stat().st_size < 200_000

def test_weights_for_the_loss(rows, tmp_path):
    dls = load(rows.assign(label=['a']*15 + ['b']*5), tmp_path)
    assert torch.allclose(class_weight(dls), torch.tensor([16/(2*12), 16/(2*4)]))
