"JupyterLab as `tlcourse lab` starts it, and what a learner does to a notebook that is open in it."
import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import psutil
import pytest

from tlcourse.assets import all_assets, problems
from tlcourse.cli import lessons

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 1000*int(os.environ.get('PATIENCE', 600))  # milliseconds for a lesson to run

STATE = """() => {
    const p = window.jupyterapp?.shell?.currentWidget, nb = p?.content
    if (!nb?.widgets || !p.context.isReady) return null
    return {kernel: p.sessionContext?.session?.kernel?.status ?? 'none', dirty: p.context.model.dirty, active: nb.activeCellIndex,
            cells: nb.widgets.map(w => ({id: w.model.id, type: w.model.type, source: w.model.sharedModel.getSource(),
                                         count: w.model.executionCount ?? null, running: w.model.sharedModel.executionState === 'running'}))}}"""
OUTPUTS = """i => jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON().map(o => ({
    kind: o.output_type, name: o.name ?? o.ename ?? '', text: [o.text ?? '', o.evalue ?? '', o.data?.['text/plain'] ?? '', o.data?.['text/html'] ?? '',
    o.data?.['text/markdown'] ?? ''].flat().join('\\n').slice(0, 4000)}))"""
GO = """async i => { const nb = jupyterapp.shell.currentWidget.content
    nb.activeCellIndex = i; nb.deselectAll(); nb.mode = 'command'; await nb.scrollToItem(i, 'start').catch(() => {}); nb.activate() }"""
SHOWN = """i => { const w = jupyterapp.shell.currentWidget.content.widgets[i]
    if (w.node.isConnected && w.node.innerText) return true
    jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start').catch(() => {}); return false }"""
RAN = """() => { const p = jupyterapp.shell.currentWidget
    return p.sessionContext.session?.kernel?.status === 'idle' && !p.content.widgets.some(w => w.model.sharedModel.executionState === 'running') }"""
FORGET = "i => { jupyterapp.shell.currentWidget.content.widgets[i].model.executionCount = null }"  # a new kernel counts from 1 again
BEGAN = """i => { const m = jupyterapp.shell.currentWidget.content.widgets[i].model
    return m.sharedModel.executionState === 'running' || m.executionCount !== null }"""


CONTRAST = """c => { // the least contrast of text on what is behind it, by WCAG's formula
    const rgb = s => (s.match(/[\\d.]+/g) ?? []).map(Number)
    const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4).reduce((t, v, i) => t + v*[.2126, .7152, .0722][i], 0)
    const behind = e => { for (; e; e = e.parentElement) { const v = rgb(getComputedStyle(e).backgroundColor); if (v.length === 3 || v[3] === 1) return v } return [255, 255, 255] }
    const own = [...c.querySelectorAll('*')].filter(e => e.offsetParent && [...e.childNodes].some(t => t.nodeType === 3 && t.textContent.trim()))
    return Math.min(...own.map(e => { const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e)); return (Math.max(a, b) + .05)/(Math.min(a, b) + .05) })) }"""


class Notebook:
    "A notebook that is open in JupyterLab, and what a learner does to it."
    def __init__(self, page, lab, path):
        self.page, self.lab, self.path = page, lab, path
        page.goto(f'{lab.url}/lab/tree/{path}?token=learner&reset', timeout=PATIENCE)
        page.wait_for_selector('.jp-Notebook', timeout=PATIENCE)
        page.wait_for_function(f"() => ({STATE})()?.kernel === 'idle'", timeout=PATIENCE)

    @property
    def state(self): return self.page.evaluate(STATE)
    @property
    def cells(self): return self.state['cells']

    def index(self, part):
        "Number of the first cell that has `part` in its source, or is called so."
        return next(i for i,c in enumerate(self.cells) if part == c['id'] or part in c['source'])

    def go(self, part):
        "Scroll to a cell; the cell, as it stands on the page."
        self.page.evaluate(GO, i := self.index(part))
        self.page.wait_for_function(SHOWN, arg=i, timeout=60_000, polling=700)
        return self.at(i)

    def at(self, i):
        return self.page.evaluate_handle('i => jupyterapp.shell.currentWidget.content.widgets[i].node', i).as_element()

    def run(self, part):
        "Shift+Enter in a cell; the cell, when it is done."
        i = self.index(part)
        self.go(part)
        self.page.evaluate(FORGET, i)
        self.page.keyboard.press('Shift+Enter')
        self.page.wait_for_function(BEGAN, arg=i, timeout=60_000)
        self.wait()
        return self.go(part)

    def wait(self): self.page.wait_for_function(RAN, timeout=PATIENCE, polling=300)

    def menu(self, name, item):
        self.page.click(f'.lm-MenuBar-itemLabel:text-is("{name}")')
        self.page.click(f'.lm-Menu-itemLabel:text-is("{item}")')

    def run_all(self):
        self.menu('Run', 'Run All Cells')
        last = max(i for i,c in enumerate(self.cells) if c['type'] == 'code' and c['source'].strip())
        self.page.wait_for_function('i => jupyterapp.shell.currentWidget.content.widgets[i].model.executionCount', arg=last, timeout=PATIENCE, polling=500)
        self.wait()

    def restart(self):
        self.menu('Kernel', 'Restart Kernel…')
        self.page.click('.jp-Dialog-button.jp-mod-accept', timeout=30_000)
        self.page.wait_for_timeout(1500)
        self.wait()

    def write(self, part, source):
        "Replace the source of a cell, by hand."
        self.go(part)
        self.page.keyboard.press('Enter')
        self.page.keyboard.press('ControlOrMeta+a')
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press('Escape')

    def below(self, part, source):
        "A new cell below another, with `source`."
        self.go(part)
        self.page.keyboard.press('Escape')
        self.page.keyboard.press('b')
        self.page.keyboard.press('Enter')
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press('Escape')

    def said(self, part): return '\n'.join(o['text'] for o in self.outputs(self.index(part)))
    def outputs(self, i): return self.page.evaluate(OUTPUTS, i)

    def faults(self):
        "Errors and warnings in the outputs of all cells, and what JupyterLab complains of."
        res = [f"cell {i}: {o['name']} {o['text'][:300]}" for i,c in enumerate(self.cells) if c['type'] == 'code'
               for o in self.outputs(i) if o['kind'] == 'error' or o['name'] == 'stderr']
        text = self.page.inner_text('body')
        return res + [o for o in ('model not found', 'Error displaying widget', 'Loading widget') if o in text] + \
            [f'dialog: {o.inner_text()}' for o in self.page.query_selector_all('.jp-Dialog')]

    def save(self):
        self.page.keyboard.press('ControlOrMeta+s')
        self.page.wait_for_function(f"() => !({STATE})().dirty", timeout=30_000)

    def leave(self):
        "Save, shut the kernel down, and close the page."
        self.save()
        for o in self.lab.ask('api/sessions'): self.lab.ask(f"api/sessions/{o['id']}", 'DELETE')
        self.page.goto('about:blank')


class Lab:
    "JupyterLab on a copy of the lessons, for one learner."
    def __init__(self, home):
        self.home, self.folder, self.course = home, home/'mine', home/'course'
        shutil.copytree(ROOT/'nbs', self.course/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.url = f'http://127.0.0.1:{(port := s.getsockname()[1])}'
        (home/'jupyter').mkdir()
        self.env = {**os.environ, 'TLCOURSE_COURSE': str(self.course), 'TLCOURSE_PROGRESS': str(home/'progress.json'), 'TLCOURSE_OFFLINE': '1',
                    'JUPYTER_CONFIG_DIR': str(home/'jupyter'), 'JUPYTER_DATA_DIR': str(home/'jupyter'), 'JUPYTER_RUNTIME_DIR': str(home/'jupyter')}
        self.log = open(home/'jupyter.log', 'w+')
        self.process = self.tlcourse('lab', str(self.folder), '--', f'--port={port}', '--ip=127.0.0.1', '--no-browser', '--allow-root',
                                     '--IdentityProvider.token=learner', '--LabApp.expose_app_in_browser=True', stdout=self.log, stderr=subprocess.STDOUT)
        until = time.time() + PATIENCE/1000
        while time.time() < until and self.process.poll() is None:
            try: return self.ask('api/status') and None
            except OSError: time.sleep(.3)
        self.stop()
        raise RuntimeError(f'JupyterLab does not answer: {(home/"jupyter.log").read_text()[-2000:]}')

    def tlcourse(self, *args, **kw):
        return subprocess.Popen([sys.executable, '-c', 'import sys; from tlcourse.cli import main; sys.exit(main())', *args], env=self.env, **kw)

    def ask(self, what, method='GET'):
        with urllib.request.urlopen(urllib.request.Request(f'{self.url}/{what}', method=method, headers={'Authorization': 'token learner'}), timeout=30) as r: data = r.read()
        return json.loads(data) if data else None

    def update(self):
        "What `tlcourse lab` says when it brings a newer course in."
        p = self.tlcourse('lab', str(self.folder), '--no-open', stdout=subprocess.PIPE, text=True)
        return p.communicate()[0]

    def lesson(self, number): return next(self.folder.glob(f'lessons/{number}_*.ipynb'))
    def source(self, number): return next(self.course.glob(f'nbs/lessons/{number}_*.ipynb'))
    def progress(self): return json.loads((self.home/'progress.json').read_text(encoding='utf-8'))['items']

    def stop(self):
        if self.process.poll() is None:
            me = psutil.Process(self.process.pid)
            mine = [me, *me.children(recursive=True)]
            for o in mine:
                try: o.terminate()
                except psutil.Error: pass
            for o in psutil.wait_procs(mine, timeout=10)[1]: o.kill()
        self.log.close()


def needs_assets(number):
    "Skip a lesson whose downloads are not there."
    known = {a.name: a for a in all_assets()}
    lesson = next(l for l in lessons() if l.number == number)
    if lack := [o for o in lesson.assets if problems(known[o])]: pytest.skip(f'lesson {number} needs `tlcourse fetch {number}`: {", ".join(lack)}')
