"""A learner walks through lessons in JupyterLab: nothing is lost, no error is shown.

`LESSONS='00 05' make test-browser` walks these; each is run as a whole, so that five take ten minutes."""
import json, os, re

import pytest

from tlcourse import classroom
from tlcourse.core import read_cells
from tlcourse.exercises import exercise, quiz

from walker import CONTRAST, PATIENCE, Notebook, needs_assets

LESSONS = (os.environ.get('LESSONS') or '00 01 04 05 12').split()


def answers(number, folder):
    "The sources of an instructor's answer cells: {id: source}."
    path, = classroom.export(folder, [number], 'instructors')
    return {c['id']: c['source'] for c in read_cells(path.read_bytes())['cells'] if c['id'].endswith('-answer')}


def choose(nb, i, radio, letter):
    "Click on an option of a group of radio buttons."
    radio.query_selector_all('.widget-radio-box label')['abcdefgh'.index(letter)].click()


def test_nobody_asks_about_news(lab, page, shot):
    page.goto(f'{lab.url}/?token=learner', timeout=PATIENCE)
    page.wait_for_selector('#jp-main-dock-panel', timeout=PATIENCE)
    page.wait_for_timeout(6000)  # the question comes late
    shot(page)
    assert 'Jupyter news' not in page.inner_text('body') and not page.faults
    assert 'index.ipynb' in page.inner_text('#jp-main-dock-panel .lm-TabBar'), 'the way in is not open'


@pytest.mark.parametrize('number', LESSONS)
def test_a_walk(lab, page, shot, number, tmp_path):
    needs_assets(number)
    name = lab.lesson(number).stem
    nb = Notebook(page, lab, f'lessons/{name}.ipynb')
    assert any('Predict first' in c['source'] for c in nb.cells) and not any('.test(' in c['source'] or 'Question(' in c['source'] for c in nb.cells)

    # a guess, before anything is run
    guessing = next(c['id'] for c in nb.cells if 'import guess' in c['source'])
    nb.run(guessing)
    shot(page, '1-guess')
    predict(nb, guessing)
    assert [k for k,v in lab.progress().items() if 'guess' in v and k.startswith(number)]

    # the whole lesson
    nb.run_all()
    assert not nb.faults() and not page.faults
    met = next(i for i,c in enumerate(nb.cells) if re.search(r'guess_a\.compare\(|\w+\.compare\(', c['source']))
    assert 'guess' in nb.outputs(met)[-1]['text'], 'the guess does not meet its result'

    take_the_quiz(nb, number, shot)
    solve(nb, number, shot, answers(name, tmp_path))
    explored = explore(nb, shot)
    narrow_and_dark(nb, number, shot, explored)

    # a new kernel: the quiz and the exercise come by themselves, as they were left
    nb.restart()
    remembered(nb, number, shot, 'restarted')
    if explored: nb.run('explorer(') and shot(page, 'restarted-explorer')
    assert not nb.faults() and not page.faults

    # another day: what needs a kernel says what to do
    nb.leave()
    nb = Notebook(page, lab, f'lessons/{name}.ipynb')
    i = nb.index(f"quiz('{number}')")
    cell = nb.go(f"quiz('{number}')")
    page.wait_for_timeout(1500)
    shot(page, 'reopened')
    page.wait_for_function("c => c.innerText.includes('Run this cell again')", arg=cell)
    assert not page.faults
    assert not [o for o in nb.faults() if 'cell' in o]
    remembered(nb, number, shot, 'reopened-and-run')
    update(nb, lab, number, shot)


def predict(nb, guessing):
    "Fill in a guess, by hand."
    cell = nb.go(guessing)
    boxes = cell.query_selector_all('.tlcourse-quiz input[type=text]')
    for k,b in enumerate(boxes):
        b.fill(f'{10*k + 10} %')
        b.press('Tab')
    if not boxes: cell.query_selector('.tlcourse-quiz .widget-radio-box label').click()
    nb.page.wait_for_function("c => c.innerText.includes('Kept.')", arg=cell)


def take_the_quiz(nb, number, shot):
    "A wrong answer, a right one, and the rest by keys."
    q, where = quiz(number), f"quiz('{number}')"
    i, cell = nb.index(where), nb.go(where)
    radios = cell.query_selector_all('.tlcourse-quiz .widget-radio')
    assert len(radios) == len(q.questions) == 5
    letters = [{bool(o.judge(a)): a for a in o.options} for o in q.questions]
    for right in (False, True):
        choose(nb, i, radios[0], letters[0][right])
        nb.page.wait_for_function("([c, s]) => c.innerText.includes(s)", arg=[cell, 'Correct.' if right else 'Incorrect.'])
        shot(nb.page, f'2-quiz-{right}')
    first = radios[1].query_selector('input')
    group = radios[1].query_selector('[role=radiogroup]')
    assert group and len(group.get_attribute('aria-label')) > 10, 'a group of radio buttons without a name'
    active = nb.state['active']
    first.focus()
    for key in ('Space', 'ArrowDown', 'ArrowDown', 'ArrowUp'): nb.page.keyboard.press(key); nb.page.wait_for_timeout(300)
    assert nb.state['active'] == active, 'an arrow key left the quiz'
    assert [o.is_checked() for o in radios[1].query_selector_all('input')].index(True) == 1
    while not radios[1].query_selector_all('input')['abcdefgh'.index(letters[1][True])].is_checked():
        nb.page.keyboard.press('ArrowDown')
        nb.page.wait_for_timeout(300)
    nb.page.wait_for_function("c => c.innerText.includes('2 of 5 right')", arg=cell)
    shot(nb.page, '2-quiz-keys')
    assert nb.lab.progress()[f'{number}.quiz']['right'] == 2


def solve(nb, number, shot, right):
    "An exercise: nothing, something wrong, a hint, the solution, and what it says typed in."
    answer, source = next(iter(right.items()))
    assert 'not attempted' in (nb.run(answer), nb.said(answer))[1].lower()
    checked = re.search(r'^ex1\.check\((\w+)\)', source, re.M)[1]
    wrong = f'def {checked}(*args): return args[0]' if re.search(rf'(def|class) {checked}\b', source) else f'{checked} = -99'
    nb.write(answer, f'{wrong}\n\nex1.check({checked})')
    nb.run(answer)
    assert 'Incorrect' in nb.said(answer)
    shot(nb.page, '3-wrong')
    for what in ('hint', 'solution'):
        nb.below(answer, f'ex1.{what}()  # mine')
        nb.run(f'ex1.{what}()  # mine')
        assert len(nb.said(f'ex1.{what}()  # mine')) > 10
    shot(nb.page, '3-solution')
    nb.write(answer, source)
    nb.run(answer)
    shot(nb.page, '3-right')
    assert 'Correct' in nb.said(answer) and nb.lab.progress()[f'{number}.1'] | {'state': 'correct'} == nb.lab.progress()[f'{number}.1']


ALT = "c => [...c.querySelectorAll('.jp-OutputArea img')].map(o => o.alt).at(-1)"

def explore(nb, shot):
    "An explorer, if there is one: by mouse and by keys; its picture and the picture's text follow. False if there is none."
    at = [c['id'] for c in nb.cells if re.search(r'^explore(r)?\(', c['source'], re.M)]
    if not at: return False
    cell, page = nb.go(at[0]), nb.page
    page.wait_for_timeout(1000)
    def alt(): return page.evaluate(ALT, cell)
    def follows(act):
        before = alt()
        act()
        page.wait_for_function(f'([c, was]) => {{ const now = ({ALT})(c); return now && now !== was }}', arg=[cell, before], timeout=PATIENCE)
        nb.wait()
        assert len(alt()) > 20
    active = nb.state['active']
    if boxes := cell.query_selector_all('.widget-dropdown select'):
        follows(lambda: boxes[0].select_option(index=0) if boxes[0].evaluate('o => o.selectedIndex') else boxes[0].select_option(index=1))
        follows(lambda: (boxes[0].focus(), page.keyboard.press('ArrowDown')))
        assert all(o.evaluate('o => o.labels.length') for o in boxes), 'a menu without a label'
    if handles := cell.query_selector_all('.noUi-handle'):
        assert all(o.get_attribute('aria-label') for o in handles), 'a slider without a label'
        cell.query_selector('.noUi-target').scroll_into_view_if_needed()
        bar = cell.query_selector('.noUi-target').bounding_box()
        follows(lambda: page.mouse.click(bar['x'] + .3*bar['width'], bar['y'] + bar['height']/2))
        follows(lambda: (handles[0].focus(), page.keyboard.press('ArrowRight')))
    assert nb.state['active'] == active, 'a key left the explorer'
    shot(page, '4-explorer')
    return True


def narrow_and_dark(nb, number, shot, explored):
    "A window of 400 pixels in the dark: nothing is cut off, and one can read it."
    page = nb.page
    page.set_viewport_size(dict(width=400, height=800))
    page.evaluate("() => jupyterapp.shell.collapseLeft()")
    for theme in ('JupyterLab Light', 'JupyterLab Dark'):
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_timeout(1500)
        for what in [f"quiz('{number}')"] + ['explore(']*explored:
            cell = nb.go(what)
            page.wait_for_timeout(500)
            box = cell.query_selector('.jp-OutputArea .widget-vbox')
            box.scroll_into_view_if_needed()
            shot(page, f"5-narrow-{theme.split()[1]}-{what.split('(')[0]}")
            assert box.evaluate('o => o.scrollWidth - o.clientWidth') <= 1, f'{what} is cut off at 400 pixels'
            assert page.evaluate(CONTRAST, box) >= 3, f'{what} cannot be read in {theme}'
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.set_viewport_size(dict(width=1280, height=900))
    page.wait_for_timeout(1000)


def remembered(nb, number, shot, step):
    cell = nb.run(f"quiz('{number}')")
    nb.page.wait_for_function("c => c.innerText.includes('2 of 5 right')", arg=cell)
    assert cell.inner_text().count('Correct.') == 2 and len(cell.query_selector_all('input:checked')) == 2
    shot(nb.page, step)
    nb.run(f"exercise('{number}.1')")
    assert 'correct' in nb.said(f"exercise('{number}.1')") and 'not attempted' not in nb.said(f"exercise('{number}.1')")


def update(nb, lab, number, shot):
    "A newer course comes: one sentence and one cell of it are new. What the learner wrote stays, and stays once."
    nb.leave()
    mine = read_cells(lab.lesson(number).read_bytes())
    new = json.loads(lab.source(number).read_bytes())
    text = next(c for c in new['cells'][2:] if c['cell_type'] == 'markdown' and not ''.join(c['source']).startswith('#'))
    text['source'] = 'A newer sentence. ' + ''.join(text['source'])
    answer = next(c for c in mine['cells'] if c['id'].endswith('-answer'))
    lab.source(number).write_text(json.dumps(new), encoding='utf-8')
    assert f'updated {lab.lesson(number)} and kept what you wrote in it' in lab.update()
    nb = Notebook(nb.page, lab, nb.path)
    sources = [c['source'] for c in nb.cells]
    assert sources.count(answer['source']) == 1 and sum('# mine' in o for o in sources) == 2
    assert sum(o.startswith('A newer sentence. ') for o in sources) == 1 and len({c['id'] for c in nb.cells}) == len(sources)
    assert len(sources) == len(mine['cells']) and 'updated' not in lab.update()
    nb.go(answer['id'])
    shot(nb.page, 'updated')
    remembered(nb, number, shot, 'updated-and-run')
    assert not nb.page.faults
