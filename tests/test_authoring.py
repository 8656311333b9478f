"A lesson of one's own: begun, listed, run, checked, opened and handed out like the lessons of the course."
import json
from pathlib import Path

import pytest

from tlcourse import authoring, classroom, cli, editions, exercises
from tlcourse.core import read_cells

NBS = Path(__file__).parent.parent/'nbs'
LESSONS = [*sorted((NBS/'lessons').glob('*.ipynb')), *sorted((NBS/'cases').glob('*.ipynb'))]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A course with one lesson, just begun, in a folder with a space in its name."
    monkeypatch.chdir(tmp_path)
    for k,v in dict(TLCOURSE_COURSE=tmp_path/'my course', TLCOURSE_PROGRESS=tmp_path/'progress.json', TLCOURSE_OFFLINE=1).items(): monkeypatch.setenv(k, str(v))
    assert cli.main(['new', 'lesson', 'Bird songs']) == 0
    return tmp_path/'my course'/'nbs'/'lessons'/'01_bird_songs.ipynb'


def test_a_new_lesson_is_listed_run_and_in_order(mine, capsys):
    capsys.readouterr()
    assert cli.main(['new', 'lesson', 'Rain']) == 0 and 'check 02' in (said := capsys.readouterr().out) and 'export' not in said # it is set already
    assert cli.main(['lessons']) == 0 and 'Bird songs' in capsys.readouterr().out
    assert cli.main(['run', 'bird_songs']) == 0 and cli.main(['check', '1']) == 0
    assert '01_bird_songs: in order' in capsys.readouterr().out
    done = Path('runs')/'01_bird_songs.ipynb'
    assert authoring.faults(done) == [] and '0.' in cli.labelled_text(done, 'tbl-result')
    assert cli.main(['recipe', '1']) == 0 and 'np.savez' in capsys.readouterr().out


def test_a_new_lesson_has_every_edition(mine, tmp_path):
    nb = read_cells(mine.read_bytes())
    new = editions.student(nb, {}, mine.stem)
    assert 'Exercise(' not in json.dumps(new) and sum(c['id'].endswith('-answer') for c in new['cells']) == 3
    assert [exercises.exercise(f'01.{i}').id for i in (1, 2, 3)] == ['01.1', '01.2', '01.3'] and len(exercises.quiz('01').questions) == 5
    for edition in classroom.EDITIONS: assert classroom.export(tmp_path/edition, ['01_bird_songs'], edition)
    with pytest.raises(classroom.ClassError, match='no lesson 00'): classroom.syllabus()


def test_a_second_one_and_where_it_is_named(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('TLCOURSE_COURSE')
    assert cli.main(['new', 'lesson', 'Rain', str(tmp_path/'my course')]) == 0
    assert 'TLCOURSE_COURSE=' in capsys.readouterr().out and mine.with_name('02_rain.ipynb').exists()
    assert cli.main(['new', 'lesson', 'Snow']) == 0 and Path('my-course/nbs/lessons/01_snow.ipynb').exists() and Path('my-course/nbs/index.ipynb').exists()


def test_in_place_opens_a_course_of_ones_own(mine, monkeypatch):
    opened = []
    class Done:
        def wait(self): return 0
    monkeypatch.setattr(cli.subprocess, 'Popen', lambda cmd, **kw: opened.append(cmd) or Done())
    assert cli.main(['lab', '--in-place']) == 0 and f'--ServerApp.root_dir={mine.parents[1]}' in opened[0]


@pytest.mark.parametrize('path', LESSONS, ids=lambda p: p.stem)
def test_the_lessons_of_the_course_are_in_order(path): assert authoring.faults(path) == []
