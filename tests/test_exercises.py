"""Exercises and quizzes made alone, and the student edition of each lesson."""
import ast, builtins, json, textwrap
from pathlib import Path

import pytest

from tlcourse import editions, exercises
from tlcourse.core import read_cells
from tlcourse.working_copy import copy_course

NBS = Path(__file__).parent.parent/'nbs'
LESSONS = sorted((NBS/'lessons').glob('[0-9][0-9]_*.ipynb'))
NUMBERS = [p.stem[:2] for p in LESSONS]


def lesson(number): return read_cells(next((NBS/'lessons').glob(f'{number}_*.ipynb')).read_bytes())


def exercise_nodes(number):
    stmts = exercises.statements(lesson(number))
    return stmts, {o.targets[0].id: i for i,(o,_) in enumerate(stmts) if editions._call(o, 'Exercise')}


@pytest.mark.parametrize('number', NUMBERS)
def test_every_exercise_stands_alone_and_passes_its_own_test(number):
    stmts, at = exercise_nodes(number)
    tested = {o.value.func.value.id: i for i,(o,_) in enumerate(stmts) if editions._is_test(o)}
    assert len(at) >= 3 and tested.keys() == at.keys()
    for name, i in tested.items():
        solution = ast.parse(textwrap.dedent(ast.literal_eval(editions._call(stmts[at[name]][0], 'Exercise').args[3])).strip())
        needs = ast.parse(f"({', '.join(exercises.uses(solution) | {'None'})},)").body[0] # a solution sees the names of the lesson
        exec(compile(exercises.alone([*stmts[:i], (needs, ''), *stmts[i:]], i) + '\n' + exercises.alone(stmts, i), f'test of {number}', 'exec'), {})


@pytest.mark.parametrize('number', NUMBERS)
def test_by_number(number):
    _, at = exercise_nodes(number)
    for i in range(1, len(at) + 1):
        ex = exercises.exercise(f'{number}.{i}')
        assert ex.id == f'{number}.{i}' and ex.check(...).state == 'not attempted'
        ns = {}
        try: exec(editions._stub(ex.title, ex._source)[0], ns)
        except NameError: continue # a class on one that the lesson defines
        assert ex.check(ns[editions._stub(ex.title, ex._source)[1]]).state == 'not attempted'
    assert len(exercises.quiz(number).questions) >= 5


@pytest.mark.parametrize('number', NUMBERS)
def test_the_student_edition_shows_no_answer(number):
    nb, path = lesson(number), next((NBS/'lessons').glob(f'{number}_*.ipynb'))
    new = editions.student(nb, {p.stem: p.stem for p in LESSONS}, path.stem)
    code = [c for c in new['cells'] if c['cell_type'] == 'code']
    calls = [n.func for c in code for n in ast.walk(ast.parse(''.join(l for l in c['source'].splitlines(True) if l[0] not in '%!'))) if isinstance(n, ast.Call)]
    assert not {getattr(f, 'id', '') for f in calls} & {'Exercise', 'Question', 'document', 'moved'}
    everything = json.dumps(new, ensure_ascii=False)
    taught = '\n'.join(c['source'] for c in nb['cells'] if 'Exercise(' not in c['source'] and '.test(' not in c['source'])
    stmts, at = exercise_nodes(number)
    for i in at.values():
        source = ast.literal_eval(editions._call(stmts[i][0], 'Exercise').args[3])
        body = [l.strip() for l in source.splitlines() if l.strip() and not l.strip().startswith(('def ', 'class ', 'import ', 'from '))]
        for l in body:
            if len(l) > 30 and l not in taught: assert json.dumps(l, ensure_ascii=False)[1:-1] not in everything, l
    for q in exercises.quiz(number).questions:
        assert not any(json.dumps(why, ensure_ascii=False)[1:-1] in everything for why in (q.right | q.wrong).values()), q.text
    assert [c['id'] for c in new['cells']] == list(dict.fromkeys(c['id'] for c in new['cells'])) and nb == lesson(number)


@pytest.mark.parametrize('number', NUMBERS)
def test_the_student_edition_lacks_no_name(number):
    def lacking(nb):
        known, lack = set(dir(builtins)) | {'get_ipython', '__file__', '__name__'}, set()
        for node,_ in exercises.statements(nb):
            within = set() if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else exercises.uses(node) - known
            lack |= within
            known |= exercises.binds(node) | {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        return lack
    nb = lesson(number)
    assert lacking(editions.student(nb)) <= lacking(nb)


def test_between_a_guess_and_its_result_nothing_is_shown():
    nb = editions.student(lesson('05'))
    cells = nb['cells']
    start = next(i for i,c in enumerate(cells) if 'guess(' in c['source'] and 'import guess' in c['source'])
    end = next(i for i,c in enumerate(cells) if i > start and '.compare(' in c['source'])
    assert not any(c.get('outputs') for c in cells[start + 1:end + 1]) and any(c.get('outputs') for c in cells[end + 1:])


def test_a_number_that_is_not_there():
    for bad, said in (('05.9', 'did you mean'), ('05', "There is no '05'"), ('5.1', "There is no lesson '5'"), ('', "There is no lesson ''"), ('../05.1', 'There is no lesson')):
        with pytest.raises(exercises.ExerciseError, match='There is no') as e: exercises.exercise(bad)
        assert said in str(e.value) and '\n' not in str(e.value)


def test_a_copy_is_the_student_edition_and_an_older_copy_is_updated_to_it(tmp_path):
    src, mine = tmp_path/'src', tmp_path/'mine'
    (src/'lessons').mkdir(parents=True)
    mine.mkdir()
    path = src/'lessons'/LESSONS[0].name
    path.write_bytes(LESSONS[0].read_bytes())
    copy_course(src, mine)
    copied = mine/'lessons'/path.name
    nb = read_cells(copied.read_bytes())
    reply = next(c for c in nb['cells'] if c['id'].endswith('-answer'))
    reply['source'] = 'def softmax(z): return z'
    copied.write_text(json.dumps(nb), encoding='utf-8')
    whole = read_cells(path.read_bytes())
    whole['cells'][1]['source'] += '\n\nOne more line.'
    path.write_text(json.dumps(whole), encoding='utf-8')
    copy_course(src, mine)
    after = read_cells(copied.read_bytes())
    assert next(c for c in after['cells'] if c['id'] == reply['id'])['source'] == reply['source'] and 'One more line.' in after['cells'][1]['source']
    assert 'Exercise(' not in copied.read_text(encoding='utf-8')
