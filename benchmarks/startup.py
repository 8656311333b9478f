"How much longer than bare Python do `import tlcourse` and `tlcourse --help` take? A learner waits for it at every command."
import statistics, subprocess, sys, time

repeats = 15
commands = {'bare Python': 'pass', '`import tlcourse`': 'import tlcourse',
            '`tlcourse --help`': 'from tlcourse.cli import main; main(["--help"])'}
limits = {'`import tlcourse`': .1, '`tlcourse --help`': .5}


def seconds(code):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


times = {k: [] for k in commands}
for i in range(repeats + 1):
    for k, code in commands.items():  # in turn, so that a change of load meets all three
        t = seconds(code)
        if i: times[k].append(t)      # the first round fills the file cache

median = {k: statistics.median(v) for k, v in times.items()}
bare = median['bare Python']
print(f'## Starting\n\nMedian of {repeats} runs.\n')
print('| what | seconds | over bare Python | ratio | promised | kept |\n|---|---|---|---|---|---|')
for k, t in median.items():
    promise = (f'+{limits[k]}', 'yes' if t - bare <= limits[k] else 'NO') if k in limits else ('', '')
    print(f'| {k} | {t:.3f} | {t - bare:+.3f} | {t/bare:.1f} | {promise[0]} | {promise[1]} |')
