"What several test files share: a cache of one's own, and a local package index that can misbehave."
import hashlib, io, os, threading, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault('OMP_NUM_THREADS', '1') # before torch: as many threads in each run, so that each rounds alike

import pytest

from tlcourse.assets import Asset


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty cache, network allowed."
    monkeypatch.setenv('TLCOURSE_HOME', str(tmp_path/'home'))
    monkeypatch.delenv('TLCOURSE_OFFLINE', raising=False)
    return tmp_path/'home'


def make_wheel(name, files, version='1.0'):
    "The bytes of a wheel `name` with `files` {path or ZipInfo: bytes}."
    info, meta = f'{name}-{version}.dist-info', f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, 'w', zipfile.ZIP_DEFLATED) as z:
        for k,v in files.items(): z.writestr(k, v)
        z.writestr(f'{info}/METADATA', meta)
        z.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        z.writestr(f'{info}/RECORD', '')
    return buf.getvalue()


class Index:
    "A package index on this machine; `serve` decides which bytes it sends, `gets` counts the downloads of wheels."
    def __init__(self):
        self.wheels, self.serve, self.gets = {}, lambda name, data: data, 0
        index = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_HEAD(self): self.do_GET(body=False)
            def do_GET(self, body=True):
                name = self.path.strip('/').split('/')[-1].split('?')[0]
                if self.path.startswith('/simple/'):
                    links = [w for w in index.wheels if w.split('-')[0].replace('_', '-') == name]
                    if not links: return self.send_error(404)
                    return self.reply(''.join(f'<a href="/files/{w}">{w}</a>' for w in links).encode(), 'text/html', body)
                if name not in index.wheels: return self.send_error(404)
                data = index.wheels[name]
                if body: index.gets += 1
                self.reply(index.serve(name, data) if body else data, 'application/octet-stream', body, len(data), hashlib.sha256(data).hexdigest())

            def reply(self, data, kind, body, length=None, etag=None):
                self.send_response(200)
                self.send_header('Content-Type', kind)
                self.send_header('Content-Length', str(length or len(data)))
                if etag: self.send_header('ETag', f'"{etag}"'); self.send_header('X-Repo-Commit', 'a'*40)
                self.end_headers()
                if body: self.wfile.write(data)

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, args=(.02,), daemon=True).start()

    def add(self, name, files, version='1.0', **kwargs):
        "Put a wheel on the index and return the asset that pins it."
        data = make_wheel(name, files, version)
        self.wheels[f'{name}-{version}-py3-none-any.whl'] = data
        return Asset(**{**dict(name=name, kind='images', version=version, size=len(data), sha256=hashlib.sha256(data).hexdigest(), licence='MIT',
                               citation='', source=f'pip:{name}=={version}', files={f'{name}/': ''}), **kwargs})


@pytest.fixture
def index(monkeypatch):
    "A local package index that pip uses, and nothing else."
    for k in [k for k in os.environ if k.startswith('PIP_') or k.lower().endswith('_proxy')]: monkeypatch.delenv(k)
    ix = Index()
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_INDEX_URL', f'{ix.url}/simple/')
    monkeypatch.setenv('PIP_RETRIES', '0')
    yield ix
    ix.server.shutdown()
