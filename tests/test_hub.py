"The hub: whatever is read comes in float32, from the right folder, without network when that is ruled out, and never runs what it reads."
import json, logging, os, pickle, subprocess, sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tlcourse import assets, hub
from tlcourse.core import TLCourseError
from tlcourse.hub import HubError

T = pytest.importorskip('transformers')

small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
speech = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
              vocab_size=60, num_mel_bins=8, max_source_positions=20, max_target_positions=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
              decoder_start_token_id=1, begin_suppress_tokens=None, suppress_tokens=None)

def bert(): return T.BertModel(T.BertConfig(vocab_size=60, max_position_embeddings=40, **small)), T.AutoModel
def vit(): return T.ViTForImageClassification(T.ViTConfig(image_size=32, patch_size=16, num_labels=3, **small)), T.AutoModelForImageClassification
def resnet(): return T.ResNetForImageClassification(T.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', num_labels=3)), T.AutoModelForImageClassification
def wav2vec(): return T.Wav2Vec2Model(T.Wav2Vec2Config(conv_dim=[16], conv_stride=[5], conv_kernel=[10], num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **small)), T.AutoModel
def whisper(): return T.WhisperForConditionalGeneration(T.WhisperConfig(**speech)), T.WhisperForConditionalGeneration

kinds = [bert, vit, resnet, wav2vec, whisper]


def fails(f, *words, error=HubError):
    "`f` raises one line with these words, and no chain of other errors."
    with pytest.raises(error) as e: f()
    said = str(e.value)
    assert '\n' not in said and len(said) < 500 and e.value.__suppress_context__ | (e.value.__context__ is None)
    assert isinstance(e.value, TLCourseError) and isinstance(e.value, ValueError)
    for w in words: assert w in said, said

def without(folder, *keys):
    "Take keys out of the config, as older checkpoints lack them."
    f = folder/'config.json'
    f.write_text(json.dumps({k: v for k,v in json.loads(f.read_text()).items() if k not in keys}))


# Precision -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('said', [True, False], ids=['the config says so', 'the config says nothing'])
@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('make', kinds)
def test_a_checkpoint_in_half_precision_comes_in_float32(tmp_path, make, half, said):
    torch.manual_seed(0)
    model, auto = make()
    model.to(half).save_pretrained(tmp_path)
    if not said: without(tmp_path, 'dtype', 'torch_dtype')
    m = hub.pretrained(auto, tmp_path)
    assert {p.dtype for p in m.parameters()} == {torch.float32} and not m.training
    stored = load_file(tmp_path/'model.safetensors')
    got = {k: v for k,v in m.state_dict().items() if k in stored}
    assert got and all(torch.equal(v, stored[k].to(v.dtype)) for k,v in got.items())  # the very numbers of the file
    assert {b.dtype for b in m.buffers() if b.is_floating_point()} <= {torch.float32}
    assert {p.dtype for p in hub.pretrained(auto, f'hf:{tmp_path}', dtype=None).parameters()} == {half}
    assert {p.dtype for p in hub.pretrained(auto, tmp_path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in hub.pretrained(auto, tmp_path, pretrained=False).parameters()} == {torch.float32}

def test_float32_whatever_torchs_default_is(tmp_path):
    bert()[0].half().save_pretrained(tmp_path)
    torch.set_default_dtype(torch.float64)
    try: assert {p.dtype for p in hub.pretrained(T.AutoModel, tmp_path).parameters()} == {torch.float32}
    finally: torch.set_default_dtype(torch.float32)


# What is asked of Transformers -----------------------------------------------------------------------------------

def test_config_seed_and_random_weights(tmp_path):
    bert()[0].save_pretrained(tmp_path)
    def make(seed, **kw): return hub.pretrained(T.AutoModelForSequenceClassification, tmp_path, seed=seed, num_labels=5, **kw)
    before = torch.get_rng_state()
    a, b, c = make(1), make(1), make(2)
    assert torch.equal(before, torch.get_rng_state())  # a seed leaves the user's own random state alone
    assert a.classifier.weight.shape == (5, 32) and torch.equal(a.classifier.weight, b.classifier.weight) and not torch.equal(a.classifier.weight, c.classifier.weight)
    assert torch.equal(a.bert.encoder.layer[0].output.dense.weight, c.bert.encoder.layer[0].output.dense.weight)
    r = make(1, pretrained=False)
    assert torch.equal(r.classifier.weight, make(1, pretrained=False).classifier.weight)
    assert not torch.equal(r.bert.encoder.layer[0].output.dense.weight, a.bert.encoder.layer[0].output.dense.weight)
    assert hub.pretrained(T.AutoModel, tmp_path, hidden_dropout_prob=.3).encoder.layer[0].output.dropout.p == .3
    torch.manual_seed(7); x = make(None).classifier.weight
    torch.manual_seed(7)
    assert torch.equal(x, make(None).classifier.weight)

def test_random_weights_need_no_file_of_weights(tmp_path):
    bert()[0].config.save_pretrained(tmp_path)
    assert hub.pretrained(T.AutoModel, tmp_path, pretrained=False)(input_ids=torch.tensor([[1, 2]])).last_hidden_state.shape == (1, 2, 32)
    fails(lambda: hub.pretrained(T.AutoModel, tmp_path), 'Transformers finds no AutoModel there')
    fails(lambda: hub.pretrained(T.AutoModel, tmp_path, what='encoder'), 'finds no encoder there')

def test_nothing_of_a_stranger_is_run(tmp_path):
    class Bomb:
        def __reduce__(self): return Path.touch, (tmp_path/'boom',)
    bert()[0].save_pretrained(tmp_path)
    (tmp_path/'model.safetensors').unlink()
    torch.save({'a': Bomb()}, tmp_path/'pytorch_model.bin')
    fails(lambda: hub.pretrained(T.AutoModel, tmp_path))
    (tmp_path/'evil.py').write_text(f'open({str(tmp_path/"boom")!r}, "w")')
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='mine', auto_map=dict(AutoConfig='evil.C', AutoModel='evil.M'))))
    fails(lambda: hub.pretrained(T.AutoModel, tmp_path))
    fails(lambda: hub.tokenizer(tmp_path), 'no tokenizer')
    assert not (tmp_path/'boom').exists()

@pytest.mark.parametrize('bad', ['', 'no json', '[]', '{"model_type": "bert", "hidden_size": "many"}', '{"model_type": "no such thing"}'])
def test_a_broken_config_is_one_line(tmp_path, bad):
    bert()[0].save_pretrained(tmp_path)
    (tmp_path/'config.json').write_text(bad)
    fails(lambda: hub.pretrained(T.AutoModel, tmp_path), str(tmp_path))

def test_ones_own_error(tmp_path):
    class Mine(TLCourseError, ValueError): pass
    fails(lambda: hub.folder('hf:./none', error=Mine), error=Mine)
    fails(lambda: hub.pretrained(T.AutoModel, tmp_path, error=Mine), error=Mine)
    fails(lambda: hub.tokenizer(str(tmp_path), error=Mine), error=Mine)
    fails(lambda: hub.read_tensors(tmp_path/'none', error=Mine), error=Mine)

def test_quiet_puts_everything_back():
    from transformers.utils import logging as log
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.INFO); log.enable_progress_bar()
    try:
        with pytest.raises(ZeroDivisionError):
            with hub.quiet():
                assert log.get_verbosity() == logging.ERROR and not log.is_progress_bar_enabled()
                1/0
        assert log.get_verbosity() == logging.INFO and log.is_progress_bar_enabled()
        log.disable_progress_bar()
        with hub.quiet(): pass
        assert not log.is_progress_bar_enabled()
    finally:
        log.set_verbosity(before[0])
        if before[1]: log.enable_progress_bar()

def test_reading_says_nothing(tmp_path):
    bert()[0].half().save_pretrained(tmp_path)
    code = f'from transformers import AutoModelForTokenClassification as A; from tlcourse import hub; hub.pretrained(A, {str(tmp_path)!r}, num_labels=4)'
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, encoding='utf-8')
    assert r.returncode == 0 and r.stdout + r.stderr == ''


# Without Transformers --------------------------------------------------------------------------------------------

def test_without_transformers(tmp_path):
    code = f'''import sys
sys.modules['transformers'] = None
from tlcourse import backbones, hub
for f in (lambda: hub.tokenizer({str(tmp_path)!r}), lambda: hub.pretrained(object, {str(tmp_path)!r}), lambda: backbones.load('hf:{tmp_path}')):
    try: f()
    except ValueError as e: print(e)'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
    assert r.returncode == 0 and r.stdout.count("pip install 'tlcourse[text]'") == 3 == len(r.stdout.splitlines()), r.stdout + r.stderr


# Folders ---------------------------------------------------------------------------------------------------------

def test_a_folder_by_any_of_its_names(tmp_path, monkeypatch):
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ('hf:here', 'here', './here', 'hf:./here', tmp_path/'here', f'hf:{tmp_path/"here"}'): assert hub.folder(name).resolve() == tmp_path/'here'
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    assert hub.folder('~/here') == hub.folder('hf:~/here') == tmp_path/'here'

@pytest.mark.parametrize('name', ['hf:./none', 'hf:~/none', '/no/where/at/all', 'hf:a/b/c', Path('none'), Path('a/b')])
def test_no_such_folder(name): fails(lambda: hub.folder(name), 'no such folder')

@pytest.mark.parametrize('name', ['', 'hf:'])
def test_no_name_is_not_the_working_folder(name): fails(lambda: hub.folder(name), 'hf:REPO or folder')

def test_a_bundled_name_is_the_bundled_model(tmp_path, monkeypatch):
    "A folder that happens to have its name is not taken for it; asked for as a folder, it is."
    monkeypatch.setattr(hub, 'fetch', lambda asset: Path('cache')/asset.name)
    (tmp_path/'minilm').mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.folder('minilm') == Path('cache/minilm')
    assert hub.folder('hf:minilm') == hub.folder(Path('minilm')) == Path('minilm') and hub.folder('./minilm') == Path('minilm')

def test_data_is_no_model(monkeypatch):
    asked = []
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda repo, **kw: asked.append(repo) or 'x')
    hub._download.cache_clear()
    hub.folder('animals', '*.json')
    assert asked == ['animals']

def test_the_hub_is_asked_once_and_for_what_is_wanted(tmp_path, monkeypatch):
    asked = []
    monkeypatch.delenv('TLCOURSE_OFFLINE', raising=False)
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda repo, **kw: asked.append((repo, kw)) or str(tmp_path))
    hub._download.cache_clear()
    for _ in range(2): assert hub.folder('hf:some/repo', '*.json', '*.safetensors') == tmp_path
    assert asked == [('some/repo', dict(allow_patterns=['*.json', '*.safetensors'], local_files_only=False))]
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    hub.folder('hf:other/repo')
    assert asked[1][1]['local_files_only'] is True
    hub._download.cache_clear()

@pytest.mark.parametrize('env, words', [(dict(TLCOURSE_OFFLINE='1'), 'TLCOURSE_OFFLINE is set'), (dict(HF_ENDPOINT='http://127.0.0.1:9'), 'did not deliver it')])
def test_no_hub(tmp_path, env, words):
    "In a process of its own, as the hub's client reads its settings at import."
    code = "from tlcourse.hub import *\ntry: folder('hf:org/repo', '*.json')\nexcept HubError as e: print(e)"
    env = {**{k: v for k,v in os.environ.items() if not k.lower().endswith('_proxy') and k != 'TLCOURSE_OFFLINE'}, 'HF_HOME': str(tmp_path), **env}
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, encoding='utf-8', timeout=120)
    assert r.returncode == 0 and words in r.stdout and 'name a local folder' in r.stdout and r.stdout.count('\n') == 1, r.stdout + r.stderr


# Tokenizers ------------------------------------------------------------------------------------------------------

def write_tokenizer(folder, words):
    from tokenizers import Tokenizer, models, pre_tokenizers
    t = Tokenizer(models.WordLevel({w: i for i,w in enumerate(['[PAD]', '[UNK]', *words])}, unk_token='[UNK]'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    T.PreTrainedTokenizerFast(tokenizer_object=t, pad_token='[PAD]', unk_token='[UNK]').save_pretrained(folder)

def test_a_tokenizer_is_kept_until_its_files_change(tmp_path):
    write_tokenizer(tmp_path, ['cat', 'dog'])
    a = hub.tokenizer(f'hf:{tmp_path}')
    assert a('dog cat bird').input_ids == [3, 2, 1] and hub.tokenizer(f'hf:{tmp_path}') is a and hub.tokenizer(tmp_path) is a
    write_tokenizer(tmp_path, ['bird', 'cat', 'dog'])
    os.utime(tmp_path/'tokenizer.json', ns=(1, 1))
    assert hub.tokenizer(f'hf:{tmp_path}')('dog cat bird').input_ids == [4, 3, 2]

def test_no_tokenizer(tmp_path): fails(lambda: hub.tokenizer(tmp_path), 'no tokenizer in it')


# Files of weights ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('suffix', ['safetensors', 'pt', 'pth', 'bin'])
def test_plain_tensors(tmp_path, suffix):
    state, f = dict(a=torch.randn(3), b=torch.arange(4), c=torch.ones(2).half()), tmp_path/f'w.{suffix}'
    save_file(state, f) if suffix == 'safetensors' else torch.save(state, f)
    for o in (f, str(f)):
        got = hub.read_tensors(o)
        assert list(sorted(got)) == ['a', 'b', 'c'] and all(torch.equal(got[k], v) and got[k].dtype == v.dtype for k,v in state.items())

def test_nothing_else(tmp_path):
    class Bomb:
        def __reduce__(self): return Path.touch, (tmp_path/'boom',)
    torch.save({'a': Bomb()}, tmp_path/'bomb.pt')
    (tmp_path/'old.pt').write_bytes(pickle.dumps({'a': Bomb()}, 2))
    torch.save(nn.Linear(2, 2), tmp_path/'module.pt')
    torch.save({'a': 1}, tmp_path/'number.pt')
    torch.save({}, tmp_path/'empty.pt')
    (tmp_path/'text.safetensors').write_text('hello')
    for f in tmp_path.iterdir(): fails(lambda: hub.read_tensors(f), f.name, 'not a file of plain tensors')
    fails(lambda: hub.read_tensors(tmp_path/'none.pt'), 'no such file')
    fails(lambda: hub.read_tensors(tmp_path), 'no such file')
    assert not (tmp_path/'boom').exists()
