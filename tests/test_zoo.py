"Published detectors and segmenters: the layouts of their files with tiny or random checkpoints, heads for other classes, and what can go wrong. No network."
import urllib.error

import numpy as np
import pytest
import torch

from tlcourse import detection as dt, zoo

pytestmark = pytest.mark.filterwarnings('ignore')


def image(h=60, w=80, seed=0): return np.random.default_rng(seed).integers(0, 255, (h, w, 3)).astype(np.uint8)


def built(key, n, seed=1):
    from torchvision import models
    torch.manual_seed(seed)
    return models.get_model(key, weights=None, weights_backbone=None, num_classes=n).eval()


BOXES = [([[5, 5, 40, 50], [30, 10, 70, 55]], [1, 0]), (np.zeros((0, 4)), [])]


@pytest.mark.parametrize('key', ['ssdlite320_mobilenet_v3_large', 'fasterrcnn_mobilenet_v3_large_320_fpn'])
@pytest.mark.parametrize('n, kind', [(91, 'pth'), (4, 'safetensors')])
def test_a_file_of_torchvisions_detectors(tmp_path, key, n, kind):
    own, file = built(key, n), tmp_path/f'w.{kind}'
    if kind == 'pth': torch.save(own.state_dict(), file)
    else:
        from safetensors.torch import save_file
        save_file({k: v.contiguous() for k,v in own.state_dict().items()}, file)
    names = None if n == 91 else ['a', 'b', 'c']
    model = zoo.detector(f'torchvision:{key}', names, file)
    assert all(torch.equal(v, own.state_dict()[k]) for k,v in model.net.state_dict().items())
    assert model.names[0] == ('person' if n == 91 else 'a') and len(model.names) == n - 1
    with torch.no_grad(): want, = own([torch.from_numpy(image()).permute(2, 0, 1)/255])
    (boxes, scores, labels), = model.predict(image(), least=0)
    assert len(scores) == len(want['scores']) or len(scores) > 0  # with 91 random outputs nothing may pass its own threshold
    assert np.all(np.diff(scores) <= 0) and set(labels) <= {*range(n - 1)}
    np.testing.assert_allclose(sorted(scores), sorted(want['scores'].numpy())[len(want['scores']) - len(scores):], atol=1e-6)
    dt.check_boxes(boxes, (60, 80))


@pytest.mark.parametrize('key', ['ssdlite320_mobilenet_v3_large', 'fasterrcnn_mobilenet_v3_large_320_fpn'])
def test_a_new_head_keeps_the_rest_and_learns(key):
    whole = zoo.detector(f'torchvision:{key}', pretrained=False)
    mine = zoo.new_head(whole, ['x', 'y'])
    a, b = whole.net.state_dict(), mine.net.state_dict()
    new = [k for k in b if a[k].shape != b[k].shape or not torch.equal(a[k], b[k])]
    assert new and all(k.startswith(('head.classification_head', 'roi_heads.box_predictor')) for k in new) and len(whole.names) == 90
    body = {k: v.clone() for k,v in b.items() if k.startswith('backbone.')}
    losses = zoo.train(mine, [image(), image(seed=1)], BOXES, steps=2, bs=2)
    after = mine.net.state_dict()
    assert np.isfinite(losses).all() and all(torch.equal(v, after[k]) for k,v in body.items())  # BatchNorm statistics too
    assert not mine.training
    for boxes, scores, labels in mine.predict([image(), image(40, 90)], least=0): assert set(labels) <= {0, 1}
    same = zoo.new_head(whole, [f'n{i}' for i in range(90)])  # as many classes as before: still new weights
    assert any(not torch.equal(a[k], v) for k,v in same.net.state_dict().items())


def yolos(folder, n=5):
    t = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = t.YolosConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 96], patch_size=16,
                           num_detection_tokens=7, use_mid_position_embeddings=False, num_labels=n)
    t.YolosForObjectDetection(config).save_pretrained(folder)
    t.YolosImageProcessor(size=dict(shortest_edge=64, longest_edge=96)).save_pretrained(folder)
    return folder


def detr(folder, n=5):
    t = pytest.importorskip('transformers')
    torch.manual_seed(0)
    backbone = t.ResNetConfig(embedding_size=8, hidden_sizes=[8]*4, depths=[1]*4, out_features=['stage4'])
    config = t.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                          decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=7, num_labels=n)
    t.DetrForObjectDetection(config).save_pretrained(folder)
    t.DetrImageProcessor(size=dict(shortest_edge=64, longest_edge=96)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize('make', [yolos, detr])
def test_detectors_of_transformers(tmp_path, make):
    import transformers
    model = zoo.detector(f'hf:{make(tmp_path/"tiny")}')
    own = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path/'tiny').eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path/'tiny')
    with torch.no_grad(): out = own(**{k: v for k,v in prepare(images=image(), return_tensors='pt').items() if k == 'pixel_values'})
    p = out.logits.softmax(-1)[0, :, :-1].max(-1)
    (boxes, scores, labels), = model.predict(image(), least=0)
    order = np.argsort(-p.values.numpy(), kind='stable')
    np.testing.assert_allclose(scores, p.values.numpy()[order], atol=1e-6)
    cx, cy, w, h = (out.pred_boxes[0].numpy()[order]*[80, 60, 80, 60]).T
    np.testing.assert_allclose(boxes, np.clip(np.column_stack([cx - w/2, cy - h/2, cx + w/2, cy + h/2]), 0, [80, 60, 80, 60]), atol=1e-3)
    mine = zoo.new_head(model, ['a', 'b'])
    a, b = model.net.state_dict(), mine.net.state_dict()
    new = [k for k in b if a[k].shape != b[k].shape or not torch.equal(a[k], b[k])]
    assert new and all('class_labels_classifier' in k for k in new) and mine.net.config.num_labels == 2
    losses = zoo.train(mine, [image(), image(40, 90, 1)], [BOXES[0], ([[1, 2, 30, 20]], [0])], steps=3, bs=2)
    assert np.isfinite(losses).all() and {*mine.predict(image(), least=0)[0][2]} <= {0, 1}
    mine.net.save_pretrained(tmp_path/'mine')
    mine.prepare.save_pretrained(tmp_path/'mine')
    again = zoo.detector(f'hf:{tmp_path/"mine"}')
    assert again.names == ('a', 'b')
    np.testing.assert_allclose(again.predict(image(), 0)[0][1], mine.predict(image(), 0)[0][1], atol=1e-6)


def test_what_a_detector_of_transformers_is_told_is_what_it_should_say(tmp_path):
    "A box given to `loss` in pixels is the box that `predict` gives back in pixels: the loss of the boxes is 0 where both agree."
    model = zoo.detector(f'hf:{yolos(tmp_path/"tiny")}')
    (boxes, _, labels), = model.predict(image(), least=0)
    seen = {}
    def spy(pixel_values, labels): seen.update(labels[0]); return type('Out', (), dict(loss=torch.zeros(())))
    model.net.forward, forward = spy, model.net.forward
    model.loss([image()], [(boxes, labels)])
    model.net.forward = forward
    with torch.no_grad(): said = model.net(model._inputs(zoo._all([image()])[0])).pred_boxes[0]
    for b in seen['boxes']: assert (said - b).abs().sum(1).min() < 1e-4


@pytest.mark.parametrize('key', ['lraspp_mobilenet_v3_large', 'deeplabv3_mobilenet_v3_large'])
def test_a_file_of_torchvisions_segmenters(tmp_path, key):
    from torchvision import models
    aux = {} if key.startswith('lraspp') else dict(aux_loss=True)  # as the published file of DeepLab
    torch.manual_seed(0)
    own = models.get_model(key, weights=None, weights_backbone=None, num_classes=3, **aux).eval()
    torch.save(own.state_dict(), tmp_path/'w.pth')
    model = zoo.segmenter(f'torchvision:{key}', ['ground', 'a', 'b'], tmp_path/'w.pth')
    assert all(torch.equal(v, own.state_dict()[k]) for k,v in model.net.state_dict().items())
    got = model.predict(image(33, 47))
    assert got.shape == (33, 47) and set(np.unique(got)) <= {0, 1, 2}
    mine = zoo.new_head(model, ['ground', 'hole'])
    a, b = model.net.state_dict(), mine.net.state_dict()
    assert all(k.startswith('classifier.') for k in b if a[k].shape != b[k].shape or not torch.equal(a[k], b[k]))
    mask = np.full((33, 47), -1)
    mask[3:9, 3:9], mask[20:, 20:] = 1, 0
    body = {k: v.clone() for k,v in b.items() if k.startswith('backbone.')}
    losses = zoo.train(mine, [image(33, 47)], [mask], steps=2)
    assert np.isfinite(losses).all() and all(torch.equal(v, mine.net.state_dict()[k]) for k,v in body.items())


def test_a_segmenter_of_transformers(tmp_path):
    t = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = t.SegformerConfig(hidden_sizes=[8]*4, depths=[1]*4, num_attention_heads=[1]*4, decoder_hidden_size=8, num_labels=3)
    t.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path/'tiny')
    t.SegformerImageProcessor(size=dict(height=64, width=64)).save_pretrained(tmp_path/'tiny')
    model = zoo.segmenter(f'hf:{tmp_path/"tiny"}')
    prepare = t.AutoImageProcessor.from_pretrained(tmp_path/'tiny')
    with torch.no_grad(): out = model.net(**prepare(images=image(), return_tensors='pt'))
    want, = prepare.post_process_semantic_segmentation(out, target_sizes=[(60, 80)])
    assert (model.predict(image()) == want.numpy()).mean() > .99
    mine = zoo.new_head(model, ['ground', 'hole'])
    mask = np.zeros((60, 80), int)
    mask[10:30, 10:40] = 1
    losses = zoo.train(mine, [image()]*2, [mask]*2, steps=30, lr=1e-2)
    assert losses[-1] < losses[0] and mine.predict(image()).shape == (60, 80)


def test_what_a_user_can_get_wrong(tmp_path, monkeypatch):
    from torchvision import models
    ssd, key = 'torchvision:ssdlite320_mobilenet_v3_large', 'ssdlite320_mobilenet_v3_large'
    (tmp_path/'bad.pth').write_bytes(b'no weights')
    torch.save(built('lraspp_mobilenet_v3_large', 21).state_dict(), tmp_path/'other.pth')
    torch.save(built(key, 4).state_dict(), tmp_path/'w.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    (tmp_path/'empty').mkdir()
    model = zoo.detector(ssd, weights=tmp_path/'w.pth')
    for call, said in ((lambda: zoo.detector('yolov5'), "give 'hf:"), (lambda: zoo.detector('torchvision:resnet18'), 'give'),
                       (lambda: zoo.detector('torchvision:lraspp_mobilenet_v3_large'), 'ssdlite320'), (lambda: zoo.segmenter(ssd), 'lraspp'),
                       (lambda: zoo.detector(ssd, weights=tmp_path/'gone.pth'), 'no such file'), (lambda: zoo.detector(ssd, weights=tmp_path/'bad.pth'), 'not a file of plain tensors'),
                       (lambda: zoo.detector(ssd, weights=tmp_path/'other.pth'), 'not the weights of'), (lambda: zoo.detector(ssd, ['a'], tmp_path/'w.pth'), '3 classes in the weights'),
                       (lambda: zoo.detector('hf:x/y', weights=tmp_path/'w.pth'), 'weights= is for torchvision'), (lambda: zoo.detector(f'hf:{tmp_path/"empty"}'), 'Transformers finds no'),
                       (lambda: zoo.new_head(model, []), 'one name'), (lambda: zoo.new_head(model, ['a', 'a']), 'one name'),
                       (lambda: zoo.train(model, [image()], []), 'one for each'), (lambda: zoo.train(model, [image()], [([[0, 0, 99, 5]], [0])]), 'leaves its picture'),
                       (lambda: zoo.train(model, [image()], [([[0, 0, 9, 5]], [7])]), 'numbered from 0 to 2'), (lambda: model.eval().loss([image()], BOXES[:1]), 'call .train()'),
                       (lambda: model.predict('gone.png'), 'cannot be read')):
        with pytest.raises((zoo.ZooError, dt.DetectionError)) as e: call()
        assert said in str(e.value) and '\n' not in str(e.value), str(e.value)
    def down(*args, **kwargs): raise urllib.error.URLError('no route to host')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', down)
    for offline in ('', '1'):
        monkeypatch.setenv('TLCOURSE_OFFLINE', offline)
        with pytest.raises(zoo.ZooError, match='give weights=FILE') as e: zoo.detector(ssd)
        assert 'download.pytorch.org' in str(e.value) and '\n' not in str(e.value)
    def up(url, path, hash_prefix, progress):  # the file that torchvision publishes has 91 outputs
        assert hash_prefix and url.endswith(f'{hash_prefix}.pth')
        torch.save(built(key, 91).state_dict(), path)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', up)
    monkeypatch.setenv('TLCOURSE_OFFLINE', '')
    assert zoo.detector(ssd).names[16] == models.get_model_weights(key).DEFAULT.meta['categories'][17] == 'cat'
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    assert len(zoo.detector(ssd).names) == 90  # now it is there


def test_a_folder_without_its_image_processor(tmp_path):
    folder = yolos(tmp_path/'tiny')
    (folder/'preprocessor_config.json').unlink()
    with pytest.raises(zoo.ZooError, match='preprocessor_config.json') as e: zoo.detector(f'hf:{folder}')
    assert '\n' not in str(e.value)
