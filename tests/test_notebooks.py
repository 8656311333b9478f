"The rules of the house, for every notebook: what is committed is clean, small, readable, and complete."
import base64, importlib.util, json, re
from pathlib import Path

import pytest

from tlcourse import cli, plots
from tlcourse.assets import catalog, find

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
LESSONS = [o for o in NOTEBOOKS if o.parent.name in ('lessons', 'cases')]


def cells(nb, kind=None):
    for c in json.loads(nb.read_text(encoding='utf-8'))['cells']:
        if kind in (None, c['cell_type']): yield {**c, 'source': ''.join(c['source'])}


def outputs(nb):
    for c in cells(nb, 'code'):
        for o in c.get('outputs', []): yield c, o


def text(o): return ''.join(o.get('text', [])) + ''.join(''.join(v) for k,v in o.get('data', {}).items() if k.startswith('text'))


def label(cell): return (re.match(r'#\| label: (\S+)', cell['source']) or ' ')[0].removeprefix('#| label: ')


def number(nb): return nb.stem if nb.parent.name == 'cases' else nb.stem[:2]


def each(nbs): return pytest.mark.parametrize('nb', nbs, ids=lambda o: o.stem)


@each(NOTEBOOKS)
def test_clean_and_small(nb):
    assert nb.stat().st_size < 1_000_000
    assert set(json.loads(nb.read_text(encoding='utf-8'))['metadata'].get('language_info', {})) <= {'name'}, 'it names the Python of one machine'
    for c,o in outputs(nb):
        assert o['output_type'] != 'error', text(o)
        assert o.get('name') != 'stderr', f'a warning or a log was left in: {text(o)[:200]}'
        assert not re.search(r'/(home|root|tmp|Users|work)/\w|[A-Z]:\\\\?Users|https?://(localhost|127)|\d+%\|', text(o)), text(o)[:300]
        assert 'application/vnd.jupyter.widget-view+json' not in o.get('data', {}) or 'text/html' in o['data'] or 'text/plain' in o['data']


@each(NOTEBOOKS)
def test_figures_are_small_and_have_alt_text(nb):
    for c,o in outputs(nb):
        if 'image/png' not in o.get('data', {}): continue
        assert len(base64.b64decode(''.join(o['data']['image/png']))) <= 100_000
        alt = o['metadata'].get('image/png', {}).get('alt', '')
        assert len(alt) > 20, f'a figure without alt text in: {c["source"][:100]}'


@each(NOTEBOOKS)
def test_headings_stand_alone(nb):
    for i,c in enumerate(cells(nb, 'markdown')):
        lines = [o for o in c['source'].splitlines() if o.strip()]
        if i and lines[0].startswith('#'): assert len(lines) == 1, lines[:2]
        assert not any(re.match('#+ ', o) for o in lines[1:]), lines


@each(NOTEBOOKS)
def test_title_and_subtitle(nb):
    first = next(cells(nb))['source'].strip().splitlines()
    assert re.match(r'# \S', first[0]) and next(o for o in first[1:] if o).startswith('> ')
    if nb.parent.name == 'cases': assert first[0].lower().startswith(f'# {nb.stem}: '), 'the list of lessons shows the title of a case, and it is called by its name'


@each(LESSONS)
def test_front_matter(nb):
    m = cli.front_matter(next(cells(nb))['source'])
    assert float(m['minutes']) > 0 and isinstance(m['assets'], list) and isinstance(m['prerequisites'], list)
    mb = sum({find(a).sha256: find(a).size for a in m['assets']}.values())/1e6
    assert m['download'] == f'{mb:.0f} MB', f'the assets are {mb:.0f} MB to download'


@each(LESSONS)
def test_lesson_is_complete(nb):
    code = [c['source'] for c in cells(nb, 'code')]
    whole = '\n'.join(code)
    assert whole.count('Exercise(') >= 3 and 'quiz(' in whole and '.test(' in whole, 'three exercises, tested, and a quiz'
    assert len(re.findall(r'[Pp]redict', '\n'.join(c['source'] for c in cells(nb, 'markdown')))) >= 2, 'a question before each experiment'
    assert len(re.findall(r'^\s*(assert|test_)', whole, re.M)) >= 5, 'claims are asserted'
    recipe = [c['source'] for c in cells(nb, 'code') if label(c) == 'lst-recipe']
    assert len(recipe) == 1 and len([o for o in recipe[0].splitlines() if o.strip() and not o.startswith('#|')]) <= 25
    assert any(label(c).startswith('fig-') for c in cells(nb, 'code')) and any(label(c).startswith('tbl-') for c in cells(nb, 'code'))


@each(LESSONS)
def test_each_guess_is_asked_once_and_answered(nb):
    asked = re.findall(r"^(\w+) = guess\('(\w+\.[a-z])'", '\n'.join(c['source'] for c in cells(nb, 'code')), re.M)
    want = [f'{number(nb)}.{letter}' for letter in 'abcdefghijklmnopqrstuvwxyz'[:len(asked)]]
    assert [o for _,o in asked] == want and len({n for n,_ in asked}) == len(asked)
    for name,_ in asked: assert f'{name}.compare(' in '\n'.join(c['source'] for c in cells(nb, 'code')), f'{name} meets no result'


CLAIMS = sorted((ROOT/'tests'/'claims').glob('*.toml'))

@each(CLAIMS)
def test_claims_and_lesson_are_in_step(nb):
    "Each assertion of a lesson is an experiment's, with its controls, or that of an identity; none is forgotten."
    import tomllib
    table = tomllib.loads(nb.read_text(encoding='utf-8'))
    lesson = next(o for o in LESSONS if number(o) == nb.stem)
    assert set(table) == {'claim', 'exact'}
    for o in table['claim']:
        assert set(o) == {'claim', 'cell', 'controls', 'seeds', 'verdict'} and o['controls'] and all(o.values()), o
        assert o['verdict'] in ('holds', 'reversed', 'undecided') and re.search(r'\d|one|two|three', o['seeds']), o
    asserting = {c['id'] for c in cells(lesson, 'code') if not re.search(r'^#\| *(export|hide)', c['source'], re.M)
                 and re.search(r'^\s*(assert |test_(eq|close|fail|is|ne|shuffled)\b)', c['source'], re.M)}
    claimed, exact = {o['cell'] for o in table['claim']}, set(table['exact'])
    assert not claimed & exact and claimed | exact == asserting, (asserting - claimed - exact, (claimed | exact) - asserting)


@each(LESSONS)
def test_cells_are_short(nb):
    for c in cells(nb, 'code'):
        lines = [o for o in c['source'].splitlines() if o.strip() and not o.startswith('#|')]
        hidden = '#| hide' in c['source'] or '#| export' in c['source'] or label(c) == 'lst-recipe' or c['metadata'].get('jupyter')
        assert len(lines) <= (25 if hidden else 12), f'{len(lines)} lines: {lines[0]}'


@each(LESSONS)
def test_outputs_are_there(nb):
    ran = [c for c in cells(nb, 'code') if c.get('outputs')]
    assert len(ran) >= 10, 'a reader sees no results'


def test_readme_is_in_step():
    spec = importlib.util.spec_from_file_location('readme', ROOT/'tools'/'readme.py')
    spec.loader.exec_module(tool := importlib.util.module_from_spec(spec))
    assert (ROOT/'README.md').read_text(encoding='utf-8') == tool.readme(), 'run make docs'
    assert (ROOT/'nbs'/'result.png').read_bytes() == tool.picture()[0], 'run make docs'


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r'\]\((?!https?:)([^)#]+)', (ROOT/'README.md').read_text(encoding='utf-8'))
    assert len(links) > 5 and all((ROOT/o).exists() for o in links), [o for o in links if not (ROOT/o).exists()]


def test_constraints_are_names_and_versions():
    lines = (ROOT/'constraints.txt').read_text(encoding='utf-8').splitlines()
    assert len(lines) > 50 and all(re.fullmatch(r'[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+', o) for o in lines)


def test_one_place_for_the_name():
    import tomllib, configparser
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    py = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert ini['DEFAULT']['name'] == py['name'] and {'version', 'dependencies', 'optional-dependencies'} <= set(py['dynamic'])


def test_requirements_have_lower_bounds_only():
    import configparser
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    reqs = [o.strip() for k,v in ini['DEFAULT'].items() if k.endswith('requirements') for o in v.splitlines() if o.strip()]
    assert reqs and all(re.fullmatch(r'[\w.-]+>=[\d.]+', o) for o in reqs), reqs


@each(LESSONS)
def test_lines_fit(nb):
    for c in cells(nb, 'code'): assert not (long := [o for o in c['source'].splitlines() if len(o) > 110]), long


FULL = sorted(o for o in (ROOT/'tlcourse'/'full').glob('*.tsv') if o.stem != 'pairs') # that is lesson 14's table of data

@each(FULL)
def test_full_tables_and_lesson_are_in_step(nb):
    "Each kept table is that of a label, stands under its heading, has the rows and columns of the quick one, and is shown."
    spec = importlib.util.spec_from_file_location('full_tables', ROOT/'tools'/'full_tables.py')
    spec.loader.exec_module(tool := importlib.util.module_from_spec(spec))
    lesson = next(o for o in LESSONS if number(o) == nb.stem)
    quick = {label: (heading, rows) for label, heading, rows in tool.tables(lesson)}
    kept = plots.full_tables(nb.stem)
    for label, df in kept.items():
        heading, (names, *rows) = quick[label]
        assert df.attrs['title'] == heading and set(names) <= set(df.columns) and df.notna().all(None), label
        first = {o[0] for o in rows}
        assert first.issubset(df.iloc[:, 0]) or first.isdisjoint(df.iloc[:, 0]) and all(re.search(r'\d', o) for o in first), label
    shown = [''.join(text(o)) for c, o in outputs(lesson) if f"full_tables('{nb.stem}')" in c['source']]
    assert len(shown) == 1 and all(f'<code>{label}</code>, full profile' in shown[0] for label in kept)
