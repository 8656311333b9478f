"What `folder` makes of pictures and folders that are not as they should be."
import io, itertools, os, struct, warnings, zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from tlcourse.data import DataError, folder

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40,60,3), dtype=np.uint8)


def save(im, fmt, **kw):
    b = io.BytesIO()
    im.save(b, fmt, **kw)
    return b.getvalue()

def solid(mode, color, size=(40,30)): return Image.new(mode, size, color)
def gray16(fmt): return save(Image.fromarray(np.full((30,40), 128*257, np.uint16)), fmt)
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind+data))
def png(w, h, *chunks): return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0)) + b''.join(chunks) + chunk(b'IEND', b'')

JPEG, PNG = save(Image.fromarray(NOISE), 'JPEG'), save(Image.fromarray(NOISE), 'PNG')

def flip(data, at): return data[:at] + bytes([data[at]^255]) + data[at+1:]

def turned():
    "Left half red, right half blue, and EXIF says: turn by 90 degrees, so that red belongs on top."
    im = Image.new('RGB', (60,60), (0,0,255))
    im.paste((255,0,0), (0,0,30,60))
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(im, 'JPEG', exif=exif, quality=95)

def clear_palette():
    im = Image.new('P', (40,30), 0)
    im.putpalette([255,0,0, 0,255,0])
    return save(im, 'PNG', transparency=0)

def gif(): return save(solid('RGB', (250,0,0)), 'GIF', save_all=True, append_images=[solid('RGB', (0,0,250))])

# name -> (bytes, what a usable picture looks like in the middle, or None for any, or the words of the problem)
PICTURES = {
    'gray.jpg':           (save(solid('L', 100), 'JPEG'), (100,100,100)),
    'gray.png':           (save(solid('L', 100), 'PNG'), (100,100,100)),
    'one bit.png':        (save(solid('1', 1), 'PNG'), (255,255,255)),
    'one bit.tif':        (save(solid('1', 0), 'TIFF'), (0,0,0)),
    'sixteen.png':        (gray16('PNG'), (128,128,128)),
    'sixteen.tiff':       (gray16('TIFF'), (128,128,128)),
    'thirty-two.tif':     (save(Image.fromarray(np.full((30,40), 128*257, np.int32)), 'TIFF'), (128,128,128)),
    'too deep.tif':       (save(Image.fromarray(np.full((30,40), 1<<20, np.int32)), 'TIFF'), 'more than 16 bits'),
    'negative.tif':       (save(Image.fromarray(np.full((30,40), -1, np.int32)), 'TIFF'), 'more than 16 bits'),
    'float.tif':          (save(Image.fromarray(np.full((30,40), .5, np.float32)), 'TIFF'), 'floating-point'),
    'palette.png':        (save(solid('RGB', (0,200,0)).quantize(4), 'PNG'), (0,200,0)),
    'palette clear.png':  (clear_palette(), (255,255,255)),
    'rgba.png':           (save(solid('RGBA', (255,0,0,0)), 'PNG'), (255,255,255)),
    'rgba opaque.png':    (save(solid('RGBA', (0,0,200,255)), 'PNG'), (0,0,200)),
    'la.png':             (save(solid('LA', (0,128)), 'PNG'), (127,127,127)),
    'rgb with color key.png': (save(solid('RGB', (9,9,9)), 'PNG', transparency=(9,9,9)), (255,255,255)),
    'cmyk.jpg':           (save(solid('CMYK', (0,255,255,0)), 'JPEG', quality=95), (254,0,0)),
    'cmyk.tif':           (save(solid('CMYK', (0,255,255,0)), 'TIFF'), (255,0,0)),
    'ycbcr.tif':          (save(solid('YCbCr', (128,128,128)), 'TIFF'), (128,128,128)),
    'lab.tif':            (save(solid('LAB', (128,128,128)), 'TIFF'), None),
    'turned.jpg':         (turned(), None),
    'animated.gif':       (gif(), (250,0,0)),
    'pages.tif':          (save(solid('RGB', (250,0,0)), 'TIFF', save_all=True, append_images=[solid('RGB', (0,0,250))]), (250,0,0)),
    'a.webp':             (save(solid('RGB', (0,200,0)), 'WEBP', lossless=True), (0,200,0)),
    'a.bmp':              (save(solid('RGB', (0,200,0)), 'BMP'), (0,200,0)),
    'A.JPG':              (JPEG, None),
    'A.Png':              (PNG, None),
    'png called.jpg':     (PNG, None),
    'grüße ☀ 猫 .jpg':    (JPEG, None),
    'a;b,c [d] %20 #.png': (PNG, None),
    'no body.ppm':        (b'P6 40 30 255\n', 'truncated'),
    'one pixel.png':      (save(solid('RGB', (1,2,3), (1,1)), 'PNG'), (1,2,3)),
    'a line.png':         (save(solid('RGB', (1,2,3), (5000,1)), 'PNG'), (1,2,3)),
    'a tall line.jpg':    (save(solid('RGB', (100,100,100), (1,5000)), 'JPEG'), (100,100,100)),
    'progressive.jpg':    (save(Image.fromarray(NOISE), 'JPEG', progressive=True), None),
    'bytes behind.jpg':   (JPEG + b'x'*500, None),
    'truncated.jpg':      (JPEG[:len(JPEG)//2], 'truncated'),
    'header only.jpg':    (JPEG[:200], 'Truncated'),
    'truncated.png':      (PNG[:len(PNG)//2], 'truncated'),
    'truncated.webp':     (save(Image.fromarray(NOISE), 'WEBP')[:300], ''),
    'truncated.gif':      (save(Image.fromarray(NOISE), 'GIF')[:900], ''),
    'truncated.tif':      (save(Image.fromarray(NOISE), 'TIFF', compression='tiff_deflate')[:200], ''),
    'bad header crc.png': (flip(PNG, 30), 'not a picture'),
    'bad pixels.png':     (flip(PNG, 60), ''),
    'no pixels.png':      (png(40, 30), ''),
    'empty.jpg':          (b'', 'the file is empty'),
    'zeros.jpg':          (bytes(5000), 'not a picture'),
    'text.jpg':           (b'not a picture', 'not a picture'),
    'page.jpg':           (b'<!DOCTYPE html><html><body>404 Not Found</body></html>', 'not a picture'),
    'pointer.jpg':        (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n', 'not a picture'),
    'pickle.png':         (b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.', 'not a picture'),
    'script.eps':         (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n', '.eps cannot be read, save it as PNG or JPEG'),
    'eps called.jpg':     (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n', 'not a picture'),
    'drawing.svg':        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', '.svg cannot be read'),
    'phone.heic':         (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', '.heic cannot be read'),
    'PHONE.HEIC':         (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', '.heic cannot be read'),
    'heic called.jpg':    (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'not a picture'),
    'bomb.png':           (png(60000, 60000, chunk(b'IDAT', zlib.compress(bytes(1000)))), 'more pixels than is safe'),
    'text bomb.png':      (png(4, 4, chunk(b'zTXt', b'k\0\0'+zlib.compress(bytes(1<<26))), chunk(b'IDAT', zlib.compress(bytes(52)))), ''),
    'no width.png':       (png(0, 30), ''),
}
IGNORED = {'.DS_Store': b'x', 'Thumbs.db': b'x', '._a.jpg': b'x', '.hidden.jpg': JPEG, 'labels.csv': b'a,b', 'notes.txt': b'x', 'README': b'x', 'no_extension': JPEG}


def put(path, data=PNG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path

COUNT = itertools.count()

def another():
    "A picture that there has not been before."
    k = next(COUNT)
    return save(Image.new('RGB', (9,8), (k%256, k//256%256, 77)), 'PNG')

def classes(root, **counts):
    "A folder with so many good pictures in each class, no two alike."
    for c,n in counts.items():
        (root/c).mkdir(parents=True, exist_ok=True)
        for i in range(n): put(root/c/f'{i}.png', another())
    return root

def load(root, **kw): return folder(root, size=32, device='cpu', **kw)
def ids(dls): return {o.source.name for o in [*dls.train_ds.items, *dls.valid_ds.items]}

def refused(root, says, **kw):
    with pytest.raises(DataError) as e: load(root, **kw)
    assert says in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 800, str(e.value)
    return str(e.value)


def test_corpus_is_large(): assert len(PICTURES) + len(IGNORED) >= 40


@pytest.mark.parametrize('name', PICTURES)
def test_picture(tmp_path, name):
    "A usable picture has the right pixels; any other is refused by name, or skipped and listed."
    data, want = PICTURES[name]
    root = classes(tmp_path/'own', a=3, b=3)
    f = put(root/'a'/name, data)
    limit = Image.MAX_IMAGE_PIXELS
    if isinstance(want, str):
        assert f'a/{name} (' in refused(root, want)
        with pytest.warns(UserWarning) as said: dls = load(root, bad='skip')
        assert len(said) == 1 and f'a/{name}' in str(said[0].message) and '\n' not in str(said[0].message)
        assert list(dls.bad.file) == [f'a/{name}'] and want in dls.bad.problem[0] and name not in ids(dls) and len(ids(dls)) == 3
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            if name == 'pages.tif': warnings.filterwarnings('ignore', '.*1 of its files has several pages, of which the first is taken: a/pages.tif')
            dls = load(root)
        assert name in ids(dls) and dls.bad.empty
        px = dls.valid_ds.tls[0].tfms(f)
        assert px.shape == (3,32,32) and px.dtype == torch.uint8
        if want: assert np.abs(px[:,16,16].numpy().astype(int) - want).max() <= 2
    assert Image.MAX_IMAGE_PIXELS == limit and not ImageFile.LOAD_TRUNCATED_IMAGES


def test_turned_by_exif(tmp_path):
    root = classes(tmp_path, a=2, b=2)
    px = load(root).train_ds.tls[0].tfms(put(tmp_path/'t.jpg', turned()))
    assert px[0,4].min() > 200 and px[2,4].max() < 60 and px[2,27].min() > 200


def test_the_middle_is_taken(tmp_path):
    im = Image.new('RGB', (90,30), (255,0,0))
    im.paste((0,255,0), (30,0,60,30))
    px = load(classes(tmp_path, a=2, b=2)).train_ds.tls[0].tfms(im)
    assert px[1].min() > 250 and px[0].max() < 5


@pytest.mark.parametrize('name', IGNORED)
def test_ignored(tmp_path, name):
    root = classes(tmp_path, a=3, b=3)
    put(root/'a'/name, IGNORED[name]); put(root/name, IGNORED[name])
    dls = load(root)
    assert dls.bad.empty and len(dls.train_ds) + len(dls.valid_ds) == 6 and name not in ids(dls)


# ---- folders

def test_all_at_once(tmp_path):
    "Everything usable is used, everything else is listed, in either way of asking."
    root = classes(tmp_path, a=3, b=3)
    for k,(data,_) in PICTURES.items(): put(root/'a'/f'x{len(k)}'/k, data)
    broken = [k for k,(_,want) in PICTURES.items() if isinstance(want, str)]
    assert f'and {len(broken)-3} more' in refused(root, 'mend or remove')
    with pytest.warns(UserWarning): dls = load(root, bad='skip')
    assert sorted(o.rsplit('/', 1)[1] for o in dls.bad.file) == sorted(broken)
    assert len(dls.train_ds) + len(dls.valid_ds) == 6 + len(PICTURES) - len(broken)
    assert sum(len(y) for dl in dls for _,y in dl) == 6 + len(PICTURES) - len(broken)


def test_nothing_there(tmp_path): refused(tmp_path/'none', 'does not exist')
def test_a_file(tmp_path): refused(put(tmp_path/'pictures.zip'), 'is a file: unpack it')
def test_empty_folder(tmp_path): refused(tmp_path, 'has no subfolders')
def test_no_subfolders(tmp_path): put(tmp_path/'a.png'); refused(tmp_path, 'has no subfolders')
def test_only_hidden_subfolders(tmp_path): classes(tmp_path, **{'.git': 2, '__MACOSX': 2}); refused(tmp_path, 'has no subfolders')
def test_one_class(tmp_path): refused(classes(tmp_path, a=5), 'needs two classes, and here is one (a)')
def test_one_class_left(tmp_path): refused(classes(tmp_path, a=5, b=1), 'needs two classes, and here is one', bad='skip')
def test_nothing_usable(tmp_path): put(tmp_path/'a'/'x.jpg', b''); put(tmp_path/'b'/'x.jpg', b''); refused(tmp_path, 'here is none', bad='skip')


@pytest.mark.parametrize('n,says', [(0, 'c (class with 0 usable pictures, of at least 2)'), (1, 'c (class with 1 usable picture, of at least 2)')])
def test_thin_class(tmp_path, n, says):
    root = classes(tmp_path, a=3, b=3, c=n)
    refused(root, says)
    with pytest.warns(UserWarning, match='class with'): dls = load(root, bad='skip')
    assert dls.vocab == ['a','b'] and list(dls.bad.file) == ['c']


def test_class_thin_for_its_broken_files(tmp_path):
    root = classes(tmp_path, a=3, b=3, c=1)
    put(root/'c'/'broken.jpg', b'')
    refused(root, 'c/broken.jpg (the file is empty); c (class with 1')
    with pytest.warns(UserWarning): dls = load(root, bad='skip')
    assert dls.vocab == ['a','b'] and list(dls.bad.file) == ['c/broken.jpg', 'c']


def test_class_of_two_is_on_both_sides(tmp_path):
    dls = load(classes(tmp_path, a=40, b=2))
    for ds in (dls.train_ds, dls.valid_ds): assert sum(o.label=='b' for o in ds.items) == 1


@pytest.mark.parametrize('pct', [.01, .2, .5, .99])
def test_share(tmp_path, pct):
    dls = load(classes(tmp_path, a=20, b=10), valid_pct=pct, seed=3)
    assert len(dls.valid_ds) == min(max(round(30*pct), 2), 28) and len(dls.train_ds) + len(dls.valid_ds) == 30
    assert dls.valid_ds.items == load(tmp_path, valid_pct=pct, seed=3).valid_ds.items


def test_names_that_differ_in_case(tmp_path):
    root = classes(tmp_path, cat=3, dog=3)
    try: (root/'Cat').mkdir()
    except FileExistsError: pytest.skip('this file system has no case')
    put(root/'Cat'/'a.png')
    refused(root, 'classes Cat and cat differ only in case')


def test_deep_folders_and_folder_called_jpg(tmp_path):
    root = classes(tmp_path, a=3, **{'b.jpg': 3})
    put(root/'a'/'2024'/'05 may'/'deep.png'); put(root/'a'/'folder.jpg'/'inside.png'); put(root/'a'/'.thumbs'/'hidden.png')
    dls = load(root)
    assert dls.vocab == ['a','b.jpg'] and {'deep.png', 'inside.png'} <= ids(dls) and 'hidden.png' not in ids(dls)
    assert len(dls.train_ds) + len(dls.valid_ds) == 8


def link(a, b, is_dir=False):
    try: a.symlink_to(b, target_is_directory=is_dir)
    except OSError: pytest.skip('no symbolic links here')

def test_links(tmp_path):
    "A class may be a link; loops are not followed; a link to nothing is named."
    root = classes(tmp_path/'own', a=3, b=3)
    link(root/'a'/'loop', root, True)
    link(root/'c', classes(tmp_path/'far', c=3)/'c', True)
    dls = load(root)
    assert dls.vocab == ['a','b','c'] and len(dls.train_ds) + len(dls.valid_ds) == 9
    link(root/'a'/'gone.jpg', root/'nowhere.jpg')
    refused(root, 'a/gone.jpg (No such file or directory)')


def test_unreadable(tmp_path):
    root = classes(tmp_path, a=3, b=3)
    f = put(root/'a'/'secret.png')
    f.chmod(0)
    if os.access(f, os.R_OK): pytest.skip('this user may read everything')
    refused(root, 'a/secret.png (Permission denied)')


@pytest.mark.parametrize('name', ['valid', 'val'])
def test_train_and_valid(tmp_path, name):
    classes(tmp_path/'train', a=3, b=1); classes(tmp_path/name, a=2, b=2); classes(tmp_path/'test', x=1)
    dls = load(tmp_path)
    assert dls.vocab == ['a','b'] and (len(dls.train_ds), len(dls.valid_ds)) == (4,4)
    assert all(o.source.is_relative_to(tmp_path/'train') for o in dls.train_ds.items)


def test_train_without_valid(tmp_path): classes(tmp_path/'train', a=3, b=3); refused(tmp_path, 'train but none valid')
def test_valid_is_empty(tmp_path):
    classes(tmp_path/'train', a=3, b=3); classes(tmp_path/'valid', a=0, b=0)
    refused(tmp_path, 'no usable picture to validate on')
def test_class_only_in_valid(tmp_path):
    classes(tmp_path/'train', a=3, b=3); classes(tmp_path/'valid', a=1, b=1, c=2)
    refused(tmp_path, 'c (class with 0 usable pictures, of at least 1)')
def test_class_called_train(tmp_path):
    "With pictures right in it, `train` is a class (of vehicles, say)."
    assert load(classes(tmp_path, train=3, bus=3)).vocab == ['bus','train']


@pytest.mark.parametrize('kw,says', [(dict(bad='ignore'), "'refuse' or 'skip'"), (dict(valid_pct=0), 'valid_pct=0'), (dict(valid_pct=20), 'valid_pct=20')])
def test_arguments(tmp_path, kw, says): refused(classes(tmp_path, a=3, b=3), says, **kw)


def test_large_jpeg_is_decoded_small(tmp_path):
    "And has the same colors as when decoded whole."
    im = Image.fromarray(NOISE).resize((3000,2000), Image.BICUBIC)
    dls = load(classes(tmp_path, a=2, b=2))
    data = save(im, 'JPEG', quality=95)
    small, whole = (dls.train_ds.tls[0].tfms(o).float() for o in (data, Image.open(io.BytesIO(data))))
    assert (small-whole).abs().mean() < 3


def test_items_keep_their_names(tmp_path):
    dls = load(classes(tmp_path, a=3, b=3))
    assert {o.id for o in dls.train_ds.items} <= {(tmp_path/c/f'{i}.png').as_posix() for c in 'ab' for i in range(3)}
