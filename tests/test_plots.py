"The figures: legible to everyone, small, described in words, and right."
import base64, io, itertools, re, subprocess, sys

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from scipy import stats
from sklearn.metrics import confusion_matrix

from tlcourse import plots

COLORS = plots.SERIES.by_key()['color']
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
MACHADO = {
    'protanopia': [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
    'deuteranopia': [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
    'tritanopia': [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}


def linear(color):
    c = np.array(mpl.colors.to_rgb(color))
    return np.where(c <= .04045, c / 12.92, ((c + .055) / 1.055)**2.4)

def luminance(color): return linear(color) @ [.2126, .7152, .0722]

def contrast(a, b): return (max(luminance(a), luminance(b)) + .05) / (min(luminance(a), luminance(b)) + .05)

def lab(lin):
    xyz = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]]) @ np.clip(lin, 0, 1) / [.9505, 1, 1.089]
    f = np.where(xyz > (6/29)**3, np.cbrt(xyz), xyz / (3 * (6/29)**2) + 4/29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

def runs(methods=('scratch', 'probe'), sizes=(20, 50, 1000), seeds=3, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame([dict(method=m, n=n, seed=s, seconds=float(k + 1), accuracy=.3 + .1 * k + .05 * i + rng.normal(0, .01))
                         for k, m in enumerate(methods) for i, n in enumerate(sizes) for s in range(seeds)])

def at(df, n): return df[df.n == n]

def picture(fig): return Image.open(io.BytesIO(fig.png()))


# the palette

def test_series_differ_in_lightness():
    light = [lab(linear(c))[0] for c in COLORS[:4]]
    assert min(abs(a - b) for a, b in itertools.combinations(light, 2)) > 10

@pytest.mark.parametrize('kind,least', [('protanopia', 25), ('deuteranopia', 25), ('tritanopia', 15)])
def test_series_differ_for_color_blind_eyes(kind, least):
    seen = [lab(np.array(MACHADO[kind]) @ linear(c)) for c in COLORS]
    apart = lambda cs: min(np.linalg.norm(a - b) for a, b in itertools.combinations(cs, 2))
    assert apart(seen[:4]) > least and apart(seen) > 10

def test_every_series_has_its_own_color_marker_and_dash():
    for key, values in plots.SERIES.by_key().items(): assert len(set(values)) == len(plots.SERIES), key


# the figure

def test_alt_text_is_required_and_one_line():
    with pytest.raises(TypeError): plots.subplots()
    for alt in ('', '  \n', None):
        with pytest.raises(ValueError, match='alternative text'): plots.subplots(alt=alt)
    assert plots.subplots(alt=' two\n lines ')[0].alt == 'two lines'

def test_bundle_has_picture_and_text():
    fig, ax = plots.subplots(alt='a "b" <c> & d')
    data, meta = fig._repr_mimebundle_()
    png = base64.b64decode(data['image/png'])
    assert meta['image/png'] == {'alt': fig.alt, 'width': 700} and data['text/plain'] == fig.alt
    assert Image.open(io.BytesIO(png)).size == (1400, 640) and data['image/png'] in data['text/html']
    assert 'alt="a &quot;b&quot; &lt;c&gt; &amp; d"' in data['text/html']

def test_png_is_deterministic_and_white_behind():
    df = runs()
    assert plots.learning_curve(df).png() == plots.learning_curve(df).png()
    im = picture(plots.learning_curve(df)).convert('RGBA')
    assert {im.getpixel(p) for p in ((0, 0), (im.width - 1, im.height - 1))} == {(255, 255, 255, 255)}

def test_png_stays_below_its_limit_even_for_noise():
    noise = np.random.default_rng(0).integers(0, 256, (12, 160, 160, 3), dtype=np.uint8)
    fig = plots.grid(noise, alt='noise')
    png = fig.png()
    assert len(png) <= 100_000 and picture(fig).width >= 200 and len(fig.png(limit=20_000)) <= 20_000

def test_nothing_is_clipped():
    long = runs(('a method with quite a long name', 'b'), sizes=(20, 1000))
    for fig in (plots.learning_curve(long), plots.dots(at(long, 20)), plots.confusion([0, 1], [1, 1], ['hippopotamus', 'b']),
                plots.grid([np.eye(4)] * 3, ['one', 'a title that needs more than a line', 'three'])):
        a = np.asarray(picture(fig).convert('L'))
        assert min(a[0].min(), a[-1].min(), a[:, 0].min(), a[:, -1].min()) > 200

def test_neither_pyplot_nor_torch_is_imported():
    code = ('import sys, numpy as np, pandas as pd; from tlcourse import plots; '
            'heavy = {"torch", "fastai", "sklearn", "scipy", "IPython", "matplotlib.pyplot"} & set(sys.modules); assert not heavy, heavy; '
            'df = pd.DataFrame(dict(method=list("aabb"), n=[1, 2, 1, 2], seed=0, accuracy=.5)); '
            'figs = [plots.learning_curve(df), plots.dots(df[df.n == 1]), plots.confusion([0], [0], "a"), plots.grid([np.eye(3)], alt="eye")]; '
            '[f._repr_mimebundle_() for f in figs]; assert not {"torch", "matplotlib.pyplot"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)

def test_style_does_not_leak():
    before = dict(mpl.rcParams)
    plots.learning_curve(runs())
    with pytest.raises(ValueError): plots.grid([], alt='nothing')
    assert dict(mpl.rcParams) == before

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('template', ['lab', 'classic'])
def test_alt_text_reaches_html(template, tmp_path):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        '%matplotlib inline\nfrom tlcourse.plots import subplots\nfig, ax = subplots(alt="An empty pair of axes.")\nfig')])
    NotebookClient(nb, kernel_name='python3', timeout=120, resources={'metadata': {'path': str(tmp_path)}}).execute()
    out, = nb.cells[0].outputs
    assert out.metadata['image/png']['alt'] == 'An empty pair of axes.'
    html, _ = HTMLExporter(template_name=template).from_notebook_node(nb)
    img, = re.findall(r'<img[^>]+>', html)
    assert 'alt="An empty pair of axes."' in img

def test_alt_text_reaches_html_without_the_html_output():
    "A viewer that takes the picture finds the text in the metadata."
    data, meta = plots.subplots(alt='An empty pair of axes.')[0]._repr_mimebundle_()
    out = nbformat.v4.new_output('display_data', data={'image/png': data['image/png']}, metadata=meta)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('fig', outputs=[out])])
    html, _ = HTMLExporter(template_name='classic').from_notebook_node(nb)
    assert 'alt="An empty pair of axes."' in html


# intervals and tables

@pytest.mark.parametrize('n,level', [(2, .95), (3, .95), (3, .9), (10, .99)])
def test_interval_is_scipys(n, level):
    v = np.random.default_rng(n).normal(.8, .05, n)
    i = plots.interval(v, level)
    np.testing.assert_allclose(i[1:], stats.t.interval(level, n - 1, loc=v.mean(), scale=stats.sem(v)))
    np.testing.assert_allclose(i[1:], stats.ttest_1samp(v, 0).confidence_interval(level))
    assert i.mean == pytest.approx(v.mean())

def test_interval_by_hand():
    # 1, 2, 3: s = 1, t_{.975, 2} = 4.302653 from a printed table
    assert plots.interval([1, 2, 3]) == pytest.approx((2, 2 - 4.302653 / 3**.5, 2 + 4.302653 / 3**.5), abs=1e-6)

@pytest.mark.parametrize('n,level', [(2, .95), (3, .95), (5, .8)])
def test_interval_covers(n, level):
    "The count of intervals that hold the truth is binomial; a normal quantile would fail this for small n."
    draws = np.random.default_rng(1).normal(3, 2, (3000, n))
    hit = sum(i.low < 3 < i.high for i in (plots.interval(d, level) for d in draws))
    assert stats.binomtest(int(hit), 3000, level).pvalue > .001

def test_interval_edges():
    one = plots.interval([.7])
    assert one.mean == .7 and np.isnan(one.low) and np.isnan(one.high)
    assert plots.interval([.5, .5]) == (.5, .5, .5)
    assert plots.interval([.98, 1, 1]).high > 1
    assert np.isnan(plots.interval([.5, float('nan')]).mean)
    for bad in ([], [[1, 2]], .5):
        with pytest.raises(ValueError, match='list of numbers'): plots.interval(bad)

def test_compare_counts_and_averages():
    df = at(runs(('b', 'a'), seeds=4), 50)
    t = plots.compare(df, digits=None)
    assert list(t.index) == ['b', 'a'] and list(t.columns) == ['accuracy', 'low', 'high', 'seconds', 'seeds']
    for m in 'ab':
        v = df.accuracy[df.method == m]
        assert tuple(t.loc[m, ['accuracy', 'low', 'high']]) == plots.interval(v) and t.seeds[m] == 4
        assert t.seconds[m] == df.seconds[df.method == m].mean()

def test_compare_rounds_and_prints():
    text = str(plots.compare(at(runs(), 20)))
    assert re.search(r'probe\s+0\.\d{3}  0\.\d{3}  0\.\d{3}\s+2\.0\s+3$', text), text

def test_compare_by_two_columns_matches_one_by_one():
    df = runs().sample(frac=1, random_state=0)
    t = plots.compare(df, group=['method', 'n'], digits=None)
    for (m, n), r in t.iterrows(): assert r.accuracy == pytest.approx(df.accuracy[(df.method == m) & (df.n == n)].mean())

def test_compare_without_seconds_and_with_one_seed():
    t = plots.compare(at(runs(seeds=1), 20).drop(columns='seconds'))
    assert list(t.columns) == ['accuracy', 'low', 'high', 'seeds'] and t.low.isna().all()


# dots and curves

def test_dots_show_mean_and_interval():
    df = at(runs(), 50)
    t, ax = plots.compare(df, digits=None), plots.dots(df).axes[0]
    lines = [l.get_xdata().tolist() for l in ax.lines]
    for m in t.index:
        assert [t.accuracy[m]] in lines and t.loc[m, ['low', 'high']].tolist() in lines and df.accuracy[df.method == m].tolist() in lines
    assert [l.get_text() for l in ax.get_yticklabels()] == ['scratch', 'probe'] and ax.get_ylim() == (1.5, -.5)

def test_curve_labels_its_sizes_without_rounding_errors():
    alphas = np.linspace(0, 1, 6).tolist()
    assert str(alphas[3]) == '0.6000000000000001'
    df = pd.DataFrame(dict(method='m', n=[*alphas, 2.5e-5], accuracy=.5))
    labels = plots.learning_curve(df, logx=False).axes[0].get_xticklabels()
    assert [o.get_text() for o in labels] == ['0.0', '0.000025', '0.2', '0.4', '0.6', '0.8', '1.0']

def test_curve_goes_through_the_means_at_the_actual_sizes():
    df = runs().sample(frac=1, random_state=1)
    ax = plots.learning_curve(df).axes[0]
    t = plots.compare(df, group=['method', 'n'], digits=None).accuracy
    assert ax.get_xscale() == 'log' and ax.get_xticks().tolist() == [20, 50, 1000] and not len(ax.get_xticks(minor=True))
    assert [l.get_text() for l in ax.get_xticklabels()] == ['20', '50', '1,000']
    for line, m in zip(ax.lines, pd.unique(df.method)):
        assert line.get_xdata().tolist() == [20, 50, 1000] and line.get_ydata().tolist() == [t[m, n] for n in (20, 50, 1000)]

def test_curve_keeps_colors_across_figures():
    color = lambda fig: fig.axes[0].lines[0].get_color()
    df, order = runs(('a', 'b', 'c')), ['a', 'b', 'c']
    assert color(plots.learning_curve(df[df.method == 'c'], order=order)) == COLORS[2] != color(plots.learning_curve(df))

def test_end_labels_do_not_overlap():
    df = runs(tuple('abcdefg'), sizes=(20, 50))
    df['accuracy'] = .97 + df.accuracy / 100
    ax = (fig := plots.learning_curve(df)).axes[0]
    fig.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda b: b.y0)
    assert len(boxes) == 7 and all(a.y1 <= b.y0 + 1 for a, b in zip(boxes, boxes[1:]))
    assert all(contrast(t.get_color(), 'white') > 4.5 for t in ax.texts)

def test_apart_is_least_squares():
    "Against a brute-force search on a lattice."
    y, gap = [.5, .45, .52], .1
    lattice = itertools.product(np.arange(0, 1.0001, .01), repeat=3)
    best = min((p for p in lattice if p[0] - p[1] > gap - 1e-9 and p[2] - p[0] > gap - 1e-9), key=lambda p: sum((np.array(p) - y)**2))
    np.testing.assert_allclose(plots._apart(y, gap, 0, 1), best, atol=.006)
    assert plots._apart([.99, 1.], .1, 0, 1) == pytest.approx([.9, 1.])

def test_alt_texts_say_what_the_data_say():
    df = pd.DataFrame([('probe', 20, .4512), ('probe', 1000, .93), ('chance', 20, .1), ('chance', 1000, .1), ('lost', 20, .5), ('lost', 1000, .3)],
                      columns=['method', 'n', 'accuracy'])
    assert plots.learning_curve(df, xlabel='labels').alt == (
        'Accuracy over labels, one seed: probe rises from 0.45 at 20 to 0.93 at 1,000; '
        'chance stays at 0.10; lost falls from 0.50 at 20 to 0.30 at 1,000.')
    assert 'probe 0.93; chance 0.10' in plots.dots(at(df, 1000)).alt
    assert plots.dots(at(runs(), 20), alt='mine').alt == 'mine'

def test_into_given_axes():
    fig, axs = plots.subplots(1, 2, alt='two panels')
    assert plots.learning_curve(runs(), ax=axs[0]) is fig and plots.dots(at(runs(), 20), ax=axs[1]) is fig and fig.alt == 'two panels'

def test_epochs_from_zero():
    ax = plots.learning_curve(runs(sizes=(0, 1, 2)), logx=False).axes[0]
    assert ax.get_xscale() == 'linear' and ax.get_xticks().tolist() == [0, 1, 2]


# confusion

@pytest.mark.parametrize('names', [False, True])
def test_confusion_is_sklearns(names):
    rng, classes = np.random.default_rng(0), ['cat', 'dog', 'emu', 'fox']
    t, p = rng.integers(0, 3, 200), rng.integers(0, 3, 200)  # nothing is a fox
    cm = confusion_matrix(t, p, labels=range(4))
    ax = plots.confusion(*((np.array(classes)[a] if names else a) for a in (t, p)), classes).axes[0]
    shown = np.zeros((4, 4), int)
    for text in ax.texts: shown[tuple(reversed([int(v) for v in text.get_position()]))] = int(text.get_text())
    assert (shown == cm).all()
    np.testing.assert_allclose(ax.images[0].get_array()[:3], cm[:3] / cm[:3].sum(1, keepdims=True))
    assert [l.get_text() for l in ax.get_yticklabels()] == classes and ax.get_ylabel() == 'true'
    assert ax.get_ylim()[0] > ax.get_ylim()[1], 'the first true class is the top row'

def test_confusion_counts_are_legible_on_every_shade():
    t = np.repeat(np.arange(20), 100)
    p = np.where(np.tile(np.arange(100), 20) < np.repeat(np.arange(20) * 5 + 3, 100), t, (t + 1) % 20)
    ax = plots.confusion(t, p, range(20)).axes[0]
    im = ax.images[0]
    for text in ax.texts:
        j, i = map(int, text.get_position())
        assert contrast(text.get_color(), im.cmap(im.norm(im.get_array()[i, j]))[:3]) > 4.4

def test_confusion_alt_names_the_worst():
    fig = plots.confusion([0, 0, 0, 1], [1, 1, 0, 1], ['cat', 'dog'])
    assert fig.alt == 'Confusion matrix of 2 classes, 4 items, 0.50 of them right; most often confused: cat taken for dog (2).'
    assert 'confused:' not in plots.confusion([0, 1], [0, 1], ['cat', 'dog']).alt


# grid

def shown(fig): return [np.asarray(ax.images[0].get_array()) for ax in fig.axes if ax.images]

def test_grid_takes_every_layout():
    torch = pytest.importorskip('torch')
    hwc = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for im in (hwc, hwc.transpose(2, 0, 1), Image.fromarray(hwc), torch.tensor(hwc).permute(2, 0, 1), torch.tensor(hwc)):
        assert (shown(plots.grid([im], alt='x'))[0] == hwc).all()
    gray = hwc[..., 0]
    for im in (gray, gray[None], gray[..., None], Image.fromarray(gray), torch.tensor(gray)[None]):
        assert (shown(plots.grid([im], alt='x'))[0] == gray).all()
    narrow = torch.arange(36, dtype=torch.uint8).reshape(3, 4, 3)  # a tensor has its channels first
    assert (shown(plots.grid([narrow], alt='x'))[0] == narrow.permute(1, 2, 0).numpy()).all()
    assert shown(plots.grid([torch.rand(3, 4, 4, requires_grad=True)], alt='x'))[0].shape == (4, 4, 3)

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I', 'F', 'I;16'])
def test_grid_takes_every_pil_mode(mode):
    im = Image.new('L', (6, 6), 7).convert(mode) if mode != 'I;16' else Image.new(mode, (6, 6), 700)
    assert picture(plots.grid([im], alt='a square')).width

def test_small_pictures_stay_crisp():
    board = (np.indices((28, 28)).sum(0) % 2 * 255).astype(np.uint8)
    values = np.asarray(picture(plots.grid([board], alt='checkerboard')).convert('L'))
    middle = values[values.shape[0]//2 - 40:][:80, values.shape[1]//2 - 40:][:, :80]
    assert np.isin(middle, [0, 255]).mean() > .99

def test_gray_images_share_one_scale():
    fig = plots.grid([np.full((4, 4), 4.), np.full((4, 4), 16.)], alt='two levels')
    assert {ax.images[0].get_clim() for ax in fig.axes} == {(0, 16)}
    assert plots.grid([np.full((4, 4), 9, np.uint8)], alt='dark').axes[0].images[0].get_clim() == (0, 255)

def test_grid_rows_and_alt():
    fig = plots.grid([np.eye(3)] * 7, [f'a very long title {i}' for i in range(7)])
    assert len(fig.axes) == 12 and len(shown(fig)) == 7 and fig.alt.startswith('7 images: a very long title 0, ')


# wrong use: one line that says what to do

@pytest.mark.parametrize('call,says', [
    (lambda: plots.compare(runs().drop(columns='accuracy')), "no column 'accuracy'; it has: method, n, seed, seconds"),
    (lambda: plots.compare(pd.DataFrame()), 'no column'),
    (lambda: plots.compare(runs()[:0]), 'empty'),
    (lambda: plots.compare(runs()), "occurs twice in 'scratch'"),
    (lambda: plots.compare(runs().astype({'accuracy': str})), 'must hold numbers'),
    (lambda: plots.learning_curve(runs(), x='labels'), "no column 'labels'"),
    (lambda: plots.learning_curve(runs()[:0]), 'empty'),
    (lambda: plots.learning_curve(runs(sizes=(0, 1))), 'logx=False'),
    (lambda: plots.learning_curve(runs().astype({'n': str})), 'must hold numbers'),
    (lambda: plots.learning_curve(runs(tuple('abcdefgh'))), 'at most 7'),
    (lambda: plots.learning_curve(runs(), order=['probe']), "'scratch' is missing from order="),
    (lambda: plots.dots(at(runs(), 20), value='loss'), "no column 'loss'"),
    (lambda: plots.confusion([0, 1], [0], 'ab'), 'same length'),
    (lambda: plots.confusion([], [], 'ab'), 'same length'),
    (lambda: plots.confusion([0, 5], [0, 1], 'ab'), 'label 5 is none of the 2 classes'),
    (lambda: plots.confusion(['a', 'c'], ['a', 'b'], 'ab'), "label 'c' is none"),
    (lambda: plots.grid([], alt='x'), 'no images'),
    (lambda: plots.grid([np.eye(3)]), 'say in alt='),
    (lambda: plots.grid([np.eye(3)], ['a', 'b']), '2 titles for 1 images'),
    (lambda: plots.grid([np.eye(3), np.eye(3, dtype=np.uint8)], alt='x'), 'different kinds (float64, uint8)'),
    (lambda: plots.grid([np.zeros((2, 8, 8))], alt='x'), 'not [2, 8, 8]'),
    (lambda: plots.grid([np.zeros(8)], alt='x'), 'not [8]'),
    (lambda: plots.grid(['cat.jpg'], alt='x'), 'not []'),
    (lambda: plots.grid([np.full((3, 8, 8), -2.)], alt='x'), 'undo its normalization'),
    (lambda: plots.grid([np.full((3, 8, 8), np.nan)], alt='x'), 'undo its normalization'),
])
def test_wrong_use_says_what_to_do(call, says):
    with pytest.raises(ValueError) as e: call()
    assert says in str(e.value) and '\n' not in str(e.value)


# ---- explorers

def test_an_explorer_shows_its_figure_and_draws_it_anew(monkeypatch):
    "As in a live notebook: `interactive_output` itself shows nothing that a function gives back."
    shown, drawn = [], []
    monkeypatch.setattr(plots, 'live', lambda: True)
    monkeypatch.setattr('IPython.display.display', lambda o, **kw: shown.append(o))
    def draw(a):
        drawn.append(a)
        fig, ax = plots.subplots(alt=f'a line to {a}')
        ax.plot([0, a])
        return fig
    explorer = plots.explore(draw, a=(1, 5))
    def figures(): return [o.alt for o in shown if isinstance(o, plots.Figure)]
    explorer._ipython_display_()
    assert figures() == ['a line to 3'] and sum(isinstance(o, dict) for o in shown) == 1 and 'No buttons?' in shown[-1].data
    explorer.controls['a'].value = 4
    assert figures() == ['a line to 3', 'a line to 4'] and drawn == [3, 4]


# tables of a full profile

def test_full_tables_are_shown_closed_and_as_they_were(monkeypatch, tmp_path):
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'05.tsv').write_text('# tbl-a How <good>?\nmethod\tgain\nprobe\t0.50\n\n# tbl-b Why?\n\tn\nx\t1,000\n', encoding='utf-8')
    monkeypatch.setattr(plots, 'files', lambda package: tmp_path)
    t = plots.full_tables('05')
    assert list(t) == ['tbl-a', 'tbl-b'] and t['tbl-a'].gain.tolist() == ['0.50'] and t['tbl-b'].columns.tolist() == ['', 'n']
    html = t._repr_html_()
    assert html.count('<details>') == 2 == html.count('<table') and 'open' not in html and 'How &lt;good&gt;?' in html and '1,000' in html
    assert 'How <good>? (tbl-a), full profile' in repr(t) and '0.50' in repr(t)
    with pytest.raises(plots.PlotError, match='no tables of lesson .55. are kept; did you mean 05'): plots.full_tables('55')

def test_full_tables_flattens_what_pandas_shows():
    import importlib.util
    from pathlib import Path
    spec = importlib.util.spec_from_file_location('full_tables', Path(__file__).parent.parent/'tools'/'full_tables.py')
    spec.loader.exec_module(tool := importlib.util.module_from_spec(spec))
    df = pd.DataFrame(dict(kind=['a', 'a', 'b'], body=['x', 'y', 'x'], acc=[.5, .25, 1.], n=[1, 2, 3]))
    flat = lambda o: tool.flat(tool.Grid(o._repr_html_()))
    assert flat(df.set_index('body')[['n']]) == [['body', 'n'], ['x', '1'], ['y', '2'], ['x', '3']]
    assert flat(df[['n']].iloc[:1]) == [['', 'n'], ['0', '1']]
    assert flat(df.set_index(['kind', 'body'])) == [['kind', 'body', 'acc', 'n'], ['a', 'x', '0.50', '1'], ['a', 'y', '0.25', '2'], ['b', 'x', '1.00', '3']]
    wide = df[df.body == 'x'].pivot(index='kind', columns='body', values=['acc', 'n'])
    assert flat(wide) == [['kind', 'acc, x', 'n, x'], ['a', '0.5', '1.0'], ['b', '1.0', '3.0']]
    assert flat(df.set_index('kind')[['n']].style) == [['kind', 'n'], ['a', '1'], ['a', '2'], ['b', '3']]
