"""What does fine-tuning gain over a linear probe where the task is unlike photographs? 600 textile pictures: python benchmarks/textile.py (half an hour)"""
import os, time, warnings

import torch

warnings.simplefilter('ignore')
from fastai.vision.augment import Flip
from tlcourse.data import images
from tlcourse.features import extract, probe
from tlcourse.finetune import lp_ft
from tlcourse.learners import learner
from tlcourse.plots import interval

SEEDS, N, VALID, SIZE = range(int(os.environ.get('SEEDS', 3))), 600, 300, 224


def run(seed):
    "Accuracy of the probe and after LP-FT, and the CPU seconds of both."
    dls = images('textile', n_train=N, n_valid=VALID, size=SIZE, bs=20, seed=seed, batch_tfms=Flip())
    torch.manual_seed(seed)
    start = time.process_time()
    learn = learner(dls, 'efficientnet_lite0')
    before = probe(*(extract(learn.model, dl) for dl in dls)).accuracy
    between = time.process_time()
    with learn.no_bar(), learn.no_logging():
        lp_ft(learn, 5, 3e-4)
        after = learn.validate()[1]
    return before, after, between - start, time.process_time() - between

def main():
    print(f'## Textile: fine-tuning against the probe\n\n{N} training and {VALID} validation pictures of {SIZE} pixels, EfficientNet-Lite0, LP-FT with 5 passes at 3e-4.\n')
    print('| seed | probe | fine-tuned | gain | CPU seconds, probe | CPU seconds, fine-tuning |\n|---|---|---|---|---|---|')
    gains = []
    for seed in SEEDS:
        before, after, a, b = run(seed)
        gains.append(100*(after - before))
        print(f'| {seed} | {before:.3f} | {after:.3f} | {gains[-1]:+.1f} | {a:.0f} | {b:.0f} |', flush=True)
    mean, low, high = interval(gains)
    print(f"\n{'Kept' if mean >= 8 else '**Not kept**'}: at least 8 points gained. Seen: {mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}).")

if __name__ == '__main__': main()
