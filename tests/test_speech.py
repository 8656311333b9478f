"Speech: the weights against another runtime, the front end against Transformers', honest splits, and files that are not what they should be."
import re, subprocess, sys, warnings

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfiltfilt
from torch import nn

pytest.importorskip('espeakng_loader'); pytest.importorskip('soundfile'); pytest.importorskip('jiwer')
soundfile = sys.modules['soundfile']

from tlcourse import assets, speech
from tlcourse.backbones import groups
from tlcourse.features import extract, probe
from tlcourse.finetune import PrefixCache, learner, receipt
from tlcourse.speech import (RATE, SpeechError, Spoken, WORDS, Clip, add_noise, clips, encoder, fit, hidden, load, log_mel, read, say, transcribe, wer)

SENTENCES = ['The train to the city leaves at noon.', 'She bought a new coat for the winter.', 'Please close the window before you go.',
             'My brother plays the guitar every evening.', 'The children walked slowly to school.', 'We need more bread and butter.',
             'A cold wind came down from the north.', 'He could not find the key to his house.', 'The water in the lake was very clear.',
             'They painted the kitchen door blue.'] # none is in the lesson


def fetched(name):
    return not assets.problems(assets.find(name))


needs_whisper = pytest.mark.skipif(not fetched('whisper_tiny_en'), reason='whisper_tiny_en is not in the cache')


@pytest.fixture(scope='module')
def whisper(): return load()


def one_line(e, *words):
    text = str(e.value)
    assert '\n' not in text and len(text) < 400 and all(o in text for o in words), text


# the weights

@needs_whisper
def test_every_weight_is_filled_and_tied(whisper):
    v = speech._variables((assets.fetch('whisper_tiny_en')/'model.bin').read_bytes())
    keys = [a[384:768] for k,a in v.items() if k.endswith('self_attention/linear_0/bias')] + [a[:384] for k,a in v.items() if k.endswith('/attention/linear_1/bias')]
    assert len(keys) == 12 and not any(map(np.any, keys)), 'the keys have no bias, so none is lost'
    assert sum(a.size for a in v.values() if a.ndim) == sum(p.numel() for p in whisper.parameters()) + 12*384
    assert whisper.proj_out.weight is whisper.model.decoder.embed_tokens.weight
    assert torch.equal(whisper.model.encoder.conv1.weight, torch.from_numpy(v['encoder/conv1/weight'].astype(np.float32)))


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
    mel, model = log_mel(torch.randn(1, 30*RATE)*.1), encoder(seconds=30.)
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
    with torch.no_grad(): assert torch.allclose(encoder(seconds=1.)(mel), short(mel).last_hidden_state.mean(1), atol=1e-5)


@needs_whisper
def test_encoder_is_a_sequence_of_groups():
    model = encoder(10, 1.)
    gs = groups(model)
    assert [type(g).__name__ for g in gs] == ['Stem', 'Block', 'Block', 'Block', 'Block', 'Pool', 'Linear']
    assert isinstance(model, nn.Sequential) and not model.training
    x = log_mel(torch.randn(3, RATE))
    h = x
    for g in gs: h = g(h)
    assert torch.equal(h, model(x)) and h.shape == (3, 10)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for g in gs for p in g.parameters())
    assert 'Stem' not in str([k for k in model.state_dict() if 'positions' in k])
    whole = encoder(seconds=2.)
    assert whole(x).shape == (3, 384) and torch.allclose(whole(x), nn.Sequential(*gs[:-1])(x), atol=1e-5), 'seconds is only the longest length'


@needs_whisper
def test_what_encoder_refuses():
    for kwargs, word in ((dict(seconds=31), '30'), (dict(seconds=0), '30'), (dict(name='whisper'), 'whisper_tiny_en')):
        with pytest.raises(SpeechError) as e: encoder(**kwargs)
        one_line(e, word)
    for x in (torch.zeros(1, 80, 102), torch.zeros(1, 60, 100), torch.zeros(80, 100)):
        with pytest.raises(SpeechError) as e: encoder(seconds=1.)(x)
        one_line(e, 'log-mel', 'seconds=')
    with pytest.raises(SpeechError) as e: load('whisper_large')
    one_line(e, 'whisper_large')


def test_a_damaged_model_file_is_told(tmp_path):
    for data in (b'', b'\6\0\0\0junk', b'\6\0\0\0' + b'\x0c\0WhisperSpec\0' + b'\3\0\0\0' + b'\xff\0\0\0'):
        (tmp_path/'model.bin').write_bytes(data)
        with pytest.raises(SpeechError) as e: speech._read_weights(tmp_path/'model.bin')
        one_line(e, 'model.bin', 'fetch')


# the front end

@pytest.mark.parametrize('seconds', [.5, 1., 3.7])
def test_log_mel_is_transformers_without_the_padding(seconds):
    from transformers import WhisperFeatureExtractor
    x = np.random.default_rng(0).standard_normal(round(RATE*seconds)).astype(np.float32)*.1
    want = torch.from_numpy(WhisperFeatureExtractor()(x, sampling_rate=RATE, return_tensors='np').input_features)
    got = log_mel(torch.from_numpy(x)[None])
    assert got.shape == (1, 80, len(x)//160) and torch.allclose(got, want[..., :got.shape[-1]], atol=1e-4)


def test_log_mel_of_each_clip_is_its_own():
    x = torch.randn(3, RATE)*torch.tensor([[1.], [.01], [0.]])
    assert torch.allclose(log_mel(x)[1:2], log_mel(x[1:2]), atol=1e-5) and torch.isfinite(log_mel(x)).all()


def test_log_mel_finds_a_tone():
    t = torch.arange(RATE)/RATE
    low, high = (log_mel(torch.sin(2*torch.pi*f*t)[None])[0].mean(1).argmax().item() for f in (300, 3000))
    assert low < 12 and 50 < high < 60


# the voice

def test_say_is_the_same_each_time_whatever_was_said_before(home):
    a = say('seven', 'en-us+f3')
    b = say('the quick brown fox', 'en-gb-scotland+m3')
    for f in (home/'speech').rglob('*.npy'): f.unlink()
    assert np.array_equal(b, say('the quick brown fox', 'en-gb-scotland+m3')) and np.array_equal(a, say('seven', 'en-us+f3'))
    assert a.dtype == np.float32 and .2 < len(a)/RATE < 1.5 and .05 < abs(a).max() <= 1


def test_say_is_the_same_in_another_process(home):
    import hashlib, os
    code = "from tlcourse.speech import say; import hashlib; print(hashlib.sha256(say('seven', 'en-us+m3').tobytes()).hexdigest())"
    said = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True, env={**os.environ, 'TLCOURSE_HOME': str(home/'other')})
    assert said.stdout.strip() == hashlib.sha256(say('seven', 'en-us+m3').tobytes()).hexdigest()


def test_say_follows_its_parameters(home):
    x = say('one two three four five')
    assert len(say('one two three four five', speed=300)) < .8*len(x) and len(say('one two three four five', speed=100)) > 1.2*len(x)
    def pitch(x): # of the middle, from the lag at which it is most like itself once all above 300 Hz is gone
        x = sosfiltfilt(butter(4, 300, output='sos', fs=RATE), x)[len(x)//4:3*len(x)//4]
        return RATE/(50 + np.correlate(x, x, 'full')[len(x)-1:][50:320].argmax())
    low, high = (pitch(say('a long arm', pitch=o)) for o in (5, 95))
    assert 50 < low < 100 < 140 < high < 200
    assert not np.array_equal(say('but', 'en-us'), say('but', 'en-gb-x-gbclan'))


def test_say_is_kept_and_mended(home, monkeypatch):
    x = say('seven')
    f, = (home/'speech').rglob('*.npy')
    with monkeypatch.context() as m:
        m.setattr(speech, '_synthesize', lambda *a: pytest.fail('spoken again'))
        assert np.array_equal(say('seven'), x)
    for junk in (b'', f.read_bytes()[:-100], b'not an array'):
        f.write_bytes(junk)
        assert np.array_equal(say('seven'), x) and f.read_bytes() != junk
    monkeypatch.setattr(speech.np, 'save', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    assert len(say('eight')) and not [*home.rglob('*.tmp')]


@pytest.mark.parametrize('args,words', [(('', ), ['nothing to say']), (('...', ), ['nothing to say']), ((5, ), ['nothing to say']), (('a'*1001, ), ['1,000']),
    (('a\0b', ), ['plain text']), (('hi', 'klingon'), ['klingon']), (('hi', 'en-us+f33'), ['f33', "did you mean 'f3'"]), (('hi', ''), ['language']),
    (('hi', 'en-us', 20), ['speed']), (('hi', 'en-us', 175, 100), ['pitch'])])
def test_what_say_refuses(home, args, words):
    with pytest.raises(SpeechError) as e: say(*args)
    one_line(e, *words)


def test_every_accent_and_voice_speaks(home):
    heard = [say('go', a) for a in speech.ACCENTS] + [say('go', f'en-us+{v}') for v in speech.VOICES]
    assert all(len(x) > 2000 and abs(x).max() > .02 for x in heard)
    assert len({x.tobytes() for x in heard[len(speech.ACCENTS):]}) == len(set(speech.VOICES)) == len(speech.VOICES)


# recordings

@pytest.fixture
def wav(tmp_path):
    "Write samples to a file, and give its path."
    def write(x, rate=RATE, name='a.wav', **kwargs):
        soundfile.write(tmp_path/name, x, rate, **kwargs)
        return tmp_path/name
    return write


def tone(seconds, rate=RATE, f=440): return .5*np.sin(2*np.pi*f*np.arange(round(seconds*rate))/rate).astype(np.float32)


@pytest.mark.parametrize('rate', [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_becomes_16_khz(wav, rate):
    x, want = read(wav(tone(1, rate), rate)), tone(1)
    assert abs(len(x) - RATE) <= 1 and np.abs(x[500:-500] - want[500:len(x)-500]).max() < .02


def test_what_16_khz_cannot_hold_is_gone(wav):
    "20 kHz, recorded at 192 kHz, must not come back as another tone."
    assert np.abs(read(wav(tone(1, 192000, 20000) + .01*tone(1, 192000), 192000))[500:-500]).max() < .02


@pytest.mark.parametrize('subtype', ['PCM_U8', 'PCM_16', 'PCM_24', 'FLOAT', 'DOUBLE', 'ULAW'])
def test_any_depth(wav, subtype): assert np.abs(read(wav(tone(1), subtype=subtype)) - tone(1)).max() < .02


@pytest.mark.parametrize('name', ['a.flac', 'a.ogg', 'a.mp3', 'a.aiff'])
def test_other_formats(wav, name): assert .99 < len(read(wav(tone(1), name=name)))/RATE < 1.2


def test_channels_are_averaged(wav): assert np.abs(read(wav(np.stack([tone(1), 0*tone(1)], 1))) - tone(1)/2).max() < 1e-3


def test_clipped_audio_is_read_with_a_warning(wav):
    with pytest.warns(UserWarning, match='clipped') as said: read(wav((10*tone(1)).clip(-1, 1)))
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read(wav(tone(1)))


@pytest.mark.parametrize('make,word', [
    (lambda w, d: w(np.zeros(RATE, np.float32)), 'silent'), (lambda w, d: w(np.zeros(0, np.float32)), '0 seconds'),
    (lambda w, d: w(.3*np.ones(RATE, np.float32)), 'silent'), (lambda w, d: w(np.tile(tone(1, 8000), 600), 8000), '600 seconds'),
    (lambda w, d: w(np.full(RATE, np.nan, np.float32), subtype='FLOAT'), 'not numbers'), (lambda w, d: d/'none.wav', 'no file'), (lambda w, d: d, 'no file'),
    (lambda w, d: (d/'b.wav').write_bytes(b'') or d/'b.wav', 'empty'), (lambda w, d: (d/'b.wav').write_bytes(b'RIFF1234WAVEjunk') and d/'b.wav', 'not audio'),
    (lambda w, d: (d/'b.wav').write_text('my shopping list') and d/'b.wav', 'not audio'), (lambda w, d: (d/'b.png').write_bytes(b'\x89PNG\r\n') and d/'b.png', 'not audio')])
def test_what_cannot_be_a_recording(wav, tmp_path, make, word):
    with pytest.raises(SpeechError) as e: read(make(wav, tmp_path))
    one_line(e, word)


def test_a_long_file_is_refused_before_it_is_decoded(wav, monkeypatch):
    path = wav(np.tile(tone(1, 8000), 600), 8000)
    monkeypatch.setattr(soundfile.SoundFile, 'read', lambda *a, **k: pytest.fail('decoded'))
    with pytest.raises(SpeechError, match='600 seconds'): read(path)


# clips and loaders

def test_fit_keeps_the_loudest():
    x = np.concatenate([.1*np.ones(5), np.ones(3), .1*np.ones(5)]).astype(np.float32)
    assert fit(x, 3).tolist() == [1, 1, 1] and len(fit(x, 13)) == 13 and fit(x, 15)[13:].tolist() == [0, 0] and np.array_equal(fit(x, 13), x)
    brute = max(range(len(x) - 6), key=lambda i: (x[i:i+7]**2).sum())
    assert np.array_equal(fit(x, 7), x[brute:brute+7])


@pytest.mark.parametrize('snr', [-5, 0, 20])
def test_noise_has_the_power_it_should(snr):
    x = tone(1)
    n = add_noise(x, snr, 'a') - x
    assert abs(10*np.log10((x**2).mean()/(n**2).mean()) - snr) < .01
    assert np.array_equal(add_noise(x, snr, 'a'), add_noise(x, snr, 'a')) and not np.array_equal(add_noise(x, snr, 'a'), add_noise(x, snr, 'b'))


def test_loaders(home):
    dls = speech.speech(n_train=40, n_valid=20, bs=8, voices=speech.VOICES[:8])
    x, y = dls.one_batch()
    assert x.shape == (8, 80, 100) and x.dtype == torch.float32 and y.dtype == torch.int64 and list(dls.vocab) == WORDS and dls.c == 10
    assert len(dls.train_ds) == 40 and len(dls.valid_ds) == 20
    assert torch.allclose(dls.valid.one_batch()[0][:1], log_mel(dls.valid_ds[0][0][None]), atol=1e-6)
    x, _ = speech.speech(n_train=20, n_valid=10, mel=False, seconds=.5, voices=speech.VOICES[:4]).one_batch()
    assert x.shape == (20, RATE//2)


@pytest.mark.parametrize('label,group', [('text', 'voice'), ('accent', 'voice'), ('voice', 'text')])
def test_splits_are_honest_nested_and_balanced(label, group):
    def draw(n, seed=0): return speech.speech(n_train=n, n_valid=20, seed=seed, voices=speech.VOICES[:12], accents=['en-us', 'en-029'], label=label)
    small, large = draw(24), draw(48)
    def of(ds, a): return [getattr(o.source, a) for o in ds.items]
    assert not set(of(large.train_ds, group)) & set(of(large.valid_ds, group))
    assert {o.id for o in small.train_ds.items} <= {o.id for o in large.train_ds.items}
    assert [o.id for o in small.valid_ds.items] == [o.id for o in large.valid_ds.items]
    counts = np.unique([o.label for o in large.train_ds.items], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    assert set(of(draw(24, 1).valid_ds, group)) != set(of(small.valid_ds, group))


def test_what_speech_refuses(home, tmp_path):
    for args, kwargs, words in (((), dict(n_train=10**6), ['n_train']), ((), dict(n_train=2), ['n_train', '10']), ((), dict(seconds=31), ['30']),
            ((), dict(label='emotion'), ['emotion']), ((), dict(voices=['f1']), ['voices']), (([],), {}, ['classes']), (('keyword',), {}, ['exist']),
            ((clips(),), dict(accents='en-029'), ['clips()']), ((tmp_path,), {}, ['subfolders', 'recordings'])):
        with pytest.raises(SpeechError) as e: speech.speech(*args, **kwargs)
        one_line(e, *words)


@pytest.fixture
def folder(tmp_path):
    "Two classes with six recordings each, of odd formats."
    for c,f in (('low', 300), ('high', 3000)):
        (tmp_path/'data'/c).mkdir(parents=True)
        for i,(rate, subtype) in enumerate([(8000, 'PCM_U8'), (44100, 'PCM_16'), (192000, 'PCM_24'), (16000, 'FLOAT'), (22050, 'PCM_16'), (48000, 'PCM_16')]):
            x = tone(.5 + .3*i, rate, f)
            soundfile.write(tmp_path/'data'/c/f'{i}.wav', np.stack([x, x], 1) if i % 2 else x, rate, subtype=subtype)
    return tmp_path/'data'


def test_a_folder_of_ones_own(folder):
    dls = speech.speech(folder, bs=4, seed=1)
    x, y = dls.one_batch()
    assert x.shape == (4, 80, 100) and set(dls.vocab) == {'low', 'high'} and len(dls.train_ds) + len(dls.valid_ds) == 12 and not len(dls.bad)
    high = x[y == dls.vocab.o2i['high']].mean((0, 2)).argmax() if (y == dls.vocab.o2i['high']).any() else 55
    assert high > 50
    assert len(speech.speech(folder, n_train=6, n_valid=4).valid_ds) == 4


def test_train_and_valid_folders(folder, tmp_path):
    import shutil
    for k in ('train', 'valid'): shutil.copytree(folder, tmp_path/'split'/k)
    dls = speech.speech(tmp_path/'split')
    assert len(dls.train_ds) == len(dls.valid_ds) == 12 and 'train' in dls.train_ds.items[0].id and 'valid' in dls.valid_ds.items[0].id


def test_bad_files_in_a_folder(folder):
    (folder/'low'/'x.wav').write_text('no audio')
    soundfile.write(folder/'low'/'quiet.wav', np.zeros(RATE), RATE)
    soundfile.write(folder/'high'/'long.wav', np.tile(tone(1, 8000), 600), 8000)
    (folder/'high'/'notes.txt').write_text('not meant as audio')
    with pytest.raises(SpeechError) as e: speech.speech(folder)
    one_line(e, 'x.wav', 'silent', '600 seconds', "bad='skip'")
    with pytest.warns(UserWarning, match='skipped'): dls = speech.speech(folder, bad='skip')
    assert len(dls.bad) == 3 and len(dls.train_ds) + len(dls.valid_ds) == 12
    for f in (folder/'low').glob('[0-9]*'): f.unlink()
    with pytest.raises(SpeechError) as e, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        speech.speech(folder, bad='skip')
    one_line(e, 'two classes')


def test_speech_commands_keeps_speakers_apart(tmp_path, monkeypatch, home):
    for w in ('yes', 'no'):
        (tmp_path/'mini'/w).mkdir(parents=True)
        for s in 'abcdefgh':
            for i in range(2): soundfile.write(tmp_path/'mini'/w/f'{s}_nohash_{i}.wav', tone(1), RATE)
    monkeypatch.setattr(speech, '_online', lambda name, url: tmp_path/'mini')
    dls = speech.speech('commands', n_train=10, n_valid=4)
    assert not {o.group for o in dls.train_ds.items} & {o.group for o in dls.valid_ds.items} and len(dls.train_ds) == 10


def test_speech_commands_offline(monkeypatch, home):
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    with pytest.raises(SpeechError) as e: speech.speech('commands')
    one_line(e, 'TLCOURSE_OFFLINE', 'keywords')


# with the helpers of other lessons

@needs_whisper
def test_probe_on_unseen_voices():
    "Ten words, ten clips of each, voices never heard: .90 is the least."
    dls = speech.speech(n_train=100, n_valid=100)
    model = encoder(dls.c, 1.)
    assert probe(extract(model, dls.train), extract(model, dls.valid)).accuracy >= .9


@needs_whisper
def test_features_with_and_without_a_head():
    dls = speech.speech(n_train=20, n_valid=10, voices=speech.VOICES[:8])
    a, b = (extract(encoder(n, 1.), dls.valid, cache=False).x for n in (None, 10))
    assert a.shape == (10, 384) and np.allclose(a, b)
    deep = extract(encoder(10, 1.), dls.valid, layer=[0, 4, 5], cache=False)
    assert [f.x.shape for f in deep] == [(10, 384)]*3 and np.allclose(deep[2].x, a)


@needs_whisper
def test_fine_tuning_moves_only_what_is_not_frozen_and_the_cache_changes_nothing():
    from fastai.optimizer import SGD
    after = []
    for cbs in ([], [PrefixCache()]):
        dls = speech.speech(n_train=16, n_valid=10, bs=8, voices=speech.VOICES[:8], batch_tfms=None)
        torch.manual_seed(0)
        learn = learner(dls, encoder(10, 1.), cbs=cbs, opt_func=SGD)
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


@pytest.mark.parametrize('said,heard,want', [('a b c d', 'a b c d', 0), ('a b c d', 'a x c', .5), ('A b, c d.', 'a B c d', 0), (['a b', 'c d'], ['a b', 'd'], .25), ('a', 'a b c', 2)])
def test_wer(said, heard, want): assert wer(said, heard) == want


def test_what_wer_and_transcribe_refuse():
    for a,b in ((['a'], ['a', 'b']), ('', 'a'), ([], [])):
        with pytest.raises(SpeechError) as e: wer(a, b)
        one_line(e, 'wer')
    for x in (np.zeros(31*RATE), np.zeros(0), np.zeros((2, 100)), np.full(10, np.nan)):
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
    own, model = Wav2Vec2Model.from_pretrained(tmp_path).eval(), encoder(4, name=f'hf:{tmp_path}')
    x = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    values = torch.from_numpy(np.stack(Wav2Vec2FeatureExtractor()(list(x), sampling_rate=RATE).input_values))
    with torch.no_grad():
        want = own(values).last_hidden_state.mean(1)
        for m in (model, model.train()): assert torch.allclose(nn.Sequential(*groups(m)[:-1])(torch.from_numpy(x)), want, atol=1e-4)
    assert [type(g).__name__ for g in groups(model)] == ['WaveStem', 'Block', 'Block', 'Pool', 'Linear']
    dls = speech.speech(n_train=20, n_valid=10, mel=False, voices=speech.VOICES[:4])
    assert extract(model, dls.valid, cache=False).x.shape == (10, 32)
    with pytest.raises(SpeechError, match='mel=False'): model(torch.zeros(1, 80, 100))


def test_other_whispers_and_other_models(tmp_path):
    from transformers import BertConfig, BertModel, WhisperConfig, WhisperModel
    WhisperModel(WhisperConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=60, pad_token_id=0,
                               bos_token_id=0, eos_token_id=0, decoder_start_token_id=0)).save_pretrained(tmp_path/'w')
    assert encoder(3, 1., f"hf:{tmp_path/'w'}")(torch.zeros(2, 80, 100)).shape == (2, 3)
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)).save_pretrained(tmp_path/'b')
    for name in (f"hf:{tmp_path/'b'}", f"hf:{tmp_path/'none'}"):
        with pytest.raises(SpeechError) as e: encoder(3, 1., name)
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
