"""An item encoder: the base model with its own LoRA reads an item's text once and makes vectors.

They stand in the ranker's prompts in the place of the item's tokens (after MixLM,
arXiv:2512.07846, and gist tokens, arXiv:2304.08467). The encoder reads the text and then learned
slots. A vector is the mean of the input embeddings of one part of the text, moved by a learned map
of the state at its slot. The map starts at zero, so an encoder starts with what the words say.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trsr.errors import ModelError, StoreError
from trsr.models.hf import load
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tokens import Tokens
from trsr.models.token_tree.tree import token_states
from trsr.models.vector_format import VectorNumbers
from trsr.models.weights import file_digest
from trsr.progress import Progress
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.types import Vectors

ENCODER = "encoder"
"""In an adapter's folder: the item encoder that was trained with it."""
SLOTS = "slots.safetensors"
VECTORS = "vectors.safetensors"
MAX_TOKENS = 512
"""Of an item's text."""
_KEPT_BYTES = 2**28
"""Of vectors that are in no file."""
_SHARD = 256
"""Texts whose vectors are written together while a catalog is encoded."""
_EPS = 1e-6


def look_up(network: Any, base: int, vectors: Callable[[Tensor], Tensor]) -> None:
    """Lets a network's embedding layer take numbers from `base` on, and look up their vectors.

    The network is changed in place; `vectors` gives [numbers] → [numbers, width].
    """
    embeddings = decoder_of(network).get_input_embeddings()
    own = embeddings.forward

    def embed(ids: Tensor) -> Tensor:
        other = ids >= base
        if not bool(other.any()):
            return own(ids)  # type: ignore[no-any-return]
        words: Tensor = own(ids.masked_fill(other, 0))
        found = vectors(ids[other]).to(words)
        return words.masked_scatter(other[..., None].expand_as(words), found)

    embeddings.forward = embed


class ItemEncoder(nn.Module):
    """Makes vectors of texts, in the space of the network's input embeddings.

    The network has its LoRA in it; marks of the chat format are text like other text.

    Attributes:
        slots: Input vectors that stand behind each text, [count, width].
        map: From a slot's state to what is added to its vector, [width, width].
    """

    def __init__(self, network: Any, tokenizer: Any, count: int, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        self._tokenizer = tokenizer
        self._words = decoder_of(network).get_input_embeddings()
        self._embed: Callable[[Tensor], Tensor] = self._words.forward
        self._base = self._words.num_embeddings
        weight = self._words.weight.detach()
        self._size = embedding_size(weight)
        generator = torch.Generator().manual_seed(derive_seed(seed, "slots"))
        drawn = torch.randn(count, weight.shape[1], generator=generator) * self._size
        self.slots = nn.Parameter(drawn.to(weight.device))
        self.map = nn.Parameter(torch.zeros(weight.shape[1], weight.shape[1]).to(weight.device))
        look_up(network, self._base, lambda numbers: self.slots[numbers - self._base])

    @property
    def count(self) -> int:
        """Vectors of one text."""
        return len(self.slots)

    def tokens(self, text: str) -> Tokens:
        """A text's tokens; a longer one is cut."""
        found = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(found[:MAX_TOKENS])

    def encode(self, texts: Sequence[str], batch_tokens: int) -> Tensor:
        """The vectors of texts, [texts, count, width], fp32; differentiable."""
        slots = tuple(range(self._base, self._base + self.count))
        tokens = [self.tokens(text) for text in texts]
        states, paths = token_states(
            self.network, [own + slots for own in tokens], batch_tokens=batch_tokens
        )
        places = torch.tensor([path[-self.count :] for path in paths], device=states.device)
        read = scaled(states[places].float(), self._size)
        return scaled(self._means(tokens), self._size) + read @ self.map

    def plain(self, texts: Sequence[str]) -> Tensor:
        """The vectors of texts as an encoder gives them that has learned nothing: no pass."""
        return scaled(self._means([self.tokens(text) for text in texts]), self._size)

    def _means(self, tokens: Sequence[Tokens]) -> Tensor:
        """The mean embedding of each of `count` equal parts of each text."""
        device = self.slots.device
        parts = [
            row * self.count + at * self.count // len(own)
            for row, own in enumerate(tokens)
            for at in range(len(own))
        ]
        into = torch.tensor(parts, dtype=torch.long, device=device)
        every = torch.tensor([one for own in tokens for one in own], dtype=torch.long)
        words = self._embed(every.to(device)).detach().float()
        sums = words.new_zeros(len(tokens) * self.count, words.shape[1]).index_add(0, into, words)
        counts = torch.bincount(into, minlength=len(sums)).clamp_min(1)
        return (sums / counts[:, None]).view(len(tokens), self.count, -1)

    def own(self) -> dict[str, nn.Parameter]:
        """What is trained beside the LoRA, by name."""
        return {"slots": self.slots, "map": self.map}


def embedding_size(weight: Tensor) -> float:
    """The root mean square of a model's input embeddings."""
    return float(weight.float().square().mean().sqrt())


def scaled(vectors: Tensor, size: float) -> Tensor:
    """Vectors of this root mean square each; zero stays zero."""
    norm = vectors.square().mean(-1, keepdim=True).add(_EPS**2).sqrt()
    return vectors * (size / norm)


def encoder_digest(folder: Path) -> str:
    """What identifies an encoder: a hash of its files (16 hexadecimal digits of SHA-256)."""
    names = ("adapter_config.json", "adapter_model.safetensors", SLOTS)
    found = " ".join(file_digest(folder / name) for name in names)
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def read_slots(folder: Path) -> dict[str, Tensor]:
    """The slots and the map of a written encoder.

    Raises:
        ModelError: If the file is damaged or another one.
    """
    try:
        found = load_file(folder / SLOTS)
        width = found["slots"].shape[1]
        fits = found["map"].shape == (width, width)
    except (OSError, SafetensorError, ValueError, LookupError) as error:
        raise ModelError(
            f"the item encoder in {folder} cannot be read ({error}); train again"
        ) from error
    if not fits:
        raise ModelError(f"the item encoder in {folder} has numbers of other shapes; train again")
    return found


class StoredVectors:
    """Vectors in a file, found by their text; read as they are needed.

    Without the file nothing is found, and vectors of another encoder are not taken. Those of a text
    have the shape (count, width).

    Raises:
        StoreError: If the file is damaged, or its vectors have another shape.
    """

    def __init__(self, path: Path, encoder: str, shape: tuple[int, ...]) -> None:
        self._rows: dict[bytes, int] = {}
        if not files.is_file(path):
            return
        try:
            with safe_open(path, framework="pt") as opened:
                if (opened.metadata() or {}).get("encoder") != encoder:
                    return
                keys = opened.get_tensor("keys").numpy()
                self._vectors = opened.get_slice("vectors")  # memory-mapped
                count, *each = self._vectors.get_shape()
                if tuple(each) != shape or keys.shape != (count, _KEY):
                    raise _wrong_shape(path)
                rows = range(count)
                self._rows = dict(zip((key.tobytes() for key in keys), rows, strict=True))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise StoreError(
                f"the vectors in {path} cannot be read ({error}); remove the file: they are made "
                "again"
            ) from error

    def get(self, text: str) -> Tensor | None:
        """A text's vectors, [count, width]; None where they are not in the file."""
        row = self._rows.get(_key(text))
        return None if row is None else self._vectors[row]


_KEY = 32
"""Bytes of a key."""


def _wrong_shape(path: Path) -> StoreError:
    return StoreError(
        f"the vectors in {path} have another shape than the encoder's; remove the file: they are "
        "made again"
    )


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def write_vectors(
    texts: Sequence[str],
    encoder: ItemEncoder,
    digest: str,
    path: Path,
    *,
    work: Path,
    batch_tokens: int,
    progress: Progress,
) -> int:
    """Makes the vectors of texts and writes them; those that are known are not made again.

    Texts are distinct. Finished parts lie in `work`, where a stopped call goes on.

    Returns:
        How many were made.
    """
    shape = tuple(encoder.slots.shape)
    known = StoredVectors(path, digest, shape)
    new = [text for text in texts if known.get(text) is None]
    progress.begin(len(new), "items encoded")
    parts = []
    for start in range(0, len(new), _SHARD):
        some = new[start : start + _SHARD]
        named = hashlib.sha256("\n".join([digest, *some]).encode()).hexdigest()[:16]
        part = work / f"vectors-{named}.safetensors"
        if not files.is_file(part):
            with torch.no_grad():
                made = encoder.eval().encode(some, batch_tokens).cpu()
            _write(part, some, made, digest)
        parts.append(StoredVectors(part, digest, shape))
        progress.advance(len(some))
    found = [
        next(one for place in (known, *parts) if (one := place.get(text)) is not None)
        for text in texts
    ]
    _write(path, texts, torch.stack(found), digest)
    return len(new)


def _write(path: Path, texts: Sequence[str], vectors: Tensor, digest: str) -> None:
    keys = torch.stack(
        [torch.frombuffer(bytearray(_key(text)), dtype=torch.uint8) for text in texts]
    )
    files.make_folder(path.parent)
    beside = path.with_name(f".{path.name}.new")
    tensors = {"keys": keys, "vectors": vectors.contiguous()}
    save_file(tensors, beside, {"encoder": digest})
    files.move(beside, path)


class ItemVectors:
    """The vectors behind a ranker's numbers: its embedding layer looks them up here.

    The network is changed in place. The encoder is asked for once a text is in no file.
    """

    def __init__(
        self,
        network: Any,
        count: int,
        encoder: Callable[[], ItemEncoder],
        stored: StoredVectors | None = None,
        *,
        batch_tokens: int,
    ) -> None:
        words = decoder_of(network).get_input_embeddings()
        self.numbers = VectorNumbers(words.num_embeddings, count)
        self._encoder, self._stored, self._batch_tokens = encoder, stored, batch_tokens
        self._made: OrderedDict[int, Tensor] = OrderedDict()
        look_up(network, self.numbers.base, self._of)

    def of_texts(self, texts: Sequence[str]) -> list[Tensor]:
        """The vectors of texts, each [count, width]."""
        return self._blocks([self._block(text) for text in texts])

    def _block(self, text: str) -> int:
        first = self.numbers.of(Vectors(text, self.numbers.count))[0]
        return (first - self.numbers.base) // self.numbers.count

    def _of(self, numbers: Tensor) -> Tensor:
        """[numbers] → [numbers, width]."""
        places = numbers - self.numbers.base
        blocks, rows = torch.unique(places // self.numbers.count, return_inverse=True)
        table = torch.stack([one.to(numbers.device) for one in self._blocks(blocks.tolist())])
        found: Tensor = table[rows, places % self.numbers.count]
        return found

    def _blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for block in blocks:
            one = self._made.get(block)
            if one is None and self._stored is not None:
                one = self._stored.get(self.numbers.text(block))
            if one is not None:
                found[block] = one
        missing = [block for block in blocks if block not in found]
        if missing:
            with torch.no_grad():
                made = self._encoded(missing, training=False)
            found |= made
            self._made |= made
            each = made[missing[0]].nbytes
            while len(self._made) * each > _KEPT_BYTES:
                self._made.popitem(last=False)
        return [found[block] for block in blocks]

    def _encoded(self, blocks: Sequence[int], *, training: bool) -> dict[int, Tensor]:
        encoder = self._encoder().train(training)
        texts = [self.numbers.text(block) for block in blocks]
        return dict(zip(blocks, encoder.encode(texts, self._batch_tokens), strict=True))

    @contextlib.contextmanager
    def training(
        self, sequences: Sequence[Sequence[int]], more: Iterable[str] = ()
    ) -> Iterator[None]:
        """Within the block all vectors in these sequences are the encoder's, with gradients."""
        blocks = {*self.numbers.blocks(sequences), *map(self._block, more)}
        self._made.clear()  # of weights that have moved since
        self._made |= self._encoded(sorted(blocks), training=True) if blocks else {}
        try:
            yield
        finally:
            self._made.clear()


def open_encoder(
    settings: ModelSettings, base: Path, folder: Path, device: torch.device
) -> ItemEncoder:
    """Opens a written encoder.

    Raises:
        ModelError: If it cannot be read, or is of another model.
    """
    own = read_slots(folder)
    network = load.load_network(settings, base, folder, device)
    tokenizer = load.load_tokenizer(base, split_special_tokens=True)
    encoder = ItemEncoder(network, tokenizer, len(own["slots"]))
    if own["slots"].shape != encoder.slots.shape:
        raise ModelError(f"the item encoder in {folder} is of another model; train again")
    restore_slots(encoder, own)
    return encoder.requires_grad_(False).eval()


class Slotted(Protocol):
    """An encoder with slots and a map."""

    def own(self) -> dict[str, nn.Parameter]:
        """Both, by name."""


def restore_slots(encoder: Slotted, found: Mapping[str, Tensor]) -> None:
    """Puts slots and map into an encoder."""
    with torch.no_grad():
        for name, parameter in encoder.own().items():
            parameter.copy_(found[name])
