"Write README.md, and the picture in it, from nbs/index.ipynb and the outputs that lesson 01 was committed with."
import base64, json, re, sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = Path('nbs/result.png')


def cells(path): return json.loads((ROOT/path).read_text(encoding='utf-8'))['cells']


def picture(lesson='nbs/lessons/01_why_transfer.ipynb', label='fig-result'):
    "The PNG of a lesson's labeled figure, and its alternative text."
    out = next(o for c in cells(lesson) if f'#| label: {label}\n' in c['source'] for o in c['outputs'] if 'image/png' in o.get('data', {}))
    return base64.b64decode(''.join(out['data']['image/png'])), out['metadata']['image/png']['alt']


def shown(cell):
    "A cell as Markdown: prose as it is, code in a fence, what it displays after it; a cell that starts with `#| echo: false` only by its output."
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown': return source
    parts = [] if source.startswith('#| echo: false') else [f'```python\n{source}\n```']
    for o in cell['outputs']:
        data = o.get('data', {})
        parts.append(''.join(data['text/markdown']) if 'text/markdown' in data else f"```\n{''.join(data.get('text/plain', o.get('text', ''))).rstrip()}\n```")
    return '\n\n'.join(parts)


def readme():
    _, alt = picture()
    text = '\n\n'.join(o for c in cells('nbs/index.ipynb') if (o := shown(c).strip()))
    text = re.sub(r'\]\((?!https?:|\.\./|#)', '](nbs/', text.replace('![]', f'![{alt}]')).replace('](../', '](')  # README lies a folder above
    return text + '\n'


if __name__ == '__main__':
    want = {ROOT/'README.md': readme().encode(), ROOT/PICTURE: picture()[0]}
    if '--check' in sys.argv:
        stale = [f.name for f,data in want.items() if not f.exists() or f.read_bytes().replace(b'\r\n', b'\n') != data.replace(b'\r\n', b'\n')]
        sys.exit(f"{' and '.join(stale)} out of step with the notebooks; run make docs." if stale else 0)
    for f,data in want.items(): f.write_bytes(data)
