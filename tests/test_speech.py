"Speech: the weights against another runtime, the front end against Transformers', honest splits, and files that are not what they should be."
import subprocess, sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('espeakng_loader'); pytest.importorskip('soundfile'); pytest.importorskip('jiwer')

from tlcourse import assets, speech
from tlcourse.backbones import groups
from tlcourse.features import extract, probe
from tlcourse.finetune import learner
from tlcourse.prefix import PrefixCache
from tlcourse.receipt import receipt
from tlcourse.sounds import fit
from tlcourse.speech import RATE, SpeechError, hidden, load, log_mel, say, transcribe, wer
from tlcourse.voices import VOICES

SENTENCES = ['The train to the city leaves at noon.', 'She bought a new coat for the winter.', 'Please close the window before you go.',
             'My brother plays the guitar every evening.', 'The children walked slowly to school.', 'We need more bread and butter.',
             'A cold wind came down from the north.', 'He could not find the key to his house.', 'The water in the lake was very clear.',
             'They painted the kitchen door blue.'] # none is in the lesson


def fetched(name):
    return not assets.problems(assets.find(name))


needs_whisper = pytest.mark.skipif(not fetched('whisper_tiny_en'), reason='whisper_tiny_en is not in the cache')


@pytest.fixture(scope='module')
def whisper(): return speech.whisper()


def one_line(e, *words):
    text = str(e.value)
    assert '\n' not in text and len(text) < 400 and all(o in text for o in words), text


# the weights

@needs_whisper
def test_encoder_equals_ctranslate2(whisper):
    ctranslate2 = pytest.importorskip('ctranslate2')
    oracle = ctranslate2.models.Whisper(str(assets.fetch('whisper_tiny_en')), device='cpu', compute_type='float32')
    x = torch.from_numpy(fit(say('She had your dark suit in greasy wash water.', 'en-us+f3'), 30*RATE))[None]
    want = torch.from_numpy(np.array(oracle.encode(ctranslate2.StorageView.from_array(log_mel(x).numpy()))))
    with torch.no_grad(): got = hidden(whisper, log_mel(x))
    assert got.shape == want.shape == (1, 1500, 384)
    assert ((got - want).norm()/want.norm()).item() < 1e-2


@needs_whisper
def test_decoder_equals_ctranslate2(whisper):
    ctranslate2 = pytest.importorskip('ctranslate2')
    oracle = ctranslate2.models.Whisper(str(assets.fetch('whisper_tiny_en')), device='cpu', compute_type='float32')
    x = say('Please close the window before you go.', 'en-us+m3')
    mel = log_mel(torch.from_numpy(fit(x, 30*RATE))[None])
    ids = oracle.generate(ctranslate2.StorageView.from_array(mel.numpy()), [[50257, 50362]], beam_size=1)[0].sequences_ids[0]
    assert transcribe(whisper, x) == whisper.tokenizer.decode(ids).strip()


@needs_whisper
def test_encoder_equals_transformers(whisper):
    mel, model = log_mel(torch.randn(1, 30*RATE)*.1), load(seconds=30.)
    with torch.no_grad():
        want = whisper.model.encoder(mel).last_hidden_state
        assert torch.allclose(hidden(whisper, mel), want, atol=1e-5) and torch.allclose(model(mel), want.mean(1), atol=1e-5)


@needs_whisper
def test_short_encoder_equals_transformers_with_fewer_positions(whisper):
    "A Transformers encoder whose configuration says that its window is one second long."
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder
    state = {k: v[:50] if 'positions' in k else v for k,v in whisper.model.encoder.state_dict().items()}
    short = WhisperEncoder(WhisperConfig(**whisper.config.to_dict() | dict(max_source_positions=50))).eval()
    short.load_state_dict(state)
    mel = log_mel(torch.randn(2, RATE)*.1)
    with torch.no_grad(): assert torch.allclose(load(seconds=1.)(mel), short(mel).last_hidden_state.mean(1), atol=1e-5)


@needs_whisper
def test_encoder_is_a_sequence_of_groups():
    model = load(n_out=10, seconds=1.)
    gs = groups(model)
    assert [type(g).__name__ for g in gs] == ['Stem', 'Block', 'Block', 'Block', 'Block', 'Pool', 'Linear']
    assert isinstance(model, nn.Sequential) and not model.training
    x = log_mel(torch.randn(3, RATE))
    h = x
    for g in gs: h = g(h)
    assert torch.equal(h, model(x)) and h.shape == (3, 10)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for g in gs for p in g.parameters())
    assert 'Stem' not in str([k for k in model.state_dict() if 'positions' in k])
    whole = load(seconds=2.)
    assert whole(x).shape == (3, 384) and torch.allclose(whole(x), nn.Sequential(*gs[:-1])(x), atol=1e-5), 'seconds is only the longest length'


@needs_whisper
def test_what_encoder_refuses():
    for kwargs, word in ((dict(seconds=31), '30'), (dict(seconds=0), '30'), (dict(name='whisper'), 'whisper_tiny_en')):
        with pytest.raises(SpeechError) as e: load(**kwargs)
        one_line(e, word)
    for x in (torch.zeros(1, 80, 102), torch.zeros(1, 60, 100), torch.zeros(80, 100)):
        with pytest.raises(SpeechError) as e: load(seconds=1.)(x)
        one_line(e, 'log-mel', 'seconds=')
    for f in (load, speech.whisper):
        with pytest.raises(SpeechError) as e: f('whisper_large')
        one_line(e, 'whisper_large')


# the front end

# the voice

# recordings

# clips and loaders

# with the helpers of other lessons

@needs_whisper
def test_probe_on_unseen_voices():
    "Ten words, ten clips of each, voices never heard: .90 is the least."
    dls = speech.speech(n_train=100, n_valid=100)
    model = load(n_out=dls.c, seconds=1.)
    assert probe(extract(model, dls.train), extract(model, dls.valid)).accuracy >= .9


@needs_whisper
def test_features_with_and_without_a_head():
    dls = speech.speech(n_train=20, n_valid=10, voices=VOICES[:8])
    a, b = (extract(load(n_out=n, seconds=1.), dls.valid, cache=False).x for n in (None, 10))
    assert a.shape == (10, 384) and np.allclose(a, b)
    deep = extract(load(n_out=10, seconds=1.), dls.valid, layer=[0, 4, 5], cache=False)
    assert [f.x.shape for f in deep] == [(10, 384)]*3 and np.allclose(deep[2].x, a)


@needs_whisper
def test_fine_tuning_moves_only_what_is_not_frozen_and_the_cache_changes_nothing():
    from fastai.optimizer import SGD
    after = []
    for cbs in ([], [PrefixCache()]):
        dls = speech.speech(n_train=16, n_valid=10, bs=8, voices=VOICES[:8], batch_tfms=None)
        torch.manual_seed(0)
        learn = learner(dls, load(n_out=10, seconds=1.), cbs=cbs, opt_func=SGD)
        learn.freeze_to(-3)
        with learn.no_bar(), learn.no_logging(), receipt(learn, show=False) as r: learn.fit(1, 1e-2)
        t = r.table
        assert not r.notes and (t.changed[:4] == 0).all() and (t.changed[4:] > 0).all() and (t['buffers changed'] == 0).all()
        after.append(learn.model[-1].weight.detach())
    assert torch.allclose(*after, atol=1e-5)


# from sound to text

@needs_whisper
def test_word_error_rate_on_ten_sentences(whisper):
    assert wer(SENTENCES, transcribe(whisper, [say(o) for o in SENTENCES])) <= .2


@needs_whisper
def test_an_encoder_is_transcribed_with_its_own_weights(whisper):
    "Untuned it says what the whole model says; changed, what the whole model says with the same change."
    import copy
    x = say('the boat left the harbor early in the morning')
    own, changed = load(), copy.deepcopy(whisper)
    want = transcribe(whisper, x, seconds=4)
    assert transcribe(own, x, seconds=4) == transcribe('whisper_tiny_en', x, seconds=4) == want == transcribe(load(n_out=3), x, seconds=4)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(own[4].layer.fc1.weight.shape, generator=g)*.3
    with torch.no_grad():
        own[4].layer.fc1.weight += noise
        changed.model.encoder.layers[3].fc1.weight += noise
    after = transcribe(own, x, seconds=4)
    assert after == transcribe(changed, x, seconds=4) != want
    assert transcribe(load(), x, seconds=4) == want, 'the bundled model has stayed as it was'


@needs_whisper
def test_integers_two_channels_and_files_are_transcribed_alike(whisper, tmp_path):
    import soundfile
    x = say('the boat left the harbor early in the morning')
    i16 = (x*32767).astype(np.int16)
    soundfile.write(tmp_path/'a.wav', np.stack([i16, i16], 1), RATE)
    forms = [x, i16, np.stack([x, x]), torch.from_numpy(x), tmp_path/'a.wav', (tmp_path/'a.wav').read_bytes()]
    assert set(transcribe(whisper, forms, seconds=4)) == {transcribe(whisper, x, seconds=4)} and 'boat' in transcribe(whisper, i16, seconds=4)
    with pytest.raises(SpeechError) as e: transcribe(whisper, x*32767)
    one_line(e, 'divide')


@pytest.mark.parametrize('said,heard,want', [('ten sheep', '10 sheep', 0), ('The harbor is gray.', 'the harbour is grey', 0), ('a b c d', 'a b c d', 0), ('a b c d', 'a x c', .5), ('A b, c d.', 'a B c d', 0), (['a b', 'c d'], ['a b', 'd'], .25), ('a', 'a b c', 2)])
def test_wer(said, heard, want): assert wer(said, heard) == want


def test_what_wer_and_transcribe_refuse():
    for a,b in ((['a'], ['a', 'b']), ('', 'a'), ([], [])):
        with pytest.raises(SpeechError) as e: wer(a, b)
        one_line(e, 'wer')
    for x in (np.zeros(31*RATE), np.zeros(0), np.zeros((100, 100)), np.full(10, np.nan)):
        with pytest.raises(SpeechError) as e: transcribe(None, x)
        one_line(e, 'transcribe')


# other models

@pytest.mark.parametrize('stable', [False, True])
def test_wav2vec2_through_the_same_interface(tmp_path, home, stable):
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
    torch.manual_seed(0)
    cfg = Wav2Vec2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16,)*3, conv_kernel=(10, 8, 8),
                         conv_stride=(5, 8, 8), num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
                         do_stable_layer_norm=stable, feat_extract_norm='layer' if stable else 'group', apply_spec_augment=False)
    Wav2Vec2Model(cfg).eval().save_pretrained(tmp_path)
    own, model = Wav2Vec2Model.from_pretrained(tmp_path).eval(), load(f'hf:{tmp_path}', 4)
    x = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    values = torch.from_numpy(np.stack(Wav2Vec2FeatureExtractor()(list(x), sampling_rate=RATE).input_values))
    with torch.no_grad():
        want = own(values).last_hidden_state.mean(1)
        for m in (model, model.train()): assert torch.allclose(nn.Sequential(*groups(m)[:-1])(torch.from_numpy(x)), want, atol=1e-4)
    assert [type(g).__name__ for g in groups(model)] == ['WaveStem', 'Block', 'Block', 'Pool', 'Linear']
    dls = speech.speech(n_train=20, n_valid=10, mel=False, voices=VOICES[:4])
    assert extract(model, dls.valid, cache=False).x.shape == (10, 32)
    with pytest.raises(SpeechError, match='mel=False'): model(torch.zeros(1, 80, 100))


def tiny_checkpoint(kind, path, dtype):
    "A small Whisper or Wav2Vec2 with its weights stored as `dtype`."
    import transformers as T
    torch.manual_seed(0)
    if kind == 'whisper':
        m = T.WhisperModel(T.WhisperConfig(d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
                                           vocab_size=60, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0))
    else:
        m = T.Wav2Vec2Model(T.Wav2Vec2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16,)*3, conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8),
                                             num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, apply_spec_augment=False))
    m.eval().to(dtype).save_pretrained(path)
    return m.float()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('kind', ['whisper', 'wav2vec2'])
def test_a_checkpoint_in_half_precision_becomes_float32(tmp_path, kind, dtype):
    "Transformers 5 keeps the checkpoint's own type, and float32 audio then raised RuntimeError."
    from transformers import AutoModel
    whole = tiny_checkpoint(kind, tmp_path, dtype)
    stored = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert next(stored.parameters()).dtype == dtype, 'the checkpoint is what the test says'
    model = load(f'hf:{tmp_path}', 3, 1.)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    x = torch.randn(2, RATE)*.1
    with torch.no_grad():
        if kind == 'whisper':
            full = log_mel(torch.randn(1, 30*RATE)*.1)
            want, got = whole.encoder(full).last_hidden_state.mean(1), load(f'hf:{tmp_path}', seconds=30.)(full)
        else:
            z = (x - x.mean(1, keepdim=True))/(x.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
            want, got = whole(z).last_hidden_state.mean(1), load(f'hf:{tmp_path}')(x)
    assert torch.allclose(got, want, atol=1e-4)
    model(x if kind == 'wav2vec2' else log_mel(x)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_random_weights_of_a_checkpoint_that_has_none(tmp_path):
    whole = tiny_checkpoint('whisper', tmp_path, torch.float16)
    random = load(f'hf:{tmp_path}', pretrained=False)
    assert not torch.allclose(random[1].layer.fc1.weight, whole.encoder.layers[0].fc1.weight) and random[1].layer.fc1.weight.dtype == torch.float32


@needs_whisper
def test_the_old_names_lead_to_the_new_ones():
    from tlcourse import sounds, voices
    with pytest.warns(FutureWarning, match='speech.load'): old = speech.encoder(2, 1.)
    assert type(old) is speech.SpeechEncoder and old[-1].out_features == 2 and len(old[0].positions) == 50 and not old.training
    torch.manual_seed(0)
    x = log_mel(torch.randn(1, RATE))
    with torch.no_grad(): assert torch.equal(old[:-1](x), load('whisper_tiny_en', 2, 1.)[:-1](x))
    for name, home in dict(WORDS=sounds, SENTENCES=sounds, Spoken=sounds, Wave=sounds, Sound=sounds, Mel=sounds, add_noise=sounds, VOICES=voices, ACCENTS=voices).items():
        with pytest.warns(FutureWarning, match=name): assert getattr(speech, name) is getattr(home, name)
    for name in 'speech load log_mel say clips read transcribe wer Clip predict whisper'.split(): assert callable(getattr(speech, name)) and name in speech.__all__


def test_transcribe_says_what_it_needs(tmp_path):
    tiny_checkpoint('whisper', tmp_path, torch.float32)
    for model in (load(f'hf:{tmp_path}'), 'hf:openai/whisper-base', nn.Linear(2, 2)):
        with pytest.raises(SpeechError) as e: transcribe(model, np.zeros(RATE, np.float32))
        one_line(e, 'transcribe', 'whisper()')


def test_other_whispers_and_other_models(tmp_path):
    from transformers import BertConfig, BertModel, WhisperConfig, WhisperModel
    WhisperModel(WhisperConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=60, pad_token_id=0,
                               bos_token_id=0, eos_token_id=0, decoder_start_token_id=0)).save_pretrained(tmp_path/'w')
    assert load(f"hf:{tmp_path/'w'}", 3, 1.)(torch.zeros(2, 80, 100)).shape == (2, 3)
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)).save_pretrained(tmp_path/'b')
    for name in (f"hf:{tmp_path/'b'}", f"hf:{tmp_path/'none'}"):
        with pytest.raises(SpeechError) as e: load(name, 3, 1.)
        one_line(e, 'hf:')


def test_without_the_extra_the_import_says_what_to_install():
    code = """import sys
for name in ('espeakng_loader', 'jiwer', 'transformers'):
    sys.modules[name] = None
    try: import tlcourse.speech
    except ImportError as e: print(e)
    del sys.modules[name]"""
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True).stdout
    assert out.splitlines() == [f"tlcourse.speech needs {o}; run pip install 'tlcourse[speech]'" for o in ('espeakng-loader', 'jiwer', 'Transformers')], out


@needs_whisper
def test_the_recipe_as_a_script(tmp_path):
    "On a folder of one's own recordings, in an empty folder, with nothing of the lesson but the recipe's cell."
    import json, os, subprocess, sys
    from pathlib import Path
    import soundfile
    nb = json.loads((Path(__file__).parent.parent/'nbs'/'lessons'/'09_speech.ipynb').read_text(encoding='utf-8'))
    recipe, = [s for c in nb['cells'] if (s := ''.join(c['source'])).startswith('#| label: lst-recipe')]
    _, first, *rest = recipe.splitlines()
    assert first.startswith("path, seconds, seed = 'keywords', 1., 0"), first
    for word in ('yes', 'stop'):
        (tmp_path/'mine'/word).mkdir(parents=True)
        for v in VOICES[:12]: soundfile.write(tmp_path/'mine'/word/f'{v}.wav', say(word, f'en-us+{v}'), 44_100 if v == 'f1' else RATE)
    soundfile.write(tmp_path/'new.wav', say('stop', 'en-us+m8'), RATE)
    script = '\n'.join(["path, seconds, seed = 'mine', 1., 0", *rest, 'print(answer.label.iloc[0])']).replace('item.source', "'new.wav'")
    (tmp_path/'recipe.py').write_text(script, encoding='utf-8')
    out = subprocess.run([sys.executable, '-W', 'ignore', 'recipe.py'], cwd=tmp_path, capture_output=True, text=True, encoding='utf-8',
                         env=os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent), PYTHONUTF8='1', CUDA_VISIBLE_DEVICES=''))
    assert out.returncode == 0, out.stderr[-600:]
    assert out.stdout.strip().splitlines()[-1] == 'stop' and (tmp_path/'my_model_09'/'tlcourse.json').exists()
