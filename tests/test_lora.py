"LoRA and its relatives: against peft, against torch's own arithmetic, and against everything that may be handed to `attach`."
import copy, json, pickle, re, sys
from functools import partial

import pytest, torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from tlcourse import backbones
from tlcourse.finetune import learner
from tlcourse.receipt import receipt
from tlcourse.continual import tensors
from tlcourse.lora import Bottleneck, LoRA, LoraError, adapt, attach, bill, inject, layers, merge, save, trainable

peft = pytest.importorskip('peft')
METHODS = dict(lora=dict(r=2, alpha=3.), bottleneck=dict(width=2, where=['fc']), bitfit={}, head={}, full={})


class Block(nn.Module):
    def __init__(self, n): super().__init__(); self.fc, self.norm = nn.Linear(n, n), nn.BatchNorm1d(n)
    def forward(self, x): return self.norm(x + self.fc(x).relu())


def net(n_out=3, seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), Block(width), Block(width), nn.Linear(width, n_out)).eval()


def data(seed=0, n=24, c=3):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 4, generator=g), torch.randint(c, (n,), generator=g)
    return tensors(x, y, x, y, bs=8)


def train(model, epochs=2, lr=.05, seed=0, make=partial(learner, splitter=trainable)):
    learn = make(data(), model)
    torch.manual_seed(seed)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)
    learn.model.eval()
    return learn


def move(model, by=.3):
    "Let everything that trains take other values."
    for p in model.parameters():
        if p.requires_grad: p.data += torch.randn_like(p)*by
    return model


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


# LoRA itself

def linear(): return nn.Linear(5, 7), torch.randn(3, 2, 5)
def pointwise(): return nn.Conv2d(5, 7, 1, bias=False), torch.randn(2, 5, 6, 6)
def wide(): return nn.Conv2d(5, 7, 3, stride=2, padding=2, dilation=2, padding_mode='reflect'), torch.randn(2, 5, 9, 9)
def oblong(): return nn.Conv2d(5, 7, (3, 1), stride=(1, 2), padding='valid'), torch.randn(2, 5, 9, 9)


@pytest.mark.parametrize('make', [linear, pointwise, wide, oblong])
def test_identity_at_the_start_and_merged_equals_unmerged(make):
    torch.manual_seed(0)
    layer, x = make()
    want, weight = layer(x), layer.weight.clone()
    lora = LoRA(layer, r=3, alpha=5)
    assert torch.equal(lora(x), want) and lora.A.weight.abs().min() > 0
    nn.init.normal_(lora.B.weight)
    merged = lora.merged()
    assert type(merged) is type(layer) and not torch.allclose(lora(x), want, atol=1e-2)
    assert torch.allclose(merged(x), lora(x), atol=1e-5) and torch.equal(layer.weight, weight), 'and the layer itself stays'


def test_the_change_has_rank_r_and_the_size_alpha_over_r():
    layer = nn.Linear(9, 8, bias=False)
    lora = LoRA(layer, r=3, alpha=6.)
    nn.init.normal_(lora.B.weight)
    change = lora.merged().weight - layer.weight
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 3 and torch.allclose(change, 2*lora.B.weight @ lora.A.weight, atol=1e-5)


def test_only_the_change_learns():
    lora = LoRA(nn.Linear(5, 7), r=2)
    lora(torch.randn(3, 5)).square().sum().backward()
    assert lora.layer.weight.grad is None and lora.layer.bias.grad is None
    assert lora.A.weight.grad.abs().max() == 0 and lora.B.weight.grad.abs().max() > 0, 'B is zero at first, so A waits one step'


@pytest.mark.parametrize('make', [linear, pointwise, wide])
def test_parameters_by_formula(make):
    layer, _ = make()
    n_in, n_out, *size = layer.weight.shape[1], layer.weight.shape[0], *layer.weight.shape[2:]
    area = torch.Size(size).numel() if size else 1
    assert sum(p.numel() for p in LoRA(layer, r=4).parameters() if p.requires_grad) == 4*(n_in*area + n_out)


def test_keeps_dtype():
    assert LoRA(nn.Linear(5, 7).double(), 2).A.weight.dtype == torch.float64


@pytest.mark.parametrize('layer,r,says', [
    (nn.Linear(5, 7), 6, 'r=6: give a whole number from 1 to 5.'), (nn.Linear(5, 7), 0, 'r=0'), (nn.Linear(5, 7), 2., 'r=2.0'),
    (nn.Linear(5, 7), True, 'r=True'), (nn.Conv2d(4, 4, 3, groups=4), 2, 'depthwise'),
    (backbones.Depthwise(4, 4, 3, padding=1, groups=4, bias=False), 2, 'depthwise'), (nn.LSTM(4, 4), 2, 'LSTM'),
    (nn.MultiheadAttention(4, 1).out_proj, 2, 'NonDynamicallyQuantizableLinear')])
def test_what_lora_refuses(layer, r, says):
    if isinstance(layer, nn.LSTM): layer.weight = layer.weight_ih_l0
    with pytest.raises(LoraError, match=re.escape(says)) as e: LoRA(layer, r)
    assert '\n' not in str(e.value)


# against peft

def ours_and_pefts(model, r, alpha):
    "Two copies with the same A, and names of what was wrapped."
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    names = list(layers(ours))
    inject(ours, partial(LoRA, r=r, alpha=alpha))
    adapt(theirs, 'lora', r=r, alpha=alpha)
    for k in names: ours.get_submodule(k).A.load_state_dict(theirs.get_submodule(k).lora_A['default'].state_dict())
    return ours.eval(), theirs.eval(), names


def convs():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, 1), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)),
                         nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize('model,shape', [(net(), (5, 4)), (convs(), (5, 4, 6, 6))], ids=['linear', 'conv'])
def test_same_outputs_gradients_and_steps_as_peft(model, shape):
    torch.manual_seed(3)
    ours, theirs, names = ours_and_pefts(model, r=2, alpha=3.)
    x, y, opts = torch.randn(shape), torch.randint(3, shape[:1]), [torch.optim.Adam([p for p in m.parameters() if p.requires_grad], .03) for m in (ours, theirs)]
    assert torch.equal(ours(x), model(x)) and torch.equal(theirs(x), model(x))
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    for _ in range(4):
        for m,opt in zip((ours, theirs), opts):
            opt.zero_grad()
            F.cross_entropy(m(x), y).backward()
            opt.step()
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    for k in names:
        a, b = ours.get_submodule(k), theirs.get_submodule(k)
        assert torch.allclose(a.B.weight, b.lora_B['default'].weight, atol=1e-5) and torch.allclose(a.merged().weight - a.layer.weight, b.get_delta_weight('default'), atol=1e-5)
    assert not torch.allclose(ours(x), model(x), atol=1e-2)


def test_peft_merges_to_the_same_plain_network():
    ours, theirs, names = ours_and_pefts(net(), 2, 3.)
    for m in (ours, theirs):
        torch.manual_seed(5)
        for k,p in m.named_parameters():
            if '.B.' in k or 'lora_B' in k: nn.init.normal_(p)
    a, b = merge(ours), merge(theirs)
    assert str(a) == str(b) == str(net()) and all(torch.allclose(p, q, atol=1e-5) for p,q in zip(a.parameters(), b.parameters()))
    assert torch.allclose(b(X), theirs(X), atol=1e-5) and all(p.requires_grad for p in b.parameters())


# bottleneck

def test_bottleneck_is_houlsbys():
    layer = nn.Linear(5, 7)
    b, x = Bottleneck(layer, 3), torch.randn(4, 5)
    assert torch.equal(b(x), layer(x)) and sum(p.numel() for p in b.parameters() if p.requires_grad) == 2*7*3 + 3 + 7
    for p in b.up.parameters(): nn.init.normal_(p)
    h = layer(x)
    assert torch.allclose(b(x), h + F.linear(F.relu(F.linear(h, b.down.weight, b.down.bias)), b.up.weight, b.up.bias))
    with pytest.raises(LoraError, match='cannot be merged'): merge(inject(net(), partial(Bottleneck, width=2), ['fc']))


# which layers

def test_layers():
    m = convs()
    assert list(layers(m)) == ['0', '1.2'] and list(layers(m, ['1.0'])) == ['1.0'] and list(layers(net(), 'fc')) == ['1.fc', '2.fc']
    with pytest.raises(LoraError, match="where='query': no layer's name ends in it; there are 0, fc."): layers(net(), ['query'])
    with pytest.raises(LoraError, match='no linear layer'): layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)))
    assert 'c' not in layers(net(), ['fc']) and list(layers(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2))))) == ['0']


def test_layers_of_a_loaded_network_include_its_depthwise_ones():
    body = backbones.load('efficientnet_lite0', 3, pretrained=False)
    assert {k.split('.')[-1] for k in layers(body, 'conv_dw')} == {'conv_dw'} and not any(k.endswith('conv_dw') for k in layers(body))
    with pytest.raises(LoraError, match='small already'): adapt(body, where='conv_dw')


# adapt

@pytest.mark.parametrize('method', METHODS)
def test_starts_where_the_model_was_and_trains_what_it_says(method):
    m, before = net(), {k: p.clone() for k,p in net().named_parameters()}
    want, kw = m(X), METHODS[method]
    adapt(m, method, **kw)
    assert torch.equal(m(X), want)
    names = {k for k,p in m.named_parameters() if p.requires_grad}
    train(m)
    assert not torch.allclose(m(X), want, atol=1e-3)
    frozen = {k: p for k,p in m.named_parameters() if k not in names and 'original_module' not in k}
    for k,p in frozen.items(): assert torch.equal(p, before[k.replace('.base_layer', '').replace('.layer', '')]), k
    body = {'lora': ['0.lora_A', '1.fc.lora_B'], 'bottleneck': ['1.fc.down', '2.fc.up'], 'bitfit': ['0.bias', '1.fc.bias', '1.norm.bias'],
            'head': [], 'full': ['0.weight', '1.norm.weight']}[method]
    assert all(any(k.startswith(b) for k in names) for b in body) and any(k.startswith('3.') for k in names)
    if method == 'bitfit': assert all(k.endswith('bias') or k == '3.weight' for k in names)
    if method == 'head': assert names == {'3.weight', '3.bias'}


def test_peft_keeps_the_head_in_modules_to_save():
    state = peft.get_peft_model_state_dict(adapt(net(), 'lora', r=2))
    assert {'3.weight', '3.bias'} <= {*state} and not any('fc.weight' in k for k in state)


@pytest.mark.parametrize('bad,says', [
    (lambda m: adapt(m, 'prefix'), "method='prefix': give one of lora, bottleneck, bitfit, head, full."), (lambda m: adapt(m, 'lora', r=99), 'r=99: give a whole number from 1 to 4'),
    (lambda m: adapt(m, 'lora', rank=4), "there is no argument 'rank'"), (lambda m: adapt(m, 'bitfit', ['fc']), "where is for"),
    (lambda m: adapt(m, 'lora', r=2, alpha=0), 'alpha=0: give a number above 0'), (lambda m: inject(m, partial(LoRA, r=2, alpha=float('nan'))), 'alpha=nan'),
    (lambda m: adapt(adapt(m, 'head'), 'lora'), "'head' in it already"), (lambda m: adapt(m, 'lora', ['nope']), "where='nope'"),
    (lambda m: trainable(m), 'nothing was adapted'), (lambda m: save(m, 'x'), 'nothing was adapted'), (lambda m: adapt(nn.LSTM(2, 2)), 'LSTM'),
    (lambda m: bill(learner(data(), adapt(m, 'head'))), 'train first')])
def test_one_clear_line(bad, says):
    with pytest.raises(LoraError, match=re.escape(says)) as e: bad(net())
    assert '\n' not in str(e.value) and len(str(e.value)) < 250


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(ImportError, match=r"needs peft; run pip install 'tlcourse\[text\]'"): adapt(net(), 'lora')
    assert adapt(net(), 'bottleneck', ['fc'], width=2) and inject(net(), partial(LoRA, r=2))
    assert any(isinstance(m, LoRA) for m in inject(nn.Sequential(nn.Linear(16, 9), nn.Linear(9, 2)), where=['0']).modules()), 'LoRA is the default'


# in a Learner

def test_unfreezing_frees_the_adapter_and_no_more():
    m = adapt(net(), 'lora', r=2)
    names = {k for k,p in m.named_parameters() if p.requires_grad}
    learn = train(m)
    learn.freeze()
    assert {k for k,p in m.named_parameters() if p.requires_grad} == {k for k in names if k.startswith('3.')}
    learn.unfreeze()
    assert {k for k,p in m.named_parameters() if p.requires_grad} == names
    plain = train(adapt(net(), 'lora', r=2), make=learner)
    plain.unfreeze()
    assert all(p.requires_grad for p in plain.model.parameters()), 'what the splitter is for'


def test_receipt_and_batchnorm():
    m = adapt(net(), 'lora', r=2)
    learn = learner(data(), m, splitter=trainable)
    with learn.no_bar(), learn.no_logging(), receipt(learn, show=False) as r: learn.fit(1, .05)
    assert not r.notes and not r.table['buffers changed'].any() and (r.table.stepped == r.table.trainable).all() and (r.table.changed > 0).all()


def test_bill():
    learn = train(adapt(net(), 'lora', r=2, alpha=4.))
    b, n = bill(learn), 2*(4 + 6) + 2*2*(6 + 6) + 3*7
    assert b.trained == n and b.share == n/sum(p.numel() for p in net().parameters())
    assert b.optimizer == pytest.approx(2*4*n/1e6) and 4*n < b.file*1e6 < 4*n + 2000


# save and attach

@pytest.mark.parametrize('method', METHODS)
def test_round_trip(method, tmp_path):
    m = move(adapt(net(), method, **METHODS[method]))
    want, base = m(X), net()
    f = save(m, tmp_path/'a.safetensors')
    untouched = base(X)
    got = attach(base, f)
    assert torch.allclose(got(X), want, atol=1e-6) and torch.allclose(base(X), untouched) and not got.training
    assert not list(tmp_path.glob('*.part'))
    assert {k for k,p in got.named_parameters() if p.requires_grad} == {k for k,p in m.named_parameters() if p.requires_grad}


def test_one_body_serves_many(tmp_path):
    files = [save(move(adapt(net(), 'lora', r=r, where=['fc'])), tmp_path/f'{r}.safetensors') for r in (1, 2)]
    base = net()
    first, second = (attach(base, f) for f in files)
    assert first[0].weight is second[0].weight is base[0].weight and first[1].fc.base_layer.weight is base[1].fc.weight
    want = first(X)
    move(second)
    assert torch.equal(first(X), want) and not torch.allclose(second(X), want)
    assert torch.allclose(merge(first)(X), want, atol=1e-6) and torch.equal(first(X), want), 'merging must not write into the shared body'


def test_saving_after_freezing_loses_nothing(tmp_path):
    m = move(adapt(net(), 'lora', r=2))
    want = m(X)
    f = save(m.requires_grad_(False), tmp_path/'a.safetensors')
    assert torch.allclose(attach(net(), f)(X), want, atol=1e-6)


def test_saving_after_unfreezing_too_much_loses_nothing(tmp_path):
    m = move(adapt(net(), 'lora', r=2).requires_grad_(True))
    assert torch.allclose(attach(net(), save(m, tmp_path/'a.safetensors'))(X), m(X), atol=1e-6)


def test_buffers_that_moved_are_saved(tmp_path):
    m = adapt(net(), 'lora', r=2).train()
    m(X*3 + 1)
    f = save(m.eval(), tmp_path/'a.safetensors')
    assert any('running_mean' in k for k in load_file(f)) and torch.allclose(attach(net(), f)(X), m(X), atol=1e-6)
    assert not any('running' in k for k in peft.get_peft_model_state_dict(m)), 'peft alone would lose them'
    still = save(adapt(net(), 'lora', r=2), tmp_path/'b.safetensors')
    assert not any('running' in k for k in load_file(still))


def others():
    bn = net()
    bn[1].norm.weight.data += .1
    return {'head': (net(4), 'its head has 3 outputs, and that of the model 4; load the model with n_out=3.'),
            'width': (net(width=8), 'saved for another model'), 'weights': (net(seed=1), 'the weights under them are not those it was trained on'),
            'one weight': (bn, 'the weights under them are not those'), 'architecture': (convs(), 'saved for another model'),
            'shallow': (nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), 'saved for another model'), 'adapted': (adapt(net(), 'head'), 'in it already'),
            'no groups': (nn.LSTM(2, 2), 'LSTM')}


@pytest.mark.parametrize('method', ['lora', 'bottleneck', 'bitfit'])
@pytest.mark.parametrize('case', others())
def test_an_adapter_for_another_model(method, case, tmp_path):
    f = save(move(adapt(net(), method, **METHODS[method])), tmp_path/'a.safetensors')
    model, says = others()[case]
    before, flags, shown = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()], str(model)
    with pytest.raises(LoraError, match=re.escape(says)) as e: attach(model, f)
    assert '\n' not in str(e.value) and len(str(e.value)) < 400
    assert flags == [p.requires_grad for p in model.parameters()] and shown == str(model), 'and the model is as it was'
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items())


class Boom:
    def __reduce__(self): return exec, ('raise SystemExit("a file was executed")',)


def test_files_that_are_no_adapters(tmp_path):
    good = save(adapt(net(), 'lora', r=2), tmp_path/'good.safetensors')
    raw = good.read_bytes()
    about = json.loads(json.loads(raw[8:8+int.from_bytes(raw[:8], 'little')])['__metadata__']['tlcourse.lora'])
    def fake(name, **changes):
        save_file(load_file(good), p := tmp_path/name, {'tlcourse.lora': json.dumps({**about, **changes})})
        return p
    (tmp_path/'pickle').write_bytes(pickle.dumps(Boom()))
    torch.save({'a': Boom()}, tmp_path/'torch')
    (tmp_path/'cut').write_bytes(raw[:-9])
    (tmp_path/'empty').write_bytes(b'')
    (tmp_path/'huge').write_bytes((1 << 62).to_bytes(8, 'little') + b'{}')
    save_file(load_file(good), tmp_path/'plain')
    (tmp_path/'folder').mkdir()
    no_file = [tmp_path/o for o in ('pickle', 'torch', 'cut', 'empty', 'huge', 'plain', 'folder')]
    no_file += [fake('version', version=3), fake('method', method='eval'), fake('config', config=[1]), fake('where', where=[1]), fake('where2', where=None), fake('base', base=1)]
    for p in no_file:
        with pytest.raises(LoraError, match='is not a file that tlcourse.lora.save wrote.') as e: attach(net(), p)
        assert str(e.value).startswith(str(p)) and '\n' not in str(e.value)
    with pytest.raises(LoraError, match='there is no such file'): attach(net(), tmp_path/'gone')
    for p in (fake('more', config=dict(r=2, init_lora_weights='eva')), fake('r', config=dict(r=10**9)), fake('alpha', config=dict(r=2, alpha='x')),
              fake('names', where=['fc'])):
        with pytest.raises(LoraError, match='saved for another model'): attach(net(), p)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    f = save(adapt(net(), 'lora', r=2), tmp_path/'a.safetensors')
    old = f.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.replace', full)
    with pytest.raises(LoraError, match='cannot be written .No space left on device.'): save(move(adapt(net(), 'lora', r=2)), f)
    assert f.read_bytes() == old


# real networks

def test_efficientnet(tmp_path):
    torch.manual_seed(0)
    def make(seed=0): torch.manual_seed(seed); return backbones.load('efficientnet_lite0', 4, pretrained=False)
    x, m = torch.randn(2, 3, 64, 64), make()
    want = m(x)
    adapt(m, 'lora', r=4)
    assert torch.equal(m(x), want) and all(isinstance(o.get_base_layer(), nn.Conv2d) for k in m.adaptation.where for o in [m.get_submodule(k)])
    move(m, .03) # random weights amplify rounding: not too far
    out, f = m(x), save(m, tmp_path/'a.safetensors')
    assert torch.allclose(attach(make(), f)(x), out, atol=1e-4) and torch.allclose(merge(m)(x), out, atol=1e-4) and not torch.allclose(out, want, atol=.1)
    assert len(trainable(m)) == 2 and f.stat().st_size < sum(p.numel() for p in m.parameters())
    with pytest.raises(LoraError, match='not those it was trained on'): attach(make(1), f)
