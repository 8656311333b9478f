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
    'negative.tif':       (save(Image.fromarray(np.full((30,40), -1, np.int32)), 'TIFF'), 'negative values'),
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
    dls = load(classes(tmp_path, a=20, b=10), valid=pct, seed=3)
    assert len(dls.valid_ds) == min(max(round(30*pct), 2), 28) and len(dls.train_ds) + len(dls.valid_ds) == 30
    with pytest.warns(FutureWarning, match='valid_pct= is now valid='): assert dls.valid_ds.items == load(tmp_path, valid_pct=pct, seed=3).valid_ds.items
    assert load(tmp_path, n_valid=4).valid_ds.items == load(tmp_path, n_train=5, n_valid=4).valid_ds.items


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


@pytest.mark.parametrize('kw,says', [(dict(bad='ignore'), "'refuse' or 'skip'"), (dict(valid_pct=0), 'valid_pct=0'), (dict(valid_pct=20), 'valid_pct=20'),
                                     (dict(valid=0), 'valid=0 is no share'), (dict(valid=20), 'valid=20 is no share'), (dict(test=1.), 'test=1.0 is no share'), (dict(valid=.5, test=.5), 'leave nothing to train on'),
                                     (dict(valid='none'), 'does not exist'), (dict(n_train=9), 'n_train=9'), (dict(groups='(['), 'is no pattern'), (dict(groups='abc'), 'has 0 parts in brackets'),
                                     (dict(groups=7), 'give a function of the path'), (dict(groups=r'(zz)'), '6 of 6 pictures have none, such as a/0.png'), (dict(groups={}), 'have none')])
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


# ---- splits in every usual layout

def items(dls): return {k: sorted('/'.join(o.source.parts[-3:]) for o in ds.items) for k,ds in dict(train=dls.train_ds, valid=dls.valid_ds, **(dict(test=dls.test.dataset) if dls.test else {})).items()}

@pytest.mark.parametrize('train,valid', [('train', 'valid'), ('Train', 'Val'), ('TRAINING', 'VALIDATION'), ('seg_train', 'seg_val'), ('train_set', 'dev_set'), ('train2017', 'val2017'), ('Train Data', 'Validation Data')])
def test_parts_by_any_name(tmp_path, train, valid):
    "On old code the parts were the classes."
    classes(tmp_path/train, cat=4, dog=4); classes(tmp_path/valid, cat=2, dog=2)
    dls = load(tmp_path)
    assert dls.vocab == ['cat', 'dog'] and (len(dls.train_ds), len(dls.valid_ds), dls.test) == (8, 4, None)
    assert all(o.source.is_relative_to(tmp_path/train) for o in dls.train_ds.items) and all(o.source.is_relative_to(tmp_path/valid) for o in dls.valid_ds.items)

@pytest.mark.parametrize('train,test', [('train', 'test'), ('Train', 'Test'), ('training', 'testing'), ('train_set', 'test_set'), ('seg_train/seg_train', 'seg_test/seg_test')])
def test_a_test_part_is_kept_apart(tmp_path, train, test):
    classes(tmp_path/train, cat=6, dog=6); classes(tmp_path/test, cat=3, dog=2)
    dls = load(tmp_path, bs=2)
    assert dls.vocab == ['cat', 'dog'] and len(dls.train_ds) + len(dls.valid_ds) == 12 and len(dls.test.dataset) == 5
    assert all(o.source.is_relative_to(tmp_path/test) for o in dls.test.dataset.items)
    assert [o.source.name for o in dls.test.dataset.items] == ['0.png', '1.png', '2.png', '0.png', '1.png']
    xs, ys = zip(*dls.test)
    assert torch.cat(ys).tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(torch.cat([torch.as_tensor(x) for x in xs]), torch.as_tensor(dls.test_dl([o.source for o in dls.test.dataset.items], bs=5).one_batch()[0]))

def test_all_three(tmp_path):
    for part,n in dict(train=4, val=2, test=3).items(): classes(tmp_path/part, a=n, b=n)
    dls = load(tmp_path)
    assert {k: len(v) for k,v in items(dls).items()} == dict(train=8, valid=4, test=6)
    assert all(o.startswith(f'{k}/') for k,v in dict(items(dls), val=items(dls)['valid']).items() if k != 'valid' for o in v)
    assert [len(o) for o in items(load(tmp_path, n_train=4, n_valid=2)).values()] == [4, 2, 6]

def test_valid_as_a_folder(tmp_path):
    "Beside the classes, beside `train`, or anywhere."
    classes(tmp_path/'one', a=4, b=4); classes(tmp_path/'one'/'holdout', a=2, b=2); classes(tmp_path/'one'/'later', a=1, b=1)
    dls = load(tmp_path/'one', valid='holdout', test='later')
    assert dls.vocab == ['a', 'b'] and {k: len(v) for k,v in items(dls).items()} == dict(train=8, valid=4, test=2)
    classes(tmp_path/'two'/'train', a=4, b=4); classes(tmp_path/'two'/'held out', a=2, b=2)
    for root,kw in ((tmp_path/'two', dict(valid='held out')), (tmp_path/'two'/'train', dict(valid=tmp_path/'two'/'held out')), (tmp_path/'two'/'train', dict(valid=str(tmp_path/'two'/'held out')))):
        assert {k: len(v) for k,v in items(load(root, **kw)).items()} == dict(train=8, valid=4)
    classes(tmp_path/'three'/'train', a=4, b=4); classes(tmp_path/'three'/'valid', a=2, b=2)
    refused(tmp_path/'three', 'has a valid part of its own', valid=.5)
    refused(tmp_path/'three', 'has a valid part of its own', valid=tmp_path/'two'/'held out')
    refused(tmp_path/'one', 'is split itself', valid=tmp_path/'three')

def test_parts_taken_for_classes(tmp_path):
    classes(tmp_path/'mine'/'a', cat=3, dog=3); classes(tmp_path/'mine'/'b', cat=3, dog=3)
    refused(tmp_path/'mine', 'all hold the same folders (cat, dog)')

def test_test_share(tmp_path):
    root = classes(tmp_path, a=20, b=20)
    dls = load(root, valid=.25, test=.25)
    assert {k: len(v) for k,v in items(dls).items()} == dict(train=20, valid=10, test=10)
    assert items(load(root, test=.25, n_train=4))['test'] == items(dls)['test'] != items(load(root, test=.25, seed=1))['test']
    refused(classes(tmp_path/'thin', a=9, b=2), 'b (class with 2 usable pictures, of at least 3)', test=.3)


# ---- groups

@pytest.mark.parametrize('groups', [r'(p\d)_', r'a*/(p.)', lambda p: p.name[:2], {f'p{i}_{j}.png': i for i in range(8) for j in range(3)}, {f'{c}/p{i}_{j}.png': f'{i}' for c in 'ab' for i in range(8) for j in range(3)}])
def test_groups(tmp_path, groups):
    for c in 'ab':
        for i in range(8):
            for j in range(3): put(tmp_path/c/f'p{i}_{j}.png', another())
    dls = load(tmp_path, groups=groups, test=.25)
    sides = [{o.split('/')[-1][:2] for o in v} for v in items(dls).values()]
    assert [len(o) for o in sides] == [4, 2, 2] or [len(o) for o in sides] == [5, 1, 2]
    assert len(set.union(*sides)) == 8 and sum(map(len, items(dls).values())) == 48

def test_groups_across_given_parts(tmp_path):
    for part in ('train', 'valid'):
        for c in 'ab': put(tmp_path/part/c/'p7_1.png', another()); put(tmp_path/part/c/f'{part}_2.png', another())
    refused(tmp_path, 'groups: p7 is in the train part and in the valid part', groups=r'(p\d|train|valid)_')

def test_groups_stay_with_their_pictures(tmp_path):
    "Also where some are skipped, and the parts come in another order than the files."
    for c in 'ab':
        put(tmp_path/c/'a broken p0.png', b'')
        for i in range(16): put(tmp_path/c/f'{i:02} p{i//2}.png', another())
    for seed in range(4):
        with pytest.warns(UserWarning, match='skipped'): dls = load(tmp_path, groups=r'(p\d)', bad='skip', seed=seed)
        sides = [{o.source.stem[-2:] for o in ds.items} for ds in (dls.train_ds, dls.valid_ds)]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 8

def test_groups_have_all_classes(tmp_path):
    "One finding a patient, the rare one in two of ten: a plain draw of groups loses it on one side."
    for i in range(10): put(tmp_path/('rare' if i > 7 else 'common')/f'p{i}_0.png', another()); put(tmp_path/('rare' if i > 7 else 'common')/f'p{i}_1.png', another())
    for seed in range(10):
        dls = load(tmp_path, groups=r'(p\d)', seed=seed)
        assert all({o.label for o in ds.items} == {'rare', 'common'} for ds in (dls.train_ds, dls.valid_ds))


# ---- the same picture twice

def test_copies_are_named(tmp_path):
    classes(tmp_path/'train', a=3, b=3); classes(tmp_path/'valid', a=3, b=3)
    same = another()
    put(tmp_path/'train'/'a'/'x.png', same); put(tmp_path/'valid'/'b'/'y.png', same); put(tmp_path/'train'/'a'/'x2.png', same)
    with pytest.warns(UserWarning) as said: load(tmp_path)
    assert len(said) == 1 and said[0].filename == __file__ and '\n' not in str(said[0].message)
    assert all(o in str(said[0].message) for o in ('1 picture is an exact copy', 'train/a/x.png (train)', 'valid/b/y.png (valid)'))

def test_copies_that_tell_nothing(tmp_path):
    "With two labels in training, knowing the picture does not give the label away."
    classes(tmp_path/'train', a=3, b=3); classes(tmp_path/'valid', a=3, b=3)
    same = another()
    for o in ('train/a', 'train/b', 'valid/a'): put(tmp_path/o/'x.png', same)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load(tmp_path)

def test_copies_on_one_side_and_pictures_of_one_size(tmp_path):
    classes(tmp_path/'train', a=3, b=3); classes(tmp_path/'valid', a=3, b=3)
    same = another()
    put(tmp_path/'train'/'a'/'x.png', same); put(tmp_path/'train'/'b'/'y.png', same)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load(tmp_path)

def test_a_picture_replaced_on_disk_is_read_anew(tmp_path):
    dls = load(classes(tmp_path, a=5, b=5))
    before, f = torch.as_tensor(dls.valid.one_batch()[0]).clone(), dls.valid_ds.items[0].source
    f.write_bytes(save(solid('RGB', (250, 250, 250), (9, 8)), 'PNG'))
    os.utime(f, ns=(2*10**18, 2*10**18))
    after = torch.as_tensor(dls.valid.one_batch()[0])
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])

def test_two_folders_do_not_mix(tmp_path):
    one, two = (load(classes(tmp_path/k, a=5, b=5)) for k in ('one', 'two'))
    list(one.valid)
    assert torch.equal(torch.as_tensor(one.test_dl(two.valid_ds.items).one_batch()[0]), torch.as_tensor(two.valid.one_batch()[0]))


# ---- more than 8 bits

def deep(root, most, dtype=np.uint16, least=0, n=6, fmt='PNG'):
    "Ramps from `least` to `most`."
    for c in 'ab':
        for i in range(n):
            a = np.linspace(least, most, 32*32).reshape(32, 32)
            a = np.round(a if c == 'a' else a[::-1])
            a[9, i], a[20, -i-1] = least, most
            (root/c).mkdir(parents=True, exist_ok=True)
            Image.fromarray(a.astype(dtype)).save(root/c/f'{i}.{"png" if fmt == "PNG" else "tif"}')
    return root

@pytest.mark.parametrize('bits', [8, 10, 12, 14])
@pytest.mark.parametrize('below', [0, 13])
def test_range_of_a_set(tmp_path, bits, below):
    "A 12-bit camera's files: on old code 16 shades of gray were left."
    most = (1 << bits) - 1 - below
    root = deep(tmp_path, most)
    with pytest.warns(UserWarning, match=f'go up to {most:,}, so they are taken for {bits} bits, with {(1 << bits) - 1:,} as white') as said: dls = load(root)
    assert len(said) == 1 and said[0].filename == __file__ and dls.range == (0, (1 << bits) - 1)
    px = dls.train_ds.tls[0].tfms(root/'a'/'0.png')
    want = np.asarray(Image.open(root/'a'/'0.png')).astype(float)*255/((1 << bits) - 1)
    assert np.abs(px[0].numpy() - want).max() <= 1 and len(px.unique()) > 220

def test_all_of_16_bits(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = load(deep(tmp_path, 40_000))
    assert dls.range == (0, 65535) and dls.train_ds.tls[0].tfms(tmp_path/'a'/'0.png').max() == 40_000*255//65535

def test_range_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = load(deep(tmp_path, 900), top=4095)
    assert dls.range == (0, 4095) and abs(int(dls.train_ds.tls[0].tfms(tmp_path/'a'/'0.png').max()) - 900*255/4095) <= 1

def test_window(tmp_path):
    "Computed tomography: negative numbers, of which a window is looked at."
    root = deep(tmp_path, 1000, np.int32, -1000, fmt='TIFF')
    refused(root, 'a/0.tif')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = load(root, window=(-160, 240))
    want = ((np.asarray(Image.open(root/'a'/'0.tif')).astype(float) + 160)/400*255).clip(0, 255)
    assert dls.range == (-160, 240) and np.abs(dls.train_ds.tls[0].tfms(root/'a'/'0.tif')[0].numpy() - want).max() <= 1

def test_the_range_goes_with_the_learner(tmp_path):
    from fastai.learner import Learner, load_learner
    import fastai.callback.progress
    with pytest.warns(UserWarning): dls = load(deep(tmp_path, 4095))
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32*32*3, 2)), path=tmp_path)
    learn.export('x.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'x.pkl')
    with new.no_bar(), learn.no_bar(): assert torch.equal(new.predict(tmp_path/'a'/'0.png')[2], learn.predict(tmp_path/'a'/'0.png')[2])

def test_no_range_of_8_bits(tmp_path): assert load(classes(tmp_path, a=3, b=3)).range is None

def test_pages_are_said(tmp_path):
    root = classes(tmp_path, a=3, b=3)
    put(root/'a'/'pages.tif', PICTURES['pages.tif'][0])
    with pytest.warns(UserWarning, match='1 of its files has several pages, of which the first is taken: a/pages.tif') as said: load(root)
    assert len(said) == 1 and said[0].filename == __file__


# ---- normalised once

def test_normalize_once(tmp_path):
    from fastai.vision.all import Normalize, aug_transforms, imagenet_stats
    from tlcourse.backbones import input_config
    root, cfg = classes(tmp_path, a=3, b=3), input_config('efficientnet_lite0')
    plain = load(root).valid.one_batch()[0]
    again = load(root, batch_tfms=[Normalize.from_stats(cfg['mean'], cfg['std'], cuda=False)])
    assert sum(isinstance(o, Normalize) for o in again.after_batch.fs) == 1 and torch.equal(again.valid.one_batch()[0], plain)
    for o in (Normalize.from_stats(*imagenet_stats, cuda=False), Normalize(), [*aug_transforms(), Normalize.from_stats(*imagenet_stats, cuda=False)]): refused(root, 'leave Normalize out', batch_tfms=o)


def test_validates_on_the_test_part(tmp_path):
    from fastai.learner import Learner
    import fastai.callback.progress
    classes(tmp_path/'train', a=6, b=6); classes(tmp_path/'test', a=3, b=2)
    dls = load(tmp_path)
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32*32*3, 2)))
    with learn.no_bar(), learn.no_logging():
        loss = learn.validate(dl=dls.test)[0]
        p, y = learn.get_preds(dl=dls.test)
    assert y.tolist() == [0, 0, 0, 1, 1] and abs(-p[range(5), y].log().mean().item() - loss) < 1e-4
