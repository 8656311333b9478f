"Faults of tlcourse.checks: every state, whose error it is, what is kept and what is not, and what a saved notebook holds."
import functools, json, re, subprocess, sys
from importlib.util import find_spec

import nbformat
import numpy as np
import pytest

from tlcourse import checks
from tlcourse.checks import Exercise, Question, assert_close, progress, quiz, reset, summary


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    "A progress file of this test's own."
    path = tmp_path/'user'/'progress.json'
    monkeypatch.setenv('TLCOURSE_PROGRESS', str(path))
    monkeypatch.delenv('IN_TEST', raising=False)
    checks._warn_once.cache_clear()
    return path


def check_double(f): assert_close([f(2), f(-1.5)], [4, -3], what='double(2), double(-1.5)')


def exercise(check=check_double, solution='def double(x): return 2*x', title='07.3 Double', **kw):
    return Exercise(title, 'Write `double(x)`.', check=check, solution=solution, **kw)


def questions():
    return [Question('Which <b>?', right={'this & that': 'It `is` <i>this</i>.'}, wrong={'other': 'No, not other.', 'none': 'No, not none.'}),
            Question('Really?', right={'yes': 'Sure.'}, wrong={'no': 'But yes.'})]


def letter(q, option): return next(a for a, o in q.options.items() if o == option)


def stub_doc(x):
    "Not yet."
def stub_dots(x): ...
def stub_pass(x): pass
def stub_none(x): return None
def stub_return_dots(x): return ...
def stub_raise(x): raise NotImplementedError


# Whose error is it?

def divide(x):
    y = 1
    return y / 0

def helper(x): return {}[x]
def calls_helper(x):
    return helper(x)

def in_comprehension(x):
    return sum([
        1 / 0
        for _ in range(3)])

def recurses(x): return recurses(x)
def asserts(x): assert x > 100, 'my own assertion'
def exits(x): sys.exit(3)
def two(x, y): return 2*x

class Model:
    def __call__(self, x): return self.forward(x)
    def forward(self, x):
        raise KeyError('weight')

class Wide:
    def __init__(self, x, y): pass

class Mute(Exception):
    def __str__(self): raise RuntimeError('no text')

def mute(x): raise Mute

def decorated(f):
    @functools.wraps(f)
    def inner(*args): return f(*args)
    return inner


@pytest.mark.parametrize('answer', [..., None, stub_doc, stub_dots, stub_pass, stub_none, stub_return_dots, stub_raise, lambda x: ...])
def test_not_attempted_is_not_recorded(answer, path):
    ex = exercise()
    r = ex.check(answer)
    assert (r.state, ex.state, bool(r)) == ('not attempted', 'not attempted', False)
    assert ex.check().state == 'not attempted' and not path.exists()


@pytest.mark.parametrize('answer', [lambda x: 2*x, lambda x: x + x, functools.partial(two, y=0), decorated(lambda x: 2*x), lambda x: np.float32(2*x)])
def test_correct(answer):
    r = exercise().check(answer)
    assert r and r.state == 'correct' and 'correct' in repr(r) and 'Correct' in r._repr_html_()


@pytest.mark.parametrize('answer,message', [
    (lambda x: x, 'double(2), double(-1.5) should be [4, -3], but is [2, -1.5]'),
    (lambda x: 'a', 'should be [4, -3]'), (lambda x: float('nan'), 'nan'), (lambda x: [x, 1], 'shape'), (lambda x: object(), 'object object'),
    (5, 'such as a function; you gave 5'), (np.ones(3), 'you gave array'),
    (divide, 'Your code raised ZeroDivisionError: division by zero, in line 3 of `divide`: `return y / 0`'),
    (calls_helper, 'KeyError: 2, in line 1 of `helper`'),
    (in_comprehension, 'in line 3 of `in_comprehension`: `1 / 0`'),
    (decorated(divide), 'in line 3 of `divide`'),
    (functools.lru_cache(divide), 'in line 3 of `divide`'),
    (functools.partial(divide), 'in line 3 of `divide`'),
    (Model(), "KeyError: 'weight', in line 2 of `forward`"), (Model().forward, 'in line 2 of `forward`'),
    (lambda x: x.nothing, "AttributeError: 'int' object has no attribute 'nothing', in line 1 of your lambda"),
    (recurses, 'RecursionError'), (asserts, 'Your code raised AssertionError: my own assertion'),
    (exits, 'SystemExit: 3'), (mute, 'Mute'),
    (two, "cannot be called as the question asks: TypeError: two() missing 1 required positional argument: 'y'"),
    (lambda: 4, 'cannot be called as the question asks'), (Wide, "Wide.__init__() missing"),
])
def test_incorrect(answer, message):
    r = exercise().check(answer)
    assert r.state == 'incorrect' and not r and message in r.message, r.message
    assert 'checks.py' not in r.message and 'Traceback' not in r.message


def test_library_error_has_no_line_of_ours():
    from collections import Counter
    r = exercise(check=lambda c: c.update(5), solution='Counter').check(Counter())
    assert r.state == 'incorrect' and r.message == "Your answer raised TypeError: 'int' object is not iterable"


def test_model_error_shows_the_line_of_its_own_forward():
    torch = pytest.importorskip('torch')
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 2)
        def forward(self, x):
            return self.head(x.flatten())
    ex = exercise(check=lambda m: assert_close(m(torch.zeros(1, 4)).shape, (1, 2)), solution='5')
    assert 'in line 2 of `forward`: `return self.head(x.flatten())`' in ex.check(Net()).message
    assert ex.check(torch.nn.Sequential(torch.nn.Linear(3, 2))).message.startswith('Your answer raised RuntimeError')


def test_author_faults_are_unchecked(path):
    def broken(f): return {}['key']
    for check, text in ((broken, "KeyError: 'key'"), (lambda f: f(2) == 4, 'returned True'), (lambda f: a + f, "NameError: name 'a'")):
        r = exercise(check=check).check(lambda x: 2*x)
        assert r.state == 'unchecked' and not r and text in r.message and 'at fault, not you' in r.message
    assert not path.exists()


def test_bare_assert_shows_its_line(tmp_path):
    file = tmp_path/'lesson.py'   # pytest rewrites the asserts of this file
    file.write_text('def check(f):\n    assert f(2) == 4\n', encoding='utf-8')
    ns = {}
    exec(compile(file.read_text(encoding='utf-8'), file, 'exec'), ns)
    assert exercise(check=ns['check']).check(lambda x: x).message == 'This does not hold: `assert f(2) == 4`'


def test_interrupt_reaches_the_learner():
    def forever(x): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): exercise().check(forever)


def test_values_as_answers():
    torch, pd = pytest.importorskip('torch'), pytest.importorskip('pandas')
    want = np.array([1., np.nan])
    ex = exercise(check=lambda a: assert_close(a, want), solution='np.array([1., np.nan])')
    for a in (want, [1, float('nan')], pd.Series(want), torch.tensor(want, requires_grad=True), torch.tensor(want).bfloat16()): assert ex.check(a), ex.check(a)
    for a in ([1, 2], 1., 'x', pd.DataFrame({'a': want}), torch.zeros(3), object(), {}, [1, [2]], np.array(['a', 'b']), float('nan'), pd.NA):
        assert ex.check(a).state == 'incorrect', ex.check(a)


@pytest.mark.parametrize('got,want', [('a  b\n', 'a b'), (True, 1), (1e-9, 0.), ({'a': 1}, {'a': 1}), (None, None), ([], []), (['a'], ['a']), (np.float16(.5), .5)])
def test_close(got, want): assert_close(got, want)


@pytest.mark.parametrize('got,want', [('a', 'b'), ('ab', 'a b'), (1, '1'), ('1', 1), (None, 'a'), (1.001, 1.), ({'a': 1}, {'a': 2}), ([1], 1), (['a'], 'a b'), (None, 0.)])
def test_not_close(got, want):
    with pytest.raises(AssertionError, match='The answer should'): assert_close(got, want)


def test_message_stays_short():
    with pytest.raises(AssertionError) as e: assert_close('x'*100_000, 'y'*100_000)
    assert len(str(e.value)) < 300


def test_learner_content_is_escaped():
    def answer(x): raise ValueError('<script>alert(1)</script>` & `')
    shown = exercise().check(answer)._repr_html_()
    assert '<script>' not in shown and '&lt;script&gt;' in shown
    q = quiz('07', questions())
    assert '<b>?' not in q._repr_html_() and 'Which &lt;b&gt;?' in q._repr_html_() and 'this &amp; that' in q._repr_html_()
    assert 'It <code>is</code> &lt;i&gt;' in q._repr_html_()


def test_hints_and_solution():
    ex = exercise(hints=['one', 'two'])
    assert [repr(ex.hint()) for _ in range(3)] == ['Hint 1 of 2: one', 'Hint 2 of 2: two', 'Hint 2 of 2: two']
    assert repr(exercise().hint()) == 'This exercise has no hints.'
    assert repr(ex.solution()) == 'def double(x): return 2*x' and '~~~~python' in ex.solution()._repr_markdown_()
    assert 'not attempted' in repr(ex) and 'not attempted' in ex._repr_markdown_()
    ex.check(lambda x: x)
    assert 'incorrect' in ex._repr_markdown_()


# What authors can do wrong

@pytest.mark.parametrize('kw,message', [
    (dict(title='Double'), 'starts with its id'), (dict(title='7.3 Double'), 'starts with its id'), (dict(title='07.3'), 'starts with its id'), (dict(title=3), 'starts with its id'),
    (dict(check='x'), '`check` must be a function'), (dict(hints='one'), '`hints` must be a list'), (dict(hints=['']), '`hints` must be a list'),
    (dict(solution=''), '`solution` must be'), (dict(solution=lambda x: x), '`solution` must be'), (dict(solution='def f(x) return'), 'not valid Python (line 1'),
    (dict(solution='import os'), 'must end in'), (dict(solution='# only this'), 'must end in'), (dict(solution='a, b = 1, 2'), 'must end in'), (dict(solution='a: int'), 'must end in'),
])
def test_wrong_exercise(kw, message):
    with pytest.raises(ValueError) as e: exercise(**kw)
    assert message in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('solution', ['def double(x): return 2*x', 'double = lambda x: 2*x', 'double: object = lambda x: 2*x', 'lambda x: 2*x', 'k = 2\n(lambda x: k*x)',
                                      'class double:\n    def __new__(cls, x): return 2*x', '\n    def double(x):\n        return 2*x\n    '])
def test_author_test_passes(solution, path):
    exercise(solution=solution).test(wrong=[lambda x: x, 3, divide, 'text'], right=[lambda x: x + x])
    assert not path.exists()


@pytest.mark.parametrize('make,test,message', [
    (dict(), dict(wrong=[]), 'at least one wrong answer'), (dict(), dict(wrong=lambda x: x), 'at least one wrong answer'),
    (dict(solution='lambda x: x'), dict(wrong=[5]), 'the solution is incorrect where it should be correct'),
    (dict(solution='lambda x: 1/0'), dict(wrong=[5]), 'the solution is incorrect'),
    (dict(solution='undefined_name'), dict(wrong=[5]), 'the solution raised NameError'),
    (dict(solution='None'), dict(wrong=[5]), 'the solution is not attempted'),
    (dict(), dict(wrong=[5, lambda x: 2*x]), 'wrong answer 2 is correct where it should be incorrect'),
    (dict(), dict(wrong=[...]), 'wrong answer 1 is not attempted'),
    (dict(), dict(wrong=[5], right=[lambda x: x]), 'right answer 1 is incorrect'),
    (dict(check=lambda f: assert_close(f(2)*2, 8)), dict(wrong=[lambda x: {}]), 'wrong answer 1 is unchecked'),
    (dict(check=lambda f: None, solution='5'), dict(wrong=[4]), 'wrong answer 1 is correct'),
])
def test_author_test_fails(make, test, message):
    with pytest.raises((AssertionError, ValueError)) as e: exercise(**make).test(**test)
    assert message in str(e.value) and e.value.__suppress_context__ | (e.value.__context__ is None)


def test_check_that_accepts_anything_is_found():
    def check(f): assert f is not check_double, 'not this one'
    with pytest.raises(AssertionError, match='checks nothing'): exercise(check=check).test(wrong=[check_double])


def test_solution_sees_the_callers_names():
    exercise(solution='lambda x: two(x, 0)').test(wrong=[5])
    exercise(solution='lambda x: k*x').test(wrong=[5], namespace=dict(k=2))


@pytest.mark.parametrize('args,message', [
    (('', {'a': 'b'}, {'c': 'd'}), 'needs a text'), (('q', {}, {'c': 'd'}), 'one right option'), (('q', {'a': 'b', 'e': 'f'}, {'c': 'd'}), 'one right option'),
    (('q', {'a': 'b'}, {}), 'at least one wrong'), (('q', {'a': 'b'}, {'c': ''}), "option 'c' needs an explanation"), (('q', {'a': ' '}, {'c': 'd'}), "option 'a' needs"),
    (('q', {'a': 'b'}, {'c': None}), "option 'c' needs"), (('q', {'a': 'b'}, {'a': 'd'}), 'both right and wrong'), (('q', 'a', ['c']), 'as dicts'),
])
def test_wrong_question(args, message):
    with pytest.raises(ValueError) as e: Question(*args)
    assert message in str(e.value) and '\n' not in str(e.value)


def test_a_case_has_a_name_instead_of_a_number(path):
    assert exercise(title='wildlife.2 Double').check(lambda x: 2*x)
    quiz('wildlife', questions()).answer(1, 'a')
    checks.guess('wildlife.a').write('less')
    assert set(progress()) == set(progress('wildlife')) == {'wildlife.2', 'wildlife.quiz', 'wildlife.a'}
    reset('wildlife')
    assert progress() == {}
    for wrong in ('Wild life.2 Double', 'wild-life.2 Double', '.2 Double'):
        with pytest.raises(ValueError, match='starts with its id'): exercise(title=wrong)


@pytest.mark.parametrize('args', [('7', questions()), ('07.1', questions()), ('07', []), ('07', [('q', 'a')])])
def test_wrong_quiz(args):
    with pytest.raises(ValueError, match='quiz|Quiz'): quiz(*args)


@pytest.mark.parametrize('args', [(0, 'a'), (3, 'a'), (1, 'd'), (1, 'A'), (1, 1), ('1', 'a')])
def test_wrong_quiz_answer(args, path):
    with pytest.raises(ValueError, match='has (questions 1 to 2|options a to c), not'): quiz('07', questions()).answer(*args)
    assert not path.exists()


# Quiz

def test_quiz_text_and_html():
    q = quiz('07', questions())
    assert "Answer with .answer(1, 'a')" in repr(q) and all(o in repr(q) for o in ('this & that', 'other', 'none', '2. Really?'))
    assert 'Sure.' not in repr(q)
    shown = q._repr_html_()
    assert shown.count('<details>') == 5 and shown.count('Incorrect.') == 3 and all(t in shown for t in ('No, not other.', 'No, not none.', 'Sure.', 'But yes.'))
    assert [o.options for o in q.questions] == [o.options for o in quiz('07', questions()).questions]


def test_right_option_has_no_favorite_place():
    places = [letter(q, 'right') for q in (Question(f'Question {i}?', {'right': 'y'}, {'w1': 'n', 'w2': 'n'}) for i in range(300))]
    assert all(70 < places.count(a) < 130 for a in 'abc')


def test_quiz_answers_are_recorded_at_their_best():
    q = quiz('07', questions())
    a, b = q.questions
    r = q.answer(1, letter(a, 'other'))
    def kept(): return {k: v for k,v in progress('07')['07.quiz'].items() if k not in ('chosen', 'at')}
    assert (r.state, r.message) == ('incorrect', 'No, not other.') and kept() == dict(right=0, of=2)
    assert q.answer(1, letter(a, 'this & that')) and q.answer(2, letter(b, 'yes')) and q.score == '2 of 2 right'
    q.answer(2, letter(b, 'no'))
    assert q.right == 1 and kept() == dict(right=2, of=2)
    quiz('07', questions()[1:]).answer(1, letter(b, 'no'))
    assert kept() == dict(right=0, of=1)


def test_a_quiz_comes_back_as_it_was_left():
    q = quiz('07', questions())
    q.answer(1, letter(q.questions[0], 'other')), q.answer(2, letter(q.questions[1], 'yes'))
    again = quiz('07', questions())
    assert again.chosen == q.chosen and again.score == '1 of 2 right'
    if find_spec('ipywidgets'): assert 'No, not other.' in again.widget.children[1].children[2].value and again.widget.children[2].children[1].value == q.chosen[2]
    a, b = questions()
    assert quiz('07', [b, Question(a.text, a.right, {'new words': 'No.'})]).chosen == {1: q.chosen[2]} # a question with other options starts anew


def test_an_exercise_comes_back_correct():
    exercise().check(lambda x: 2*x)
    assert exercise().state == 'correct' and '✓ correct' in exercise()._repr_markdown_()
    exercise(title='07.4 Other').check(lambda x: 3)
    assert exercise(title='07.4 Other').state == 'not attempted'


def test_widget():
    widgets = pytest.importorskip('ipywidgets')
    q = quiz('07', questions())
    title, one, two, score = q.widget.children
    text, radio, feedback = one.children
    assert isinstance(radio, widgets.RadioButtons) and radio.value is None and not feedback.value and score.value == '0 of 2 right'
    radio.value = letter(q.questions[0], 'other')
    assert 'No, not other.' in feedback.value and 'Incorrect' in feedback.value and score.value == '0 of 2 right'
    radio.value = letter(q.questions[0], 'this & that')
    assert 'Correct' in feedback.value and '&lt;i&gt;' in feedback.value and score.value == '1 of 2 right' and not two.children[2].value
    assert progress()['07.quiz']['right'] == 1 and q.widget is q.widget


# Progress

def done(*lesson):
    "Progress without the times."
    return {k: {i: o for i,o in v.items() if i != 'at'} for k,v in progress(*lesson).items()}


def test_hints_and_solution_are_counted(path):
    ex = exercise(hints=['a', 'b'])
    ex.hint(), ex.hint(), ex.hint()
    assert done() == {'07.3': dict(state='not attempted', tries=0, hints=2)}
    ex.check(5), ex.solution(), ex.check(lambda x: 2*x), ex.source
    assert done() == {'07.3': dict(state='correct', tries=2, hints=2, solution=1)}
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d', progress()['07.3']['at'])


def test_the_solution_comes_after_a_try(path, monkeypatch):
    monkeypatch.setattr(checks, 'live', lambda: True)
    ex = exercise()
    assert 'Try it first' in repr(ex.solution()) and progress() == {}
    ex.check(5)
    assert '2*x' in repr(ex.solution()) and '2*x' in repr(exercise().solution())  # also in a new kernel


def test_a_newer_file_is_read(path):
    path.parent.mkdir()
    path.write_text('{"version": 1, "items": {"07.3": {"state": "correct", "later": [1]}}}')
    assert progress()['07.3']['later'] == [1] and exercise().state == 'correct'


def test_correct_stays_correct():
    ex = exercise()
    for f, state in ((lambda x: x, 'incorrect'), (lambda x: 2*x, 'correct'), (lambda x: x, 'correct')):
        ex.check(f)
        assert progress()['07.3']['state'] == state
    assert done('07') == {'07.3': dict(state='correct', tries=3)} and progress('01') == {} and ex.state == 'incorrect'


def test_reset():
    for t in ('07.3 a', '07.30 b', '08.1 c'): exercise(title=t).check(5)
    reset('07')
    assert list(progress()) == ['08.1']
    reset()
    assert progress() == {}


@pytest.mark.parametrize('env', [dict(IN_TEST='1'), dict(TLCOURSE_PROGRESS='off')])
def test_switched_off(env, path, monkeypatch):
    for k, v in env.items(): monkeypatch.setenv(k, v)
    exercise().check(5)
    quiz('07', questions()).answer(1, 'a')
    reset()
    assert checks.progress_path() is None and progress() == {} and not path.parent.exists()


def test_default_path(monkeypatch):
    monkeypatch.delenv('TLCOURSE_PROGRESS')
    assert checks.progress_path().name == 'progress.json' and 'tlcourse' in str(checks.progress_path())


@pytest.mark.parametrize('content', [b'', b'{', b'\xff\xfe', b'[]', b'null', b'7', b'{"version": 1}', b'{"version": 2, "items": {}}', b'{"version": 1, "items": []}',
                                     b'{"version": 1, "items": {"07.3": 5}}', b'{"version": 1, "items": {"07.3": {"tries": "x"}}}', b'{"theme": "dark"}', b'['*100_000])
def test_foreign_file_is_set_aside(content, path, caplog):
    path.parent.mkdir()
    path.write_bytes(content)
    assert progress() == {} and path.read_bytes() == content
    caplog.clear()
    exercise().check(5)
    assert done() == {'07.3': dict(state='incorrect', tries=1)}
    assert path.with_name('progress.json.bak').read_bytes() == content
    assert len(caplog.messages) == 1 and 'set aside' in caplog.messages[0] and '\n' not in caplog.messages[0]


@pytest.mark.parametrize('where', ['file/progress.json', 'folder'])
def test_unwritable_place_costs_one_warning(where, tmp_path, monkeypatch, caplog):
    (tmp_path/'file').touch()
    (tmp_path/'folder').mkdir()
    monkeypatch.setenv('TLCOURSE_PROGRESS', str(tmp_path/where))
    assert exercise().check(lambda x: 2*x) and exercise().check(lambda x: 2*x)
    assert len(caplog.messages) == 1 and 'Progress is not kept' in caplog.messages[0] and 'TLCOURSE_PROGRESS' in caplog.messages[0]
    assert progress() == {}


WORK = """
import sys
from tlcourse.checks import Exercise
i = int(sys.argv[1])
def check(a): assert a == 1
ex = Exercise(f'07.{i % 4 + 1} One', 'One?', check=check, solution='1')
for _ in range(10): ex.check(i % 2)
"""


def test_many_processes_lose_nothing(path):
    workers = [subprocess.Popen([sys.executable, '-c', WORK, str(i)]) for i in range(8)]
    assert [w.wait(120) for w in workers] == [0]*8
    assert done() == {f'07.{i+1}': dict(state='correct' if i % 2 else 'incorrect', tries=20) for i in range(4)}
    assert not list(path.parent.glob('*.tmp')) and not list(path.parent.glob('*.bak'))


def test_half_written_file_beside_is_harmless(path):
    exercise().check(5)
    path.with_name('progress.json.tmp').write_text('{"version": 1, "it')
    exercise().check(5)
    assert done() == {'07.3': dict(state='incorrect', tries=2)}


def test_answers_are_never_kept(path):
    exercise(check=lambda a: assert_close(a, 'x'), solution="'x'").check('my secret answer')
    assert 'secret' not in path.read_text(encoding='utf-8')


# Notebooks

LESSON = ['from tlcourse.checks import Exercise, Question, assert_close, quiz',
          "ex = Exercise('07.3 Double', 'Write `double(x)`.', check=lambda f: assert_close(f(2), 4), solution='lambda x: 2*x')\nex",
          'def double(x):\n    ...\n\nex.check(double)',
          "q = quiz('07', [Question('Really?', right={'yes': 'Sure.'}, wrong={'no': 'But yes.'})])\nq",
          '%time 1 + 1', "Exercise('07.4 Triple', 'Write `triple(x)`.', check=lambda f: assert_close(f(2), 6), solution='lambda x: 3*x')"]


def lesson(path):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Lesson\nExercise('07.9 no')"), *map(nbformat.v4.new_code_cell, LESSON)])
    nbformat.write(nb, path)
    return path


def test_headless_run_saves_what_any_reader_can_use(tmp_path, path):
    nbclient, nbconvert = pytest.importorskip('nbclient'), pytest.importorskip('nbconvert')
    nb = nbclient.NotebookClient(nbformat.read(lesson(tmp_path/'07.ipynb'), 4), timeout=60, kernel_name='python3').execute()
    bundles = [o.data for c in nb.cells if c.cell_type == 'code' for o in c.outputs if 'data' in o]
    assert 'not attempted' in bundles[0]['text/markdown'] and 'not attempted' in bundles[1]['text/plain']
    assert bundles[2].keys() == {'text/html', 'text/plain'} and '<details>' in bundles[2]['text/html']
    assert 'state' not in json.dumps(nb.metadata.get('widgets', {})) or not nb.metadata.widgets['application/vnd.jupyter.widget-state+json']['state']
    shown, _ = nbconvert.HTMLExporter().from_notebook_node(nb)
    assert '<summary>' in shown and 'But yes.' in shown and 'No buttons?' not in shown
    assert not path.exists()


def test_somebody_at_the_notebook_gets_buttons():
    manager = pytest.importorskip('jupyter_client.manager')
    km, kc = manager.start_new_kernel(kernel_name='python3')
    try:
        seen = []
        for source in (LESSON[0], LESSON[3]):
            kc.execute_interactive(source, allow_stdin=True, stdin_hook=print, timeout=60, output_hook=seen.append)
        data = [m['content']['data'] for m in seen if m['msg_type'] == 'display_data']
    finally:
        kc.stop_channels()
        km.shutdown_kernel(now=True)
    assert {'application/vnd.jupyter.widget-view+json', 'text/html', 'text/plain'} <= data[0].keys() and 'Run this cell again' in data[1]['text/html']


def test_summary(tmp_path):
    nb = lesson(tmp_path/'07.ipynb')
    assert summary(nb) == '0/2 exercises, quiz 0/1'
    exercise().check(lambda x: 2*x)
    exercise(title='07.4 Triple').check(lambda x: 3*x)
    q = quiz('07', questions()[1:])
    q.answer(1, letter(q.questions[0], 'yes'))
    assert summary(nb) == '1/2 exercises, quiz 1/1'
    nbformat.write(nbformat.v4.new_notebook(), nb)
    assert summary(nb) == ''


def test_import_is_light():
    code = "import sys, tlcourse.checks; assert not {'torch', 'numpy', 'pandas', 'IPython', 'ipywidgets'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_plain_python_has_no_live_notebook(): assert not checks.live() and set(quiz('07', questions())._repr_mimebundle_()) == {'text/html', 'text/plain'}


# Guesses

def test_a_guess_is_kept_and_can_be_changed(path):
    assert checks.guess('07.a').value is None and not path.exists()
    checks.guess('07.a').write('more')
    checks.guess('07.a').write('less')
    checks.guess('07.b', numbers=['loss']).write(2.3)
    assert (checks.guess('07.a').value, checks.guess('07.b', numbers=['loss']).value) == ('less', {'loss': 2.3})
    assert progress('07') == {'07.a': {'guess': 'less'}, '07.b': {'guess': {'loss': 2.3}}}
    assert checks.guess('07.a', ['up', 'down']).value is None, 'kept for another question'
    reset('07')
    assert checks.guess('07.a').value is None


def test_compare_shows_both_and_judges_nothing():
    g = checks.guess('07.a', numbers=['a', 'b'])
    assert repr(g.compare({'b': .25, 'a': 1/3})) == 'a: guess –, result 0.333\nb: guess –, result 0.25'
    g.write({'a': 0})
    import pandas as pd
    assert repr(g.compare(pd.Series({'a': np.float32(.5), 'b': 1}))).splitlines()[0] == 'a: guess 0, result 0.5'
    assert repr(checks.guess('07.c', ['up', 'down']).compare('up')) == 'You wrote no guess down. Result: up.'
    assert repr(checks.guess('07.c', ['up', 'down']).write('down').compare('up')) == 'You guessed: down. Result: up.'
    assert '| a | 0 | **0.5** |' in g.compare({'a': .5, 'b': 1})._repr_markdown_()


def test_boxes_take_numbers_as_people_write_them(path):
    g = checks.guess('07.a', numbers=['a', 'b'])
    _, a, b, said = g.widget.children
    a.value, b.value = '30 %', '0,4'
    assert g.value == {'a': .3, 'b': .4} and said.value.startswith('Kept')
    b.value = 'many'
    assert 'numbers' in said.value and g.value['b'] == .4
    assert [o.value for o in checks.guess('07.a', numbers=['a', 'b']).widget.children[1:3]] == ['0.3', '0.4']
    free = checks.guess('07.b')
    free.widget.children[1].value = 'it falls'
    assert progress()['07.b'] == {'guess': 'it falls'}
    pick = checks.guess('07.c', ['up', 'down'])
    pick.widget.children[1].value = 'down'
    assert checks.guess('07.c', ['up', 'down']).widget.children[1].value == 'down'


@pytest.mark.parametrize('make, says', [
    (lambda: checks.guess('7.a'), "such as '01.a'"), (lambda: checks.guess('07.1'), "such as '01.a'"),
    (lambda: checks.guess('07.a', ['x'], numbers=['y']), 'not both'), (lambda: checks.guess('07.a', 'xy'), 'list of names'),
    (lambda: checks.guess('07.a', ['x', 'y']).write('z'), 'choose one of x, y'),
    (lambda: checks.guess('07.a', numbers=['x', 'y']).write(3), 'a number for each of x, y'),
    (lambda: checks.guess('07.a', numbers=['x']).write({'z': 3}), 'a number for each of x'),
    (lambda: checks.guess('07.a', numbers=['x']).write({'x': '3'}), 'a number for each of x'),
    (lambda: checks.guess('07.a').write([1]), 'a text or a number'),
    (lambda: checks.guess('07.a', numbers=['x', 'y']).compare({'x': 3}), 'lacks one of x, y')])
def test_wrong_guesses_are_named(make, says):
    with pytest.raises(ValueError, match=says) as e: make()
    assert '\n' not in str(e.value)


def test_a_kept_guess_that_was_spoilt_is_none(path):
    checks.guess('07.a', numbers=['x']).write(1)
    path.write_text(path.read_text().replace('1.0', '"one"'))
    assert checks.guess('07.a', numbers=['x']).value is None
