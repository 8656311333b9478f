"""Does `extract` embed texts at least 1.5 times as fast as a plain Transformers loop? python benchmarks/embed_texts.py [texts] [repeats]"""
import platform, statistics, sys

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel
from transformers.utils import logging

from _turns import rounds
from tlcourse.assets import fetch
from tlcourse.features import extract
from tlcourse.text import load, texts, tokenizer


def plain(model, tok, raw, bs=32, length=128):
    "The loop of many examples: batches in the order of the data, each filled up to `length`; the mean under the mask."
    res = []
    with torch.no_grad():
        for at in range(0, len(raw), bs):
            enc = tok(raw[at:at+bs], padding='max_length', truncation=True, max_length=length, return_tensors='pt')
            h, mask = model(**enc).last_hidden_state, enc.attention_mask[..., None]
            res.append((h*mask).sum(1)/mask.sum(1))
    return torch.cat(res).numpy()

def main(n=512, repeat=5):
    print(f'## Texts: extract against a plain Transformers loop\n\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; MiniLM, '
          f'{n} texts, batches of 32, median of {repeat} rounds by turns; from raw texts to vectors, tokens and all\n')
    print('| corpus | cut after | mean tokens | plain, texts/s | texts and extract | ratio | promised |\n|---|---|---|---|---|---|---|')
    logging.disable_progress_bar()
    model, tok, bert = load(), tokenizer(), AutoModel.from_pretrained(fetch('minilm'), local_files_only=True).eval()
    for name, cut, promise in (('reuters', 128, 1.5), ('reuters', 256, 1.5), ('bbc', 128, None)):  # 256 is what this encoder was trained to read
        drawn = texts(name, n_train=n, n_valid=20, max_length=cut, device='cpu')
        table = pd.DataFrame([dict(text=o.text, label=o.label) for ds in (drawn.train_ds, drawn.valid_ds) for o in ds.items])  # in memory for both ways
        def read(): return texts(table, n_train=n, n_valid=20, max_length=cut, device='cpu')
        def ours(): return extract(model, read().train, cache=False, progress=False).x
        items = read().train_ds
        raw, length = [o.text for o in items.items], np.mean([len(x) for x,_ in items])
        assert np.abs(plain(bert, tok, raw, length=cut) - ours()).max() < 1e-4, 'the two must give the same vectors'
        got = rounds({'plain': lambda: plain(bert, tok, raw, length=cut), 'ours': ours}, n, repeat)
        ratios = [b/a for a,b in zip(got['plain'], got['ours'])]
        kept = f'{promise}, kept' if promise and statistics.median(ratios) >= promise else f'{promise}, **not kept**' if promise else 'none: nearly all are cut'
        print(f"| {name} | {cut} | {length:.0f} | {statistics.median(got['plain']):.1f} | {statistics.median(got['ours']):.1f} | {statistics.median(ratios):.2f} "
              f'({min(ratios):.2f} to {max(ratios):.2f}) | {kept} |', flush=True)

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
