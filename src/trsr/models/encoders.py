"""Texts as vectors by a sentence-transformers model, each text computed once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr import hub
from trsr.errors import ModelError
from trsr.models.weights import file_digest, local_weights, quiet
from trsr.progress import Progress, Silent
from trsr.registry import optional
from trsr.storage import files

EMBEDDED = ("minilm",)
"""Models that `trsr get` knows."""

_log = logging.getLogger(__name__)
_PART = 2048  # texts a file: what a kill may cost
_BATCH = 64
_MEANT = frozenset(
    {
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
)
"""The files beside the weights that a vector depends on; folders differ in the others."""

Vectors = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Texts to vectors; the same text gives the same vector within one call."""

    identity: str
    """Weights and settings, for what is kept."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One vector a text, shape (texts, width)."""


class SentenceEncoder:
    """A sentence-transformers model on this machine: the GPU where there is one.

    Weights are read as safetensors only, and no code that comes with them is run. `name` is an
    embedded model's, a folder or a hub id.

    Raises:
        ConfigError: If sentence-transformers is not installed.
        ModelError: If there is no such model, or it cannot be read.
    """

    def __init__(self, name: str, progress: Progress | None = None) -> None:
        self.name = name
        if name in EMBEDDED:
            self.folder = hub.get(name, progress=progress)
        elif files.is_file(modules := Path(files.absolute(name)) / "modules.json"):
            self.folder = modules.parent
        else:
            self.folder = local_weights(name)
        own = sorted(
            path
            for path in files.walk(self.folder)
            if path.suffix == ".safetensors" or path.name in _MEANT
        )
        facts = [f"{path.relative_to(self.folder).as_posix()}:{file_digest(path)}" for path in own]
        self.identity = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, shape (texts, width); the model is loaded at the first call."""
        if self._model is None:
            self._model = self._load()
        vectors = self._model.encode(
            list(texts), batch_size=_BATCH, show_progress_bar=False, normalize_embeddings=True
        )
        return np.asarray(vectors, dtype=np.float32)

    def _load(self) -> Any:
        found = self._opened()
        if self._is_bidirectional():
            check_bidirectional(found[0].auto_model)
        return found

    def _is_bidirectional(self) -> bool:
        config = self.folder / "config.json"
        return files.is_file(config) and files.read_json(config).get("is_causal") is False

    def _opened(self) -> Any:
        library = optional("sentence_transformers", "embeddings", "the ranker text_knn")
        try:
            with quiet():
                return library.SentenceTransformer(
                    str(self.folder),
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            raise ModelError(
                f"{self.folder} cannot be read as a sentence-transformers model ({error})"
            ) from error


BIDIRECTIONAL = "Llama, Qwen 2 and 3, Mistral, Phi-3, GPT-2, GPT-NeoX, OPT, Gemma 2 (eager)"
"""Architectures whose decoders read in both directions when `config.is_causal` is false."""


def check_bidirectional(decoder: Any) -> None:
    """Changes a text's last token, and looks whether its first state changes.

    Libraries drop or ignore the switch without a word, and such vectors would know each word from
    the left alone.

    Raises:
        ModelError: If the first state stays.
    """
    torch = optional("torch", "local", "an encoder made of a language model")
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=decoder.device)
    with torch.no_grad():
        states = decoder(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
        ).last_hidden_state
    if torch.equal(states[0, 0], states[1, 0]):
        raise ModelError(
            f"{type(decoder).__name__} reads from left to right whatever its configuration says, "
            f"so it makes no encoder; these can: {BIDIRECTIONAL}"
        )


def embed(
    texts: Iterable[str],
    encoder: Encoder,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Vectors]:
    """The vectors of texts, each of the same shape (width,).

    A text's vector is computed once a model and kept in `<cache>/embeddings/<identity>`: Parquet
    files of a few thousand each, written whole or not at all, named by what they hold. Several
    processes may fill the folder at once.

    Raises:
        ModelError: If the model gives values that are no numbers, or the cache cannot be written.
    """
    wanted = {_key(text): text for text in dict.fromkeys(texts)}
    folder = hub.cache_folder(cache) / "embeddings" / encoder.identity
    found = _read(folder, wanted)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        progress = progress or Silent()
        progress.begin(len(missing), "texts to embed")
        # near lengths together: less padding
        missing.sort(key=lambda key: (len(wanted[key]), key))
        for start in range(0, len(missing), _PART):
            keys = missing[start : start + _PART]
            made: list[Vectors] = []
            for some in (keys[at : at + _BATCH] for at in range(0, len(keys), _BATCH)):
                made.extend(encoder.encode([wanted[key] for key in some]))
                progress.advance(len(some))
            vectors = np.stack(made)
            if not np.isfinite(vectors).all():
                raise ModelError("the embedding model gave values that are not numbers")
            _write(folder, keys, vectors)
            found.update(zip(keys, vectors, strict=True))
    return {text: found[key] for key, text in wanted.items()}


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(folder: Path, wanted: Iterable[str]) -> dict[str, Vectors]:
    """What is kept of these keys; a damaged file counts as not there, and is said."""
    keys = pl.Series("key", list(wanted), dtype=pl.String)
    found: dict[str, Vectors] = {}
    for path in files.listed(folder, "*.parquet"):
        try:
            rows = files.read_parquet(path).join(keys.to_frame(), on="key", how="semi")
            found.update(zip(rows["key"], rows["vector"].to_numpy(), strict=True))
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            _log.warning("%s: cannot be read (%s); its texts are embedded again", path, error)
    return found


def _write(folder: Path, keys: Sequence[str], vectors: Vectors) -> None:
    name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
    columns = {
        "key": keys,
        "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
    }
    try:
        files.write_parquet(pl.DataFrame(columns), folder / f"{name}.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ModelError(
            f"embeddings cannot be kept in {folder} ({error}): free some space or make the folder "
            "writable, or set TRSR_CACHE to another folder, and run again"
        ) from error
