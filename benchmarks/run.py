"""Run the benchmarks and write what they print to results.md.

    python benchmarks/run.py             all of them
    python benchmarks/run.py startup     this one; the results of the others stay

A benchmark is a script beside this one that prints a section of Markdown, which says where a promise is not kept."""
import os, platform, re, subprocess, sys, time
from datetime import date
from importlib.metadata import version
from pathlib import Path

here = Path(__file__).parent
results = here/'results.md'


def processor():
    "The model name of the CPU."
    if sys.platform == 'darwin': return subprocess.check_output(['sysctl', '-n', 'machdep.cpu.brand_string'], text=True).strip()
    info = Path('/proc/cpuinfo')
    m = re.search(r'model name\s*: (.+)', info.read_text()) if info.exists() else None
    return m[1] if m else platform.processor() or platform.machine()


def machine():
    "What the numbers depend on, without the name of the machine."
    import psutil
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return (f'{processor()}, {cores} cores, {psutil.virtual_memory().total/2**30:.0f} GiB, {platform.system()} {platform.machine()}, '
            f"Python {platform.python_version()}, torch {version('torch')}, fastai {version('fastai')}, {date.today()}")


def load():
    "How much of the machine others use, over two seconds in which nothing is measured."
    from tlcourse import threads
    old = threads.reading()
    time.sleep(2)
    free = threads.free_cores(old, new := threads.reading())
    return f"{max(0, new['cores'] - free):.1f} of {new['cores']} cores busy with other things at its start"


def keep(name, section, scripts):
    "Put a section into results.md; those of the other scripts stay as they are there now."
    old = results.read_text(encoding='utf-8') if results.exists() else ''
    sections = {k: v.strip() for k, v in re.findall(r'^<!-- (\w+) -->\n(.*?)(?=^<!-- |\Z)', old, re.M | re.S)} | {name: section}
    body = '\n\n'.join(f'<!-- {k} -->\n{sections[k]}' for k in scripts if k in sections)
    results.write_text(f'# Benchmarks\n\nWritten by `make bench`; each section says on which machine and when.\n\n{body}\n', encoding='utf-8')


def main(names):
    scripts = {p.stem: p for p in sorted(here.glob('*.py')) if p.stem != 'run' and p.stem[0] != '_'}
    if bad := [n for n in names if n not in scripts]: sys.exit(f"there is no benchmark {bad[0]!r}; there are {', '.join(scripts)}")
    failed = []
    for name in names or scripts:
        print(f'{name} ...', flush=True)
        busy = load()
        r = subprocess.run([sys.executable, '-X', 'utf8', scripts[name]], stdout=subprocess.PIPE, encoding='utf-8')
        print(r.stdout)
        if r.returncode: failed.append(name)
        else: keep(name, f'{r.stdout.strip()}\n\n{machine()}, {busy}.', scripts)
    if failed: sys.exit(f"failed, and so not written: {', '.join(failed)}")


if __name__ == '__main__': main(sys.argv[1:])
