"Time functions by turns, so that a slow spell of the machine hits all of them alike."
import statistics, time


def rounds(work, n, repeat):
    "Items a second of each function in the dict `work`, each of which handles `n`: a list of `repeat` rounds after one to warm up."
    times = {k: [] for k in work}
    for r in range(repeat + 1):
        for k,f in work.items():
            t = time.perf_counter()
            f()
            if r: times[k].append(time.perf_counter() - t)
    return {k: [n/o for o in v] for k,v in times.items()}

def rates(work, n, repeat): return {k: statistics.median(v) for k,v in rounds(work, n, repeat).items()}
