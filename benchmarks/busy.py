"""Does a busy core cost more than that core, whatever way a lesson is started? python benchmarks/busy.py [rounds] [seconds]; 10 minutes on an otherwise idle machine of two cores"""
import json, os, platform, statistics, subprocess, sys, tempfile
from pathlib import Path

import nbformat

from tlcourse.cli import execute
from tlcourse.threads import gentle

SETTINGS = 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'
PLAIN = {k: v for k,v in os.environ.items() if k not in SETTINGS} # as a shell has it, before tlcourse was imported
HANDED = {} # what the command hands on to kernels
gentle(HANDED)
FIRST = 'import tlcourse, torch', 'import torch, tlcourse'
# each way: what it is, how Python starts, with which settings, which module is imported first
WAYS = {'one thread': ('python', dict(OMP_NUM_THREADS='1'), FIRST[0]),
        'two threads as torch has them': ('python', dict(OMP_NUM_THREADS='2', GOMP_SPINCOUNT='300000'), FIRST[0]),
        'two threads that sleep': ('python', dict(OMP_NUM_THREADS='2', OMP_WAIT_POLICY='PASSIVE'), FIRST[0]),
        '`python`': ('python', {}, FIRST[0]),
        '`python`, torch imported first': ('python', {}, FIRST[1]),
        '`tlcourse run` and `tlcourse lab`': ('kernel', HANDED, FIRST[1]),
        'Jupyter without them, torch first': ('kernel', {}, FIRST[1])}
OURS = list(WAYS)[3:]

WORK = '''{first}
import json, time, warnings
warnings.simplefilter('ignore')
from tlcourse.backbones import load
from tlcourse.features import featurizer
from tlcourse.speed import fold_batchnorm
x, y = torch.randn(32, 3, 96, 96).to(memory_format=torch.channels_last), torch.arange(20) % 10
with torch.no_grad(): body = fold_batchnorm(featurizer(load('efficientnet_lite0').eval(), None), x[:2]).to(memory_format=torch.channels_last)
model = load('efficientnet_lite0', 10).train()
opt = torch.optim.AdamW(model.parameters(), 1e-4)
def forward():
    with torch.no_grad(): body(x)
    return 32
def train():
    torch.nn.functional.cross_entropy(model(x[:20]), y).backward()
    opt.step(); opt.zero_grad()
    return 20
def rate(f):
    f()
    n, start = 0, time.perf_counter()
    while (past := time.perf_counter() - start) < {seconds}: n += f()
    return n/past
print(json.dumps([rate(forward), rate(train)]))'''


def measure(way, seconds, folder):
    "Pictures a second forward and in training, of a new process."
    how, env, first = WAYS[way]
    code, env = WORK.format(first=first, seconds=seconds), PLAIN | env | dict(PYTHONWARNINGS='ignore')
    if how == 'python': return json.loads(subprocess.run([sys.executable, '-c', code], env=env, check=True, capture_output=True, text=True).stdout)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    execute(nb, Path(folder), env)
    return json.loads(''.join(o.text for o in nb.cells[0].outputs if o.get('name') == 'stdout'))


def burning():
    "A process that keeps one core busy."
    return subprocess.Popen([sys.executable, '-c', 'while True: pass'])


def quartiles(o): return '{1:.2f} ({0:.2f} to {2:.2f})'.format(*statistics.quantiles(o, n=4))


def table(title, got, which):
    "A line a way; ratios of each round to one thread, and to two as torch has them, on the idle machine."
    def rates(way, busy): return [o[which] for o in got[way, busy]]
    one, two = rates('one thread', False), rates('two threads as torch has them', False)
    print(f'### {title}\n\n| started as | idle, pictures/s | of two threads idle | one core busy, pictures/s | of one thread idle | kept |\n|---|---|---|---|---|---|')
    for way in WAYS:
        idle, busy = rates(way, False), rates(way, True)
        a, b = ([p/q for p,q in zip(x, y)] for x,y in ((idle, two), (busy, one)))
        kept = ('yes' if statistics.median(a) >= .95 and statistics.median(b) >= .85 else '**no**') if way in OURS else ''
        print(f'| {way} | {statistics.median(idle):.0f} | {quartiles(a)} | {statistics.median(busy):.0f} | {quartiles(b)} | {kept} |')
    print(flush=True)


def main(rounds=5, seconds=3):
    got = {}
    with tempfile.TemporaryDirectory() as folder:
        for r in range(rounds):
            for busy in (False, True):
                other = burning() if busy else None
                try:
                    for way in WAYS: got.setdefault((way, busy), []).append(measure(way, seconds, folder))
                finally:
                    if other: other.kill(), other.wait()
            print(f'round {r + 1} of {rounds}', file=sys.stderr, flush=True)
    print(f'## A busy machine\n\n{platform.machine()}, {os.cpu_count()} cores; EfficientNet-Lite0, channels last, 96 pixels. New processes by turns, {seconds} s each, medians and quartiles of {rounds} rounds; '
          'first with the machine idle, then with one process that never rests. Promised, of what tlcourse starts: idle .95 of two threads as torch has them, busy .85 of one thread on an idle machine.\n')
    table('Forward, batches of 32, BatchNorm folded', got, 0)
    table('Training, batches of 20', got, 1)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
