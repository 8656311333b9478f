"Backbones: that the weights are the real ones in the right places, that groups are what they claim, and that every mistake is one line."
import json, os, pickle, re, subprocess, sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.func import grad, vmap

from tlcourse import assets, backbones as B

lite = ['efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2']


def weights(name):
    try: return assets.fetch(name, progress=False)/'weights.pth'
    except assets.AssetError as e: pytest.skip(str(e))

def fails(f, *words):
    "`f` raises a BackboneError of one line with these words."
    with pytest.raises(B.BackboneError) as e: f()
    text = str(e.value)
    assert '\n' not in text and len(text) < 500 and e.value.__suppress_context__ | (e.value.__context__ is None)
    for w in words: assert w in text, text

def wave(px): return torch.sin(torch.arange(3*px*px)*.01).view(1, 3, px, px)


# The weights -----------------------------------------------------------------------------------------------------

def timm_name(key, stages):
    "The name of a tensor of the file in timm, from what the two implementations call their layers: an oracle for pairing in order."
    m = re.match(r'_blocks\.(\d+)\._(\w+)\.(.*)', key)
    if not m: return re.sub('^_', '', key).replace('bn1.', 'bn2.').replace('bn0.', 'bn1.').replace('fc.', 'classifier.')
    i, layer, rest = int(m[1]), m[2], m[3]
    stage = next(s for s in range(len(stages)) if i < sum(stages[:s+1]))
    first = stage == 0  # no expansion: timm counts from the depthwise convolution
    layer = dict(expand_conv='conv_pw', depthwise_conv='conv_dw', project_conv='conv_pw' if first else 'conv_pwl',
                 bn0='bn1', bn1='bn1' if first else 'bn2', bn2='bn2' if first else 'bn3')[layer]
    return f'blocks.{stage}.{i - sum(stages[:stage])}.{layer}.{rest}'

@pytest.mark.parametrize('name', lite)
def test_order_is_names(name):
    state, model = B._read(weights(name)), B.load(name, pretrained=False)
    paired = B._pair(state, model, name)
    stages = [len(o) for o in model.blocks]
    assert len(paired) == len(state) == len(model.state_dict())
    assert all(paired[timm_name(k, stages)] is v for k,v in state.items())

def test_mobilenet_is_torchvisions():
    "The file is torchvision's; its own model is the oracle."
    from torchvision.models import mobilenet_v2
    model, theirs = B.load('mobilenet_v2'), mobilenet_v2().eval()
    theirs.load_state_dict(B._read(weights('mobilenet_v2')))
    with torch.no_grad(): assert torch.allclose(model(wave(96)), theirs(wave(96)), atol=1e-4)
    cfg = B.input_config('mobilenet_v2')
    assert (cfg['mean'], cfg['std'], cfg['interpolation']) == ((.485, .456, .406), (.229, .224, .225), 'bilinear')

def test_body_of_craft_is_vgg_by_the_numbers_in_its_file():
    "The names of the file end with the layer's place in torchvision's VGG16: loaded by name there, in order here."
    from torchvision.models import vgg16_bn
    names = {m[1]: v for k,v in B._read(weights('craft')).items() if (m := re.search(r'basenet\.slice[1-4]\.(.*)', k))}
    model, theirs = B.load('craft'), vgg16_bn().features[:39].eval()
    theirs.load_state_dict(names)
    assert len(names) == 84 == len(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(model(wave(64)), theirs(wave(64)).mean((2, 3)), atol=1e-4)
        assert B.load('craft', 3)(wave(64)).shape == (1, 3)
    gs = B.groups(B.load('craft', 3, pretrained=False))
    assert len(gs) == 6 and isinstance(gs[-1], nn.Linear)

def test_craft_with_other_weights(tmp_path):
    torch.save({f'basenet.slice1.{k}': v for k,v in B.load('craft', pretrained=False)[0].state_dict().items()}, tmp_path/'few.pth')
    fails(lambda: B.load('craft', weights=tmp_path/'few.pth'), 'craft: the weights do not fit', '14 tensors for 84')

# Logits of the implementation that the weights were made with (ml-illustrated/EfficientNet-Lite-PyTorch dd7132c) for `wave`
golden = {
    'efficientnet_lite0': ([-1.4542, -.1551, -.2751, 4.6398, -1.0858], [905, 753, 549]),
    'efficientnet_lite1': ([-.8632, -.8876, .4648, 3.2112, -1.4110], [92, 733, 128]),
    'efficientnet_lite2': ([-.7319, -1.1252, .0367, 3.6041, -.5946], [916, 549, 446]),
}

@pytest.mark.parametrize('name', lite)
def test_logits_of_the_original_implementation(name):
    weights(name)
    m, (some, top) = B.load(name), golden[name]
    with torch.no_grad(): y = m(wave(B.input_config(m)['input_size'][1]))[0]
    np.testing.assert_allclose(y[::200], some, atol=2e-3)
    assert y.topk(3).indices.tolist() == top

@pytest.mark.parametrize('name', lite)
def test_architecture(name):
    m = B.load(name, pretrained=False)
    assert {o.eps for o in m.modules() if isinstance(o, nn.BatchNorm2d)} == {1e-3}
    acts = {type(o).__name__ for o in m.modules() if re.search('ReLU|SiLU|Swish', type(o).__name__)}
    assert acts == {'ReLU6'}
    assert all(o.padding == 'same' or type(o).__name__ == 'Conv2dSame' for o in m.modules() if isinstance(o, nn.Conv2d) and o.stride == (2, 2))

photos = {'chelsea': {'tabby', 'tiger cat', 'Egyptian cat'}, 'coffee': {'espresso', 'cup', 'coffee mug'}, 'rocket': {'missile', 'projectile', 'space shuttle'}}

@pytest.mark.parametrize('name', lite)
@pytest.mark.parametrize('photo', photos)
def test_photos(name, photo):
    data = pytest.importorskip('skimage.data')
    weights(name)
    seen = B.classify(B.load(name), Image.fromarray(getattr(data, photo)()), 3)
    assert set(seen['class']) & photos[photo] and seen['probability'].is_monotonic_decreasing

def test_swapped_neighbors_are_noticed():
    "Two tensors of one shape swapped pass the shape check, and only these tests see it."
    state = B._read(weights(lite[0]))
    a, b = [k for k,v in state.items() if v.shape == state['_blocks.1._bn0.running_var'].shape and 'running_var' in k][:2]
    bad = {**state, a: state[b], b: state[a]}
    m = B.load(lite[0], pretrained=False)
    m.load_state_dict(B._pair(bad, m, lite[0]))
    with torch.no_grad(): y = m(wave(224))[0]
    assert np.abs(y[::200].numpy() - golden[lite[0]][0]).max() > .02

def test_misfits():
    m = B.load(lite[0], pretrained=False)
    good = m.state_dict()
    first, *rest = good
    fails(lambda: B._pair({k: good[k] for k in rest}, m, 'x'), '295 tensors for 296')
    fails(lambda: B._pair({**good, first: good[first][:1]}, m, 'x'), first)
    fails(lambda: B._pair({**good, 'more': torch.zeros(1)}, m, 'x'), '297 tensors')
    fails(lambda: B._pair({}, m, 'x'), '0 tensors')

def test_bundled_file_of_another_network(monkeypatch):
    other = weights(lite[1]).parent
    monkeypatch.setattr(assets, 'fetch', lambda name: other)
    fails(lambda: B.load(lite[0]), '386 tensors for 296', 'tlcourse fetch efficientnet_lite0')


# Files -----------------------------------------------------------------------------------------------------------

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

def bad_files(d):
    (d/'empty.pth').touch()
    (d/'text.pth').write_text('hello', encoding='utf-8')
    (d/'text.safetensors').write_text('hello', encoding='utf-8')
    torch.save({'a': Bomb(d/'boom')}, d/'bomb.pth')
    (d/'bomb.pt').write_bytes(pickle.dumps({'a': Bomb(d/'boom')}, 2))
    torch.save({'a': 1}, d/'numbers.pth')
    torch.save({}, d/'nothing.pth')
    torch.save([torch.zeros(1)], d/'list.pth')
    torch.save(nn.Linear(2, 2), d/'module.pth')
    torch.save({'a': torch.zeros(9999)}, d/'cut.pth')
    (d/'cut.pth').write_bytes((d/'cut.pth').read_bytes()[:2000])
    return [o for o in sorted(d.iterdir())]

def test_bad_files_are_refused_and_nothing_runs(tmp_path):
    files = bad_files(tmp_path)
    for f in files: fails(lambda: B.load('timm:resnet18', weights=f), f.name, 'plain tensors')
    fails(lambda: B.load('timm:resnet18', weights=tmp_path), 'no such file')
    fails(lambda: B.load('timm:resnet18', weights=tmp_path/'none.pth'), 'no such file')
    assert not (tmp_path/'boom').exists()

@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_local_file(tmp_path, suffix):
    from safetensors.torch import save_model
    m, f = B.load('timm:resnet18', pretrained=False), tmp_path/f'w.{suffix}'
    save_model(m, str(f)) if suffix == 'safetensors' else torch.save(m.state_dict(), f)
    again = B.load('timm:resnet18', weights=f, n_out=3)
    assert again.fc.out_features == 3 and 'state_dict' not in again.pretrained_cfg
    a, b = m.state_dict(), again.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith('fc.'))
    fails(lambda: B.load('timm:resnet34', weights=f), 'do not fit')
    fails(lambda: B.load('timm:convnext_atto', weights=f), 'do not fit')
    own = B.load('efficientnet_lite0', pretrained=False)
    torch.save(own.state_dict(), f.with_suffix('.pth'))
    assert torch.equal(B.load('efficientnet_lite0', weights=f.with_suffix('.pth')).conv_stem.weight, own.conv_stem.weight)


# Input -----------------------------------------------------------------------------------------------------------

def test_input_config():
    for name,px in zip(lite, (224, 240, 260)):
        c = B.input_config(name)
        assert c == B.input_config(B.load(name, pretrained=False)) and c['input_size'] == (3, px, px) and c['interpolation'] == 'bicubic'
        assert c['crop_pct'] == pytest.approx(px/(px + 32), abs=1e-3)  # the authors crop 32 pixels
        np.testing.assert_allclose((np.array([0, 127, 255])/255 - c['mean'][0])/c['std'][0], (np.array([0, 127, 255]) - 127)/128)
    assert B.input_config('timm:resnet34')['mean'] == (.485, .456, .406)
    fails(lambda: B.input_config(nn.Linear(2, 2)), 'pretrained_cfg')

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_preprocess_modes(mode):
    img = Image.effect_noise((300, 200), 64).convert('RGB').convert(mode)
    x = B.preprocess(lite[0])(img)
    assert x.shape == (3, 224, 224) and x.dtype == torch.float32 and x.abs().max() <= 1.01

def test_preprocess_is_the_contract_and_pickles():
    img = Image.fromarray(np.full((224, 224, 3), 255, np.uint8))
    tfm = pickle.loads(pickle.dumps(B.preprocess(lite[0])))
    torch.testing.assert_close(tfm(img), torch.ones(3, 224, 224))  # (255 - 127)/128


def one_value(tfm, im): return sorted(set(((tfm(im)*128 + 127).round().int()).flatten().tolist()))

def test_preprocess_reads_as_training_does():
    "16 bits are scaled, a camera's turn is made, transparency lies on white: case 07 and its neighbours."
    f = B.preprocess(lite[0])
    ramp = np.tile(np.linspace(0, 65535, 224).astype(np.uint16), (224, 1))
    deep, flat = f(Image.fromarray(ramp)), f(Image.fromarray((ramp//257).astype(np.uint8)))
    assert len(deep.unique()) > 180 and torch.equal(deep, flat)
    assert one_value(f, Image.new('RGBA', (224, 224), (0, 0, 0, 0))) == [255]
    half = Image.fromarray(np.repeat(np.array([0, 255], np.uint8), 112)[None].repeat(224, 0)) # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6 # to be turned clockwise by 90 degrees: what was left is on top
    import io
    buf = io.BytesIO()
    half.convert('RGB').save(buf, 'PNG', exif=exif)
    x = f(Image.open(buf))
    assert x[:, :100].max() < -.9 and x[:, -100:].min() > .9

def test_classify_reads_as_training_does():
    torch.manual_seed(0)
    m = B.load(lite[0], pretrained=False)
    ramp = np.tile(np.linspace(0, 65535, 224).astype(np.uint16), (224, 1))
    deep = B.classify(m, Image.fromarray(ramp), 1000)
    assert deep.equals(B.classify(m, Image.fromarray((ramp//257).astype(np.uint8)), 1000))
    assert not deep.equals(B.classify(m, Image.new('L', (224, 224), 255), 1000))

# Loading ---------------------------------------------------------------------------------------------------------

def test_seed_decides():
    def make(): torch.manual_seed(3); return B.load(lite[0], 5, pretrained=False)
    a, b = make(), make()
    assert all(torch.equal(p, q) for p,q in zip(a.parameters(), b.parameters())) and not a.training
    B.load(lite[0], 5, pretrained=False)
    assert not torch.equal(a.classifier.weight, B.load(lite[0], 5, pretrained=False).classifier.weight)

def test_random_weights_touch_nothing(home, monkeypatch):
    monkeypatch.setattr(B, '_hub', lambda *a: 1/0)
    for n in (*lite, 'timm:resnet18'): assert B.load(n, 2, pretrained=False)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    B.available()
    assert not home.exists()

@pytest.mark.skipif(torch.backends.mps.is_available(), reason='the layout is not used where there is an Apple GPU')
def test_channels_last_is_handed_on():
    m, seen = B.load(lite[0], pretrained=False), []
    for g in [m.bn1, *m.blocks[:6]]: g.register_forward_hook(lambda _m, _x, y: seen.append(y.is_contiguous(memory_format=torch.channels_last)))
    m(torch.randn(2, 3, 96, 96))
    assert seen == [True]*7

@pytest.mark.parametrize('name,words', [
    ('efficientnet_lit0', ['did you mean efficientnet_lite0?']), ('EfficientNet_Lite1', ['efficientnet_lite1']), ('resnet34', ['timm:resnet34']),
    ('timm:resnt34', ['did you mean timm:resnet34?']), ('timm:resnet34.nope', ['did you mean timm:resnet34']), ('zzz', ['there are efficientnet_lite0']),
    ('', ['bundled name']), (None, ['bundled name']), (3, ['3']), ('foo:bar', ["'timm:NAME'"]), ('timm:', ["'timm:NAME'"]), ('hf:', ['hf:REPO']),
    ('hf:./nowhere', ['no such folder']), ('hf:/no/where/at/all', ['no such folder'])])
def test_names(name, words): fails(lambda: B.load(name), *words)

@pytest.mark.parametrize('n', [0, -1, 2.5, '3', True])
def test_n_out(n): fails(lambda: B.load(lite[0], n, pretrained=False), 'n_out')

def test_classify_wants_imagenet():
    fails(lambda: B.classify(B.load(lite[0], 3, pretrained=False), Image.new('RGB', (50, 50))), 'without n_out')

def test_imagenet_classes():
    names = B.imagenet_classes()
    assert len(names) == 1000 and (names[0], names[281], names[985]) == ('tench', 'tabby', 'daisy')
    names.clear()
    assert len(B.imagenet_classes()) == 1000

def test_available():
    t = B.available()
    assert list(t.index) == [*lite, 'mobilenet_v2', 'craft'] and t['input (px)'].tolist() == [224, 240, 260, 224, 224]
    for n in t.index: assert t.loc[n, 'parameters (M)'] == round(sum(p.numel() for p in B.load(n, pretrained=False).parameters())/1e6, 2)
    before = torch.get_rng_state()
    B.available()
    assert torch.equal(before, torch.get_rng_state())

def test_measure(monkeypatch):
    monkeypatch.setattr(B, '_speed', lambda model, px: px/2)
    assert B.available(measure=True)['images/s'].tolist() == [112, 120, 130, 112, 112]
    monkeypatch.undo()
    assert B._speed(nn.Conv2d(3, 2, 3), 8, n=2, repeat=1) > 0


# Depthwise -------------------------------------------------------------------------------------------------------

def both(c, k):
    "A depthwise layer of torch's own, and the same one as `Depthwise`."
    plain = nn.Conv2d(c, c, k, padding=k//2, groups=c, bias=False)
    quick = deepcopy(plain)
    quick.__class__ = B.Depthwise
    return plain, quick

@pytest.mark.parametrize('h,w,k', [(1, 1, 3), (2, 2, 3), (1, 2, 3), (1, 1, 5), (3, 3, 5), (4, 2, 5), (2, 4, 5), (4, 4, 7), (6, 6, 5), (2, 9, 5)])
def test_depthwise_is_torchs_layer(h, w, k):
    torch.manual_seed(0)
    x, g = torch.randn(3, 4, h, w).contiguous(memory_format=torch.channels_last).requires_grad_(), torch.randn(3, 4, h, w)
    plain, quick = both(4, k)
    out = [o(x) for o in (plain, quick)]
    torch.testing.assert_close(*out)
    for a,b in zip(*(torch.autograd.grad(y, (x, o.weight), g) for y,o in zip(out, (plain, quick)))): torch.testing.assert_close(a, b)
    assert (type(out[1].grad_fn).__name__ == '_ByTapBackward') == (max(h, w) < k)  # only where it pays

def test_depthwise_differentiates_twice_and_under_vmap():
    torch.manual_seed(0)
    x, w = torch.randn(2, 3, 2, 3, dtype=torch.double, requires_grad=True), torch.randn(3, 1, 5, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(B._ByTap.apply, (x, w)) and torch.autograd.gradgradcheck(B._ByTap.apply, (x, w))
    def loss(f): return lambda w, x: f(x[None], w).pow(3).sum()
    got, want = (vmap(grad(loss(f)), (None, 0))(w, x) for f in (B._ByTap.apply, lambda x,w: nn.functional.conv2d(x, w, padding=2, groups=3)))
    torch.testing.assert_close(got, want)

def test_depthwise_leaves_the_rest_to_torch():
    plain, quick = both(4, 5)
    x = torch.randn(2, 4, 3, 3)
    def slow(y): return '_ByTap' not in type(y.grad_fn).__name__
    with torch.no_grad(): assert torch.equal(quick(x), plain(x)) and torch.equal(quick(x[0]), plain(x[0]))
    assert slow(quick(x[0])) and not slow(quick(x))
    with torch.autocast('cpu', torch.bfloat16):
        y = quick(x)
        assert y.dtype == torch.bfloat16 and slow(y)
    assert slow(quick.requires_grad_(False)(x.clone().requires_grad_()))
    quick.requires_grad_().bias = nn.Parameter(torch.ones(4))  # as folding a BatchNorm gives it one
    torch.testing.assert_close(quick(x), plain(x) + 1)

def test_load_makes_depthwise_what_can_be_and_nothing_else():
    torch.manual_seed(0)
    m = B.load('efficientnet_lite0', 3, pretrained=False)
    own = timm.create_model('tf_efficientnet_lite0', num_classes=3).eval()
    own.load_state_dict(m.state_dict())  # the same names
    kinds = {(type(a), type(b)) for a,b in zip(m.modules(), own.modules()) if type(a) is not type(b)}
    assert kinds == {(B.Depthwise, nn.Conv2d)}
    assert {k for k,o in own.named_modules() if isinstance(o, nn.Conv2d) and o.groups > 1 and o.stride == (1, 1)} == {k for k,o in m.named_modules() if type(o) is B.Depthwise}
    x = torch.randn(2, 3, 64, 64)
    for o in (m, own): o(x).pow(2).sum().backward()
    for p,q in zip(m.parameters(), own.parameters()): torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4*q.grad.abs().max().item())
    assert isinstance(pickle.loads(pickle.dumps(m)).blocks[5][1].conv_dw, B.Depthwise)
    conv = partial(nn.Conv2d, bias=False)
    others = [conv(4, 4, 3, 2, 1, groups=4), conv(4, 8, 3, 1, 1, groups=4), conv(4, 4, 3, 1, 1, groups=2), conv(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, 1, 1, groups=4),
              conv(4, 4, 3, 1, 1, groups=4, padding_mode='reflect'), conv(4, 4, (3, 5), 1, (1, 2), groups=4), conv(4, 4, 3, 1, 2, 2, groups=4)]
    assert B.Depthwise.fits(conv(4, 4, 3, 1, 1, groups=4)) and not any(map(B.Depthwise.fits, others))


# Groups ----------------------------------------------------------------------------------------------------------

small_vit = dict(embed_dim=64, depth=3, num_heads=2)
archs = {'tf_efficientnet_lite0': {}, 'efficientnet_b0': {}, 'resnet34': {}, 'resnet18d': {}, 'convnext_atto': {}, 'regnety_002': {},
         'densenet121': dict(block_config=(1, 1, 1, 1)), 'swin_tiny_patch4_window7_224': dict(embed_dim=24, depths=(1, 1, 2, 1)),
         'vit_tiny_patch16_224': small_vit, 'vit_base_patch16_clip_224': small_vit, 'vit_small_patch14_reg4_dinov2': dict(small_vit, img_size=98),
         'vgg11_bn': dict(mlp_ratio=.02), 'vgg13': dict(mlp_ratio=.02), 'inception_v3': {}, 'vit_relpos_small_patch16_224': None}  # what is no plain sequence is refused

@pytest.mark.parametrize('arch', archs)
def test_groups(arch):
    import timm
    if archs[arch] is None: return fails(lambda: B.groups(timm.create_model(arch)), 'plain sequence')
    torch.manual_seed(0)
    m = timm.create_model(arch, num_classes=7, **archs[arch]).eval()
    for p in m.parameters(): p.data += .01*torch.randn_like(p)  # layer scales and biases that start at zero would hide mistakes
    px = archs[arch].get('img_size') or (224 if m.pretrained_cfg['fixed_input_size'] else 96)
    x, gs = wave(px), B.groups(m)
    with torch.no_grad(): want = m(x); got = nn.Sequential(*gs)(x); feats = nn.Sequential(*gs[:-1])(x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(feats, m.forward_head(m.forward_features(x), pre_logits=True).detach())
    ids = [id(p) for g in gs for p in g.parameters()]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in m.parameters()}
    assert gs[-1] is m.get_classifier() and feats.shape == (1, m.get_classifier().in_features)
    # the order is timm's own, so learning rates by group agree with its layer decay
    from timm.models import group_parameters
    place = group_parameters(m, m.group_matcher(coarse=True), reverse=True)
    name = {id(p): k for k,p in m.named_parameters()}
    spans = [sorted({place[name[id(p)]] for p in g.parameters()}) for g in gs]
    assert all(a[-1] <= b[0] for a,b in zip(spans, spans[1:])), spans

def test_groups_of_a_vgg_are_its_stages():
    "Between two halvings of the map; then the wide layers, apart from the convolutions; then the classifier."
    m = timm.create_model('vgg16', num_classes=7, mlp_ratio=.02)
    gs = B.groups(m)
    assert [sum(isinstance(o, nn.Conv2d) for o in g.modules()) for g in gs] == [2, 2, 3, 3, 3, 2, 0] and gs[-1] is m.head.fc
    assert sum(isinstance(o, nn.MaxPool2d) for g in gs for o in g.modules()) == 5

def test_groups_of_two_answers_are_refused():
    fails(lambda: B.groups(timm.create_model('inception_v3', aux_logits=True)), 'InceptionV3', 'aux_logits=False')

def test_groups_of_a_new_head_and_dropout():
    import timm
    m = timm.create_model('tf_efficientnet_lite0', drop_rate=.5).eval()
    gs, x = B.groups(m), wave(64)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(*gs)(x), m(x))
        m.train()
        torch.manual_seed(0); a = nn.Sequential(*gs)(x.repeat(4, 1, 1, 1))
        torch.manual_seed(0); b = m(x.repeat(4, 1, 1, 1))
    torch.testing.assert_close(a, b)
    m.reset_classifier(3)
    assert B.groups(m)[-1].out_features == 3 and len(B.groups(m)) == 9

@pytest.mark.parametrize('arch', ['tf_efficientnet_lite0', 'efficientnet_b0', 'resnet34', 'resnet18d', 'regnety_002', 'densenet121', 'vgg11_bn', 'inception_v3'])
def test_groups_keep_a_batchnorm_that_is_frozen(arch): # it has no parameters
    torch.manual_seed(0)
    m, x = timm.create_model(arch, num_classes=7, **archs[arch]), wave(96)
    for o in m.modules():
        if isinstance(o, nn.BatchNorm2d): o.running_mean.uniform_(-1, 1); o.running_var.uniform_(.5, 2)
    m = freeze_batch_norm_2d(m).eval()
    with torch.no_grad(): torch.testing.assert_close(nn.Sequential(*B.groups(m))(x), m(x))

def test_groups_of_a_head_that_peft_has_wrapped():
    peft = pytest.importorskip('peft')
    model = B.load(lite[0], 3, pretrained=False)
    want = model(wave(64))
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=['conv_pwl'], modules_to_save=['classifier']), model)
    gs = B.groups(model)
    assert gs[-1] is model.classifier and gs[-1].modules_to_save and torch.allclose(nn.Sequential(*gs)(wave(64)), want, atol=1e-5)

def test_groups_leave_the_model_alone():
    m = B.load(lite[0], pretrained=False)
    keys, rng = list(m.state_dict()), torch.get_rng_state()
    B.groups(m)
    assert list(m.state_dict()) == keys and torch.equal(rng, torch.get_rng_state()) and not any(o.training for o in m.modules())
    pickle.dumps(m)

def tiny(arch, **kw):
    "A small network of an architecture, without a zero that could hide a mistake, and a picture for it."
    torch.manual_seed(0)
    m = timm.create_model(arch, num_classes=7, **{**(archs[arch] or {}), **kw}).eval()
    for p in m.parameters(): p.data += .01*torch.randn_like(p)
    return m, wave((archs[arch] or {}).get('img_size') or (224 if m.pretrained_cfg['fixed_input_size'] else 64))

own = ['tf_efficientnet_lite0', 'resnet18d', 'convnext_atto', 'densenet121', 'swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224', 'vit_base_patch16_clip_224',
       'vgg11_bn']

def _pickled(o): return pickle.loads(pickle.dumps(o))

@torch.no_grad()
@pytest.mark.parametrize('how', [deepcopy, _pickled], ids=['deepcopy', 'pickle'])
@pytest.mark.parametrize('arch', own)
def test_a_copy_of_groups_computes_with_its_own_weights(arch, how):
    m, x = tiny(arch)
    body = nn.Sequential(*B.groups(m))
    want, copy = m(x), how(body)
    torch.testing.assert_close(copy(x), want)
    mine = {id(p) for p in m.parameters()}
    assert not mine & {id(p) for p in copy.parameters()}
    for k,p in copy.named_parameters(): # each weight of the copy counts, and none of the original's moves
        before = p.clone()
        p += torch.randn_like(p)*(1 + p.abs().mean())
        assert not torch.equal(copy(x), want), k
        p.copy_(before)
    torch.testing.assert_close(body(x), want)
    for p in m.parameters(): p.mul_(-1.1)
    torch.testing.assert_close(copy(x), want)     # and no weight of the original counts in the copy
    torch.testing.assert_close(body(x), m(x))     # while the groups themselves are still the model's own

@torch.no_grad()
@pytest.mark.parametrize('arch', own)
def test_the_state_of_groups_is_the_whole_state(arch):
    (m, x), (other, _) = tiny(arch), tiny(arch)
    for p in other.parameters(): p.uniform_(-.1, .1)
    body, target = nn.Sequential(*B.groups(m)), nn.Sequential(*B.groups(other))
    assert sum(v.numel() for v in body.state_dict().values()) == sum(v.numel() for v in m.state_dict().values())
    target.load_state_dict(body.state_dict())
    torch.testing.assert_close(other(x), m(x))

@torch.no_grad()
def test_the_mode_of_groups_is_that_of_the_layers():
    m, x = tiny('tf_efficientnet_lite0', drop_rate=.5)
    x, body = x.repeat(4, 1, 1, 1), nn.Sequential(*B.groups(m))
    def same(): torch.manual_seed(0); a = m(x); torch.manual_seed(0); return torch.equal(a, body(x))
    want = m(x)
    m.train(); assert same() and not torch.equal(m(x), want)
    m.eval(); assert same()
    body.train()
    m.training = True # `m` itself is none of its groups
    assert same() and not torch.equal(body(x), want)
    m.eval(); assert same() and torch.equal(body(x), body(x))

def test_a_forward_changes_no_mode():
    m, x = tiny('vit_tiny_patch16_224')
    gs = B.groups(m.train())
    m.pos_drop.eval(); m.norm.eval(); m.fc_norm.eval()
    before = [o.training for o in m.modules()]
    nn.Sequential(*gs)(x)
    assert [o.training for o in m.modules()] == before

@torch.no_grad()
@pytest.mark.parametrize('pool', ['avg', 'token', 'max', ''])
def test_groups_of_a_vit_with_another_pooling(pool):
    m, x = tiny('vit_tiny_patch16_224')
    first = m(x)
    torch.manual_seed(1)
    m.reset_classifier(7, global_pool=pool)
    gs = B.groups(m)
    torch.testing.assert_close(nn.Sequential(*gs)(x), m(x))
    if pool != 'token': assert m(x).shape != first.shape or not torch.equal(m(x), first)
    got = [id(p) for g in gs for p in g.parameters()]
    assert sorted(got) == sorted(map(id, m.parameters()))
    torch.testing.assert_close(deepcopy(nn.Sequential(*gs))(x), m(x))

@torch.no_grad()
def test_groups_of_a_model_on_another_device_type():
    m, x = tiny('vit_tiny_patch16_224')
    body = nn.Sequential(*B.groups(m)).double()
    assert {p.dtype for p in m.parameters()} == {torch.float64}
    torch.testing.assert_close(body(x.double()), m(x.double()))

@pytest.fixture
def group_of_one():
    "torch's distributed machinery with this process alone."
    if not torch.distributed.is_available(): pytest.skip('torch is built without it')
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()

wraps = dict(compiled=partial(torch.compile, backend='eager'), parallel=nn.DataParallel, distributed=nn.parallel.DistributedDataParallel,
             both=lambda m: nn.DataParallel(torch.compile(m, backend='eager')), twice=lambda m: torch.compile(nn.DataParallel(m), backend='eager'))

@pytest.mark.parametrize('wrap', wraps)
def test_wrapped_models_are_unwrapped(wrap, group_of_one):
    for m in (tiny('tf_efficientnet_lite0')[0], tiny('vit_tiny_patch16_224')[0], nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))):
        w = wraps[wrap](m)
        assert w is not m and B.unwrap(w) is m and B.unwrap(m) is m
        gs = B.groups(w)
        assert len(gs) == len(B.groups(m)) and gs[-1] is B.groups(m)[-1]
        if not isinstance(m, nn.Sequential): assert B.input_config(w) == B.input_config(m)

@torch.no_grad()
def test_groups_of_a_compiled_model_compute_what_it_does():
    m, x = tiny('tf_efficientnet_lite0')
    w = torch.compile(m, backend='eager')
    torch.testing.assert_close(nn.Sequential(*B.groups(w))(x), w(x))

def test_a_module_called_module_is_no_wrapper():
    class Own(nn.Module):
        def __init__(self): super().__init__(); self.module = nn.Linear(2, 2)
    m = Own()
    assert B.unwrap(m) is m

def test_groups_of_sequential_and_others():
    shared = nn.Linear(2, 2)
    gs = B.groups(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), shared))
    assert len(gs) == 3 and gs[-1] is shared
    fails(lambda: B.groups(nn.Sequential(shared, nn.Linear(2, 2), shared)), 'in two')
    fails(lambda: B.groups(nn.Linear(2, 2)), 'nn.Sequential')
    import timm
    fails(lambda: B.groups(timm.create_model('mobilenetv3_small_050')), 'MobileNetV3')


# Transformers and the hub ------------------------------------------------------------------------------------------

@pytest.fixture
def vit(tmp_path):
    t = pytest.importorskip('transformers')
    m = t.ViTForImageClassification(t.ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
                                                image_size=32, patch_size=8, num_labels=7)).eval()
    m.save_pretrained(tmp_path/'vit')
    return m, tmp_path/'vit'

def test_hf_folder(vit):
    m, d = vit
    x = wave(32)
    again = B.load(f'hf:{d}')
    with torch.no_grad(): torch.testing.assert_close(again(x), m(x).logits)
    fails(lambda: B.input_config(again), 'what input')
    fails(lambda: B.input_config(f'hf:{d}'), 'what input')
    pre = dict(size=dict(height=32, width=32), resample=2, do_normalize=True, image_mean=[.5]*3, image_std=[.25]*3)
    (d/'preprocessor_config.json').write_text(json.dumps(pre), encoding='utf-8')
    again = B.load(f'hf:{d}', 7)  # as many classes as before, and still a fresh head
    assert again(x).shape == (1, 7) and again.model.config.num_labels == 7 and not torch.equal(again.model.classifier.weight, m.classifier.weight)
    assert B.input_config(again) == B.input_config(f'hf:{d}')
    assert B.input_config(again)['std'] == (.25,)*3 and B.preprocess(again)(Image.new('L', (64, 40), 255)).shape == (3, 32, 32)
    random = B.load(f'hf:{d}', 2, pretrained=False)
    assert random(x).shape == (1, 2)
    gs = B.groups(again)
    assert len(gs) == 5 and sum(p.numel() for g in gs for p in g.parameters()) == sum(p.numel() for p in again.parameters())
    fails(lambda: B.load(f'hf:{d}', weights='x'), 'hf:FOLDER')

@pytest.mark.parametrize('said', [True, False])
def test_hf_folder_in_half_precision(vit, said):
    m, d = vit
    m.half().save_pretrained(d)
    if not said:
        cfg = json.loads((d/'config.json').read_text())
        (d/'config.json').write_text(json.dumps({k: v for k,v in cfg.items() if k not in ('dtype', 'torch_dtype')}))
    for n_out in (3, None):
        again = B.load(f'hf:{d}', n_out)
        assert {p.dtype for p in again.parameters()} == {torch.float32}
        y = again(wave(32))
        assert y.dtype == torch.float32 and y.shape == (1, n_out or 7)
        y.sum().backward()
    torch.testing.assert_close(again(wave(32)), m.float()(wave(32)).logits)

def test_weights_in_half_precision(tmp_path):
    from safetensors.torch import save_file
    m = B.load('timm:resnet18', pretrained=False)
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k,v in m.state_dict().items()}, tmp_path/'w.safetensors')
    again = B.load('timm:resnet18', 3, weights=tmp_path/'w.safetensors')
    assert {p.dtype for p in again.parameters()} == {torch.float32} and again(wave(64)).shape == (1, 3)
    torch.testing.assert_close(again.conv1.weight, m.conv1.weight.half().float(), rtol=0, atol=0)

@pytest.mark.parametrize('pre,want', [
    (dict(size=256, crop_size=224, do_center_crop=True, resample=3), (224, .875, 'center', 'bicubic')),
    (dict(size={'shortest_edge': 256}, crop_size={'height': 224, 'width': 224}, do_center_crop=True, resample=2), (224, .875, 'center', 'bilinear')),
    (dict(size={'shortest_edge': 224}, crop_pct=.875), (224, .875, 'center', 'bilinear')),
    (dict(size={'height': 384, 'width': 384}, do_center_crop=False, crop_size=224), (384, 1., 'squash', 'bilinear'))])
def test_preprocessor_config(tmp_path, pre, want):
    (tmp_path/'preprocessor_config.json').write_text(json.dumps(dict(pre, image_mean=[.4]*3, image_std=[.2]*3)), encoding='utf-8')
    c = B.input_config(f'hf:{tmp_path}')
    assert (c['input_size'][1], c['crop_pct'], c['crop_mode'], c['interpolation']) == want and c['mean'] == (.4,)*3

def test_hf_never_runs_code(vit, tmp_path):
    _, d = vit
    (d/'model.safetensors').unlink()
    torch.save({'a': Bomb(tmp_path/'boom')}, d/'pytorch_model.bin')
    fails(lambda: B.load(f'hf:{d}'), 'no image classifier')
    (d/'config.json').write_text(json.dumps(dict(model_type='mine', auto_map=dict(AutoConfig='evil.C'))), encoding='utf-8')
    (d/'evil.py').write_text(f'open({str(tmp_path/"boom")!r}, "w")', encoding='utf-8')
    fails(lambda: B.load(f'hf:{d}'), 'no image classifier')
    assert not (tmp_path/'boom').exists()

def test_hf_encoder_groups():
    t = pytest.importorskip('transformers')
    cfg = t.BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, vocab_size=100)
    for m in (t.BertModel(cfg), t.BertForSequenceClassification(cfg)):
        gs = B.groups(m)
        assert len(gs) == 5 and type(gs[0]).__name__ == 'BertEmbeddings' and gs[1] is m.base_model.encoder.layer[0]
        assert sum(p.numel() for g in gs for p in g.parameters()) == sum(p.numel() for p in m.parameters())

def test_hub_delivers(tmp_path, monkeypatch):
    from safetensors.torch import save_model
    m = B.load('timm:resnet18', pretrained=False)
    save_model(m, str(tmp_path/'model.safetensors'))
    asked = []
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda repo, **kw: asked.append((repo, kw['allow_patterns'])) or str(tmp_path))
    assert torch.equal(B.load('timm:resnet18').fc.weight, m.fc.weight)
    assert asked == [('timm/resnet18.a1_in1k', ['model.safetensors'])]
    (tmp_path/'model.safetensors').unlink()
    fails(lambda: B.load('timm:resnet18'), 'no such file')

@pytest.mark.parametrize('env,words', [(dict(TLCOURSE_OFFLINE='1'), 'TLCOURSE_OFFLINE is set'), (dict(HF_ENDPOINT='http://127.0.0.1:9'), 'pretrained=False'),
                                       (dict(HF_HUB_OFFLINE='1'), 'pretrained=False')])
def test_no_hub(tmp_path, env, words):
    "In a process of its own, as the hub's client reads its settings at import."
    code = "from tlcourse.backbones import *\ntry: load('timm:resnet34')\nexcept BackboneError as e: print(e)"
    env = {**{k: v for k,v in os.environ.items() if not k.lower().endswith('_proxy')}, 'HF_HOME': str(tmp_path), **env}
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, encoding='utf-8', timeout=120)
    assert r.returncode == 0 and words in r.stdout and r.stdout.count('\n') == 1 and 'Traceback' not in r.stderr, r.stdout + r.stderr

def test_import_is_quiet():
    r = subprocess.run([sys.executable, '-c', 'import tlcourse.backbones'], capture_output=True, encoding='utf-8', timeout=120)
    assert r.returncode == 0 and not r.stdout + r.stderr


@pytest.mark.parametrize('error', [False, True])
def test_each_module_gets_its_own_mode_back(error):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    model[2].training = False # and a Dropout in training mode inside it
    before = [m.training for m in model.modules()]
    try:
        with B.evaluating(model) as same:
            assert same is model and not any(m.training for m in model.modules())
            if error: raise KeyError
    except KeyError: pass
    assert [m.training for m in model.modules()] == before and len(set(before)) == 2
