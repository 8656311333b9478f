"Boxes, NMS and average precision against other libraries, the detector, frozen graphs, and what a user can get wrong with boxes."
import numpy as np
import pytest
import torch

from tlcourse import deploy, detection as dt, segmentation as sg
from tlcourse.assets import fetch


def boxes(n, rng, size=60): return np.concatenate([(p := rng.uniform(0, size, (n, 2))), p + rng.uniform(4, 35, (n, 2))], 1)


def test_iou_and_nms_equal_torchvision():
    from torchvision import ops
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 40):
        a, b, s = boxes(n, rng), boxes(5, rng), rng.random(n)
        t = torch.tensor(a)
        np.testing.assert_allclose(dt.box_iou(a, b), ops.box_iou(t, torch.tensor(b)), atol=1e-9)
        labels = rng.integers(0, 2, n)
        for most in (.05, .3, .5, .8):
            assert np.array_equal(dt.nms(a, s, most), ops.nms(t, torch.tensor(s), most))
            assert set(dt.nms(a, s, most, labels)) == set(ops.batched_nms(t, torch.tensor(s), torch.tensor(labels), most).tolist())


def made(rng, pictures=12, classes=3):
    found, true = [], []
    for _ in range(pictures):
        b, l = boxes(int(rng.integers(0, 5)), rng), None
        l = rng.integers(0, classes, len(b))
        near = np.concatenate([b + rng.normal(0, 3, b.shape), boxes(3, rng)])
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        found.append((near, rng.random(len(near)), np.concatenate([l, rng.integers(0, classes, 3)])))
        true.append((b, l))
    return found, true


def test_average_precision_equals_coco():
    "pycocotools is no requirement; where it is, torchmetrics runs it."
    pytest.importorskip('pycocotools')
    from torchmetrics.detection import MeanAveragePrecision
    for seed in range(4):
        found, true = made(np.random.default_rng(seed))
        for least in (.5, .75):
            m = MeanAveragePrecision(iou_thresholds=[least], class_metrics=True, rec_thresholds=np.linspace(0, 1, 101).tolist()) # its own are float32
            m.update([dict(boxes=torch.tensor(b), scores=torch.tensor(s), labels=torch.tensor(l)) for b,s,l in found],
                     [dict(boxes=torch.tensor(b), labels=torch.tensor(l)) for b,l in true])
            want = m.compute()
            got = dt.average_precision(found, true, least, classes=3)
            np.testing.assert_allclose(got[want['classes'].numpy()], want['map_per_class'], atol=1e-6)


def plain(found, true, c, least):
    "Average precision of one class, by the definition, with loops."
    rows, n = [], sum(int((l == c).sum()) for _,l in true)
    for i,(b, s, l) in enumerate(found):
        objects, taken = [o for o,k in zip(*true[i]) if k == c], set()
        for j in sorted(np.flatnonzero(l == c), key=lambda j: -s[j]):
            best, at = least, None
            for k,o in enumerate(objects):
                w, h = (min(b[j][d+2], o[d+2]) - max(b[j][d], o[d]) for d in (0, 1))
                both = max(w, 0)*max(h, 0)
                u = both/((b[j][2]-b[j][0])*(b[j][3]-b[j][1]) + (o[2]-o[0])*(o[3]-o[1]) - both)
                if k not in taken and u >= best: best, at = u, k
            if at is not None: taken.add(at)
            rows.append((s[j], at is not None))
    rows.sort(key=lambda o: -o[0])
    points, right = [], 0
    for i,(_, hit) in enumerate(rows, 1):
        right += hit
        points.append((right/n, right/i))
    return sum(max([p for r,p in points if r >= t], default=0.) for t in np.linspace(0, 1, 101))/101


def test_average_precision_by_its_definition():
    for seed in range(6):
        found, true = made(np.random.default_rng(seed))
        for least in (.3, .5, .8):
            np.testing.assert_allclose(dt.average_precision(found, true, least, classes=3), [plain(found, true, c, least) for c in range(3)], atol=1e-9)


def test_average_precision_by_hand():
    one, none, l0 = np.array([[0., 0, 10, 10]]), np.zeros((0, 4)), np.zeros(1, int)
    assert dt.average_precision([(one, [.5], l0)], [(one, l0)])[0] == 1
    assert dt.average_precision([(none, [], [])], [(one, l0)])[0] == 0
    assert np.isnan(dt.average_precision([(one, [.5], l0)], [(none, [])], classes=1)[0])
    twice = dt.average_precision([(np.repeat(one, 2, 0), [.9, .8], [0, 0])], [(one, l0)])[0]
    assert twice == 1  # the second comes after all is found
    assert dt.average_precision([(one, [.9], l0), (one, [.8], l0)], [(none, []), (one, l0)])[0] == .5


@pytest.mark.parametrize('bad, said', [
    ([[1, 2, 3]], 'shape'), ([1, 2, 3, 4], 'shape'), ([[5, 5, 2, 9]], 'width and height'), ([[5, 5, 9, 5]], 'ends where it begins'),
    ([[0, 0, np.nan, 3]], 'NaN'), ([[0, 0, np.inf, 3]], 'infinity'), ([[-3, 0, 5, 5]], 'leaves its picture'), ([[0, 0, 99, 5]], 'leaves its picture'),
    ([[.1, .1, .6, .7]], 'pixels'), (['a'], 'no numbers'), (None, 'shape'), ([[1, 2], [3]], 'no numbers'),
    ([[0, 0, 0, 0]], 'ends where it begins'), ([[1, 2, 3, 4, 5]], 'shape'), (np.ones((2, 2, 4)), 'shape'), ([[30, 5, 10, 12]], 'width and height'),
    ([[.5, .5, .2, .2]], 'width and height'), ([[0, 0, 5, 31]], 'leaves its picture'), ([[0, 0, 40.5, 5]], 'leaves its picture'), ([[-1e-6, 0, 5, 5]], 'leaves its picture'),
    ({'left': 1}, 'no numbers'), ('1 2 3 4', 'no numbers'), (object(), 'no numbers'), ([[1, 2, 3, None]], 'NaN'), ([[1, 2, 3, 1j]], 'no numbers'),
    (torch.zeros(3), 'shape'), (torch.full((1, 4), float('nan')), 'NaN'), ([[0, 0, float('inf'), 5]], 'infinity'), ([[0, 0, 9, 9], [9, 9, 0, 0]], 'box 1')])
def test_malformed_boxes_get_one_line(bad, said):
    with pytest.raises(dt.DetectionError) as e: dt.check_boxes(bad, (30, 40))
    assert said in str(e.value) and '\n' not in str(e.value)


@pytest.fixture(scope='module')
def body():
    torch.manual_seed(0)
    return sg.pyramid('efficientnet_lite0', (4, 8, 16), pretrained=False)


def test_other_faults(body):
    one = [[0, 0, 9, 9]]
    picture = np.zeros((32, 32), np.uint8)
    for call, said in ((lambda: dt.check_labels([0, 1], 1), 'one class number'), (lambda: dt.check_labels([3], 1, 2), 'numbered from 0 to 1'),
                       (lambda: dt.check_labels([.5], 1), 'no whole numbers'), (lambda: dt.nms(one, [.1, .2]), 'one score'),
                       (lambda: dt.nms(one, [.1], 1.5), 'between 0 and 1'), (lambda: dt.average_precision([], [(one, [0])]), 'give both'),
                       (lambda: dt.average_precision([(one, [.1])], [(one, [0])]), 'boxes, scores and labels'),
                       (lambda: dt.average_precision([(one, [np.nan], [0])], [(one, [0])]), 'finite scores'),
                       (lambda: dt.Detector(body, []), 'at least one class'), (lambda: dt.Detector(body, ['a', 'a']), 'one name'),
                       (lambda: dt.Detector(sg.pyramid('efficientnet_lite0', (8, 16), pretrained=False), ['a']), 'has stride 8'),
                       (lambda: dt.train(dt.Detector(body, ['a']), [picture], []), 'give both'),
                       (lambda: dt.train(dt.Detector(body, ['a']), [picture], [([[0, 0, 50, 9]], [0])]), 'leaves its picture')):
        with pytest.raises(dt.DetectionError) as e: call()
        assert said in str(e.value) and '\n' not in str(e.value), str(e.value)


def test_targets_and_decode_are_inverse():
    rng = np.random.default_rng(0)
    for _ in range(20):
        b = np.array([[x, y, x + w, y + h] for x,y,w,h in zip((3, 52), rng.integers(2, 40, 2), rng.integers(14, 40, 2), rng.integers(14, 50, 2))], float)
        labels = rng.integers(0, 3, 2)
        heat, reach, _ = dt.targets(b, labels, 3, (96, 96))
        (got, score, label), = dt.decode(torch.logit(heat*.998 + .001)[None], reach[None], least=.9)
        order, want = np.argsort(got[:, 0]), np.argsort(b[:, 0])
        np.testing.assert_allclose(got[order], b[want], atol=1e-3)
        assert np.array_equal(label[order], labels[want])


def test_no_box_at_all(body):
    heat, reach, counts = dt.targets(np.zeros((0, 4)), [], 2, (64, 48))
    assert heat.max() == 0 == counts.max() and heat.shape == (2, 16, 12)
    out = torch.full((1, 2, 16, 12), -4.), torch.ones(1, 4, 16, 12)
    assert torch.isfinite(dt.loss(*out, tuple(o[None] for o in (heat, reach, counts))))
    assert dt.decode(*out, least=.5)[0][0].shape == (0, 4)


def test_a_frozen_body_stays_as_it_is_and_scratch_learns_its_statistics(body):
    pictures, truth = dt.compose([[np.full((9, 9), 255, np.uint8)]], [np.random.default_rng(0).uniform(0, 255, (70, 70))], 6, size=64)
    for lr in (0., 1e-2):
        torch.manual_seed(0)
        mine = sg.pyramid('efficientnet_lite0', (4, 8, 16), pretrained=False)
        before = {k: v.clone() for k,v in mine.state_dict().items()}
        model = dt.Detector(mine, ['square'])
        dt.train(model, pictures, truth, steps=3, body_lr=lr, bs=4, train_bn=True)
        changed = [k for k,v in mine.state_dict().items() if not torch.equal(v, before[k])]
        assert bool(changed) == bool(lr) and (not lr or any('running_mean' in k for k in changed))
        assert not model.training and model.seen == 6


def test_each_way_in_says_the_same_of_malformed_boxes():
    one, l, s = [[0, 0, 9, 9]], [0], [.5]
    for bad in ([[5, 5, 2, 9]], [[0, 0, np.nan, 3]], [[1, 2, 3]]):
        for call in (lambda: dt.box_iou(bad, one), lambda: dt.box_iou(one, bad), lambda: dt.nms(bad, s), lambda: dt.average_precision([(bad, s, l)], [(one, l)]),
                     lambda: dt.average_precision([(one, s, l)], [(bad, l)]), lambda: dt.targets(bad, l, 1, (32, 32))):
            with pytest.raises(dt.DetectionError) as e: call()
            assert '\n' not in str(e.value)


def test_masks_of_scenes_are_those_of_the_boxes():
    disc = np.zeros((28, 28), np.uint8)
    disc[5:20, 8:22] = 255
    ground, fill = np.random.default_rng(0).uniform(0, 255, (2, 128, 128))
    plain = dt.compose([[disc]], [ground], 6, seed=3)
    pictures, truth, masks = dt.compose([[disc]], [ground], 6, seed=3, masks=True)
    assert all(np.array_equal(a, b) for a,b in zip(plain[0], pictures))  # asking for masks changes no picture
    for m, (b, _) in zip(masks, truth):
        assert m.max() == len(b) and all(np.isin(m[int(t):int(d), int(l):int(r)], (0, i)).all() for i,(l, t, r, d) in enumerate(b, 1))
        assert all((m[int(t):int(d), int(l):int(r)] == i).mean() > .95 for i,(l, t, r, d) in enumerate(b, 1))
    cut, _, masks = dt.compose([[disc]], [np.full((128, 128), 60.)], 6, seed=3, fills=[fill], masks=True)
    for im, m in zip(cut, masks): assert (im[m == 0] == 60).mean() > .98 and im[m > 0].std() > 20


def test_scenes_have_exact_boxes_apart_from_one_another():
    disc = np.zeros((28, 28), np.uint8)
    disc[5:20, 8:22] = 255
    pictures, truth = dt.compose([[disc]], [np.full((128, 128), 128.)], 30, seed=1)
    for im, (b, l) in zip(pictures, truth):
        dt.check_boxes(b, im.shape)
        assert 1 <= len(b) <= 3 and (dt.box_iou(b, b) - np.eye(len(b)) == 0).all()
        y, x = np.nonzero(np.abs(im.astype(int) - 128) > 40)
        assert x.min() == b[:, 0].min() and x.max() + 1 == b[:, 2].max() and y.min() == b[:, 1].min() and y.max() + 1 == b[:, 3].max()
    again = dt.compose([[disc]], [np.full((128, 128), 128.)], 30, seed=1)
    assert all(np.array_equal(a, b) for a,b in zip(pictures, again[0]))


@pytest.mark.parametrize('kind', ['classifier', 'person'])
def test_a_saved_detector_comes_back(body, tmp_path, kind):
    from tlcourse.frozen import PersonBody
    torch.manual_seed(0)
    if kind == 'person': body = PersonBody()
    pictures, truth = dt.compose([[np.full((9, 9), 255, np.uint8)]], [np.full((96, 96), 90.)], 8, size=64)
    model = dt.Detector(body, ['square'])
    dt.train(model, pictures, truth, steps=30, body_lr=0, lr=1e-2)
    pairs = list(zip(pictures, truth))
    deploy.save(model, tmp_path/'m', dls=pairs)
    again = deploy.load(tmp_path/'m')
    table, want = again.predict(pictures[:2], least=.05), model.table(pictures[:2], least=.05)
    assert table.equals(want) and set(table.columns) == {'label', 'score', 'left', 'top', 'right', 'bottom'}


def test_the_person_detector_sees_persons_and_no_others():
    from tlcourse.frozen import PersonDetector
    model = PersonDetector()
    got = {o: model.predict(fetch('photos')/o) for o in ('astronaut.png', 'camera.png', 'chelsea.png', 'coffee.png', 'rocket.jpg')}
    assert [len(s) for _,s in got.values()] == [1, 1, 0, 0, 0]
    assert got['astronaut.png'][1][0] > .85 and got['camera.png'][1][0] > .95
    (l, t, r, b), = got['astronaut.png'][0]
    assert r - l > 200 and b - t > 350  # she fills most of 512 x 512


def test_same_padding_is_that_of_tensorflow():
    from tlcourse.frozen import _same
    for size in (5, 6, 7, 8, 19, 300):
        for k, s in ((1, 1), (3, 1), (3, 2), (1, 2)):
            x = torch.ones(1, 1, size, size)
            out = torch.nn.functional.conv2d(_same(x, k, s), torch.ones(1, 1, k, k), stride=s)
            assert out.shape[-1] == -(-size//s)  # TensorFlow: ceil(size/stride)
    assert _same(torch.ones(1, 1, 8, 8), 3, 2)[0, 0, 0, 0] == 1  # an even size is padded below and to the right only


def test_a_graph_that_is_none(tmp_path):
    from tlcourse.frozen import FrozenError, GraphNet, read_graph
    good = (fetch('person')/'graph.pb').read_bytes()
    for data, said in ((b'', 'no nodes'), (b'\xff'*20, 'in the middle'), (good[:100_000], 'cut off'), (b'hello world, no graph', ''), (b'\x08\x05', 'no GraphDef')):
        (tmp_path/'g.pb').write_bytes(data)
        with pytest.raises(FrozenError) as e: read_graph(tmp_path/'g.pb')
        assert said in str(e.value) and '\n' not in str(e.value)
    nodes = read_graph(fetch('person')/'graph.pb')
    with pytest.raises(FrozenError, match='no such node'): GraphNet(nodes, 'x', ['nowhere'])
    with pytest.raises(FrozenError, match='is not known here'): GraphNet(nodes, 'image_tensor', ['detection_boxes'])


def test_a_new_head_on_torchvisions_layout(tmp_path):
    "What the lesson shows where the hub is: the body's weights go into a network with another number of classes."
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large as ssd
    torch.manual_seed(0)
    whole = ssd(weights=None, weights_backbone=None, num_classes=91)
    mine = ssd(weights=None, weights_backbone=None, num_classes=3)
    body = {k: v for k,v in whole.state_dict().items() if k.startswith('backbone.')}
    lost = mine.load_state_dict(body, strict=False)
    assert not lost.unexpected_keys and all(k.startswith('head.') for k in lost.missing_keys)
    with torch.no_grad(): got, = mine.eval()([torch.zeros(3, 64, 64)])
    assert set(got) == {'boxes', 'scores', 'labels'}


def test_a_new_head_on_transformers_layout(tmp_path):
    "A tiny DETR without a hub: saved, read again with other classes, the body as it was and the head new."
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=['stage4'])
    config = transformers.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
                                     encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5, num_labels=91)
    transformers.DetrForObjectDetection(config).save_pretrained(tmp_path/'detr')
    whole = transformers.DetrForObjectDetection.from_pretrained(tmp_path/'detr')
    mine = transformers.DetrForObjectDetection.from_pretrained(tmp_path/'detr', num_labels=4, ignore_mismatched_sizes=True).eval()
    assert mine.class_labels_classifier.out_features == 5  # one more: no object
    a, b = whole.state_dict(), mine.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in b if k.startswith('model.'))
    with torch.no_grad(): assert mine(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 5, 5)
