#!/bin/sh
# transformers 5.23.0 (torch 2.13.0, pillow 13.0.0), 2026-11-29: a model for pictures and films
# cannot read a single picture without torchvision, although its picture processor needs none.
#
# Expected: AutoImageProcessor opens the picture part of Qwen2-VL with Pillow, so AutoProcessor,
# which joins it with the tokenizer, opens too, and films alone ask for torchvision.
# Found: AutoProcessor makes the film processor first and raises ImportError. Left out by hand
# (video_processor=None, its default), the class fails on looking up what it was not given. So a CPU
# service of pictures must bring torchvision for a part that it never uses.
#
# Output seen:
#   AutoImageProcessor: Qwen2VLImageProcessorPil
#   AutoProcessor: ImportError
#   Qwen2VLProcessor without a film processor: AttributeError
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow==13.0.0 jinja2==3.1.6
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import transformers as tf
from tokenizers import Tokenizer, models

marks = ["<|image_pad|>", "<|video_pad|>"]
inner = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=inner, extra_special_tokens=marks)
tokenizer.save_pretrained("model")
tf.Qwen2VLImageProcessorPil().save_pretrained("model")
tf.Qwen2VLConfig().save_pretrained("model")


def outcome(make):
    try:
        return type(make()).__name__
    except Exception as error:
        return type(error).__name__


images = tf.AutoImageProcessor.from_pretrained("model")
found = {
    "AutoImageProcessor": outcome(lambda: images),
    "AutoProcessor": outcome(lambda: tf.AutoProcessor.from_pretrained("model")),
    "Qwen2VLProcessor without a film processor": outcome(
        lambda: tf.Qwen2VLProcessor(images, tokenizer)
    ),
}
for name, one in found.items():
    print(f"{name}: {one}")
assert [*found.values()] == ["Qwen2VLImageProcessorPil", "ImportError", "AttributeError"]
PY
