"""Editions for a class, and what it has done."""
import ast, json, shutil, subprocess

import pytest

from tlcourse import classroom, cli
from tlcourse.checks import progress
from tlcourse.core import read_cells
from tlcourse.exercises import exercise, quiz


def nb(path): return read_cells(path.read_bytes())


@pytest.mark.parametrize('edition', [o for o in classroom.EDITIONS if o != 'slides'])
def test_every_lesson_has_every_edition(edition, tmp_path):
    names = [l.name for l in cli.lessons()]
    files = [o for o in classroom.export(tmp_path, names, edition) if o.suffix == '.ipynb']
    assert [o.stem for o in files] == names
    for f in files:
        got = nb(f)
        for c in got['cells']:
            if c['cell_type'] == 'code': ast.parse('\n'.join('pass' if l[:1] in '%!' and l else l for l in c['source'].splitlines()))
        assert len({c['id'] for c in got['cells']}) == len(got['cells'])
        code = '\n'.join(c['source'] for c in got['cells'] if c['cell_type'] == 'code')
        assert ('.test(' in code) == (edition == 'instructors') and 'Question(' not in code


@pytest.mark.parametrize('lesson', cli.lessons(), ids=lambda l: l.number)
def test_slides_of_a_lesson(lesson):
    new = classroom.slides(nb(lesson.path), {}, lesson.name)
    kinds = [c['metadata']['slideshow']['slide_type'] for c in new['cells']]
    assert kinds[0] == 'slide' and kinds.count('slide') >= 8 and kinds.count('subslide') >= 8 and set(kinds) <= {'slide', 'subslide', '-', 'notes', 'skip'}
    assert any('image/png' in o.get('data', {}) for c in new['cells'] for o in c.get('outputs', [])) and 'Exercise(' not in json.dumps(new)


def test_a_slide_type_of_ones_own_stays():
    lesson = dict(cells=[dict(cell_type='markdown', id=o, source='# A', metadata=dict(slideshow=dict(slide_type=o)) if o == 'fragment' else {}) for o in ('a', 'fragment')])
    assert [c['metadata']['slideshow']['slide_type'] for c in classroom.slides(lesson)['cells']] == ['slide', 'fragment']


def test_slides_as_a_page(tmp_path):
    written = classroom.export(tmp_path, ['00_primer'], 'slides')
    page = next(o for o in written if o.name == '00_primer.slides.html').read_text(encoding='utf-8')
    assert page.count('<section>') > 20 and 'class="notes"' in page and 'reveal.js' in page and '.test(' not in page and page.count('data:image/png') + page.count('<img') >= 5


def test_instructors_read_how_long_each_part_takes(tmp_path):
    path, = classroom.export(tmp_path, ['01_why_transfer'], 'instructors')
    said = nb(path)['cells'][1]['source']
    assert '| The experiment |' in said and '| Exercises |' in said and 'sual wrong answers' in said
    minutes = [k for _,k in classroom.timing(nb(cli.find_lesson('1').path))]
    assert abs(sum(minutes) - 75) < 15


def test_the_syllabus_builds_on_what_was_there():
    known = {l.number: l for l in cli.lessons()}
    for title, plan in classroom.PLANS.items():
        chosen = ' '.join(plan.values()).split()
        assert len(set(chosen)) == len(chosen)
        for i,k in enumerate(chosen): assert {o[:2] for o in known[k].prerequisites} <= {*chosen[:i]}, (title, k)
    said = classroom.syllabus()
    assert all(f'## {o}' in said for o in classroom.PLANS) and len(said.splitlines()) < 60
    hours = [[int(o.split('|')[-2])/60 for o in part.splitlines() if o.endswith(' |') and o.split('|')[-2].strip().isdigit()] for part in said.split('## ')[1:]]
    assert sum(hours[0]) <= 6 and max(hours[1]) <= 6 and len(hours[2]) == 14 and max(hours[2]) <= 2


def test_the_instructors_solutions_are_right(tmp_path, monkeypatch):
    monkeypatch.setenv('TLCOURSE_PROGRESS', 'off')
    path, = classroom.export(tmp_path, ['00_primer'], 'instructors')
    cells = nb(path)['cells']
    for c in (c for c in cells if c['id'].endswith('-answer')):
        number, ex, answer = '00.' + c['source'][c['source'].index('\nex') + 3], *c['source'].split('\n')[-1].removesuffix(')').split('.check(')
        ns = {ex: exercise(number)}
        exec('import numpy as np, torch\nfrom torch import nn\n' + c['source'], ns)
        assert ns[ex].state == 'correct'
    assert any('**right**' in c['source'] and 'wrong:' in c['source'] for c in cells)


def test_an_assignment_is_marked_for_nbgrader(tmp_path):
    path = classroom.export(tmp_path, ['05_augmentation'], 'nbgrader')[0]
    marked = [c for c in nb(path)['cells'] if 'nbgrader' in c['metadata']]
    solutions, checks = marked[::2], marked[1::2]
    assert len(solutions) == len(checks) == 3 and len({c['metadata']['nbgrader']['grade_id'] for c in marked}) == 6
    for c in solutions:
        lines = c['source'].splitlines()
        a, b = (next(i for i,l in enumerate(lines) if o in l) for o in ('### BEGIN SOLUTION', '### END SOLUTION'))
        kept = [*lines[:a], lines[a].split('#')[0] + '...', *lines[b + 1:]] # as nbgrader leaves it
        ast.parse('\n'.join(kept))
        assert b - a > 1
    assert all(c['source'].startswith('assert ex') and c['metadata']['nbgrader']['points'] == 1 for c in checks)


@pytest.mark.skipif(not shutil.which('nbgrader'), reason='nbgrader is not installed here')
def test_nbgrader_takes_the_course(tmp_path):
    classroom.export(tmp_path, ['00_primer'], 'nbgrader')
    subprocess.run(['nbgrader', 'generate_assignment', '00_primer'], cwd=tmp_path, check=True)
    released = nb(tmp_path/'release/00_primer/00_primer.ipynb')
    assert not any('BEGIN SOLUTION' in c['source'] for c in released['cells']) and any('# your answer' in c['source'] for c in released['cells'])


def learner(folder, name, **items): (folder/f'{name}.json').write_text(json.dumps(dict(version=1, items=items)), encoding='utf-8')


def test_who_is_stuck_where_and_what_fools(tmp_path, capsys):
    q = quiz('00').questions[0]
    right, wrong = (next(a for a in q.options if bool(q.judge(a)) is o) for o in (True, False))
    for name, tries, letter in (('ada', 1, right), ('ben', 3, wrong), ('cem', 2, wrong)):
        learner(tmp_path, name, **{'00.1': dict(state='correct' if tries == 1 else 'incorrect', tries=tries), '00.a': dict(guess='<b>'),
                                   '00.quiz': dict(right=0, of=5, chosen={q.key: letter, 'gone': 'a'})})
    learners, exercises, questions = classroom.collect(tmp_path)
    assert list(learners.index) == ['ada', 'ben', 'cem'] and learners.tries.sum() == 6 and learners.exercises.tolist() == [1, 0, 0]
    assert exercises.stuck.to_dict() == {'00.1': 'ben'} and exercises.tries['00.1'] == 2
    assert questions.wrong.tolist() == [2] and questions.most[0] == q.options[wrong]
    assert cli.main(['class', 'collect', str(tmp_path), '--out', str(tmp_path/'class.html')]) == 0
    assert 'ben' in capsys.readouterr().out and '<table' in (tmp_path/'class.html').read_text(encoding='utf-8')


def test_progress_as_it_is_kept_can_be_collected(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TLCOURSE_PROGRESS', str(tmp_path/'me.json'))
    exercise('00.1').check(lambda z: z)
    quiz('00').answer(1, 'a')
    assert classroom.collect(tmp_path)[0].loc['me', 'tries'] == 1 and len(classroom.collect(tmp_path)[2]) == 1
    assert cli.main(['progress']) == 0 and '00.1' in (said := capsys.readouterr().out) and 'me.json' in said
    assert cli.main(['progress', '--json']) == 0 and json.loads(capsys.readouterr().out) == progress()


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"items": 3}', '{"items": {"00.1": 3}}', '{"items": {"00.1": {"tries": "many"}}}', '\x00'])
def test_a_file_that_is_no_progress(content, tmp_path, capsys):
    (tmp_path/'x.json').write_text(content, encoding='utf-8')
    with pytest.raises(classroom.ClassError, match='x.json is no progress file') as e: classroom.collect(tmp_path)
    assert '\n' not in str(e.value) and cli.main(['class', 'collect', str(tmp_path)]) == 1 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize('args, said', [(['collect', 'nowhere'], 'holds no .json'), (['collect', 'a', 'b'], 'takes one FOLDER'), (['export', 'x', '99'], "no lesson '99'"),
                                        (['export', 'x', 'augmentatio'], 'did you mean'), (['hand'], 'class --help'), (['export', 'x', '--edition', 'all'], 'class --help')])
def test_wrong_use_is_one_line(args, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['class', *args]) in (1, 2)
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and not (tmp_path/'x').exists()
