"""The bench's questions to PyTorch and transformers: `python rivals.py FOLDER start|hooks` prints one line of JSON.

start: import, load, one image to logits, peak resident memory.
hooks: milliseconds of logits alone, and of logits with all hidden states and attentions (eager attention).
"""

import json
import resource
import sys
import time

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

folder, what = sys.argv[1:]


def load(**options):
    return transformers.AutoModelForImageClassification.from_pretrained(folder, **options).eval()


def images(batch):
    return torch.sin(torch.arange(batch * 3 * 224 * 224, dtype=torch.float32)).reshape(batch, 3, 224, 224)


def milliseconds(run):
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


with torch.inference_mode():
    if what == "start":
        load()(images(1)).logits.argmax().item()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"peak": peak}), flush=True)
    else:
        fast, eager = load(), load(attn_implementation="eager")
        logits, everything = {}, {}
        for batch, runs in ((1, 15), (8, 5)):
            x = images(batch)

            def plain():
                return fast(x).logits

            def full():
                return eager(x, output_hidden_states=True, output_attentions=True)

            assert len(full().attentions) == 12
            plain()
            pairs = [(milliseconds(plain), milliseconds(full)) for _ in range(runs)]
            logits[batch], everything[batch] = map(list, zip(*pairs))
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
        print(json.dumps({"versions": versions, "logits": logits, "all": everything}))
