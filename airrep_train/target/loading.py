"""Loading the target: a causal LM with its tokenizer, from a folder, the hub or a `.gguf` file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from airrep_infer.errors import InputError
from airrep_train.pretrained import quiet_transformers


@dataclass(frozen=True)
class CausalLm:
    """A transformers causal LM and its tokenizer."""

    model: Any
    tokenizer: Any

    def fingerprint(self) -> str:
        """The sha256 of weights (as float32), configuration and tokenizer."""
        digest = hashlib.sha256()
        config = self.model.config.to_diff_dict()
        # These say where the weights came from and who wrote them, not what they are.
        for key in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
            config.pop(key, None)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = (
            backend.to_str()
            if backend is not None
            else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        )
        digest.update(f"{self.tokenizer.bos_token_id} {self.tokenizer.eos_token_id} {content}".encode())
        for key, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{key} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().float().cpu().contiguous().numpy())
        return digest.hexdigest()

    def check_length(self, name: str, max_length: int) -> None:
        """Refuse rows that are longer than the model has positions.

        Raises:
            InputError: `max_length` tokens are too many for this model.
        """
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and max_length > limit:
            raise InputError(f"{name} reads at most {limit} tokens; lower the max length {max_length}")


def pick_device(name: str) -> torch.device:
    """The device for "auto" (CUDA if there is one), "cpu" or "cuda".

    Raises:
        InputError: "cuda" where PyTorch finds none; it does not fall back to the CPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: PyTorch finds no usable GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_causal_lm(name: str) -> CausalLm:
    """Load a causal LM, in the dtype that it was saved in.

    Args:
        name: a model folder, a hub id, or a `.gguf` file (its weights are dequantized).

    Raises:
        InputError: it cannot be loaded, lacks weights, or comes with code of its own, which is not run.
    """
    source, options = _find(name)
    with _loading(name):
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        load: Any = AutoModelForCausalLM.from_pretrained  # its type leaves the second result out
        model, loaded = load(source, output_loading_info=True, trust_remote_code=False, **options)
    if missing := sorted(loaded["missing_keys"]):
        # transformers would continue with random weights in their place.
        raise InputError(
            f"{name}: weights are missing: {', '.join(missing[:3])} ({len(missing)} in all); "
            "not a complete causal language model"
        )
    return CausalLm(model, tokenizer)


def load_tokenizer(name: str) -> Any:
    """Load a target's tokenizer without its weights; `name` and errors as in `load_causal_lm`."""
    source, options = _find(name)
    with _loading(name):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)


def _find(name: str) -> tuple[str, dict[str, str]]:
    """What transformers is to be given for a target's name."""
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{name}: no such file")
        return str(path.parent), {"gguf_file": path.name}
    is_folder = path.exists() or name.startswith(("/", ".", "~"))
    if is_folder and not (path / "config.json").is_file():
        raise InputError(f"{name}: not a model folder (no config.json)")
    return name, {}


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    # Reading .gguf shows progress even where stderr is not a terminal.
    hidden = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet_transformers(), hidden:
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{name}: cannot load it as a causal language model: {reason[0]}") from error
