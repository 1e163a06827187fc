"""The bench's questions to PyTorch and transformers: `python rivals.py FOLDER start|hooks` prints one line of JSON.

start: import, load, one image to logits, peak resident memory.
hooks: milliseconds of logits alone, and of logits with all hidden states and attentions (eager attention).

`python rivals.py SIZES train`, SIZES as JSON, answers each line of its input with the milliseconds of one training step:
a post-norm ViT, cross entropy, gradients clipped to a norm of 1, AdamW; eager, as most train.
"""

import json
import resource
import sys
import time

import torch

folder, what = sys.argv[1:]


class ViT(torch.nn.Module):
    """Patches by a convolution, torch's own encoder layers (its defaults are post-norm), the class token's logits."""

    def __init__(self, width, heads, layers, mlp, image, patch, channels, classes):
        super().__init__()
        self.patches = torch.nn.Conv2d(channels, width, patch, patch, bias=False)
        self.token = torch.nn.Parameter(torch.randn(1, 1, width))
        self.places = torch.nn.Parameter(torch.randn(1, 1 + (image // patch) ** 2, width))
        layer = torch.nn.TransformerEncoderLayer(width, heads, mlp, dropout=0, activation="gelu", batch_first=True)
        self.blocks = torch.nn.TransformerEncoder(layer, layers)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, pixels):
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.blocks(x)[:, 0])


def train(batch, **sizes):
    model = ViT(**sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels = torch.rand(batch, sizes["channels"], sizes["image"], sizes["image"])
    labels = torch.arange(batch) % sizes["classes"]

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(pixels), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    for _ in sys.stdin:
        print(milliseconds(step), flush=True)


def load(**options):
    return transformers.AutoModelForImageClassification.from_pretrained(folder, **options).eval()


def images(batch):
    return torch.sin(torch.arange(batch * 3 * 224 * 224, dtype=torch.float32)).reshape(batch, 3, 224, 224)


def milliseconds(run):
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


if what == "train":
    train(**json.loads(folder))
    sys.exit()

import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

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
