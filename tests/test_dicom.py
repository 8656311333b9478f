"""DICOM files: what they hold and how they are shown, against a reader of our own in the open that knows nothing of pydicom, on the files that
come with pydicom and on made ones; and one line for each that is malformed or not supported."""
import io, struct, sys, warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip('pydicom', reason='the extra `medical` is not installed')

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000, JPEGBaseline8Bit, JPEGLossless, JPEGLosslessSV1,
                         MPEG2MPML, RLELossless, SecondaryCaptureImageStorage)

from tlcourse import dicom, pictures
from tlcourse.core import TLCourseError
from tlcourse.data import DataError, folder
from tlcourse.dicom import DicomError, load, patient, window_of

FILES = Path(pydicom.__file__).parent/'data'/'test_files' # those in the wheel; no other is ever asked for
rng = np.random.default_rng(0)
NUMBERS = (0x28, 0x10), (0x28, 0x11), (0x28, 0x100), (0x28, 0x101), (0x28, 0x103)


# The oracle: a reader of plain files from PS3.5, and the formulas of PS3.3, C.11 -----------------------------------------

LONG = {b'OB', b'OW', b'OF', b'OD', b'OL', b'OV', b'SQ', b'UC', b'UR', b'UT', b'UN', b'SV', b'UV'}

def walk(b, i, end, explicit, order):
    "Elements of `b` from i on: {(group, element): bytes}, and where they end."
    out = {}
    while i < end:
        tag = struct.unpack_from(order + 'HH', b, i)
        i += 4
        if tag in ((0xfffe, 0xe00d), (0xfffe, 0xe0dd)): return out, i + 4
        if explicit and tag[0] != 0xfffe:
            vr = b[i:i + 2]
            n, i = (struct.unpack_from(order + 'I', b, i + 4)[0], i + 8) if vr in LONG else (struct.unpack_from(order + 'H', b, i + 2)[0], i + 4)
        else: vr, n, i = b'', struct.unpack_from(order + 'I', b, i)[0], i + 4
        if n != 0xffffffff:
            out[tag] = b[i:i + n]
            i += n
            continue
        start = i # items, until their delimiter
        while True:
            *item, n = struct.unpack_from(order + 'HHI', b, i)
            i += 8
            if item == [0xfffe, 0xe0dd]: break
            i = walk(b, i, end, explicit and vr != b'UN', order)[1] if n == 0xffffffff else i + n
        out[tag] = b[start:i]
    return out, i

def oracle(data):
    "Measured values and what is shown (0 to 1, before MONOCHROME1) of a plain DICOM file."
    assert data[128:132] == b'DICM'
    i, meta = 132, {}
    while struct.unpack_from('<H', data, i)[0] == 2:
        one, i = walk(data, i, i + 1, True, '<')
        meta |= one
    syntax = meta[2, 0x10].strip(b'\0 ').decode()
    explicit, order = syntax != '1.2.840.10008.1.2', '>' if syntax.endswith('.1.2.2') else '<'
    assert syntax in ('1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.2')
    e, _ = walk(data, i, len(data), explicit, order)
    rows, cols, allocated, stored, signed = (struct.unpack(order + 'H', e[o])[0] for o in NUMBERS)
    a = np.frombuffer(e[0x7fe0, 0x10][:rows*cols*allocated//8], f'{order}u{allocated//8}').astype(np.int64).reshape(rows, cols)
    a &= (1 << stored) - 1
    if signed: a = np.where(a >= 1 << stored - 1, a - (1 << stored), a)
    def text(*tag): return [o.strip() for o in e.get(tag, b'').strip(b'\0 ').decode().split('\\') if o.strip()]
    v = a*float((text(0x28, 0x1053) or ['1'])[0]) + float((text(0x28, 0x1052) or ['0'])[0])
    if (0x3004, 0xe) in e: v = v*float(text(0x3004, 0xe)[0]) # a dose
    if (0x28, 0x120) in e:
        pad = struct.unpack(order + ('h' if signed else 'H'), e[0x28, 0x120][:2])[0]
        v = np.where(a == pad, np.nan, v)
    center, width = text(0x28, 0x1050), text(0x28, 0x1051)
    if not center or not width: return v, None
    c, w, f = float(center[0]), float(width[0]), (text(0x28, 0x1056) or ['LINEAR'])[0]
    def one(x):
        if x != x: return np.nan
        if f == 'SIGMOID': return 1/(1 + np.exp(-4*(x - c)/w))
        if f == 'LINEAR_EXACT': return 0. if x <= c - w/2 else 1. if x > c + w/2 else (x - c)/w + .5
        return 0. if x <= c - .5 - (w - 1)/2 else 1. if x > c - .5 + (w - 1)/2 else (x - (c - .5))/(w - 1) + .5
    return v, np.array([[one(x) for x in row] for row in v.tolist()])

def agrees(data):
    scan, (values, shown) = load(data), oracle(data)
    np.testing.assert_allclose(scan.values, values, atol=1e-9)
    assert (scan.shown is None) == (shown is None)
    if shown is not None: np.testing.assert_allclose(scan.shown, shown, atol=1e-9)
    im = np.asarray(pictures.read(data)) if shown is not None else None
    if shown is not None: # and the picture, whichever way white is
        gray = 1 - shown if scan.inverse else shown
        assert im.dtype == np.uint8 and np.abs(im - np.nan_to_num(gray*255)).max() <= 1


# Made files ---------------------------------------------------------------------------------------------------------------

def dataset(pixels, bits=12, signed=False, allocated=16, syntax=ExplicitVRLittleEndian, **tags):
    a, meta = np.asarray(pixels), FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = syntax, SecondaryCaptureImageStorage, '1.2.826.0.1.5'
    ds = FileDataset(None, {}, b'\0'*128, meta, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    ds.Modality, ds.PatientID = 'OT', 'P1'
    ds.Rows, ds.Columns = a.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, 'MONOCHROME2', int(signed)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    order = '>' if syntax == ExplicitVRBigEndian else '<'
    ds.PixelData = (a.astype(np.int64) & (1 << allocated) - 1).astype(f'{order}u{allocated//8}').tobytes()
    ds['PixelData'].VR = 'OW' if allocated > 8 else 'OB'
    for k,v in tags.items(): setattr(ds, k, v)
    return ds

def saved(ds):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds.save_as(out := io.BytesIO(), enforce_file_format=True)
    return out.getvalue()

def made(pixels, **kw): return saved(dataset(pixels, **kw))

def lut(descriptor, entries, **more):
    "A sequence of one table."
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.add_new((0x28, 0x3006), 'OW' if isinstance(entries, bytes) else 'US', entries)
    for k,v in more.items(): setattr(item, k, v)
    return Sequence([item])

def noise(bits, signed, shape=(9, 7)):
    low = -(1 << bits - 1) if signed else 0
    a = rng.integers(low, low + (1 << bits), shape)
    a.flat[:2] = low, low + (1 << bits) - 1
    return a

@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda o: o.name)
@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits, allocated', [(8, 8), (10, 16), (12, 16), (14, 16), (16, 16), (8, 16), (20, 32), (32, 32)])
def test_bits_and_sign(syntax, signed, bits, allocated):
    agrees(made(noise(bits, signed, (8, 8)), bits=bits, signed=signed, allocated=allocated, syntax=syntax, RescaleSlope='1.5', RescaleIntercept='-1024',
                WindowCenter='40', WindowWidth='400'))

@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits', [5, 10, 12])
def test_bits_that_do_not_count(bits, signed):
    "What stands above the stored bits, old overlays say, is not looked at."
    a = noise(bits, signed)
    rubbish = a & (1 << bits) - 1 | rng.integers(0, 1 << 16 - bits, a.shape) << bits
    data = made(rubbish, bits=bits, signed=signed, WindowCenter='20', WindowWidth='30')
    agrees(data)
    assert (load(data).values == a).all()

@pytest.mark.parametrize('window', [('40', '400'), ('-600', '1500'), ('0.5', '1'), ('100', '2'), (['40', '-600'], ['400', '1500'])], ids=str)
@pytest.mark.parametrize('function', [None, 'LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
@pytest.mark.parametrize('inverse', [False, True])
def test_windows(window, function, inverse):
    tags = dict(WindowCenter=window[0], WindowWidth=window[1], RescaleSlope='1', RescaleIntercept='-1024') | (dict(VOILUTFunction=function) if function else {})
    agrees(made(noise(12, False), PhotometricInterpretation='MONOCHROME1' if inverse else 'MONOCHROME2', **tags))

def test_padding_is_black_both_ways():
    a = noise(12, True)
    a[a == -2000] = 0
    a[0, :3] = -2000
    for p in ('MONOCHROME1', 'MONOCHROME2'):
        data = made(a, signed=True, PixelPaddingValue=-2000, WindowCenter='-1500', WindowWidth='2000', PhotometricInterpretation=p)
        agrees(data)
        assert (np.asarray(pictures.read(data))[0, :3] == 0).all() and np.isnan(load(data).values).sum() == 3
        assert (np.asarray(pictures.read(data, window=(-2500, 0)))[0, :3] == 0).all()
    data = made(a, signed=True, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    assert np.isnan(load(data).values).sum() == ((a >= -2000) & (a <= -1990)).sum()

def test_tables():
    "Values through a table, and shades through another; what is beyond their ends takes the end."
    a = np.array([[0, 1, 2, 3, 4, 9]])
    data = made(a, ModalityLUTSequence=lut([4, 1, 16], [100, 200, 300, 700], ModalityLUTType='US'))
    assert load(data).values.tolist() == [[100, 100, 200, 300, 700, 700]]
    data = made(a, VOILUTSequence=lut([4, 1, 8], [0, 51, 102, 255]), WindowCenter='3', WindowWidth='9') # both: the table
    assert window_of(data) == ('TABLE', 0, 0)
    np.testing.assert_allclose(load(data).shown, [[0, 0, .2, .4, 1, 1]])

def test_a_table_of_many_entries_of_few_bits():
    "4,096 shades of 8 bits: where an index is kept in the bits of an entry it runs over, and value 256 is black."
    a, shades = np.arange(0, 4096, 64).reshape(8, 8), (np.arange(4096)//16).tolist()
    np.testing.assert_allclose(load(made(a, VOILUTSequence=lut([4096, 0, 8], shades))).shown*255, a//16)
    np.testing.assert_allclose(load(made(a, signed=True, bits=13, VOILUTSequence=lut([4096, -5, 8], shades))).shown*255, np.minimum(a + 5, 4095)//16)

def test_tables_as_bytes_of_either_order():
    for syntax,order in ((ExplicitVRLittleEndian, '<u2'), (ExplicitVRBigEndian, '>u2')):
        entries = np.array([0, 1, 256, 65535], order).tobytes()
        np.testing.assert_allclose(load(made(np.arange(4)[None], syntax=syntax, VOILUTSequence=lut([4, 0, 16], entries))).shown*65535, [[0, 1, 256, 65535]])

def test_values_of_an_enhanced_file():
    "One frame whose rescale and window stand in groups of it, or of all frames, and not at the top."
    values, window, each = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = '2', '-10'
    window.WindowCenter, window.WindowWidth = '40', '80'
    each.PixelValueTransformationSequence, each.FrameVOILUTSequence = Sequence([values]), Sequence([window])
    want = load(made(a := noise(8, False), RescaleSlope='2', RescaleIntercept='-10', WindowCenter='40', WindowWidth='80'))
    for where in ('PerFrameFunctionalGroupsSequence', 'SharedFunctionalGroupsSequence'):
        got = load(made(a, NumberOfFrames='1', **{where: Sequence([each])}))
        assert (got.values == want.values).all() and (got.shown == want.shown).all()


# The files that come with pydicom ----------------------------------------------------------------------------------------

def shipped():
    for f in sorted(FILES.rglob('*')):
        if f.is_file() and f.read_bytes()[128:132] == b'DICM': yield f

def plain(f):
    "Is it a gray picture in a form that the oracle reads?"
    try: ds = pydicom.dcmread(f, stop_before_pixels=True)
    except Exception: return False
    return ('TransferSyntaxUID' in ds.file_meta and not ds.file_meta.TransferSyntaxUID.is_compressed and ds.file_meta.TransferSyntaxUID != '1.2.840.10008.1.2.1.99' and ds.get('SamplesPerPixel') == 1
            and str(ds.get('PhotometricInterpretation')).startswith('MONO') and str(ds.get('NumberOfFrames') or 1) == '1' and ds.get('BitsAllocated') in (8, 16, 32))

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    SHIPPED = list(shipped())
    PLAIN = [f for f in SHIPPED if plain(f)]

def test_there_are_files(): assert len(SHIPPED) >= 40 and len(PLAIN) >= 8, (len(SHIPPED), len(PLAIN))

@pytest.mark.parametrize('f', PLAIN, ids=lambda f: f.name)
@pytest.mark.filterwarnings('ignore')
def test_shipped_files(f):
    if 'truncated' in f.name.lower(): return one_line(f.read_bytes(), 'cut off')
    agrees(f.read_bytes())

@pytest.mark.parametrize('f', SHIPPED, ids=lambda f: f.relative_to(FILES).as_posix())
@pytest.mark.filterwarnings('ignore')
def test_each_shipped_file_is_read_or_refused_in_one_line(f):
    try: scan = load(f)
    except DicomError as e: assert '\n' not in str(e) and 10 < len(str(e)) < 300, str(e)
    else: assert scan.values.ndim == 2 and np.isfinite(scan.values).any() and isinstance(pictures.read(f.read_bytes(), window=(-1000, 1000)), Image.Image)

@pytest.mark.filterwarnings('ignore')
def test_ways_to_write_one_picture():
    "Compressed without loss, and in another order of bytes, it is the same."
    same = [FILES/f'MR_small{o}.dcm' for o in ('', '_implicit', '_bigendian', '_expb', '_RLE', '_jp2klossless', '_padded')]
    same = [f for f in same if f.is_file()]
    assert len(same) >= 4
    first = load(same[0])
    for f in same[1:]: assert (load(f).values == first.values).all(), f

def test_a_ct_in_hounsfield_units():
    v = load(FILES/'CT_small.dcm').values
    assert v.shape == (128, 128) and np.nanmin(v) < -700 and np.nanmax(v) > 900 # air and bone
    im = np.asarray(pictures.read(FILES/'CT_small.dcm', window=(-160, 240)))
    np.testing.assert_allclose(im, (((v + 160)/400*255).clip(0, 255)), atol=1)

@pytest.mark.filterwarnings('ignore')
def test_our_reader_of_windows_and_pydicoms_agree():
    from pydicom.pixels import apply_windowing
    for f in PLAIN:
        if window_of(f) is None or 'truncated' in f.name.lower(): continue
        s, ds = load(f), pydicom.dcmread(f)
        if (s.values % 1 != 0).any(): continue
        theirs = apply_windowing(np.nan_to_num(s.values), ds)
        low, high = theirs.min(), theirs.max()
        if s.shown.min() > 0 or s.shown.max() < 1 or np.isnan(s.values).any(): continue # their ends are those of the stored bits
        np.testing.assert_allclose(s.shown, (theirs - low)/(high - low), atol=1e-6)


# Refusals ----------------------------------------------------------------------------------------------------------------

def one_line(data, *words):
    with pytest.raises(DicomError) as e: load(data)
    assert isinstance(e.value, TLCourseError) and isinstance(e.value, ValueError) and '\n' not in str(e.value) and 10 < len(str(e.value)) < 300
    for w in words: assert w in str(e.value), str(e.value)

def ramp(): return np.arange(64).reshape(8, 8)*60

def without(name):
    ds = dataset(ramp())
    del ds[name]
    return saved(ds)

def packed(syntax, frame=b'\xff\xd8\xff\xe0 rubbish \xff\xd9'):
    from pydicom.encaps import encapsulate
    ds = dataset(ramp(), bits=8, allocated=8)
    ds.PixelData = encapsulate([frame + b'\0'*(len(frame) % 2)])
    ds['PixelData'].VR, ds['PixelData'].is_undefined_length = 'OB', True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if syntax == '1.2.3.4.5' else syntax
    return saved(ds).replace(b'1.2.840.10008.1.2.4.50', b'1.2.3.4.5'.ljust(22, b'\0')) if syntax == '1.2.3.4.5' else saved(ds)

def floats():
    ds = dataset(ramp())
    del ds.PixelData
    ds.FloatPixelData, ds.BitsAllocated = np.zeros(64, np.float32).tobytes(), 32
    return saved(ds)

def png(): Image.fromarray(np.zeros((4, 4), np.uint8)).save(b := io.BytesIO(), 'PNG'); return b.getvalue()

def odd(**tags): return lambda: made(ramp(), **tags)

def raw_text(name, value):
    "A tag with a text that is no number: pydicom would not write it, so put it in by hand."
    ds = dataset(ramp(), **{name: '1234'})
    data = saved(ds)
    assert data.count(b'1234') == 1
    return data.replace(b'1234', value)

BAD = {
    'empty': (lambda: b'', 'empty'), 'text': (lambda: b'hello '*200, 'not DICOM'), 'png': (png, 'not DICOM'), 'zeros': (lambda: bytes(5000), 'not DICOM'),
    'no mark': (lambda: made(ramp())[132:], 'not DICOM'), 'mark alone': (lambda: bytes(128) + b'DICM', 'damaged'),
    'cut in its header': (lambda: made(ramp())[:200], ''), 'cut in its tags': (lambda: made(ramp())[:420], ''),
    'deflated': (lambda: deflated(), 'deflated'),
    **{f'without {o}': ((lambda o=o: without(o)), 'no picture' if o == 'PixelData' else o) for o in
       ('PixelData', 'Rows', 'Columns', 'BitsAllocated', 'BitsStored', 'HighBit', 'PixelRepresentation', 'PhotometricInterpretation', 'SamplesPerPixel')},
    'two frames': (odd(NumberOfFrames='2'), '2 frames'), 'no frame': (odd(NumberOfFrames='0'), '0 frames'),
    'RGB': (odd(PhotometricInterpretation='RGB', SamplesPerPixel=3, PlanarConfiguration=0), 'in color (RGB)'),
    'YBR': (odd(PhotometricInterpretation='YBR_FULL', SamplesPerPixel=3, PlanarConfiguration=0), 'in color'),
    'palette': (odd(PhotometricInterpretation='PALETTE COLOR'), 'in color (PALETTE COLOR)'),
    'three samples of gray': (odd(SamplesPerPixel=3), 'in color'), 'unknown colors': (odd(PhotometricInterpretation='MONOCHROME3'), 'in color'),
    'no rows': (odd(Rows=0), 'size is 0'), 'rows that are not there': (odd(Rows=9), 'cut off: 128 of 144'), 'no pixel': (odd(PixelData=b''), 'cut off'),
    'enormous': (odd(Rows=65535, Columns=65535), 'safe'), 'one bit': (odd(BitsAllocated=1, BitsStored=1, HighBit=0), '1 bits'),
    'twelve bits': (odd(BitsAllocated=12), '12 bits'), '64 bits': (odd(BitsAllocated=64), '64 bits'), 'no bit': (odd(BitsStored=0), 'odd'),
    'more bits than there are': (odd(BitsStored=20, HighBit=19), 'odd'), 'bits at the upper end': (odd(HighBit=15), 'odd'),
    'no sign that we know': (odd(PixelRepresentation=2), 'sign'),
    'slope 0': (odd(RescaleSlope='0', RescaleIntercept='0'), 'RescaleSlope is 0'), 'slope of text': (lambda: raw_text('RescaleSlope', b'ABCD'), 'RescaleSlope'),
    'slope of nan': (lambda: raw_text('RescaleSlope', b'nan '), 'RescaleSlope'), 'center of text': (lambda: with_width('left'), 'WindowCenter'),
    'window of width 0': (odd(WindowCenter='0', WindowWidth='0'), 'width of 0'), 'of width -5': (odd(WindowCenter='0', WindowWidth='-5'), 'width of -5'),
    'window of an unknown form': (odd(WindowCenter='0', WindowWidth='9', VOILUTFunction='CUBIC'), 'unknown form (CUBIC)'),
    'a short table': (lambda: made(ramp(), VOILUTSequence=lut([256, 0, 8], [0, 51, 102, 255])), 'damaged'), 'floating point': (floats, 'floating-point'), 'all padding': (lambda: made(ramp()*0 + 7, PixelPaddingValue=7), 'padding'),
    'JPEG lossless': (lambda: packed(JPEGLossless), 'compressed'), 'JPEG lossless 1': (lambda: packed(JPEGLosslessSV1), 'compressed'),
    'JPEG-LS': (lambda: packed('1.2.840.10008.1.2.4.80'), 'compressed'), 'HTJ2K': (lambda: packed('1.2.840.10008.1.2.4.201'), 'compressed'),
    'film': (lambda: packed(MPEG2MPML), 'does not read'), 'unknown syntax': (lambda: packed('1.2.3.4.5'), 'does not read'),
    'broken JPEG': (lambda: packed(JPEGBaseline8Bit), 'decoded'), 'broken JPEG 2000': (lambda: packed(JPEG2000), 'decoded'),
    'broken RLE': (lambda: packed(RLELossless, b'\1\0\0\0' + bytes(8)), 'decoded'),
}

def deflated():
    "The header alone is enough: nothing is inflated."
    from pydicom.uid import DeflatedExplicitVRLittleEndian
    return made(ramp(), syntax=DeflatedExplicitVRLittleEndian)

def with_width(center):
    data = made(ramp(), WindowCenter='1234', WindowWidth='400')
    return data.replace(b'1234', center.encode())

def test_there_are_forty(): assert len(BAD) >= 40, len(BAD)

@pytest.mark.parametrize('name', BAD)
@pytest.mark.filterwarnings('ignore')
def test_one_line_each(name):
    make, words = BAD[name]
    one_line(make(), words)

@pytest.mark.filterwarnings('ignore')
def test_a_folder_names_each_of_them(tmp_path):
    "Forty bad files among good ones: each is named with its reason, none is trained on, and nothing else happens."
    for c,shift in (('a', 0), ('b', 1000)):
        (tmp_path/c).mkdir()
        for i in range(6): (tmp_path/c/f'good{i}.dcm').write_bytes(made(noise(10, False, (40, 40)) + shift, WindowCenter='1000', WindowWidth='2048'))
    for i,(make, _) in enumerate(BAD.values()): (tmp_path/'a'/f'bad{i}.dcm').write_bytes(make())
    with pytest.raises(DataError) as e: folder(tmp_path, size=32, device='cpu')
    assert '\n' not in str(e.value) and f'and {len(BAD) - 3} more' in str(e.value)
    dls = folder(tmp_path, size=32, device='cpu', bad='skip')
    assert len(dls.bad) == len(BAD) and all('good' in o.source.name for ds in (dls.train_ds, dls.valid_ds) for o in ds.items)


# Folders -----------------------------------------------------------------------------------------------------------------

def scans(root, n=6, **kw):
    for c in 'ab':
        (root/c).mkdir(parents=True)
        for i in range(n): (root/c/f'{i}.dcm').write_bytes(made(noise(12, False, (40, 40)), PatientID=f'P{i}', **{k: v[i % len(v)] if isinstance(v, list) else v for k,v in kw.items()}))
    return root

def load_folder(root, **kw): return folder(root, size=32, device='cpu', **kw)

def pixels(dls, f): return dls.train_ds.tls[0].tfms(f)[0].numpy()

def test_a_folder_of_dicom_is_read_as_in_prediction(tmp_path):
    root = scans(tmp_path/'own', WindowCenter='2000', WindowWidth='1000', RescaleSlope='2', RescaleIntercept='-1000')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = load_folder(root)
    assert dls.range is None
    im = pictures.read(root/'a'/'0.dcm')
    assert (pixels(dls, root/'a'/'0.dcm') == np.asarray(dls.train_ds.tls[0].tfms.fs[0].fit.encodes(im))).all()
    assert (np.asarray(pictures.read((root/'a'/'0.dcm').read_bytes())) == np.asarray(im)).all()

def test_one_window_for_all(tmp_path):
    root = scans(tmp_path/'own', WindowCenter=['2000', '900'], WindowWidth='1000')
    with pytest.warns(UserWarning, match='2 windows of their own, so that equal values look different') as said: load_folder(root)
    assert len(said) == 1 and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = load_folder(root, window=(0, 4095))
    assert dls.range == (0, 4095)
    want = (load(root/'a'/'1.dcm').values/4095*255).astype(np.uint8)
    assert np.abs(np.asarray(pictures.read(root/'a'/'1.dcm', window=(0, 4095))).astype(int) - want).max() <= 1

def test_some_with_a_window_and_some_without(tmp_path):
    root = scans(tmp_path/'own', WindowCenter='2000', WindowWidth='1000')
    (root/'a'/'none.dcm').write_bytes(made(noise(12, False, (40, 40))))
    with pytest.raises(DataError, match='12 of its DICOM files say how they are to be shown and 1 do not'): load_folder(root)
    load_folder(root, window=(0, 4095))

def test_without_windows_the_range_of_the_set(tmp_path):
    root = scans(tmp_path/'own')
    with pytest.warns(UserWarning, match='taken for 12 bits'): dls = load_folder(root)
    assert dls.range == (0, 4095)

def test_negative_values_without_a_window_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'negative values; say which range is to be seen with window=\(low, high\)'):
        load_folder(scans(tmp_path/'own', RescaleSlope='1', RescaleIntercept='-1024'))

def test_by_patient(tmp_path):
    root = scans(tmp_path/'own', n=8, WindowCenter='2000', WindowWidth='4000')
    dls = load_folder(root, groups=patient, valid=.25)
    sides = [{patient(o.source) for o in ds.items} for ds in (dls.train_ds, dls.valid_ds)]
    assert len(sides[0]) == 6 and len(sides[1]) == 2 and not sides[0] & sides[1]

def test_saved_and_asked_again(tmp_path):
    "A model that has learned from DICOM answers for DICOM, path or bytes."
    from tlcourse import deploy
    from tlcourse.backbones import load as network
    from tlcourse.features import extract, probe
    root = tmp_path/'own'
    for c,w in (('plain', 0), ('square', 2500)):
        (root/c).mkdir(parents=True)
        for i in range(8):
            a = rng.integers(200, 900, (40, 40))
            a[10 + i:25 + i, 8:30] += w
            (root/c/f'{i}.dcm').write_bytes(made(a, WindowCenter='2048', WindowWidth='4096', PhotometricInterpretation='MONOCHROME1'))
    dls = load_folder(root)
    body = network('efficientnet_lite0')
    train, valid = extract(body, dls.train, cache=False), extract(body, dls.valid, cache=False)
    fitted = probe(train, valid)
    deploy.save(fitted, tmp_path/'model', body='efficientnet_lite0', dls=dls)
    model = deploy.load(tmp_path/'model')
    asked = [o.source for o in dls.valid_ds.items]
    said = [model.predict(o) for o in (asked, [f.read_bytes() for f in asked])]
    assert fitted.accuracy == 1 and said[0].label.tolist() == [dls.vocab[i] for i in valid.y]
    np.testing.assert_allclose(said[0].probability, fitted.predict_proba(valid.x).max(1), rtol=1e-3)
    np.testing.assert_allclose(said[1].probability, said[0].probability)

def test_without_pydicom(monkeypatch):
    data = made(ramp())
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    with pytest.raises(DicomError, match=r"pip install 'tlcourse\[medical\]'"): load(data)
