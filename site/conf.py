"How the site looks: Sphinx reads this. Nothing comes from elsewhere when a page is opened: no fonts, no scripts, no formulas."
import re, sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parent)]
from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import pages

cfg = pages.settings(here.parent)
project, release, copyright = cfg['name'], cfg['version'], 'the tlcourse authors, Apache-2.0'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode', 'sphinx_copybutton']
exclude_patterns = ['**/files/**']  # the notebooks to download
nb_execution_mode = 'off'
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ['dollarmath', 'deflist', 'attrs_block']
myst_heading_anchors = 3
html_math_renderer = 'mathml'
html_theme = 'sphinx_book_theme'
html_title = 'tlcourse'
html_css_files = ['site.css']
html_theme_options = dict(show_navbar_depth=1, collapse_navbar=True, use_download_button=False, use_fullscreen_button=False,
                          show_toc_level=1, navigation_with_keys=False, search_as_you_type=False)
html_copy_source = html_show_sourcelink = False
copybutton_selector = 'div.cell_input pre, div.highlight pre'
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
napoleon_use_rtype = False
suppress_warnings = ['mystnb.unknown_mime_type']
autodoc_inherit_docstrings = False


def plain(text):
    "A docstring's line for reStructuredText: `name` is code, and no other sign has a meaning."
    parts = re.split(r'(`[^`]+`)', text)
    return ''.join(f'\\ `{o}`\\ ' if o[:1] == '`' and len(o) > 2 else re.sub(r'([*|_`])', r'\\\1', o) for o in parts)


def docstring(app, what, name, obj, options, lines):
    "Before napoleon reads the headings `Parameters` and `Returns`, which have a line of dashes below."
    lines[:] = [o if not o.strip('- ') or re.match(r'\w+ : ', o) else plain(o) for o in lines]


def skip(app, what, name, obj, skip, options):
    "What fastai's transforms and modules all have is not listed for each."
    return True if name in ('encodes', 'decodes', 'setups', 'forward', 'set') else None


def formula(display):
    "A formula as MathML, which browsers draw themselves."
    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise SkipNode
    return visit


def setup(app):
    app.connect('autodoc-process-docstring', docstring, priority=400)
    app.connect('autodoc-skip-member', skip)
    app.add_html_math_renderer('mathml', (formula('inline'), None), (formula('block'), None))
