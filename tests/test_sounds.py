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


# arrays and files of every type

@pytest.mark.parametrize('subtype,dtype', [('PCM_U8', np.uint8), ('PCM_16', np.int16), ('PCM_24', np.int32), ('PCM_32', np.int32), ('FLOAT', np.float32), ('DOUBLE', np.float64)])
def test_an_array_is_read_as_its_file_is(wav, subtype, dtype):
    "scipy gives what stands in the file, soundfile what it means."
    from scipy.io import wavfile
    path = wav(np.stack([tone(1), .5*tone(1, f=700)], 1), subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        rate, x = wavfile.read(path)
    assert x.dtype == dtype and rate == RATE
    want = soundfile.read(path, dtype='float64')[0].mean(1)
    for got in (samples(x), samples(x.T), samples(torch.from_numpy(x)), samples(path), samples(str(path)), samples(path.read_bytes())):
        assert got.dtype == np.float32 and np.abs(got - want).max() < 1e-6


def test_the_ends_of_each_range():
    for dtype, low, high in ((np.int8, -128, 127), (np.int16, -2**15, 2**15 - 1), (np.int32, -2**31, 2**31 - 1), (np.uint8, 0, 255), (np.uint16, 0, 2**16 - 1)):
        x = samples(np.array([low, high, (low + high + 1)//2]*3, dtype))
        assert x[0] == -1 and .99 < x[1] <= 1 and x[2] == 0, dtype
    for x in ([0, .5, -1.5], torch.tensor([0, .5, -1.5], dtype=torch.float16), torch.tensor([0, .5, -1.5], dtype=torch.bfloat16, requires_grad=True), np.array([0, .5, -1.5])):
        assert samples(x).tolist() == [0, .5, -1.5]


@pytest.mark.parametrize('x,word', [(tone(1)*32767, 'divide'), (np.full(100, np.nan), 'not numbers'), (np.ones(100, np.int64), 'int64'), ([1, 2, 3], 'int64'), (np.ones(100, bool), 'bool'),
    (np.ones(100, complex), 'complex'), (None, 'NoneType'), (np.zeros(0), '0 samples'), (np.zeros((0, 2)), '0 samples'), (np.zeros((100, 100)), '[100, 100]'), (np.zeros((2, 2)), '[2, 2]'),
    (np.zeros((2, 2, 100)), '[2, 2, 100]'), (np.float32(1), '[]'), ([tone(1), tone(1)], 'list of 2'), (['a.wav'], 'list of 1'), ({'rate': 5}, 'array'), (b'RIFFjunk', 'not audio'),
    (dict(array=tone(1)*32767, sampling_rate=RATE), 'divide'), ({1, 2}, 'set')], ids=lambda o: o if isinstance(o, str) else '')
def test_what_is_no_audio(x, word):
    with pytest.raises(SpeechError) as e: samples(x)
    one_line(e, word)


def test_a_float_file_in_integer_units_is_refused_and_one_a_little_beyond_is_not(wav):
    with pytest.raises(SpeechError) as e: read(wav(tone(1)*32767, subtype='FLOAT'))
    one_line(e, 'a.wav', '16,384', '32768')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert abs(read(wav(tone(1)*2.6, subtype='FLOAT', name='b.wav'))).max() > 1.2


def test_dictionaries_say_their_rate(wav):
    x = tone(1, 8000)
    path = wav(x, 8000, subtype='FLOAT')
    for o in (dict(array=x, sampling_rate=8000), dict(path=str(path), bytes=None), dict(path=None, bytes=path.read_bytes()), dict(array=(x*32767).astype(np.int16), sampling_rate=8000)):
        assert len(samples(o)) == RATE and np.abs(samples(o) - read(path)).max() < 1e-3


# one reader for training and for prediction

@pytest.fixture(scope='module')
def tones():
    "Clips of low and of high tones, shorter than the second that they are brought to, as arrays."
    rng = np.random.default_rng(0)
    return [Clip(f'{c}{i}', c, tone(.4 + .02*i, f=f*(1 + .01*i)) + .01*rng.standard_normal(len(tone(.4 + .02*i))).astype(np.float32)) for c,f in (('low', 300), ('high', 3000)) for i in range(8)]


@pytest.fixture
def learn(tones, tmp_path):
    import fastai.callback.progress # no_bar
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8000, 2))
    res = Learner(speech(tones, bs=4), net, CrossEntropyLossFlat(), path=tmp_path)
    with res.no_bar(), res.no_logging(): yield res


def test_a_recording_is_predicted_as_in_training_whatever_it_comes_as(learn, tones, wav):
    x = tones[3].source
    with torch.no_grad(): want = learn.model(log_mel(torch.from_numpy(np.pad(x, (0, RATE - len(x)))[None]))).softmax(1)[0] # by hand
    path = wav(x, subtype='FLOAT')
    forms = dict(path=path, str=str(path), bytes=path.read_bytes(), array=x, stereo=np.stack([x, x]), tensor=torch.from_numpy(x), int16=(x*32767).astype(np.int16),
                 int32=(x*2**31).astype(np.int32), uint8=(x*127 + 128).round().astype(np.uint8), clip=Clip('new', '?', x), unlabeled=Clip('new', 'low', path), dict=dict(array=x, sampling_rate=RATE))
    for k,o in forms.items():
        tol = .02 if k == 'uint8' else 1e-3
        assert torch.allclose(learn.predict(o)[2], want, atol=tol), k
        assert abs(sounds.predict(learn, o).iloc[0, 2:].to_numpy(float) - want.numpy()).max() < tol, k
    table = sounds.predict(learn.model.train(), list(forms.values()), learn.dls)
    assert learn.model.training and list(table.columns) == ['label', 'probability', *learn.dls.vocab] and len(table) == len(forms)
    assert (table.label == table[list(learn.dls.vocab)].idxmax(axis=1)).all() and np.allclose(table.probability, table[list(learn.dls.vocab)].max(axis=1))
    assert learn.dls.test_dl([path, x]).one_batch()[0].shape == (2, 80, 100)
    alone = sounds.predict(learn.model, [o for o in forms.values()], seconds=1., vocab=['low', 'high'])
    assert np.allclose(alone[['low', 'high']], table[['low', 'high']], atol=1e-5) and alone.label.tolist() == table.label.tolist()


def test_what_predict_refuses(learn, tones, tmp_path):
    for args, word in (((learn.model, tones[0]), 'dls'), ((learn.model, tones[0], None, 1., ['a', 'b', 'c']), '3 names'), ((learn, []), 'empty'), ((learn, tones[0].source*32767), 'divide'), ((learn, tmp_path/'none.wav'), 'no file')):
        with pytest.raises(SpeechError) as e: sounds.predict(*args)
        one_line(e, word)
    with pytest.raises(SpeechError) as e: learn.predict([tones[0].source, tones[1].source])
    one_line(e, 'sounds.predict')


def test_an_exported_learner_takes_no_audio_along_and_says_the_same(learn, tones, tmp_path):
    from fastai.learner import load_learner
    for o in learn.dls.train: pass
    assert learn.dls.train_ds.tls[0].tfms.fs[0].kept
    learn.export('a.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'a.pkl')
    assert not new.dls.train_ds.tls[0].tfms.fs[0].kept
    with new.no_bar(): assert torch.allclose(new.predict(tones[5].source)[2], learn.predict(tones[5].source)[2], atol=1e-6)


def test_two_sets_with_the_same_names_do_not_mix(tones):
    "tlcourse kept audio by the clip's id: the second set was heard as the first."
    others = [Clip(o.id, o.label, o.source[::-1].copy()*.5) for o in tones]
    a, b = speech(tones, valid=tones), speech(others, valid=others)
    for o in (*a.train, *b.train): pass
    got = a.test_dl(b.valid_ds.items).one_batch()[0]
    want = log_mel(torch.from_numpy(np.stack([fit(o.source, RATE) for o in others])))
    assert torch.allclose(got.as_subclass(torch.Tensor).cpu(), want, atol=1e-5)


def test_a_file_or_an_array_that_changes_is_read_anew(wav):
    import os
    sound, x = sounds.Sound(1.), tone(1).copy()
    file, array = Clip('a', 'y', wav(x, subtype='FLOAT')), Clip('b', 'y', x)
    for o in (file, array): assert torch.equal(sound(o), torch.from_numpy(tone(1))) and sound(o) is sound(o), 'kept'
    wav(.5*x, subtype='FLOAT')
    os.utime(file.source, ns=(1, 1))
    x *= .5
    for o in (file, array): assert torch.equal(sound(o), torch.from_numpy(.5*tone(1)))
    assert sounds.Sound(1., keep=10)(file) is not None and not sounds.Sound(1., keep=10).kept


def test_noise_belongs_to_the_clip_and_is_kept_with_it():
    sound, s = sounds.Sound(.5), tone(.5)
    a, b, clean = (sound(Clip(i, 'y', s, noise=n)) for i,n in (('a', 0.), ('b', 0.), ('a', None)))
    assert not torch.equal(a, b) and torch.equal(clean, torch.from_numpy(s)) and torch.equal(a, sound(Clip('a', 'y', s, noise=0.)))


# show_batch

@pytest.fixture
def shown(monkeypatch):
    import IPython.display
    res = []
    monkeypatch.setattr(IPython.display, 'display', res.append)
    return res


@pytest.mark.parametrize('mel', [True, False])
def test_show_batch_draws_what_the_network_gets(tones, shown, mel):
    dls = speech(tones, bs=4, mel=mel)
    dls.show_batch()
    fig, = shown
    x, _ = dls.valid.one_batch()
    want = (x if mel else log_mel(x)).as_subclass(torch.Tensor).cpu().numpy()
    dls.valid.show_batch(max_n=3)
    drawn = [ax.images[0].get_array() for ax in shown[1].axes if ax.images]
    assert len(drawn) == 3 and all(np.allclose(a, b, atol=1e-5) for a,b in zip(drawn, want)) and 'low' in fig.alt and 'high' in fig.alt and '4 clips' in fig.alt
    dls.test_dl([tone(1), tone(.5)]).show_batch()
    assert len(shown) == 3
    import matplotlib.figure
    axs = matplotlib.figure.Figure().subplots(1, 2)
    dls.show_batch(ctxs=axs, max_n=2)
    assert len(shown) == 3 and all(ax.images and ax.get_title() in dls.vocab for ax in axs)


def test_show_results_names_what_was_predicted(learn, shown):
    learn.show_results(max_n=2)
    assert 'predicted' in shown[0].alt


@pytest.mark.parametrize('labels', [[('a', 'b'), ('a',), (), ('b',)]*4, [i/3 for i in range(16)], [(i/3, 1.) for i in range(16)], [0, 1]*8])
def test_show_batch_of_other_targets(labels, shown):
    speech([Clip(f'{i}', l, tone(.5, f=200 + 50*i)) for i,l in enumerate(labels)], bs=4).show_batch()
    assert len(shown) == 1


# targets

def test_several_labels_and_numbers_have_their_own_loss():
    def of(labels): return speech([Clip(f'{i}', l, tone(.2, f=200 + 50*i)) for i,l in enumerate(labels)], bs=16, seconds=.2)
    several, numbers, ints = of([('a', 'b'), ('a',), (), ('b',)]*4), of([i/3 for i in range(16)]), of([2, 10]*8)
    assert list(several.vocab) == ['a', 'b'] and several.one_batch()[1].shape[1] == 2 and 'BCE' in type(several.loss_func).__name__
    assert numbers.one_batch()[1].dtype == torch.float32 and 'MSE' in str(numbers.loss_func.func) + type(numbers.loss_func).__name__.upper()
    assert list(ints.vocab) == ['2', '10']
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2))
    with torch.no_grad(): net[-1].weight.zero_(); net[-1].bias.copy_(torch.tensor([3., -3]))
    table = sounds.predict(net, [tone(1)]*2, several)
    assert table.label.tolist() == [('a',)]*2 and np.allclose(table.a, 1/(1 + np.exp(-3))) and np.allclose(table.b, 1/(1 + np.exp(3)))
    assert np.allclose(sounds.predict(torch.nn.Sequential(net, torch.nn.Linear(2, 1)), [tone(1)], numbers).shape, (1, 1))


# folders in parts, tables, groups

@pytest.fixture
def make(tmp_path):
    "Write clips of `classes` into a folder, named by speaker."
    def write(root, classes=('low', 'high'), speakers='abcd', each=2):
        for c,f in zip(classes, (300, 3000, 1000)):
            (root/c).mkdir(parents=True)
            for k,s in enumerate(speakers):
                for i in range(each): soundfile.write(root/c/f'{s}_{i}.wav', tone(.2, f=f + 20*k + 5*i), RATE)
        return root
    return write


@pytest.mark.parametrize('names', [('train', 'valid'), ('Train', 'Val'), ('training', 'validation'), ('seg_train', 'seg_dev'), ('train_set', 'val_set')])
def test_folders_of_a_split_in_every_spelling(make, tmp_path, names):
    for n in names: make(tmp_path/'d'/n)
    dls = speech(tmp_path/'d', seconds=.2)
    assert sorted(dls.vocab) == ['high', 'low'] and all(names[0] in o.id for o in dls.train_ds.items) and all(f'/{names[1]}/' in o.id for o in dls.valid_ds.items)
    assert len(dls.train_ds) == len(dls.valid_ds) == 16 and dls.test is None
    assert len(speech(tmp_path/'d', n_train=6, n_valid=4, seconds=.2).train_ds) == 6


def test_a_labeled_test_part(make, tmp_path):
    for n in ('Train', 'Test'): make(tmp_path/'d'/n)
    dls = speech(tmp_path/'d', seconds=.2)
    assert len(dls.test.dataset) == 16 and all('/Test/' in o.id for o in dls.test.items) and all('/Train/' in o.id for o in dls.train_ds.items + dls.valid_ds.items)
    heard = [(x, y) for x,y in dls.test]
    assert sum((y.tolist() for _,y in heard), []) == [dls.vocab.o2i[o.label] for o in dls.test.items] and all(x.shape[1:] == (80, 20) for x,_ in heard)
    apart = speech(make(tmp_path/'e'), test=.25, valid=.25, seconds=.2)
    ids = [{o.id for o in p} for p in (apart.train_ds.items, apart.valid_ds.items, apart.test.items)]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 16 and len(ids[2]) == len(ids[1]) == 4


def test_parts_given_as_folders(make, tmp_path):
    make(tmp_path/'d'); make(tmp_path/'held', speakers='xy'); make(tmp_path/'later', speakers='z')
    dls = speech(tmp_path/'d', valid=tmp_path/'held', test=tmp_path/'later', seconds=.2)
    assert {o.id.split('/')[-1][0] for o in dls.valid_ds.items} == {'x', 'y'} and {o.id.split('/')[-1][0] for o in dls.test.items} == {'z'} and len(dls.train_ds) == 16
    with pytest.raises(SpeechError) as e: speech(tmp_path/'d', valid=tmp_path/'nowhere', seconds=.2)
    one_line(e, 'nowhere')


@pytest.mark.parametrize('how', ['function', 'pattern', 'dictionary', 'list'])
def test_speakers_of_a_folder_are_kept_apart(make, tmp_path, how):
    root = make(tmp_path/'d')
    paths = sorted((root/'high').iterdir()) + sorted((root/'low').iterdir())
    groups = dict(function=lambda p: p.name[0], pattern=r'/([a-d])_', dictionary={p.name: p.name[0] for p in paths}, list=[p.name[0] for p in paths])[how]
    for seed in range(3):
        dls = speech(root, groups=groups, seed=seed, seconds=.2)
        a, b = ({o.source.name[0] for o in ds.items} for ds in (dls.train_ds, dls.valid_ds))
        assert len(a) == 3 and len(b) == 1 and not a & b and len(dls.train_ds) == 12


@pytest.mark.parametrize('groups,words', [(r'([ab])_', ['groups', 'none', 'c_0.wav']), (r'(', ['pattern']), (r'x_y', ['brackets']), (lambda p: None, ['none']), (['a'], ['1 for 16']), (r'(wav)', ['two'])])
def test_groups_that_are_none(make, tmp_path, groups, words):
    with pytest.raises(SpeechError) as e: speech(make(tmp_path/'d'), groups=groups, seconds=.2)
    one_line(e, *words)


def test_a_speaker_in_both_given_parts_is_told(make, tmp_path):
    for n in ('train', 'valid'): make(tmp_path/'d'/n)
    with pytest.raises(SpeechError) as e: speech(tmp_path/'d', groups=r'/([a-d])_', seconds=.2)
    one_line(e, 'groups', 'train', 'valid')


def test_what_a_folder_refuses(make, tmp_path):
    root = make(tmp_path/'one', classes=('low',))
    for args, kwargs, words in (((root,), {}, ['two classes']), ((make(tmp_path/'d'),), dict(valid=1.5), ['valid']), ((tmp_path/'d',), dict(bad='ignore'), ['bad=']),
                                ((tmp_path/'d',), dict(n_train=1), ['n_train']), ((tmp_path/'d',), dict(voices=['f1']), ['voices', 'clips()'])):
        with pytest.raises(SpeechError) as e: speech(*args, seconds=.2, **kwargs)
        one_line(e, *words)


@pytest.fixture
def rows(make, tmp_path):
    import pandas as pd
    root = make(tmp_path/'d')
    files = [p.relative_to(root).as_posix() for p in sorted(root.rglob('*.wav'))]
    return root, pd.DataFrame(dict(file=files, label=[o.split('/')[0] for o in files], speaker=[o.split('/')[1][0] for o in files]))


def test_a_table_of_recordings(rows, tmp_path):
    root, df = rows
    df.to_csv(root/'meta.csv', index=False)
    a, b = speech(df, root=root, seconds=.2), speech(root/'meta.csv', seconds=.2)
    for dls in (a, b):
        who = [{o.group for o in ds.items} for ds in (dls.train_ds, dls.valid_ds)]
        assert list(dls.vocab) == ['high', 'low'] and not who[0] & who[1] and len(dls.train_ds) + len(dls.valid_ds) == 16
        x, y = dls.valid.one_batch()
        assert all((x[i].mean(1).argmax() > 50) == (dls.vocab[y[i]] == 'high') for i in range(len(y)))
    assert [o.id for o in a.valid_ds.items] == [o.id for o in b.valid_ds.items]
    assert len({o.group for o in speech(df, root=root, groups=False, seconds=.2).train_ds.items} & {o.group for o in speech(df, root=root, groups=False, seconds=.2).valid_ds.items})


@pytest.mark.parametrize('name,values', [('split', ['train', 'valid']), ('part', ['Train', 'dev']), ('is_valid', [False, True])])
def test_a_split_column_is_honored(rows, name, values):
    root, df = rows
    held = df.speaker == 'd'
    df = df.assign(**{name: np.where(held, values[1], values[0]) if name != 'is_valid' else held})
    dls = speech(df, root=root, seconds=.2)
    assert {o.id for o in dls.valid_ds.items} == set(df.file[held]) and {o.id for o in dls.train_ds.items} == set(df.file[~held])
    assert {o.id for o in speech(df, root=root, split=False, groups=False, seconds=.2).valid_ds.items} != set(df.file[held])


def test_folds_and_parts_of_a_table(rows):
    root, df = rows
    df['fold'] = df.speaker.map(dict(a=0, b=1, c=2, d=3))
    dls = speech(df, root=root, valid=2, test=3, seconds=.2)
    assert {o.group for o in dls.valid_ds.items} == {'c'} and {o.group for o in dls.test.items} == {'d'} and {o.group for o in dls.train_ds.items} == {'a', 'b'}
    for kwargs, words in ((dict(valid=7), ['7']), ({}, ['fold'])):
        with pytest.raises(SpeechError) as e: speech(df, root=root, seconds=.2, **kwargs)
        one_line(e, *words)
    with pytest.raises(SpeechError) as e: speech(df.assign(fold=['train']*15 + ['tarin']), root=root, split='fold', seconds=.2)
    one_line(e, 'tarin')


def test_tables_with_other_targets_and_with_arrays(rows):
    import pandas as pd
    root, df = rows
    numbers = speech(df.assign(label=np.arange(16)/3), root=root, groups=False, seconds=.2)
    assert numbers.one_batch()[1].dtype == torch.float32
    several = speech(df.assign(label=[['x', 'y'], ['x']]*8), root=root, seconds=.2)
    assert list(several.vocab) == ['x', 'y'] and several.one_batch()[1].shape[1] == 2
    arrays = pd.DataFrame(dict(audio=[dict(array=tone(.2, 8000, f), sampling_rate=8000) for f in [300, 3000]*4], y=[0, 1]*4))
    dls = speech(arrays, seconds=.2)
    assert list(dls.vocab) == ['0', '1'] and dls.one_batch()[0].shape[1:] == (80, 20)


@pytest.mark.parametrize('change,kwargs,words', [(lambda d: d.rename(columns=dict(file='what')), {}, ['file', 'what']), (lambda d: d.assign(label=[None, *d.label[1:]]), {}, ['label', 'row 0']),
    (lambda d: d.assign(file=['none.wav', *d.file[1:]]), {}, ['none.wav', 'no file']), (lambda d: d.assign(file=[None, *d.file[1:]]), {}, ['row 0']), (lambda d: d[:0], {}, ['no rows']),
    (lambda d: d, dict(y='class'), ["'class'"]), (lambda d: d, dict(groups='who'), ["'who'"]), (lambda d: d.assign(label='same'), {}, ['two classes'])])
def test_what_a_table_refuses(rows, change, kwargs, words):
    root, df = rows
    with pytest.raises(SpeechError) as e: speech(change(df), root=root, seconds=.2, **kwargs)
    one_line(e, *words)


def test_bad_rows_are_skipped_and_listed(rows):
    root, df = rows
    (root/'high'/'a_0.wav').write_text('no audio')
    with pytest.warns(UserWarning, match='skipped'): dls = speech(df, root=root, bad='skip', seconds=.2)
    assert dls.bad.file.tolist() == ['high/a_0.wav'] and len(dls.train_ds) + len(dls.valid_ds) == 15


def test_lists_of_clips(tones):
    dls = speech(tones)
    assert len(dls.train_ds) == 13 and {o.label for o in dls.valid_ds.items} == {'low', 'high'} and not {o.id for o in dls.train_ds.items} & {o.id for o in dls.valid_ds.items}
    assert speech(tones[:6], valid=tones[:2]).valid_ds.items == tones[:2], 'one class is enough if nothing is drawn'
    for bad, word in (([tones[0].source]*4, 'Clip'), (tones[:8], 'two classes')):
        with pytest.raises(SpeechError) as e: speech(bad)
        one_line(e, word)
    dls = speech(tones, groups=[i % 4 for i in range(16)])
    assert len({int(o.id[-1]) % 4 for o in dls.valid_ds.items}) == 1


def test_groups_stay_with_their_clips_where_files_are_skipped(make, tmp_path):
    root = make(tmp_path/'d')
    paths = sorted((root/'high').iterdir()) + sorted((root/'low').iterdir())
    paths[2].write_text('no audio')
    with pytest.warns(UserWarning, match='skipped'): dls = speech(root, groups=[p.name[0] for p in paths], bad='skip', seconds=.2)
    a, b = ({o.source.name[0] for o in ds.items} for ds in (dls.train_ds, dls.valid_ds))
    assert not a & b and a | b == set('abcd') and len(dls.train_ds) + len(dls.valid_ds) == 15


def test_a_test_part_of_other_voices(home):
    dls = speech('keywords', voices=VOICES[:8], valid=.25, test=.25, seconds=.2)
    parts = [{o.group for o in p} for p in (dls.train_ds.items, dls.valid_ds.items, dls.test.items)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2] and list(map(len, parts)) == [4, 2, 2]


def test_a_table_of_datasets_has_its_class_names(rows):
    datasets = pytest.importorskip('datasets')
    root, df = rows
    ds = datasets.Dataset.from_dict(dict(audio=[dict(path=str(root/o), bytes=None) for o in df.file], label=[int(o == 'low') for o in df.label]),
        features=datasets.Features(dict(audio=dict(path=datasets.Value('string'), bytes=datasets.Value('binary')), label=datasets.ClassLabel(names=['high', 'low']))))
    dls = speech(ds, seconds=.2)
    x, y = dls.valid.one_batch()
    assert list(dls.vocab) == ['high', 'low'] and all((x[i].mean(1).argmax() > 50) == (dls.vocab[y[i]] == 'high') for i in range(len(y)))


def test_the_telephone_call_is_whole_and_its_turns_are_in_it():
    "Every turn lies inside the recording, and speech is louder there than before anybody speaks."
    call, turns = sounds.telephone()
    assert call.dtype == np.float32 and call.shape == (30*RATE,) and list(turns) == ['start', 'end', 'speaker', 'text']
    assert len(turns) == 13 and turns.speaker.nunique() == 2 and turns.text.str.split().str.len().sum() == 81
    assert (turns.start < turns.end).all() and turns.end.between(0, 30).all()
    loud = [call[round(RATE*a):round(RATE*b)].std() for a,b in zip(turns.start, turns.end)]
    assert min(loud) > 3*call[:round(RATE*(turns.start.min() - .5))].std()
