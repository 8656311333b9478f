"What people type: each wrong use of the commands for learners, teachers and authors is answered by one line, and nothing is written."
import json
from pathlib import Path

import pytest

from tlcourse import cli

PROGRESS = json.dumps(dict(version=1, items={'00.1': dict(state='correct', tries=1)}))
BAD = [
    # a lesson of one's own
    ('new', 'MODULE', 'x'), ('new',), ('new', 'lesson'), ('new', 'lesson', ''), ('new', 'lesson', '   '), ('new', 'lesson', '!!!'), ('new', 'lesson', '07'),
    ('new', 'lesson', '\N{CJK UNIFIED IDEOGRAPH-9CE5}'), ('new', 'lesson', '../birds'), ('new', 'lesson', 'C:\\birds'), ('new', 'lesson', 'two\nlines'), ('new', 'lesson', 'x'*61),
    ('new', 'lesson', 'Birds'), ('new', 'lesson', '01 Other'), ('new', 'lesson', 'Rain', 'afile'), ('new', 'lesson', 'Rain', 'afile/below'), ('new', 'lesson', 'Rain', 'a', 'b'),
    ('new', 'lesson', '--force'), ('new', 'course', 'Birds'),
    # is it in order?
    ('check', '77'), ('check', 'brids'), ('check', 'nowhere.ipynb'), ('check', '--all'), ('check', ''),
    # a class
    ('class',), ('class', 'export'), ('class', 'exprot', 'x'), ('class', 'export', 'x', '99'), ('class', 'export', 'x', 'brids'), ('class', 'export', 'afile'),
    ('class', 'export', 'x', '--edition', 'teachers'), ('class', 'export', 'x', '--out', 'page.html'), ('class', 'collect'), ('class', 'collect', 'nowhere'), ('class', 'collect', 'afile'),
    ('class', 'collect', 'empty'), ('class', 'collect', 'broken'), ('class', 'collect', 'broken', 'more'), ('class', 'collect', 'good', '--out', 'no/such/folder/page.html'),
    ('class', 'collect', 'good', '--out', 'empty'), ('class', 'syllabus', 'x'), ('class', 'syllabus'), ('class', 'syllabus', '--out', 'x'),
    # progress, the working copy
    ('progress', '--csv'), ('progress', '01', '02'), ('lab', 'afile', '--no-open'), ('lab', 'a', 'b'), ('lab', 'mine', '--in-place'), ('lab', '--port', '9999'),
]


@pytest.fixture(scope='module')
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp('course')
    assert cli.main(['new', 'lesson', 'Birds', str(folder)]) == 0
    return folder


@pytest.mark.parametrize('argv', BAD, ids=lambda o: ' '.join(o)[:40].replace('\n', ' '))
def test_one_line(argv, course, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k,v in dict(TLCOURSE_COURSE=course, TLCOURSE_PROGRESS='off', TLCOURSE_OFFLINE=1).items(): monkeypatch.setenv(k, str(v))
    Path('afile').write_text('mine')
    for o in 'empty', 'broken', 'good': Path(o).mkdir()
    Path('broken/anna.json').write_text('{"items": {"01.1": 3}}')
    Path('good/anna.json').write_text(PROGRESS)
    def files(): return {o: o.read_bytes() for at in (tmp_path, course) for o in at.rglob('*') if o.is_file()}
    before = files()
    assert cli.main(list(argv)) in (1, 2)
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and err.startswith('tlcourse') and 'Traceback' not in err and len(err) < 400, err
    assert files() == before


def test_there_are_forty(): assert len(BAD) >= 40
