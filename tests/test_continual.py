"Sequences of tasks of texts, sounds, folders and features: that each item keeps its label, its length and its class, and no remedy crashes."
import copy, random, warnings
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.data.all import Categorize, DataBlock, DataLoaders, Datasets, MultiCategorize, OneHotEncode, RegressionSetup
    from fastai.data.core import TfmdDL
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat

from tlcourse import forgetting
from tlcourse.continual import AccuracyMatrix, ContinualError, Heads, Task, class_tasks, dls_tasks, evaluate, fisher, joined, labels, run_tasks, sample, tensors, whole
from tlcourse.core import TLCourseError
from tlcourse.forgetting import EWC, LwF, Replay


def fails(f, *words):
    with pytest.raises(ContinualError) as e: f()
    assert '\n' not in str(e.value) and len(str(e.value)) < 300 and all(w in str(e.value) for w in words), str(e.value)
    assert isinstance(e.value, TLCourseError) and isinstance(e.value, ValueError)

def quiet(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)


# Data whose items differ in length -------------------------------------------------------------------------------

class Waves(Dataset):
    "Sounds of 5 to 30 samples, of class c the number c + 1 in every place; the first says which item it is."
    def __init__(self, n, seed=0):
        rng = np.random.default_rng(seed)
        self.y = [i % 4 for i in range(n)]
        self.x = [torch.full((int(rng.integers(5, 31)),), float(c + 1)) for c in self.y]
        for i,x in enumerate(self.x): x[0] = 100 + i
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return self.x[i], torch.tensor(self.y[i])

def filled(items): # -1 marks what was padded
    n = max(len(x) for x,*_ in items)
    return [(nn.functional.pad(x, (0, n - len(x)), value=-1.), *rest) for x,*rest in items]

def waves(n=48, bs=8, num_workers=0):
    train, valid = (TfmdDL(Waves(k, s), bs=bs, shuffle=not s, num_workers=num_workers, before_batch=filled) for s,k in enumerate((n, 24)))
    return DataLoaders(train, valid)

class Ear(nn.Module):
    "Mean over what is not padded, and a small network on it."
    def __init__(self, n=4): super().__init__(); self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, n))
    def forward(self, x):
        real = (x > 0) & (x < 50)
        m = (x*real).sum(1)/real.sum(1)
        return self.net(torch.stack([m, m**2/4], 1))

def ear(dls, n=4): return Learner(dls, Ear(n), CrossEntropyLossFlat(), lr=.03)

def sounds(): return class_tasks(waves(), [[0, 1], [2, 3]], ['low', 'high'])

def one_item(x): return x[x != -1]

def test_tasks_of_sounds_hold_their_own_items_whole():
    ds = waves().train_ds
    for t in sounds():
        seen = Counter()
        for x,y in t.dls.train.new(shuffle=False, drop_last=False):
            for xi,yi in zip(x, y):
                i = int(xi[0]) - 100
                assert torch.equal(one_item(xi), ds.x[i]) and yi == ds.y[i] and ds.y[i] in t.classes
                seen[i] += 1
        assert sorted(seen) == [i for i,c in enumerate(ds.y) if c in t.classes] and set(seen.values()) == {1}

def test_replay_pads_old_and_new_to_one_length():
    low, high = sounds()
    replay = Replay(12)
    learn = ear(low.dls)
    learn.add_cb(replay)
    quiet(learn)
    replay.end_task()
    lengths = {len(x) for x,_ in replay.items}
    assert len(replay.items) == 12 and len(lengths) > 3
    xb, yb = next(iter(joined(high.dls.train, replay.items)))
    assert len(xb) == 16 and (yb[:8] >= 2).all() and (yb[8:] < 2).all()
    kept, ds = [x for x,_ in replay.items], waves().train_ds
    for x in xb[8:]: assert any(torch.equal(one_item(x), o) for o in kept)
    for x in xb[:8]: assert torch.equal(one_item(x), ds.x[int(x[0]) - 100])
    assert xb.shape[1] == max(len(one_item(x)) for x in xb)

@pytest.mark.parametrize('setting', ['task', 'class'])
def test_every_remedy_runs_on_sounds(setting):
    for cbs in ([Replay(8)], [EWC(1., 10)], [LwF(1.)], [EWC(1., 10), LwF(1.), Replay(8, bs=3)]):
        df = run_tasks(sounds(), ear, cbs, lambda l: l.fit(2), setting, progress=False)
        assert df.accuracy.between(0, 1).all() and len(df) == 6

def test_replay_helps_on_sounds():
    naive, replayed = (AccuracyMatrix(run_tasks(sounds(), ear, cbs, lambda l: l.fit(60), 'class', progress=False)) for cbs in ([], [Replay(12)]))
    assert replayed.R[-1, 0] > naive.R[-1, 0] + .3

def test_replay_with_workers():
    dls = waves(num_workers=1)
    old = [dls.train.do_item(i) for i in (1, 5)]
    x, y = next(iter(joined(dls.train, old, 3)))
    assert len(x) == 11 and set(y[8:].tolist()) == {1}

def test_joined_leaves_the_loader_as_it_was():
    dls = waves()
    before = dict(dls.train.__dict__)
    random.seed(0); torch.manual_seed(0)
    a = random.random()
    random.seed(0)
    new = joined(dls.train, [dls.train.do_item(0)])
    assert random.random() == a and new is not dls.train and len(new) == len(dls.train)
    next(iter(new))
    assert {k: v for k,v in dls.train.__dict__.items() if k in before} == before # fastai notes types there, too
    assert next(iter(dls.train))[0].shape[0] == 8

def test_an_interrupted_epoch_leaves_nothing_of_replay_behind():
    low, high = sounds()
    class Stop(Exception): pass
    class Bomb(Replay):
        def before_batch(self):
            if self.learn.training: raise Stop('now')
    bomb = Bomb(4)
    learn = ear(low.dls)
    learn.add_cb(bomb)
    bomb.end_task()
    with pytest.raises(Stop): quiet(learn)
    learn.remove_cb(bomb)
    assert len(next(iter(learn.dls.train))[0]) == 8


# Texts -----------------------------------------------------------------------------------------------------------

def test_tasks_of_texts_read_labels_by_item_and_not_by_batch(tmp_path):
    "`ByLength` sorts: the labels of its batches are not in the order of its items."
    tiny = pytest.importorskip('tiny_texts')
    from tlcourse import corpora, text
    name = tiny.make(tmp_path/'enc')
    frame = tiny.sentences(60)
    frame['label'] = [f'{a}{i % 2}' for i,a in enumerate(frame.label)]
    dls = corpora.texts(frame, bs=4, n_valid=16, **tiny.on(name))
    want = [dls.vocab.o2i[o.label] for o in dls.train_ds.items]
    assert labels(dls.train).tolist() == want
    assert torch.cat([y for _,y in dls.train.new(shuffle=False, drop_last=False)]).tolist() != want, 'a set where the order does not matter tests nothing'
    groups = [[0, 1], [2, 3]]
    tasks = class_tasks(dls, groups, ['cats', 'taxes'])
    for t,g in zip(tasks, groups):
        for part in t.dls:
            assert {dls.vocab.o2i[o.label] for o in part.dataset.items} == set(g)
            for x,y in part.new(shuffle=False, drop_last=False): assert set(y.tolist()) <= set(g)
    assert sorted(o.id for t in tasks for o in t.dls.train_ds.items) == sorted(o.id for o in dls.train_ds.items)
    make = lambda d: Learner(d, text.load(name, 4), CrossEntropyLossFlat(), lr=1e-2)
    for cbs in ([Replay(6)], [EWC(1., 6)], [LwF(1.)]):
        df = run_tasks(tasks, make, cbs, lambda l: l.fit(1), 'class', progress=False)
        assert df.accuracy.between(0, 1).all()

def test_replayed_texts_are_those_that_were_kept(tmp_path):
    tiny = pytest.importorskip('tiny_texts')
    from tlcourse import corpora
    name = tiny.make(tmp_path/'enc', 'roberta') # whose padding is 1, not 0
    dls = corpora.texts(tiny.sentences(40), bs=4, n_valid=8, **tiny.on(name))
    items = [dls.train.do_item(i) for i in range(12)]
    for x,y in joined(dls.train, items, 5):
        kept = {tuple(i.tolist()) for i,_ in items}
        for row in x[-5:]: assert tuple(v for v in row.tolist() if v != 1) in kept
        assert x.shape[1] == max((row != 1).sum() for row in x)

@pytest.mark.parametrize('kind', ['bert', 'mpnet', 'modernbert'])
def test_fisher_of_texts_is_that_of_a_loop(tmp_path, kind):
    "Padded batches of Transformers encoders, against autograd on single texts without padding; `vmap` cannot follow the last two."
    tiny = pytest.importorskip('tiny_texts')
    from tlcourse import corpora, text
    name = tiny.make(tmp_path/'enc', kind)
    dls = corpora.texts(tiny.sentences(24), bs=4, n_valid=6, **tiny.on(name))
    model, batch = text.load(name, 2), next(iter(dls.train))
    pad = corpora.tokenizer(name).pad_token_id
    got, n = fisher(model, [batch], 'data'), len(batch[0])
    want = {k: torch.zeros_like(p) for k,p in model.named_parameters()}
    for x,y in zip(*(o.as_subclass(torch.Tensor) for o in batch)):
        loss = nn.functional.cross_entropy(model(x[x != pad][None]), y[None])
        for (k,p),g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)): want[k] += g**2/n
    for k in want: torch.testing.assert_close(got[k], want[k], rtol=2e-3, atol=1e-7)

def test_an_error_of_the_network_itself_is_not_hidden():
    class Broken(nn.Linear):
        def forward(self, x): raise RuntimeError('no such luck')
    with pytest.raises(RuntimeError, match='no such luck'): fisher(Broken(3, 2), [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))])

def test_real_short_texts():
    "Reuters, if it is there: two tasks of two topics, whole loop."
    pytest.importorskip('transformers')
    from tlcourse import corpora
    try: dls = corpora.texts('reuters', n_train=80, n_valid=60, max_length=12, bs=10, device='cpu')
    except Exception as e: pytest.skip(str(e))
    top = [i for i,_ in Counter(labels(dls.train).tolist()).most_common(4)]
    tasks = class_tasks(dls, [sorted(top[:2]), sorted(top[2:])])
    class Bag(nn.Module):
        def __init__(self): super().__init__(); self.e = nn.EmbeddingBag(31000, 16, padding_idx=0); self.f = nn.Linear(16, 8)
        def forward(self, x): return self.f(self.e(x.as_subclass(torch.Tensor)))
    df = run_tasks(tasks, lambda d: Learner(d, Bag(), CrossEntropyLossFlat(), lr=.02), [Replay(10)], lambda l: l.fit(6), progress=False)
    assert AccuracyMatrix(df).R[0, 0] > .6


# Recordings of one's own ----------------------------------------------------------------------------------------

def tones(path, **freqs):
    "A folder of wavs of .2 to .6 seconds, a class each, of a tone of its own."
    from scipy.io import wavfile
    rng = np.random.default_rng(0)
    for name,f in freqs.items():
        (path/name).mkdir(parents=True)
        for i in range(8):
            t = np.arange(int(16000*rng.uniform(.2, .6)))/16000
            wavfile.write(path/name/f'{i}.wav', 16000, (8000*np.sin(2*np.pi*f*t + rng.uniform(0, 6)) + 100*rng.normal(size=len(t))).astype(np.int16))
    return path

class Bands(nn.Module):
    "Which of the 80 bands is loud."
    def __init__(self, n): super().__init__(); self.f = nn.Linear(80, n)
    def forward(self, x): return self.f(x.as_subclass(torch.Tensor).mean(2))

def test_speech_folders_as_tasks(tmp_path):
    "From wavs of different lengths to the matrix: one folder cut by class, and two folders joined by name; Replay keeps audio and joins it before Mel."
    from tlcourse.sounds import speech
    say = partial(speech, seconds=.5, bs=4, groups=False, device='cpu')
    dls = say(tones(tmp_path/'all', a=300, b=600, c=1200, d=2400))
    low, high = class_tasks(dls, [[0, 1], [2, 3]], ['low', 'high'])
    for t,g in ((low, 'ab'), (high, 'cd')): assert {o.label for o in t.dls.train_ds.items} == set(g)
    old = [low.dls.train.do_item(i) for i in range(4)]
    assert old[0][0].ndim == 1
    x, y = next(iter(joined(high.dls.train, old)))
    assert x.shape == (8, 80, 50) and (y[:4] >= 2).all() and (y[4:] < 2).all()
    want = low.dls.train.after_batch(low.dls.train.do_batch(old))[0]
    for o in x[4:]: assert min((o - w).abs().max() for w in want) < 1e-4
    make = lambda d: Learner(d, Bands(4), CrossEntropyLossFlat(), lr=.1)
    m = AccuracyMatrix(run_tasks([low, high], make, [Replay(8)], lambda l: l.fit(12), 'class', progress=False))
    assert m.R[0, 0] > .8 and m.acc > .7
    two = dls_tasks({'deep': say(tones(tmp_path/'deep', hum=300, low=600)), 'bright': say(tones(tmp_path/'bright', hiss=2400, mid=1200))})
    assert [[t.dls.vocab[i] for i in t.classes] for t in two] == [['hum', 'low'], ['hiss', 'mid']]
    assert AccuracyMatrix(run_tasks(two, make, [EWC(1., 8)], lambda l: l.fit(12), progress=False)).R[1, 1] > .7


# Tasks from data of their own ------------------------------------------------------------------------------------

def named(names, n=8, seed=0):
    items = [f'{name}/{i}' for i in range(n) for name in names]
    k = len(items)//4
    def x(o): return torch.tensor([float(len(o.split('/')[0])), float(ord(o[0]) - 97), 1.])
    return Datasets(items, [[x], [lambda o: o.split('/')[0], Categorize()]], splits=[range(k, len(items)), range(k)]).dataloaders(bs=4, num_workers=0)

def test_tasks_from_sets_of_their_own_go_by_name():
    "Bear is class 0 of the farm and class 1 of the wood; joined it has one number, and its own items."
    farm, wood = dls_tasks({'farm': named(['bear', 'cow']), 'wood': named(['ant', 'bear', 'owl'])})
    vocab = list(farm.dls.vocab)
    assert vocab == list(wood.dls.vocab) and sorted(vocab) == ['ant', 'bear', 'cow', 'owl'] and farm.dls.c == wood.dls.c == 4
    assert [vocab[i] for i in wood.classes] == ['ant', 'bear', 'owl'] and [vocab[i] for i in farm.classes] == ['bear', 'cow']
    for t in (farm, wood):
        for dl in t.dls:
            for (x,y),o in zip([dl.do_item(i) for i in range(len(dl.dataset))], dl.dataset.items): assert o.startswith(f'{vocab[y]}/') and x[0] == o.index('/')
            for x,y in dl: assert all(len(vocab[j]) == int(a) for a,j in zip(x[:, 0], y))

def small(dls, n=4): return Learner(dls, nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, n)), CrossEntropyLossFlat(), lr=.03)

def test_folders_as_tasks(tmp_path):
    "Two folders of pictures, each with its own two classes, from files to the accuracy matrix."
    from PIL import Image
    from tlcourse.data import folder
    rng, colors = np.random.default_rng(0), dict(red=(250, 0, 0), green=(0, 250, 0), blue=(0, 0, 250), grey=(120, 120, 120))
    for root,names in dict(one=('green', 'red'), two=('blue', 'grey')).items():
        for name in names:
            (tmp_path/root/name).mkdir(parents=True)
            for i in range(8): Image.fromarray((np.array(colors[name]) + rng.integers(0, 6, (16, 16, 3))).clip(0, 255).astype(np.uint8)).save(tmp_path/root/name/f'{i}.png')
    apart = {o: folder(tmp_path/o, size=16, bs=4, device='cpu') for o in ('one', 'two')}
    make = lambda dls: Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), CrossEntropyLossFlat(), lr=.1)
    fails(lambda: run_tasks([Task(k, v) for k,v in apart.items()], make, progress=False), 'dls_tasks')
    tasks = dls_tasks(apart)
    assert [[tasks[0].dls.vocab[i] for i in t.classes] for t in tasks] == [['green', 'red'], ['blue', 'grey']]
    for t in tasks: assert [t.dls.vocab[i] for i in labels(t.dls.train)] == [o.label for o in t.dls.train_ds.items]
    m = AccuracyMatrix(run_tasks(tasks, make, [Replay(6)], lambda l: l.fit(10), 'task', progress=False))
    assert m.R[0, 0] > .9 and m.R[1, 1] > .9

def test_the_same_numbers_for_other_classes_are_refused():
    "As Tasks made by hand their vocabularies say that 0 is not the same thing: in every setting."
    apart = [Task('farm', named(['bear', 'cow'])), Task('wood', named(['ant', 'bear']))]
    for setting in ('task', 'domain', 'class'): fails(lambda: run_tasks(apart, small, setting=setting, progress=False), 'dls_tasks')

def test_the_same_classes_in_two_places_are_domains():
    here, there = dls_tasks({'here': named(['bear', 'cow']), 'there': named(['cow', 'bear'])})
    assert here.classes == there.classes
    df = run_tasks([here, there], partial(small, n=2), setting='domain', fit=lambda l: l.fit(1), progress=False)
    assert len(df) == 6
    fails(lambda: run_tasks([here, there], partial(small, n=2), progress=False), 'overlap')

def test_sets_without_names_are_refused():
    dls = tensors(torch.randn(8, 2), torch.arange(8) % 2, torch.randn(8, 2), torch.arange(8) % 2)
    fails(lambda: dls_tasks({'a': dls}), 'a: its classes have no names')


# Targets that are no classes -------------------------------------------------------------------------------------

FRACTIONS = [torch.linspace(.1, .9, 9), np.linspace(.1, .9, 9), np.linspace(.1, .9, 9).astype(np.float16).tolist(), torch.tensor([0., 1, 2, 3, 4, 5, 6, 7, float('nan')]),
             torch.tensor([0., 1, 2, 3, 4, 5, 6, 7, float('inf')])]

@pytest.mark.parametrize('y', FRACTIONS, ids=['tensor', 'array', 'list', 'nan', 'inf'])
def test_numbers_are_refused_and_not_truncated(y):
    "They all became class 0."
    x, good = torch.randn(9, 2), torch.arange(9)
    fails(lambda: tensors(x, y, x, good), 'y: ', 'no whole number')
    fails(lambda: tensors(x, good, x, y), 'y_valid: ', 'no whole number')

def test_whole_numbers_of_any_type_are_classes():
    for y in (np.arange(3, dtype=np.uint8), torch.arange(3.), [0., 1., 2.], np.array([False, True, True]), torch.arange(3, dtype=torch.int32)):
        assert whole(y).dtype == torch.int64 and whole(y).tolist() == [int(o) for o in y]

def test_groups_that_are_none_are_refused():
    for groups in (2, [0, 1], ['ab']): fails(lambda: class_tasks(waves(), groups), 'groups=', '[[0, 1], [2, 3]]')

def test_tasks_of_numbers_or_several_labels_are_refused():
    items = list(range(20))
    numbers = Datasets(items, [[lambda o: float(o)], [lambda o: o/20., RegressionSetup()]], splits=[items[:14], items[14:]]).dataloaders(bs=4, num_workers=0)
    several = Datasets(items, [[lambda o: float(o)], [lambda o: ['a', 'b'] if o % 2 else ['a'], MultiCategorize(), OneHotEncode()]], splits=[items[:14], items[14:]]).dataloaders(bs=4, num_workers=0)
    fails(lambda: class_tasks(numbers, [[0], [1]]), 'no whole number', 'classes')
    fails(lambda: class_tasks(several, [[0], [1]]), '2 labels each')
    for dls in (numbers, several): fails(lambda: run_tasks([Task('a', dls)], small, progress=False), 'classes')


# Other ways to hold data -----------------------------------------------------------------------------------------

def test_labels_of_plain_data_sets_in_their_order():
    plain = [(torch.randn(3), i % 3) for i in range(12)]
    dls = DataLoaders.from_dsets(plain, plain, bs=4, num_workers=0, device='cpu')
    assert labels(dls.train).tolist() == [i % 3 for i in range(12)]
    nested = class_tasks(dls, [[0, 1], [2]])[0]
    assert labels(nested.dls.train).tolist() == [0, 1]*4
    assert [labels(t.dls.valid).unique().tolist() for t in class_tasks(nested.dls, [[0], [1]])] == [[0], [1]]
    df = run_tasks(class_tasks(dls, [[0], [1], [2]]), partial(small, n=3), [Replay(4)], setting='class', progress=False)
    assert len(df) == 12

def test_data_without_an_index_is_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): yield from [(torch.randn(3), 0), (torch.randn(3), 1)]
        def __len__(self): return 2
    dls = DataLoaders(TfmdDL(Stream(), bs=2, num_workers=0), TfmdDL(Stream(), bs=2, num_workers=0))
    fails(lambda: class_tasks(dls, [[0], [1]]), 'Stream cannot be asked for single items')

def test_sample_is_n_items_once_each():
    dls = waves()
    got = [int(x[0]) for xb,_ in sample(dls.train, 10, 3) for x in xb]
    assert len(got) == len(set(got)) == 10 and got == [int(x[0]) for xb,_ in sample(dls.train, 10, 3) for x in xb]
    assert sorted(int(x[0]) for xb,_ in sample(dls.train, 1000) for x in xb) == [100 + i for i in range(48)]

def test_tensors_take_items_one_by_one_when_somebody_looks():
    dls = tensors(torch.arange(10.)[:, None], torch.arange(10), torch.zeros(2, 1), torch.zeros(2), bs=4)
    x, y = next(iter(joined(dls.train, [(torch.tensor([77.]), torch.tensor(7))], 2)))
    assert x[:, 0].tolist()[4:] == [77., 77.] and y.tolist()[4:] == [7, 7] and (x[:4, 0] == y[:4]).all()


# Wrapped models --------------------------------------------------------------------------------------------------

WRAPS = pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')], ids=['DataParallel', 'compiled'])

def features():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 4
    x = torch.randn(40, 3, generator=g) + nn.functional.one_hot(y, 4)[:, :3]*2
    return tensors(x, y, x, y, bs=8)

@WRAPS
def test_fisher_of_a_wrapped_model_is_that_of_the_model(wrap):
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)), torch.randn(12, 3), torch.arange(12) % 4
    bare, wrapped = fisher(model, [(x, y)]), fisher(wrap(model), [(x, y)])
    assert set(bare) == set(wrapped) == set(dict(model.named_parameters()))
    for k in bare: torch.testing.assert_close(bare[k], wrapped[k])

@WRAPS
def test_remedies_on_wrapped_models_do_what_they_do_on_bare_ones(wrap, tmp_path):
    def make(around):
        def f(dls):
            learn = small(dls)
            learn.model = around(learn.model)
            return learn
        return f
    tasks = lambda: class_tasks(features(), [[0, 1], [2, 3]])
    for cbs in ([EWC(50., 20)], [LwF(1.)], [EWC(1., 10), LwF(1.), Replay(6)]):
        a, b = (run_tasks(tasks(), make(o), cbs, lambda l: l.fit(2), progress=False) for o in (lambda m: m, wrap))
        assert a.accuracy.tolist() == b.accuracy.tolist() and a.MB.tolist() == b.MB.tolist()
    done = run_tasks(tasks(), make(wrap), [EWC(1., 10)], path=tmp_path/'run.pt', progress=False)
    assert run_tasks(tasks(), make(lambda m: m), [EWC(1., 10)], path=tmp_path/'run.pt', progress=False).equals(done)


@pytest.mark.parametrize('first', [True, False])
def test_replay_beside_a_prefix_cache_trains_as_without(first):
    from tlcourse.learners import learner
    from tlcourse.prefix import PrefixCache
    def weights(*more):
        low, high = class_tasks(features(), [[0, 1], [2, 3]])
        torch.manual_seed(0)
        model, replay = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4)), Replay(6)
        learn = learner(low.dls, model, cbs=[*more, replay] if first else [replay, *more])
        learn.freeze()
        torch.manual_seed(0)
        quiet(learn, 2)
        replay.end_task()
        learn.dls = high.dls
        torch.manual_seed(0)
        quiet(learn, 3)
        return model[1].weight
    torch.testing.assert_close(weights(PrefixCache()), weights())


# Old places ------------------------------------------------------------------------------------------------------

def test_names_that_moved_are_still_found():
    from tlcourse import continual
    for name in ('tensors', 'Task', 'class_tasks', 'evaluate', 'AccuracyMatrix', 'Heads'):
        with pytest.warns(FutureWarning, match=f'forgetting.{name} is now tlcourse.continual.{name}'): assert getattr(forgetting, name) is getattr(continual, name)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert forgetting.run_tasks is continual.run_tasks and forgetting.fisher is continual.fisher
        assert issubclass(forgetting.EWC, continual.Continual) and forgetting.LwF and forgetting.Replay
