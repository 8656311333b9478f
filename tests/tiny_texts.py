"Tiny encoders with random weights and texts of few words, for the tests of texts."
import numpy as np
import pandas as pd
import pytest
import torch

transformers = pytest.importorskip('transformers', reason="the text extra is not installed")

from tlcourse import text as T
from tlcourse.corpora import TextError

WORDS = 'the a of good bad fine poor cat dog ball game team vote law tax film song star code chip data naive caf ##e s un ##likely'.split()


SIZES = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24)
KINDS = {  # kind of encoder: its class in Transformers, and its configuration
    'bert': ('Bert', SIZES), 'electra': ('Electra', SIZES | dict(embedding_size=16)), 'electra-projected': ('Electra', SIZES | dict(embedding_size=8)),
    'roberta': ('Roberta', SIZES | dict(pad_token_id=1)), 'xlm-roberta': ('XLMRoberta', SIZES | dict(pad_token_id=1)),
    'camembert': ('Camembert', SIZES | dict(pad_token_id=1)), 'distilbert': ('DistilBert', dict(dim=16, n_layers=3, n_heads=2, hidden_dim=24)),
    'mpnet': ('MPNet', SIZES | dict(pad_token_id=1)),
    'deberta': ('Deberta', SIZES | dict(relative_attention=True, pos_att_type=['c2p', 'p2c'], max_relative_positions=6)),
    'deberta-v3': ('DebertaV2', SIZES | dict(relative_attention=True, pos_att_type=['c2p', 'p2c'], position_buckets=4, norm_rel_ebd='layer_norm',
                                             position_biased_input=False, share_att_key=True, type_vocab_size=0)),
    'deberta-v2-xlarge': ('DebertaV2', SIZES | dict(relative_attention=True, pos_att_type=['c2p', 'p2c'], position_buckets=4, conv_kernel_size=3, conv_act='gelu')),
    'albert': ('Albert', SIZES | dict(embedding_size=8)), 'albert-groups': ('Albert', SIZES | dict(embedding_size=8, num_hidden_groups=3, inner_group_num=2)),
    'modernbert': ('ModernBert', SIZES | dict(local_attention=4, global_attn_every_n_layers=2, pad_token_id=0, cls_token_id=2, sep_token_id=3))}

def make(path, kind='bert', head='Model', half=False, **kw):
    "A tiny encoder of a kind of Transformers, with random weights, saved in `path` with its tokenizer."
    cls, config = KINDS[kind]
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
    if config.get('pad_token_id'): vocab[:2] = vocab[1::-1]
    path.mkdir(parents=True, exist_ok=True)
    (path/'vocab.txt').write_text('\n'.join(vocab), encoding='utf-8')
    torch.manual_seed(0)
    config = getattr(transformers, f'{cls}Config')(**dict(vocab_size=len(vocab), max_position_embeddings=20 + 2*bool(config.get('pad_token_id')),
                                                        initializer_range=.3) | config | kw)
    model = getattr(transformers, f'{cls}{head}')(config)
    with torch.no_grad():
        for p in model.parameters():
            if kind != 'bert' and p.std() == 0: p.add_(.3*torch.randn_like(p)) # biases and norms too
    (model.half() if half else model).save_pretrained(path)
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
