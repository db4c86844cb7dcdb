"""Projected gradients of a target's loss on single rows, batched, from hooks on its linear layers.

For a row with tokens t, a linear layer's weight gradient is `sum_t dy_t x_t^T`, with `x` the layer's input
and `dy` the gradient of the row's mean response loss with respect to its output. What is kept of it is
`(x R_in)^T (dy R_out)`, r x r numbers, with fixed Gaussian `R_in` and `R_out` (Park et al. 2023, "TRAK";
Choe et al. 2024, "LoGra"). No weight needs a gradient, and nothing below the first wanted block gets a
backward pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from airrep_infer.encode import plan_batches
from airrep_infer.errors import InputError
from airrep_infer.resources import memory_budget
from airrep_infer.rows import SHARED, Example
from airrep_train.compute import PassMemory, check_model_memory, is_limited, measure_pass
from airrep_train.gradients.options import GradientOptions
from airrep_train.gradients.warm_up import WarmUp
from airrep_train.target import LmRow, TargetTokenizer, TokenLosses, load_causal_lm, pad_rows, pick_device

# No weight changes, so bfloat16 weights lose nothing against autocast, which would cast them for each batch.
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

UNNAMED_TEMPLATE = "shared-1"
"""The template of folders made before the template had a name in them; it adds nothing to the fingerprint."""


@dataclass(frozen=True)
class Captured:
    """Gradients of n rows.

    Attributes:
        vectors: (n, checkpoints * layers * rank * rank) float32, each row divided by its `rms`.
        rms: (n,) float32, root mean square of a row's projected gradient; 0 where the gradient is zero.
        losses: (n,) float32, mean loss over a row's response tokens, in nats, at the last checkpoint.
        cuts: (n,) uint8, what the max length cut of a row, a `Cut`.
    """

    vectors: NDArray[np.float32]
    rms: NDArray[np.float32]
    losses: NDArray[np.float32]
    cuts: NDArray[np.uint8]


class GradientCapture:
    """A target with hooks that project the gradients of its linear layers.

    Args:
        target: a model folder, a hub id, or a `.gguf` file.
        options: which layers, and the text as the target sees it.
        device: "auto", "cpu" or "cuda".
        warmed: the checkpoints to take them at, in place of the target as it is loaded.

    Attributes:
        target_fingerprint: sha256 of the target whose gradients these are, warm-up included.
        layers: names of the linear layers, in the order of the vectors' blocks, which come once for each
            checkpoint.
        dimension: numbers of a vector.
        template: the name of the rule of text and cutting.
        fingerprint: sha256 of target, text recipe, template, layers and projections: equal where vectors
            compare.

    Raises:
        InputError: the target cannot be loaded, is another than was warmed up, or its blocks or layers are
            not of a known kind.
    """

    def __init__(
        self, target: str, options: GradientOptions, device: str = "auto", *, warmed: WarmUp | None = None
    ) -> None:
        self.options = options
        self.device = pick_device(device)
        loaded = load_causal_lm(target)
        loaded.check_length(target, options.max_length)
        if options.eos:
            loaded.check_end(target)
        self._warmed = warmed
        if warmed is None:
            self.target_fingerprint = loaded.fingerprint()
        else:
            warmed.check_target(loaded, target)
            self.target_fingerprint = warmed.fingerprint
        self.template = str(SHARED)
        self._tokenize = TargetTokenizer(
            loaded.tokenizer, options.max_length, bos=options.bos, eos=options.eos, template=SHARED
        )
        self._model = loaded.model.to(self.device, _DTYPES[options.dtype]).eval().requires_grad_(False)
        check_model_memory(self._model, f"gradients of {target}")
        if self.device.type == "cpu" and hasattr(self._model, "set_attn_implementation"):
            # Fused attention has a slow backward pass on CPUs: plain products take half of its time.
            self._model.set_attn_implementation("eager")
        self._token_losses = TokenLosses(self._model, options.dtype)
        blocks = _blocks(self._model, target)
        chosen = options.blocks(len(blocks))
        modules = {
            f"{number}.{name}": module for number in chosen for name, module in _linears(blocks[number])
        }
        if not modules:
            raise InputError(f"{target}: blocks {chosen.start}-{chosen.stop - 1} have no linear layer")
        self.layers = list(modules)
        self._width = len(modules) * options.rank**2
        self.dimension = self._width * (len(warmed.sizes) if warmed else 1)
        self._sums: dict[str, torch.Tensor] = {}
        self._cost: dict[int, PassMemory] = {}  # of rows, by their length
        # The graph begins here: what is below needs no gradient.
        blocks[chosen.start].register_forward_pre_hook(_begin_graph, with_kwargs=True)
        digest = hashlib.sha256()
        for name, module in modules.items():
            projections = self._projections(name, module)
            for projection in projections:
                digest.update(projection.float().cpu().numpy().tobytes())
            module.register_forward_hook(self._hook(name, *projections))
        recipe = [self.target_fingerprint, options.max_length, options.bos, options.eos, options.rank]
        if self.template != UNNAMED_TEMPLATE:
            recipe.append(self.template)
        digest.update(json.dumps([*recipe, self.layers]).encode())
        self.fingerprint = digest.hexdigest()

    def __call__(self, examples: Sequence[Example]) -> Captured:
        """The gradients of some rows, batched by length.

        Raises:
            InputError: a row has no response token within `max_length`, or its loss is not finite.
        """
        rows = [self._tokenize(example) for example in examples]
        for example, row in zip(examples, rows, strict=True):
            if row.start >= len(row.ids):
                raise InputError(
                    f"row {example.id!r} has no response token within its first {self.options.max_length} "
                    "tokens; raise --max-length, or leave the row out"
                )
        vectors = np.empty((len(rows), self.dimension), np.float32)
        losses = np.empty(len(rows), np.float32)
        if self._warmed is None:
            self._take(rows, vectors, losses)
        else:
            for number, size in enumerate(self._warmed.sizes):
                self._warmed.put_into(self._model, size)
                self._take(rows, vectors[:, number * self._width : (number + 1) * self._width], losses)
        rms = np.sqrt(np.square(vectors, dtype=np.float32).mean(axis=1))
        broken = np.flatnonzero(~np.isfinite(rms) | ~np.isfinite(losses))
        if len(broken):
            raise InputError(
                f"row {examples[broken[0]].id!r}: its loss or gradient is not finite; "
                "use --dtype float32, or leave the row out"
            )
        vectors /= np.where(rms > 0, rms, 1)[:, None]
        return Captured(vectors, rms, losses, np.array([row.cut for row in rows], np.uint8))

    def _take(self, rows: list[LmRow], vectors: NDArray[np.float32], losses: NDArray[np.float32]) -> None:
        """Fill in the projected gradients and the losses of rows under the present weights."""
        lengths = np.array([len(row.ids) for row in rows], np.intp)
        for places in plan_batches(lengths, self._tokens_at_once(rows)):
            batch = pad_rows([rows[place] for place in places]).to(self.device)
            means = batch.mean_per_row(self._token_losses(batch))
            # A row's loss depends on that row alone, so the gradient of the sum is every row's own.
            means.sum().backward()
            vectors[places] = torch.cat([self._sums[name] for name in self.layers], dim=1).cpu().numpy()
            losses[places] = means.detach().cpu().numpy()
            self._sums.clear()

    def _tokens_at_once(self, rows: Sequence[LmRow]) -> int:
        """Tokens of a batch: as many as the options say, or as the memory budget allows.

        That follows from the rows alone, so that a run that resumes batches them in the same way.

        Raises:
            InputError: not even one row fits.
        """
        asked = self.options.tokens_at_once
        if not rows or not is_limited(self._model):
            return asked
        longest = max(len(row.ids) for row in rows)
        if longest not in self._cost:
            row = LmRow(np.arange(longest) % self._model.config.vocab_size, 1)

            def forward(count: int) -> torch.Tensor:
                return self._token_losses(pad_rows([row] * count).to(self.device)).sum()

            self._cost[longest] = measure_pass(self._model, forward)
        cost, budget = self._cost[longest], memory_budget()
        weights = check_model_memory(
            self._model,
            f"gradients of rows of {longest} tokens",
            activations=cost.of(1),
            fix="take a lower --max-length, or fewer --layers",
        )
        return min(asked, longest * max(1, cost.rows_within(budget - weights + cost.of(1))))

    def _projections(self, name: str, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Gaussian (in, r) and (out, r), a function of the seed and the layer's name alone."""
        weight: Any = module.weight
        outputs, inputs = weight.shape if isinstance(module, nn.Linear) else reversed(weight.shape)
        number = int.from_bytes(hashlib.sha256(f"{self.options.seed} {name}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(number)
        dtype, rank = _DTYPES[self.options.dtype], self.options.rank
        both = (torch.randn(size, rank, generator=generator) / rank**0.5 for size in (inputs, outputs))
        before, after = (projection.to(self.device, dtype) for projection in both)
        return before, after

    def _hook(self, name: str, before: torch.Tensor, after: torch.Tensor) -> Any:
        def forward(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not output.requires_grad:  # a pass without gradients
                return
            if output.ndim != 3:
                raise InputError(
                    f"layer {name} does not see whole rows (shape {tuple(output.shape)}), as in a mixture of "
                    "experts; gradients of such a target are not supported"
                )
            projected = inputs[0].detach().to(before.dtype) @ before  # (rows, tokens, r)

            def backward(gradient: torch.Tensor) -> None:
                block = torch.bmm(
                    projected.transpose(1, 2).float(), (gradient.to(after.dtype) @ after).float()
                )
                block = block.flatten(1)
                self._sums[name] = self._sums[name] + block if name in self._sums else block

            output.register_hook(backward)

        return forward


def _begin_graph(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not torch.is_grad_enabled():
        return None
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}


def _blocks(model: Any, name: str) -> nn.ModuleList:
    """The transformer blocks: the longest list of modules of one class."""
    lists = [
        module
        for module in model.base_model.modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    if not lists:
        raise InputError(f"{name}: finds no list of blocks in {type(model).__name__}")
    return max(lists, key=len)


def _linears(block: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, part) for name, part in block.named_modules() if isinstance(part, nn.Linear | Conv1D)]
