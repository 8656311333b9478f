"Features in Parquet files: what is there is whole, and what was killed goes on."
import os, random, signal, subprocess, sys, threading, time
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.data.load import DataLoader
from torch import nn

from tlcourse.features import FeatureError, extract
from tlcourse.shards import ShardError, Shards, batches

pq = pytest.importorskip('pyarrow.parquet')


def body(): torch.manual_seed(0); return nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2)).eval()

def loader(n=50, bs=8, **kw):
    g = torch.Generator().manual_seed(0)
    return DataLoader(list(zip(torch.randn(n, 6, generator=g), torch.arange(n) % 3)), bs=bs, **kw)

def rows(folder): return {k: np.concatenate([b[k] for b in batches(folder)]) for k in next(batches(folder))}


@pytest.mark.parametrize('shard, bs', [(1, 4), (7, 4), (8, 8), (16, 5), (50, 50), (4096, 3)])
def test_like_in_memory(tmp_path, shard, bs):
    plain = extract(body(), loader(), cache=False)
    assert extract(body(), loader(), to=tmp_path/'a', shard=shard, bs=bs) == tmp_path/'a'
    got = rows(tmp_path/'a')
    assert got['item'].tolist() == list(range(50)) and got['x'].dtype == np.float32 and got['y'].dtype == np.int64
    np.testing.assert_allclose(got['x'], plain.x, rtol=1e-5, atol=1e-7)
    assert got['y'].tolist() == plain.y.tolist()
    assert len(list((tmp_path/'a').iterdir())) == -(-50//shard)


def test_layers_have_columns(tmp_path):
    plain = extract(body(), loader(), [0, 1], cache=False)
    extract(body(), loader(), [0, 1], to=tmp_path, shard=20)
    got = rows(tmp_path)
    for i in (0, 1): np.testing.assert_allclose(got[f'x{i}'], plain[i].x, rtol=1e-5, atol=1e-7)


def test_without_labels(tmp_path):
    extract(body(), DataLoader(list(torch.randn(9, 6)), bs=4), to=tmp_path)
    assert set(rows(tmp_path)) == {'item', 'x'}


def test_longest_first_within_a_shard(tmp_path):
    dl = loader()
    dl.res = [7*i % 13 for i in range(50)]  # as fastai's SortedDL keeps lengths
    extract(body(), dl, to=tmp_path, shard=20)
    got = rows(tmp_path)
    assert got['item'].tolist() == list(range(50))
    np.testing.assert_allclose(got['x'], extract(body(), loader(), cache=False).x, rtol=1e-5, atol=1e-7)


def test_only_what_is_missing(tmp_path):
    extract(body(), loader(), to=tmp_path, shard=10)
    lost, damaged, kept = (tmp_path/f'part-{i:06}.parquet' for i in (1, 3, 4))
    whole = rows(tmp_path)
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = kept.stat().st_mtime_ns
    with pytest.raises(ShardError, match='part-000003.parquet: this is no whole Parquet file'): rows(tmp_path)
    extract(body(), loader(), to=tmp_path, shard=10)
    for k,v in rows(tmp_path).items(): np.testing.assert_allclose(v, whole[k], rtol=1e-6)
    assert kept.stat().st_mtime_ns == before


def test_two_take_parts(tmp_path):
    for k in (1, 0): extract(body(), loader(), to=tmp_path/'two', shard=8, part=(k, 2))
    extract(body(), loader(), to=tmp_path/'one', shard=8)
    for k,v in rows(tmp_path/'one').items(): np.testing.assert_array_equal(rows(tmp_path/'two')[k], v)


def test_other_features_are_not_mixed_in(tmp_path):
    extract(body(), loader(), to=tmp_path)
    changed = body()
    with torch.no_grad(): changed[0][0].bias += 1
    for model, dl, kw in [(changed, loader(), {}), (body(), loader(49), {}), (body(), loader(), dict(shard=5)), (body(), loader(), dict(layer=0))]:
        with pytest.raises(ShardError, match='holds other features'): extract(model, dl, to=tmp_path, **kw)
    extract(body(), loader(), to=tmp_path)


@pytest.mark.parametrize('kw, error, says', [
    (dict(views=2), FeatureError, 'leave out views or to'),
    (dict(shard=0), ShardError, '1 or more'),
    (dict(part=(2, 2)), ShardError, 'number of a share'),
    (dict(part=(-1, 2)), ShardError, 'number of a share')])
def test_wrong_use(tmp_path, kw, error, says):
    with pytest.raises(error, match=says) as e: extract(body(), loader(), to=tmp_path, **kw)
    assert '\n' not in str(e.value)


def test_wrong_folders(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(ShardError, match='cannot be written there'): extract(body(), loader(), to=tmp_path/'file')
    with pytest.raises(ShardError, match='holds no shards'): next(batches(tmp_path))
    extract(body(), loader(), to=tmp_path/'a')
    with pytest.raises(ShardError, match="no column 'z'; it has item, x, y"): next(batches(tmp_path/'a', 'z'))
    lock = threading.Lock()  # which cannot be told from another
    dl = DataLoader([(torch.randn(6), 0)], bs=1, after_item=lambda o: (lock, o)[1])
    with pytest.raises(FeatureError, match='cannot go to a folder'): extract(body(), dl, to=tmp_path/'b')


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ShardError, match=r"pip install 'tlcourse\[scale\]'"): extract(body(), loader(), to=tmp_path)


def test_a_full_disk_is_told_and_nothing_half_stays(tmp_path, monkeypatch):
    import tlcourse.shards
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(tlcourse.shards, 'write_whole', full)
    with pytest.raises(ShardError, match='free space, and run again'): extract(body(), loader(), to=tmp_path)
    assert not list(tmp_path.iterdir())


def test_others_read_it(tmp_path):
    datasets = pytest.importorskip('datasets')
    extract(body(), loader(), to=tmp_path/'a', shard=20)
    ds = datasets.load_dataset('parquet', data_files=str(tmp_path/'a'/'*.parquet'), split='train', cache_dir=str(tmp_path/'cache')).with_format('numpy')
    assert np.array_equal(np.stack(ds['x'][:]), rows(tmp_path/'a')['x'])


def test_a_probe_by_steps_comes_near_the_exact_one(tmp_path):
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    g = np.random.default_rng(0)
    y = np.arange(3000) % 3
    x = torch.tensor(g.normal(size=(3000, 6)) + 2*np.eye(6)[y], dtype=torch.float32)
    same = nn.Sequential(nn.Identity(), nn.Linear(6, 3)).eval()
    extract(same, DataLoader(list(zip(x, torch.tensor(y))), bs=100), to=tmp_path, shard=500)
    sgd = SGDClassifier(loss='log_loss', alpha=1e-3, average=True, random_state=0)
    for _ in range(3):
        for b in batches(tmp_path, 'x', 'y', size=250): sgd.partial_fit(b['x'], b['y'], classes=range(3))
    assert abs(sgd.score(x, y) - LogisticRegression().fit(x, y).score(x, y)) < .02


SLOW = '''
import os, sys, time
import tests.test_shards as t
from torch import nn
from tlcourse.features import extract
class Slow(nn.Identity):
    def forward(self, x): time.sleep(.002); return x
def slow(): m = t.body(); m[0].append(Slow()); return m
for line in sys.stdin:
    if not (pid := os.fork()):
        extract(slow(), t.loader(400, 4), to=line.strip(), shard=12, bs=4)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
'''

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='starts a process twenty times in an instant, which takes fork')
def test_twenty_kills(tmp_path):
    root, rng, there, killed, grew = Path(__file__).parent.parent, random.Random(0), tmp_path/'a', 0, []
    p = subprocess.Popen([sys.executable, '-c', SLOW], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)})
    def run(kill):
        p.stdin.write(f'{there}\n'); p.stdin.flush()
        pid = int(p.stdout.readline())
        if kill:
            had, until = len(list(there.glob('*.parquet'))), time.time() + 60
            while len(list(there.glob('*.parquet'))) <= had and time.time() < until: time.sleep(.001)
            time.sleep(rng.uniform(0, .01))
            os.kill(pid, signal.SIGKILL)
        return int(p.stdout.readline())
    for _ in range(20):
        killed += run(True) == signal.SIGKILL
        grew.append(len(list(there.glob('*.parquet'))))
    assert killed == 20 and grew == sorted(grew) and grew[-1] < 34
    assert run(False) == 0
    p.stdin.close(); p.wait()
    got, plain = rows(there), extract(body(), loader(400, 4), cache=False)
    assert got['item'].tolist() == list(range(400))
    np.testing.assert_allclose(got['x'], plain.x, rtol=1e-5, atol=1e-7)
