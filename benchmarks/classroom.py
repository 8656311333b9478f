"""A class on one read-only cache: each learner is a process of its own with a kernel of its own, offline.

    python benchmarks/classroom.py                              thirty learners
    python benchmarks/classroom.py --learners 6 --at-once 2     fewer, two at a time

A learner opens the student edition of lesson 01, runs its first section, writes a guess, tries an exercise and takes the quiz, some with
wrong answers. All must finish, the progress collected must be what they did, and nothing in the cache may change."""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

LESSON = '01_why_transfer'
NAMES = [f'learner{i:02}' for i in range(99)]


def tries(i): return i % 4            # wrong answers before the right one; who has three never gets there
def solved(i): return i % 4 < 3
def right(i): return i % 6            # of five questions


def learner(i, work):
    "One learner: a notebook of the first section and of what the learner does, run in a kernel."
    from tlcourse.cli import execute
    import nbformat
    nb = nbformat.read(work/'lessons'/f'{LESSON}.ipynb', 4)
    heads = [k for k,c in enumerate(nb.cells) if c.source.startswith('## ')]
    did = f"""from tlcourse.checks import guess
from tlcourse.exercises import exercise, quiz
guess('01.a', numbers=['linear probe']).write({i}/100)
ex1, q = exercise('01.1'), quiz('01')
for _ in range({tries(i)}): assert not ex1.check(lambda *args: 99)
if {solved(i)}:
    ns = {{}}
    exec('import numpy as np\\n' + ex1.solution().plain, ns)
    assert ex1.check(ns['nearest_mean'])
for n, o in enumerate(q.questions, 1): q.answer(n, next(a for a in o.options if bool(o.judge(a)) == (n <= {right(i)})))
import psutil
m = psutil.Process().memory_info()
print('peak', getattr(m, 'peak_wset', 0) or __import__('resource').getrusage(0).ru_maxrss*(1 if __import__('sys').platform == 'darwin' else 1024))"""
    nb.cells = nb.cells[:heads[1]] + [nbformat.v4.new_code_cell(did)]
    start = time.perf_counter()
    execute(nb, work, {**os.environ, 'TLCOURSE_PROGRESS': str(work.parent/'progress'/f'{NAMES[i]}.json')})
    said = ''.join(o.get('text', '') for o in nb.cells[-1].outputs)
    print(json.dumps(dict(seconds=time.perf_counter() - start, peak=int(said.split()[-1]))))


def contents(folder): return {o.relative_to(folder).as_posix(): (o.stat().st_size, o.stat().st_mtime_ns) for o in folder.rglob('*')}


def writable(folder, yes):
    for o in [folder, *folder.rglob('*')]: o.chmod(0o755 if yes else 0o555)


def obey():
    "Root may write everywhere, whatever a folder's mode says; this gives the right up, in the process that begins here (Linux)."
    import ctypes
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def main(n, at_once):
    from tlcourse import assets, classroom
    from tlcourse.cli import find_lesson
    from tlcourse.core import course_path
    from tlcourse.working_copy import copy_course
    for o in find_lesson('1').assets: assets.fetch(o)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        cache = tmp/'cache'
        for o in find_lesson('1').assets: shutil.copytree(assets.find(o).folder, cache/assets.find(o).folder.relative_to(assets.home()))
        before = contents(cache)
        writable(cache, False)
        (tmp/'progress').mkdir()
        env = {**os.environ, 'TLCOURSE_HOME': str(cache), 'TLCOURSE_OFFLINE': '1', 'HF_HUB_OFFLINE': '1'}
        root = sys.platform == 'linux' and os.geteuid() == 0
        for i in range(n): copy_course(course_path()/'nbs', tmp/NAMES[i])
        todo, now, done, start = list(range(n)), {}, {}, time.perf_counter()
        while todo or now:
            while todo and len(now) < at_once:
                i = todo.pop(0)
                own = env | dict(XDG_CACHE_HOME=str(tmp/NAMES[i]/'cache'), XDG_DATA_HOME=str(tmp/NAMES[i]/'data'))
                cmd = [sys.executable, '-X', 'utf8', __file__, '--learner', str(i), '--work', str(tmp/NAMES[i])]
                now[i] = subprocess.Popen(cmd, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding='utf-8', preexec_fn=obey if root else None)
            for i,p in list(now.items()):
                if p.poll() is None: continue
                out, err = now.pop(i).communicate()
                done[i] = json.loads(out.splitlines()[-1]) if p.returncode == 0 else dict(error=err.strip().splitlines()[-1:])
            time.sleep(.1)
        wall = time.perf_counter() - start
        finished = {i: o for i,o in done.items() if 'error' not in o}
        same = contents(cache) == before
        writable(cache, True)
        for i,o in done.items():
            if 'error' in o: print(f'{NAMES[i]}: {o["error"]}', file=sys.stderr)
        learners, exercises, questions = classroom.collect(tmp/'progress')
        told = finished and all([len(learners) == n, learners.tries.tolist() == [tries(i) + solved(i) for i in range(n)], learners.right.tolist() == [right(i) for i in range(n)],
                    int(exercises.done['01.1']) == sum(map(solved, range(n))), int(questions.wrong.sum()) == sum(5 - right(i) for i in range(n))])
    seconds, peak = ([o[k] for o in finished.values()] for k in ('seconds', 'peak'))
    print(f'## A class of {n} on one read-only cache\n\nThe first section of lesson 01, offline, {at_once} at a time, {os.cpu_count()} cores; the whole class {wall:.0f} s.\n')
    print('| what | measured | promised | kept |\n|---|---|---|---|')
    def row(what, measured, promised, kept): print(f"| {what} | {measured} | {promised} | {'yes' if kept else 'NO'} |")
    row('learners who finish', f'{len(finished)} of {n}', 'all', len(finished) == n)
    row('progress collected is what they did', 'yes' if told else 'no', 'yes', told)
    row('files of the cache changed', 'none' if same else 'some', 'none', same)
    if finished:
        print(f'| seconds a learner, median and longest | {statistics.median(seconds):.0f}, {max(seconds):.0f} | | |')
        print(f'| memory of a kernel at its peak, median and largest | {statistics.median(peak)/1e9:.2f} GB, {max(peak)/1e9:.2f} GB | 3 GB | {"yes" if max(peak) < 3e9 else "NO"} |')
    for i,o in done.items():
        if 'error' in o: print(f'{NAMES[i]}: {o["error"]}', file=sys.stderr)
    return int(not (len(finished) == n and told and same))


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--learners', type=int, default=30)
    p.add_argument('--at-once', type=int, default=6)
    p.add_argument('--learner', type=int)
    p.add_argument('--work', type=Path)
    a = p.parse_args()
    sys.exit(main(a.learners, a.at_once) if a.learner is None else learner(a.learner, a.work))
