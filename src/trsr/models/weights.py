"""Weights by name as a local folder: embedded ones converted once, hub ones downloaded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from trsr import hub
from trsr.errors import ModelError
from trsr.progress import Progress, Silent
from trsr.storage import files

GGUF = {"smollm2-135m": "SmolLM2-135M-Instruct.Q4_1.gguf"}
"""Embedded models that may come as GGUF: `trsr get` name → file in the fetched folder."""

PROCESSOR = ("preprocessor_config", "processor_config")
"""What the files of a processor of images begin with."""

_MADE = "made.json"  # written last: a folder that has it is complete
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


def local_weights(
    name: str,
    *,
    revision: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    whole: bool = True,
) -> Path:
    """A folder with a model's safetensors, settings and tokenizer.

    An embedded name (`smollm2-135m`) is fetched; GGUF is converted once to fp32 safetensors in
    `<cache>/weights/<name>` (bf16 lacks some numbers of Q4_1). A folder is returned as it is.
    Anything else is a hub id, downloaded by huggingface_hub or found in its cache.

    Args:
        name: An embedded name, a folder or a hub id.
        revision: The hub revision to pin.
        cache: The folder for fetched and converted files; None: trsr's cache folder.
        progress: Shows the conversion.
        whole: Whether the weights are needed; of a hub id the rest is downloaded without them.

    Raises:
        ModelError: If there are no such weights, or they cannot be fetched, converted or stored.
    """
    if name in GGUF:
        return _embedded(name, cache, progress or Silent())
    folder = Path(files.absolute(name)) if name.startswith("~") else Path(name)
    if files.is_folder(folder):
        if not files.is_file(folder / "config.json"):
            raise ModelError(f"{folder} is not a model's folder: it has no config.json")
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no model folder {folder}")
    return _from_hub(name, revision, _HUB_FILES[0 if whole else 1 :])


def sees(folder: Path) -> bool:
    """Whether a folder holds a model that takes images."""
    try:
        return "vision_config" in files.read_json(folder / "config.json")
    except (OSError, ValueError):
        return False


def image_fault(backend: str, name: str) -> str:
    """Why a local model takes no images, as far as its files are here; empty where it may."""
    if backend != "transformers":
        return ""
    advice = "name a multimodal one, or an endpoint's (backend openai)"
    if name in GGUF:
        return f"the model {name} takes no images: {advice}"
    folder = Path(name)
    if not files.is_file(folder / "config.json"):
        return ""
    if not sees(folder):
        return f"the model in {folder} takes no images: {advice}"
    if not any(path.name.startswith(PROCESSOR) for path in files.listed(folder, "*.json")):
        return (
            f"the model in {folder} has no processor of images: fetch preprocessor_config.json "
            "(and processor_config.json) of the same model into the folder"
        )
    return ""


def file_digest(path: Path, cache: Path | None = None) -> str:
    """A file's SHA-256, cached on disk for as long as `files.full_stamp` stays the same."""
    path = path.resolve()
    key = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    note = hub.cache_folder(cache) / "digests" / f"{key}.json"
    stamp = files.full_stamp(path)
    with contextlib.suppress(OSError, ValueError):
        known = files.read_json(note)
        if {name: known.get(name) for name in stamp} == stamp:
            return str(known["sha256"])
    digest = files.digest(path, "sha256")
    if stamp["size"] >= 1 << 20:  # smaller ones cost less than the note
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            files.write_json(note, {**stamp, "sha256": digest})
    return digest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides transformers' own progress bars within the block."""
    import transformers.modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    shown, bar = logging.is_progress_bar_enabled(), getattr(reader, "tqdm", None)
    logging.disable_progress_bar()
    if bar is not None:  # the GGUF reader's bar does not ask the setting
        reader.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if bar is not None:
            reader.tqdm = bar


def _embedded(name: str, cache: Path | None, progress: Progress) -> Path:
    from filelock import FileLock

    root = hub.cache_folder(cache) / "weights"
    folder = root / name
    if files.is_file(folder / _MADE):
        return folder
    raw = hub.get(name, cache=cache, progress=progress)
    if files.is_file(raw / "config.json"):
        return raw
    try:
        files.make_folder(root)
        with FileLock(root / f"{name}.lock"):
            if not files.is_file(folder / _MADE):
                _convert(raw / GGUF[name], folder, progress)
    except OSError as error:
        raise ModelError(
            f"{name} cannot be made ready in {folder} ({error}): free 600 MB or make the folder "
            "writable, or set TRSR_CACHE to another folder, and run again"
        ) from error
    return folder


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    """Writes a GGUF file's model as fp32 safetensors, with its tokenizer and chat template."""
    import torch
    import transformers

    progress.begin(3, "steps")
    progress.advance(0, f"converting {gguf.name}")
    try:
        with files.temporary_folder(folder.parent, f".{folder.name}-") as temporary, quiet():
            made = temporary / folder.name
            where = {"gguf_file": gguf.name, "trust_remote_code": False}
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
            tokenizer.save_pretrained(made)
            progress.advance()
            network = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, **where
            )
            # the weights are plain fp32 now: as a record of GGUF they would not load again
            del network.config.quantization_config
            network.hf_quantizer = None
            progress.advance()
            network.save_pretrained(made)
            digests = {path.name: files.digest(path, "sha256") for path in files.listed(made)}
            facts = {"from": {gguf.name: files.digest(gguf, "sha256")}, "sha256": digests}
            files.write_json(made / _MADE, facts)
            files.move(made, folder)
    except (ImportError, LookupError, RuntimeError, ValueError, struct.error) as error:
        raise ModelError(
            f"{gguf} cannot be converted ({error}): remove {gguf.parent} to fetch it again"
        ) from error
    progress.advance()


def _from_hub(name: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"there is no model {name!r}: it is not an embedded name ({', '.join(GGUF)}), there is "
            f"no such folder, and the hub does not give it ({reason})"
        ) from error
    return Path(folder)
