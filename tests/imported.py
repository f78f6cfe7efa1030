"""What workers of trainings import, and what transformers makes once a process, for forks."""

from __future__ import annotations

import peft  # noqa: F401
import polars  # noqa: F401
import torch  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.integrations import ggml  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import trsr.models.apart
import trsr.models.hf.model
import trsr.pipeline
import trsr.training.start  # noqa: F401

get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns
