#!/bin/sh
# transformers 5.23.0, 2026-11-29: the chat template that comes with SmolVLM's processor writes a
# message whose content is a plain string as an empty message, without a word.
#
# Expected: {"role": "user", "content": "Say hello."} is the usual form of a text message. It stands
# in the prompt, or is refused where only lists of parts are known.
# Found: the template goes through the content's parts. Those of a string are its letters, none of
# which is a part of type text or image, so nothing is written. Any program that sends text to such
# a model in the usual form asks it an empty question, and gets a fluent answer.
#
# Output seen:
#   a plain string:   'User: <end_of_utterance>\nAssistant:'
#   a list of parts:  'User: Say hello.<end_of_utterance>\nAssistant:'
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0 pillow==13.0.0 jinja2==3.1.6
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
)
tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
forms = {
    "a plain string:": "Say hello.",
    "a list of parts:": [{"type": "text", "text": "Say hello."}],
}
texts = {}
for name, content in forms.items():
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    texts[name] = text.replace("<|im_start|>", "")
    print(f"{name:<17} {texts[name]!r}")
assert "hello" not in texts["a plain string:"]
assert "hello" in texts["a list of parts:"]
PY
