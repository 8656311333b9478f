"The `tlcourse` command, on a course of tiny lessons: what it prints, writes and answers, and what it survives."
import ast, base64, json, os, signal, subprocess, sys, time
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from tlcourse import assets, cli, working_copy

pixel = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')
head = '# {}\n> A lesson for tests\n\n- minutes: 1\n- download: 3 MB\n- assets: [{}]\n- prerequisites: []\n'
good = [head.format('Good lesson', ''),
        '#| label: tbl-result\nimport pandas as pd\npd.DataFrame(dict(method=["probe"], accuracy=[.83]))',
        '# Pictures',
        f'#| label: fig-result\nfrom IPython.display import Image\nImage({pixel!r})',
        '#| eval: false\nraise SystemError("this cell is not to be run")',
        'import os, sys\n[sys.executable, os.getcwd(), os.environ["TLCOURSE_PROFILE"], os.environ["TLCOURSE_PROGRESS"]]',
        'import ipywidgets\nipywidgets.IntSlider()',
        '#| label: lst-recipe\n#| echo: true\n\nprint("from the recipe")\n']
bad = [head.format('Bad lesson', ''), '# Where it breaks', 'x = 1', 'raise ValueError("first line\\nsecond line")', 'x = 2']


def notebook(sources):
    "The JSON of a notebook with these cells; what starts with `# ` is markdown."
    def cell(i, s):
        return dict(cell_type='markdown', source=s.splitlines(True), metadata={}, id=f'c{i}') if s.startswith('# ') else \
            dict(cell_type='code', source=s, metadata={}, id=f'c{i}', outputs=[], execution_count=None)
    return json.dumps(dict(cells=[cell(i, s) for i, s in enumerate(sources)], metadata={}, nbformat=4, nbformat_minor=5))


@pytest.fixture
def course(tmp_path, monkeypatch):
    "A function that writes a lesson of a course of its own; the working folder is empty, the cache too, and there is no network."
    folder = tmp_path/'the course'/'nbs'/'lessons'
    folder.mkdir(parents=True)
    (tmp_path/'work').mkdir()
    monkeypatch.chdir(tmp_path/'work')
    env = dict(TLCOURSE_COURSE=tmp_path/'the course', TLCOURSE_HOME=tmp_path/'cache', TLCOURSE_OFFLINE=1,
               TLCOURSE_PROGRESS=tmp_path/'progress.json', COLUMNS=120)
    for k, v in env.items(): monkeypatch.setenv(k, str(v))
    def add(name, sources):
        (folder/f'{name}.ipynb').write_text(notebook(sources), encoding='utf-8')
        return folder/f'{name}.ipynb'
    add('01_good_lesson', good)
    return add


def command(*args, **kw):
    return subprocess.Popen([sys.executable, '-c', 'import sys; from tlcourse.cli import main; sys.exit(main())', *args],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding='utf-8', **kw)


# What a lesson says about itself

@pytest.mark.parametrize('md, expected', [
    ('# T\n> d\n\n- minutes: 2\n- assets: [a, b]', dict(title='T', description='d', minutes='2', assets=['a', 'b'])),
    ('#   T  \r\n> d\r\n- assets: []\r\n', dict(title='T', description='d', assets=[])),
    ("# T: with - signs\n\nText\n\n- download: 20 MB: about\n- assets: ['a', \"b\"]",
     dict(title='T: with - signs', download='20 MB: about', assets=['a', 'b'])),
    ('', dict(title='', description='')),
    ('## No title\n- minutes:\n- a point of a list', dict(title='', minutes='')),
])
def test_front_matter(md, expected):
    got = cli.front_matter(md)
    assert {k: got[k] for k in expected} == expected
    assert set(got) <= set(expected) | {'title', 'description'}


@pytest.mark.parametrize('name', ['1', '01', 'good_lesson', 'Good-Lesson', '01_good_lesson', '01_good_lesson.ipynb',
                                  'some/where/01_good_lesson.ipynb'])
def test_a_lesson_by_any_of_its_names(course, name): assert cli.find_lesson(name).title == 'Good lesson'


@pytest.mark.parametrize('argv, says', [
    (['lesons'], "did you mean 'lessons'?"), (['xyzzy'], 'tlcourse --help'), (['run', 'good_leson'], "did you mean 'good_lesson'?"),
    (['run', '2'], 'tlcourse lessons'), (['run', ''], 'tlcourse lessons'), (['run'], 'name a lesson'), (['run', '²'], 'tlcourse lessons'),
    (['recipe', 'bad'], 'tlcourse lessons'), (['fetch', 'animls'], "did you mean 'animals'?"),
    (['run', '1', '--profile', 'fast'], "'quick', 'full'"),
    (['--nonsense'], 'tlcourse --help'), (['recipe'], 'LESSON'), (['lessons', '--al'], 'tlcourse --help'),
])
def test_a_wrong_question_gets_one_line_and_code_2(course, capsys, argv, says):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and says.replace("'", '') in err.replace("'", '')


@pytest.mark.parametrize('content', ['', '{}', '[]', 'no json', '{"cells": 3}', '{"cells": [{"source": 1}]}'])
def test_a_damaged_notebook_gets_one_line(course, capsys, content):
    course('02_broken', good).write_text(content, encoding='utf-8')
    assert cli.main(['lessons']) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and '02_broken.ipynb' in err


def test_an_empty_course(course, capsys):
    (cli.course_path()/'nbs'/'lessons'/'01_good_lesson.ipynb').unlink()
    assert cli.main(['lessons']) == 1 and 'there are no lessons' in capsys.readouterr().err


def test_lessons_table(course, capsys):
    course('02_more', [head.format('More', 'animals, minilm'), good[-1]])
    assert cli.main(['lessons']) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len({r.index(o) for r, o in zip(rows, ('Lesson', 'Good lesson', 'More'))}) == 1
    assert '86 MB' in rows[2] and 'animals, minilm' in rows[2]


@pytest.mark.parametrize('columns', [80, 100, 120])
@pytest.mark.parametrize('fetched', [True, False])
def test_the_real_lessons_fit_the_screen(monkeypatch, capsys, tmp_path, columns, fetched):
    monkeypatch.setenv('COLUMNS', str(columns))
    monkeypatch.delenv('TLCOURSE_COURSE', raising=False)
    if not fetched: monkeypatch.setenv('TLCOURSE_HOME', str(tmp_path))
    assert cli.main(['lessons']) == 0
    rows = capsys.readouterr().out.splitlines()
    assert max(map(len, rows)) <= columns and len(rows) >= 12
    if columns == 80: assert len(rows) == 1 + len(cli.lessons())  # and none is wrapped
    assert ('efficientnet_lite0' in rows[1]) == (columns >= 110)


def test_a_case_is_called_by_its_name_and_comes_after_the_lessons(course, capsys):
    folder = course('02_more', [head.format('More', ''), good[-1]]).parents[1]/'cases'
    folder.mkdir()
    (folder/'wildlife.ipynb').write_text(notebook([head.format('Wildlife: who was here?', ''), "1 + 1"]), encoding='utf-8')
    assert [(o.name, o.number) for o in cli.lessons()] == [('01_good_lesson', '01'), ('02_more', '02'), ('wildlife', 'wildlife')]
    assert [cli.find_lesson(o).name for o in ('wildlife', 'cases/wildlife.ipynb', '2', 'more')] == ['wildlife']*2 + ['02_more']*2
    with pytest.raises(cli.CommandError, match="did you mean 'wildlife'"): cli.find_lesson('wildlive')
    assert cli.main(['lessons']) == 0 and capsys.readouterr().out.splitlines()[-1].startswith('    Wildlife: who was here?')
    assert cli.main(['run', 'wildlife']) == 0 and (Path('runs')/'wildlife.ipynb').is_file()
    assert cli.main(['lab', '--no-open']) == 0 and Path('tlcourse-lessons/cases/wildlife.ipynb').is_file()


def test_table_wraps_its_widest_column():
    rows = [['a', ' '.join(['word']*20), 'end'], ['b', '', '']]
    for width in (30, 50, 100): assert max(map(len, cli.table(['X', 'Y', 'Z'], rows, width).splitlines())) <= width
    assert cli.table(['X', 'Y'], [], 20) == 'X  Y'


def test_what_is_shown_fits_a_windows_console(course):
    p = command('lessons', env={**os.environ, 'PYTHONIOENCODING': 'cp1252'})
    assert p.wait() == 0
    course('02_snowman', [head.format('Snow \N{SNOWMAN}', ''), good[-1]])
    p = command('lessons', env={**os.environ, 'PYTHONIOENCODING': 'cp1252'})
    out, err = p.communicate()
    assert p.returncode == 0 and 'Snow ?' in out and not err


# Running lessons

@pytest.fixture
def executed(course, capsys):
    "Both lessons run, with the answer, the exit code and what was printed."
    course('02_bad_lesson', bad)
    course('03_needs_data', [head.format('Needs data', 'animals'), good[1]])
    code = cli.main(['run', '--all', '--profile', 'full'])
    return code, *capsys.readouterr()


def test_run(executed):
    code, out, err = executed
    assert code == 1
    nb = json.loads(Path('runs/01_good_lesson.ipynb').read_text(encoding='utf-8'))
    said = [''.join(o['data']['text/plain']) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o]
    assert any(ast.literal_eval(o) == [sys.executable, str(Path('runs').resolve()), 'full', 'off'] for o in said if o.startswith('['))
    assert 'widgets' not in nb['metadata'] and 'widget-view' not in json.dumps(nb)
    assert Path('runs/01_good_lesson-fig-result.png').read_bytes() == pixel
    assert '0.83' in cli.labelled_text(Path('runs/01_good_lesson.ipynb'), 'tbl-result')
    # the failing one: its copy, one line with lesson, heading and the error's own line
    line, = [o for o in err.splitlines() if 'ValueError' in o]
    assert all(o in line for o in ('02_bad_lesson', 'Where it breaks', 'cell 4', 'ValueError: first line')) and 'second line' not in line
    assert 'second line' in Path('runs/02_bad_lesson.ipynb').read_text(encoding='utf-8')
    # the one whose data is not there
    assert 'animals' in err and not Path('runs/03_needs_data.ipynb').exists()
    rows = [r.split()[:2] for r in out.splitlines()[1:]]
    assert rows == [['01_good_lesson', 'ok'], ['02_bad_lesson', 'FAILED'], ['03_needs_data', 'FAILED']]
    assert 'Traceback' not in out + err and 'Warning' not in out + err
    kept = sorted(o.name for o in Path('runs').iterdir())
    assert kept == ['01_good_lesson-fig-result.png', '01_good_lesson.ipynb', '02_bad_lesson.ipynb']
    assert not (assets.home().parent/'progress.json').exists()


def test_demo(course, capsys):
    assert cli.main(['demo', '--out', 'my runs', '--profile', 'quick']) == 0
    out = capsys.readouterr().out
    assert '0  probe      0.83' in out
    for o in '01_good_lesson.ipynb', '01_good_lesson-fig-result.png': assert str(Path('my runs')/o) in out and (Path('my runs')/o).is_file()
    assert out.rstrip().splitlines()[-3].split()[:2] == ['tlcourse', 'lab']


def test_demo_that_fails(course, capsys):
    course('01_good_lesson', bad)
    assert cli.main(['demo']) == 1
    assert 'doctor' in capsys.readouterr().out


def test_a_foreign_kernel_called_python3_is_not_used(course, tmp_path, monkeypatch):
    spec = tmp_path/'jupyter'/'kernels'/'python3'
    spec.mkdir(parents=True)
    (spec/'kernel.json').write_text(json.dumps(dict(argv=['no-such-python'], display_name='x', language='python')), encoding='utf-8')
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'jupyter'))
    course('01_good_lesson', [head.format('x', ''), '1'])
    assert cli.main(['run', '1']) == 0


def test_a_kernel_that_dies(course, capsys):
    course('01_good_lesson', [head.format('x', ''), '# Too much', 'import os\nos._exit(1)'])
    assert cli.main(['run', '1']) == 1
    err = [o for o in capsys.readouterr().err.splitlines() if o.startswith('tlcourse:')]
    assert len(err) == 1 and 'kernel died' in err[0] and 'Too much' in err[0]


@pytest.mark.skipif(os.name == 'nt', reason='Ctrl-C cannot be sent to one process on Windows')
@pytest.mark.parametrize('running', [True, False], ids=['in a cell', 'at the start of the kernel'])
def test_ctrl_c(course, running):
    course('01_good_lesson', [head.format('x', ''), 'import os, pathlib, time',
                              'pathlib.Path("pid").write_text(str(os.getpid()))\ntime.sleep(100)'])
    p = command('run', '1')
    me, until = psutil.Process(p.pid), time.time() + 60
    def ready(): return Path('runs/pid').exists() and Path('runs/pid').read_text() if running else me.children()
    while not ready() and time.time() < until: time.sleep(.05)
    kernels = me.children(recursive=True)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and err.splitlines()[-1] == 'tlcourse: interrupted.' and 'Traceback' not in err
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1]
    assert not Path('runs/01_good_lesson.ipynb').exists()


@pytest.mark.skipif(os.name == 'nt', reason='no SIGPIPE')
def test_the_reader_of_a_pipe_leaves(course):
    for i in range(2, 99): course(f'{i:02}_lesson', [head.format('x'*2000, '')])
    p = command('lessons')
    p.stdout.read(10)
    p.stdout.close()
    assert not p.stderr.read() and p.wait() == 141


# The working copy

@pytest.fixture
def lab(course, capsys):
    "Update the working copy; a call returns what was said about each file."
    def update():
        assert cli.main(['lab', 'mine', '--no-open']) == 0
        return capsys.readouterr().out.splitlines()[:-1]
    return update


def student_edition(path): return working_copy._edition(path, path.read_bytes(), working_copy._titles(path.parent))


def test_the_working_copy_keeps_what_the_learner_changed(course, lab):
    copy, new = (Path('mine/lessons')/f'01_good_lesson{o}.ipynb' for o in ('', '.new'))
    v1 = student_edition(course('01_good_lesson', good))
    assert lab() == [f'copied {copy}'] and copy.read_bytes() == v1 and lab() == []
    v2 = student_edition(course('01_good_lesson', good[:-1]))
    assert lab() == [f'updated {copy}'] and copy.read_bytes() == v2
    copy.write_bytes(b'my answers')
    assert lab() == [] and not new.exists()
    v3 = student_edition(course('01_good_lesson', good[:-2]))
    assert [o[:9] for o in lab()] == ['kept your'] and copy.read_bytes() == b'my answers' and new.read_bytes() == v3
    assert lab() == []


def test_answers_meet_a_newer_lesson(course, lab):
    copy = Path('mine/lessons/01_good_lesson.ipynb')
    nb = json.loads(course('01_good_lesson', good).read_bytes())
    for k, c in enumerate(nb['cells']): c['id'] = f'cell{k}'
    (cli.course_path()/'nbs/lessons/01_good_lesson.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    lab()
    mine = json.loads(copy.read_bytes())
    mine['cells'].insert(2, dict(cell_type='code', id='own', metadata={}, source='42', outputs=[], execution_count=7))
    mine['metadata']['widgets'] = {}
    copy.write_text(json.dumps(mine), encoding='utf-8')
    nb['cells'][1]['source'] = 'print("newer")'
    (cli.course_path()/'nbs/lessons/01_good_lesson.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    assert lab() == [f'updated {copy} and kept what you wrote in it'] and lab() == []
    got = [(o['id'], ''.join(o['source'])) for o in json.loads(copy.read_bytes())['cells']]
    assert got[1:3] == [('cell1', 'print("newer")'), ('own', '42')] and len(got) == len(nb['cells']) + 1
    assert sorted(o.name for o in copy.parent.iterdir()) == [copy.name]


@pytest.mark.parametrize('record', [None, 'no json', '[]', '{"lessons/01_good_lesson.ipynb": 3}'])
def test_a_lost_record_loses_no_answers(course, lab, record):
    lab()
    copy, rec = Path('mine/lessons/01_good_lesson.ipynb'), Path('mine/.tlcourse.json')
    rec.unlink() if record is None else rec.write_text(record, encoding='utf-8')
    copy.write_bytes(b'my answers')
    lab()
    assert copy.read_bytes() == b'my answers' and copy.with_suffix('.new.ipynb').exists() and lab() == []


def test_a_deleted_lesson_comes_back(course, lab):
    lab()
    Path('mine/lessons/01_good_lesson.ipynb').unlink()
    assert lab() == [f"copied {Path('mine/lessons/01_good_lesson.ipynb')}"]


def test_lab_opens_a_copy_and_hands_options_on(course, monkeypatch, capsys):
    (cli.course_path()/'settings.ini').touch()
    calls = []
    monkeypatch.setattr(cli.subprocess, 'Popen', lambda cmd, **kw: calls.append(cmd) or namedtuple('P', 'wait')(lambda: 0))
    assert cli.main(['lab', '--', '--port', '9999']) == 0
    assert f'--ServerApp.root_dir={Path("tlcourse-lessons").absolute()}' in calls[0] and calls[0][:3] == [sys.executable, '-m', 'jupyterlab']
    assert calls[0][-2:] == ['--port', '9999'] and Path('tlcourse-lessons/lessons/01_good_lesson.ipynb').exists()
    assert cli.main(['lab', '--in-place']) == 0
    assert f'--ServerApp.root_dir={cli.course_path()/"nbs"}' in calls[1]
    assert cli.main(['lab', 'mine', '--in-place']) == 1
    Path('afile').touch()
    assert cli.main(['lab', 'afile']) == 1
    assert [o[:9] for o in capsys.readouterr().err.splitlines()] == ['tlcourse:']*2


# Recipes

def test_recipe(course, capsys):
    assert cli.main(['recipe', '1']) == 0
    code = capsys.readouterr().out
    assert code == 'print("from the recipe")\n'
    assert cli.main(['recipe', '1', '--out', 'r.py']) == 0 and Path('r.py').read_text(encoding='utf-8') == code
    assert subprocess.run([sys.executable, 'r.py'], capture_output=True, text=True).stdout == 'from the recipe\n'
    Path('r.py').write_text('mine')
    capsys.readouterr()
    assert cli.main(['recipe', '1', '--out', 'r.py']) == 1 and Path('r.py').read_text() == 'mine'
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(['recipe', '1', '--out', 'r.py', '--force']) == 0 and Path('r.py').read_text(encoding='utf-8') == code
    assert cli.main(['recipe', '1', '--out', 'no/such/folder/r.py']) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_recipe(course, capsys):
    course('02_bad_lesson', bad)
    assert cli.main(['recipe', '2']) == 1 and 'no recipe' in capsys.readouterr().err


# The cache

@pytest.fixture
def store(course, monkeypatch):
    "A catalog of three assets from two downloads; `gone` fails, the others are written into the cache as `fetch` does."
    asked = []
    def asset(name, size, sha): return assets.Asset(name, 'images', '1', size, sha*64, 'MIT', '', f'pip:{name}==1')
    cat = [asset('aaa', 4_000_000, '1'), asset('bbb', 4_000_000, '1'), asset('gone', 2_000_000, '2')]
    def fetch(name, progress=True, force=False):
        asked.append((name, force))
        a = next(o for o in cat if o.name == name)
        if name == 'gone': raise assets.AssetError('gone: it is not there; look elsewhere.')
        a.folder.mkdir(parents=True, exist_ok=True)
        (a.folder/'f').write_bytes(b'data')
        found = {'f': (4, assets._sha256(a.folder/'f'))}
        (a.folder/'manifest.json').write_text(json.dumps(dict(format=1, sha256=a.sha256, files=found)), encoding='utf-8')
        return a.folder
    monkeypatch.setattr(assets, 'all_assets', lambda: cat)
    monkeypatch.setattr(assets, 'fetch', fetch)
    course('02_data', [head.format('Data', 'aaa, bbb'), '1'])
    return {a.name: a for a in cat} | {'asked': asked}


@pytest.fixture
def online(monkeypatch): monkeypatch.delenv('TLCOURSE_OFFLINE')


def test_fetch(store, online, capsys):
    assert cli.main(['fetch', 'data', 'bbb']) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == '2 assets, 4.0 MB to download'
    assert [r.split() for r in rows[1:3]] == [['aaa', '4.0', 'MB', 'fetched'], ['bbb', '4.0', 'MB', 'fetched']]
    assert rows[3].startswith('2 assets, 4.0 MB; downloaded 4.0 MB')
    assert cli.main(['fetch', '2']) == 0 and 'to download' not in capsys.readouterr().out
    assert cli.main(['fetch', '--all']) == 1
    out, err = capsys.readouterr()
    assert out.startswith('1 asset, 2.0 MB to download') and 'downloaded 0 MB' in out and out.count('cached') == 2
    assert err.splitlines()[0] == 'tlcourse: gone: it is not there; look elsewhere.'
    assert cli.main(['fetch']) == 0
    states = {r.split()[0]: r for r in capsys.readouterr().out.splitlines()[1:4]}
    assert 'cached' in states['aaa'] and 'not fetched' in states['gone']
    assert cli.main(['lessons']) == 0 and '4.0 MB, cached' in capsys.readouterr().out


def test_fetch_mends_what_the_doctor_names(store, capsys, online):
    "A changed byte leaves the size as it was; the command that the doctor gives puts it right."
    cli.main(['fetch', '2'])
    (store['aaa'].folder/'f').write_bytes(b'dat?')
    bad, = [f for f in cli.check_cache() if f.mark == 'problem']
    capsys.readouterr()
    assert cli.main(bad.fix.split()[1:]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ['aaa', '4.0', 'MB', 'fetched']
    assert (store['aaa'].folder/'f').read_bytes() == b'data' and [f for f in cli.check_cache() if f.mark == 'problem'] == []


def test_fetch_force(store, capsys, online):
    cli.main(['fetch', '2'])
    store['asked'].clear()
    assert cli.main(['fetch', 'aaa', 'bbb', '--force']) == 0
    assert store['asked'] == [('aaa', True), ('bbb', False)]  # one download has both
    out = capsys.readouterr().out
    assert '2 assets, 4.0 MB to download' in out and 'downloaded 4.0 MB' in out
    assert cli.main(['fetch', '--force']) == 2 and '--all' in capsys.readouterr().err


def test_a_changed_byte_is_mended_before_a_lesson_runs(store, capsys):
    cli.main(['fetch', '2'])
    (store['bbb'].folder/'f').write_bytes(b'dat?')
    assert cli.main(['run', '2']) == 0 and (store['bbb'].folder/'f').read_bytes() == b'data'


def test_real_fetch_piped(home, index, monkeypatch, tmp_path):
    "As in a log: the total, a line a while for a slow download, a line an asset; no bar."
    import hashlib, dataclasses, time as clock
    a = index.add('tlslow', {'tlslow/x': os.urandom(3_000_000)})
    index.serve = lambda name, data: clock.sleep(.6) or data
    code = f"""import sys
from tlcourse import assets, cli
from functools import partial
assets._assets[:] = [assets.Asset(**{dataclasses.asdict(a)!r})]
assets._lines.__defaults__ = (.2,)
sys.exit(cli.main(['fetch', 'tlslow']))"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8', env={k: v for k,v in os.environ.items() if k != 'TLCOURSE_PROGRESS'})
    assert r.returncode == 0, r.stderr
    assert r.stdout.splitlines()[0] == '1 asset, 3.0 MB to download' and r.stdout.splitlines()[1].split() == ['tlslow', '3.0', 'MB', 'fetched']
    lines = r.stderr.splitlines()
    assert lines and all(o.startswith('tlslow: ') and o.endswith(' of 3 MB') for o in lines) and '\r' not in r.stderr


# The doctor

def marks(check): return {f.what: f.mark for f in check()}


@pytest.mark.parametrize('system, machine, version, good', [('Darwin', 'x86_64', '15.1', False), ('Darwin', 'arm64', '13.6.1', False),
                                                            ('Darwin', 'arm64', '14.0', True), ('Linux', 'x86_64', '', True)])
def test_doctor_system(monkeypatch, system, machine, version, good):
    for k, v in dict(system=system, machine=machine).items(): monkeypatch.setattr(cli.platform, k, lambda v=v: v)
    monkeypatch.setattr(cli.platform, 'mac_ver', lambda: (version, ('', '', ''), machine))
    assert ('system' in [o.what for o in cli.check_python() if o.mark == 'problem']) == (not good)


def test_doctor_versions(course, monkeypatch):
    import importlib.metadata as md
    real = md.version
    pins = 'torch==2.15.0\nfastai==2.8.12 ; python_version > "3"\nnot-installed==1\n'
    (cli.course_path()/'constraints.txt').write_text(pins, encoding='utf-8')
    have = dict(torch='2.15.0+cpu', fastai='2.8.12')
    monkeypatch.setattr(md, 'version', lambda name: have.get(name) or real(name))
    assert marks(cli.check_packages) == dict(packages='ok', versions='ok')
    have.update(torch='2.14.0')
    found = {f.what: f for f in cli.check_packages()}
    assert found['versions'].mark == 'note' and found['versions'].said == 'torch 2.14.0 (tested: 2.15.0)'
    assert 'constraints.txt' in found['versions'].fix
    have.update(torch='1.0')
    found = {f.what: f for f in cli.check_packages()}
    assert found['packages'].mark == 'problem' and 'torch>=' in found['packages'].fix
    def version(name):
        if name == 'timm': raise md.PackageNotFoundError(name)
        return real(name)
    monkeypatch.setattr(md, 'version', version)
    found = {f.what: f for f in cli.check_packages()}
    assert found['packages'].mark == 'problem' and 'timm' in found['packages'].said and 'missing' in found['packages'].said


def test_doctor_cache(store):
    assets.fetch('aaa'), assets.fetch('bbb')
    assert [f.mark for f in cli.check_cache()] == ['ok', 'note']  # the note: 'gone' cannot be fetched offline
    (store['aaa'].folder/'f').write_bytes(b'dat?')
    bad = [f for f in cli.check_cache() if f.mark == 'problem']
    assert len(bad) == 1 and bad[0].said.startswith('aaa: f ') and bad[0].fix == 'tlcourse fetch aaa'


@pytest.fixture
def quick(course, monkeypatch):
    "The doctor without the checks of the machine."
    monkeypatch.setattr(cli, 'doctor_checks', [cli.check_cache])


def test_doctor_on_lessons(store, quick, capsys, monkeypatch):
    assert cli.main(['doctor', '1']) == 1  # offline, and nothing at all in the cache
    assert 'problem  cache     not in it: aaa, bbb, gone, and TLCOURSE_OFFLINE forbids to fetch' in capsys.readouterr().out
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    assert cli.main(['doctor', '1']) == 0  # lesson 1 needs nothing
    assert 'ok       lesson 01 all that it needs is there' in capsys.readouterr().out
    for argv in (['doctor', '1', '2'], ['doctor', '--class']):
        assert cli.main(argv) == 1
        out = capsys.readouterr().out
        assert 'ok       lesson 01' in out and 'problem  lesson 02 it needs aaa (not in the cache); bbb (not in the cache)' in out
        assert 'fix: tlcourse fetch 02' in out and '1 problem, 0 notes' in out
    cli.main(['fetch', '2'])
    assert cli.main(['doctor', '--class']) == 0
    (store['aaa'].folder/'f').write_bytes(b'dat?')
    assert cli.main(['doctor', '2']) == 1 and 'it needs aaa (f has changed)' in capsys.readouterr().out
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    cli.main(['doctor', '2'])
    assert 'unset TLCOURSE_OFFLINE, then tlcourse fetch 02' in capsys.readouterr().out
    assert cli.main(['doctor', '3']) == 2


def hide(monkeypatch, *names):
    "Distributions that are not installed."
    import importlib.metadata as md
    real = md.version
    def version(name):
        if name in names: raise md.PackageNotFoundError(name)
        return real(name)
    monkeypatch.setattr(md, 'version', version)


@pytest.mark.parametrize('code, packages, extra', [
    ('import transformers', ['transformers'], 'text'),
    ('from transformers import AutoModel', ['transformers'], 'text'),
    ('import soundfile as sf', ['soundfile'], 'speech'),
    ('def f():\n    import espeakng_loader', ['espeakng-loader'], 'speech'),
    ('%matplotlib inline\n!ls\nimport jiwer', ['jiwer'], 'speech'),
    ('from tlcourse.corpora import texts', ['transformers'], 'text'),
    ('from tlcourse import text', ['transformers'], 'text'),
    ('import torch, timm, tlcourse.backbones', [], ''),
    ('def f():\n    import transformers', [], ''),
    ('#| eval: false\nimport transformers', [], ''),
    ('this is no Python', [], ''),
])
def test_doctor_knows_which_packages_a_lesson_needs(course, quick, monkeypatch, capsys, code, packages, extra):
    course('02_more', [head.format('More', ''), code])
    hide(monkeypatch, 'transformers', 'tokenizers', 'peft', 'soundfile', 'espeakng-loader', 'jiwer')
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    assert cli.main(['doctor', '2']) == int(bool(packages))
    out = capsys.readouterr().out
    for o in packages: assert f'{o}>=' in out and '(missing)' in out
    if extra: assert f'-m pip install "tlcourse[{extra}' in out
    assert ('lesson 02 it needs' in out) == bool(packages)
    assert cli.main(['doctor']) == 0  # on the whole course it is a note
    assert ('note     packages  needed for lesson 02: ' in capsys.readouterr().out) == bool(packages)


def test_doctor_reads_the_real_lessons():
    need = {l.number: set(cli.needs(l)) for l in cli.lessons()}
    assert not any(need[f'{i:02}'] for i in range(1, 8)) and 'transformers' in need['08'] & need['09'] & need['11']
    assert {'espeakng_loader', 'soundfile'} <= need['09'] and 'espeakng_loader' not in need['08']
    assert need['12']=={'onnxruntime'} and need['13']==need['14']==need['09'] and need['16']>={'fairlearn', 'transformers'}
    assert 'openvino' in cli.extra_packages() and not any('openvino' in o for o in need.values()) # an accelerator is asked for, not needed


def test_a_package_that_is_too_old(course, quick, monkeypatch, capsys):
    import importlib.metadata as md
    real = md.version
    monkeypatch.setattr(md, 'version', lambda name: '4.40' if name == 'transformers' else real(name))
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    course('02_more', [head.format('More', ''), 'import transformers'])
    assert cli.main(['doctor', '2']) == 1 and '(4.40)' in capsys.readouterr().out


def test_doctor_on_a_place(course, monkeypatch, tmp_path):
    assert marks(cli.check_place) == dict(place='ok')
    assets._workplace.cache_clear()
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('TLCOURSE_HOME', str(tmp_path/'file'))
    import platformdirs
    monkeypatch.setattr(platformdirs, 'user_cache_path', lambda *a, **kw: tmp_path/'file')
    f, = cli.check_place()
    assert f.mark == 'problem' and 'lost when they end' in f.said
    assets._workplace.cache_clear()
    def full(*a, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(assets.tempfile, 'mkdtemp', full)
    f, = cli.check_place()
    assert f.mark == 'problem' and 'No space left on device' in f.said and f.fix
    assets._workplace.cache_clear()


def test_doctor_on_progress(course, monkeypatch):
    monkeypatch.setattr(cli.os, 'access', lambda path, mode: False)
    f = [o for o in cli.check_place() if 'your progress' in o.said]
    assert f[0].mark == 'problem' and 'TLCOURSE_PROGRESS' in f[0].fix


def test_doctor_machine(course, monkeypatch):
    assert set(marks(cli.check_machine)) == {'cores', 'memory', 'disk'}
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: namedtuple('M', 'available')(1e9))
    monkeypatch.setattr(cli.shutil, 'disk_usage', lambda p: namedtuple('D', 'free')(1e7))
    if hasattr(os, 'sched_getaffinity'): monkeypatch.setattr(cli.os, 'sched_getaffinity', lambda p: {0})
    monkeypatch.setattr(cli.os, 'cpu_count', lambda: 1)
    assert marks(cli.check_machine) == dict(cores='note', memory='note', disk='note')
    assert all(f.fix for f in cli.check_machine())


@pytest.mark.parametrize('cores, free, by, mark, says', [
    (2, 2, '', 'ok', '2 of 2'), (2, 1, '', 'note', '1 of 2'), (8, -1, '', 'note', '1 of 8'), (1, 1, '', None, ''), (2, 0, '3', 'ok', 'OMP_NUM_THREADS=3 is set')])
def test_doctor_threads(monkeypatch, cores, free, by, mark, says):
    from tlcourse import threads
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    monkeypatch.setenv('OMP_NUM_THREADS', by)
    monkeypatch.setattr(threads, 'cores', lambda: list(range(cores)))
    monkeypatch.setattr(threads, 'free_cores', lambda old, new: free)
    monkeypatch.setattr(threads, 'reading', dict)
    found = list(cli.check_threads())
    assert [f.mark for f in found] == ([mark] if mark else []) and all(says in f.said for f in found)
    assert all(f.fix for f in found if f.mark == 'note')


@pytest.mark.parametrize('code, mark', [(0, 'ok'), (1, 'note')])
def test_doctor_index(course, monkeypatch, code, mark):
    asked = []
    monkeypatch.setattr(cli.subprocess, 'run', lambda cmd, **kw: asked.append(cmd) or namedtuple('R', 'returncode')(code))
    assert marks(cli.check_index) == dict(network='ok') and not asked  # TLCOURSE_OFFLINE is set
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    assert marks(cli.check_index) == dict(network=mark) and asked[0][-1] in {a.source[4:].split('==')[0] for a in assets.all_assets()}


def test_doctor_torch(course, monkeypatch):
    def run(code, out='', err=''):
        monkeypatch.setattr(cli.subprocess, 'run', lambda *a, **kw: namedtuple('R', 'returncode stdout stderr')(code, out, err))
    run(0, 'noise\n["2.15.0", "cuda", "A card"]\n')
    assert next(cli.check_torch()).said == '2.15.0 on cuda, A card'
    run(1, err='Traceback\nRuntimeError: operator torchvision::nms does not exist\n')
    f = next(cli.check_torch())
    assert f.mark == 'problem' and 'nms' in f.said and f.fix
    run(-11)
    assert next(cli.check_torch()).mark == 'problem'


def test_doctor_jupyter(course, monkeypatch, tmp_path):
    spec = tmp_path/'jupyter'/'kernels'/'python3'
    spec.mkdir(parents=True)
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'jupyter'))
    for exe, mark in (sys.executable, 'ok'), ('/no/such/python', 'note'):
        (spec/'kernel.json').write_text(json.dumps(dict(argv=[exe], display_name='x', language='python')), encoding='utf-8')
        assert marks(cli.check_jupyter) == dict(Jupyter=mark)
    real = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, 'find_spec', lambda n: None if n == 'jupyterlab' else real(n))
    assert [f.fix for f in cli.check_jupyter() if f.mark == 'problem'] == [f'{cli._python()} -m pip install jupyterlab']


def test_doctor_goes_on_to_the_end(course, monkeypatch, capsys):
    def broken(): raise RuntimeError('no idea'); yield
    def fine(): yield cli.Finding('ok', 'this', 'fine')
    monkeypatch.setattr(cli, 'doctor_checks', [broken, fine])
    assert cli.main(['doctor']) == 1
    out = capsys.readouterr().out
    assert 'problem  broken' in out and 'no idea' in out and 'ok       this' in out and out.count('fix:') == 1 and '1 problem' in out
    monkeypatch.setattr(cli, 'doctor_checks', [fine])
    assert cli.main(['doctor']) == 0


# Starting

@pytest.mark.parametrize('code', ['import tlcourse', 'import tlcourse.cli', 'from tlcourse.cli import main; assert main(["--help"]) == 0',
                                  'from tlcourse.cli import main; assert main(["lessons"]) == 0'])
def test_what_starting_imports(course, code):
    heavy = {'torch', 'fastai', 'timm', 'numpy', 'pandas', 'matplotlib', 'nbclient', 'nbformat', 'jupyter_client', 'yaml', 'IPython'}
    if 'lessons' not in code: heavy |= {'platformdirs', 'filelock', 'tqdm', 'asyncio', 'importlib.metadata'}
    r = subprocess.run([sys.executable, '-I', '-c', f'{code}\nimport sys; print(*sys.modules)'], capture_output=True, text=True, check=True)
    before = subprocess.run([sys.executable, '-I', '-c', 'import sys; print(*sys.modules)'], capture_output=True, text=True, check=True)
    assert not heavy & (set(r.stdout.split()) - set(before.stdout.split()))


def test_version_and_help(capsys):
    import tlcourse
    assert cli.main(['--version']) == 0 and capsys.readouterr().out == f'tlcourse {tlcourse.__version__}\n'
    assert cli.main([]) == 0 and cli.main(['--help']) == 0
    for name in 'demo lessons run lab fetch doctor recipe predict'.split():
        assert cli.main([name, '--help']) == 0
        assert f'tlcourse {name}' in capsys.readouterr().out.split('examples:')[1]
