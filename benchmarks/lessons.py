"How long each lesson takes in the quick profile, and how much memory it needs: `tlcourse run --all`, watched from outside."
import subprocess, sys, tempfile, threading, time

import psutil

from tlcourse.cli import lessons


def promised(lesson):
    "Seconds and GiB: text, speech and what builds on them may take a little more."
    return (120, 4.) if int(lesson.number) >= 8 else (90, 3.) if int(lesson.number) > 1 else (90, 2.5)


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


def run(lesson):
    "Seconds and bytes."
    with tempfile.TemporaryDirectory() as out:
        start, peak = time.perf_counter(), [0]
        p = subprocess.Popen([sys.executable, '-c', 'import sys; from tlcourse.cli import main; sys.exit(main())', 'run', lesson.name, '--out', out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        thread = threading.Thread(target=watch, args=(p, peak))
        thread.start()
        if p.wait(): sys.exit(f'{lesson.name} failed: tlcourse run {lesson.name} says why.')
        thread.join()
        return time.perf_counter() - start, peak[0]


if __name__ == '__main__':
    print('## Lessons, quick profile\n\n| lesson | seconds | promised | GiB | promised | kept |\n|---|---|---|---|---|---|')
    for o in lessons():
        seconds, held = run(o)
        most, gib = promised(o)
        kept = 'yes' if seconds <= most and held <= gib*2**30 else 'NO'
        print(f'| {o.name} | {seconds:.0f} | {most} | {held/2**30:.1f} | {gib:g} | {kept} |', flush=True)
