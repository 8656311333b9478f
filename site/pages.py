"""From the notebooks as they are committed to the sources of a site: nothing is run, nothing of a lesson is written twice.

    python site/pages.py            # writes build/site; open index.html there, it needs no server and no network

`write` puts the sources into a folder, where Sphinx takes them up; conf.py says how they look.
"""
import ast, configparser, json, re, shutil, sys, time
from pathlib import Path

from tlcourse.classroom import syllabus
from tlcourse.core import read_cells
from tlcourse.editions import learning_minutes, student

ROOT = Path(__file__).resolve().parent.parent

MACHINERY = {'Exercise', 'Question', 'guess', 'quiz', 'explore'}  # calls whose code would show a solution or only draws a widget


def source(cell): return ''.join(cell['source'])


def directives(cell):
    "The `#|` lines of a cell as a dict, and the cell's source without them."
    found, kept = {}, []
    for line in source(cell).splitlines():
        if m := re.match(r'#\|\s*([\w-]+):?\s*(.*)', line): found[m[1]] = m[2]
        else: kept.append(line)
    return found, '\n'.join(kept).strip('\n')


def called(code):
    "Names that are called in `code`; none where it is no Python."
    try: tree = ast.parse(code)
    except SyntaxError: return set()
    return {o.func.id for o in ast.walk(tree) if isinstance(o, ast.Call) and isinstance(o.func, ast.Name)}


def front(text):
    "Title, subtitle and facts of a lesson's first cell, and what else stands in it."
    title = re.search(r'^# (.+)$', text, re.M)[1]
    said = re.search(r'^> ?(.+)$', text, re.M)
    facts = dict(re.findall(r'^- (\w+): *(.*)$', text, re.M))
    rest = re.sub(r'^(# .+|> ?.+|- \w+: *.*)\n?', '', text, flags=re.M).strip()
    return title, said[1] if said else '', facts, rest


def listed(value): return [o.strip() for o in value.strip('[] ').split(',') if o.strip()]


def header(text, titles, name, learn=0):
    "The first cell for a reader: what it is, how long it takes, what comes before it."
    title, said, facts, rest = front(text)
    line = []
    if learn: line.append(f'about {learn} minutes')
    if 'minutes' in facts: line.append(f"the cells run in {facts['minutes']} min on a laptop")
    if 'download' in facts: line.append(f"downloads {facts['download']}")
    if before := [o for o in listed(facts.get('prerequisites', '')) if o in titles]:
        line.append('after ' + ', '.join(f'[{titles[o]}](../lessons/{o}.ipynb)' for o in before))
    line.append(f'{{download}}`notebook <{name}>`')
    return f'# {title}\n\n*{said}*\n\n{{.facts}}\n' + ' · '.join(line) + (f'\n\n{rest}' if rest else '')


def page(nb, titles, name, learn=0):
    "A notebook for reading: no directives, no hidden cells, no solutions."
    cells = []
    for k, cell in enumerate(nb['cells']):
        cell = dict(cell, metadata={})
        if cell['cell_type'] == 'markdown':
            if k == 0: cell['source'] = header(source(cell), titles, name, learn)
            cells.append(cell)
            continue
        marks, code = directives(cell)
        if 'hide' in marks or not code and not cell['outputs']: continue
        tags = []
        if called(code) & MACHINERY: tags.append('remove-input')
        elif marks.get('echo') == 'false': tags.append('remove-input')
        if re.fullmatch(r'\w+\.(check|hint|solution)\(.*', code): continue  # needs a kernel
        cells.append(dict(cell, source=code, metadata={'tags': tags}, execution_count=None))
    return dict(nb, cells=cells, metadata={'kernelspec': nb['metadata'].get('kernelspec', {}), 'language_info': {'name': 'python'}})


def labelled(nb, label):
    for cell in nb['cells']:
        marks, code = directives(cell)
        if marks.get('label') == label: return code
    return ''


def module(path):
    "The module that a notebook exports, or ''."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        marks, _ = directives(cell)
        if 'default_exp' in marks or (m := re.search(r'#\|\s*default_exp\s+(\w+)', source(cell))):
            return re.search(r'default_exp\s+(\w+)', source(cell))[1]
    return ''


def public_names(root):
    "Public names that each module defines itself, by nbdev's index of the notebooks."
    index = ast.parse((root/'tlcourse'/'_modidx.py').read_text(encoding='utf-8')).body[0].value
    return {m.split('.')[-1]: [o.split('.')[-1] for o in names if o.count('.') == 2 and not o.split('.')[-1].startswith('_')]
            for m, names in ast.literal_eval(index)['syms'].items()}


def api(name, notebook, title, names):
    "The page of a module."
    return f"""# tlcourse.{name}

Explained in [{title}](../{notebook}).

```{{eval-rst}}
.. automodule:: tlcourse.{name}
   :members: {", ".join(names)}
   :show-inheritance:
```
"""


def finding(path):
    "Title and facts of the comment that opens a finding."
    lines = []
    for line in path.read_text(encoding='utf-8').splitlines()[1:]:
        if not line.startswith('#'): break
        lines.append(line[1:].removeprefix(' '))
    text = '\n'.join(lines).strip()
    title, _, rest = text.partition('\n')
    facts = re.findall(r'^(Versions?|Input|Expected|Seen|Way out)\s+(.*(?:\n[ \t]+.*)*)', rest, re.M)
    rows = '\n'.join(f"**{k}.** {' '.join(v.split())}\n" for k, v in facts)
    return f'## {title}\n\n{rows}\n`findings/{path.name}`\n'


def settings(root):
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']


def readable(text):
    "Links between notebooks of README's source as links between pages."
    return text.replace('](../CONTRIBUTING.md)', '](contributing.md)')


def toc(caption, names, hidden=True): return f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n" + '\n'.join(names) + '\n```\n'


def write(root: Path, folder: Path):
    "Write the sources of all pages into `folder`, which is emptied first."
    shutil.rmtree(folder, ignore_errors=True)
    nbs = root/'nbs'
    books = {part: sorted((nbs/part).glob('*.ipynb')) for part in ('lessons', 'cases', 'foundations')}
    load = lambda p: json.loads(p.read_text(encoding='utf-8'))
    titles, recipes, modules = {}, [], {}
    for part, paths in books.items():
        for p in paths: titles[p.stem] = front(source(load(p)['cells'][0]))[0]
    lessons = {p.stem: titles[p.stem] for p in books['lessons']}
    for part, paths in books.items():
        (folder/part).mkdir(parents=True, exist_ok=True)
        for p in paths:
            nb = load(p)
            if exported := module(p): modules[exported] = f'{part}/{p.name}', titles[p.stem]
            if code := labelled(nb, 'lst-recipe') or labelled(nb, 'recipe'): recipes.append((f'{part}/{p.name}', titles[p.stem], code))
            (folder/part/'files').mkdir(exist_ok=True)
            if part == 'foundations': shutil.copy(p, folder/part/'files'/p.name)
            else: (folder/part/'files'/p.name).write_text(json.dumps(student(read_cells(p.read_bytes()), lessons, p.stem, '' if part == 'lessons' else '../lessons/')), encoding='utf-8')
            out = page(nb, titles, f'files/{p.name}', 0 if part == 'foundations' else learning_minutes(read_cells(p.read_bytes())))
            (folder/part/p.name).write_text(json.dumps(out), encoding='utf-8')
    (folder/'api').mkdir()
    public = public_names(root)
    for name, (notebook, title) in sorted(modules.items()):
        (folder/'api'/f'{name}.md').write_text(api(name, notebook, title, public.get(name, [])), encoding='utf-8')
    rows = '\n'.join(f'- [{name}]({name}.md): {title}' for name, (_, title) in sorted(modules.items()))
    (folder/'api'/'index.md').write_text(f'# Modules\n\nEvery public name, with parameters, what it returns, what it raises, and its source.\n\n{rows}\n\n'
        + toc('Modules', sorted(modules)), encoding='utf-8')
    text = '# Recipes\n\nWhat to take home from each lesson: a script for data of your own. `tlcourse recipe 1` prints one.\n\n'
    text += '\n'.join(f'## {title}\n\nFrom [{title}]({where}).\n\n```python\n{code}\n```\n' for where, title, code in recipes)
    (folder/'recipes.md').write_text(text, encoding='utf-8')
    text = '# Findings\n\nSurprises of real libraries, tools and formats, each with a script in the repository that shows it without tlcourse.\n\n'
    (folder/'findings.md').write_text(text + '\n'.join(finding(p) for p in sorted((root/'findings').glob('*.sh'))), encoding='utf-8')
    (folder/'syllabus.md').write_text(syllabus(), encoding='utf-8')
    shutil.copy(root/'benchmarks'/'results.md', folder/'benchmarks.md')
    shutil.copy(root/'CONTRIBUTING.md', folder/'contributing.md')
    shutil.copy(root/'site'/'glossary.md', folder/'glossary.md')
    shutil.copytree(root/'site'/'static', folder/'static')
    index = load(nbs/'index.ipynb')
    body = []
    for cell in index['cells']:
        marks, code = directives(cell)
        if cell['cell_type'] == 'markdown': body.append(readable(source(cell)))
        elif marks.get('echo') == 'false':
            body += [''.join(o['data']['text/markdown']) for o in cell['outputs'] if 'text/markdown' in o.get('data', {})]
        else: body.append(f'```python\n{code}\n```')
    shutil.copy(nbs/'result.png', folder/'result.png')
    entry = lambda part, p: f'{p.stem[:2]} {titles[p.stem]} <{part}/{p.stem}>' if part == 'lessons' else f'{part}/{p.stem}'
    nav = [toc(part.title(), [entry(part, p) for p in paths]) for part, paths in books.items() if paths]
    nav.insert(-1, toc('To take home', ['recipes', 'glossary', 'syllabus', 'api/index', 'benchmarks', 'findings', 'contributing']))
    (folder/'index.md').write_text('\n\n'.join(body + nav), encoding='utf-8')


def build(out: Path, src: Path):
    "Write the site to `out`, by way of sources in `src`; 0 if all went well."
    from sphinx.cmd.build import build_main
    write(ROOT, src)
    return build_main(['-q', '-W', '--keep-going', '-b', 'html', '-d', str(src.parent/'site-cache'), '-c', str(ROOT/'site'),
                       '-D', f'html_static_path={src/"static"}', str(src), str(out)])


if __name__ == '__main__':
    start = time.time()
    out, src = (Path(sys.argv[k] if len(sys.argv) > k else ROOT/'build'/d).resolve() for k, d in ((1, 'site'), (2, 'site-source')))
    rc = build(out, src)
    print(f'{len(list(out.rglob("*.html")))} pages in {time.time()-start:.0f} s: {out/"index.html"}')
    sys.exit(rc)
