"The site: what readers get of the notebooks, without solutions, and pages whose links and pictures are all there."
import re, ast, json, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.append(str(root/'site'))
import pages

LESSONS = [o for part in ('lessons', 'cases') for o in sorted((root/'nbs'/part).glob('*.ipynb'))]


def load(p): return json.loads(p.read_text(encoding='utf-8'))


def solutions(nb):
    "Solution of each exercise of a notebook: the fourth argument of `Exercise`."
    for cell in nb['cells']:
        if cell['cell_type'] != 'code' or 'Exercise(' not in pages.source(cell): continue
        for o in ast.walk(ast.parse(pages.directives(cell)[1])):
            if isinstance(o, ast.Call) and getattr(o.func, 'id', '') == 'Exercise': yield o.args[3].value


@pytest.mark.parametrize('path', LESSONS, ids=lambda p: p.stem[:2])
def test_no_solutions(path):
    nb = load(path)
    found = list(solutions(nb))
    assert len(found) >= 3
    seen = [o for o in pages.page(nb, {}, 'x')['cells'] if 'remove-input' not in o['metadata'].get('tags', [])]
    text = ' '.join(' '.join(pages.source(o).split()) for o in seen)
    for o in found: assert ' '.join(o.split()) not in text
    assert '#|' not in text and 'Exercise(' not in text


def test_header():
    first = '# Text\n\n> Words.\n\n- minutes: 2\n- download: 5 MB\n- assets: [a]\n- prerequisites: [03_fine_tuning]\n\nMore.'
    said = pages.header(first, {'03_fine_tuning': 'Fine-tuning'}, 'files/08.ipynb')
    assert said.startswith('# Text\n\n*Words.*') and 'run in 2 min' in said and 'after [Fine-tuning](../lessons/03_fine_tuning.ipynb)' in said
    assert said.endswith('More.') and 'assets' not in said


def test_notebooks_to_download_have_no_solutions(tmp_path):
    pages.write(root, tmp_path/'src')
    files = sorted((tmp_path/'src'/'lessons'/'files').glob('*.ipynb'))
    assert len(files) >= 15 and not any('Exercise(' in f.read_text(encoding='utf-8') or 'Question(' in f.read_text(encoding='utf-8') for f in files)
    assert 'exercise(' in files[0].read_text(encoding='utf-8')
    first = json.loads((tmp_path/'src'/'lessons'/files[0].name).read_text(encoding='utf-8'))['cells'][0]['source']
    assert re.search(r'about \d+ minutes · the cells run in', first)


def test_finding():
    said = pages.finding(root/'findings'/'peft-linear-average.sh')
    assert said.startswith("## The 'linear' average") and '**Seen.**' in said and '**Way out.**' in said


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.faults = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.ids.add(attrs['id'])
        for k in ('href', 'src'):
            if attrs.get(k) and tag != 'use': self.links.append((tag, attrs[k]))
        if tag == 'img' and not attrs.get('alt'): self.faults.append('a picture without alternative text')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    pytest.importorskip('sphinx', reason='the extra `site` is not installed')
    out = tmp_path_factory.mktemp('site')
    made = subprocess.run([sys.executable, root/'site'/'pages.py', out/'pages', out/'source'], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    return out/'pages'


def test_site(site):
    "Every page is there, every link inside leads somewhere, nothing is fetched from elsewhere, every picture has a text."
    found = {p: Links(p.read_text(encoding='utf-8')) for p in site.rglob('*.html') if '_static' not in p.parts}
    for p in LESSONS: assert (site/p.parent.name/f'{p.stem}.html') in found
    for o in ('recipes', 'glossary', 'benchmarks', 'findings', 'api/features', 'foundations/features', 'search'): assert (site/f'{o}.html') in found
    wrong = []
    for page, o in found.items():
        wrong += [f'{page.name}: {f}' for f in o.faults]
        for tag, link in o.links:
            url = urlsplit(link)
            if url.scheme in ('http', 'https'):
                if tag != 'a': wrong.append(f'{page.name}: {tag} {link}')
                continue
            if url.scheme: continue
            to = (page.parent/unquote(url.path)).resolve() if url.path else page
            if not to.exists(): wrong.append(f'{page.name}: {link}')
            elif url.fragment and to.suffix == '.html' and unquote(url.fragment) not in found[to].ids: wrong.append(f'{page.name}: {link}')
    assert not wrong, '\n'.join(sorted(set(wrong))[:30])
