"""The site in a browser, at the width of a phone and of a desk: nothing runs over the edge, nothing is fetched, nothing is missing.

axe-core looks for what keeps people out; `npm` fetches it for the test, and it stays outside the repository."""
import shutil, subprocess, sys, tarfile

import pytest

from walker import ROOT

AXE = 'axe-core@4.10.3'
PAGES = ['index', 'lessons/00_primer', 'lessons/01_why_transfer', 'lessons/05_augmentation', 'lessons/12_taking_it_home', 'cases/industrial',
         'foundations/classroom', 'api/index', 'api/features', 'recipes', 'glossary', 'benchmarks', 'findings', 'contributing', 'search']
WIDTHS = {'phone': dict(width=390, height=844), 'desk': dict(width=1440, height=900)}


@pytest.fixture(scope='session')
def site(browser, tmp_path_factory):
    pytest.importorskip('sphinx', reason='the extra `site` is not installed')
    out = tmp_path_factory.mktemp('site')
    made = subprocess.run([sys.executable, ROOT/'site'/'pages.py', out/'pages', out/'source'], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    return out/'pages'


@pytest.fixture(scope='session')
def axe(tmp_path_factory):
    if not (npm := shutil.which('npm')): pytest.skip('there is no npm to fetch axe-core with')
    folder = tmp_path_factory.mktemp('axe')
    got = subprocess.run([npm, 'pack', '--silent', AXE], cwd=folder, capture_output=True, text=True)
    if got.returncode: pytest.skip(f'npm has no {AXE}: {got.stderr.strip()[-200:]}')
    with tarfile.open(next(folder.glob('*.tgz'))) as t: return t.extractfile('package/axe.min.js').read().decode()


@pytest.fixture(params=WIDTHS)
def window(request, browser):
    context = browser.new_context(viewport=WIDTHS[request.param])
    page = context.new_page()
    page.faults = []
    page.on('pageerror', lambda e: page.faults.append(f'script: {e}'))
    page.on('request', lambda r: page.faults.append(f'fetched: {r.url}') if not r.url.startswith(('file:', 'data:', 'blob:')) else None)
    page.on('requestfailed', lambda r: page.faults.append(f'missing: {r.url}'))
    yield page
    context.close()


SEEN = """() => { const wide = document.documentElement.scrollWidth - innerWidth
    const empty = [...document.images].filter(o => o.complete && !o.naturalWidth).map(o => o.src.slice(0, 100))
    return {wide, empty, title: document.title, heading: document.querySelectorAll('h1').length} }"""
FOUND = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations.filter(o => ['serious', 'critical'].includes(o.impact))
    .map(o => `${o.id}: ${o.help} (${o.nodes.length}, such as ${o.nodes[0].html.slice(0, 160)})`)"""


@pytest.mark.parametrize('name', PAGES)
def test_page(site, window, shot, name):
    window.goto((site/f'{name}.html').as_uri())
    window.wait_for_load_state('load')
    got = window.evaluate(SEEN)
    shot(window)
    assert not window.faults and got['wide'] <= 0 and not got['empty'] and got['title'] and got['heading'] == 1, (window.faults, got)


@pytest.mark.parametrize('theme', ['light', 'dark'])
@pytest.mark.parametrize('name', PAGES)
def test_accessible(site, axe, window, shot, name, theme):
    window.emulate_media(color_scheme=theme)
    window.goto((site/f'{name}.html').as_uri())
    window.evaluate('theme => { document.documentElement.dataset.theme = theme; document.documentElement.dataset.mode = theme }', theme)
    window.evaluate(axe)
    found = window.evaluate(FOUND)
    if theme == 'dark': shot(window)
    assert not found, '\n'.join(found)
