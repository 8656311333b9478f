"Language models and heads against Transformers' own, brute force and the papers' definitions; and one line for each kind of bad input."
import math, re
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

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

TEXTS = ['the cat sat on the mat and the dog ran', 'a dog and a cat ran to the mat', 'on the mat sat a fat cat']*4
ARTICLE = '''Brown backs Nordwind deal

The chancellor Gordon Brown met Anna Lund of Nordwind Systems in Paris on Monday. Mr Brown said the $1.5bn deal would add 12% by 2006.
Ms Lund told the BBC she was happy with it and that Europe would follow soon. "We Are Glad," she said.
Nordwind Systems rose on the news in London and fell again at the close of the day.'''


@pytest.fixture(scope='module')
def lm(): return G.causal('small', TEXTS, vocab_size=280, width=32, layers=2, context=16)

@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    "A tiny encoder with random weights, and its name."
    path = tmp_path_factory.mktemp('bert')
    words = 'mr brown said the deal would add by nord ##wind systems told bbc she was who what and lund ms to of in a rose on news . , % $ 1 2 ##5 0 ##0 ##6 ##bn'.split()
    (path/'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words]), encoding='utf-8')
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(words) + 5, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                                     max_position_embeddings=96, initializer_range=.3)
    transformers.BertModel(config).save_pretrained(path)
    transformers.BertTokenizer(str(path/'vocab.txt'), model_max_length=96).save_pretrained(path)
    return f'hf:{path}'

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
    for ids, first in G._windows(list(range(n)), 16):
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


# ---- names

def test_names_are_what_the_rule_says():
    df = G.name_sentences([ARTICLE])
    got = [{(k, ' '.join(w[a:b])) for k,a,b in G.entities(t)} for w,t in zip(df.words, df.tags)]
    assert got[0] == {('PER', 'Gordon Brown'), ('PER', 'Anna Lund'), ('OTHER', 'Nordwind Systems'), ('OTHER', 'Paris')}  # Monday is none
    assert got[1] == {('PER', 'Brown')} and got[2] == {('PER', 'Lund'), ('OTHER', 'BBC'), ('OTHER', 'Europe')}
    assert len(df) == 3  # quotes, and a name that may begin with the first word, are left out
    assert all(t[0] is None and len(w) == len(t) for w,t in zip(df.words, df.tags)) and set(df.article) == {0}
    assert G.name_sentences(['Headline\nNobody here has a title in London or Paris, so nothing is known.']).empty

def test_sentences():
    assert G.sentences('Head Line\nOne is here. Two: no.\n\nThree is U.S. based! "No."\nFour') == ['One is here.', 'Three is U.S. based!', 'Four']

V = ['O', 'B-PER', 'I-PER', 'B-OTHER', 'I-OTHER']

def test_align_puts_each_label_on_the_first_piece_of_its_word(bert):
    tok = G.tokenizer(bert)
    words = [['Mr', 'Brown', 'of', 'Nordwind', 'Systems', '20006'], ['the', '🙂🙂', 'deal']]
    tags = [[None, 'B-PER', 'O', 'B-OTHER', 'I-OTHER', 'O'], ['O', 'O', 'B-PER']]
    ids, mask, y = G.align(words, tags, tok, V)
    assert ids.shape == mask.shape == y.shape and (y[mask == 0] == -100).all()
    for i in range(2):  # another way to count: tokenize word by word
        want = [-100]
        for w,t in zip(words[i], tags[i]): want += [-100 if t is None else V.index(t)] + [-100]*(len(tok.tokenize(w)) - 1)
        assert y[i, :len(want)].tolist() == want and mask[i].sum() == len(want) + 1
    assert tok.tokenize('Nordwind') == ['nord', '##wind']

def test_align_refuses(bert):
    tok = G.tokenizer(bert)
    fails(lambda: G.align([['a', 'b']], [['O']], tok, V), 'sentence 0', '2 words', '1 tags')
    fails(lambda: G.align([['a']], [['B-ORG']], tok, V), 'B-ORG')
    fails(lambda: G.align([], [], tok, V), '0 sentences')
    ids, mask, y = G.align([['the']*500], [['O']*500], tok, V)
    assert ids.shape == (1, 96) and (y >= 0).sum() == 94

def conll(tags):
    "Chunks as the CoNLL script finds them: by where they start and end."
    out, t, begin = set(), [o or 'O' for o in tags], None
    for i in range(len(t) + 1):
        prev, cur = t[i-1] if i else 'O', t[i] if i < len(t) else 'O'
        change = prev[2:] != cur[2:]
        if prev != 'O' and (cur == 'O' or cur[0] == 'B' or change): out.add((prev[2:], begin, i))
        if cur != 'O' and (prev == 'O' or cur[0] == 'B' or change): begin = i
    return out

def test_entities_against_the_conll_rules():
    rng = np.random.default_rng(0)
    for _ in range(500):
        tags = [None if rng.random() < .1 else V[k] for k in rng.integers(5, size=rng.integers(0, 9))]
        assert G.entities(tags) == conll(tags), tags

def test_entity_f1():
    t = [['B-PER', 'I-PER', 'O', 'B-OTHER'], ['O', 'B-PER']]
    assert G.entity_f1(t, t) == dict(precision=1, recall=1, f1=1)
    r = G.entity_f1(t, [['B-PER', 'O', 'O', 'B-OTHER'], ['O', 'B-OTHER']])  # a border, right, a type
    assert r == dict(precision=1/3, recall=1/3, f1=1/3)
    r = G.entity_f1(t, [['O']*4, ['B-PER', 'B-PER']])
    assert (r['precision'], r['recall']) == (1/2, 1/3) and math.isclose(r['f1'], .4)
    assert G.entity_f1([[None, 'O']], [['B-PER', 'O']])['precision'] == 0 and G.entity_f1([['O']], [['O']])['f1'] == 0
    assert G.entity_f1([[None, 'B-PER']], [['B-PER', 'B-PER']])['f1'] == 1  # what is not known is not held against it

def test_a_token_head_learns_and_tags_words(bert):
    torch.manual_seed(0)
    m = G.with_head(transformers.BertForTokenClassification, bert, id2label=dict(enumerate(V)))
    assert not m.training and m.classifier.out_features == 5 and m.config.hidden_dropout_prob == 0
    body = transformers.BertModel.from_pretrained(bert[3:])
    assert torch.equal(m.bert.encoder.layer[1].output.dense.weight, body.encoder.layer[1].output.dense.weight)
    words = [['the', 'Brown', 'deal'], ['she', 'told', 'Nordwind', 'Systems']]*4
    tags = [[None, 'B-PER', 'O'], ['O', 'O', 'B-OTHER', 'I-OTHER']]*4
    data = G.align(words, tags, m.tokenizer, V)
    learn = G.learner(G.loaders(data, data, bs=4), m, loss_func=G.token_loss, metrics=[], opt_func=G.adamw)
    with learn.no_bar(), learn.no_logging(): learn.fit(30, 1e-2)
    assert G.entity_f1(tags, G.tag(m, words))['f1'] == 1
    assert [len(o) for o in G.tag(m, [['the']*500, ['x']])] == [500, 1]

def test_random_weights_are_another_start(bert, tmp_path):
    fails(lambda: G.with_head(transformers.BertForTokenClassification, f'hf:{tmp_path}'), 'BertForTokenClassification')
    a, b = (G.with_head(transformers.BertForTokenClassification, bert, pretrained=o, num_labels=2) for o in (True, False))
    assert not torch.equal(a.bert.embeddings.word_embeddings.weight, b.bert.embeddings.word_embeddings.weight)

def test_batches_are_trimmed_and_hold_every_item_once(bert):
    words = [['the']*n for n in range(1, 11)]
    data = G.align(words, [['O']*len(o) for o in words], G.tokenizer(bert), V)
    dls = G.loaders(data, data, bs=4)
    for dl in dls:
        lengths = [(b[1].sum(1).tolist(), b[0].shape[1], b[2].shape[1]) for b in dl]
        assert all(max(o) == t == u for o,t,u in lengths) and sorted(n for o,_,_ in lengths for n in o) == list(range(3, 13))
    assert len(dls.train.one_batch()) == 3 and dls.train.n_inp == 2

def test_losses_leave_out_what_has_no_label():
    from types import SimpleNamespace as O
    z = torch.randn(2, 4, 3)
    y = torch.tensor([[0, -100, 2, -100], [-100]*4])
    assert torch.isclose(G.token_loss(O(logits=z), y), -z[0].log_softmax(-1)[[0, 2], [0, 2]].mean())
    s, e = torch.randn(2, 4), torch.randn(2, 4)
    y = torch.tensor([[1, 3], [-100, -100]])
    assert torch.isclose(G.span_loss(O(start_logits=s, end_logits=e), y), -(s[0].log_softmax(-1)[1] + e[0].log_softmax(-1)[3])/2)


# ---- questions

def test_questions_ask_for_what_their_context_holds():
    texts = [ARTICLE.replace('Brown', o) for o in ('Brown', 'Green', 'Black', 'White', 'Gray')]*6
    df = G.cloze_questions(texts)
    assert len(df) == 30 and set(df.kind) <= {*G._answers} and df.kind.nunique() >= 4
    for o in df.itertuples():
        assert o.context[o.start:o.start+len(o.answer)] == o.answer and o.question.startswith(o.kind) and o.question.endswith('?')
        assert {'how much': '$1.5bn', 'what percentage': '12%', 'which year': '2006'}.get(o.kind, o.answer) == o.answer
        if o.kind == 'who': assert re.search('Brown|Green|Black|White|Gray|Lund', o.answer)
        assert o.answer != 'Systems'
    pd.testing.assert_frame_equal(df, G.cloze_questions(texts))
    assert not df.equals(G.cloze_questions(texts, seed=1))
    assert (G.cloze_questions(texts, drop=0).question.str.len().mean() > df.question.str.len().mean())

def test_located_answers_read_back(bert):
    df = pd.DataFrame([('who said?', 'In a deal Mr Brown  said the nordwind, systems.', 'Brown'), ('what?', 'é 🙂 Nordwind Systems rose.', 'Nordwind Systems'),
                       ('how much?', 'the $1.5bn', '$1.5bn')], columns=['question', 'context', 'answer'])
    df['start'] = [c.index(a) for c,a in zip(df.context, df.answer)]
    enc, y = G.locate(df, G.tokenizer(bert))
    for i,o in enumerate(df.itertuples()):
        a, b = y[i].tolist()
        assert o.context[enc.offset_mapping[i, a, 0]:enc.offset_mapping[i, b, 1]] == o.answer and enc.token_type_ids[i, a] == 1
    fails(lambda: G.locate(df.assign(start=1), G.tokenizer(bert)), 'row 0')
    fails(lambda: G.locate(df.iloc[:0], G.tokenizer(bert)), 'no rows')
    long = df.iloc[:1].assign(context='the deal '*100 + df.context[0], start=df.start[0] + 900)
    assert G.locate(long, G.tokenizer(bert))[1].tolist() == [[-100, -100]]

def test_best_span_against_all_pairs():
    g = torch.Generator().manual_seed(0)
    s, e = torch.randn(40, 9, generator=g), torch.randn(40, 9, generator=g)
    ok = torch.rand(40, 9, generator=g) < .6
    ok[:, 4] = True
    got = G.best_span(s, e, ok, longest=3)
    for i in range(40):
        pairs = [(s[i, a] + e[i, b], a, b) for a in range(9) for b in range(a, min(a + 3, 9)) if ok[i, a] and ok[i, b]]
        assert got[i].tolist() == list(max(pairs)[1:])

def test_a_span_head_learns_and_answers_from_the_context(bert):
    torch.manual_seed(0)
    m = G.with_head(transformers.BertForQuestionAnswering, bert)
    df = pd.DataFrame([dict(question='who said?', context=f'{"the deal "*n}Mr Brown said', answer='Brown', start=9*n + 3) for n in range(6)])
    enc, y = G.locate(df, m.tokenizer)
    data = enc.input_ids, enc.attention_mask, enc.token_type_ids, y
    learn = G.learner(G.loaders(data, data, bs=3), m, loss_func=G.span_loss, metrics=[], opt_func=G.adamw)
    with learn.no_bar(), learn.no_logging(): learn.fit(30, 1e-2)
    assert G.answers(m, df, bs=4) == ['Brown']*6  # with its capital, which the model does not see

def test_matches_as_squad_defines_them():
    assert G.exact_match('The BBC.', 'bbc') and G.exact_match('$1.5bn', '1.5bn') and not G.exact_match('BBC News', 'BBC')
    assert G.overlap_f1('BBC News', 'the BBC') == 2/3 and G.overlap_f1('a b', 'c') == 0 and G.overlap_f1('the', 'a') == 1
    assert G.overlap_f1('x x y', 'x') == .5
