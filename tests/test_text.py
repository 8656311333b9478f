"Encoders against Transformers' own, features, fine-tuning, attribution."
import json, os, pickle, subprocess, sys, warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tlcourse import assets, corpora as C, reword as R
from tlcourse.backbones import groups
from tlcourse.features import FeatureError, extract, probe
from tiny_texts import *

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


# ---- the encoder

def mean_of(name, ids, mask):
    "What Transformers says itself: the last hidden states, averaged under the mask."
    folder = assets.fetch(name, progress=False) if name == 'minilm' else name[3:]
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(): h = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.stack([a[m.bool()].mean(0) for a,m in zip(h, mask)]), h

@pytest.mark.parametrize('kind', KINDS)
def test_same_as_transformers(tmp_path, kind):
    "The oracle is AutoModel with an attention mask; texts are as long as tokens can be far apart, and beyond any window."
    name = make(tmp_path, kind)
    m = T.load(name)
    ids, mask = ids_of(m, [*sentences().text[:9], 'the good cat '*6])
    want, h = mean_of(name, ids, mask)
    with torch.no_grad(): got, inner = m(ids), m[:-1](ids)
    assert (mask == 0).any() and ids.shape[1] == 20 and want.std() > .01
    assert torch.allclose(got, want, atol=1e-5) and torch.allclose(inner, h*mask[..., None], atol=1e-5)
    longer = torch.nn.functional.pad(ids[:9], (0, 20 - ids[:9].shape[1]), value=m.tokenizer.pad_token_id)
    with torch.no_grad(): alone = torch.cat([m(o[o != m.tokenizer.pad_token_id][None]) for o in ids])
    assert torch.allclose(alone, want, atol=1e-5) and torch.allclose(m(longer), want[:9], atol=1e-5)

@pytest.mark.parametrize('kind', KINDS)
def test_each_weight_is_in_one_group_and_learns(tmp_path, kind):
    m = T.load(make(tmp_path, kind), 2).train()
    owned = [{id(p) for p in g.parameters()} for g in groups(m)]
    assert sum(map(len, owned)) == len(set.union(*owned)) and len(owned) == (4 if 'albert' in kind else 6)
    m(ids_of(m, list(sentences().text[:9]))[0]).square().sum().backward()
    idle = {k for k,p in m.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert all('token_type' in k or k.endswith('key.bias') or 'position_embeddings' in k and kind == 'deberta-v3' for k in idle), idle

@pytest.mark.parametrize('kind', ['mpnet', 'deberta-v2-xlarge', 'albert', 'modernbert'])
def test_copies_stand_on_their_own(tmp_path, kind):
    "What layers share goes with a copy: a copy computed with the original's weights once."
    m = T.load(make(tmp_path, kind))
    ids = ids_of(m, list(sentences().text[:4]))[0]
    with torch.no_grad(): before = m(ids)
    for copy in (deepcopy(m), pickle.loads(pickle.dumps(m))):
        with torch.no_grad():
            assert torch.equal(copy(ids), before)
            for p in m.parameters(): p.mul_(-1.3)
            assert torch.equal(copy(ids), before) and not torch.allclose(m(ids), before, atol=1e-2)
            for p in m.parameters(): p.div_(-1.3)
    shared = copy[0].shared
    if kind == 'mpnet':
        with torch.no_grad(): shared.relative_attention_bias.weight.add_(torch.randn_like(shared.relative_attention_bias.weight)); assert not torch.allclose(copy(ids), before, atol=1e-3)

@pytest.mark.parametrize('kind', ['bert', 'mpnet', 'modernbert', 'distilbert'])
def test_half_precision_checkpoints_compute_in_float32(tmp_path, kind):
    name = make(tmp_path, kind, half=True)
    m = T.load(name, 2)
    ids, mask = ids_of(m, list(sentences().text[:5]))
    assert {p.dtype for p in m.parameters()} == {torch.float32} and next(iter(transformers.AutoModel.from_pretrained(tmp_path).parameters())).dtype == torch.float16
    whole = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad(): want, got = whole(input_ids=ids, attention_mask=mask).last_hidden_state*mask[..., None], m[:-2](ids)
    assert torch.allclose(got, want, atol=1e-5)

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
    assert not m.training and m.tokenizer is C.tokenizer(tiny) and isinstance(m[1:3], nn.Sequential)

@pytest.mark.parametrize('kind', KINDS)
def test_dropout_is_off_unless_asked_for(tmp_path, kind):
    x, name = torch.tensor([[2, 6, 7, 3]]), make(tmp_path, kind)
    still, noisy = T.load(name).train(), T.load(name, dropout=.3).train()
    assert torch.equal(still(x), still(x)) and not torch.equal(noisy(x), noisy(x))

def test_random_weights_and_heads_follow_the_seed(tiny):
    def w(**kw): torch.manual_seed(3); return torch.cat([p.flatten() for p in T.load(tiny, 2, **kw).parameters()])
    a, b = w(pretrained=False), w(pretrained=False)
    assert torch.equal(a, b) and not torch.allclose(a, w()) and torch.equal(w()[-34:], w()[-34:])

def test_load_refuses(tiny, tmp_path):
    fails(lambda: T.load('bert'), "'minilm', 'e5' or 'hf:")
    fails(lambda: T.load(tiny, 0), 'n_out', '1 or more')
    fails(lambda: T.load(f'hf:{tmp_path}/a/b/c'), 'no such folder')
    fails(lambda: T.load(f'hf:{tmp_path}'), 'Transformers')
    transformers.RoFormerConfig(vocab_size=40, **SIZES).save_pretrained(make(tmp_path/'r')[3:])
    fails(lambda: T.load(f'hf:{tmp_path}/r', pretrained=False), 'RoFormerModel', 'no plain sequence')
    transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2).save_pretrained(tmp_path/'g')
    transformers.AutoTokenizer.from_pretrained(tiny[3:]).save_pretrained(tmp_path/'g')
    fails(lambda: T.load(f'hf:{tmp_path}/g', pretrained=False), 'GPT2Model', 'kind of BERT')

def test_forward_refuses(tiny):
    m = T.load(tiny)
    fails(lambda: m(torch.zeros(2, 3)), 'whole numbers', 'float32')
    fails(lambda: m(torch.ones(1, 21, dtype=torch.long)), '21 tokens', '20 at most')

@pytest.mark.parametrize('kind', ['bert', 'roberta', 'mpnet', 'distilbert', 'albert'])
def test_the_longest_text_is_known(tmp_path, kind):
    "RoBERTa and MPNet count places from behind the number of their padding token: of 22 rows of their table 20 are for tokens."
    m = T.load(make(tmp_path, kind))
    assert m(torch.full((1, 20), 7)).isfinite().all()
    fails(lambda: m(torch.full((1, 21), 7)), '21 tokens', '20 at most')

def test_without_the_extra():
    code = "import sys; sys.modules['transformers'] = None\ntry: import tlcourse.text\nexcept ImportError as e: print(e)"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout == "tlcourse.text needs Transformers; run pip install 'tlcourse[text]'\n", out.stderr[-500:]


# ---- what the course's helpers make of it

def test_extract_and_probe(tiny, home):
    dls = C.texts(sentences(120), 60, 40, bs=8, **on(tiny))
    m = T.load(tiny, 2)
    f = extract(m, dls.valid, progress=False)
    with torch.no_grad(): want = torch.cat([m[:-1](dls.valid_ds[i][0][None].as_subclass(torch.Tensor)) for i in range(len(dls.valid_ds))])
    np.testing.assert_allclose(f.x, want, atol=1e-5)
    assert f.y.tolist() == [int(dls.valid_ds[i][1]) for i in range(len(f))] and f.vocab == ['cat', 'tax']
    np.testing.assert_array_equal(f.x, extract(T.load(tiny), dls.valid, progress=False).x)
    probe(extract(m, dls.train, progress=False), f)

def test_inner_layers_are_pooled_with_the_mask(tiny, home):
    dls, m = C.texts(sentences(), 20, 10, **on(tiny)), T.load(tiny, 2)
    low, last = extract(m, dls.valid, layer=[1, 3], progress=False)
    with torch.no_grad(): want = [m[:2](dls.valid_ds[i][0][None].as_subclass(torch.Tensor))[0].mean(0).numpy() for i in range(10)]
    np.testing.assert_allclose(low.x, want, atol=1e-5)
    np.testing.assert_allclose(last.x, extract(m, dls.valid, progress=False).x, atol=1e-5)
    fails(lambda: extract(m, dls.valid, layer=5), '0 to 4', error=FeatureError)


# ---- features in the order of length, and rows put back

def test_rows_come_back_in_order_and_batches_go_by_length(tiny, home, monkeypatch):
    seen, old = [], T.TextDepths.forward
    monkeypatch.setattr(T.TextDepths, 'forward', lambda self, x: seen.append(x.shape[1]) or old(self, x))
    dls, m = C.texts(sentences(120), 60, 40, **on(tiny)), T.load(tiny)
    f = extract(m, dls.train, bs=8, progress=False)
    assert seen == sorted(seen, reverse=True) and len(set(seen)) > 3
    with torch.no_grad():
        for i in (0, 7, 59): np.testing.assert_allclose(f.x[i], m(dls.train_ds[i][0][None].as_subclass(torch.Tensor))[0], atol=1e-5)
    assert f.y.tolist() == [int(y) for _,y in dls.train_ds]
    seen.clear()
    np.testing.assert_array_equal(extract(m, dls.train, bs=8, progress=False).x, f.x)
    assert len(seen) == 1, 'the features were on disk: one batch, of eight, is looked at again'

def test_an_interrupted_pass_goes_on(tiny, home, monkeypatch):
    dls, m = C.texts(sentences(120), 60, 40, **on(tiny)), T.load(tiny)
    want, n = extract(m, dls.train, bs=8, cache=False, progress=False), []
    def stops(module, args): # a hook of all modules: a method replaced here would be another network
        if not isinstance(module, T.TextDepths): return
        n.append(len(args[0]))
        if n.count(8) == 4 and len(args[0]) == 8: raise KeyboardInterrupt
    hook = torch.nn.modules.module.register_module_forward_pre_hook(stops)
    try:
        with pytest.warns(UserWarning, match='stopped after 24 of 60'), pytest.raises(KeyboardInterrupt): extract(m, dls.train, bs=8, progress=False)
        np.testing.assert_allclose(extract(m, dls.train, bs=8, progress=False).x, want.x, atol=1e-6)
    finally: hook.remove()
    assert sum(n[6:]) == 8 + 2 + 2 + 36 # eight of the 24 are looked at again; two items show, twice, that folding and turning change nothing

def test_the_same_items_in_another_order_are_no_hit(tiny, home):
    "A loader that runs in the order of items must not be given rows in the order of length."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from fastai.data.core import TfmdDL
    dls, m = C.texts(sentences(120), 60, 40, **on(tiny)), T.load(tiny)
    by_length = extract(m, dls.valid, progress=False)
    plain = TfmdDL(dls.valid_ds, bs=8, before_batch=C.Pad(0), num_workers=0)
    np.testing.assert_allclose(extract(m, plain, progress=False).x, by_length.x, atol=1e-5)

def test_views(tiny, home):
    dls = C.texts(sentences(120), 60, 40, item_tfms=R.Delete(.5), **on(tiny))
    m = T.load(tiny)
    v = extract(m, dls.train, views=3, progress=False)
    same = extract(m, C.texts(sentences(120), 60, 40, item_tfms=R.Delete(0.), **on(tiny)).train, views=2, progress=False)
    one = extract(m, dls.train, progress=False)
    assert v.x.shape == (60, 3, 16) and not np.allclose(v.x[:, 0], v.x[:, 1]) and v.y.tolist() == one.y.tolist()
    for k in (0, 1): np.testing.assert_allclose(same.x[:, k], one.x, atol=1e-5)


# ---- fine-tuning

def fitted(tiny, cbs=(), epochs=2, k=1):
    from tlcourse.finetune import gradual_unfreeze
    from tlcourse.learners import learner
    dls = C.texts(sentences(120), 60, 40, bs=8, **on(tiny))
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
    from tlcourse.prefix import PrefixCache
    a, b = fitted(tiny), fitted(tiny, cache := PrefixCache(ahead=3))
    for (k, p), q in zip(a.model.state_dict().items(), b.model.state_dict().values()): torch.testing.assert_close(p, q, atol=2e-4, rtol=1e-3, msg=k)
    assert cache.computed == 5*100

def test_dropout_below_is_refused(tiny):
    from tlcourse.learners import FinetuneError, learner
    from tlcourse.prefix import PrefixCache
    learn = learner(C.texts(sentences(120), 60, 40, bs=8, **on(tiny)), T.load(tiny, 2, dropout=.1), cbs=PrefixCache())
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


# ---- the recipe

def test_the_recipe_as_a_script(tmp_path):
    "On a csv of one's own, in an empty folder, with nothing of the lesson but the recipe's cell."
    try: assets.fetch('minilm', progress=False)
    except assets.AssetError as e: pytest.skip(str(e))
    nb = json.loads((Path(__file__).parent.parent/'nbs'/'lessons'/'08_text.ipynb').read_text(encoding='utf-8'))
    recipe, = [s for c in nb['cells'] if (s := ''.join(c['source'])).startswith('#| label: lst-recipe')]
    _, first, *rest = recipe.splitlines()
    assert first.startswith("data, text, label, seed = 'bbc', 'text', 'label', 0"), first
    rows = [(f'{["A splendid", "An awful"][i%2]} {w}, which I {["loved", "hated"][i%2]}{"!"*(i//20)}', ['good', 'bad'][i%2])
            for i,w in enumerate('film play book concert album series show novel song opera'.split()*4)]
    pd.DataFrame(rows, columns=['review', 'mood']).to_csv(tmp_path/'mine.csv', index=False)
    script = '\n'.join(["data, text, label, seed = 'mine.csv', 'review', 'mood', 0", *rest])
    script = script.replace("'Shares fell after the profit warning.', 'The cup final was decided by a penalty.'", "'I loved this splendid play.', 'What an awful song.'")
    (tmp_path/'recipe.py').write_text(script, encoding='utf-8')
    out = subprocess.run([sys.executable, '-W', 'ignore', 'recipe.py'], cwd=tmp_path, capture_output=True, text=True, encoding='utf-8',
                         env=os.environ | dict(PYTHONPATH=str(Path(T.__file__).parent.parent), PYTHONUTF8='1', CUDA_VISIBLE_DEVICES=''))
    assert out.returncode == 0, out.stderr[-600:]
    assert out.stdout.strip().splitlines()[-1] == "['good', 'bad']" and (tmp_path/'my_model_08'/'tlcourse.json').exists()
