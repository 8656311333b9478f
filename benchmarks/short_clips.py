"""Are Whisper's features of short clips faster without the 30 s window, and as good? python benchmarks/short_clips.py [clips] [repeats]"""
import platform, sys

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from _turns import rates
from tlcourse.features import Features, probe
from tlcourse.speech import RATE, load, log_mel, speech, whisper


def usual(model, waves, seconds):
    "Transformers' own front end and encoder on 30 s windows; the mean over the positions of the clip itself."
    front, res = WhisperFeatureExtractor(), []
    for i in range(0, len(waves), 4):
        mel = front([o.numpy() for o in waves[i:i+4]], sampling_rate=RATE, return_tensors='pt').input_features
        res.append(model.model.encoder(mel).last_hidden_state[:, :round(50*seconds)].mean(1))
    return torch.cat(res)

def short(body, waves): return torch.cat([body(log_mel(waves[i:i+32])) for i in range(0, len(waves), 32)])

@torch.no_grad()
def main(n=16, repeat=3):
    print(f'## Speech: short clips against the 30 s window\n\nWhisper tiny.en, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; '
          f'from audio to features, log-mel included; {n} clips, median of {repeat} rounds by turns\n')
    print('| seconds | 30 s window, clips/s | the clip alone, clips/s | times as fast |\n|---|---|---|---|')
    model, ratios = whisper(), {}
    for seconds in (1., 2., 5.):
        dls, body = speech('keywords', n_train=100, n_valid=60, seconds=seconds, mel=False), load(seconds=seconds)
        waves = torch.stack([dls.train_ds[i][0].as_subclass(torch.Tensor) for i in range(n)])
        got = rates({'window': lambda: usual(model, waves, seconds), 'short': lambda: short(body, waves)}, n, repeat)
        ratios[seconds] = got['short']/got['window']
        print(f"| {seconds:g} | {got['window']:.1f} | {got['short']:.1f} | {ratios[seconds]:.1f} |", flush=True)
    print(f"\n{'Kept' if ratios[2.] >= 8 else '**Not kept**'}: at least 8 times as fast for clips of 2 seconds ({ratios[2.]:.1f}).\n")

    dls, body = speech('keywords', n_train=100, n_valid=60, mel=False), load(seconds=1.)
    print('| ten words, 100 clips to learn from, 60 by new voices | accuracy of the probe |\n|---|---|')
    for name, f in {'30 s window': lambda w: usual(model, w, 1.), 'the clip alone': lambda w: short(body, w)}.items():
        train, valid = [Features(f(torch.stack([o[0].as_subclass(torch.Tensor) for o in ds])).numpy(), np.array([int(o[1]) for o in ds]), list(dls.vocab))
                        for ds in (dls.train_ds, dls.valid_ds)]
        print(f'| {name} | {probe(train, valid).accuracy:.3f} |', flush=True)

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
