"Language models and heads against Transformers' own, brute force and the papers' definitions; and one line for each kind of bad input."
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip('transformers', reason="the text extra is not installed")

from tlcourse import language as G
from tlcourse.backbones import groups
from tlcourse.language import LanguageError
from tlcourse.likelihood import windows

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

TEXTS = ['the cat sat on the mat and the dog ran', 'a dog and a cat ran to the mat', 'on the mat sat a fat cat']*4

@pytest.fixture(scope='module')
def lm(): return G.causal('small', TEXTS, vocab_size=280, width=32, layers=2, context=16)

def fails(f, *words, error=LanguageError):
    with pytest.raises(error) as e: f()
    assert '\n' not in str(e.value) and len(str(e.value)) < 400 and all(w in str(e.value) for w in words), str(e.value)


# ---- texts and vocabulary

def test_plain(): assert G.plain("It's 12% up:\n  Café  ÉTÉ!") == 'it s up caf t'

def test_a_vocabulary_writes_any_text_and_knows_frequent_words():
    tok = G.bpe(TEXTS, 280)
    assert len(tok) <= 280 and tok.bos_token_id == tok.eos_token_id == 0 and tok.pad_token_id == 1
    for o in ('the cat', 'Zürich £5 🙂', 'مرحبا', 'x'*1000): assert tok.decode(tok(o).input_ids).strip() == o
    assert tok.tokenize('the mat') == ['Ġthe', 'Ġmat']

def test_bad_texts_are_one_line(lm):
    fails(lambda: G.bpe([]), 'no text')
    fails(lambda: G.bpe(TEXTS, 100), '258')
    fails(lambda: G.score(lm, ['a', ' ']), 'text 1', 'empty')
    fails(lambda: G.score(lm, ['a', None]), 'text 1', 'NoneType')
    fails(lambda: G.blocks(['a'], lm.tokenizer, 64), 'fewer')

def test_blocks_are_the_texts_end_to_end(lm):
    tok = lm.tokenizer
    flat = [i for o in TEXTS for i in [0, *tok(o).input_ids]]
    x = G.blocks(TEXTS, tok, 7)
    assert x.flatten().tolist() == flat[:len(flat)//7*7] and x.shape[1] == 7


# ---- the causal model

def test_a_small_model_is_set_by_its_seed_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    a, b, c = (G.causal('small', TEXTS, 280, 32, 1, 16, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    w = [m.transformer.wte.weight for m in (a, b, c)]
    assert torch.equal(w[0], w[1]) and not torch.equal(w[0], w[2]) and not a.training
    assert a.lm_head.weight is a.transformer.wte.weight

def test_a_saved_model_comes_back(lm, tmp_path):
    lm.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    back = G.causal(f'hf:{tmp_path}')
    x = G.blocks(TEXTS, lm.tokenizer, 16)
    with torch.no_grad(): assert torch.allclose(back(x).logits, lm(x).logits, atol=1e-5)
    assert back.tokenizer('the cat').input_ids == lm.tokenizer('the cat').input_ids
    assert np.allclose(G.score(back, TEXTS).nats, G.score(lm, TEXTS).nats, rtol=1e-5)

def test_no_such_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    fails(lambda: G.causal('small'), 'texts=')
    fails(lambda: G.causal('gpt2'), 'hf:REPO')
    fails(lambda: G.causal('hf:nobody/none'), 'TLCOURSE_OFFLINE')
    fails(lambda: G.causal(f'hf:{tmp_path}'), 'no GPT-2')
    fails(lambda: G.causal('small', TEXTS, 280, width=33), '32')

def test_the_loss_is_transformers_own(lm):
    x = G.blocks(TEXTS, lm.tokenizer, 16)[:3]
    with torch.no_grad(): assert torch.isclose(G.next_token_loss(lm(x), x), lm(x, labels=x).loss, atol=1e-6)

def test_training_lowers_the_loss_and_moves_every_weight(lm):
    import copy
    m, x = copy.deepcopy(lm), G.blocks(TEXTS, lm.tokenizer, 16)
    start = {k: v.clone() for k,v in m.state_dict().items()}
    learn = G.lm_learner(m, x, x[:2])
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 3e-3)
    assert G.score(m, TEXTS).perplexity < .7*G.score(lm, TEXTS).perplexity
    assert not [k for k,v in m.named_parameters() if torch.equal(v, start[k])]


# ---- how well it predicts

@torch.no_grad()
def one_by_one(lm, text):
    "-log p of a text that fits into the context, token by token."
    ids = [lm.tokenizer.bos_token_id, *lm.tokenizer(text).input_ids]
    return -sum(lm(torch.tensor([ids[:t]])).logits[0, -1].log_softmax(-1)[ids[t]].item() for t in range(1, len(ids))), len(ids) - 1

def test_score_is_the_sum_over_tokens(lm):
    texts = ['the cat', 'a dog ran to the mat', 'é']
    s, want = G.score(lm, texts), [one_by_one(lm, o) for o in texts]
    assert np.allclose(s.nats, [o[0] for o in want], rtol=1e-5) and s.tokens.tolist() == [o[1] for o in want]
    assert s.bytes.tolist() == [7, 20, 2]
    assert math.isclose(s.perplexity, math.exp(s.nats.sum()/s.tokens.sum())) and math.isclose(s.bits, s.nats.sum()/math.log(2)/29)
    assert np.allclose(s.each*s.bytes*math.log(2), s.nats)

def test_score_of_long_texts_counts_each_token_once(lm):
    import copy
    m = copy.deepcopy(lm)
    m.transformer.h, m.transformer.wpe.weight.data[:] = torch.nn.ModuleList(), 0  # now a token depends on the one before it alone
    long = ' '.join(TEXTS)
    ids = torch.tensor([0, *m.tokenizer(long).input_ids])
    assert len(ids) > 5*16
    with torch.no_grad(): want = F.cross_entropy(torch.cat([m(o[None]).logits[0] for o in ids[:-1].split(16)]), ids[1:], reduction='sum').item()
    got = G.score(m, [long, 'the'])
    assert math.isclose(got.nats[0], want, rel_tol=1e-5) and got.tokens[0] == len(ids) - 1

@pytest.mark.parametrize('n', [2, 15, 16, 17, 24, 25, 80])
def test_windows(n):
    seen = Counter()
    for ids, first in windows(list(range(n)), 16):
        assert len(ids) <= 16 and (first == 1 or first >= 8)
        seen.update(ids[first:])
    assert seen == Counter(range(1, n))

def test_score_depends_neither_on_the_batch_nor_on_the_mode(lm):
    lm.train()
    a, b = G.score(lm, TEXTS, bs=1), G.score(lm, TEXTS, bs=64)
    assert np.allclose(a.nats, b.nats, rtol=1e-5) and lm.training
    lm.eval()

def test_a_model_that_knows_nothing_is_as_unsure_as_its_vocabulary_is_large(lm):
    import copy
    m = copy.deepcopy(lm)
    for p in m.parameters(): p.data[:] = 0
    assert math.isclose(G.score(m, TEXTS).perplexity, lm.config.vocab_size, rel_tol=1e-4)


# ---- sampling

def test_next_probs_against_transformers_warpers():
    z = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper
    want = TopKLogitsWarper(7)(None, TemperatureLogitsWarper(.6)(None, z)).softmax(-1)
    assert torch.allclose(G.next_probs(z, .6, 7), want, atol=1e-6)
    assert torch.allclose(G.next_probs(z), z.softmax(-1)) and torch.allclose(G.next_probs(z, top_k=999), z.softmax(-1))
    fails(lambda: G.next_probs(z, 0), 'temperature')

def test_writing_with_top_1_is_greedy_generation(lm):
    ids = torch.tensor([[0, *lm.tokenizer('the cat').input_ids]])
    want = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=1, eos_token_id=None)[0]
    assert G.write(lm, 'the cat', 8, top_k=1) == lm.tokenizer.decode(want, skip_special_tokens=True).strip()
    assert G.write(lm, 'the', 30, seed=1) == G.write(lm, 'the', 30, seed=1) != G.write(lm, 'the', 30, seed=2)
    assert G.write(lm, 'the', 40).startswith('the')  # further than its context


# ---- a classifier

def test_a_classifier_reads_the_mean_and_ignores_padding(lm):
    c = G.classifier(lm, 3).eval()
    x = torch.tensor([[0, 30, 20, 21]])
    with torch.no_grad():
        want = c[2](lm.transformer(x).last_hidden_state.mean(1))
        assert torch.allclose(c(x), want, atol=1e-5)
        assert torch.allclose(c(F.pad(x, (0, 5), value=1)), want, atol=1e-5)
    assert len(groups(c)) == 3 and c[2].out_features == 3
    c[0].body.wte.weight.data[:] = 0
    assert lm.transformer.wte.weight.abs().sum() > 0  # a copy
    fails(lambda: G.classifier(lm, 1), 'two classes')

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_a_folder_in_16_bits_becomes_float32(lm, dtype, tmp_path):
    import copy
    copy.deepcopy(lm).to(dtype).save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    for m in (G.causal(f'hf:{tmp_path}'), G.causal(f'hf:{tmp_path}', pretrained=False)):
        assert {p.dtype for p in m.parameters()} == {torch.float32}
        assert {p.dtype for p in G.classifier(m, 3).parameters()} == {torch.float32} and G.score(m, TEXTS[:2]).nats.dtype == np.float64
        G.classifier(m, 3)(torch.tensor([[0, 5, 6, 1]])).sum().backward()

def test_the_classifier_takes_an_adapter(lm, tmp_path):
    pytest.importorskip('peft')
    from tlcourse.lora import adapt, attach, merge, save
    torch.manual_seed(0)
    base, ids = G.classifier(lm, 3), torch.tensor([[0, 5, 6, 1]])
    import copy
    m = adapt(copy.deepcopy(base), 'lora', r=2)
    assert torch.equal(m(ids), base(ids)) and m.adaptation.head == 'head'
    for p in m.parameters():
        if p.requires_grad: p.data += .3*torch.randn_like(p)
    m.eval()
    want = m(ids)
    assert torch.allclose(merge(m)(ids), want, atol=1e-4) and torch.allclose(attach(base, save(m, tmp_path/'a'))(ids), want, atol=1e-5)
