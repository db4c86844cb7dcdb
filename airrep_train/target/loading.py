"""Loading the target: a causal LM with its tokenizer, from a folder, the hub or a `.gguf` file.

A folder of PEFT adapters is the model that they make: the base with the adapters merged into its weights.
Code that comes with a target is run only after `allow_remote_code`.
"""

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
from airrep_train.target.adapters import merge_adapters, read_adapters

_code_allowed = False
_PROBE_TOKENS = 8
_CAUSAL_TOLERANCE = 1e-5  # in float32; nothing but the order of sums may differ


@dataclass(frozen=True)
class CausalLm:
    """A transformers causal LM and its tokenizer."""

    model: Any
    tokenizer: Any
    code: str | None = None
    """The sha256 of the target's own code, where that was run."""

    def fingerprint(self) -> str:
        """The sha256 of weights (as float32), configuration and tokenizer."""
        digest = hashlib.sha256()
        config = self.model.config.to_diff_dict()
        # These say where the weights came from and who wrote them, not what they are.
        for key in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
            config.pop(key, None)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        if self.code is not None:
            digest.update(self.code.encode())
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

    def check_end(self, name: str) -> None:
        """Refuse to end texts with a token that is not the model's end of a sequence.

        transformers makes the tokenizer of a `.gguf` file by rules of its own, and the configuration of what
        the file says.

        Raises:
            InputError: tokenizer and configuration name different ids.
        """
        tokenizer_end, ends = self.tokenizer.eos_token_id, self.model.config.eos_token_id
        known = ends if isinstance(ends, list | tuple) else [ends]
        if None not in (tokenizer_end, ends) and tokenizer_end not in known:
            raise InputError(
                f"{name}: its tokenizer ends a text with id {tokenizer_end} ({self.tokenizer.eos_token!r}) "
                f"and its configuration says {ends}; leave --eos out, or give the model as a folder"
            )


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


def allow_remote_code(allowed: bool) -> None:
    """Run the code that targets come with from now on, as `--allow-remote-code` does; it may do anything."""
    global _code_allowed
    _code_allowed = allowed


def remote_code_allowed() -> bool:
    """Whether `allow_remote_code` has been called."""
    return _code_allowed


def load_causal_lm(name: str) -> CausalLm:
    """Load a causal LM, in the dtype that it was saved in.

    Args:
        name: a model folder, a hub id, a `.gguf` file (its weights are dequantized), or a folder of PEFT
            adapters, which are merged into the base that it names (in float32).

    Raises:
        InputError: it cannot be loaded, lacks weights, is no causal language model, has a tokenizer that does
            not belong to it, or comes with code of its own, which is not run unless that is allowed.
    """
    if (adapters := read_adapters(name)) is not None:
        base = load_causal_lm(adapters.base)
        with _loading(name):
            model = merge_adapters(base.model, adapters)
        tokenizer = load_tokenizer(name)
        _check_tokenizer(name, model, tokenizer)
        return CausalLm(model, tokenizer, base.code)
    source, options = _find(name)
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=_code_allowed, **options)
        load: Any = AutoModelForCausalLM.from_pretrained  # its type leaves the second result out
        model, loaded = load(source, output_loading_info=True, trust_remote_code=_code_allowed, **options)
    if missing := sorted(loaded["missing_keys"]):
        # transformers would continue with random weights in their place.
        raise InputError(
            f"{name}: weights are missing: {', '.join(missing[:3])} ({len(missing)} in all); "
            "not a complete causal language model"
        )
    _check_tokenizer(name, model, tokenizer)
    _check_causal(name, model)
    return CausalLm(model, tokenizer, _hash_code(source) if hasattr(model.config, "auto_map") else None)


def load_tokenizer(name: str) -> Any:
    """Load a target's tokenizer without its weights; `name` and errors as in `load_causal_lm`.

    A folder of adapters without a tokenizer has that of the base.
    """
    if (adapters := read_adapters(name)) is not None and not adapters.has_tokenizer:
        return load_tokenizer(adapters.base)
    source, options = (name, {}) if adapters is not None else _find(name)
    with _loading(name):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=_code_allowed, **options)


def _check_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that gives ids which the model does not have.

    Raises:
        InputError: it does.
    """
    rows = model.get_input_embeddings().num_embeddings
    vocabulary = tokenizer.get_vocab()
    last = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[last] >= rows:
        raise InputError(
            f"{name}: its tokenizer has ids up to {vocabulary[last]} ({last!r}), its model embeddings for "
            f"{rows} only; tokenizer and weights are not of one model"
        )


@torch.no_grad()
def _check_causal(name: str, model: Any) -> None:
    """Refuse a model whose logits depend on later tokens: it sees what it is to predict.

    Raises:
        InputError: they do, as those of a masked language model.
    """
    rows = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(_PROBE_TOKENS) % rows)[None].to(model.device)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % rows
    model.eval()
    with _loading(name):
        before, after = (model(each, use_cache=False).logits[0, :-1].float() for each in (ids, other))
    tolerance = max(_CAUSAL_TOLERANCE, 2 * torch.finfo(model.dtype).eps)
    if not torch.allclose(before, after, rtol=0, atol=tolerance * float(before.abs().max())):
        raise InputError(
            f"{name}: not a causal language model ({type(model).__name__}): what it predicts depends on "
            "later tokens; name a target that generates text"
        )


def _hash_code(source: str) -> str:
    """The sha256 of the Python files of a folder; of a hub id the name, which is taken at its word."""
    if not Path(source).is_dir():
        return source
    digest = hashlib.sha256()
    for file in sorted(Path(source).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


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
        if "trust_remote_code" in str(error):  # transformers advises an argument of its own
            raise InputError(
                f"{name}: comes with code of its own, which is not run; if you trust who made it, add "
                "--allow-remote-code"
            ) from error
        raise InputError(f"{name}: cannot load it as a causal language model: {reason[0]}") from error
