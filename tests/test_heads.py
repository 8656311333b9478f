"Heads on tokens and spans against Transformers' own, brute force and the papers' definitions; and one line for each kind of bad input."
import math, re, warnings

import numpy as np
import pandas as pd
import pytest
import torch

transformers = pytest.importorskip('transformers', reason="the text extra is not installed")

from tlcourse import heads as G
from tlcourse.finetune import learner
from tlcourse.heads import LanguageError
from tlcourse.language import adamw

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

ARTICLE = '''Brown backs Nordwind deal

The chancellor Gordon Brown met Anna Lund of Nordwind Systems in Paris on Monday. Mr Brown said the $1.5bn deal would add 12% by 2006.
Ms Lund told the BBC she was happy with it and that Europe would follow soon. "We Are Glad," she said.
Nordwind Systems rose on the news in London and fell again at the close of the day.'''


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
    learn = learner(G.loaders(data, data, bs=4), m, loss_func=G.token_loss, metrics=[], opt_func=adamw)
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
    learn = learner(G.loaders(data, data, bs=3), m, loss_func=G.span_loss, metrics=[], opt_func=adamw)
    with learn.no_bar(), learn.no_logging(): learn.fit(30, 1e-2)
    assert G.answers(m, df, bs=4) == ['Brown']*6  # with its capital, which the model does not see

def test_matches_as_squad_defines_them():
    assert G.exact_match('The BBC.', 'bbc') and G.exact_match('$1.5bn', '1.5bn') and not G.exact_match('BBC News', 'BBC')
    assert G.overlap_f1('BBC News', 'the BBC') == 2/3 and G.overlap_f1('a b', 'c') == 0 and G.overlap_f1('the', 'a') == 1
    assert G.overlap_f1('x x y', 'x') == .5


# ---- against the measures that others use

def random_tags(rng, n): return [[None if rng.random() < .1 else V[k] for k in rng.integers(5, size=rng.integers(1, 12))] for _ in range(n)]

def test_entity_f1_is_seqevals():
    "seqeval as it comes, which is CoNLL's script; a tag that is not known counts as O on both sides."
    seqeval = pytest.importorskip('seqeval.metrics')
    rng = np.random.default_rng(1)
    for _ in range(200):
        true = random_tags(rng, 4)
        pred = [[V[k] for k in rng.integers(5, size=len(o))] for o in true]
        got = G.entity_f1(true, pred)
        a, b = [[o or 'O' for o in t] for t in true], [['O' if o is None else q for o,q in zip(t, p)] for t,p in zip(true, pred)]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            want = [f(a, b, zero_division=0) for f in (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)]
        assert np.allclose([got['precision'], got['recall'], got['f1']], want), (true, pred)

def test_strict_seqeval_differs_where_a_name_begins_with_i():
    pytest.importorskip('seqeval')
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2
    true, pred = [['O', 'B-PER', 'I-PER']], [['O', 'I-PER', 'I-PER']]
    assert G.entity_f1(true, pred)['f1'] == f1_score(true, pred) == 1 and f1_score(true, pred, mode='strict', scheme=IOB2) == 0
    whole = [['B-PER', 'I-PER', 'O', 'B-OTHER'], ['O', 'B-PER']], [['B-PER', 'O', 'O', 'B-OTHER'], ['O', 'B-OTHER']]
    assert math.isclose(G.entity_f1(*whole)['f1'], f1_score(*whole, mode='strict', scheme=IOB2)), 'and agrees where every name begins with B'

def test_matches_are_torchmetrics_squad():
    text = pytest.importorskip('torchmetrics.functional.text')
    words = ['the', 'a', 'An', 'BBC', 'bbc', 'News', '$1.5bn', '£29,000', '29,000', 'snake_case', 'x-ray', 'Été', 'U.S.', '“quoted”', '12%', '', '.']
    rng, same = np.random.default_rng(0), 0
    for _ in range(500):
        a, b = (' '.join(words[k] for k in rng.integers(len(words), size=rng.integers(0, 4))) for _ in range(2))
        if rng.random() < .3: b = f'The {a.upper()}.'
        want = text.squad([dict(prediction_text=b, id='0')], [dict(answers=dict(answer_start=[0], text=[a]), id='0')])
        assert math.isclose(G.exact_match(a, b), want['exact_match']/100) and math.isclose(G.overlap_f1(a, b), want['f1']/100, abs_tol=1e-6), (a, b)
        same += G.exact_match(a, b)
    assert 50 < same < 450


# ---- other encoders, 16 bits, dropout

def folder(config, kind, bert, path, dtype=torch.float32):
    "A folder with an encoder of random weights and the tokenizer of `bert`."
    torch.manual_seed(0)
    kind(config).to(dtype).save_pretrained(path)
    G.tokenizer(bert).save_pretrained(path)
    return f'hf:{path}'

SMALL = dict(vocab_size=45, num_labels=5, pad_token_id=0)

def test_dropout_is_off_unless_it_is_asked_for(bert):
    for kw,want in ((dict(), 0.), (dict(hidden_dropout_prob=.3), .3), (dict(hidden_dropout_prob=.3, classifier_dropout=.2), .3)):
        m = G.with_head(transformers.BertForTokenClassification, bert, num_labels=2, **kw)
        assert m.config.hidden_dropout_prob == want == m.bert.encoder.layer[0].output.dropout.p and m.config.attention_probs_dropout_prob == 0
        assert m.dropout.p == kw.get('classifier_dropout', want)
        ids = torch.tensor([[2, 5, 6, 3]])
        assert torch.equal(m.train()(ids).logits, m(ids).logits) == (want == 0)

def test_no_dropout_in_other_families_either(bert, tmp_path):
    name = folder(transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SMALL), transformers.DistilBertModel, bert, tmp_path/'d')
    for kind in (transformers.DistilBertForTokenClassification, transformers.DistilBertForSequenceClassification, transformers.DistilBertForQuestionAnswering):
        m = G.with_head(kind, name)
        assert not any(o.p for o in m.modules() if isinstance(o, torch.nn.Dropout))

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_16_bits_becomes_float32(bert, dtype, tmp_path):
    name = folder(transformers.BertConfig.from_pretrained(bert[3:]), transformers.BertModel, bert, tmp_path/'b', dtype)
    for kind in (transformers.BertForTokenClassification, transformers.BertForQuestionAnswering): assert {p.dtype for p in G.with_head(kind, name).parameters()} == {torch.float32}
    assert len(G.tag(G.with_head(transformers.BertForTokenClassification, name, num_labels=2), [['the', 'deal']])[0]) == 2

def test_distilbert_roberta_and_gpt_tag_and_answer(bert, tmp_path):
    made = dict(d=(transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SMALL), transformers.DistilBertModel,
                   transformers.DistilBertForTokenClassification, transformers.DistilBertForQuestionAnswering),
                r=(transformers.RobertaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=98, type_vocab_size=2, **SMALL),
                   transformers.RobertaModel, transformers.RobertaForTokenClassification, transformers.RobertaForQuestionAnswering),
                g=(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=96, bos_token_id=1, eos_token_id=1, **SMALL), transformers.GPT2Model,
                   transformers.GPT2ForTokenClassification, None))
    df = pd.DataFrame([dict(question='who said?', context='the deal Mr Brown said', answer='Brown', start=12)]*2)
    for k,(config, body, words, spans) in made.items():
        name = folder(config, body, bert, tmp_path/k)
        assert [len(o) for o in G.tag(G.with_head(words, name, num_labels=2), [['the', 'deal'], ['x']])] == [2, 1]
        if not spans: continue
        reader = G.with_head(spans, name)
        got, seen = G.answers(reader, df), []
        enc = reader.tokenizer(list(df.question), list(df.context), return_tensors='pt')
        if k == 'd': enc.pop('token_type_ids', None)
        with torch.no_grad(): out = reader(**enc)
        inside = torch.tensor([o == 1 for o in enc.sequence_ids(0)])
        a, b = G.best_span(out.start_logits[:1], out.end_logits[:1], inside[None])[0].tolist()
        text = reader.tokenizer(df.question[0], df.context[0], return_offsets_mapping=True).offset_mapping
        assert got[0] == df.context[0][text[a][0]:text[b][1]]
