"Encoders against Transformers' own, batches and splits of texts, and one line for each kind of bad text."
import subprocess, sys, warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

transformers = pytest.importorskip('transformers', reason="the text extra is not installed")

from tlcourse import assets, text as T
from tlcourse.backbones import groups
from tlcourse.features import FeatureError, extract, probe
from tlcourse.text import Text, TextError

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

WORDS = 'the a of good bad fine poor cat dog ball game team vote law tax film song star code chip data naive caf ##e s un ##likely'.split()


def make(path, cls='Bert', **kw):
    "A tiny encoder of a kind of Transformers, with random weights, saved in `path`."
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
    path.mkdir(parents=True, exist_ok=True)
    (path/'vocab.txt').write_text('\n'.join(vocab), encoding='utf-8')
    torch.manual_seed(0)
    config = getattr(transformers, f'{cls}Config')(**dict(vocab_size=len(vocab), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
                                                        max_position_embeddings=20, initializer_range=.3) | kw)
    getattr(transformers, f'{cls}Model')(config).save_pretrained(path)
    transformers.BertTokenizer(str(path/'vocab.txt'), model_max_length=20).save_pretrained(path)
    return f'hf:{path}'

@pytest.fixture(scope='module')
def tiny(tmp_path_factory): return make(tmp_path_factory.mktemp('tiny'))

def sentences(n=40, seed=0):
    "Texts of 1 to 12 words of two kinds: the label is the word that is in it."
    rng = np.random.default_rng(seed)
    rows = [(['cat', 'tax'][i%2], ' '.join([*rng.choice([w for w in WORDS[:20] if w not in ('cat', 'tax')], rng.integers(0, 12)), ['cat', 'tax'][i%2], f'{"s "*(i//2%5)}'])) for i in range(n)]
    return pd.DataFrame(rows, columns=['label', 'text']).drop_duplicates('text', ignore_index=True)

def on(name): return dict(encoder=name, device='cpu', max_length=20)

def ids_of(model, texts, length=None):
    out = model.tokenizer(texts, padding='max_length' if length else True, max_length=length, truncation=bool(length), return_tensors='pt')
    return out.input_ids, out.attention_mask

def fails(f, *words, error=TextError):
    with pytest.raises(error) as e: f()
    assert '\n' not in str(e.value) and len(str(e.value)) < 400 and all(w in str(e.value) for w in words), str(e.value)


# ---- the encoder

def mean_of(name, ids, mask):
    "What Transformers says itself: the last hidden states, averaged under the mask."
    folder = T._folder(name)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad(): h = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.stack([a[m.bool()].mean(0) for a,m in zip(h, mask)]), h

@pytest.mark.parametrize('cls', ['Bert', 'Electra'])
def test_same_as_transformers(tmp_path, cls):
    name = make(tmp_path, cls, **dict(embedding_size=16) if cls == 'Electra' else {})
    m = T.load(name)
    ids, mask = ids_of(m, list(sentences().text[:9]))
    want, h = mean_of(name, ids, mask)
    with torch.no_grad(): got, inner = m(ids), m[:-1](ids)
    assert (mask == 0).any() and torch.allclose(got, want, atol=1e-5) and torch.allclose(inner, h*mask[..., None], atol=1e-5)

def test_minilm_same_as_transformers():
    try: assets.fetch('minilm', progress=False)
    except assets.AssetError as e: pytest.skip(str(e))
    m = T.load('minilm')
    ids, mask = ids_of(m, ['Shares fell on Monday.', 'The match was played in heavy rain, and nobody scored until the very last minute of it.', ''])
    want, _ = mean_of('minilm', ids, mask)
    with torch.no_grad(): got = m(ids)
    assert got.shape == (3, 384) and torch.allclose(got, want, atol=1e-5)

def test_padding_changes_nothing(tiny):
    m = T.load(tiny, 2)
    texts = list(sentences().text[:9])
    with torch.no_grad(): short, long = m(ids_of(m, texts)[0]), m(ids_of(m, texts, 20)[0])
    alone = torch.cat([m(ids_of(m, t)[0]) for t in texts])
    assert torch.allclose(short, long, atol=1e-5) and torch.allclose(short, alone, atol=1e-5)

def test_a_padded_place_is_zeros_after_every_group(tiny):
    m = T.load(tiny)
    h, mask = ids_of(m, ['cat', 'the good cat s game'])
    for g in m[:-1]:
        h = g(h)
        assert isinstance(h, torch.Tensor) and h.shape == (*mask.shape, 16) and torch.equal((h != 0).any(-1), mask.bool())

def test_what_is_padded():
    "A place counts unless all its entries are 0: negative ones, the smallest, and NaN count."
    h = torch.tensor([[[0., -1], [0, 0], [-0., 0], [1e-40, 0], [float('nan'), 0]]], requires_grad=True)
    assert T._mask(h).tolist() == [[True, False, False, True, True]] and torch.equal(T._mask(h), (h != 0).any(-1))

def test_padding_gets_no_gradient_and_all_padding_is_no_nan(tiny):
    m = T.load(tiny, 2).train()
    m(torch.tensor([[2, 6, 3, 0], [0, 0, 0, 0]])).sum().backward()
    grads = [p.grad for p in m.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads) and m[0].embeddings.word_embeddings.weight.grad[0].abs().max() == 0

def test_groups(tiny):
    m = T.load(tiny, 4)
    gs = groups(m)
    assert isinstance(m, nn.Sequential) and len(gs) == 6 and gs[-1].out_features == 4 and len(groups(T.load(tiny))) == 5
    assert [k for k,_ in m.named_children()] == ['embeddings', 'layer0', 'layer1', 'layer2', 'pool', 'head']
    assert type(m.layer0.layer).__name__ == 'BertLayer' and type(m.embeddings.embeddings).__name__ == 'BertEmbeddings'
    assert not m.training and m.tokenizer is T.tokenizer(tiny) and isinstance(m[1:3], nn.Sequential)

def test_dropout_is_off_unless_asked_for(tiny):
    x = torch.tensor([[2, 6, 7, 3]])
    still, noisy = T.load(tiny).train(), T.load(tiny, dropout=.3).train()
    assert torch.equal(still(x), still(x)) and not torch.equal(noisy(x), noisy(x))

def test_random_weights_and_heads_follow_the_seed(tiny):
    def w(**kw): torch.manual_seed(3); return torch.cat([p.flatten() for p in T.load(tiny, 2, **kw).parameters()])
    a, b = w(pretrained=False), w(pretrained=False)
    assert torch.equal(a, b) and not torch.allclose(a, w()) and torch.equal(w()[-34:], w()[-34:])

def test_load_refuses(tiny, tmp_path):
    fails(lambda: T.load('bert'), "'minilm' or 'hf:")
    fails(lambda: T.load(tiny, 0), 'n_out', '1 or more')
    fails(lambda: T.load(f'hf:{tmp_path}/a/b/c'), 'no such folder')
    fails(lambda: T.load(f'hf:{tmp_path}'), 'Transformers')
    fails(lambda: T.load(make(tmp_path/'e', 'Electra', embedding_size=8)), 'BERT-type')
    fails(lambda: T.load(make(tmp_path/'d', 'DistilBert', dim=16, n_layers=1, n_heads=2, hidden_dim=8)), 'BERT-type')

def test_forward_refuses(tiny):
    m = T.load(tiny)
    fails(lambda: m(torch.zeros(2, 3)), 'whole numbers', 'float32')
    fails(lambda: m(torch.ones(1, 21, dtype=torch.long)), '21 tokens', '20 at most')

def test_without_the_extra():
    code = "import sys; sys.modules['transformers'] = None\ntry: import tlcourse.text\nexcept ImportError as e: print(e)"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout == "tlcourse.text needs Transformers; run pip install 'tlcourse[text]'\n", out.stderr[-500:]


# ---- DataLoaders

def test_texts(tiny):
    df = sentences(60)
    dls = T.texts(df, 30, 20, bs=8, **on(tiny) | dict(max_length=12))
    x, y = dls.one_batch()
    assert x.dtype == y.dtype == torch.int64 and x.shape[0] == 8 and dls.vocab == ['cat', 'tax'] and dls.c == 2
    seen = [(row[row != 0].tolist(), dls.vocab[l]) for x,y in dls.train for row,l in zip(x, y)]
    items = dls.train_ds.items
    want = [(T.tokenizer(tiny)(o.text, truncation=True, max_length=12).input_ids, o.label) for o in items]
    assert sorted(seen) == sorted(want) and len(items) == 30 and isinstance(items[0], Text)
    assert not {o.id for o in items} & {o.id for o in dls.valid_ds.items} and len(dls.valid_ds.items) == 20
    assert 'cat' in dls.train_ds.decode(dls.train_ds[0])[0] + 'cat'

def test_batches_are_of_like_length(tiny):
    dls = T.texts(sentences(400), 300, 60, bs=8, **on(tiny))
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
    dls = T.texts(sentences(60), 32, 10, bs=4, **on(tiny))
    def epoch(): return {frozenset(map(tuple, x.tolist())) for x,_ in dls.train}
    assert len(epoch() & epoch()) < 4

def test_order_and_split_follow_the_seed(tiny):
    def run(seed): return [x.tolist() for x,_ in T.texts(sentences(60), 30, 20, bs=8, seed=seed, **on(tiny)).train]
    assert run(1) == run(1) != run(2)

def test_splits_are_nested(tiny):
    def ids(n): dls = T.texts(sentences(60), n, 20, **on(tiny)); return [{o.id for o in ds.items} for ds in (dls.train_ds, dls.valid_ds)]
    (a, va), (b, vb) = ids(10), ids(30)
    assert a < b and va == vb and not b & vb

def test_a_corpus_that_comes_split_keeps_its_parts(tiny):
    df = sentences(80).assign(part=lambda d: np.where(np.arange(len(d)) < 50, 'train', 'test'))
    dls = T.texts(df, 10, 8, **on(tiny))
    def at(ds): return [int(o.id.split('/')[1]) for o in ds.items]
    assert max(at(dls.train_ds)) < 50 <= min(at(dls.valid_ds)) and set(at(T.texts(df, 20, 8, **on(tiny)).train_ds)) > set(at(dls.train_ds))
    whole = T.texts(df, **on(tiny))
    assert len(whole.train_ds) == 50 and len(whole.valid_ds) == len(df) - 50
    for n in (0, 51): fails(lambda: T.texts(df, n, **on(tiny)), f'n_train={n}', '1 to 50')
    fails(lambda: T.texts(df, 9, 99, **on(tiny)), 'n_valid=99', 'test part')

def test_new_texts(tiny):
    dls = T.texts(sentences(), 20, 10, **on(tiny))
    x, = next(iter(dls.test_dl(['the cat', 'a very good game of ball s', ''])))
    assert [o[o != 0].tolist() for o in x] == T.tokenizer(tiny)(['a very good game of ball s', 'the cat', '']).input_ids

def test_texts_refuses(tiny):
    df = sentences()
    fails(lambda: T.texts(df, 5000, **on(tiny)), 'texts', 'n_train')
    fails(lambda: T.texts(df, 1, **on(tiny)), 'n_train=1')
    for n in (2, 21): fails(lambda: T.texts(df, **on(tiny) | dict(max_length=n)), f'max_length={n}', '3 to 20')
    fails(lambda: T.texts(df, encoder='nobody'), "'minilm' or 'hf:")


# ---- what the course's helpers make of it

def test_extract_and_probe(tiny, home):
    dls = T.texts(sentences(120), 60, 40, bs=8, **on(tiny))
    m = T.load(tiny, 2)
    f = extract(m, dls.valid, progress=False)
    with torch.no_grad(): want = torch.cat([m[:-1](dls.valid_ds[i][0][None].as_subclass(torch.Tensor)) for i in range(len(dls.valid_ds))])
    np.testing.assert_allclose(f.x, want, atol=1e-5)
    assert f.y.tolist() == [int(dls.valid_ds[i][1]) for i in range(len(f))] and f.vocab == ['cat', 'tax']
    np.testing.assert_array_equal(f.x, extract(T.load(tiny), dls.valid, progress=False).x)
    probe(extract(m, dls.train, progress=False), f)

def test_inner_layers_are_pooled_with_the_mask(tiny, home):
    dls, m = T.texts(sentences(), 20, 10, **on(tiny)), T.load(tiny, 2)
    low, last = extract(m, dls.valid, layer=[1, 3], progress=False)
    with torch.no_grad(): want = [m[:2](dls.valid_ds[i][0][None].as_subclass(torch.Tensor))[0].mean(0).numpy() for i in range(10)]
    np.testing.assert_allclose(low.x, want, atol=1e-5)
    np.testing.assert_allclose(last.x, extract(m, dls.valid, progress=False).x, atol=1e-5)
    fails(lambda: extract(m, dls.valid, layer=5), '0 to 4', error=FeatureError)


# ---- reading

def write(path, s, encoding='utf-8'):
    path.write_bytes(s if isinstance(s, bytes) else s.encode(encoding))
    return str(path)

def test_csv(tmp_path, tiny):
    s = 'id,review,stars\n1,"good, very good\nfilm",5\n2,bad film,1\n3,NA,1\n4,"שלום \U0001F600 عليكم",5\n5,bad film,1\n'
    df = T.read(write(tmp_path/'a.csv', s), text='review', label='stars')
    assert df.text.tolist() == ['good, very good\nfilm', 'bad film', 'NA', 'שלום \U0001F600 عليكم'] and df.label.tolist() == ['5', '1', '1', '5']
    assert T.read(write(tmp_path/'b.csv', 'label;text\nx;u\ny;v\n', 'utf-16'), sep=';', encoding='utf-16').text.tolist() == ['u', 'v']
    assert T.read(write(tmp_path/'c.tsv', '\ufefflabel\ttext\nx\tu\ny\tv\n')).label.tolist() == ['x', 'y']
    assert 'part' not in T.read(write(tmp_path/'d.csv', 'label,text,part\nx,u,1\ny,v,2\n'))
    assert T.read(write(tmp_path/'e.csv', 'label,text,part\nx,u,train\ny,v,test\n')).part.tolist() == ['train', 'test']
    dls = T.texts(str(tmp_path/'a.csv'), 2, 2, text='review', label='stars', **on(tiny))
    assert dls.vocab == ['1', '5'] and dls.one_batch()[0].shape[0] == 2

def test_long_and_strange_texts(tiny):
    df = pd.DataFrame(dict(text=['cat '*25_000, 'x'*100_000, '\U0001F600', 'שלום', '\x00\x01', 'dog'], label=list('ababab')))
    dls = T.texts(df, 2, 4, **on(tiny) | dict(max_length=8))
    m = T.load(tiny, 2)
    for x,y in dls.valid: assert x.shape[1] <= 8 and torch.isfinite(m(x)).all()

def test_bad_csv(tmp_path):
    read = lambda s, **kw: lambda: T.read(write(tmp_path/'a.csv', s), **kw)
    fails(lambda: T.read(tmp_path/'none.csv'), 'no such file', 'newsgroups')
    fails(lambda: T.read('bcc'), 'no such file', 'bbc')
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
    fails(lambda: T.read(tmp_path), 'no such file')

def test_bad_tables(tiny):
    fails(lambda: T.texts(pd.DataFrame(dict(text=['u', None], label=['x', 'y'])), **on(tiny)), '1 of 2 rows have no text')
    fails(lambda: T.texts(pd.DataFrame(dict(text=['u', 'v\ud800w', 'z', 'q'], label=list('xyxy'))), **on(tiny)), 'Unicode')
    fails(lambda: T.texts(pd.DataFrame(dict(texts=['u', 'v'], label=['x', 'y'])), **on(tiny)), "no column 'text'")

@pytest.mark.parametrize('name,n,c', [('bbc', 2127, 5), ('newsgroups', 18787, 20), ('reuters', 7595, 8), ('reuters52', 8997, 52)])
def test_corpora(name, n, c):
    try: df = T.read(name)
    except assets.AssetError as e: pytest.skip(str(e))
    assert df.shape[0] == n and df.label.nunique() == c and not df.text.duplicated().any() and ('part' in df) == (name != 'bbc')


# ---- features in the order of length, and rows put back

def test_rows_come_back_in_order_and_batches_go_by_length(tiny, home, monkeypatch):
    seen, old = [], T.TextDepths.forward
    monkeypatch.setattr(T.TextDepths, 'forward', lambda self, x: seen.append(x.shape[1]) or old(self, x))
    dls, m = T.texts(sentences(120), 60, 40, **on(tiny)), T.load(tiny)
    f = extract(m, dls.train, bs=8, progress=False)
    assert seen == sorted(seen, reverse=True) and len(set(seen)) > 3
    with torch.no_grad():
        for i in (0, 7, 59): np.testing.assert_allclose(f.x[i], m(dls.train_ds[i][0][None].as_subclass(torch.Tensor))[0], atol=1e-5)
    assert f.y.tolist() == [int(y) for _,y in dls.train_ds]
    seen.clear()
    np.testing.assert_array_equal(extract(m, dls.train, bs=8, progress=False).x, f.x)
    assert not seen, 'the features were on disk'

def test_an_interrupted_pass_goes_on(tiny, home, monkeypatch):
    dls, m = T.texts(sentences(120), 60, 40, **on(tiny)), T.load(tiny)
    want, old, n = extract(m, dls.train, bs=8, cache=False, progress=False), T.TextDepths.forward, []
    def stops(self, x):
        n.append(len(x))
        if len(n) == 4: raise KeyboardInterrupt
        return old(self, x)
    monkeypatch.setattr(T.TextDepths, 'forward', stops)
    with pytest.warns(UserWarning, match='stopped after 24 of 60'), pytest.raises(KeyboardInterrupt): extract(m, dls.train, bs=8, progress=False)
    np.testing.assert_allclose(extract(m, dls.train, bs=8, progress=False).x, want.x, atol=1e-6)
    assert sum(n[4:]) == 36

def test_the_same_items_in_another_order_are_no_hit(tiny, home):
    "A loader that runs in the order of items must not be given rows in the order of length."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from fastai.data.core import TfmdDL
    dls, m = T.texts(sentences(120), 60, 40, **on(tiny)), T.load(tiny)
    by_length = extract(m, dls.valid, progress=False)
    plain = TfmdDL(dls.valid_ds, bs=8, before_batch=T.Pad(0), num_workers=0)
    np.testing.assert_allclose(extract(m, plain, progress=False).x, by_length.x, atol=1e-5)

def test_views(tiny, home):
    dls = T.texts(sentences(120), 60, 40, tfms=T.Delete(.5), **on(tiny))
    m = T.load(tiny)
    v = extract(m, dls.train, views=3, progress=False)
    same = extract(m, T.texts(sentences(120), 60, 40, tfms=T.Delete(0.), **on(tiny)).train, views=2, progress=False)
    one = extract(m, dls.train, progress=False)
    assert v.x.shape == (60, 3, 16) and not np.allclose(v.x[:, 0], v.x[:, 1]) and v.y.tolist() == one.y.tolist()
    for k in (0, 1): np.testing.assert_allclose(same.x[:, k], one.x, atol=1e-5)


# ---- fine-tuning

def fitted(tiny, cbs=(), epochs=2, k=1):
    from tlcourse.finetune import gradual_unfreeze, learner
    dls = T.texts(sentences(120), 60, 40, bs=8, **on(tiny))
    torch.manual_seed(0)
    learn = learner(dls, T.load(tiny, 2), cbs=cbs)
    with learn.no_bar(), learn.no_logging(): gradual_unfreeze(learn, epochs, [k*1e-2, slice(k*1e-3, k*5e-3), slice(k*1e-3, k*5e-3)], stages=(-1, -3, -4))
    return learn

def test_learner_freezes_and_learns(tiny):
    learn, before = fitted(tiny, epochs=25, k=2), T.load(tiny, 2).state_dict()
    moved = {k.split('.')[0] for k,v in learn.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {'layer1', 'layer2', 'head'}
    with learn.no_bar(): assert learn.validate(dl=learn.dls.train)[1] > .9 and len(learn.opt.param_lists) == 6

def test_prefix_cache_changes_nothing(tiny):
    from tlcourse.finetune import PrefixCache
    a, b = fitted(tiny), fitted(tiny, cache := PrefixCache(ahead=3))
    for (k, p), q in zip(a.model.state_dict().items(), b.model.state_dict().values()): torch.testing.assert_close(p, q, atol=2e-4, rtol=1e-3, msg=k)
    assert cache.computed == 5*100

def test_dropout_below_is_refused(tiny):
    from tlcourse.finetune import FinetuneError, PrefixCache, learner
    learn = learner(T.texts(sentences(120), 60, 40, bs=8, **on(tiny)), T.load(tiny, 2, dropout=.1), cbs=PrefixCache())
    learn.freeze()
    with learn.no_bar(), learn.no_logging(), pytest.raises(FinetuneError, match='Dropout'): learn.fit(1)

def test_predictions_come_in_the_order_asked_for(tiny):
    learn, new = fitted(tiny), ['tax', 'the good cat s game of ball', 'a tax s s s', 'cat']
    with learn.no_bar(): p, _ = learn.get_preds(dl=learn.dls.test_dl(new))
    with torch.no_grad(): want = torch.cat([learn.model(ids_of(learn.model, o)[0]).softmax(1) for o in new])
    assert torch.allclose(p, want, atol=1e-5) and (want[0] - want[1]).abs().max() > 1e-3


# ---- attribution

def test_attribution_is_complete(tiny):
    torch.manual_seed(1)
    m, text = T.load(tiny, 3), 'the good cat s game'
    f = T.attribution(m, text, target=1, steps=300)
    with torch.no_grad():
        ids = ids_of(m, text)[0]
        want = (m(ids) - m(ids.where(ids < 5, 4)))[0, 1].item()
    assert f.token.tolist() == ['[CLS]', *text.split(), '[SEP]'] and f.effect.sum() == pytest.approx(want, abs=.02)

def test_attribution_of_a_bag_of_words_is_exact(tiny):
    "Without layers the logit is linear in the vectors: each token's effect is its own share."
    m = T.load(tiny, 2)
    bag = T.TextModel(m[0], m[-2], m[-1])
    bag.name = tiny
    f = T.attribution(bag, 'the cat', target=0, steps=2)
    assert m.tokenizer('the cat').input_ids == [2, 5, 12, 3]
    h = (m[0](torch.tensor([[2, 5, 12, 3]])) - m[0](torch.tensor([[2, 4, 4, 3]])))[0].detach()
    np.testing.assert_allclose(f.effect, (h@m[-1].weight[0]/4).detach(), atol=1e-5)
    assert f.effect[0] == f.effect[3] == 0 and f.token[2] == 'cat'
    fails(lambda: T.attribution(T.load(tiny), 'the cat'), 'head')


# ---- other words

def test_rewording():
    import random
    text = ' '.join(map(str, range(1000)))
    random.seed(0)
    assert 850 < len(T.Delete(.1)(text, split_idx=0).split()) < 950
    swapped = T.Swap(.1)(text, split_idx=0).split()
    assert sorted(swapped) == sorted(text.split()) and 100 < sum(a != b for a,b in zip(swapped, text.split())) < 260
    for way in (T.Delete(1.), T.Swap(1.)):
        assert way(text, split_idx=1) == text and way('one', split_idx=0) == 'one' and T.Delete(0.)('a b', split_idx=0) == 'a b'
    assert way('', split_idx=0) == ''

def test_reworded_in_training_only(tiny):
    dls = T.texts(sentences(120), 60, 40, bs=60, tfms=T.Delete(.6), **on(tiny))
    plain = T.texts(sentences(120), 60, 40, bs=60, **on(tiny))
    def total(dl): return sum((x != 0).sum().item() for x,_ in dl)
    assert total(dls.train) < .8*total(plain.train) and total(dls.valid) == total(plain.valid)

def test_neighbors(tiny):
    m = T.load(tiny)
    tok, table = m.tokenizer, m[0].embeddings.word_embeddings.weight.detach()
    words = [w for w in WORDS if len(w) > 2 and w.isalpha() and w not in T.ENGLISH_STOP_WORDS]
    z = nn.functional.normalize(table[tok.convert_tokens_to_ids(words)] - table.mean(0), dim=1)
    s = (z@z[words.index('cat')]).argsort(descending=True)[1:4]
    assert T.neighbors('Cat', 3, tiny) == [words[i] for i in s] and T.neighbors('the', 3, tiny) == T.neighbors('xyz', 3, tiny) == []
    import random
    random.seed(0)
    out = T.Synonyms(1., 3, tiny)('the cat xyz', split_idx=0).split()
    assert out[0] == 'the' and out[1] in T.neighbors('cat', 3, tiny) and out[2] == 'xyz'

def test_masked_lm_learns_what_it_can_and_moves_nothing_else(tiny):
    "Texts in which each word is told by its neighbor."
    rng, twins = np.random.default_rng(0), [('cat', 'dog'), ('tax', 'law'), ('song', 'film')]
    lines = [' '.join(' '.join(twins[i]) for i in rng.integers(0, 3, 3)) for _ in range(300)]
    lm = T.fit_masked_lm(lines, tiny, layer=2, epochs=8, lr=1e-2, max_length=20)
    assert all(torch.equal(a, b) for a,b in zip(lm.body.state_dict().values(), T.load(tiny).state_dict().values()))
    tok = T.tokenizer(tiny)
    ids = torch.cat([tok(o, return_tensors='pt').input_ids for o in lines[:100]])
    with torch.no_grad(): logits = lm(ids.index_fill(1, torch.tensor([2]), tok.mask_token_id))
    assert (lm.vocab[logits[:, 2].argmax(1)] == ids[:, 2]).float().mean() > .5  # one in three without a look at the neighbor
    import random
    random.seed(0)
    assert T.InContext(lm, 1., 1, 20)('cat law', split_idx=0) != 'cat law' and T.InContext(lm, 0.)('cat law', split_idx=0) == 'cat law'
    again = T.fit_masked_lm(lines, tiny, layer=2, epochs=8, lr=1e-2, max_length=20)
    assert all(torch.equal(a, b) for a,b in zip(lm.state_dict().values(), again.state_dict().values()))

def test_pretrained_masked_lm(tmp_path, tiny):
    name = make(tmp_path)
    torch.manual_seed(0)
    whole = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(tmp_path)).eval()
    whole.save_pretrained(tmp_path)
    lm = T.masked_lm(name)
    ids, mask = ids_of(T.load(name), ['the good [MASK] s', 'cat'])
    with torch.no_grad(): want, got = whole(input_ids=ids, attention_mask=mask).logits, lm(ids)
    assert torch.allclose(got[mask.bool()], want[mask.bool()], atol=1e-5) and len(lm.vocab) == got.shape[-1]
    T.InContext(lm, 1., 2, 20)('cat law', split_idx=0)
    fails(lambda: T.masked_lm(make(tmp_path/'e', 'Electra', embedding_size=16)), 'head')
