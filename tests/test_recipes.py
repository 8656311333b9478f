"""The recipe of each lesson as a user takes it: copied into an empty folder, its first line changed to data of their own, run as a script.

Pictures, texts and recordings are made here and easy to tell apart: what is tested is that the recipe runs to its end on what it has not seen,
saves a model that another process loads, and that the model has learned."""
import ast, json, os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LESSONS = [o for part in ('lessons', 'cases') for o in sorted((Path(__file__).parent.parent/'nbs'/part).glob('*.ipynb'))]
COLORS = dict(blue=(40, 60, 200), green=(40, 180, 60), red=(200, 40, 40), white=(230, 230, 230), yellow=(220, 210, 40), brown=(110, 70, 30))
TOPICS = dict(money='bank shares profit market tax price', sport='match team goal player coach cup', weather='rain storm cloud wind snow sun')


def recipe(lesson, own, other=None):
    "The recipe's code, with `own` in place of the first value of its first line, and `other` in place of the second."
    cells = [''.join(c['source']) for c in json.loads(lesson.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    code = next(o for o in cells if '#| label: lst-recipe' in o)
    first = ast.parse(code).body[0]
    assert isinstance(first, ast.Assign) and len(code.splitlines()[:first.lineno]) <= 2, 'the first line says where the data is'
    values = first.value.elts if isinstance(first.value, ast.Tuple) else [first.value]
    lines = code.splitlines()
    for o, to in reversed([*zip(values, filter(None, (own, other)))]):
        lines[o.lineno - 1] = lines[o.lineno - 1][:o.col_offset] + repr(str(to)) + lines[o.lineno - 1][o.end_col_offset:]
    return '\n'.join(lines)


def pictures(folder, seed=0):
    rng = np.random.default_rng(seed)
    for name,color in COLORS.items():
        (folder/name).mkdir(parents=True)
        for i in range(12):
            a = np.clip(rng.normal(color, 25, (40 + i, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(a).save(folder/name/f'{name} {i}.png')
    return folder, folder/'red'/'red 3.png', 'red'


def sentences(folder):
    folder.mkdir()
    rng, rows = np.random.default_rng(0), ['text,label']
    for name,words in TOPICS.items(): rows += [f'"{i}: {" ".join(rng.permutation(words.split()))}, they said",{name}' for i in range(30)]
    (folder/'mine.csv').write_text('\n'.join(rows) + '\n', encoding='utf-8')
    return folder/'mine.csv', 'the coach praised the player after the match', 'sport'


def recordings(folder):
    import soundfile
    rng, t = np.random.default_rng(0), np.arange(12000)/16000
    for name,(low, high) in dict(low=(200, 300), middle=(700, 900), high=(2000, 2500)).items():
        (folder/name).mkdir(parents=True)
        for i in range(12): soundfile.write(folder/name/f'{i}.wav', .3*np.sin(2*np.pi*rng.uniform(low, high)*t) + .01*rng.standard_normal(len(t)), 16000)
    return folder, folder/'high'/'2.wav', 'high'


def articles(folder):
    "Sentences with names, of people that have a title somewhere in their article, as lesson 11 looks for them."
    folder.mkdir()
    rng, rows, people = np.random.default_rng(0), ['text,label'], 'Okonkwo Larsen Mwangi Petrov Silva Tanaka'.split()
    for i in range(40):
        a, b = rng.choice(people, 2, replace=False)
        rows.append(f'"Trade talks resume\nYesterday Mr {a} told the members of the council that he would resign. Later the chairman asked {b} and Mrs {b} '
                    f'about a new plan for the port of Lagos. Nobody else spoke.",{i % 2}')
    (folder/'mine.csv').write_text('\n'.join(rows) + '\n', encoding='utf-8')
    return folder/'mine.csv', 'Yesterday Mr Silva resigned .', None


def drawn(folder):
    "Bright discs on noise, and which pixels are of which disc."
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    for o in ('images', 'masks'): (folder/o).mkdir(parents=True)
    for i in range(8):
        mask = np.zeros((96, 96), np.uint8)
        for k,(r, c) in enumerate(rng.permutation([(24, 24), (24, 70), (70, 24), (70, 70)])[:3], 1): mask[(y - r)**2 + (x - c)**2 < 15**2] = k
        Image.fromarray(np.clip(rng.normal(40 + 150*(mask > 0), 15), 0, 255).astype(np.uint8)).save(folder/'images'/f'{i}.png')
        Image.fromarray(mask).save(folder/'masks'/f'{i}.png')
    return folder, folder/'images'/'3.png', None


def data_of(lesson): return drawn if lesson.stem[:2] == '17' else articles if lesson.stem[:2] == '11' else sentences if lesson.stem[:2] in ('08', '10', '21') or lesson.stem == 'medical' or lesson.stem == 'documents' else recordings if lesson.stem[:2] == '09' else pictures


def run(code, cwd):
    env = {k: v for k,v in os.environ.items() if k != 'IN_TEST'} | dict(OMP_NUM_THREADS='1', TLCOURSE_PROGRESS='off', PYTHONWARNINGS='ignore')
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), env.get('PYTHONPATH')]))
    (cwd/'recipe.py').write_text(code, encoding='utf-8')
    return subprocess.run([sys.executable, 'recipe.py'], cwd=cwd, env=env, capture_output=True, encoding='utf-8', timeout=600)


def tags_of(work, sentence):
    "What lesson 11 saves is Transformers' own format, for tags rather than labels."
    asked = run('from transformers import BertForTokenClassification\nfrom tlcourse.heads import tag, with_head\n'
                f'print(tag(with_head(BertForTokenClassification, "hf:my_model_11"), [{sentence.split()!r}]))', work)
    assert asked.returncode == 0, asked.stderr[-3000:]
    tags, = ast.literal_eval(asked.stdout.strip().splitlines()[-1])
    assert len(tags) == len(sentence.split()) and {o.split('-')[0] for o in tags} <= {'O', 'B', 'I'}


def mask_of(work, image):
    "What lesson 17 saves gives a class to each pixel."
    asked = run(f'from tlcourse import deploy, segmentation as sg\nm = deploy.load("my_model_17").predict({str(image)!r}).iloc[0]["mask"]\n'
                f'print(sg.dice(m, sg.border(sg.check_mask({str(image).replace("images", "masks")!r})), 3)[1])', work)
    assert asked.returncode == 0, asked.stderr[-3000:]
    assert float(asked.stdout.split()[-1]) > .8


@pytest.mark.parametrize('lesson', LESSONS, ids=lambda o: o.stem)
def test_a_recipe_on_data_of_ones_own(lesson, tmp_path):
    pytest.importorskip('transformers')
    own, new, label = data_of(lesson)(tmp_path/'my data')
    (work := tmp_path/'empty').mkdir()
    other = pictures(tmp_path/'other data', 1)[0] if lesson.stem[:2] in ('13', '16', '18') else None  # of another domain or group, or without labels
    done = run(recipe(lesson, own, other), work)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), 'it says nothing'
    if lesson.stem[:2] == '17': return mask_of(work, new)
    if label is None: return tags_of(work, new)
    number = lesson.stem if lesson.parent.name == 'cases' else lesson.stem[:2]
    ask = f'from tlcourse import deploy\nprint(deploy.load("my_model_{number}").predict({str(new)!r}).label.iloc[0])'
    asked = run(ask, work)
    assert asked.returncode == 0, asked.stderr[-3000:]
    assert asked.stdout.split()[-1] == label
