"""The labelled tables of a lesson that ran with TLCOURSE_PROFILE=full, as tab-separated text to keep beside its claims.

    TLCOURSE_PROFILE=full jupyter execute --output full.ipynb nbs/lessons/05_augmentation.ipynb
    python tools/full_tables.py nbs/lessons/full.ipynb > tests/claims/full/05.tsv
"""
import json, re, sys
from html.parser import HTMLParser
from pathlib import Path


class Rows(HTMLParser):
    "The cells of an HTML table, row by row; a cell over several columns is followed by empty ones."
    def __init__(self, html):
        super().__init__()
        self.rows, self.cell = [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th'): self.cell, self.span = '', int(dict(attrs).get('colspan', 1))

    def handle_data(self, data):
        if self.cell is not None: self.cell += data

    def handle_endtag(self, tag):
        if tag not in ('td', 'th'): return
        self.rows[-1] += [self.cell.strip()] + ['']*(self.span - 1)
        self.cell = None


def tables(notebook):
    "Label and rows of each labelled table."
    for cell in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        label = re.search(r'^#\| label: (tbl-\S+)', ''.join(cell['source']), re.M)
        for output in cell.get('outputs', []) if label else []:
            if html := output.get('data', {}).get('text/html'): yield label[1], Rows(''.join(html)).rows


if __name__ == '__main__':
    for label, rows in tables(sys.argv[1]): print(f'# {label}', *('\t'.join(o) for o in rows), '', sep='\n')
