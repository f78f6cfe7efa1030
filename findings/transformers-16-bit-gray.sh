#!/bin/sh
# transformers 5.23.0 (pillow 13.0.0, numpy 2.4.6), 2026-11-29: a gray PNG of 16 bits reaches a
# vision model as an almost white picture.
#
# Expected: do_convert_rgb makes a picture of any mode the same picture in RGB. A ramp from black to
# white stays one, with a mean of a half.
# Found: Pillow's conversion cuts 16-bit values off at 255, so all above 1/257 of full scale is
# white; the processor neither scales nor warns. Scans and product cut-outs in 16 bits lose all
# they show, and the model describes a blank page.
#
# Output seen:
#   8 bits:  mean .500
#   16 bits: mean .998
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import numpy as np
from PIL import Image
from transformers import SiglipImageProcessorPil

processor = SiglipImageProcessorPil(do_resize=False, do_normalize=False, do_convert_rgb=True)
ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
pictures = {
    "8 bits": Image.fromarray((255 * ramp).round().astype(np.uint8)),
    "16 bits": Image.fromarray((65535 * ramp).round().astype(np.uint16)),
}
means = {}
for name, picture in pictures.items():
    pixels = processor(images=[picture], return_tensors="np")["pixel_values"]
    means[name] = float(np.mean(pixels))
    print(f"{name + ':':<8} mean {means[name]:.3f}".replace(" 0.", " ."))
assert abs(means["8 bits"] - 0.5) < 0.01
assert means["16 bits"] > 0.99
PY
