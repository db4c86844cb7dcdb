"""The target language model: load it, fine-tune it on a subset, measure dev losses, put it back.

Weights and optimizer are float32; with dtype "bfloat16" the matrix products run in bfloat16 under
autocast. (The published code trains bfloat16 weights with AdamW at lr 2e-5, where most updates are
smaller than half a unit in the last place and vanish.) Losses are computed in float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from airrep_infer.encode.batching import plan_batches
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_train.autocast import Precision, autocast
from airrep_train.pretrained import quiet
from airrep_train.target.texts import LmBatch, LmRow, TargetTokenizer, pad_rows

_PROBE_TOKENS = 16
_PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class FineTuneOptions:
    """How the target is fine-tuned on a subset: AdamW at a constant rate, gradients clipped at norm 1.

    Attributes:
        epochs: passes over the subset, each in a new order.
        learning_rate: AdamW's; its other settings are PyTorch's defaults.
        batch_size: examples a step.
        max_length: tokens of an example, BOS included; the rest is cut off.
        freeze_embeddings: leave the input embeddings (and a head tied to them) as they are.
        lora_rank: train adapters of this rank on every linear layer instead of the weights.
        gradient_checkpointing: less memory for about a third more time.
        dtype: "bfloat16" autocast, or "float32" throughout (faster on CPUs without AVX-512 BF16 and AMX).
        bos: start each row with the tokenizer's BOS, if it has one.
        eos: end each response with the tokenizer's EOS.
        seed: base seed; `labels.subset_seed` derives each subset's own.
    """

    epochs: int = 1
    learning_rate: float = 1e-4
    batch_size: int = 8
    max_length: int = 512
    freeze_embeddings: bool = False
    lora_rank: int | None = None
    gradient_checkpointing: bool = False
    dtype: Precision = "bfloat16"
    bos: bool = True
    eos: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("max_length", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.dtype not in get_args(Precision):
            raise InputError(f"dtype must be bfloat16 or float32, got {self.dtype!r}")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise InputError(f"lora_rank must be at least 1, got {self.lora_rank}")
        if self.lora_rank is not None and self.freeze_embeddings:
            raise InputError("lora_rank trains adapters only: leave freeze_embeddings out")


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


class Target:
    """A causal LM with the options it is fine-tuned under.

    Args:
        name: a model folder, a hub id, or a `.gguf` file (its weights are dequantized).
        options: how to fine-tune.
        device: "auto", "cpu" or "cuda".

    Attributes:
        fingerprint: sha256 of weights, configuration and tokenizer as loaded.

    Raises:
        InputError: the target cannot be loaded, or is shorter than `max_length`.
    """

    def __init__(self, name: str, options: FineTuneOptions, device: str = "auto") -> None:
        self.options = options
        self.device = pick_device(device)
        model, tokenizer = _load(name)
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and options.max_length > limit:
            raise InputError(
                f"{name} reads at most {limit} tokens; lower the max length {options.max_length}"
            )
        self.fingerprint = _fingerprint(model, tokenizer)
        self.tokenize = TargetTokenizer(tokenizer, options.max_length, bos=options.bos, eos=options.eos)
        self.model = model.float().to(self.device)
        self._head_apart = _head_works_apart(self.model)
        _choose_weights(self.model, options)
        # Only these ever change, so copying them back is a fresh start.
        self._start = [(weight, weight.detach().clone()) for weight in self._trained()]

    def _trained(self) -> list[torch.nn.Parameter]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def rows(self, examples: Sequence[Example]) -> list[LmRow]:
        """Tokenize examples."""
        return [self.tokenize(example) for example in examples]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the weights that the target had when it was loaded."""
        for weight, start in self._start:
            weight.copy_(start)

    def fine_tune(self, rows: Sequence[LmRow], seed: int) -> None:
        """Fine-tune on one subset, from the weights as loaded.

        A step's loss is the mean over the batch's response tokens. Rows without any are left out.

        Args:
            rows: the subset.
            seed: decides the order of the rows and, in models that have it, dropout.
        """
        self.restore()
        options = self.options
        rows = [row for row in rows if row.start < len(row.ids)]
        weights = self._trained()
        optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, fused=True)
        shuffler = random.Random(seed)
        self.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for _ in range(options.epochs):
                order = list(range(len(rows)))
                shuffler.shuffle(order)
                for first in range(0, len(order), options.batch_size):
                    batch = pad_rows([rows[n] for n in order[first : first + options.batch_size]])
                    self._token_losses(batch.to(self.device)).mean().backward()
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
                    optimizer.zero_grad()

    @torch.no_grad()
    def losses(self, rows: Sequence[LmRow]) -> NDArray[np.float32]:
        """Mean cross-entropy over the response tokens of each row, in nats, under the present weights.

        Returns:
            (n,) float32, in the order of `rows`; NaN for a row without response tokens.
        """
        self.model.eval()
        losses = np.full(len(rows), np.nan, np.float32)
        lengths = np.array([len(row.ids) for row in rows], np.intp)
        # Never more tokens than a training step, so evaluation does not raise the peak memory.
        for places in plan_batches(lengths, self.options.batch_size * self.options.max_length):
            batch = pad_rows([rows[place] for place in places]).to(self.device)
            losses[places] = batch.mean_per_row(self._token_losses(batch)).cpu().numpy()
        return losses

    def _token_losses(self, batch: LmBatch) -> torch.Tensor:
        """The cross-entropy of each response token, (P,) float32."""
        with autocast(self.device, self.options.dtype):
            if self._head_apart:
                hidden = self.model.base_model(batch.input_ids, use_cache=False).last_hidden_state
                logits = self.model.get_output_embeddings()(hidden[batch.row, batch.column])
            else:
                logits = self.model(batch.input_ids, use_cache=False).logits[batch.row, batch.column]
        return F.cross_entropy(logits.float(), batch.token, reduction="none")


def _load(name: str) -> tuple[Any, Any]:
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{name}: no such file")
        source, options = str(path.parent), {"gguf_file": path.name}
    elif path.exists() or name.startswith(("/", ".", "~")):
        if not (path / "config.json").is_file():
            raise InputError(f"{name}: not a model folder (no config.json)")
        source, options = name, {}
    else:
        source, options = name, {}
    # Reading .gguf shows progress even where stderr is not a terminal.
    hidden = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet(), hidden:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            load: Any = AutoModelForCausalLM.from_pretrained  # its type leaves the second result out
            model, found = load(source, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{name}: cannot load it as a causal language model: {reason[0]}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random weights in their place.
        raise InputError(
            f"{name}: weights are missing: {', '.join(missing[:3])} ({len(missing)} in all); "
            "not a complete causal language model"
        )
    return model, tokenizer


def _fingerprint(model: Any, tokenizer: Any) -> str:
    digest = hashlib.sha256()
    config = model.config.to_diff_dict()
    # These say where the weights came from and who wrote them, not what they are.
    for key in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(f"{tokenizer.bos_token_id} {tokenizer.eos_token_id} {content}".encode())
    for key, weight in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


@torch.no_grad()
def _head_works_apart(model: Any) -> bool:
    """Whether the output head on chosen hidden states gives the model's own logits.

    It does in most architectures, and saves the logits of every prompt token. Some (Gemma 2, Cohere,
    Granite) scale or cap their logits after the head; those go through the whole model.
    """
    base, head = model.base_model, model.get_output_embeddings()
    if base is model or head is None:
        return False
    model.eval()
    ids = (torch.arange(_PROBE_TOKENS) % model.config.vocab_size)[None].to(model.device)
    hidden = getattr(base(ids, use_cache=False), "last_hidden_state", None)
    if hidden is None:
        return False
    plain = model(ids, use_cache=False).logits
    return torch.allclose(head(hidden), plain, rtol=0, atol=_PROBE_TOLERANCE * float(plain.abs().max()))


def _choose_weights(model: Any, options: FineTuneOptions) -> None:
    """Mark the weights that fine-tuning changes; add adapters where they are asked for."""
    if options.lora_rank is not None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise InputError("lora_rank needs the package peft: pip install peft") from error
        config = LoraConfig(
            r=options.lora_rank, lora_alpha=2 * options.lora_rank, target_modules="all-linear"
        )
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            inject_adapter_in_model(config, model)
    if options.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    if options.gradient_checkpointing:

        def contexts() -> tuple[Any, Any]:
            # The second forward pass runs outside the block of the first, and must compute the same.
            return contextlib.nullcontext(), autocast(model.device, options.dtype)

        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts}
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("nothing is left to train; leave freeze_embeddings out")
