"A language model as a classifier: labels scored as the product rule says, whatever the batch; and lesson 15's cell on a tiny model with a chat template."
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('transformers')

from tlcourse import TLCourseError
from tlcourse.clauses import clauses, questions
from tlcourse.core import read_cells
from tlcourse.gpt import causal
from tlcourse.prompting import asked, continuations, instructed

LESSON = next((Path(__file__).parent.parent/'nbs'/'lessons').glob('15_*.ipynb'))
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant]"


@pytest.fixture(scope='module')
def lm(): return causal(texts=['the cat sat on the mat and the dog sat on the cat']*3, vocab_size=300, context=32)


@pytest.fixture
def folder(lm, tmp_path):
    lm.save_pretrained(tmp_path)
    lm.tokenizer.chat_template = TEMPLATE
    lm.tokenizer.save_pretrained(tmp_path)
    lm.tokenizer.chat_template = None
    return tmp_path


def nats(lm, ids):
    with torch.no_grad(): return lm(torch.tensor([ids])).logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(ids)[1:, None])[:, 0]


@pytest.mark.parametrize('bs', [1, 3, 32])
def test_labels_by_the_product_rule(lm, bs):
    tok, prompts, labels = lm.tokenizer, ['the cat', 'the dog sat on', 'a'], [' sat', ' on the mat']
    got = continuations(lm, prompts, labels, bs)
    for i,p in enumerate(prompts):
        for j,e in enumerate(labels):
            a, b = [tok.bos_token_id, *tok(p).input_ids], tok(e).input_ids
            assert np.isclose(got[i, j], nats(lm, a + b)[-len(b):].sum(), atol=1e-4)


def test_a_long_prompt_keeps_its_end(lm):
    long = 'the dog sat on the cat '*12 + 'the'
    got = continuations(lm, [long], [' mat', ' cat'])
    tok = lm.tokenizer
    for j,e in enumerate((' mat', ' cat')):
        b = tok(e).input_ids
        ids = ([tok.bos_token_id, *tok(long).input_ids] + b)[-32:]
        assert np.isclose(got[0, j], nats(lm, ids)[-len(b):].sum(), atol=1e-4)


def test_instructions(folder):
    model = instructed(folder)
    text, = asked(model, ['Is it?'])
    assert text == '[user] Is it? [assistant]' and continuations(model, [text], ['yes', 'no']).shape == (1, 2)


def test_the_cell_of_lesson_15(folder):
    code, = (c['source'] for c in read_cells(LESSON.read_bytes())['cells'] if c['cell_type'] == 'code' and c['source'].startswith('instruct = None'))
    called = dict(a='apple', b='bread')
    ns = dict(instructed=instructed, asked=asked, continuations=continuations, called=called, headlines=['one', 'two'], want=np.array(['a', 'b']),
              topic_of=lambda s: np.array(list(called))[(s[:-1] - s[-1]).argmax(1)])
    exec(code, ns)
    *body, last = code.replace('instruct = None', f'instruct = {str(folder)!r}').splitlines()
    exec('\n'.join([*body, f'said = {last}']), ns)
    assert 'of the headlines right' in ns['said']


def test_clauses():
    df = clauses()
    assert set(df.label) == {'terms of use', 'privacy policy'} and df.text.is_unique and df.label.value_counts().min() > 300
    a, b = questions(), questions('contracts')
    assert len(a) > 10_000 and len(b) > 380 and {a.answer.dtype, b.answer.dtype} == {np.dtype(bool)} and .4 < a.answer.mean() < .6


@pytest.mark.parametrize('wrong, says', [
    (lambda lm, d: continuations(lm, ['a'], [' b']), 'two labels'), (lambda lm, d: continuations(lm, ['a'], [' b', ' the cat'*40]), 'shorter than 32'),
    (lambda lm, d: continuations(lm, ['a', ''], [' b', ' c']), 'empty'), (lambda lm, d: asked(lm, []), 'no text'),
    (lambda lm, d: instructed(d/'nothing'), 'no such folder'), (lambda lm, d: questions('leases'), 'contracts')])
def test_one_line_for_what_is_wrong(lm, folder, wrong, says):
    with pytest.raises(ValueError, match=says) as e: wrong(lm, folder)
    assert isinstance(e.value, TLCourseError) and '\n' not in str(e.value)


def test_no_chat_template(lm, tmp_path):
    lm.save_pretrained(tmp_path), lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TLCourseError, match='chat template'): instructed(tmp_path)
