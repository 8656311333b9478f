"Words changed at random and in training only; masked language models against Transformers' own."
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tlcourse import corpora as C, reword as R
from tiny_texts import *

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


# ---- other words

def test_rewording():
    import random
    text = ' '.join(map(str, range(1000)))
    random.seed(0)
    assert 850 < len(R.Delete(.1)(text, split_idx=0).split()) < 950
    swapped = R.Swap(.1)(text, split_idx=0).split()
    assert sorted(swapped) == sorted(text.split()) and 100 < sum(a != b for a,b in zip(swapped, text.split())) < 260
    for way in (R.Delete(1.), R.Swap(1.)):
        assert way(text, split_idx=1) == text and way('one', split_idx=0) == 'one' and R.Delete(0.)('a b', split_idx=0) == 'a b'
    assert way('', split_idx=0) == ''

def test_reworded_in_training_only(tiny):
    dls = C.texts(sentences(120), 60, 40, bs=60, item_tfms=R.Delete(.6), **on(tiny))
    plain = C.texts(sentences(120), 60, 40, bs=60, **on(tiny))
    def total(dl): return sum((x != 0).sum().item() for x,_ in dl)
    assert total(dls.train) < .8*total(plain.train) and total(dls.valid) == total(plain.valid)

def test_neighbors(tiny):
    m = T.load(tiny)
    tok, table = m.tokenizer, m[0].embeddings.word_embeddings.weight.detach()
    words = [w for w in WORDS if len(w) > 2 and w.isalpha() and w not in R.ENGLISH_STOP_WORDS]
    z = nn.functional.normalize(table[tok.convert_tokens_to_ids(words)] - table.mean(0), dim=1)
    s = (z@z[words.index('cat')]).argsort(descending=True)[1:4]
    assert R.neighbors('Cat', 3, tiny) == [words[i] for i in s] and R.neighbors('the', 3, tiny) == R.neighbors('xyz', 3, tiny) == []
    import random
    random.seed(0)
    out = R.Synonyms(1., 3, tiny)('the cat xyz', split_idx=0).split()
    assert out[0] == 'the' and out[1] in R.neighbors('cat', 3, tiny) and out[2] == 'xyz'

def test_masked_lm_learns_what_it_can_and_moves_nothing_else(tiny):
    "Texts in which each word is told by its neighbor."
    rng, twins = np.random.default_rng(0), [('cat', 'dog'), ('tax', 'law'), ('song', 'film')]
    lines = [' '.join(' '.join(twins[i]) for i in rng.integers(0, 3, 3)) for _ in range(300)]
    lm = R.fit_masked_lm(lines, tiny, layer=2, epochs=8, lr=1e-2, max_length=20)
    assert all(torch.equal(a, b) for a,b in zip(lm.body.state_dict().values(), T.load(tiny).state_dict().values()))
    tok = C.tokenizer(tiny)
    ids = torch.cat([tok(o, return_tensors='pt').input_ids for o in lines[:100]])
    with torch.no_grad(): logits = lm(ids.index_fill(1, torch.tensor([2]), tok.mask_token_id))
    assert (lm.vocab[logits[:, 2].argmax(1)] == ids[:, 2]).float().mean() > .5  # one in three without a look at the neighbor
    import random
    random.seed(0)
    assert R.InContext(lm, 1., 1, 20)('cat law', split_idx=0) != 'cat law' and R.InContext(lm, 0.)('cat law', split_idx=0) == 'cat law'
    again = R.fit_masked_lm(lines, tiny, layer=2, epochs=8, lr=1e-2, max_length=20)
    assert all(torch.equal(a, b) for a,b in zip(lm.state_dict().values(), again.state_dict().values()))

HEADS = [k for k in KINDS if k not in ('camembert', 'electra-projected', 'albert-groups', 'deberta-v3')]

@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('kind', HEADS)
def test_pretrained_masked_lm(tmp_path, kind, half):
    "Each head of Transformers, from a checkpoint in float16 too, gives the logits of the whole."
    name = make(tmp_path, kind, 'ForMaskedLM', half)
    lm = R.masked_lm(name)
    whole = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids, mask = ids_of(T.load(name), ['the good [MASK] s', 'cat'])
    with torch.no_grad(): want, got = whole(input_ids=ids, attention_mask=mask).logits, lm(ids)
    assert got.dtype == torch.float32 and torch.allclose(got[mask.bool()], want[mask.bool()], atol=1e-4) and len(lm.vocab) == got.shape[-1]
    R.InContext(lm, 1., 2, 20)('cat law', split_idx=0)

def test_no_masked_lm_of_an_unknown_kind(tmp_path):
    fails(lambda: R.masked_lm(make(tmp_path, 'deberta-v3', 'ForMaskedLM', legacy=False)), 'head', 'fit_masked_lm')
    fails(lambda: R.masked_lm(f'hf:{tmp_path}/nowhere/at/all'), 'no such folder')

@pytest.mark.parametrize('kind', ['distilbert', 'modernbert', 'mpnet'])
def test_neighbors_and_fitted_heads_of_other_kinds(tmp_path, kind):
    name = make(tmp_path, kind)
    assert len(R.neighbors('cat', 3, name)) == 3
    lm = R.fit_masked_lm(['cat dog law', 'dog law cat']*20, name, layer=2, epochs=1)
    assert lm(torch.tensor([[2, 6, 3]])).shape[-1] == len(lm.vocab)
