"""Canaries: what we use of other libraries without their having promised it, each by itself.

When a release of one of them breaks something, the test that fails here says which library, which version, and which of our modules uses it."""
import functools, os, subprocess, sys, warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import timm
    from fastai.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
    from fastai.data.load import DataLoader
    from fastai.learner import Learner


def canary(package, where):
    "A test of what `package` does, and which modules of ours rely on it."
    def wrap(f):
        @functools.wraps(f)
        def test(*args, **kwargs):
            try: f(*args, **kwargs)
            except pytest.skip.Exception: raise
            except Exception as e:
                raise AssertionError(f'{package} {version(package)} is not what {where} relies on ({f.__name__[5:]}): {type(e).__name__}: {e}') from e
        return test
    return wrap


# torch ----------------------------------------------------------------------------------------------------------------

@canary('torch', 'backbones.unwrap')
def test_compiled_model_is_kept_as_orig_mod():
    m = nn.Linear(2, 2)
    assert torch.compile(m, backend='eager')._modules['_orig_mod'] is m

@canary('torch', 'backbones.groups')
def test_a_module_is_its_dict():
    assert {'_modules', '_parameters', '_buffers', 'training'} <= set(nn.BatchNorm2d(2).__dict__)

@canary('torch', 'features')
def test_a_module_made_of_another_s_dict_runs():
    m = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    new = m.__class__.__new__(m.__class__)
    new.__dict__.update(vars(m))
    x = torch.randn(1, 2)
    assert torch.equal(new(x), m(x)) and list(new.state_dict()) == list(m.state_dict())

@canary('torch', 'prefix')
def test_all_dropouts_have_one_base():
    base = nn.modules.dropout._DropoutNd
    assert all(issubclass(o, base) for o in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)) and nn.Dropout(.3).p == .3

@canary('torch', 'features')
def test_all_batchnorms_have_one_base():
    base = nn.modules.batchnorm._BatchNorm
    assert all(issubclass(o, base) for o in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm))
    assert nn.BatchNorm2d(2, track_running_stats=False).running_mean is None


@canary('torch', 'speed.pointwise')
def test_a_linear_layer_may_change_its_class():
    class Other(nn.Linear):
        def forward(self, x): return nn.functional.conv2d(x[:, None].permute(0, 3, 1, 2), self.weight[..., None, None], self.bias).permute(0, 2, 3, 1)[:, 0]
    m, x = nn.Linear(3, 2), torch.randn(20, 4, 3)
    want = m(x)
    m.__class__ = Other
    assert torch.allclose(m(x), want, atol=1e-6)

@canary('openvino', 'speed.engine')
def test_openvino_reads_a_traced_network_without_its_convert_model():
    pytest.importorskip('openvino')
    import openvino as ov
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    m, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval(), torch.randn(4, 3)
    decoder = TorchScriptPythonDecoder(torch.jit.trace(m, (x,), check_trace=False), example_input=(x,), trace_kwargs=dict(check_trace=False))
    reader = FrontEndManager().load_by_framework('pytorch')
    net = reader.convert(reader.load(decoder))
    net.reshape({0: [4, 3]})
    out = ov.Core().compile_model(net, 'CPU', dict(INFERENCE_PRECISION_HINT='f32')).create_infer_request().infer([x.numpy()], share_inputs=True).to_tuple()
    assert len(out) == 1 and np.allclose(out[0], m(x).detach(), atol=1e-5)

@canary('openvino', 'speed.engine')
def test_openvino_tells_nobody(tmp_path):
    "It reports to its maker that it was imported, and keeps a number of its own in the home folder; not where we import it."
    pytest.importorskip('openvino')
    code = ('import sys, torch; from torch import nn; from tlcourse.speed import engine; engine(nn.Linear(3, 2).eval(), [torch.randn(4, 3)]);'
            "sys.exit('openvino' not in sys.modules or any(k.startswith('openvino_telemetry') for k in sys.modules))")
    env = {k: v for k,v in os.environ.items() if k != 'CI'} | dict(HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env).returncode == 0
    assert not [f for f in tmp_path.rglob('*') if 'openvino' in f.name or f.parent.name == 'intel']


# timm -----------------------------------------------------------------------------------------------------------------

@canary('timm', 'backbones.groups')
def test_steps_of_a_vision_transformer():
    m, x = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=1, num_classes=3).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        h = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(x))))
        assert torch.allclose(m.head(m.forward_head(m.norm(m.blocks(h)), pre_logits=True)), m(x), atol=1e-5)

@canary('timm', 'backbones.groups')
@pytest.mark.parametrize('arch', ['tf_efficientnet_lite0', 'resnet18', 'convnext_atto', 'regnetx_002', 'densenet121'])
def test_forward_head_before_the_classifier(arch):
    m, x = timm.create_model(arch, num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(): assert torch.allclose(m.get_classifier()(m.forward_head(m.forward_features(x), pre_logits=True)), m(x), atol=1e-5)

@canary('timm', 'backbones.groups')
def test_places_of_parameters():
    from timm.models import group_parameters
    m = timm.create_model('resnet18', num_classes=3)
    assert set(group_parameters(m, m.group_matcher(coarse=True), reverse=True)) == {k for k,_ in m.named_parameters()}

@canary('timm', 'speed')
def test_batchnorm_with_its_activation_and_uneven_padding():
    from timm.layers import BatchNormAct2d, Conv2dSame
    bn, x = BatchNormAct2d(3).eval(), torch.randn(2, 3, 4, 4)
    assert torch.allclose(bn(x), bn.act(nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)))
    c = Conv2dSame(3, 2, 3, stride=2)
    assert torch.allclose(c(x), nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), c.weight, c.bias, 2), atol=1e-6)


# fastai ---------------------------------------------------------------------------------------------------------------

def learner():
    x = torch.randn(8, 3)
    dls = DataLoaders(*[DataLoader(list(zip(x, torch.arange(8) % 2)), bs=4) for _ in range(2)])
    return Learner(dls, nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), nn.functional.cross_entropy)

@canary('fastai', 'learners and regularize')
def test_a_learner_that_looks_for_a_rate_says_so(tmp_path):
    from fastai.callback.core import Callback
    from fastai.callback.progress import ProgressCallback # Learner.no_bar
    import fastai.callback.schedule
    seen = []
    class See(Callback):
        def before_batch(self): seen.append(hasattr(self.learn, 'lr_finder'))
    learn = learner()
    learn.path = tmp_path
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=4, show_plot=False) if learn.add_cb(See()) else None
        learn.fit(1)
    assert seen[0] and not seen[-1]

@canary('fastai', 'finetune.freeze_except and receipt')
def test_flags_in_the_state_of_an_optimizer():
    from fastai.optimizer import Adam
    ps = [[nn.Parameter(torch.ones(2))], [nn.Parameter(torch.ones(2))]]
    opt = Adam(ps, lr=.1)
    opt.state[ps[0][0]]['force_train'] = opt.state[ps[1][0]]['do_wd'] = False
    opt.state[ps[0][0]]['force_train'] = True
    opt.freeze_to(1)
    assert ps[0][0].requires_grad and opt.param_lists[0][0] is ps[0][0] and 'lr' in opt.hypers[0]

@canary('fastai', 'features and prefix')
def test_a_loader_made_anew_keeps_its_items_and_takes_another_order():
    dl = TfmdDL(list(zip(torch.arange(6.), range(6))), bs=2, shuffle=True, num_workers=0)
    new = dl.new(bs=3, shuffle=False, num_workers=0, get_idxs=lambda: iter([5, 4, 0]))
    assert [x.tolist() for x,_ in new] == [[5., 4., 0.]] and dl.fake_l.num_workers == 0 and dl.n == 6 and dl.rng
    made = dl.new(create_batches=lambda samples: iter([torch.ones(1)]))
    assert [o.tolist() for o in made] == [[1.]]

@canary('fastai', 'features')
def test_a_method_given_to_a_loader_is_bound_to_it_anew():
    class Places:
        def idxs(self): return iter([1, 0])
    dl = TfmdDL(list(zip(torch.arange(3.), range(3))), bs=1, num_workers=0)
    places = Places()
    with pytest.raises(TypeError): list(dl.new(get_idxs=functools.partial(TfmdDL.get_idxs)))  # a plain callable gets no loader
    assert dl.new(get_idxs=places.idxs).get_idxs.__self__ is not places

@canary('fastai', 'features.batching')
def test_a_loader_that_was_used_is_as_before():
    from tlcourse.features import batching
    ds = Datasets(list(range(4)), [[lambda o: o/2], [lambda o: o]])
    dl = TfmdDL(ds, bs=2, num_workers=0)
    before = batching(dl)
    list(dl), dl.one_batch(), dl.n_inp, dl.decode_batch(dl.one_batch()), list(TfmdDL.new(dl, shuffle=True))
    assert batching(dl) == before and set(vars(dl)) & {'_types', '_n_inp'}

@canary('fastai', 'continual.Replay')
def test_a_loader_s_batches_go_through_do_batch():
    dl, seen = TfmdDL(list(zip(torch.arange(4.), range(4))), bs=2, num_workers=0), []
    new = dl.new(do_batch=lambda b: seen.append(len(b)) or dl.do_batch(b))
    assert [x.tolist() for x,_ in new] == [[0., 1.], [2., 3.]] and seen == [2, 2]

@canary('fastai', 'prefix')
def test_a_callback_may_replace_the_loader_of_the_epoch():
    from fastai.callback.core import Callback
    items = list(zip(torch.arange(4.)[:, None], torch.arange(4.)[:, None]))
    dls, seen = DataLoaders(*(TfmdDL(items, bs=2, num_workers=0) for _ in range(2))), []
    class Other(Callback):
        def before_train(self): self.learn.dl = TfmdDL(items[:1], bs=1, num_workers=0)
        def after_batch(self): seen.append((self.training, len(self.x)))
    learn = Learner(dls, nn.Linear(1, 1), loss_func=nn.MSELoss(), cbs=Other(), train_bn=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert seen == [(True, 1), (False, 2), (False, 2)]

@canary('fastai', 'features')
def test_what_is_replaced_in_a_loader_is_in_its_dict():
    dl = DataLoader(list(range(4)), bs=2)
    dl.create_batch = sum
    assert vars(dl)['create_batch'] is sum and 'create_batch' not in vars(DataLoader(list(range(4)), bs=2))

@canary('fastai', 'features and loaders')
def test_lists_of_a_data_set():
    from fastai.data.transforms import Categorize
    ds = Datasets(['a', 'b'], [[str.upper], [Categorize()]])
    assert ds.n_inp == 1 and ds.tls[-1][1] == 1 and list(ds.tls[0].items) == ['a', 'b'] and isinstance(ds.tls[0], TfmdLists)
    with ds.set_split_idx(1): assert ds.tls[0].tfms.fs[0] is not None
    dls = Datasets(['a', 'b', 'a'], [[len], [Categorize()]], splits=[[0, 1], [2]]).dataloaders(bs=1)
    assert dls.test_dl(['b', 'a']).dataset.n_inp == len(dls.test_dl(['b', 'a']).dataset.tls) == 1 and dls.vocab.o2i == {'a': 0, 'b': 1}

@canary('fastai', 'corpora')
def test_a_loader_by_length_knows_lengths():
    from fastai.text.data import SortedDL
    dl = SortedDL([(torch.ones(n), 0) for n in (2, 5, 3)], res=[2, 5, 3], bs=1)
    assert dl.res == [2, 5, 3] and [x.shape[1] for x,_ in dl] == [5, 3, 2]

@canary('fastai', 'loaders.check_normalization')
def test_normalize_has_mean_and_std():
    from fastai.data.transforms import Normalize
    t = Normalize.from_stats((.1, .2, .3), (.4, .5, .6), cuda=False)
    assert np.allclose(t.mean.flatten(), [.1, .2, .3]) and np.allclose(t.std.flatten(), [.4, .5, .6])

@canary('fastai', 'finetune and prefix')
def test_the_callbacks_that_we_name():
    from fastai.callback.mixup import CutMix, MixHandler, MixUp
    from fastai.callback.training import BnFreeze, bn_types
    assert issubclass(MixUp, MixHandler) and issubclass(CutMix, MixHandler) and nn.BatchNorm2d in bn_types and BnFreeze

@canary('plum-dispatch', 'cache')
def test_the_methods_of_what_dispatches_on_types():
    from fasttransform import Transform
    class T(Transform):
        def encodes(self, x:int): return x + 1
    T()(1)
    assert [m.implementation(None, 1) for m in vars(T)['encodes'].methods] == [2]


# Transformers and peft ------------------------------------------------------------------------------------------------

@canary('transformers', 'whisper and speech')
def test_a_layer_of_whisper_takes_states_and_no_mask():
    tr = pytest.importorskip('transformers')
    cfg = tr.WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                           num_mel_bins=8, max_source_positions=10, vocab_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    enc = tr.WhisperModel(cfg).encoder.eval()
    x = torch.randn(2, 8, 20)
    with torch.no_grad():
        h = nn.functional.gelu(enc.conv2(nn.functional.gelu(enc.conv1(x)))).transpose(1, 2) + enc.embed_positions.weight
        out = enc.layers[0](h, None)
        assert torch.allclose(enc.layer_norm(out[0] if isinstance(out, tuple) else out), enc(x).last_hidden_state, atol=1e-5)

@canary('transformers', 'encoders')
def test_a_layer_of_bert_takes_states_and_a_mask():
    tr = pytest.importorskip('transformers')
    from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
    m = tr.BertModel(tr.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)).eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        out = m.encoder.layer[0](m.embeddings(ids), None)
        assert torch.allclose(out[0] if isinstance(out, tuple) else out, m(ids).last_hidden_state, atol=1e-5)
    assert create_bidirectional_mask and create_bidirectional_sliding_window_mask

@canary('transformers', 'encoders')
@pytest.mark.parametrize('kind', ['MPNet', 'Deberta', 'DebertaV2', 'ModernBert'])
def test_layers_that_are_told_positions(kind):
    "That their outputs are those of the whole model, `test_text` says; here is what they are asked with."
    tr = pytest.importorskip('transformers')
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20, pad_token_id=0)
    if kind == 'ModernBert': small |= dict(bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    m = getattr(tr, f'{kind}Model')(getattr(tr, f'{kind}Config')(**small)).eval()
    names = dict(MPNet='compute_position_bias', DebertaV2='get_attention_mask get_rel_pos get_rel_embedding', Deberta='get_attention_mask get_rel_pos get_rel_embedding')
    for o in names.get(kind, '').split(): assert callable(getattr(m.encoder, o))
    if kind == 'ModernBert': assert m.layers[0].attention_type in ('sliding_attention', 'full_attention')

@canary('transformers', 'whisper')
def test_the_filters_and_the_normalizer_of_whisper():
    pytest.importorskip('transformers')
    from transformers.audio_utils import mel_filter_bank
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    mel = mel_filter_bank(201, 80, 0., 8000., 16000, norm='slaney', mel_scale='slaney')
    assert mel.shape == (201, 80) and (mel >= 0).all() and mel.sum(0).all()
    assert EnglishTextNormalizer({'harbour': 'harbor'})('The  Harbour, ten!') == 'the harbor 10'

@canary('timm', 'deploy')
def test_a_config_for_the_hub_is_written_by_itself(tmp_path):
    import json
    from timm.models._hub import save_config_for_hf
    save_config_for_hf(timm.create_model('resnet10t', num_classes=2), tmp_path/'config.json', model_config=dict(label_names=['a', 'b']))
    told = json.loads((tmp_path/'config.json').read_text(encoding='utf-8'))
    assert told['architecture'] == 'resnet10t' and told['label_names'] == ['a', 'b'] and told['pretrained_cfg']['mean']

@canary('peft', 'adapters')
def test_the_wrapper_of_a_saved_module_and_the_parts_of_a_lora_layer():
    pytest.importorskip('peft')
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import ModulesToSaveWrapper
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    inject_adapter_in_model(LoraConfig(r=1, target_modules=['0']), net)
    assert net[0].get_base_layer() is net[0].base_layer and not net[0].disable_adapters and not net[0].merged and 'default' in net[0].lora_A
    w = ModulesToSaveWrapper(net[1], 'default')
    w.set_adapter('default')
    assert w.original_module is net[1] and 'default' in w.modules_to_save and w.active_adapters == ['default'] and not w.disable_adapters


# Jupyter --------------------------------------------------------------------------------------------------------------

@canary('ipykernel', 'core.live')
def test_a_kernel_says_whether_it_may_ask():
    from ipykernel.kernelbase import Kernel
    assert '_allow_stdin' in Kernel.class_traits()

@canary('ipywidgets', 'plots.explore')
def test_widgets_know_their_argument():
    from ipywidgets import interactive
    assert [w._kwarg for w in interactive(lambda a: a, {'manual': True}, a=(0, 3)).kwargs_widgets] == ['a']


# Python ---------------------------------------------------------------------------------------------------------------

def test_a_library_can_be_closed():
    "voices: ctypes opens a library and has no public way to close it again."
    import _ctypes, ctypes
    assert hasattr(_ctypes, 'dlclose') or hasattr(_ctypes, 'FreeLibrary')
    assert isinstance(ctypes.PyDLL(None)._handle if hasattr(_ctypes, 'dlclose') else 0, int)
