"""Draws seven.png, the demo image: two strokes of a round pen, white on black, 112 x 112 grey pixels.

    python draw.py [OUTPUT_FILE]
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, OVERSAMPLING, PEN = 112, 8, 9.5  # pixels, drawn pixels for each, the pen's diameter in pixels
# Cubic Bezier curves in pixels of the finished image: the bar with its hook at the left, the stem leaning to the left.
STROKES = [
    [(33, 41), (30, 33), (36, 32), (46, 33)],
    [(46, 33), (58, 34), (68, 31), (78, 30)],
    [(78, 30), (74, 48), (58, 64), (53, 88)],
]


def bezier(points, t):
    while len(points) > 1:
        points = [tuple(a + (b - a) * t for a, b in zip(p, q)) for p, q in zip(points, points[1:])]
    return points[0]


image = Image.new("L", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING))
pen = ImageDraw.Draw(image)
for stroke in STROKES:
    for step in range(401):
        x, y = (OVERSAMPLING * c for c in bezier(stroke, step / 400))
        r = OVERSAMPLING * PEN / 2
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("seven.png")
image.resize((SIDE, SIDE), Image.Resampling.BOX).save(path, optimize=True)
