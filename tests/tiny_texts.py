"Tiny encoders with random weights and texts of few words, for the tests of texts."
import numpy as np
import pandas as pd
import pytest
import torch

transformers = pytest.importorskip('transformers', reason="the text extra is not installed")

from tlcourse import text as T
from tlcourse.corpora import TextError

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
