"As many threads as cores are free: what is read, what is decided, and what a user has set, which stays."
import math, os, subprocess, sys, time

import pytest, torch

from tlcourse import threads
from tlcourse.threads import Watch, fixed, fixed_by, free_cores, gentle, quota, suited

CLEAN = {k: v for k,v in os.environ.items() if k not in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}


def python(code, **env):
    "What a new process prints that runs `code`."
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=CLEAN | env, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and not r.stderr, r.stderr
    return r.stdout.split()


# Waiting

@pytest.mark.parametrize('env, after', [
    ({}, str(threads.SPINS)), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'PASSIVE'}, None), ({'OMP_NUM_THREADS': '2'}, str(threads.SPINS))])
def test_waiting_is_set_unless_the_user_has(env, after):
    gentle(env)
    assert env.get('GOMP_SPINCOUNT') == after


def test_importing_sets_it_for_this_process_and_its_children():
    code = "import tlcourse, os, subprocess, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules, flush=True)"
    child = code + "; subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"GOMP_SPINCOUNT\"])'])"
    assert python(child) == [str(threads.SPINS), 'False', str(threads.SPINS)]
    assert python(code, GOMP_SPINCOUNT='12')[0] == '12'


def test_torchs_own_openmp_reads_it():
    "libgomp shows its settings where OMP_DISPLAY_ENV asks for them; it must have been set before torch loads it."
    if sys.platform != 'linux': pytest.skip('GNU OpenMP comes with wheels for Linux')
    code = 'import tlcourse, torch; torch.ones(2)'
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=CLEAN | {'OMP_DISPLAY_ENV': 'VERBOSE'}, capture_output=True, text=True, timeout=120)
    if 'GOMP' not in r.stderr: pytest.skip('another OpenMP')
    assert f"GOMP_SPINCOUNT = '{threads.SPINS}'" in r.stderr


# What is free

def at(clock, own, idle, cores=2, most=math.inf, used=0.): return dict(clock=clock, own=own, idle=idle, cores=cores, most=most, used=used)


@pytest.mark.parametrize('new, free', [
    (at(1, 0, 2), 2), (at(1, 2, 0), 2), (at(1, 1, 1), 2),             # nobody else runs
    (at(1, 0, 1), 1), (at(1, 1, 0), 1), (at(1, 1.4, 0), 1.4),         # one other program
    (at(1, 0, 0), 0), (at(1, .5, 0), .5),                             # two or more
    (at(2, 1, 1), 1),                                                 # a longer time
    (at(1, 1, 1.05), 2),                                              # clocks that disagree a little
    (at(1, 1, 63, 64), 64), (at(1, 1, 63, 64, 2., 1.), 2), (at(1, 1, 63, 64, 2., 1.5), 1.5), # a container with two of 64 cores
    (at(1, 1, .5, 64, 2., 1.), 1.5),                                  # and a full host
])
def test_free_cores(new, free): assert free_cores(at(0, 0, 0, new['cores'], new['most']), new) == pytest.approx(free)


def test_reading_a_quota(tmp_path):
    def write(**files):
        for k,v in files.items():
            p = tmp_path/k.replace('__', '/').replace('_dot_', '.')
            p.parent.mkdir(parents=True, exist_ok=True)
            p.write_text(v)
    own = tmp_path/'own'
    own.write_text('0::/user.slice/a\n')
    assert quota(tmp_path/'none', own) == quota(tmp_path, tmp_path/'nothing') == (math.inf, 0)
    write(v2__user_dot_slice__a__cpu_dot_max='150000 100000\n', v2__user_dot_slice__a__cpu_dot_stat='usage_usec 2500000\nuser_usec 1\n')
    assert quota(tmp_path/'v2', own) == (1.5, 2.5)
    own.write_text('0::/not/mounted\n')
    write(v2__cpu_dot_max='max 100000\n', v2__cpu_dot_stat='usage_usec 1\n')
    assert quota(tmp_path/'v2', own) == (math.inf, 0)
    write(v2__cpu_dot_max='200000 100000\n')
    assert quota(tmp_path/'v2', own)[0] == 2
    own.write_text('4:memory:/m\n3:cpuacct,cpu:/box\n')
    write(v1__cpu__box__cpu_dot_cfs_quota_us='50000', v1__cpu__box__cpu_dot_cfs_period_us='100000', v1__cpuacct__box__cpuacct_dot_usage='3000000000')
    assert quota(tmp_path/'v1', own) == (.5, 3)
    write(v1__cpu__box__cpu_dot_cfs_quota_us='-1')
    assert quota(tmp_path/'v1', own) == (math.inf, 0)


def test_a_reading_of_this_machine():
    old = threads.reading()
    until = time.process_time() + .05
    while time.process_time() < until: pass
    new = threads.reading()
    assert new['clock'] > old['clock'] and new['own'] >= old['own'] + .05 and new['cores'] == len(threads.cores())
    assert free_cores(old, new) <= new['cores']


# How many

@pytest.mark.parametrize('now, most, free, want', [
    (2, 2, 2, 2), (2, 2, 1.6, 2), (2, 2, 1.59, 1), (1, 2, 1.84, 1), (1, 2, 1.85, 2), (2, 2, -3, 1), (1, 2, 0, 1),
    (4, 4, 8, 4), (8, 8, 7, 7), (7, 8, 7.8, 7), (7, 8, 7.9, 8), (3, 8, 6.5, 6), (64, 64, 2, 2), (64, 64, .5, 1), (1, 1, 2, 1)])
def test_suited(now, most, free, want): assert suited(now, most, free) == want


def test_never_none_never_more_than_torch_takes_and_more_where_more_is_free():
    for most in (1, 2, 8):
        for now in range(1, most + 1):
            got = [suited(now, most, f/10) for f in range(-20, 100)]
            assert got == sorted(got) and min(got) == 1 and max(got) == most


# While the process runs

@pytest.fixture
def watch():
    "A watch that takes note but is not started, for a torch that would take two threads by itself."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    w = Watch()
    w.mine = w.most = 2
    yield w
    torch.set_num_threads(before)


def after(w, *free):
    "Torch's threads after so many cores were seen free, one time after the other."
    for o in free:
        w.look(o)
        end = time.monotonic() + 10
        while w.asked: assert time.monotonic() < end, 'the main thread was not asked'
    return torch.get_num_threads()


def test_a_thread_goes_at_once_and_comes_back_when_it_was_calm_twice(watch):
    assert after(watch, 2) == 2
    assert after(watch, 1) == 1
    assert after(watch, 2) == 1
    assert after(watch, 1) == 1
    assert after(watch, 2, 2) == 2


@pytest.mark.parametrize('n', [1, 3])
def test_what_the_user_sets_stays(watch, n):
    torch.set_num_threads(n)
    assert after(watch, 1, 0, 2, 2) == n


def test_a_number_that_is_not_torchs_own_is_the_users(watch, monkeypatch):
    monkeypatch.setattr(threads, 'usual', lambda: {2})
    watch.mine = None
    torch.set_num_threads(3)
    assert after(watch, 0, 0) == 3


def test_torchs_own_number_is_found(watch, monkeypatch):
    monkeypatch.setattr(threads, 'usual', lambda: {2, 4})
    watch.mine = watch.most = None
    assert after(watch, 1) == 1 and watch.most == 2


def test_fixed(watch, monkeypatch):
    monkeypatch.setattr(threads, '_watch', [watch])
    with fixed(), fixed(): assert after(watch, 0, 0) == 2
    assert after(watch, 0) == 1
    with pytest.raises(KeyError), fixed(): raise KeyError
    assert after(watch, 2, 2) == 2


@pytest.mark.parametrize('env', [{'OMP_NUM_THREADS': '2'}, {'MKL_NUM_THREADS': '1'}])
def test_no_watch_where_the_user_fixed_the_number(env):
    assert fixed_by(env)
    assert python('import tlcourse, tlcourse.threads as t; print(t._watch)', **env) == ['[]']


def test_a_plain_import_watches_and_the_process_ends():
    if len(threads.cores()) < 2: pytest.skip('one core')
    code = ('import tlcourse, tlcourse.threads as t, torch, time\nw, = t._watch\nend = time.monotonic() + 60\n'
            'while w.mine is None and time.monotonic() < end: torch.ones(4) + 1\n'
            'print(w.is_alive(), w.daemon, 1 <= w.mine <= w.most, torch.get_num_threads() == w.mine)')
    assert python(code) == ['True', 'True', 'True', 'True']


def test_a_forked_worker_is_left_alone():
    if sys.platform != 'linux': pytest.skip('fork')
    code = ('import tlcourse, torch\nfrom torch.utils.data import DataLoader\n'
            'class D(torch.utils.data.Dataset):\n    def __len__(self): return 4\n    def __getitem__(self, i): return torch.get_num_threads()\n'
            'print({int(o) for o in DataLoader(D(), num_workers=2, multiprocessing_context="fork")})')
    assert python(code) == ['{1}']
