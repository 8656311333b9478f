"A wheel is the whole course: built from the source distribution, it lists, copies and prints lessons far from the checkout."
import os, shutil, subprocess, sys, zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel of a wheel-from-sdist build, unpacked."
    pytest.importorskip('build'), pytest.importorskip('setuptools')
    tmp = tmp_path_factory.mktemp('build')
    skip = shutil.ignore_patterns('.git', '.venv', 'runs', '*.egg-info', '__pycache__', '.pytest_cache', 'build', 'dist')
    shutil.copytree(ROOT, tmp/'src', ignore=skip)
    r = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp/'dist', tmp/'src'], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
    built, = (tmp/'dist').glob('*.whl')
    with zipfile.ZipFile(built) as z: z.extractall(tmp/'site')
    return tmp/'site'


def tlcourse(site, cwd, *args):
    "Run the command from the unpacked wheel, not from the checkout."
    code = 'import sys; from tlcourse import cli; print(cli.__file__, file=sys.stderr); sys.exit(cli.main(sys.argv[1:]))'
    env = {**os.environ, 'PYTHONPATH': str(site), 'TLCOURSE_PROGRESS': 'off'}
    env.pop('TLCOURSE_COURSE', None)
    r = subprocess.run([sys.executable, '-c', code, *args], cwd=cwd, env=env, capture_output=True, text=True)
    assert r.returncode == 0 and str(site) in r.stderr, r.stderr
    return r.stdout


def test_wheel_holds_the_course_and_nothing_else(wheel):
    files = {o.relative_to(wheel).as_posix() for o in wheel.rglob('*') if o.is_file()}
    nbs = {f'tlcourse/course/{o.relative_to(ROOT).as_posix()}' for o in [*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'nbs').glob('*.png')] if '.ipynb_checkpoints' not in o.parts}
    modules = {o.relative_to(ROOT).as_posix() for o in [*(ROOT/'tlcourse').glob('*.py'), *(ROOT/'tlcourse'/'full').glob('*.tsv')]}
    assert nbs | modules | {'tlcourse/course/constraints.txt'} == {f for f in files if '.dist-info/' not in f}


def test_lessons_and_recipe_from_the_wheel(wheel, tmp_path):
    assert 'Why transfer?' in tlcourse(wheel, tmp_path, 'lessons')
    assert 'LogisticRegression' in tlcourse(wheel, tmp_path, 'recipe', '1')


def test_lab_copies_the_lessons_from_the_wheel(wheel, tmp_path):
    tlcourse(wheel, tmp_path, 'lab', '--no-open')
    assert (tmp_path/'tlcourse-lessons'/'lessons'/'01_why_transfer.ipynb').is_file()


def test_metadata(wheel):
    info, = wheel.glob('*.dist-info')
    text = (info/'METADATA').read_text(encoding='utf-8')
    for line in ('Name: tlcourse', 'License-Expression: Apache-2.0', 'Provides-Extra: text', 'Provides-Extra: speech', 'Provides-Extra: fairness', 'Provides-Extra: dev'): assert line in text
    assert 'tlcourse = tlcourse.cli:main' in (info/'entry_points.txt').read_text(encoding='utf-8')
