"""sentence-transformers in a process of its own, since its requirements differ from ours: python _sentences.py FOLDER BACKEND LENGTH

Reads lines of JSON, {"texts": [...], "to": null or a path}; answers each with the seconds that `encode` took, and keeps the vectors at the path."""
import json, sys, time, warnings

import numpy as np

warnings.simplefilter('ignore')
answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not be taken for an answer


def model(folder, backend, length):
    from sentence_transformers import SentenceTransformer
    try: from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError: from sentence_transformers.models import Pooling, Transformer
    body = Transformer(folder, max_seq_length=length, backend=backend)
    return SentenceTransformer(modules=[body, Pooling(body.get_word_embedding_dimension() if hasattr(body, 'get_word_embedding_dimension') else body.get_embedding_dimension(), 'mean')],
                               device='cpu', backend=backend)

def say(o): answers.write(json.dumps(o) + '\n'); answers.flush()

def main(folder, backend, length):
    try:
        net = model(folder, backend, int(length))
        import sentence_transformers, torch
        say(dict(version=sentence_transformers.__version__, threads=torch.get_num_threads()))
    except Exception as e: return say(dict(error=f'{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ""}'[:150]))
    for line in sys.stdin:
        job, start = json.loads(line), time.perf_counter()
        x = net.encode(job['texts'], batch_size=32, show_progress_bar=False)
        say(dict(seconds=time.perf_counter() - start))
        if job['to']: np.save(job['to'], x)

if __name__ == '__main__': main(*sys.argv[1:])
