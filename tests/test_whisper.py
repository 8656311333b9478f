"Whisper: the weights against another runtime, the front end against Transformers'."
import numpy as np
import pytest
import torch

pytest.importorskip('espeakng_loader'); pytest.importorskip('soundfile'); pytest.importorskip('jiwer')

from tlcourse import assets, whisper as W
from tlcourse.voices import RATE, SpeechError
from tlcourse.whisper import load, log_mel


def fetched(name):
    return not assets.problems(assets.find(name))


needs_whisper = pytest.mark.skipif(not fetched('whisper_tiny_en'), reason='whisper_tiny_en is not in the cache')


@pytest.fixture(scope='module')
def whisper(): return load()


def one_line(e, *words):
    text = str(e.value)
    assert '\n' not in text and len(text) < 400 and all(o in text for o in words), text


def test_every_weight_is_filled_and_tied(whisper):
    v = W._variables((assets.fetch('whisper_tiny_en')/'model.bin').read_bytes())
    keys = [a[384:768] for k,a in v.items() if k.endswith('self_attention/linear_0/bias')] + [a[:384] for k,a in v.items() if k.endswith('/attention/linear_1/bias')]
    assert len(keys) == 12 and not any(map(np.any, keys)), 'the keys have no bias, so none is lost'
    assert sum(a.size for a in v.values() if a.ndim) == sum(p.numel() for p in whisper.parameters()) + 12*384
    assert whisper.proj_out.weight is whisper.model.decoder.embed_tokens.weight
    assert torch.equal(whisper.model.encoder.conv1.weight, torch.from_numpy(v['encoder/conv1/weight'].astype(np.float32)))


@needs_whisper
def test_a_damaged_model_file_is_told(tmp_path):
    for data in (b'', b'\6\0\0\0junk', b'\6\0\0\0' + b'\x0c\0WhisperSpec\0' + b'\3\0\0\0' + b'\xff\0\0\0'):
        (tmp_path/'model.bin').write_bytes(data)
        with pytest.raises(SpeechError) as e: W._read_weights(tmp_path/'model.bin')
        one_line(e, 'model.bin', 'fetch')


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


def test_log_mel_refuses_integers():
    "They would be taken for sound that is 32,768 times too loud."
    for dtype in (torch.int16, torch.uint8):
        with pytest.raises(SpeechError) as e: log_mel(torch.zeros(1, RATE, dtype=dtype))
        one_line(e, 'samples', str(dtype))


# words

@pytest.mark.parametrize('a,b', [('Ten sheep.', '10 sheep'), ('The harbour', 'the harbor'), ('two colours', '2 colors'), ("Don't!", 'do not'), ('grey theatre', 'gray theater'), ('a cheque', 'a check')])
def test_one_form_for_what_sounds_alike(a, b): assert W.normalize(a) == W.normalize(b)


def test_other_words_stay_apart():
    assert len({W.normalize(o) for o in 'left felt our or hour sour size rice price licence four for course'.split()}) == 13
    assert not set(W.SPELLING.values()) & set(W.SPELLING), 'American spellings stay as they are'
