"Sounds: files and arrays that are not what they should be, one reader for training and prediction, honest splits."
import sys, warnings

import numpy as np
import pytest
import torch

pytest.importorskip('espeakng_loader'); pytest.importorskip('soundfile'); pytest.importorskip('jiwer')
soundfile = sys.modules['soundfile']

from tlcourse import sounds
from tlcourse.sounds import WORDS, Clip, add_noise, clips, fit, read, samples, speech
from tlcourse.voices import RATE, VOICES, SpeechError
from tlcourse.whisper import log_mel


def one_line(e, *words):
    text = str(e.value)
    assert '\n' not in text and len(text) < 400 and all(o in text for o in words), text


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
    dls = speech(n_train=40, n_valid=20, bs=8, voices=VOICES[:8])
    x, y = dls.one_batch()
    assert x.shape == (8, 80, 100) and x.dtype == torch.float32 and y.dtype == torch.int64 and list(dls.vocab) == WORDS and dls.c == 10
    assert len(dls.train_ds) == 40 and len(dls.valid_ds) == 20
    assert torch.allclose(dls.valid.one_batch()[0][:1], log_mel(dls.valid_ds[0][0][None]), atol=1e-6)
    x, _ = speech(n_train=20, n_valid=10, mel=False, seconds=.5, voices=VOICES[:4]).one_batch()
    assert x.shape == (20, RATE//2)


@pytest.mark.parametrize('label,group', [('text', 'voice'), ('accent', 'voice'), ('voice', 'text')])
def test_splits_are_honest_nested_and_balanced(label, group):
    def draw(n, seed=0): return speech(n_train=n, n_valid=20, seed=seed, voices=VOICES[:12], accents=['en-us', 'en-029'], label=label)
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
        with pytest.raises(SpeechError) as e: speech(*args, **kwargs)
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
    dls = speech(folder, bs=4, seed=1)
    x, y = dls.one_batch()
    assert x.shape == (4, 80, 100) and set(dls.vocab) == {'low', 'high'} and len(dls.train_ds) + len(dls.valid_ds) == 12 and not len(dls.bad)
    high = x[y == dls.vocab.o2i['high']].mean((0, 2)).argmax() if (y == dls.vocab.o2i['high']).any() else 55
    assert high > 50
    assert len(speech(folder, n_train=6, n_valid=4).valid_ds) == 4


def test_train_and_valid_folders(folder, tmp_path):
    import shutil
    for k in ('train', 'valid'): shutil.copytree(folder, tmp_path/'split'/k)
    dls = speech(tmp_path/'split')
    assert len(dls.train_ds) == len(dls.valid_ds) == 12 and 'train' in dls.train_ds.items[0].id and 'valid' in dls.valid_ds.items[0].id


def test_bad_files_in_a_folder(folder):
    (folder/'low'/'x.wav').write_text('no audio')
    soundfile.write(folder/'low'/'quiet.wav', np.zeros(RATE), RATE)
    soundfile.write(folder/'high'/'long.wav', np.tile(tone(1, 8000), 600), 8000)
    (folder/'high'/'notes.txt').write_text('not meant as audio')
    with pytest.raises(SpeechError) as e: speech(folder)
    one_line(e, 'x.wav', 'silent', '600 seconds', "bad='skip'")
    with pytest.warns(UserWarning, match='skipped'): dls = speech(folder, bad='skip')
    assert len(dls.bad) == 3 and len(dls.train_ds) + len(dls.valid_ds) == 12
    for f in (folder/'low').glob('[0-9]*'): f.unlink()
    with pytest.raises(SpeechError) as e, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        speech(folder, bad='skip')
    one_line(e, 'two classes')


def test_speech_commands_keeps_speakers_apart(tmp_path, monkeypatch, home):
    for w in ('yes', 'no'):
        (tmp_path/'mini'/w).mkdir(parents=True)
        for s in 'abcdefgh':
            for i in range(2): soundfile.write(tmp_path/'mini'/w/f'{s}_nohash_{i}.wav', tone(1), RATE)
    monkeypatch.setattr(sounds, 'online_folder', lambda *a: tmp_path/'mini')
    dls = speech('commands', n_train=10, n_valid=4)
    assert not {o.group for o in dls.train_ds.items} & {o.group for o in dls.valid_ds.items} and len(dls.train_ds) == 10


def test_speech_commands_offline(monkeypatch, home):
    monkeypatch.setenv('TLCOURSE_OFFLINE', '1')
    with pytest.raises(SpeechError) as e: speech('commands')
    one_line(e, 'TLCOURSE_OFFLINE', 'keywords')
