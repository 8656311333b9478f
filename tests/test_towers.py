"CLIP and SigLIP through Transformers: tiny checkpoints of the same layout, which the test makes; and lesson 15's cell on them."
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('transformers')

from PIL import Image
from tlcourse import TLCourseError
from tlcourse.core import read_cells
from tlcourse.data import images
from tlcourse.fewshot import zero_shot
from tlcourse.towers import random_towers, towers

LESSON = next((Path(__file__).parent.parent/'nbs'/'lessons').glob('15_*.ipynb'))
GRAYS = [np.full((40, 30), i, np.uint8) for i in (0, 100, 255)]


@pytest.fixture(scope='module', params=['clip', 'siglip'])
def folder(request, tmp_path_factory):
    random_towers(d := tmp_path_factory.mktemp(request.param), request.param)
    return d


def test_the_layout_is_the_hub_s(folder):
    assert {'config.json', 'model.safetensors', 'preprocessor_config.json', 'tokenizer.json', 'tokenizer_config.json'} <= {o.name for o in folder.iterdir()}
    assert json.loads((folder/'config.json').read_text())['model_type'] == folder.name.rstrip('0123456789')


def test_vectors_are_the_network_s_own(folder):
    from transformers import AutoImageProcessor, AutoModel
    two, model = towers(folder), AutoModel.from_pretrained(folder).eval()
    px = AutoImageProcessor.from_pretrained(folder)([Image.fromarray(o).convert('RGB') for o in GRAYS], return_tensors='pt').pixel_values
    filled = 'max_length' if 'siglip' in folder.name else True
    texts = ['dark', 'a much longer text']
    enc = two.tok(texts, padding=filled, max_length=64, return_tensors='pt')
    more = {} if 'siglip' in folder.name else dict(attention_mask=enc.attention_mask)
    with torch.no_grad(): out = model(input_ids=enc.input_ids, pixel_values=px, **more)
    assert np.allclose(two(GRAYS), out.image_embeds, atol=1e-5) and np.allclose(two(texts), out.text_embeds, atol=1e-5)
    assert np.allclose(two(GRAYS[1:2]), two(GRAYS)[1], atol=1e-6) and np.allclose(two(texts[:1]), two(texts)[0], atol=1e-6)


def test_pictures_of_any_kind(folder, tmp_path):
    two = towers(folder)
    Image.fromarray(GRAYS[1]).save(tmp_path/'a.png')
    assert np.allclose(two([tmp_path/'a.png', GRAYS[1], Image.fromarray(GRAYS[1])]), two(GRAYS[1:2]), atol=1e-6)


def test_zero_shot_takes_it(folder):
    said = zero_shot(GRAYS, {'dark': ['night', 'black'], 'bright': 'day'}, 'a {}', towers(folder), prior=GRAYS)
    assert said.columns.tolist() == ['dark', 'bright'] and said.shape == (3, 2) and np.allclose(said.mean(), 0, atol=1e-9)


def test_the_cell_of_lesson_15(folder):
    code, = (c['source'] for c in read_cells(LESSON.read_bytes())['cells'] if c['cell_type'] == 'code' and '\nclip = None' in c['source'])
    ns = dict(images=images, zero_shot=zero_shot)
    exec(code, ns)  # without one it says so
    *body, last = code.replace('clip = None', f'clip = {str(folder)!r}').splitlines()
    exec('\n'.join([*body, f'said = {last}']), ns)
    assert 'of the silhouettes right' in ns['said'] and 0 <= ns['by_clip'](folder) <= 1


@pytest.mark.parametrize('wrong, says', [
    (lambda d: towers(d/'nothing'), 'no such folder'), (lambda d: towers('minilm'), 'no towers'), (lambda d: towers(d)([]), 'empty'), (lambda d: towers(d)(['a', GRAYS[0]]), 'one kind'),
    (lambda d: towers(d)([d/'config.json']), 'cannot be read'), (lambda d: random_towers(d, 'blip'), "'siglip'")])
def test_one_line_for_what_is_wrong(folder, wrong, says):
    with pytest.raises(ValueError, match=says) as e: wrong(folder)
    assert isinstance(e.value, TLCourseError) and '\n' not in str(e.value)


def test_no_reader_of_pictures(folder, tmp_path):
    for o in folder.iterdir():
        if o.name not in ('preprocessor_config.json', 'processor_config.json'): (tmp_path/o.name).write_bytes(o.read_bytes())
    with pytest.raises(TLCourseError, match='preprocessor_config'): towers(tmp_path)
