"How long does a new process take to load a saved model and to predict one picture, against bare timm and torch, and with onnxruntime alone?"
import os, statistics, subprocess, sys, tempfile, time, warnings
from pathlib import Path

repeats = int(os.environ.get('TLCOURSE_BENCH_REPEATS', 9))
warnings.simplefilter('ignore')

bare = '''
import sys, torch, timm
from PIL import Image
from timm.data import create_transform, resolve_data_config
model = timm.create_model(f'local-dir:{sys.argv[1]}/m', pretrained=True).eval()
tfm = create_transform(**resolve_data_config({}, model=model), is_training=False)
with torch.inference_mode(): model(tfm(Image.open(f'{sys.argv[1]}/a.jpg').convert('RGB'))[None]).softmax(1)'''
ours = 'import sys; from tlcourse import deploy; deploy.load(f"{sys.argv[1]}/%s").predict(f"{sys.argv[1]}/a.jpg")'
commands = {'bare timm and torch': bare, '`deploy.load` of a folder': ours % 'm', '`deploy.load` of an ONNX file': ours % 'm.onnx'}


def seconds(code, room):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, room], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


with tempfile.TemporaryDirectory() as room:
    import numpy as np
    from PIL import Image
    from tlcourse import deploy
    from tlcourse.backbones import load
    from tlcourse.data import images
    dls = images('animals', n_train=50, n_valid=50, size=224)
    deploy.save(load('efficientnet_lite0', dls.c), Path(room)/'m', dls=dls)
    deploy.load(Path(room)/'m').to_onnx(Path(room)/'m.onnx')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)).save(Path(room)/'a.jpg')
    times = {k: [] for k in commands}
    for i in range(repeats + 1):
        for k, code in commands.items():  # in turn, so that a change of load meets all
            t = seconds(code, room)
            if i: times[k].append(t)

median = {k: statistics.median(v) for k, v in times.items()}
base = median['bare timm and torch']
kept = {'`deploy.load` of a folder': ('at most 1.3 times bare', median['`deploy.load` of a folder'] <= 1.3*base),
        '`deploy.load` of an ONNX file': ('at most 1 s', median['`deploy.load` of an ONNX file'] <= 1)}
print(f'## A saved model in a new process\n\nefficientnet_lite0 at 224 pixels, one JPEG; from the start of Python to the answer, median of {repeats} runs by turns.\n')
print('| what | seconds | ratio | promised | kept |\n|---|---|---|---|---|')
for k, t in median.items():
    promise, held = kept.get(k, ('', ''))
    print(f'| {k} | {t:.2f} | {t/base:.2f} | {promise} | {"" if held == "" else "yes" if held else "NO"} |')
