"A real browser: JupyterLab as `tlcourse lab` starts it, and the learner's hands. Run by `make test-browser`."
import os, shutil
from pathlib import Path

import pytest

from walker import Lab

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT/'build'/'browser'  # a picture of each step, to look at
NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome', 'msedge'


def chromium(): return os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope='session')
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed: it comes with the extra `browser`')
    if not chromium(): pytest.skip('there is no Chromium on the path; name one in CHROMIUM')
    root = hasattr(os, 'geteuid') and os.geteuid() == 0  # who may not have a sandbox
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium(), args=['--no-sandbox']*root)
        yield b
        b.close()


@pytest.fixture
def shot(request):
    "Keep a picture of a page, under the name of the test and of the step."
    SHOTS.mkdir(parents=True, exist_ok=True)
    name = ''.join(o if o.isalnum() else '-' for o in request.node.name.removeprefix('test_')).strip('-')
    return lambda page, step='', **kw: page.screenshot(path=SHOTS/f'{name}-{step}.png', **kw)


@pytest.fixture(scope='session')
def lab(browser, tmp_path_factory):
    made = Lab(tmp_path_factory.mktemp('learner'))
    yield made
    made.stop()


@pytest.fixture
def page(browser):
    "A window of a laptop, whose errors are kept in `faults`."
    context = browser.new_context(viewport=dict(width=1280, height=900))
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.faults = []
    page.on('pageerror', lambda e: page.faults.append(str(e)[:300]))
    yield page
    context.close()
