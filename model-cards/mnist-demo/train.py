"""Trains the demo model: a ViT of 0.1 M weights on MNIST, written in the layout of transformers.

    OMP_NUM_THREADS=1 python train.py FOLDER_OF_THE_FOUR_IDX_GZ_FILES [OUTPUT_FOLDER]

The weights kept are those of the last epoch: the test images choose nothing.
"""

import gzip
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

SEED, EPOCHS, BATCH = 0, 15, 128
PEAK_LR, WEIGHT_DECAY, WARMUP_STEPS, CLIP_NORM = 2e-3, 0.05, 500, 1.0
MEAN, STD = 0.1307, 0.3081
DEGREES, PIXELS, SCALE = 12.0, 2.5, 0.12  # bounds of the random rotation, shift and zoom


def idx(path):
    """The array of one idx file: a big-endian header (2 zero bytes, type, rank, sizes), then bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(tuple(shape)).copy())


def split(folder, name):
    images = idx(folder / f"{name}-images-idx3-ubyte.gz").float().div(255).sub(MEAN).div(STD)
    return images[:, None], idx(folder / f"{name}-labels-idx1-ubyte.gz").long()


def augment(images):
    """Each image turned, moved and zoomed by its own random amounts; what comes in at the border is black."""
    n = len(images)
    uniform = lambda bound: torch.empty(n).uniform_(-bound, bound)
    angle, zoom = uniform(math.radians(DEGREES)), 1 + uniform(SCALE)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    dx, dy = uniform(2 * PIXELS / 28), uniform(2 * PIXELS / 28)
    matrix = torch.stack([cos, -sin, dx, sin, cos, dy], 1).view(n, 2, 3)
    black = -MEAN / STD
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    return F.grid_sample(images - black, grid, align_corners=False) + black


def learning_rate(step, steps):
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)))


@torch.no_grad()
def right(model, images, labels):
    model.eval()
    hits = sum((model(x).logits.argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500)))
    model.train()
    return hits


def main(data, out):
    torch.manual_seed(SEED)
    names = [str(digit) for digit in range(10)]
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=28,
            patch_size=4,
            num_channels=1,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            qkv_bias=True,
            id2label=dict(enumerate(names)),
            label2id={name: digit for digit, name in enumerate(names)},
        )
    ).train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    images, labels = split(data, "train")
    test_images, test_labels = split(data, "t10k")
    per_epoch = len(images) // BATCH
    start, step, log = time.time(), 0, []
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images))[: per_epoch * BATCH].view(-1, BATCH):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, EPOCHS * per_epoch)
            loss = F.cross_entropy(model(augment(images[rows])).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            total, step = total + loss.item(), step + 1
        hits = right(model, test_images, test_labels)
        log.append({"epoch": epoch + 1, "loss": round(total / per_epoch, 4), "test_right": hits})
        print(json.dumps(log[-1] | {"seconds": round(time.time() - start)}), flush=True)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"parameters": parameters, "steps": step, "seconds": round(time.time() - start)}))
    model.save_pretrained(out)
    ViTImageProcessor(
        size={"height": 28, "width": 28}, resample=2, image_mean=[MEAN], image_std=[STD]
    ).save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent))
