"""Weights by name as a local folder: embedded ones made ready once, hub ones downloaded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from trsr import hub
from trsr.errors import ModelError
from trsr.progress import Progress, Silent

GGUF = {"smollm2-135m": "SmolLM2-135M-Instruct.Q4_1.gguf"}
"""Embedded models that may come as GGUF: `trsr get` name → file in the fetched folder."""

_MADE = "made.json"  # written last: a folder that has it is whole
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


def local_weights(
    name: str,
    *,
    revision: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """A folder with a model's safetensors, settings and tokenizer.

    An embedded name (`smollm2-135m`) is fetched; where it came as GGUF it is converted to fp32
    safetensors once (half a minute; the numbers of Q4_1 do not all exist in bf16) and kept in
    `<cache>/weights/<name>`. A folder is given back as it is. Anything else is a hub id:
    downloaded by huggingface_hub into its own cache, or found there when the hub is away.

    Args:
        name: An embedded name, a folder or a hub id.
        revision: The hub revision to pin.
        cache: Where fetched and converted files are kept; None: trsr's cache folder.
        progress: Told about the conversion.

    Returns:
        The folder.

    Raises:
        ModelError: If there are no such weights, or they cannot be fetched, converted or kept.
    """
    if name in GGUF:
        return _embedded(name, cache, progress or Silent())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is not a model's folder: it has no config.json")
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no model folder {folder}")
    return _from_hub(name, revision)


def file_digest(path: Path, cache: Path | None = None) -> str:
    """A file's SHA-256, remembered in trsr's cache for as long as the file stays the same.

    That is its size, its times and its place on the disk: who sets the time back to what it was
    changes another one, which nobody can set.
    """
    path = path.resolve()
    facts = path.stat()
    key = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    note = hub.cache_folder(cache) / "digests" / f"{key}.json"
    stamp = {
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "ctime_ns": facts.st_ctime_ns,
        "inode": facts.st_ino,
    }
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text("utf-8"))
        if {name: known.get(name) for name in stamp} == stamp:
            return str(known["sha256"])
    digest = _sha256(path)
    if facts.st_size >= 1 << 20:  # smaller ones cost less than the note
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            note.parent.mkdir(parents=True, exist_ok=True)
            _write(note, json.dumps({**stamp, "sha256": digest}))
    return digest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' own progress bars off the terminal for a while."""
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
    root = hub.cache_folder(cache) / "weights"
    folder = root / name
    if (folder / _MADE).is_file():
        return folder
    raw = hub.get(name, cache=cache, progress=progress)
    if (raw / "config.json").is_file():
        return raw
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if not (folder / _MADE).is_file():
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
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quiet():
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
        digests = {path.name: _sha256(path) for path in sorted(made.iterdir())}
        facts = {"from": {gguf.name: _sha256(gguf)}, "sha256": digests}
        _write(made / _MADE, json.dumps(facts, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except (ImportError, LookupError, RuntimeError, ValueError, struct.error) as error:
        raise ModelError(
            f"{gguf} cannot be converted ({error}): remove {gguf.parent} to fetch it again"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    progress.advance()


def _from_hub(name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=_HUB_FILES
        )
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"there is no model {name!r}: it is not an embedded name ({', '.join(GGUF)}), there is "
            f"no such folder, and the hub does not give it ({reason})"
        ) from error
    return Path(folder)


def _write(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    beside.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
