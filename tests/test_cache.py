"A fingerprint that is the same for equal things, in every process, and another for whatever differs; a store that gives back what was put in, or nothing."
import subprocess, sys, os, warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tlcourse.cache import Store, digest

RATE = 2.
def helper(x): return x*RATE
class Layer(nn.Module):
    shift = 1.
    def forward(self, x): return helper(x) + self.shift

def things():
    "Things that all differ; made anew at each call."
    torch.manual_seed(0)
    a = np.arange(4)
    return dict(none=None, true=True, one=1, float_one=1., text='1', bytes_one=b'1', array=a, floats=a.astype(float), rows=a.reshape(2, 2), objects=a.astype(object),
                bools=np.array([True, False]), ints=np.array([1, 0]), list=[1, True], list_of_ints=[1, 1], list_of_bools=[True, True], tuple=(1, True),
                nested=[[1], [2]], flat=[1, 2], other_nesting=[[1, 2]], empty=[], empty_tuple=(), empty_dict={}, empty_set=set(), list_of_empty=[[]], two_empty=[[], []],
                text_like_a_number=['int 1'], raw=[b"int 1"], dict=dict(a=1, b=2), other_order=dict(b=2, a=1), set={'a', 'b', 'c'}, tensor=torch.ones(3), double=torch.ones(3).double(),
                column=torch.ones(3, 1), half=torch.ones(3).bfloat16(), sparse=torch.eye(3).to_sparse(), dense=torch.eye(3), path=Path('a'), name='a',
                table=pd.DataFrame(dict(a=[1, 2])), other_table=pd.DataFrame(dict(a=[1, 3])), index=pd.DataFrame(dict(a=[1, 2]), index=[3, 4]),
                layer=Layer(), linear=nn.Linear(2, 2), no_bias=nn.Linear(2, 2, bias=False), training=nn.Dropout(.5), evaluation=nn.Dropout(.5).eval(), other_p=nn.Dropout(.4),
                function=lambda x: x*2, other_function=lambda x: x*3, bound=Layer().forward, builtin=len, nan=float('nan'), zero=0., minus_zero=-0.)

def test_equal_things_agree_and_all_others_differ():
    a, b = ({k: digest(v) for k,v in things().items()} for _ in range(2))
    assert a == b and len(set(a.values())) == len(a), [(p, q) for p in a for q in a if p < q and a[p] == a[q]]
    assert all(len(v) == 32 for v in a.values())

def test_the_same_in_other_processes():
    code = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_cache import *\nprint({{k: digest(v).hex() for k,v in things().items()}})'
    said = [subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env={**os.environ, 'PYTHONHASHSEED': seed}, capture_output=True, encoding='utf-8', timeout=300, check=True).stdout
            for seed in '12']
    assert said[0] == said[1] and len(said[0]) > 2000

def test_shared_and_cyclic_objects():
    shared = [1, 2]
    assert digest([shared, shared]) == digest([[1, 2], [1, 2]]) != digest([[1, 2], [1, 3]])
    def loop(x): a = [x]; a.append(a); return a
    assert digest(loop(1)) == digest(loop(1)) != digest(loop(2))

def test_a_view_is_what_it_shows():
    t = torch.arange(12.).reshape(3, 4)
    assert digest(t.T) == digest(t.T.contiguous()) != digest(t) and digest(t[:, 1]) == digest(t[:, 1].clone())
    x = torch.randn(2, 3, 4, 4)
    assert digest(x) == digest(x.to(memory_format=torch.channels_last))

@pytest.mark.parametrize('change', [lambda mp: mp.setitem(globals(), 'RATE', 3.), lambda mp: mp.setitem(globals(), 'helper', lambda x: x + 1), lambda mp: mp.setattr(Layer, 'shift', 2.),
                                    lambda mp: mp.setattr(Layer, 'forward', lambda self, x: x), lambda mp: mp.setattr(nn.Module, 'extra_repr', lambda self: 'x')])
def test_code_and_what_it_looks_up(monkeypatch, change):
    layer = Layer()
    before = digest(layer)
    with monkeypatch.context() as mp: change(mp); assert digest(layer) != before
    assert digest(layer) == before

def test_a_module_of_your_own(tmp_path, monkeypatch):
    (tmp_path/'mine_for_test_cache.py').write_text('LEVEL = 1\ndef f(x): return x*LEVEL\ndef other(): pass\n')
    monkeypatch.syspath_prepend(tmp_path)
    import mine_for_test_cache as mine
    def direct(x): return mine.f(x)
    def constant(x): return x + mine.LEVEL
    before = digest(mine.f), digest(direct), digest(constant)
    monkeypatch.setattr(mine, 'other', lambda: 1)
    assert (digest(mine.f), digest(direct), digest(constant)) == before
    monkeypatch.setattr(mine, 'LEVEL', 2)
    assert all(a != b for a,b in zip((digest(mine.f), digest(direct), digest(constant)), before))

def test_files_count_with_size_and_time(tmp_path):
    f = tmp_path/'f'; f.write_text('abc'); os.utime(f, ns=(1, 1))
    a = digest(f)
    assert digest(f) == a
    os.utime(f, ns=(2, 2)); b = digest(f)
    f.write_text('abcd'); os.utime(f, ns=(2, 2))
    assert len({a, b, digest(f)}) == 3

def test_what_cannot_be_compared():
    import threading
    for o in (open(os.devnull), threading.Lock(), (i for i in range(3)), torch.ones(2, device='meta')):
        with pytest.raises(TypeError): digest([o])


def test_store(home):
    s, x = Store('features'), np.arange(6, dtype=np.float32).reshape(2, 3)
    assert s.get('a') is None
    s.put('a', x=x, n=np.asarray(2))
    got = s.get('a')
    assert set(got) == {'x', 'n'} and (got['x'] == x).all() and got['x'].dtype == x.dtype and int(got['n']) == 2
    s.path('a').rename(s.path('b'))
    assert s.get('a') is None and s.get('b') is None  # another name

@pytest.mark.parametrize('harm', [lambda b: b[:-1], lambda b: b'', lambda b: b + b'x', lambda b: b[:-3] + bytes([b[-3] ^ 1]) + b[-2:]])
def test_store_gives_nothing_for_a_damaged_file(home, harm):
    s = Store('features'); s.put('a', x=np.arange(5.))
    s.path('a').write_bytes(harm(s.path('a').read_bytes()))
    assert s.get('a') is None

def test_store_lets_go_of_what_was_not_used_for_longest(home):
    s = Store('features')
    for i, k in enumerate('abc'): s.put(k, x=np.zeros(1000)); os.utime(s.path(k), (i + 1, i + 1))
    s.get('a')  # used now
    s.limit = 2.5*s.path('a').stat().st_size
    s.put('d', x=np.zeros(1000))
    assert [k for k in 'abcd' if s.get(k)] == ['a', 'd']
