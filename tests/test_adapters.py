"Adapters in any network: heads, layers, merging and folders against peft itself; and what a file must notice of the body it is put on."
import copy, hashlib, json, math, subprocess, sys, warnings

import pytest, torch
from safetensors.torch import load_file, save_file
from torch import nn

peft, tr = pytest.importorskip('peft'), pytest.importorskip('transformers')

from tlcourse import backbones
from tlcourse.adapters import LoraError, adapt, attach, export_peft, head_names, import_peft, layers, save, trainable
from tlcourse.lora import LoRA, inject, merge

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[2, 3, 4, 5, 6], [7, 8, 9, 10, 11]])
PICTURES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
TEXT = dict(vocab_size=30, num_labels=3)
BERT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40, pad_token_id=0, **TEXT)
GPT = dict(n_positions=24, n_embd=16, n_layer=2, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=1, **TEXT)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16, num_labels=3)


def vision(kind, config, folder):
    "A network of Transformers through `backbones.load`."
    kind(config).save_pretrained(folder)
    return backbones.load(f'hf:{folder}', 3)

MODELS = {  # how to make it, an input, its head
    'bert questions': (lambda tmp: tr.BertForQuestionAnswering(tr.BertConfig(**BERT | dict(num_labels=2))), IDS, ['qa_outputs']),
    'bert texts': (lambda tmp: tr.BertForSequenceClassification(tr.BertConfig(**BERT)), IDS, ['classifier']),
    'bert words': (lambda tmp: tr.BertForTokenClassification(tr.BertConfig(**BERT)), IDS, ['classifier']),
    'roberta texts': (lambda tmp: tr.RobertaForSequenceClassification(tr.RobertaConfig(**BERT)), IDS, ['classifier']),
    'roberta words': (lambda tmp: tr.RobertaForTokenClassification(tr.RobertaConfig(**BERT)), IDS, ['classifier']),
    'distilbert texts': (lambda tmp: tr.DistilBertForSequenceClassification(tr.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **TEXT)), IDS,
                         ['pre_classifier', 'classifier']),
    'distilbert questions': (lambda tmp: tr.DistilBertForQuestionAnswering(tr.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=30)), IDS, ['qa_outputs']),
    'gpt texts': (lambda tmp: tr.GPT2ForSequenceClassification(tr.GPT2Config(**GPT)), IDS, ['score']),
    'gpt words': (lambda tmp: tr.GPT2ForTokenClassification(tr.GPT2Config(**GPT)), IDS, ['classifier']),
    'gpt': (lambda tmp: tr.GPT2LMHeadModel(tr.GPT2Config(**GPT)), IDS, []),
    'vit': (lambda tmp: vision(tr.ViTForImageClassification, tr.ViTConfig(**SMALL), tmp/'vit'), PICTURES, ['model.classifier']),
    'resnet': (lambda tmp: vision(tr.ResNetForImageClassification, tr.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3), tmp/'resnet'),
               PICTURES, ['model.classifier']),
}


def numbers(out): return out if isinstance(out, torch.Tensor) else torch.cat([o.flatten() for o in out.values() if isinstance(o, torch.Tensor)])

def answer(model, x):
    with torch.no_grad(): return numbers(model.eval()(x))

def move(model, by=.3):
    "Let everything that trains take other values."
    torch.manual_seed(7)
    for p in model.parameters():
        if p.requires_grad: p.data += torch.randn_like(p)*by
    return model.eval()

def one_line(error, *words):
    assert '\n' not in str(error.value) and len(str(error.value)) < 400 and all(w in str(error.value) for w in words), str(error.value)

def near(a, b, atol=1e-5): return torch.allclose(a, b, atol=atol, rtol=1e-4)


class Block(nn.Module):
    def __init__(self, n): super().__init__(); self.fc, self.norm = nn.Linear(n, n), nn.BatchNorm1d(n)
    def forward(self, x): return self.norm(x + self.fc(x).relu())

def net(n_out=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), Block(6), nn.ReLU(), nn.Linear(6, n_out)).eval()


# Networks of Transformers

@pytest.mark.parametrize('name', MODELS)
def test_transformers_networks_from_adapt_to_attach(name, tmp_path):
    make, x, head = MODELS[name]
    torch.manual_seed(0)
    model = make(tmp_path).eval()
    base, want = copy.deepcopy(model), answer(model, x)
    assert head_names(model) == head
    adapt(model, 'lora', r=2)
    assert torch.equal(answer(model, x), want)
    names = model.adaptation.names
    assert all(any(k.startswith(f'{h}.') for k in names) for h in head) and any('lora_A' in k for k in names)
    assert not [k for k in names if 'lora_' not in k and not k.startswith(tuple(f'{h}.' for h in head))], 'nothing else trains'
    assert len(trainable(model)) == 1 + bool(head)
    got = answer(move(model), x)
    assert not near(got, want, .01)
    back = attach(base, save(model, tmp_path/'a.safetensors'))
    assert near(answer(back, x), got) and near(answer(merge(model), x), got, 1e-4)
    assert type(merge(model)) is type(model) and not any('lora' in k for k in merge(model).state_dict())
    with pytest.raises(LoraError) as e: attach(make(tmp_path), tmp_path/'a.safetensors') # other random weights
    one_line(e, 'saved for another model')


def test_pretrained_language_models_keep_their_tied_vocabulary():
    model = MODELS['gpt'][0](None)
    adapt(model, 'lora', r=2)
    assert model.lm_head.weight is model.transformer.wte.weight and not model.lm_head.weight.requires_grad
    plain = merge(move(model))
    assert plain.lm_head.weight is plain.transformer.wte.weight
    with pytest.raises(LoraError) as e: adapt(MODELS['gpt'][0](None), 'head')
    one_line(e, 'no head of its own')
    with pytest.raises(LoraError) as e: adapt(MODELS['gpt'][0](None), 'lora', 'lm_head')
    one_line(e, "no layer's name ends in it")


@pytest.mark.parametrize('method', ['bottleneck', 'bitfit', 'head', 'full'])
@pytest.mark.parametrize('name', ['distilbert texts', 'gpt texts', 'vit'])
def test_the_other_methods_on_transformers(name, method, tmp_path):
    make, x, head = MODELS[name]
    torch.manual_seed(0)
    model = make(tmp_path).eval()
    base, want = copy.deepcopy(model), answer(model, x)
    adapt(model, method, **({'width': 2} if method == 'bottleneck' else {}))
    assert torch.equal(answer(model, x), want)
    got = answer(move(model), x)
    assert not near(got, want, 1e-3) and near(answer(attach(base, save(model, tmp_path/'a.safetensors')), x), got)


def test_any_module_with_a_head_by_its_usual_name():
    class Net(nn.Module):
        def __init__(self, name): super().__init__(); self.body = nn.Linear(4, 6); setattr(self, name, nn.Linear(6, 2))
        def forward(self, x): return [*self.children()][1](self.body(x).relu())
    for name in ('fc', 'classifier', 'score', 'head'): assert head_names(adapt(Net(name), 'lora', r=2)) == [name]
    with pytest.raises(LoraError) as e: adapt(Net('last'))
    one_line(e, 'Net', 'which layer is its head is not known')


def test_our_lora_on_conv1d_is_pefts():
    torch.manual_seed(0)
    theirs = MODELS['gpt'][0](None).eval()
    ours = inject(copy.deepcopy(theirs), lambda m: LoRA(m, r=2, alpha=6.))
    move(adapt(theirs, 'lora', r=2, alpha=6.))
    for k,m in ours.named_modules():
        if isinstance(m, LoRA):
            m.A.load_state_dict(theirs.get_submodule(k).lora_A['default'].state_dict())
            m.B.load_state_dict(theirs.get_submodule(k).lora_B['default'].state_dict())
    want = answer(theirs, IDS)
    assert near(answer(ours, IDS), want) and near(answer(merge(ours), IDS), want) and near(answer(merge(theirs), IDS), want)


# What LoraConfig takes

def test_rslora_divides_by_the_root_of_the_rank():
    m = move(adapt(net(), 'lora', r=4, alpha=6., use_rslora=True))
    layer = m[0]
    change = layer.lora_B['default'].weight @ layer.lora_A['default'].weight*6/math.sqrt(4)
    assert near(merge(m)[0].weight - layer.base_layer.weight, change) and near(answer(merge(m), X), answer(m, X))


@pytest.mark.parametrize('extra', [dict(use_rslora=True), dict(use_dora=True), dict(lora_bias=True), dict(lora_dropout=.4), dict(modules_to_save=['norm'])], ids=str)
def test_extra_arguments_survive_the_file(extra, tmp_path):
    m = move(adapt(net(), 'lora', r=2, **extra))
    assert near(answer(attach(net(), save(m, tmp_path/'a.safetensors')), X), answer(m, X))


def test_dropout_is_for_training_alone():
    m = move(adapt(net(), 'lora', r=4, lora_dropout=.5))
    assert torch.equal(answer(m, X), answer(m, X))
    for o in m.modules(): o.training = isinstance(o, nn.Dropout)
    assert not torch.equal(m(X), m(X))


def test_target_modules_is_pefts_word_for_where():
    assert adapt(net(), 'lora', target_modules=['fc'], r=2).adaptation.where == ['1.fc']
    assert adapt(net(), 'lora', target_modules='all-linear', r=2).adaptation.where == ['0', '1.fc']


@pytest.mark.parametrize('kw,says', [
    (dict(lora_alfa=2), ["'lora_alfa'", 'did you mean lora_alpha?']), (dict(where=['fc'], target_modules=['fc']), ['give one of them']),
    (dict(init_lora_weights='pissa'), ['pissa', 'pretrained weights']), (dict(modules_to_save=['nowhere']), ['nowhere', "no module's name"]),
    (dict(modules_to_save=['fc']), ['1.fc']), (dict(lora_alpha=3), ['lora_alpha']), (dict(use_rslora=True, r=99), ['r=99'])], ids=str)
def test_arguments_that_are_refused(kw, says):
    with pytest.raises(LoraError) as e: adapt(net(), **dict(r=2) | kw)
    one_line(e, *says)


def test_what_a_file_cannot_keep_is_said(tmp_path):
    m = adapt(net(), 'lora', r=2, rank_pattern={'fc': 1})
    with pytest.raises(LoraError) as e: save(m, tmp_path/'a')
    one_line(e, 'rank_pattern', 'export_peft')
    export_peft(move(m), tmp_path/'p')
    assert torch.equal(answer(import_peft(net(), tmp_path/'p'), X), answer(m, X))


def test_a_head_whose_name_ends_another_name():
    "peft finds modules to save by the ends of names: a head '3' takes '1.3' and '13' along."
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(4, 6), nn.Sequential(*[nn.Linear(6, 6) for _ in range(4)]), nn.ReLU(), nn.Linear(6, 3))
    m = adapt(copy.deepcopy(deep), 'lora', r=2)
    assert m.adaptation.where == ['0', '1.0', '1.1', '1.2', '1.3'] and [k for k,o in m.named_modules() if hasattr(o, 'original_module')] == ['3']
    with pytest.raises(LoraError) as e: export_peft(m, 'nowhere')
    one_line(e, '1.3', 'ends alike')


# Merging what peft has wrapped

class Plain(nn.Module):
    def __init__(self): super().__init__(); self.body, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
    def forward(self, x): return self.head(self.norm(self.body(x)).relu())

def wrapped(kw, config=peft.LoraConfig):
    torch.manual_seed(0)
    m = peft.get_peft_model(Plain(), config(target_modules=['body'], **kw))
    m.train()(X*3)
    return move(m)

@pytest.mark.parametrize('kw', [dict(r=2), dict(r=2, modules_to_save=['head']), dict(r=2, modules_to_save=['head', 'norm']), dict(r=2, use_rslora=True), dict(r=2, use_dora=True)], ids=str)
def test_a_peft_model_merges_as_peft_does_it(kw):
    m = wrapped(kw)
    state, got = copy.deepcopy(m.state_dict()), merge(m)
    want = copy.deepcopy(m).merge_and_unload()
    assert type(got) is Plain and str(got) == str(Plain()) and torch.equal(answer(got, X), answer(want, X)) and near(answer(got, X), answer(m, X))
    assert all(torch.equal(v, state[k]) for k,v in m.state_dict().items()), 'and the model is as it was'

def test_other_kinds_of_peft():
    m = wrapped(dict(feedforward_modules=[]), peft.IA3Config)
    assert near(answer(merge(m), X), answer(m, X))
    with pytest.raises(LoraError) as e:
        merge(peft.get_peft_model(MODELS['gpt'][0](None), peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=2, token_dim=16)))
    one_line(e, 'cannot merge')

@pytest.mark.parametrize('kw', [dict(r=2), dict(r=2, modules_to_save=['head'])], ids=str)
@pytest.mark.parametrize('merged_before', [False, True])
def test_a_switched_off_adapter_stays_off(kw, merged_before):
    m = wrapped(kw)
    with m.disable_adapter(): want = answer(m, X)
    if merged_before: m.merge_adapter()
    m.base_model.disable_adapter_layers()
    assert near(answer(merge(m), X), want)
    ours = move(adapt(net(), 'lora', r=2))
    for o in ours.modules():
        if hasattr(o, 'enable_adapters'): o.enable_adapters(False)
    assert near(answer(merge(ours), X), answer(net(), X))

def test_a_tied_embedding_merges_to_the_same_logits():
    torch.manual_seed(0)
    m = peft.get_peft_model(tr.GPT2LMHeadModel(tr.GPT2Config(**GPT)), peft.LoraConfig(r=2, target_modules=['wte']))
    move(m, 1.)
    want = answer(m, IDS)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert not near(answer(copy.deepcopy(m).merge_and_unload(), IDS), want, .05), 'peft alone changes them'
    got = merge(m)
    assert near(answer(got, IDS), want, 1e-4) and not got.config.tie_word_embeddings and m.base_model.model.config.tie_word_embeddings

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.b = self.a
    def forward(self, x): return self.head(self.b(self.a(x).relu()))

class Lent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight
    def forward(self, x): return self.head(self.c(self.b(self.a(x).relu())).relu())

@pytest.mark.parametrize('kind', [Twice, Lent])
def test_a_module_or_weight_under_two_names_merges_to_the_same_outputs(kind):
    torch.manual_seed(0)
    m = move(peft.get_peft_model(kind(), peft.LoraConfig(r=2, target_modules=['a'])), 1.)
    want = answer(m, X)
    assert not near(answer(copy.deepcopy(m).merge_and_unload(), X), want, .05), 'peft alone changes them'
    assert near(answer(merge(m), X), want)

def test_adapt_leaves_shared_weights_alone_and_refuses_them_by_name():
    assert [*layers(Lent())] == ['c']
    for kind in (Twice, Lent):
        with pytest.raises(LoraError) as e: adapt(kind(), 'lora', ['a'], r=2)
        one_line(e, "where='a'", 'another layer uses its weights')
    m = move(adapt(Lent(), 'lora', r=2), 1.)
    assert near(answer(merge(m), X), answer(m, X))


# What a file notices

def other_bodies():
    torch.manual_seed(3)
    stats, act, eps, weight = net(), net(), net(), net()
    stats[1].norm.running_mean += 1
    act[2] = nn.GELU()
    eps[1].norm.eps = 1.
    weight[1].norm.weight.data[0] += .01
    return dict(stats=(stats, 'buffers'), act=(act, 'answers otherwise'), eps=(eps, 'answers otherwise'), weight=(weight, 'not those it was trained on'))

@pytest.mark.parametrize('method', ['lora', 'bitfit', 'head'])
@pytest.mark.parametrize('case', ['stats', 'act', 'eps', 'weight'])
def test_a_body_that_differs_in_what_no_weight_shows(case, method, tmp_path):
    m = move(adapt(net(), method, **(dict(r=2) if method == 'lora' else {})))
    f, (other, says) = save(m, tmp_path/'a'), other_bodies()[case]
    if method == 'bitfit' and case == 'weight': says = 'saved for another model'
    before = copy.deepcopy(other.state_dict())
    flags = [p.requires_grad for p in other.parameters()]
    with pytest.raises(LoraError) as e: attach(other, f)
    one_line(e, says)
    assert flags == [p.requires_grad for p in other.parameters()] and all(torch.equal(v, before[k]) for k,v in other.state_dict().items())

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('name', ['gpt texts', 'bert words', None])
def test_the_same_body_in_another_number_format(name, dtype, tmp_path):
    make, x, _ = MODELS[name] if name else (lambda tmp: net(), X, None)
    torch.manual_seed(0)
    base = make(tmp_path).eval()
    m = move(adapt(copy.deepcopy(base), 'lora', r=2), .1)
    want, f = answer(m, x), save(m, tmp_path/'a')
    got = attach(copy.deepcopy(base).to(dtype), f)
    said = answer(got, x.to(dtype) if x.is_floating_point() else x)
    assert said.dtype == dtype and (said.float() - want).abs().max() < .1*want.abs().max()
    back = attach(base, save(got, tmp_path/'b'))
    assert (answer(back, x) - want).abs().max() < .1*want.abs().max(), 'and back'
    torch.manual_seed(5)
    with pytest.raises(LoraError) as e: attach((make(tmp_path) if name else net(seed=5)).eval().to(dtype), f)
    one_line(e, 'saved for another model')

def test_sixteen_bit_bodies_train_adapters_of_32(tmp_path):
    for dtype in (torch.float16, torch.bfloat16):
        m = adapt(net().to(dtype), 'lora', r=2)
        assert m[0].lora_A['default'].weight.dtype == torch.float32 and m[0].base_layer.weight.dtype == dtype
        own = inject(net().to(dtype), lambda o: LoRA(o, r=2))
        assert own[0].A.weight.dtype == torch.float32 and own(X.to(dtype)).dtype == dtype == m(X.to(dtype)).dtype
        assert torch.equal(own(X.to(dtype)), net().to(dtype)(X.to(dtype))) and merge(own)[0].weight.dtype == dtype

def old_file(m, path, method='lora', where=('0', '1.fc'), **config):
    "A file as version 1 wrote it: the hash of the weights, and nothing else."
    names = {k for k,p in m.named_parameters() if p.requires_grad}
    sha = hashlib.sha256()
    for k,p in sorted(m.named_parameters()):
        if k not in names and '.original_module.' not in k: sha.update(f'{k} {list(p.shape)}'.encode() + p.detach().numpy().tobytes())
    save_file({k: p.detach() for k,p in m.named_parameters() if k in names}, path,
              {'tlcourse.lora': json.dumps(dict(version=1, method=method, where=list(where), config=config, base=sha.hexdigest()))})
    return path

def test_files_of_version_1(tmp_path):
    m = move(adapt(net(), 'lora', r=2, alpha=4.))
    f = old_file(m, tmp_path/'old', r=2, alpha=4.)
    assert torch.equal(answer(attach(net(), f), X), answer(m, X))
    with pytest.raises(LoraError) as e: attach(net(seed=1), f)
    one_line(e, 'not those it was trained on')
    attach(other_bodies()['act'][0], f) # its weaker check

def test_the_file_keeps_no_item_of_anyone(tmp_path):
    secret = torch.full((2, 4), 12345.678)
    f = save(move(adapt(net(), 'lora', r=2)), tmp_path/'a', sample=secret)
    assert b'12345' not in f.read_bytes() and not any((t == 12345.678).any() for t in load_file(f).values())
    assert attach(net(), f)
    with pytest.raises(LoraError) as e: save(adapt(net(), 'lora', r=2), tmp_path/'b', sample=torch.zeros(2, 9))
    one_line(e, 'sample', 'cannot read')

class TwoInputs(nn.Module):
    def __init__(self): super().__init__(); self.body, self.act, self.head = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
    def forward(self, x, scale): return self.head(self.act(self.body(x)*scale))

def test_a_sample_where_no_guess_fits(tmp_path):
    torch.manual_seed(0)
    base = TwoInputs()
    m = move(adapt(copy.deepcopy(base), 'lora', r=2))
    f, g = save(m, tmp_path/'a'), save(m, tmp_path/'b', sample=dict(x=X, scale=torch.ones(5, 1)))
    other = copy.deepcopy(base)
    other.act = nn.Tanh()
    attach(base, g)
    attach(other, f) # without a sample nothing can tell
    with pytest.raises(LoraError) as e: attach(other, g)
    one_line(e, 'answers otherwise')
    with pytest.raises(LoraError) as e: attach(copy.deepcopy(base).double(), f)
    one_line(e, 'float32', 'sample=')

def test_saving_leaves_mode_and_random_state_alone(tmp_path):
    m = adapt(net(), 'lora', r=2).train()
    m[1].norm.eval()
    state = torch.get_rng_state()
    save(m, tmp_path/'a')
    assert m.training and m[1].fc.training and not m[1].norm.training and torch.equal(state, torch.get_rng_state())

@pytest.mark.parametrize('changes', [
    dict(config=dict(r=2, init_lora_weights='eva')), dict(config=dict(r=2, megatron_core='antigravity')), dict(config=dict(r=2, use_rslora='yes')),
    dict(config=dict(r=2, modules_to_save=[1])), dict(config=dict(r=2, runtime_config={})), dict(config=dict(r=2, lora_dropout=7))], ids=str)
def test_what_a_strangers_file_may_not_ask_for(changes, tmp_path):
    f = save(adapt(net(), 'lora', r=2), tmp_path/'a')
    raw = f.read_bytes()
    about = json.loads(json.loads(raw[8:8+int.from_bytes(raw[:8], 'little')])['__metadata__']['tlcourse.lora'])
    save_file(load_file(f), tmp_path/'b', {'tlcourse.lora': json.dumps({**about, **changes})})
    base = net()
    with pytest.raises(LoraError) as e: attach(base, tmp_path/'b')
    one_line(e, 'saved for another model')
    assert all(p.requires_grad for p in base.parameters())

def test_a_strangers_test_input_is_a_small_one(tmp_path):
    f = save(adapt(net(), 'lora', r=2), tmp_path/'a')
    raw = f.read_bytes()
    about = json.loads(json.loads(raw[8:8+int.from_bytes(raw[:8], 'little')])['__metadata__']['tlcourse.lora'])
    for answer in (dict(input=[[None, [1, 10**9], None]], says=[1.]), dict(input=[[None, [1, 4], 'x']], says=[1.]), dict(input=3, says=[1.]), dict(says=[1.]), dict(input=[], says='x')):
        save_file(load_file(f), tmp_path/'b', {'tlcourse.lora': json.dumps({**about, 'answer': answer})})
        with pytest.raises(LoraError) as e: attach(net(), tmp_path/'b')
        one_line(e, 'is not a file that')


# Wrapped models

def test_wrapped_models_are_unwrapped(tmp_path):
    torch.manual_seed(0)
    for wrap in (nn.DataParallel, lambda m: torch.compile(m, backend='eager')):
        base = wrap(net())
        want = answer(base, X)
        assert adapt(base, 'lora', r=2) is base and near(answer(base, X), want)
        assert len(trainable(base)) == 2
        got = answer(move(base), X)
        assert not near(got, want, .01) and near(answer(merge(base), X), got) and type(merge(base)) is nn.Sequential
        f = save(base, tmp_path/'a')
        assert near(answer(attach(wrap(net()), f), X), got) and near(answer(attach(net(), f), X), got)

def test_ddp_is_wrapped_last():
    class DistributedDataParallel(nn.Module):
        def __init__(self, m): super().__init__(); self.module = m
    with pytest.raises(LoraError) as e: adapt(DistributedDataParallel(net()))
    one_line(e, 'DistributedDataParallel', 'adapt the model first')

def test_a_peft_model_is_not_adapted_again():
    with pytest.raises(LoraError) as e: adapt(wrapped(dict(r=2)))
    one_line(e, 'peft has put an adapter')


# peft's folders

@pytest.mark.parametrize('name', ['bert texts', 'distilbert texts', 'gpt texts', 'gpt', 'vit', None])
@pytest.mark.parametrize('kw', [dict(), dict(use_rslora=True, alpha=5.)], ids=str)
def test_folders_go_both_ways_with_difference_0(name, kw, tmp_path):
    make, x, _ = MODELS[name] if name else (lambda tmp: net(), X, None)
    torch.manual_seed(0)
    base = make(tmp_path).eval()
    m = move(adapt(copy.deepcopy(base), 'lora', r=2, **kw))
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), export_peft(m, tmp_path/'ours')).eval()
    assert torch.equal(answer(theirs.base_model.model, x), answer(m, x))
    with torch.no_grad():
        for k,p in theirs.named_parameters():
            if 'lora_' in k or 'modules_to_save' in k: p += .1
    theirs.save_pretrained(tmp_path/'theirs')
    again = import_peft(base, tmp_path/'theirs')
    assert torch.equal(answer(again, x), answer(theirs.base_model.model, x)) and again.adaptation.heads == m.adaptation.heads
    assert torch.equal(answer(attach(base, save(again, tmp_path/'kept')), x), answer(again, x)) and near(answer(merge(again), x), answer(again, x), 1e-4)
    move(again)
    assert torch.equal(answer(import_peft(base, export_peft(again, tmp_path/'again')), x), answer(again, x)), 'and it goes on training'

def test_batchnorm_goes_along_only_if_it_is_named(tmp_path):
    def trained(**kw):
        m = adapt(net(), 'lora', r=2, **kw).train()
        m(X*3 + 1)
        return move(m)
    with pytest.raises(LoraError) as e: export_peft(trained(), tmp_path/'a')
    one_line(e, 'running_mean', "modules_to_save=['norm']")
    m = trained(modules_to_save=['norm'])
    theirs = peft.PeftModel.from_pretrained(net(), export_peft(m, tmp_path/'b')).eval()
    assert torch.equal(answer(theirs, X), answer(m, X)) and torch.equal(answer(import_peft(net(), tmp_path/'b'), X), answer(m, X))
    assert near(answer(merge(m), X), answer(m, X)) and near(answer(attach(net(), save(m, tmp_path/'c')), X), answer(m, X))

def test_folders_that_are_refused(tmp_path):
    good = export_peft(move(adapt(net(), 'lora', r=2)), tmp_path/'good')
    about = json.loads((good/'adapter_config.json').read_text())
    def fake(name, **changes):
        (tmp_path/name).mkdir()
        (tmp_path/name/'adapter_config.json').write_text(json.dumps(about | changes))
        (tmp_path/name/'adapter_model.safetensors').write_bytes((good/'adapter_model.safetensors').read_bytes())
        return tmp_path/name
    none = tmp_path/'none'
    none.mkdir()
    bin_ = fake('bin')
    (bin_/'adapter_model.safetensors').rename(bin_/'adapter_model.bin')
    broken = fake('broken')
    (broken/'adapter_config.json').write_text('{')
    for folder,says in ((none, 'no adapter_config.json'), (bin_, 'pickles are not read'), (broken, 'damaged'), (fake('ia3', peft_type='IA3'), 'IA3'),
                        (fake('megatron', megatron_config={'a': 1}), 'megatron_config'), (fake('pissa', init_lora_weights='pissa'), 'init_lora_weights'),
                        (fake('target', target_modules=['nowhere']), 'another model'), (fake('rank', r=3), 'another model'), (fake('bad', r='x'), 'another model')):
        base = net()
        with pytest.raises(LoraError) as e: import_peft(base, folder)
        one_line(e, says)
        assert all(p.requires_grad for p in base.parameters()) and 'lora' not in str(base)
    with pytest.raises(LoraError) as e: import_peft(net(4), good)
    one_line(e, 'another model')
    with pytest.raises(LoraError) as e: export_peft(adapt(net(), 'bitfit'), tmp_path/'x')
    one_line(e, 'bitfit')
    m = adapt(net(), 'lora', r=2).requires_grad_(True)
    with pytest.raises(LoraError) as e: export_peft(m, tmp_path/'x')
    one_line(e, 'base_layer')


def test_adapters_stand_without_the_lesson_that_explains_them():
    code = """if True:
        import sys
        from torch import nn
        from tlcourse.adapters import Bottleneck, adapt
        model = adapt(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 'bottleneck', ['0'], width=2)
        assert isinstance(model[0], Bottleneck) and 'tlcourse.lora' not in sys.modules"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
