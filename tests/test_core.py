"What every module stands on: what `help` shows against Python's own `inspect`, files that are whole or absent, names that moved."
import dataclasses, importlib, importlib.util, inspect, os, re, sys, time, warnings
from pathlib import Path

import pytest

from tlcourse import core
from tlcourse.core import TLCourseError, clear_parts, document, first_line, listing, live, moved, nearest, no_bar, write_whole


# Comments that reach help() --------------------------------------------------------------------------------------

SOURCE = '''
from dataclasses import dataclass, field
from functools import wraps

def plain(
    a:int,              # the first
    b:str='x # not a comment', # the second; behind a string with a '#'
    *args:float,        # more of them
    c=(1,
       2),              # over two lines
    d:dict=None,
    **kw,               # and the rest
) -> list:              # what comes back
    "Do it."
    x = 1 # no parameter
    return x

def positional(a, /, b=2): # both on one line
    "One line."

def bare(a, b): return a # no docstring

def uncommented(a:int=3) -> str:
    "Nothing to add."

def indented(
    a:int, # a number
):
    """Several lines.

    More of them,
        one further in."""

def no_parameters() -> int: # says one thing
    "Count."

def sectioned(a:int): # would be added
    """Has its own.

    Parameters
    ----------
    a : int
    """

def _private(
    a, # hidden
): "Private."

class Thing:
    "A thing."
    def __init__(self,
        size:int, # how large
    ): pass
    def grow(self,
        by:float=2., # factor
    ) -> 'Thing':    # a larger one
        "Make it larger."
    def _hidden(self,
        x, # y
    ): "Hidden."

@dataclass
class Row:
    "A row."
    name: str                 # who
    n: int = 3                # how many
    tags: list = field(default_factory=list)
'''


@pytest.fixture
def made(tmp_path):
    "A module of `SOURCE`, with the docstrings that it had before."
    (tmp_path/'made.py').write_text(SOURCE, encoding='utf-8')
    spec = importlib.util.spec_from_file_location('made', tmp_path/'made.py')
    m = importlib.util.module_from_spec(spec)
    sys.modules['made'] = m
    spec.loader.exec_module(m)
    before = {k: getattr(m, k).__doc__ for k in ('uncommented', 'sectioned', '_private', 'bare')}
    document(vars(m))
    yield m, before
    del sys.modules['made']


def parsed(doc):
    "The entries of numpy's sections: {section: {name: (kind, text)}}."
    res = {}
    for title, body in re.findall(r'^(\w+)\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)', doc, re.M | re.S):
        res[title] = {m[1]: (m[2] or '', (m[3] or '').strip()) for m in re.finditer(r'^(\S+)(?: : (.*))?\n?((?:    .*\n?)*)', body, re.M) if m[1]}
    return res


def test_parameters_are_those_of_inspect(made):
    m, _ = made
    got = parsed(m.plain.__doc__)['Parameters']
    sig = inspect.signature(m.plain)
    stars = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    assert list(got) == [stars.get(p.kind, '') + k for k,p in sig.parameters.items()]
    for k,p in sig.parameters.items():
        kind = got[stars.get(p.kind, '') + k][0]
        if p.annotation is not p.empty: assert kind.startswith(p.annotation.__name__)
        if p.default is not p.empty: assert f'default {p.default!r}' in kind
    assert {k: v[1] for k,v in got.items()} == {'a': 'the first', 'b': "the second; behind a string with a '#'", '*args': 'more of them', 'c': 'over two lines',
                                                'd': '', '**kw': 'and the rest'}
    assert m.plain.__doc__.startswith('Do it.\n\n') and 'what comes back' in m.plain.__doc__.split('Returns')[1] and 'no parameter' not in m.plain.__doc__
    assert inspect.getdoc(m.plain) and 'over two lines' in inspect.getdoc(m.plain)

def test_help_shows_prose_and_sections_at_one_margin(made):
    assert inspect.getdoc(made[0].indented).splitlines() == [
        'Several lines.', '', 'More of them,', '    one further in.', '', 'Parameters', '----------', 'a : int', '    a number']

def test_methods_classes_and_fields(made):
    m, _ = made
    assert parsed(m.Thing.__doc__)['Parameters'] == {'size': ('int', 'how large')}
    assert parsed(m.Thing.grow.__doc__)['Parameters'] == {'by': ('float, default 2.0', 'factor')} and 'a larger one' in m.Thing.grow.__doc__
    assert m.Thing._hidden.__doc__ == 'Hidden.'
    fields = parsed(m.Row.__doc__)['Parameters']
    assert list(fields) == [f.name for f in dataclasses.fields(m.Row)] and fields['n'] == ('int, default 3', 'how many')

def test_what_is_left_alone(made):
    m, before = made
    for k,v in before.items(): assert getattr(m, k).__doc__ == v
    doc = m.plain.__doc__
    document(vars(m))
    assert m.plain.__doc__ == doc  # once

@pytest.mark.parametrize('names', [{}, {'__file__': 'no/such/file.py'}])
def test_without_a_file(names): document(names)

modules = sorted(p.stem for p in Path(core.__file__).parent.glob('*.py') if not p.stem.startswith('_'))

@pytest.mark.parametrize('name', modules)
def test_every_public_function_tells_help_what_its_comments_say(name):
    "Oracle: the tokens of the source, found anew: each comment behind a parameter of a public function with a docstring is in that docstring."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: m = importlib.import_module(f'tlcourse.{name}')
        except ImportError as e: pytest.skip(str(e))
    missing = []
    for k in getattr(m, '__all__', []):
        f = inspect.unwrap(vars(m).get(k)) if inspect.isfunction(vars(m).get(k)) else None
        if f is None or not f.__doc__ or f.__module__ != m.__name__ or '\nParameters\n-' in inspect.cleandoc(f.__doc__).split('\n\nParameters\n----------')[0]: continue
        lines = inspect.getsource(f).splitlines()
        for p in inspect.signature(f).parameters:
            here = [o for o in lines[1:40] if re.match(rf'\s+\*{{0,2}}{re.escape(p)}\s*[:=,]', o)]
            if here and (c := re.search(r'\s#\s(.+)$', here[0])) and here[0].count('#') == 1 and here[0].count(':') + here[0].count(',') < 4:
                if c[1].strip() not in vars(m)[k].__doc__: missing.append((k, p))
    assert not missing


# Old names -------------------------------------------------------------------------------------------------------

def test_moved(monkeypatch):
    get = moved('tlcourse.old', {'listing': 'core', 'shorten': 'core.first_line'})
    for name, obj in (('listing', listing), ('shorten', first_line)):
        with pytest.warns(FutureWarning, match=rf'tlcourse.old.{name} is now tlcourse.core.{obj.__name__}') as seen: assert get(name) is obj
        assert len(seen) == 1 and seen[0].filename == __file__ and '\n' not in str(seen[0].message)
    with pytest.raises(AttributeError, match="module 'tlcourse.old' has no attribute 'nothing'"): get('nothing')

def test_moved_as_a_module_uses_it(tmp_path, monkeypatch):
    (tmp_path/'old_place.py').write_text("from tlcourse.core import moved\n__getattr__ = moved(__name__, {'nearest': 'core'})\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(FutureWarning): from old_place import nearest as found
    assert found is nearest
    import old_place
    assert not hasattr(old_place, 'other')


# Files -----------------------------------------------------------------------------------------------------------

def test_write_whole(tmp_path):
    f = write_whole(tmp_path/'a'/'b'/'x.bin', b'first')
    assert f.read_bytes() == b'first' and write_whole(str(f), b'second') == f and f.read_bytes() == b'second'
    assert [o.name for o in f.parent.iterdir()] == ['x.bin']

@pytest.mark.parametrize('broken', ['replace', 'fsync'])
@pytest.mark.parametrize('error', [PermissionError(13, 'in use'), OSError(28, 'No space left'), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken, error):
    f = write_whole(tmp_path/'x.bin', b'old')
    def fail(*args): raise error
    monkeypatch.setattr(core.os, broken, fail)
    with pytest.raises(type(error)): write_whole(f, b'new and longer')
    with pytest.raises(type(error)): write_whole(tmp_path/'y.bin', b'new')
    assert f.read_bytes() == b'old' and [o.name for o in tmp_path.iterdir()] == ['x.bin']

def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError): write_whole(tmp_path/'file'/'x', b'1')

def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    from threading import Event, Thread
    f, stop, seen = write_whole(tmp_path/'x', b'0'*100_000), Event(), set()
    def look():
        while not stop.is_set(): seen.add(f.read_bytes())
    t = Thread(target=look)
    t.start()
    for i in range(60): write_whole(f, (b'0', b'1')[i%2]*100_000)
    stop.set(); t.join()
    assert seen <= {b'0'*100_000, b'1'*100_000} and seen

def test_clear_parts(tmp_path):
    names = {'x.bin.1.part': 7200, 'y.bin.2.part': 60, 'z.bin': 7200, 'sub/x.3.part': 7200}
    for k, age in names.items():
        (tmp_path/k).parent.mkdir(exist_ok=True)
        (tmp_path/k).write_text('')
        os.utime(tmp_path/k, (time.time() - age,)*2)
    clear_parts(tmp_path)
    assert {o.relative_to(tmp_path).as_posix() for o in tmp_path.rglob('*') if o.is_file()} == set(names) - {'x.bin.1.part'}
    clear_parts(tmp_path, age=0)
    assert not (tmp_path/'y.bin.2.part').exists() and (tmp_path/'z.bin').exists()
    clear_parts(tmp_path/'no such folder')


# Words -----------------------------------------------------------------------------------------------------------

def test_words():
    assert nearest('animls', ['animals', 'bbc']) == 'did you mean animals?' and nearest('zzz', ['animals', 'bbc']) == 'there are animals, bbc.'
    assert nearest(None, ['a']) == 'there are a.'
    assert listing({'a': 1, 'b': 2}) == 'a (1); b (2)' and listing({i: i for i in range(5)}, 2) == '0 (0); 1 (1); and 3 more'
    assert first_line(ValueError('one\n  two')) == 'one two' and first_line(ValueError()) == 'ValueError' and len(first_line('x'*999)) == 160

def test_every_error_of_the_package_has_one_base():
    seen = 0
    for name in modules:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: m = importlib.import_module(f'tlcourse.{name}')
            except ImportError: continue
        for k,v in vars(m).items():
            if inspect.isclass(v) and issubclass(v, Exception) and v.__module__ == m.__name__:
                assert issubclass(v, TLCourseError), f'{name}.{k}'
                seen += 1
    assert seen >= 10

class Shell:
    "What IPython's `get_ipython` gives in a notebook."
    def __init__(self, stdin): self.kernel = type('Kernel', (), dict(_allow_stdin=stdin))()

@pytest.mark.parametrize('shell, alive, hidden', [(None, False, None), (Shell(True), True, False), (Shell(False), False, True), (object(), False, None)],
                         ids=['plain Python', 'a notebook with somebody at it', 'a headless run', 'a terminal of IPython'])
def test_where_bars_are_shown(monkeypatch, shell, alive, hidden):
    import ipykernel, IPython  # both may be imported where there is no notebook
    monkeypatch.delenv('TLCOURSE_PROGRESS', raising=False)
    monkeypatch.setattr(IPython, 'get_ipython', lambda: shell)
    assert live() is alive and no_bar() is hidden and no_bar(False) is True
    monkeypatch.setenv('TLCOURSE_PROGRESS', 'off')
    assert no_bar() is True and live() is alive

def test_without_widgets_nobody_is_there(monkeypatch):
    import IPython
    monkeypatch.setattr(IPython, 'get_ipython', lambda: Shell(True))
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    assert not live()
