"""The labelled tables of a lesson that came out otherwise with TLCOURSE_PROFILE=full, as text for `plots.full_tables`.

    TLCOURSE_PROFILE=full jupyter execute --output full.ipynb nbs/lessons/05_augmentation.ipynb
    python tools/full_tables.py nbs/lessons/05_augmentation.ipynb nbs/lessons/full.ipynb > tlcourse/full/05.tsv

Each table begins with '# ', its label and the heading under which it stands; tabs between cells, an empty line at its end.
"""
import json, re, sys
from html.parser import HTMLParser
from pathlib import Path


class Grid(HTMLParser):
    "An HTML table of pandas: the rows of its head and of its body, and how many columns are its index."
    def __init__(self, html):
        super().__init__()
        self.head, self.body, self.index, self.part, self.cell, self.below = [], [], 0, None, None, {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ('thead', 'tbody'): self.part = self.head if tag == 'thead' else self.body
        if tag == 'tr': self.part.append([])
        if tag in ('td', 'th'): self.cell, self.tag, self.attrs = '', tag, dict(attrs)

    def handle_data(self, data):
        if self.cell is not None: self.cell += data

    def handle_endtag(self, tag):
        row = self.part[-1] if self.part else None
        if tag in ('td', 'th'):
            self._from_above(row)
            wide, high = (int(self.attrs.get(o, 1)) for o in ('colspan', 'rowspan'))
            for i in range(len(row), len(row) + wide): self.below[i] = (self.cell.strip(), high - 1)
            row += [self.cell.strip()]*wide
            if self.tag == 'th' and self.part is self.body: self.index = max(self.index, len(row))
            self.cell = None
        if tag == 'tr': self._from_above(row)

    def _from_above(self, row):
        "A cell over several rows is repeated in each."
        while (o := self.below.get(len(row), ('', 0)))[1]:
            self.below[len(row)] = (o[0], o[1] - 1)
            row.append(o[0])


def flat(grid):
    "One row of names, then the rows: the levels of a column's name are joined with a comma."
    *levels, last = grid.head
    named = len(grid.head) > 1 and not any(last[grid.index:])  # pandas puts the names of the index in a row of their own
    index = last[:grid.index] if named else grid.head[-1][:grid.index]
    parts = list(zip(*(o[grid.index:] for o in (levels if named else grid.head))))
    return [[*index, *(', '.join(dict.fromkeys(p for p in o if p)) for o in parts)], *grid.body]


def tables(notebook):
    "Label, heading and flat rows of each labelled table."
    heading = ''
    for cell in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown' and source.startswith('#'): heading = source.splitlines()[0].lstrip('# ')
        label = re.match(r'#\| label: (tbl-\S+)', source)
        for output in cell.get('outputs', []) if label else []:
            if '<table' in (html := ''.join(output.get('data', {}).get('text/html', ''))): yield label[1], heading, flat(Grid(html))


def changed(lesson, full):
    "The text of those tables of `full` that are not the same in `lesson`."
    quick = [(label, rows) for label, _, rows in tables(lesson)]
    for label, heading, rows in tables(full):
        if (label, rows) not in quick: yield '\n'.join([f'# {label} {heading}', *('\t'.join(o) for o in rows), ''])


if __name__ == '__main__': print(*changed(*sys.argv[1:]), sep='\n', end='')
