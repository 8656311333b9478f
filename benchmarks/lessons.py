"""How long each lesson takes in the quick profile, and how much memory it needs, beside the build of an older commit: python benchmarks/lessons.py [commit]; 20 minutes

Each lesson runs by `tlcourse run`, one build after the other, watched from outside. Assets are there, features and voices are not, as for whoever runs it first."""
import os, subprocess, sys, tarfile, tempfile, threading, time
from io import BytesIO
from pathlib import Path

import psutil

from tlcourse.assets import home
from tlcourse.cli import lessons

HERE, OLD = Path(__file__).parent.parent, '5874c5c' # before the core was rebuilt


def promised(lesson):
    "Seconds and GB: text, speech and what builds on them may take a little longer."
    return (120 if '08' <= lesson.number <= '99' else 90), 3. if lesson.number > '01' else 2.5


def unpacked(commit, folder):
    "The files of a commit, and its date; None where git does not know it."
    def git(*args): return subprocess.run(['git', '-C', HERE, *args], capture_output=True)
    if (r := git('archive', commit)).returncode: return None
    with tarfile.open(fileobj=BytesIO(r.stdout)) as t: t.extractall(folder, filter='data')
    return git('log', '-1', '--format=%cs', commit).stdout.decode().strip()


def watch(process, peak):
    "Keep in `peak` the most memory that the process and its children held at once, in bytes."
    while process.poll() is None:
        try: tree = [p := psutil.Process(process.pid), *p.children(recursive=True)]
        except psutil.Error: break
        held = 0
        for o in tree:
            try: held += o.memory_info().rss
            except psutil.Error: pass
        peak[0] = max(peak[0], held)
        time.sleep(.2)


def run(name, build):
    "Seconds and bytes of a lesson as the checkout `build` has it."
    with tempfile.TemporaryDirectory() as out:
        (Path(out)/'home').mkdir()
        (Path(out)/'home'/'assets').symlink_to(home()/'assets', target_is_directory=True)
        env = os.environ | dict(PYTHONPATH=str(build), TLCOURSE_COURSE=str(build), TLCOURSE_HOME=f'{out}/home', TLCOURSE_PROGRESS='off', TLCOURSE_PROFILE='quick')
        for k in ('GOMP_SPINCOUNT', 'OMP_NUM_THREADS'): env.pop(k, None) # each build as it chooses
        start, peak = time.perf_counter(), [0]
        p = subprocess.Popen([sys.executable, '-c', 'import sys; from tlcourse.cli import main; sys.exit(main())', 'run', name, '--out', f'{out}/runs'],
                             cwd=out, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        thread = threading.Thread(target=watch, args=(p, peak))
        thread.start()
        said = p.communicate()[1].decode(errors='replace').strip().splitlines()
        thread.join()
        return (time.perf_counter() - start, peak[0]) if not p.returncode else (None, f'{name}, {build}: {said[-1] if said else p.returncode}')


def main(commit=OLD):
    with tempfile.TemporaryDirectory() as folder:
        date = unpacked(commit, folder)
        print(f'## Lessons, quick profile\n\nBefore: {commit}, the build of {date}, by turns with this one. Promised: seconds with 15 % to spare, memory.\n'
              if date else '## Lessons, quick profile\n')
        print('| lesson | seconds | before | ratio | promised | to spare | GB | promised | kept |\n|---|---|---|---|---|---|---|---|---|')
        sums, failed = [0, 0], []
        for o in lessons():
            old = date and any(Path(folder, 'nbs').glob(f'*/{o.name}.ipynb'))
            was, now = run(o.name, folder) if old else (None, None), run(o.name, HERE)
            failed += [b for a,b in (was, now) if a is None and b]
            if now[0] is None: print(f'| {o.name} | failed | | | | | | | **no** |', flush=True); continue
            (seconds, held), (most, gb) = now, promised(o)
            if was[0]: sums = [sums[0] + was[0], sums[1] + seconds]
            kept = 'yes' if seconds <= .85*most and held <= gb*1e9 else '**no**'
            before = f'{was[0]:.0f} | {seconds/was[0]:.2f}' if was[0] else ' | '
            print(f'| {o.name} | {seconds:.0f} | {before} | {most} | {1 - seconds/most:.0%} | {held/1e9:.1f} | {gb:g} | {kept} |', flush=True)
    if sums[0]: print(f"\n{'Kept' if sums[1] <= .75*sums[0] else '**Not kept**'}: the lessons that both builds have, at most .75 of the time before: "
                      f'{sums[1]:.0f} s, {sums[0]:.0f} s before, {sums[1]/sums[0]:.2f}.')
    if failed: sys.exit('\n'.join(failed))


if __name__ == '__main__': main(*sys.argv[1:])
