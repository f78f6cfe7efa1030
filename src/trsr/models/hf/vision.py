"""Local models that see: an image stands in a prompt as a run of numbers of its own.

What a model's vision part makes of an image are vectors in the place of tokens. We give each of
them a number beyond the vocabulary, found by the image's content, and the embedding layer looks it
up. So scoring, training and generation read images as they read words: what prompts share is
computed once, and one prompt's image has no part in another's. Vectors are computed image by image
and kept. The vision part is never trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from torch import Tensor

from trsr.errors import ModelError, PromptError
from trsr.models.chat_format import ChatFormat
from trsr.models.hf.item_vectors import look_up
from trsr.models.token_tree.kv_cache import PLACES, decoder_of
from trsr.models.token_tree.tokens import Tokens
from trsr.models.weights import quiet
from trsr.storage import files
from trsr.storage.images import ImageError, decode
from trsr.types import Image, Message, Prompt

KEPT_BYTES = 2**29
"""Of images' vectors."""
_MOST = 4096
"""Tokens of one image."""
_LATEST = 64
_MARK = "\ue000"
"""Stands around an image's number in a text; Unicode gives it no meaning, and no item keeps it."""
_MARKED = re.compile(f"{_MARK}(\\d+){_MARK}")
_STILL = {"smolvlm": "Idefics3Processor"}
"""Processors for images where an architecture's own wants libraries for films."""


def load_processor(folder: Path) -> Any:
    """A model's processor, for images alone.

    Where its own class asks for a film processor, and so for torchvision, we do without that.

    Raises:
        ModelError: If there is none that can be loaded.
    """
    try:
        with quiet():
            try:
                return transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            except (ImportError, AttributeError):
                return _without_films(folder)
    except (OSError, ValueError, LookupError, ImportError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the processor in {folder} cannot be loaded, and a model that sees needs one (files "
            f"preprocessor_config.json or processor_config.json): {error}"
        ) from error


def _without_films(folder: Path) -> Any:
    kind = json.loads(files.read_text(folder / "config.json"))["model_type"]
    names = transformers.models.auto.processing_auto.PROCESSOR_MAPPING_NAMES
    own = getattr(transformers, _STILL.get(kind, names[kind]))

    def proper(self: Any, name: str, argument: Any) -> Any:
        return (
            None if argument is None else own.check_argument_for_proper_class(self, name, argument)
        )

    still = type(own.__name__, (own,), {"check_argument_for_proper_class": proper})
    path, given = folder / "processor_config.json", {}
    if files.is_file(path):
        given = {
            key: one
            for key, one in files.read_json(path).items()
            if not (key.endswith("_processor") or key in ("processor_class", "auto_map"))
        }
    images = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    given.setdefault("chat_template", tokenizer.chat_template)
    return still(images, tokenizer, **given)


@dataclass(frozen=True)
class _Known:
    """An image that a prompt has named.

    Attributes:
        image: The image.
        tokens: What stands for it in a prompt: its own numbers, and what is around them.
        first: Its first own number.
        count: How many it has.
    """

    image: Image
    tokens: Tokens
    first: int
    count: int


class ImageVectors:
    """Numbers for images, and the vectors behind the numbers.

    Model and processor are set to about `image_tokens` an image at most, where they can do with so
    few.

    Raises:
        ModelError: If the model takes images in a way that is not known here.
    """

    def __init__(self, network: Any, processor: Any, image_tokens: int, name: str) -> None:
        self.processor, self.name = processor, name
        self._network = network.get_base_model() if hasattr(network, "get_base_model") else network
        self._decoder = decoder_of(network)
        _shrink(self._network, processor, image_tokens)
        embeddings = self._decoder.get_input_embeddings()
        self.base = max(embeddings.num_embeddings, len(processor.tokenizer))
        self._known: dict[Image, _Known] = {}
        self._blocks: dict[int, _Known] = {}
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._bytes = 0
        self._latest: OrderedDict[Image, tuple[Any, int, int]] = OrderedDict()
        self._grids: dict[int, tuple[Tensor, int]] = {}
        look_up(network, self.base, self._vectors)
        if _has_grids(self._decoder.config):
            setattr(self._decoder, PLACES, self._places)

    def known(self, image: Image) -> _Known:
        """An image's numbers.

        Raises:
            PromptError: If the image cannot be decoded or read by the processor.
        """
        if image not in self._known:
            found = self._numbered(image)
            self._known[image] = self._blocks[self._block(found.first)] = found
        return self._known[image]

    def numbered(self, first: int) -> Tokens:
        """What stands in a prompt for the image whose first number this is."""
        return self._blocks[self._block(first)].tokens

    def _block(self, number: int) -> int:
        return int(number - self.base) // _MOST

    def _numbered(self, image: Image) -> _Known:
        inputs, start, end = self._processed(image)
        ids = inputs["input_ids"][0].tolist()
        own = [place for place in range(start, end) if ids[place] == self.processor.image_token_id]
        if not 0 < len(own) <= _MOST:
            raise PromptError(f"{self.name} makes {len(own)} tokens of {image}: lower image_tokens")
        # by content, so that a training that goes on has the same numbers
        blocks = (2**31 - 1 - self.base) // _MOST
        block = int(hashlib.sha256(image.data).hexdigest(), 16) % blocks
        while block in self._blocks:
            block = (block + 1) % blocks
        first = self.base + block * _MOST
        numbers = dict(zip(own, range(first, first + len(own)), strict=True))
        tokens = tuple(numbers.get(place, ids[place]) for place in range(start, end))
        return _Known(image, tokens, first, len(own))

    def _processed(self, image: Image) -> tuple[Any, int, int]:
        """As `_process`; the latest are kept: an image is counted just before it is read."""
        if image not in self._latest:
            self._latest[image] = self._process(image)
            if len(self._latest) > _LATEST:
                self._latest.popitem(last=False)
        return self._latest[image]

    def _process(self, image: Image) -> tuple[Any, int, int]:
        """The processor's output for a text with an image, and where the image is in it."""
        marker = self.processor.image_token
        text = f"a{marker}b"
        try:
            shown = decode(image)
            inputs = self.processor(
                text=[text], images=[shown], return_tensors="pt", add_special_tokens=False
            )
        except (ImageError, ValueError, TypeError) as error:
            raise PromptError(f"{self.name} cannot read {image}: {error}") from error
        plain = self.processor.tokenizer.encode(text, add_special_tokens=False)
        start = plain.index(self.processor.image_token_id)
        return inputs, start, inputs["input_ids"].shape[1] - (len(plain) - start - 1)

    def _vectors(self, numbers: Tensor) -> Tensor:
        """[numbers, width]."""
        found = torch.empty(
            len(numbers), self._decoder.config.hidden_size, device=numbers.device
        ).to(self._network.dtype)
        blocks = (numbers - self.base) // _MOST
        for block in blocks.unique().tolist():
            known, at = self._blocks[block], blocks == block
            found[at] = self._of(known)[numbers[at] - known.first].to(found)
        return found

    def _of(self, known: _Known) -> Tensor:
        """An image's vectors, [its tokens, width]."""
        if known.first in self._kept:
            self._kept.move_to_end(known.first)
            return self._kept[known.first]
        inputs, start, end = self._processed(known.image)
        given = self._handed_on(inputs)
        own = inputs["input_ids"][0, start:end] == self.processor.image_token_id
        vectors: Tensor = given["inputs_embeds"][0, start:end][own.to(self._network.device)].clone()
        self._kept[known.first] = vectors
        self._bytes += vectors.nbytes
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.nbytes
        return vectors

    @torch.no_grad()
    def _handed_on(self, inputs: Any) -> dict[str, Any]:
        """What the model itself hands to its decoder for some inputs."""
        handed: dict[str, Any] = {}

        def stop(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            handed.update(kwargs)
            raise _HandedError

        hook = self._decoder.register_forward_pre_hook(stop, with_kwargs=True)
        training = self._network.training
        self._network.eval()
        try:
            with contextlib.suppress(_HandedError):
                self._network(**inputs.to(self._network.device), use_cache=False)
        finally:
            hook.remove()
            self._network.train(training)
        strange = sorted(name for name in handed if "visual" in name and handed[name] is not None)
        if (
            handed.get("inputs_embeds") is None
            or strange
            or isinstance(handed.get("attention_mask"), dict)
        ):
            raise ModelError(
                f"{self.name} ({type(self._network).__name__}) hands images to its layers in a way "
                f"that is not known here{f' ({strange[0]})' if strange else ''}: choose a SmolVLM, "
                "Idefics3, LLaVA, LLaVA-NeXT or Qwen2-VL model, or serve it and use the backend "
                "openai to describe"
            )
        return handed

    def _places(
        self, segments: Sequence[Sequence[int]], firsts: Sequence[int]
    ) -> tuple[Tensor, list[int]]:
        """Positions in time, height and width (M-RoPE, arXiv:2409.12191), as in the model."""
        longest = max(map(len, segments))
        found = torch.zeros(3, len(segments), longest, dtype=torch.long)
        nexts = []
        for row, (segment, first) in enumerate(zip(segments, firsts, strict=True)):
            at, place = first, 0
            while place < len(segment):
                if segment[place] < self.base:
                    found[:, row, place] = at
                    at, place = at + 1, place + 1
                    continue
                known = self._blocks[self._block(segment[place])]
                grid, size = self._grid(known)
                # a prefix may end within an image
                skipped = segment[place] - known.first
                part = grid[:, skipped : skipped + len(segment) - place]
                begun = at if not skipped else at - int(grid[0, skipped])
                found[:, row, place : place + part.shape[1]] = begun + part
                place += part.shape[1]
                at = begun + (size if skipped + part.shape[1] == known.count else 0)
            found[:, row, len(segment) :] = at
            nexts.append(at)
        return found, nexts

    def _grid(self, known: _Known) -> tuple[Tensor, int]:
        """An image's positions from its first, [3, its tokens], and how far the next token is."""
        if known.first not in self._grids:
            inputs, start, end = self._processed(known.image)
            positions = self._network.model.compute_3d_position_ids(
                input_ids=inputs["input_ids"],
                inputs_embeds=None,
                image_grid_thw=inputs["image_grid_thw"],
                mm_token_type_ids=inputs["mm_token_type_ids"],
            )[-3:, 0]
            begin = int(positions[0, start - 1]) + 1
            size = int(positions[0, end]) - begin
            self._grids[known.first] = positions[:, start:end] - begin, size
        return self._grids[known.first]


class _HandedError(Exception):
    """Ends a forward pass where the decoder begins."""


def _has_grids(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return "mrope_section" in rope


def _shrink(network: Any, processor: Any, image_tokens: int) -> None:
    """Sets model and processor to few tokens an image: no tiles, or a bound on the pixels."""
    images = processor.image_processor
    if hasattr(images, "do_image_splitting"):
        images.do_image_splitting = False
    if getattr(images, "image_grid_pinpoints", None):
        side = min(min(size) for size in images.image_grid_pinpoints)
        images.image_grid_pinpoints = [[side, side]]
        network.config.image_grid_pinpoints = [[side, side]]  # it counts tiles by its own
    if hasattr(images, "merge_size") and hasattr(images, "patch_size"):
        pixels = image_tokens * (images.merge_size * images.patch_size) ** 2
        size = dict(images.size)
        least = min(size["shortest_edge"], pixels)
        images.size = {"shortest_edge": least, "longest_edge": min(size["longest_edge"], pixels)}


class VisionFormat(ChatFormat):
    """The chat format of a model that sees: images stand where the message has them.

    Some chat templates put a message's images first wherever they stand. Then all candidates of a
    user would share nothing, so we write the image's mark into the text ourselves.
    """

    def __init__(self, vectors: ImageVectors, name: str, specials: Collection[str] = ()) -> None:
        self.vectors = vectors
        self._mark = vectors.processor.image_token
        self._written = ""  # the mark with what is around it, where we write it
        tokenizer = vectors.processor.tokenizer
        tokenizer.chat_template = vectors.processor.chat_template or tokenizer.chat_template
        if not tokenizer.chat_template:
            raise ModelError(
                f"{name} has no chat template, and without one nobody knows how an image stands in "
                "its prompts: choose an instruction-tuned model"
            )
        super().__init__(tokenizer, name, specials=specials)
        self.markers |= {self._mark}
        self._written = self._find_written()

    def text(self, prompt: Prompt) -> str:
        """The prompt as the model's text; an image is its number between two marks.

        Raises:
            ModelError: If the chat template refuses the messages.
            PromptError: If a part is neither text nor image.
        """
        images: list[Image] = []

        def worded(message: Message) -> Message:
            parts = []
            for part in message.parts:
                if isinstance(part, str):
                    parts.append(part.replace(_MARK, "?"))
                elif isinstance(part, Image):
                    images.append(part)
                    parts.append(f"{_MARK}0{_MARK}")
                else:
                    raise PromptError(f"{self.name} takes text and images, and is given {part}")
            return Message(message.role, parts)

        text = super().text(Prompt(tuple(map(worded, prompt.messages)), prompt.draw))
        numbers = iter([self.vectors.known(image).first for image in images])
        found = re.sub(re.escape(self._mark), lambda _: f"{_MARK}{next(numbers)}{_MARK}", text)
        if next(numbers, None) is not None:
            raise ModelError(f"the chat template of {self.name} leaves an image out")
        return found

    def _render(self, messages: Sequence[Message], *, closed: bool = False) -> str:
        begun = messages[-1].role == "assistant"
        try:
            text: str = self.tokenizer.apply_chat_template(
                [
                    {"role": message.role, "content": list(self._parts(message.content))}
                    for message in messages
                ],
                tokenize=False,
                add_generation_prompt=not (begun or closed),
                continue_final_message=begun and not closed,
                enable_thinking=False,
            )
        except TypeError as error:
            raise TemplateError(f"it takes no list of parts ({error})") from error
        return text

    def _parts(self, content: str) -> Iterator[dict[str, str]]:
        """The parts of a message's content, as templates want them."""
        if self._written:
            content = _MARKED.sub(self._written, content)
        # split gives texts at even places, images' numbers at odd ones
        for place, part in enumerate(_MARKED.split(content)):
            if place % 2:
                yield {"type": "image"}
            elif part or content == "":
                yield {"type": "text", "text": part}

    def _find_written(self) -> str:
        """The mark with what the template puts around it, where the template moves images."""
        image = f"{_MARK}0{_MARK}"
        text = self._render([Message("user", f"before{image}behind")])
        places = [text.find(one) for one in ("before", self._mark, "behind")]
        if -1 not in places and places == sorted(places):
            return ""
        with_image = self._render([Message("user", f"{image}before")])
        without = self._render([Message("user", "before")])
        if self._mark not in with_image or not with_image.endswith(
            rest := without[without.index("before") :]
        ):
            raise ModelError(f"the chat template of {self.name} has no place for images")
        return with_image[: -len(rest)].removeprefix(without[: without.index("before")])

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        plain = super()._tokens([_MARKED.sub(self._mark, text) for text in texts])
        return [
            self._spliced(tokens, map(int, _MARKED.findall(text)))
            for text, tokens in zip(texts, plain, strict=True)
        ]

    def _spliced(self, tokens: Tokens, numbers: Iterator[int]) -> Tokens:
        mark = self.vectors.processor.image_token_id
        found: list[int] = []
        for token in tokens:
            found += self.vectors.numbered(next(numbers)) if token == mark else (token,)
        return tuple(found)

    def kind(self, tokens: Tokens) -> Tokens:
        """The tokens before the first image: whatever it is, such prompts run together."""
        own = (place for place, token in enumerate(tokens) if token >= self.vectors.base)
        return tokens[: next(own, len(tokens))]

    def _decode(self, tokens: Sequence[int]) -> str:
        return super()._decode([token for token in tokens if token < self.vectors.base])
