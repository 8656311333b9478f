"Splits, layouts of folders, columns that split, targets, weights, and what is kept of a source: against independent oracles, and by random cases."
import os, pickle, random, warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit
from sklearn.utils.class_weight import compute_class_weight

from tlcourse import loaders as L
from tlcourse.core import TLCourseError
from tlcourse.loaders import DataError, Keep, Kind, class_weight, classes, cut, given, layout, order, partition, role, roles, source_key, split, split_column, strata, target


class SoundError(TLCourseError): pass
SOUND = Kind('recording', 'recordings', SoundError)

def one_line(e): return '\n' not in str(e.value) and 20 < len(str(e.value)) < 500

def refused(f, says, error=DataError):
    with pytest.raises(error, match=says) as e: f()
    assert one_line(e), str(e.value)


# ---- splits

def shares(y): return pd.Series(y).value_counts(normalize=True).sort_index()

@pytest.mark.parametrize('seed', range(5))
def test_as_stratified_as_sklearn(seed):
    y = np.random.default_rng(seed).choice(list('abcd'), 500, p=[.5, .3, .15, .05])
    _, theirs = next(StratifiedShuffleSplit(1, test_size=.2, random_state=seed).split(y, y))
    train, ours = split(y, seed=seed, valid=.2)
    worst = lambda at: (shares(y[at]) - shares(y)).abs().max()
    assert len(ours) == len(theirs) and worst(ours) <= worst(theirs) + 1/len(ours) and worst(train) < .01
    assert sorted([*train, *ours]) == list(range(500))


def test_split_draws():
    "200 random cases: disjoint, nested over n_train, whatever n_train the same validation, each class on both sides."
    rng = np.random.default_rng(0)
    for _ in range(200):
        c, seed = int(rng.integers(2, 6)), int(rng.integers(1000))
        y = np.concatenate([np.arange(c), np.arange(c), rng.integers(0, c, int(rng.integers(0, 60)))])
        rng.shuffle(y)
        n_valid = int(rng.integers(c, len(y) - c + 1))
        most = len(y) - n_valid
        small, large = sorted(rng.integers(c, most + 1, 2).tolist())
        (a, va), (b, vb) = (split(y, n, n_valid, seed) for n in (small, large))
        assert np.array_equal(va, vb) and set(a) <= set(b) and not set(b) & set(va) and (len(a), len(b), len(va)) == (small, large, n_valid)
        assert set(y[a]) == set(y[b]) == set(y[va]) == set(range(c))
        assert np.array_equal(split(y.astype(str), small, n_valid, seed)[0], a), 'the split does not depend on what the classes are called'


def test_group_draws():
    "200 random cases: no group on both sides, every class in training, in validation where that can be, nested over n_train."
    rng = np.random.default_rng(1)
    for _ in range(200):
        n, c, k, seed = int(rng.integers(20, 80)), int(rng.integers(2, 4)), int(rng.integers(4, 12)), int(rng.integers(1000))
        y, g = rng.integers(0, c, n), rng.integers(0, k, n)
        if min(pd.Series(g).groupby(y).nunique().reindex(range(c), fill_value=0)) < 2: continue
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            train, valid = split(y, seed=seed, groups=g)
        assert not set(g[train]) & set(g[valid]) and sorted([*train, *valid]) == list(range(n))
        assert len(set(g[valid])) == max(1, round(len(set(g))/4)) and set(y[train]) == set(y)
        assert set(y[valid]) == set(y) or len(said) == 1
        few, same = split(y, len(set(y)), seed=seed, groups=g) if not said else (train[:0], valid)
        assert set(few) <= set(train) and np.array_equal(same, valid)


@pytest.mark.parametrize('share', [.1, .25, .5])
def test_as_many_groups_as_sklearn(share):
    y, g = np.tile([0, 1], 200), np.repeat(np.arange(40), 10)
    _, theirs = next(GroupShuffleSplit(1, test_size=share, random_state=0).split(y, y, g))
    assert len(set(g[split(y, groups=g, valid=share)[1]])) == len(set(g[theirs]))


def test_groups_are_drawn_again_until_no_class_is_lost():
    "Each patient has one of two findings, and the rare one two patients: on old code a plain draw loses it on one side."
    g = np.repeat(np.arange(12), 5)
    y = (g >= 10).astype(int)
    for seed in range(20):
        train, valid = split(y, seed=seed, groups=g)
        assert set(y[train]) == set(y[valid]) == {0, 1}


def test_class_of_one_group():
    y, g = np.array([0]*8 + [1]*2), np.array([0, 1, 2, 3]*2 + [9, 9])
    with pytest.warns(UserWarning, match='1 of 2 classes are in too few groups'): train, valid = split(y, groups=g)
    assert set(y[train]) == {0, 1} and set(y[valid]) == {0}


def test_groups_that_cannot_be():
    refused(lambda: split([0, 1]*4, groups=[1]*8, kind=SOUND), '2 classes by 1 voices or groups', SoundError)
    refused(lambda: split([0]*8, groups=[0, 1]*4), '1 classes by 2 voices or groups')
    refused(lambda: split([0, 1]*4, groups=[0, 1, None, 2]*2), '6 of 8 pictures have one')
    refused(lambda: split([0, 1]*4, groups=[0, 1]), '2 of 8 pictures have one')
    refused(lambda: split([0]*4 + [1]*4, groups=[0]*4 + [1]*4), 'would be in validation only')
    refused(lambda: split([0, 1]*20, n_valid=30, groups=[0, 0, 1, 1]*10, kind=SOUND), 'n_valid=30: this split has 20 recordings there', SoundError)


@pytest.mark.parametrize('valid', [0, 1, -.1, 1.5, 20, True, '.2'])
def test_no_share(valid): refused(lambda: split([0, 1]*9, valid=valid), f'valid={valid!r} is no share')


def test_messages_name_the_kind():
    refused(lambda: split(list('ab')*5, 1, kind=SOUND), 'less than one recording for each of the 2 classes', SoundError)
    refused(lambda: split(list('ab')*5, 9, 9, kind=SOUND), 'need 18 recordings and there are 10', SoundError)


def test_without_strata():
    train, valid = split([None]*10)
    assert len(valid) == 2 and sorted([*train, *valid]) == list(range(10))
    assert len(split([None]*40, groups=np.repeat(range(8), 5))[1]) == 10


def test_strata():
    assert strata([.1, .2], 'numbers').tolist() == [None, None] and strata(['a', 'b'], 'classes').tolist() == ['a', 'b']
    assert strata([('a', 'b'), ('a',), (), ('a', 'c')], 'several').tolist() == ['b', 'a', '', 'c']


def test_partition_draws():
    "150 random cases of what is given, shares and groups: parts are disjoint, whole, of the right size; a given part stays as it is."
    rng = np.random.default_rng(2)
    for _ in range(150):
        n = int(rng.integers(60, 120))
        y, has = rng.integers(0, 3, n), sorted(rng.choice(['valid', 'test'], int(rng.integers(0, 3)), replace=False))
        ends = np.cumsum([int(rng.integers(6, 12)) for _ in has]) if has else np.array([0])
        parts = dict(zip(has, np.split(np.arange(ends[-1]), ends[:-1])) if has else []) | dict(train=np.arange(ends[-1], n))
        kw = {k: float(rng.uniform(.1, .35)) for k in ('valid', 'test') if k not in has and rng.random() < .7}
        g = None if rng.random() < .5 else np.where(np.arange(n) < ends[-1], 100 + np.searchsorted(ends, np.arange(n), 'right'), rng.integers(0, 15, n))
        res = partition(y, parts, seed=int(rng.integers(99)), groups=g, **kw)
        at = np.concatenate(list(res.values()))
        assert len(at) == n and len(set(at.tolist())) == n and ('test' in res) == ('test' in has or 'test' in kw)
        for k in has: assert np.array_equal(res[k], parts[k])
        if g is None:
            for k,v in kw.items(): assert abs(len(res[k]) - v*len(parts['train'])) <= 3.5
        else:
            for a,b in (('train', 'valid'), ('train', 'test'), ('valid', 'test')):
                if a in res and b in res: assert not set(g[res[a]]) & set(g[res[b]])


def test_partition_refuses():
    y = list('ab')*10
    refused(lambda: partition(y, dict(train=range(10), valid=range(10, 20)), valid=.2), 'has a valid part of its own')
    refused(lambda: partition(y, valid=.6, test=.5), 'leave nothing to train on')
    refused(lambda: partition(y, test=2), 'test=2 is no share')
    refused(lambda: partition(y, dict(train=range(10), test=range(10, 20)), groups=[0, 1]*10), '0 is in the train part and in the test part')
    refused(lambda: partition(y, dict(train=range(10), valid=range(10, 20)), n_train=11, kind=SOUND), 'n_train=11: that part has 10 recordings', SoundError)


def test_a_test_part_does_not_depend_on_the_rest():
    y = np.arange(100) % 4
    a, b = partition(y, test=.2, n_train=8), partition(y, test=.2, valid=.5)
    assert np.array_equal(a['test'], b['test']) and sorted(a['test']) == a['test'].tolist()


# ---- names of parts

SPELLINGS = dict(
    train='train Train TRAIN training Training tr trn train_set trainset training-set seg_train train2017 Train Data X_train trainData train.images'.replace('Train Data', 'Train~Data'),
    valid='val valid Valid VALID validation Validation dev val_set validset seg_val val2017 Validation~Data X_dev development eval evaluation',
    test='test Test TEST testing Testing tst test_set testset seg_test test2017 Test~Data X_test test-images')

@pytest.mark.parametrize('want,name', [(k, o.replace('~', ' ')) for k,v in SPELLINGS.items() for o in v.split()])
def test_role(want, name): assert role(name) == want

@pytest.mark.parametrize('name', ['cat', 'trains', 'contest', 'attest', 'valley', 'evaluate', 'trainer', 'restraint', 'Teststrecke', 'traintest', 'train_test', '', '7', '训练'])
def test_no_role(name): assert role(name) is None

@pytest.mark.parametrize('names', [('train', 'plane', 'car'), ('train_station', 'test_tube'), ('valid', 'test'), ('train', 'train_2'), ('training_shoe', 'testing_kit', 'dev_board')])
def test_no_split(names): assert not any(roles(names).values())

@pytest.mark.parametrize('names,says', [(('train', 'training', 'val'), 'train and training both mean train'), (('train', 'val', 'dev'), 'val and dev both mean valid'),
                                        (('train_a', 'test_a', 'train_b', 'test_b'), 'several splits')])
def test_split_twice(names, says): refused(lambda: roles(names, SOUND), says, SoundError)


# ---- layouts; `cd` stands for the classes cat and dog

TREES = {
    'plain':                       ('cat dog', dict(train='cat dog')),
    'train and valid':             ('train/cd valid/cd', dict(train='cat dog', valid='cat dog')),
    'all three':                   ('train/cd val/cd test/cd', dict(train='cat dog', valid='cat dog', test='cat dog')),
    'capitals':                    ('Train/cd Test/cd', dict(train='cat dog', test='cat dog')),
    'upper case':                  ('TRAIN/cd VALIDATION/cd', dict(train='cat dog', valid='cat dog')),
    'training and testing':        ('training/cd testing/cd', dict(train='cat dog', test='cat dog')),
    'train_set':                   ('train_set/cd test_set/cd', dict(train='cat dog', test='cat dog')),
    'training_set and test_set':   ('training_set/cd test_set/cd', dict(train='cat dog', test='cat dog')),
    'train beside test_set':       ('train/cd test_set/cd', dict(train='cat dog', test='cat dog')),
    'seg_':                        ('seg_train/cd seg_test/cd', dict(train='cat dog', test='cat dog')),
    'seg_ twice, and to predict':  ('seg_train/seg_train/cd seg_test/seg_test/cd seg_pred/seg_pred', dict(train='cat dog', test='cat dog')),
    'as COCO':                     ('train2017/cd val2017/cd', dict(train='cat dog', valid='cat dog')),
    'spaces':                      ('Train Data/cd|Test Data/cd', dict(train='cat dog', test='cat dog')),
    'camels':                      ('TrainImages/cd ValImages/cd', dict(train='cat dog', valid='cat dog')),
    'short':                       ('tr/cd dev/cd tst/cd', dict(train='cat dog', valid='cat dog', test='cat dog')),
    'wrapped':                     ('data/train/cd data/valid/cd', dict(train='cat dog', valid='cat dog')),
    'wrapped twice':               ('archive/data/Train/cd archive/data/Val/cd', dict(train='cat dog', valid='cat dog')),
    'images in each part':         ('train/images/cd val/images/cd', dict(train='cat dog', valid='cat dog')),
    'hidden beside':               ('train/cd valid/cd .git/cd __MACOSX/cd', dict(train='cat dog', valid='cat dog')),
    'notes beside':                ('train/cd valid/cd docs', dict(train='cat dog', valid='cat dog')),
    'a test to predict':           ('train/cd test', dict(train='cat dog')),
    'a class only in valid':       ('train/cd valid/cd/cow', dict(train='cat dog', valid='cat cow dog')),
    'a class only in train':       ('train/cd/cow valid/cd', dict(train='cat cow dog', valid='cat dog')),
    'train, plane and car':        ('train plane car', dict(train='car plane train')),
    'train_station and test_tube': ('train_station test_tube', dict(train='test_tube train_station')),
    'stations with folders':       ('train_station/old test_tube/new', dict(train='test_tube train_station')),
    'trains and buses by kind':    ('trains/steam/red trains/fast buses/city', dict(train='buses trains')),
    'subfolders by year':          ('cat/2023 cat/2024 dog/2023 dog/2024 dog/2025', dict(train='cat dog')),
    'images in each class':        ('cat/images dog/images', dict(train='cat dog')),
    'vehicles by kind':            ('train/steam test/dummy plane/jet', None),
    'valid and test classes':      ('valid test', dict(train='test valid')),
    'one class':                   ('cat', dict(train='cat')),
    'numbers':                     ('0 1 2', dict(train='0 1 2')),
    'other letters':               ('猫 狗', dict(train='狗 猫')),
}

def grow(root, tree):
    for o in tree.split('|' if '|' in tree else None):
        *above, last = o.replace('/cd/', '/cat+dog+').replace('/cd', '/cat+dog').split('/')
        for name in last.split('+'): root.joinpath(*above, name).mkdir(parents=True, exist_ok=True)
    return root

@pytest.mark.parametrize('name', TREES)
def test_layout(tmp_path, name):
    tree, want = TREES[name]
    if want is None: return refused(lambda: layout(grow(tmp_path, tree)), 'folder train but none valid')
    got = layout(grow(tmp_path, tree))
    assert {k: ' '.join(sorted(o.name for o in v)) for k,v in got.items()} == want
    assert all(o.is_relative_to(tmp_path) and o.is_dir() for v in got.values() for o in v)

REFUSED = {
    'a/cd b/cd': 'a, b all hold the same folders .cat, dog.*name them train, valid and test',
    'a/x/cd b/x/cd': 'a, b all hold the same folders .cat, dog', 'fold1/cd fold2/cd fold3/cd': 'all hold the same folders',
    'valid/cd test/cd': 'all hold the same folders',
    'train/cd': 'folder train but none valid', 'train/cd holdout/cd': 'folder train but none valid',
    'train test': 'train hold no class folders|hold no class folders', 'train/cd valid': 'no class folder in common',
    'train/cd valid/cow': 'no class folder in common', 'train/cd test/cow': 'no class folder in common',
    'train/cd val/cd dev/cd': 'dev and val both mean valid', 'train_a/cd test_a/cd train_b/cd test_b/cd': 'several splits',
    '.git': 'has no subfolders: put the recordings',
}

@pytest.mark.parametrize('tree', REFUSED)
def test_layout_refused(tmp_path, tree): refused(lambda: layout(grow(tmp_path, tree), SOUND), REFUSED[tree], SoundError)

def test_test_folder_of_other_classes(tmp_path):
    grow(tmp_path, 'train/cd valid/cd test/cow')
    with pytest.warns(UserWarning, match='test is left out: none of its folders .cow. is a class of train'): assert set(layout(tmp_path)) == {'train', 'valid'}

def test_classes_that_differ_in_case(tmp_path):
    grow(tmp_path, 'train/cat train/dog valid/Cat valid/dog')
    refused(lambda: layout(tmp_path), 'Cat and cat differ only in case')

def test_no_folder(tmp_path):
    (tmp_path/'a.zip').write_bytes(b'x')
    refused(lambda: layout(tmp_path/'a.zip', SOUND), 'is a file: unpack it', SoundError)
    refused(lambda: layout(tmp_path/'none', SOUND), 'does not exist', SoundError)


# ---- columns

@pytest.mark.parametrize('name,values,want', [
    ('part', 'train train val test', dict(train=[0, 1], valid=[2], test=[3])), ('split', 'TRAIN Training Dev', dict(train=[0, 1], valid=[2])),
    ('set', 'testing train', dict(train=[1], test=[0])), ('is_valid', [True, False], dict(train=[1], valid=[0])), ('is_valid', [0, 1, 0], dict(train=[0, 2], valid=[1])),
    ('is_valid', ['True', 'False'], dict(train=[1], valid=[0])), ('is_valid', [1., 0.], dict(train=[1], valid=[0])), ('is_test', [False, True], dict(train=[0], test=[1])),
    ('is_train', [True, False], dict(train=[0], valid=[1])), (None, [False, True], dict(train=[0], valid=[1])), ('valid', [0, 1], dict(train=[0], valid=[1]))])
def test_given(name, values, want):
    s = pd.Series(values.split() if isinstance(values, str) else values, name=name, index=range(5, 5 + len(values.split() if isinstance(values, str) else values)))
    assert {k: v.tolist() for k,v in given(s).items()} == want

def test_given_nullable():
    assert given(pd.Series([True, False], dtype='boolean', name='is_valid'))['valid'].tolist() == [0]
    assert given(pd.Series(['train', 'val'], dtype='category', name='set'))['valid'].tolist() == [1]

def test_given_folds():
    s = pd.Series([0, 1, 2, 0, 1], name='fold')
    assert {k: v.tolist() for k,v in given(s, valid=0, test=[2]).items()} == dict(train=[1, 4], valid=[0, 3], test=[2])
    refused(lambda: given(s), "0, 1, 2 is no part of a split")
    refused(lambda: given(s, valid=7), 'no row has valid=7; there are 0, 1, 2')

@pytest.mark.parametrize('values,says', [(['train', 'tset'], "'tset' is no part"), (['train', None], 'row 1, counted from 0, is empty'), (['valid', 'test'], 'no recording is for training')])
def test_given_refused(values, says): refused(lambda: given(pd.Series(values, name='part'), SOUND), says, SoundError)
def test_flags_of_no_name(): refused(lambda: given(pd.Series([True, False], name='split')), 'true and false do not say')

@pytest.mark.parametrize('columns,want', [
    (dict(part=['train', 'test']), 'part'), (dict(Split=['a', 'b']), 'Split'), (dict(set=['train', 'x']), 'set'), (dict(set=['red', 'blue']), None),
    (dict(part=['head', 'hand']), None), (dict(is_valid=[0, 1]), 'is_valid'), (dict(fold=[0, 1]), 'fold'), (dict(valid=[0, 1]), None), (dict(x=[1]), None)])
def test_split_column(columns, want): assert split_column(pd.DataFrame(columns)) == want

def test_cut_is_nested():
    y, parts = np.arange(90) % 3, dict(train=np.arange(60), test=np.arange(80, 90), valid=np.arange(60, 80))
    a, b = cut(y, parts, 9, 6), cut(y, parts, 30, 6)
    assert set(a['train']) < set(b['train']) and np.array_equal(a['valid'], b['valid']) and np.array_equal(a['test'], parts['test'])
    assert Counter(y[a['train']]) == {0: 3, 1: 3, 2: 3} and set(cut(y, parts)['train']) == set(range(60))


# ---- targets

@pytest.mark.parametrize('labels,want', [
    (['a', 'b'], 'classes'), ([1, 2], 'classes'), ([1., 2.], 'classes'), ([True, False], 'classes'), (pd.array([1, 2], dtype='Int64'), 'classes'), (pd.Series([1, 2], dtype='category'), 'classes'),
    ([.5, 1.], 'numbers'), (np.array([.5, 1], np.float32), 'numbers'), ([1., float('nan')], 'classes'), ([['a'], []], 'several'), ([('a', 'b'), ('a',)], 'several'), ([{'a'}], 'several'),
    (np.array([[0, 1], [1, 0]]), 'several'), (np.array([[.5, 2.]]), 'numbers'), ([[.1, .2], [1., 2.]], 'numbers'), (pd.DataFrame(dict(a=[0, 1], b=[1, 1])), 'several')])
def test_target(labels, want): assert target(labels) == want

@pytest.mark.parametrize('labels,vocab', [
    ([2, 10, 2], ['2', '10']), ([2., 10.], ['2', '10']), ([True, False], ['False', 'True']), (pd.array([10, 9], dtype='Int64'), ['9', '10']), (['b', 'a '], ['a', 'b']),
    (['10', '9'], ['10', '9']), (np.array([3, 1], np.int8), ['1', '3']), (['NA', 'None', 'nan'], ['NA', 'None', 'nan']), ([.5, 1.], ['0.5', '1'])])
def test_classes(labels, vocab): assert classes(labels)[1] == vocab

@pytest.mark.parametrize('gap', [None, float('nan'), np.nan, pd.NA, pd.NaT, '', '  '])
def test_a_gap_is_no_label(gap): refused(lambda: classes(['a', gap, 'b'], SOUND), r'1 of 3 recordings have no label \(row 1, counted', SoundError)


@dataclass(frozen=True)
class Dot:
    x: float
    label: object

class X(L.Transform):
    def encodes(self, o:Dot): return torch.tensor([o.x])

def dots(labels, what, vocab, splits, **kw):
    return L.dataloaders([Dot(float(i), o) for i,o in enumerate(labels)], [X()], L.target_tfms(what, vocab), splits, **{**dict(bs=4, device='cpu'), **kw})

def test_each_target_trains():
    from fastai.learner import Learner
    import fastai.callback.progress
    for labels,what,vocab,c in ((['a', 'b']*6, 'classes', ['a', 'b'], 2), ([('a',), (), ('a', 'b')]*4, 'several', ['a', 'b'], 2), ([.5, 1.5]*6, 'numbers', 1, 1), ([(.5, 1.)]*12, 'numbers', 2, 2)):
        dls = dots(labels, what, vocab, (range(6), range(6, 9), range(9, 12)))
        assert dls.c == c
        learn = Learner(dls, torch.nn.Linear(1, c))
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
            p, y = learn.get_preds(dl=dls.test)
            assert torch.allclose(torch.tensor(learn.validate(dl=dls.test)[0]), dls.loss_func(learn.model(torch.arange(9., 12)[:, None]), y).detach(), atol=1e-5)
        assert len(p) == 3
    assert y.shape == (3, 2) and y.dtype == torch.float32

def test_the_order_belongs_to_the_seed():
    def seen(seed):
        random.random()
        return [o for _ in range(2) for b in dots(list('ab')*20, 'classes', 'ab', (range(30), range(30, 40)), seed=seed).train for o in b[0].flatten().tolist()]
    assert seen(1) == seen(1) != seen(2) and sorted(seen(1)) == sorted([*range(30)]*2)

@pytest.mark.parametrize('n,sizes', [(9, [4, 4]), (10, [4, 4, 2]), (3, [3]), (1, [1])])
def test_no_batch_of_one(n, sizes): assert [len(y) for _,y in dots(list('ab')*20, 'classes', 'ab', (range(n), range(30, 40))).train] == sizes

def test_test_items_come_in_their_order():
    dls = dots(list('ab')*20, 'classes', 'ab', (range(20), range(20, 25), [39, 30, 35, 31, 32]))
    assert [o for b in dls.test for o in b[0].flatten().tolist()] == [39, 30, 35, 31, 32]
    assert dots(list('ab')*3, 'classes', 'ab', (range(4), range(4, 6))).test is None


# ---- class weights

@pytest.mark.parametrize('seed', range(5))
def test_class_weight_as_sklearn(seed):
    y = np.random.default_rng(seed).choice(list('abc'), 100, p=[.6, .3, .1])
    want = torch.tensor(compute_class_weight('balanced', classes=np.unique(y), y=y), dtype=torch.float32)
    assert torch.allclose(class_weight(y), want)
    dls = dots(y, 'classes', ['c', 'a', 'b'], (range(100), [0]))
    assert torch.allclose(class_weight(dls), want[[2, 0, 1]])
    loss = torch.nn.functional.cross_entropy(torch.zeros(100, 3), torch.tensor(['cab'.index(o) for o in y]), class_weight(dls))
    assert torch.isclose(loss, torch.tensor(3.).log())

def test_class_weight_counts_training_only():
    dls = dots(['a']*4 + ['b']*2 + ['a']*50, 'classes', ['a', 'b'], (range(6), range(6, 56)))
    assert torch.allclose(class_weight(dls), torch.tensor([6/8, 6/4]))

def test_class_weight_of_fastai_data():
    from fastai.data.all import CategoryBlock, DataBlock, RandomSplitter, TransformBlock
    dls = DataBlock((TransformBlock, CategoryBlock),
                    get_x=lambda i: torch.tensor([float(i)]), get_y=lambda i: 'xy'[i % 3 == 0], splitter=RandomSplitter(seed=0)).dataloaders(list(range(30)), bs=4, device='cpu')
    y = [int(o) for o in dls.train_ds.tls[1]]
    assert torch.allclose(class_weight(dls), torch.tensor(compute_class_weight('balanced', classes=np.arange(2), y=y), dtype=torch.float32))

def test_class_weight_that_cannot_be():
    refused(lambda: class_weight(['a', 'b'], ['a', 'b', 'c']), 'no item has the class c')
    refused(lambda: class_weight(dots([.5]*9, 'numbers', 1, (range(6), range(6, 9)))), 'weights are for classes')


# ---- sources

def test_source_key(tmp_path):
    f = tmp_path/'a.png'
    f.write_bytes(b'one'); os.utime(f, ns=(10**18, 10**18))
    before = source_key(f)
    assert before == source_key(f) and hash(before) is not None
    f.write_bytes(b'two'); os.utime(f, ns=(10**18 + 1000, 10**18 + 1000))
    assert source_key(f) != before and source_key(tmp_path/'none') is None
    a = np.arange(6, dtype=np.uint8)
    keys = [a, a.reshape(2, 3), a.astype(np.int16), a[::-1], a.tobytes(), 'a', 'b']
    assert len({source_key(o) for o in keys}) == len(keys) and source_key(a[::2]) == source_key(a[::2].copy())
    assert source_key(np.array([object()])) is None and source_key(np.zeros((0, 3))) is not None

def test_keep():
    k = Keep(10)
    assert k.put('a', 1, 6) == 1 and k.put('b', 2, 6) == 2 and k.get('b') is None and k.get('a') == 1 and k.bytes == 6
    assert k.put(None, 3, 1) == 3 and k.get(None) is None
    again = pickle.loads(pickle.dumps(k))
    assert (again.kept, again.bytes, again.keep) == ({}, 0, 10) and k.get('a') == 1
