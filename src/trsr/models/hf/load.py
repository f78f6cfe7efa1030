"""Loads a model for transformers: number format, device, adapter, and what identifies them."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from trsr.errors import ConfigError, ModelError
from trsr.models.hf import low_rank
from trsr.models.hf.fused import fuse_lora, is_readable
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.weights import PROCESSOR, file_digest, local_weights, quiet, sees
from trsr.storage import files

_UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError)
TOKENIZER = ("tokenizer", "chat_template", "special_tokens", "vocab", "merges", "added_tokens")


def pick_device(settings: ModelSettings) -> torch.device:
    """The device in the settings; auto: CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: If the machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if settings.device == "auto":
        return torch.device(next(name for name, found in available.items() if found))
    if not available[settings.device]:
        raise ConfigError(
            f"model.device: torch sees no {settings.device} device on this machine: "
            "use auto or cpu, or install the torch build for the device"
        )
    return torch.device(settings.device)


def cuda_devices() -> list[str]:
    """The GPUs of this machine, by the names that CUDA_VISIBLE_DEVICES takes."""
    return [str(place) for place in range(torch.cuda.device_count())]


def pick_dtype(settings: ModelSettings, device: torch.device) -> torch.dtype:
    """The number format; auto: bfloat16 where the machine multiplies it natively, else float32.

    Natively: GPUs that say so, and CPUs with avx512_bf16 or AMX (a CPU without them is slower
    in bfloat16 than in float32).
    """
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def load_network(
    settings: ModelSettings, folder: Path, adapter: Path | None, device: torch.device
) -> Any:
    """Loads a causal language model in evaluation mode, with its adapter.

    In float32 the adapter is merged into the weights, which changes scores by rounding only (1e-6),
    unless it adapts a matrix that head and embeddings share. In fewer bits it stays beside them:
    rounding a merged weight would lose part of the training.

    Raises:
        ConfigError: If bitsandbytes is needed and missing.
        ModelError: If the folder's model or adapter cannot be loaded, or the adapter is of another
            model.
    """
    dtype = pick_dtype(settings, device)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    # of a compiled pass the pass alone is in fewer bits
    quantize = settings.quantize != "none" and settings.scorer != "openvino"
    small = files.is_file(folder / low_rank.LOW_RANK)
    if quantize and small:
        raise ConfigError(
            f"model.quantize: the compressed model in {folder} can be in fewer bits with "
            "model.scorer = openvino alone; set it to none"
        )
    if quantize:
        options |= _quantized(settings, dtype, device)
    try:
        with quiet():
            if small:
                network = low_rank.load(folder, dtype)
            else:
                kind = "ImageTextToText" if sees(folder) else "CausalLM"
                opening = getattr(transformers, f"AutoModelFor{kind}")
                network = opening.from_pretrained(folder, **options)
    except _UNREADABLE as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    if not quantize:
        network = network.to(device)
    if adapter is not None:
        network = _adapted(network, adapter, dtype)
    _check_parts(network, folder)
    return network.requires_grad_(False).eval()


def numbers_stored(folder: Path) -> int:
    """How many numbers a model's safetensors hold, by the names that transformers gives the files.

    Raises:
        ModelError: If one of the files cannot be read.
    """
    count = 0
    for path in files.listed(folder, "model*.safetensors"):
        try:
            with safe_open(path, "pt") as stored:
                parts = map(stored.get_slice, stored.keys())
                count += sum(math.prod(part.get_shape()) for part in parts)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the weights in {path} cannot be read: {error}") from error
    return count


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """Loads the model's tokenizer; `options` stand in place of what its files say.

    Raises:
        ModelError: If there is none that can be loaded.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **options
        )
    except _UNREADABLE as error:
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def identity(settings: ModelSettings, folder: Path, adapter: Path | None, dtype: Any) -> str:
    """The model in a line: name, digest of weights and tokenizer, format, adapter's digest.

    It holds no path of the machine, so that a cache can move.
    """
    parts = [
        Path(settings.name).name if files.is_folder(Path(settings.name)) else settings.name,
        _joint_digest([path for path in files.listed(folder) if _is_relevant(path)]),
        str(dtype).removeprefix("torch."),
    ]
    if settings.quantize != "none":
        parts.append(settings.quantize)
    if adapter is not None:
        adapted = [adapter / "adapter_config.json", *files.listed(adapter, "*.safetensors")]
        parts.append(f"adapter {_joint_digest(adapted)}")
    return " ".join(parts)


def tokenizer_digest(folder: Path) -> str:
    """The tokenizer in a line, chat template included."""
    return _joint_digest([one for one in files.listed(folder) if one.name.startswith(TOKENIZER)])


def _is_relevant(path: Path) -> bool:
    """Whether the model's answers depend on a file of its folder."""
    return (
        path.suffix == ".safetensors"
        or path.name in ("config.json", "generation_config.json", low_rank.LOW_RANK)
        or path.name.startswith((*TOKENIZER, *PROCESSOR))
    )


def _joint_digest(paths: list[Path]) -> str:
    lines = [f"{path.name} {file_digest(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _adapted(network: Any, adapter: Path, dtype: torch.dtype) -> Any:
    import peft

    _check_files(adapter)
    shared = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    try:
        with warnings.catch_warnings():
            # peft asks transformers by names that are on their way out, and warns of what is
            # refused below
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel.from_pretrained(network, adapter)
            learned_prompt = adapted.active_peft_config.is_prompt_learning
            # a second time, as only this says what found no place
            found = None if learned_prompt else adapted.load_adapter(str(adapter), "default")
    except Exception as error:  # peft checks few of the settings in an adapter's file
        raise ModelError(f"the adapter in {adapter} does not fit the model: {error}") from error
    if found is None:
        raise ModelError(f"the adapter in {adapter} is a learned prompt: trsr takes LoRA adapters")
    if getattr(adapted.active_peft_config, "alora_invocation_tokens", None):
        raise ModelError(
            f"the adapter in {adapter} waits for certain tokens before it works (aLoRA): trsr "
            "takes LoRA adapters"
        )
    _check_names(adapter, found.missing_keys, found.unexpected_keys)
    head, embeddings = network.get_output_embeddings(), network.get_input_embeddings()
    if dtype != torch.float32 and _is_adapted(head) and not is_readable(head):
        raise ModelError(
            f"the adapter in {adapter} adapts the model's head in a way ({type(head).__name__}) "
            f"whose scores {str(dtype).removeprefix('torch.')} rounds too much: set model.dtype to "
            "float32"
        )
    # one matrix for head and embeddings: merged for one of them, it would change the other
    tied = shared and (_is_adapted(head) or _is_adapted(embeddings))
    if dtype != torch.float32 or tied:
        fuse_lora(adapted)
        return adapted
    try:
        return adapted.merge_and_unload()
    except Exception as error:  # kinds of LoRA that peft cannot merge
        raise ModelError(f"the adapter in {adapter} cannot be merged: {error}") from error


def _is_adapted(layer: Any) -> bool:
    return hasattr(layer, "base_layer")


def _check_files(adapter: Path) -> None:
    """Checks that a folder holds an adapter that can be read without running anything."""
    if not files.is_file(adapter / "adapter_config.json"):
        raise ModelError(
            f"{adapter} holds no adapter (no adapter_config.json): has `trsr run` finished?"
        )
    if not files.is_file(adapter / "adapter_model.safetensors"):
        pickled = files.is_file(adapter / "adapter_model.bin")
        advice = (
            ", and trsr reads no pickles (adapter_model.bin): save it again with PEFT's "
            "save_pretrained"
        )
        raise ModelError(f"{adapter} holds no adapter_model.safetensors{advice if pickled else ''}")


def _check_names(adapter: Path, missing: Sequence[str], surplus: Sequence[str]) -> None:
    """Refuses an adapter of another model."""
    systems = {
        "the model adapts and the adapter does not hold": missing,
        "the adapter holds and the model has no place for": surplus,
    }
    wrong = [
        f"{len(names)} tensors that {side}, such as {', '.join(sorted(names)[:3])}"
        for side, names in systems.items()
        if names
    ]
    if wrong:
        raise ModelError(
            f"the adapter in {adapter} is of another model: there are {'; and '.join(wrong)}. Name "
            "the model that it was trained on in model.name"
        )


def _quantized(settings: ModelSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantize = {settings.quantize!r} needs bitsandbytes: "
            '`pip install bitsandbytes accelerate`, or set quantize = "none"'
        )
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=settings.quantize == "8bit",
        load_in_4bit=settings.quantize == "4bit",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _check_parts(network: Any, folder: Path) -> None:
    """Refuses a model that takes no token positions."""
    parameters = inspect.signature(decoder_of(network).forward).parameters
    if network.get_output_embeddings() is None or "position_ids" not in parameters:
        raise ModelError(
            f"the model in {folder} ({type(network).__name__}) is not a decoder that takes "
            "positions: choose a Llama, Qwen, Mistral, Gemma, Phi or GPT-NeoX model"
        )


def _cpu_has_bf16() -> bool:
    if platform.system() != "Linux":
        return False
    try:
        flags = files.read_text(Path("/proc/cpuinfo"), errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def write_merged(settings: ModelSettings, adapter: Path | None, folder: Path) -> None:
    """Writes the model with the adapter's part added to its weights, and its tokenizer.

    The weights are fp32, four bytes each, whatever the format that the model runs in: in fewer
    bits part of what training taught would be rounded away here already.

    Raises:
        ModelError: If model or adapter cannot be loaded, or there is no room for the checkpoint.
    """
    base = local_weights(settings.name, revision=settings.revision)
    plain = settings.model_copy(update={"dtype": "float32", "quantize": "none"})
    # factors are multiplied: readers know whole layers alone
    network = low_rank.multiplied(load_network(plain, base, adapter, torch.device("cpu")))
    try:
        with quiet():
            network.save_pretrained(folder)
        # as they are, so that texts become the same tokens, byte for byte
        for path in files.listed(base):
            if path.name.startswith((*TOKENIZER, *PROCESSOR)):
                files.copy(path, folder / path.name)
    except OSError as error:
        raise ModelError(
            f"the tuned model cannot be written into {folder} ({error}): make room or choose "
            "another folder, then run the same command again"
        ) from error
