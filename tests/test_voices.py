"Voices: the same samples each time, whatever was said before; what is kept, mended; names that espeak-ng would pass over."
import subprocess, sys

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

pytest.importorskip('espeakng_loader'); pytest.importorskip('soundfile'); pytest.importorskip('jiwer')

from tlcourse import voices
from tlcourse.voices import RATE, SpeechError, say


def one_line(e, *words):
    text = str(e.value)
    assert '\n' not in text and len(text) < 400 and all(o in text for o in words), text


def test_say_is_the_same_each_time_whatever_was_said_before(home):
    a = say('seven', 'en-us+f3')
    b = say('the quick brown fox', 'en-gb-scotland+m3')
    for f in (home/'speech').rglob('*.npy'): f.unlink()
    assert np.array_equal(b, say('the quick brown fox', 'en-gb-scotland+m3')) and np.array_equal(a, say('seven', 'en-us+f3'))
    assert a.dtype == np.float32 and .2 < len(a)/RATE < 1.5 and .05 < abs(a).max() <= 1


def test_say_is_the_same_in_another_process(home):
    import hashlib, os
    code = "from tlcourse.voices import say; import hashlib; print(hashlib.sha256(say('seven', 'en-us+m3').tobytes()).hexdigest())"
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
        m.setattr(voices, '_synthesize', lambda *a: pytest.fail('spoken again'))
        assert np.array_equal(say('seven'), x)
    for junk in (b'', f.read_bytes()[:-100], b'not an array'):
        f.write_bytes(junk)
        assert np.array_equal(say('seven'), x) and f.read_bytes() != junk
    monkeypatch.setattr('os.fsync', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    assert len(say('eight')) and not [*home.rglob('*.part')]


@pytest.mark.parametrize('args,words', [(('', ), ['nothing to say']), (('...', ), ['nothing to say']), ((5, ), ['nothing to say']), (('a'*1001, ), ['1,000']),
    (('a\0b', ), ['plain text']), (('hi', 'klingon'), ['klingon']), (('hi', 'en-us+f33'), ['f33', "did you mean 'f3'"]), (('hi', ''), ['language']),
    (('hi', 'en-us', 20), ['speed']), (('hi', 'en-us', 175, 100), ['pitch'])])
def test_what_say_refuses(home, args, words):
    with pytest.raises(SpeechError) as e: say(*args)
    one_line(e, *words)


def test_every_accent_and_voice_speaks(home):
    heard = [say('go', a) for a in voices.ACCENTS] + [say('go', f'en-us+{v}') for v in voices.VOICES]
    assert all(len(x) > 2000 and abs(x).max() > .02 for x in heard)
    assert len({x.tobytes() for x in heard[len(voices.ACCENTS):]}) == len(set(voices.VOICES)) == len(voices.VOICES)
