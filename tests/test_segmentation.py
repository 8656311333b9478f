"Masks, Dice and IoU against other libraries, maps of networks, heads, and what a user can get wrong with masks."
import numpy as np
import pytest
import torch
from PIL import Image

from tlcourse import deploy, segmentation as sg


def image(h=40, w=56, seed=0): return np.random.default_rng(seed).integers(0, 255, (h, w, 3)).astype(np.uint8)


@pytest.fixture(scope='module')
def body():
    torch.manual_seed(0)
    return sg.pyramid('efficientnet_lite0', (2, 4, 8), pretrained=False)


def test_dice_and_iou_equal_sklearn_and_torchmetrics():
    from sklearn.metrics import f1_score, jaccard_score
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index
    rng = np.random.default_rng(0)
    for k in (2, 3, 5):
        p, t = rng.integers(0, k, (2, 17, 13))
        np.testing.assert_allclose(sg.dice(p, t), f1_score(t.ravel(), p.ravel(), average=None), atol=1e-9)
        np.testing.assert_allclose(sg.iou(p, t), jaccard_score(t.ravel(), p.ravel(), average=None), atol=1e-9)
        tp, tt = torch.tensor(p), torch.tensor(t)
        np.testing.assert_allclose(sg.dice(p, t), multiclass_f1_score(tp, tt, k, average=None), atol=1e-6)
        np.testing.assert_allclose(sg.iou(p, t), multiclass_jaccard_index(tp, tt, k, average=None), atol=1e-6)


def test_a_class_in_neither_mask_is_undefined_and_in_one_is_zero():
    none, one = np.zeros((4, 4), int), np.eye(4, dtype=int)
    for f in (sg.dice, sg.iou):
        assert np.isnan(f(none, none, 2)[1]) and f(none, none, 2)[0] == 1
        assert f(one, none, 2)[1] == 0 == f(none, one, 2)[1]
        assert len(f(none, none, 5)) == 5
    d, u = sg.dice(one, one[::-1]), sg.iou(one, one[::-1])
    np.testing.assert_allclose(d, 2*u/(1 + u))


def test_border_against_skimage():
    segmentation = pytest.importorskip('skimage.segmentation')
    mask = sg.nuclei()[1]
    for width in (1,):
        inner = segmentation.find_boundaries(mask, connectivity=2, mode='inner')
        assert np.array_equal(sg.border(mask) == 2, inner & (mask > 0))
    assert np.array_equal(sg.border(mask) > 0, mask > 0)


def test_instances_give_back_what_border_took():
    picture, mask = sg.nuclei()
    again = sg.instances(sg.border(mask))
    assert abs(len(np.unique(again)) - len(np.unique(mask))) <= 3  # a nucleus so thin that it is all border has no inside
    same = [(again[mask == i] == np.bincount(again[mask == i]).argmax()).mean() for i in np.unique(mask)[1:]]
    assert np.median(same) == 1 and np.mean(same) > .97
    assert len(np.unique(sg.instances(sg.border(mask), least=60))) < len(np.unique(again))


def test_the_maps_are_those_of_the_whole_network():
    from tlcourse import backbones
    whole, body = backbones.load('efficientnet_lite0'), sg.pyramid('efficientnet_lite0', (2, 4, 8, 16, 32))
    seen = []
    whole.blocks[-1].register_forward_hook(lambda m, i, o: seen.append(o))
    x = sg.as_input(body, image(64, 96))
    with torch.no_grad():
        whole(x)
        got = body(x)
    torch.testing.assert_close(got[-1], seen[0])
    assert [o.shape[1] for o in got] == body.channels and body.strides == [2, 4, 8, 16, 32]


def test_pictures_of_any_size(body):
    for h, w in ((1, 1), (3, 50), (33, 64), (41, 7)):
        with torch.no_grad(): got = sg.maps(body, sg.as_input(body, image(h, w)))
        assert [tuple(o.shape[-2:]) for o in got] == [(-(-h//s), -(-w//s)) for s in (2, 4, 8)]
        assert sg.pixel_features(body, image(h, w)).shape == (h, w, sum(body.channels))


def test_a_linear_head_says_what_the_classifier_says(body):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    im = image(48, 64)
    f = sg.pixel_features(body, im).reshape(-1, sum(body.channels))
    rng = np.random.default_rng(0)
    for k in (2, 4):
        y = rng.integers(0, k, len(f))
        for m in (LogisticRegression(max_iter=300), make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))):
            m.fit(f[:300], y[:300])
            model = sg.Segmenter(body, sg.linear_head(m, body.channels), range(k))
            assert (model.predict(im).ravel() == m.predict(f)).mean() > .995
    with pytest.raises(sg.SegmentationError, match='features'): sg.linear_head(m, body.channels[:2])


def test_training_sees_labels_only_where_they_are_and_leaves_a_frozen_body_alone(body):
    torch.manual_seed(0)
    model = sg.Segmenter(body, sg.Decoder(body.channels, 2), ('dark', 'light'))
    before = {k: v.clone() for k,v in body.state_dict().items()}
    im = image(48, 48)//4
    y = np.full((48, 48), -1)
    im[:, 24:] += 150
    y[10:40, 10], y[10:40, 40] = 0, 1
    losses = sg.train(model, [im], [y], steps=40, crop=48)
    assert losses[-1] < losses[0]/2 and all(torch.equal(v, before[k]) for k,v in body.state_dict().items())
    want = np.repeat([[0]*24 + [1]*24], 48, 0)
    assert sg.dice(model.predict(im), want).min() > .85
    sg.train(model, [im], [y], steps=2, body_lr=1e-3, crop=32)
    after = body.state_dict()
    assert any(not torch.equal(v, before[k]) for k,v in after.items() if 'conv' in k and v.ndim == 4)
    assert all(torch.equal(v, before[k]) for k,v in after.items() if 'running' in k)


@pytest.mark.parametrize('kind', ['linear', 'decoder'])
def test_a_saved_segmenter_comes_back(body, tmp_path, kind):
    torch.manual_seed(1)
    head = sg.LinearHead(body.channels, 3) if kind == 'linear' else sg.Decoder(body.channels, 3, 16)
    model = sg.Segmenter(body, head).eval()
    pairs = [(image(32, 48), np.random.default_rng(0).integers(0, 2, (32, 48)))]
    deploy.save(model, tmp_path/'m', dls=pairs, data='noise')
    again = deploy.load(tmp_path/'m')
    assert not list((tmp_path/'m').rglob('*.p*k*l*')) and 'noise' in (tmp_path/'m'/'README.md').read_text(encoding='utf-8')
    assert np.array_equal(again.predict(pairs[0][0]).iloc[0]['mask'], model.predict(pairs[0][0]))
    with pytest.raises(deploy.DeployError, match='pairs'): deploy.save(model, tmp_path/'n', dls=[])
    (tmp_path/'m'/'model.safetensors').write_bytes(b'x')
    with pytest.raises(deploy.DeployError, match='not the file that was saved'): deploy.load(tmp_path/'m')


@pytest.mark.parametrize('bad, said', [
    (np.zeros((4, 4, 3)), 'color channels'), (np.zeros((4, 4, 4), np.uint8), 'color channels'), (np.zeros(4), 'shape'), (np.zeros((0, 4)), 'shape'),
    (np.full((4, 4), .5), 'fractions'), (np.full((4, 4), np.nan), 'NaN'), (np.full((4, 4), np.inf), 'NaN or infinity'), (-np.eye(4), 'start at 0'),
    (np.full((4, 4), 255), '255'), (np.array([['a']]), 'not numbers'), (np.zeros((4, 5)), '4 x 5'), (np.eye(4, dtype=complex), 'not numbers'),
    ([[0, 1], [1]], 'several lengths'), (None, 'not numbers'), (np.array([[None]*4]*4), 'not numbers'), (np.zeros((1, 4, 5)), 'shape'), (np.zeros((4, 0)), 'shape'),
    (np.ones((2, 2, 2, 2)), 'shape'), (np.full((4, 4), 2), 'numbered 0 to 1'), (np.full((4, 4), -1), 'start at 0'), (np.full((4, 4), 1e300), '1e+300'), (np.zeros((5, 4), bool), '5 x 4'),
    (torch.zeros(4, 4, 3), 'color channels'), (torch.full((4, 4), .5), 'fractions'), ([['0', '1'], ['1', '0']], 'not numbers'), (Image.new('RGB', (4, 4)), 'color channels'),
    (Image.new('RGBA', (4, 4)), 'color channels'), (np.zeros((4, 4), 'datetime64[D]'), 'not numbers'), ({}, 'not numbers'), (7, 'shape')])
def test_a_malformed_mask_gets_one_line(bad, said):
    with pytest.raises(sg.SegmentationError) as e: sg.check_mask(bad, (4, 4), 2)
    assert said in str(e.value) and '\n' not in str(e.value)


def test_malformed_files_of_masks_get_one_line(tmp_path):
    good = np.kron(np.eye(2, dtype=np.uint8), np.ones((16, 16), np.uint8))
    Image.fromarray(good*255).save(tmp_path/'white.png')                         # 255 for 1
    Image.fromarray(good*255).resize((40, 40), Image.Resampling.BILINEAR).save(tmp_path/'resized.png')
    Image.fromarray(good*200).save(tmp_path/'squeezed.jpg', quality=40)           # other numbers at each edge
    Image.fromarray(np.dstack([good]*3)).save(tmp_path/'color.png')
    Image.fromarray(good.astype(np.float32)/3).save(tmp_path/'shares.tif')
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(tmp_path/'nan.tif')
    Image.fromarray(good).save(tmp_path/'whole.png')
    (tmp_path/'cut.png').write_bytes((tmp_path/'whole.png').read_bytes()[:-30])
    (tmp_path/'text.png').write_text('0 1', encoding='utf-8')
    for name, said in (('white.png', '255'), ('resized.png', 'its picture 32 x 32'), ('squeezed.jpg', 'but 2 classes'), ('color.png', 'color channels'), ('shares.tif', 'fractions'),
                       ('nan.tif', 'NaN'), ('cut.png', 'cannot be read'), ('text.png', 'not a picture'), ('', 'cannot be read')):
        with pytest.raises(sg.SegmentationError) as e: sg.check_mask(tmp_path/name, (32, 32), 2)
        assert said in str(e.value) and '\n' not in str(e.value), str(e.value)
    assert np.array_equal(sg.check_mask(tmp_path/'whole.png', (32, 32), 2), good)


def test_each_way_in_says_the_same_of_malformed_masks(body):
    good, model = np.eye(4, dtype=int), sg.Segmenter(body, sg.Decoder(body.channels, 2), ('a', 'b'))
    for bad in (np.full((4, 4), .5), np.zeros((4, 5), int), -good*3, np.zeros((4, 4, 3)), np.full((4, 4), np.nan)):
        for call in (lambda: sg.dice(bad, good), lambda: sg.iou(bad, good), lambda: sg.boundary_f(bad, good), lambda: sg.train(model, [image(4, 4)], [bad])):
            with pytest.raises(sg.SegmentationError) as e: call()
            assert '\n' not in str(e.value)
        if bad.shape == (4, 4):
            with pytest.raises(sg.SegmentationError): sg.border(bad)


def test_boundary_f_by_its_definition():
    rng = np.random.default_rng(0)
    def outline(m):
        h, w = m.shape
        near = ((0, 1), (1, 0), (0, -1), (-1, 0))
        return [(r, c) for r in range(h) for c in range(w) if m[r, c] and any(0 <= r + a < h and 0 <= c + b < w and not m[r + a, c + b] for a,b in near)]
    def by_loops(p, t, within):
        p, t = outline(p), outline(t)
        if not p or not t: return np.nan if not (p or t) else 0.
        share = [np.mean([min(np.hypot(r - y, c - x) for y,x in b) <= within for r,c in a]) for a,b in ((p, t), (t, p))]
        return 2*share[0]*share[1]/sum(share) if sum(share) else 0.
    for i in range(30):
        p, t = rng.random((2, 9, 11)) < rng.choice([.1, .5, .9])
        for within in (0, 1, 1.5, 3): np.testing.assert_allclose(sg.boundary_f(p, t, within), by_loops(p, t, within), atol=1e-12)
    none, full = np.zeros((5, 5), int), np.ones((5, 5), int)
    assert np.isnan(sg.boundary_f(none, none)) and np.isnan(sg.boundary_f(full, none)) and sg.boundary_f(none, np.eye(5, dtype=int)) == 0
    skimage = pytest.importorskip('skimage.metrics')
    for i in range(10):  # the Hausdorff distance of the outlines is the least tolerance at which all is right
        p, t = rng.random((2, 9, 11)) < .5
        a, b = (np.zeros((9, 11), bool) for _ in range(2))
        for o, m in ((a, p), (b, t)):
            for y,x in outline(m): o[y, x] = True
        d = skimage.hausdorff_distance(a, b)
        assert sg.boundary_f(p, t, d + 1e-9) == 1 > sg.boundary_f(p, t, d - 1e-6)


def test_masks_from_files(tmp_path):
    Image.fromarray(np.eye(5, dtype=np.uint8)).save(tmp_path/'m.png')
    assert sg.check_mask(tmp_path/'m.png').sum() == 5 == sg.check_mask(str(tmp_path/'m.png')).sum()
    (tmp_path/'e.png').write_bytes(b'')
    (tmp_path/'t.png').write_text('no picture', encoding='utf-8')
    for name,said in (('gone.png', 'No such file'), ('e.png', 'empty'), ('t.png', 'not a picture')):
        with pytest.raises(sg.SegmentationError, match=said) as e: sg.check_mask(tmp_path/name)
        assert '\n' not in str(e.value)


def test_a_folder_of_pairs(tmp_path):
    for o in ('images', 'masks'): (tmp_path/o).mkdir()
    with pytest.raises(sg.SegmentationError, match='0 pictures'): sg.pairs(tmp_path)
    for i in range(5):
        Image.fromarray(image(20, 30, i)).save(tmp_path/'images'/f'{i}.jpg')
        if i < 4: Image.fromarray(np.pad(np.ones((8, 8), np.uint8), ((4, 8), (4, 18)))).save(tmp_path/'masks'/f'{i}.png')
    with pytest.raises(sg.SegmentationError, match='4.jpg: there is no mask'): sg.pairs(tmp_path)
    (tmp_path/'images'/'4.jpg').unlink()
    train, valid = sg.pairs(tmp_path)
    assert len(train) == 3 and len(valid) == 1 and set(np.unique(train[0][1])) == {0, 1, 2}
    assert set(np.unique(sg.pairs(tmp_path, instance=False)[0][0][1])) == {0, 1}
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path/'masks'/'0.png')
    with pytest.raises(sg.SegmentationError, match='0.png is 9 x 9 and its picture 20 x 30'): sg.pairs(tmp_path)
    with pytest.raises(sg.SegmentationError, match='images and masks'): sg.pairs(tmp_path/'nowhere')


def test_other_faults(body):
    for call, said in ((lambda: sg.pyramid('efficientnet_lite0', (3,), pretrained=False), 'no map of stride 3'),
                       (lambda: sg.pyramid('efficientnet_lite0', (), pretrained=False), 'no map of stride nothing'),
                       (lambda: sg.pyramid('craft', pretrained=False), 'take another network'),
                       (lambda: sg.as_input(body, []), 'no pictures'), (lambda: sg.as_input(body, [image(4, 4), image(5, 5)]), 'several sizes'),
                       (lambda: sg.as_input(body, 'gone.png'), 'cannot be read'),
                       (lambda: sg.train(sg.Segmenter(body, sg.Decoder(body.channels, 2)), [image()], [np.zeros((40, 5), int)]), 'its picture 40 x 56'),
                       (lambda: sg.train(sg.Segmenter(body, sg.Decoder(body.channels, 2)), [image()], [np.full((40, 56), -1)]), 'no pixel has a label')):
        with pytest.raises(sg.SegmentationError) as e: call()
        assert said in str(e.value) and '\n' not in str(e.value), str(e.value)
