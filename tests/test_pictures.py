"One reader of pictures: what a camera, a scanner, a microscope or a CT writes comes out as the same 8 bits everywhere."
import io, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcourse import pictures as P
from tlcourse.core import TLCourseError
from tlcourse.pictures import PictureError, peek, read, top_of, upright, why

rng = np.random.default_rng(0)


def arr(im): return np.asarray(im)

def ramp(top, dtype=np.uint16): return np.linspace(0, top, 256).astype(dtype)[None].repeat(8, 0)

def fails(f, *words):
    with pytest.raises(PictureError) as e: f()
    assert isinstance(e.value, TLCourseError) and isinstance(e.value, ValueError) and '\n' not in str(e.value)
    for w in words: assert w in str(e.value), str(e.value)

def written(im, format, **kw):
    buf = io.BytesIO()
    im.save(buf, format, **kw)
    return buf.getvalue()


# Depth -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('format', ['PNG', 'TIFF'])
@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
def test_grey_of_any_depth_uses_all_shades(format, bits):
    "Oracle: a ramp over the whole range is the ramp 0..255, whatever the range."
    top = 2**bits - 1
    im = read(written(Image.fromarray(ramp(top)), format), top=top)
    assert im.mode == 'L' and np.abs(arr(im)[0].astype(int) - np.arange(256)).max() <= 1
    assert arr(im).min() == 0 and arr(im).max() == 255

def test_sixteen_bits_are_the_default_and_top_clips():
    a = ramp(4095)
    assert arr(read(a)).max() == 15 and len(np.unique(arr(read(a)))) == 16  # the 16 shades that 12 bits have in a file of 16
    assert arr(read(a, top=4095)).max() == 255 and (arr(read(a, top=1023))[:, 64:] == 255).all()

def test_bytes_of_either_order():
    a = rng.integers(0, 65536, (9, 7)).astype(np.uint16)
    little, big = (read(written(Image.frombytes(mode, (7, 9), a.astype(dt).tobytes()), 'TIFF')) for mode, dt in (('I;16', '<u2'), ('I;16B', '>u2')))
    assert (arr(little) == arr(big)).all() and (arr(little) == a//257).all()

def test_32_bit_integers_that_hold_16(): assert (arr(read(ramp(65535, np.int32))) == arr(read(ramp(65535)))).all()

def test_a_window_for_hounsfield_units():
    "-1000 (air) to 1000: with the window (-160, 240) the middle, 40, is half grey."
    a = np.array([[-1000, -160, 40, 240, 1000]], np.int32)
    for x in (a, a.astype(np.float32)): assert arr(read(x, window=(-160, 240))).tolist() == [[0, 0, 127, 255, 255]]
    fails(lambda: read(a), 'negative values', 'window=(low, high)')
    fails(lambda: read(a.astype(np.float32)), 'floating-point', 'window=(low, high)')
    fails(lambda: read(np.full((2, 2), 70000, np.int32)), 'more than 16 bits', 'window')
    for w in ((5, 5), (9, 1)): fails(lambda: read(a, window=w), 'lower and a higher')

def test_what_was_not_measured_is_black():
    assert arr(read(np.array([[np.nan, 0, 1, np.inf, -np.inf]], np.float32), window=(0, 1))).tolist() == [[0, 0, 255, 255, 0]]

def test_a_window_of_a_float_tiff(tmp_path):
    Image.fromarray(np.linspace(-1, 1, 5, dtype=np.float32)[None]).save(tmp_path/'a.tif')
    assert arr(read(tmp_path/'a.tif', window=(-1, 1))).tolist() == [[0, 63, 127, 191, 255]]

def test_pictures_of_8_bits_know_no_top_and_no_window():
    im = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    assert (arr(read(im, top=1023, window=(0, 9))) == arr(im)).all()

@pytest.mark.parametrize('most, top', [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (4096, 16383), (16384, 65535), (65535, 65535)])
def test_the_range_of_a_set(most, top): assert top_of([0, most, most//2]) == top


# Turn and transparency --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif(orientation):
    "Oracle: the eight orientations of the standard, written out with numpy."
    a = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    want = {1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.transpose(1, 0, 2), 6: np.rot90(a, -1), 7: a.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(a)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = written(Image.fromarray(a), 'PNG', exif=exif)
    for source in (data, Image.open(io.BytesIO(data))): assert (arr(read(source)) == want[orientation]).all()

@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'L with one shade'])
def test_transparency_lies_on_white(mode):
    a = np.zeros((2, 2, 4), np.uint8)
    a[0] = (10, 20, 30, 255)
    a[1] = (10, 20, 30, 0)
    im = Image.fromarray(a)
    if mode == 'P':
        im = Image.fromarray(np.array([[0, 0], [1, 1]], np.uint8), 'L').convert('P')
        im.putpalette([10, 20, 30, 10, 20, 30])
        data = written(im, 'PNG', transparency=1)
    elif mode == 'LA': data = written(im.convert('LA'), 'PNG')
    elif mode.startswith('L '): data = written(Image.fromarray(np.array([[9, 9], [7, 7]], np.uint8)), 'PNG', transparency=7)
    else: data = written(im, 'PNG')
    got = arr(read(data).convert('RGB'))
    assert (got[1] == 255).all() and (got[0] < 60).all()

def test_half_transparent_is_mixed(): assert arr(read(Image.new('RGBA', (1, 1), (0, 0, 0, 51)))).tolist() == [[[204, 204, 204]]]

@pytest.mark.parametrize('mode, out', [('1', 'L'), ('L', 'L'), ('P', 'RGB'), ('RGB', 'RGB'), ('CMYK', 'RGB'), ('YCbCr', 'RGB'), ('LAB', 'RGB'), ('HSV', 'RGB')])
def test_modes(mode, out):
    im = Image.new(mode, (3, 2)) if mode == 'LAB' else Image.effect_noise((3, 2), 60).convert('RGB').convert(mode)
    assert read(im).mode == out and read(im).size == (3, 2)


# Sources ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('format', P.FORMATS)
def test_one_picture_from_any_source(tmp_path, format):
    a = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    kw = dict(lossless=True) if format == 'WEBP' else dict(quality=100, subsampling=0) if format == 'JPEG' else {}
    Image.fromarray(a).save(f := tmp_path/f'x.{format.lower()}', format, **kw)
    want = arr(Image.open(f).convert('RGB'))
    assert f.suffix in P.READABLE and f.suffix not in P.UNREADABLE
    for source in (f, str(f), f.read_bytes(), Image.open(f), want): assert (arr(read(source).convert('RGB')) == want).all()
    assert peek(f) == (None, 1)

def test_arrays():
    a = rng.integers(0, 256, (5, 4), dtype=np.uint8)
    assert (arr(read(a)) == a).all() and read(np.dstack([a]*3)).mode == 'RGB' and read(a > 99).mode == 'L'
    for bad in (np.zeros((2, 2, 2, 3), np.uint8), np.zeros((2, 2, 5), np.uint8), np.zeros((2, 2), np.complex64), np.zeros((2, 2, 3), np.uint16)):
        fails(lambda: read(bad), 'is no picture', 'uint8')

def test_a_jpeg_is_decoded_smaller_but_not_too_small():
    data = written(Image.effect_noise((800, 600), 60), 'JPEG')
    assert read(data).size == (800, 600) and read(data, size=100).size == (200, 150)

def test_what_is_read_is_closed(tmp_path):
    Image.new('L', (2, 2)).save(tmp_path/'a.png')
    Image.fromarray(ramp(65535)).save(tmp_path/'b.tif')
    code = f'''import tracemalloc, warnings
warnings.simplefilter('error')
from pathlib import Path
from tlcourse.pictures import peek, read
for f in Path({str(tmp_path)!r}).iterdir():
    read(f); peek(f)
    f.unlink()'''
    r = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, encoding='utf-8')
    assert r.returncode == 0 and not r.stderr and not list(tmp_path.iterdir())


# Looking first ---------------------------------------------------------------------------------------------------

def test_peek(tmp_path):
    Image.fromarray(ramp(4095)).save(tmp_path/'a.tif')
    pages = [Image.fromarray(np.full((2, 2), i, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path/'b.tif', save_all=True, append_images=pages[1:])
    assert peek(tmp_path/'a.tif') == ((0, 4095), 1) and peek(tmp_path/'b.tif') == (None, 3)
    assert peek(ramp(1023)) == ((0, 1023), 1) and peek(np.array([[-5, 9]], np.int32)) == ((-5, 9), 1)
    assert arr(read(tmp_path/'b.tif')).max() == 0  # the first page

def test_why(tmp_path):
    def said(f):
        try: read(f)
        except Exception as e: return why(f, e)
    (tmp_path/'empty.png').touch()
    (tmp_path/'text.png').write_text('hello')
    (tmp_path/'photo.heic').write_bytes(b'\0\0\0\x18ftypheic')
    (tmp_path/'cut.png').write_bytes(written(Image.effect_noise((99, 99), 60), 'PNG')[:900])
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path/'float.tif')
    assert said(tmp_path/'empty.png') == 'the file is empty' and 'not a picture' in said(tmp_path/'text.png')
    assert '.heic cannot be read' in said(tmp_path/'photo.heic') and 'window=' in said(tmp_path/'float.tif')
    assert said(tmp_path/'none.png') == 'No such file or directory' and 'truncated' in said(tmp_path/'cut.png')
    assert 'more pixels' in why('x', Image.DecompressionBombError('...'))

def test_nothing_but_pictures_is_opened(tmp_path):
    "PostScript would be given to an interpreter."
    (tmp_path/'a.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n')
    with pytest.raises(Image.UnidentifiedImageError): read(tmp_path/'a.png')
