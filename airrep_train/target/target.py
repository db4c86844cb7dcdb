"""The target as a label run uses it: loaded once, then fine-tuned, measured and put back for each subset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.rows import SHARED, TEMPLATES, Example
from airrep_train.compute import check_model_memory, free_bytes, is_limited, measure_pass
from airrep_train.target.fine_tuning import choose_weights, fine_tune
from airrep_train.target.loading import load_causal_lm, pick_device
from airrep_train.target.losses import TokenLosses, mean_losses
from airrep_train.target.options import FineTuneOptions
from airrep_train.target.texts import LmRow, TargetTokenizer, pad_rows

_GPU_TOKENS = 16_384
_LOGIT_BYTES = 12  # in bfloat16, in float32, and what the cross-entropy makes of them


class Target:
    """A causal LM with the options it is fine-tuned under.

    Args:
        name: a model folder, a hub id, or a `.gguf` file (its weights are dequantized).
        options: how to fine-tune.
        device: "auto", "cpu" or "cuda".
        fix: what can be done where memory is too small; None: what the options of `label` can do.

    Attributes:
        fingerprint: sha256 of weights, configuration and tokenizer as loaded.
        tokenizer: transformers' own.

    Raises:
        InputError: the target cannot be loaded, or is shorter than `max_length`.
    """

    def __init__(
        self, name: str, options: FineTuneOptions, device: str = "auto", *, fix: str | None = None
    ) -> None:
        self.options = options
        self.device = pick_device(device)
        loaded = load_causal_lm(name)
        loaded.check_length(name, options.max_length)
        if options.eos:
            loaded.check_end(name)
        self.fingerprint = loaded.fingerprint()
        self.tokenizer = loaded.tokenizer
        self.tokenize = TargetTokenizer(
            loaded.tokenizer,
            options.max_length,
            bos=options.bos,
            eos=options.eos,
            template=TEMPLATES[options.template or str(SHARED)],
        )
        self.model = loaded.model.float().to(self.device)
        self.token_losses = TokenLosses(self.model, options.dtype)
        choose_weights(self.model, options)
        self._fix = fix
        check_model_memory(
            self.model, f"fine-tuning {name}", for_each_trained=4, fix=fix or "take a smaller model"
        )
        self._name, self._checked = name, (0, 0)
        # Only these ever change, so copying them back is a fresh start.
        trained = (weight for weight in self.model.parameters() if weight.requires_grad)
        self._start = [(weight, weight.detach().clone()) for weight in trained]

    def rows(self, examples: Sequence[Example]) -> list[LmRow]:
        """Tokenize examples."""
        return [self.tokenize(example) for example in examples]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the weights that the target had when it was loaded."""
        for weight, start in self._start:
            weight.copy_(start)

    def fine_tune(self, rows: Sequence[LmRow], seed: int, order_keys: Sequence[int] | None = None) -> None:
        """Fine-tune on one subset, from the weights as loaded; see `fine_tuning.fine_tune`."""
        self.restore()
        self._check_memory(rows)
        fine_tune(self.model, self.token_losses, rows, self.options, seed, order_keys)

    def _check_memory(self, rows: Sequence[LmRow]) -> None:
        """Refuse a step on rows that are longer than those before, if the memory budget does not allow it."""
        if not is_limited(self.model):
            return
        longest = max(self._checked[0], *(len(row.ids) for row in rows))
        answer = max(self._checked[1], *(len(row.ids) - row.start for row in rows))
        if (longest, answer) == self._checked:
            return
        self._checked = longest, answer
        row = LmRow(np.arange(longest) % self.model.config.vocab_size, max(1, longest - answer))

        def forward(count: int) -> torch.Tensor:
            return self.token_losses(pad_rows([row] * count).to(self.device)).mean()

        check_model_memory(
            self.model,
            f"fine-tuning {self._name} on {self.options.batch_size} rows of up to {longest} tokens at a time",
            for_each_trained=4,
            activations=measure_pass(self.model, forward).of(self.options.batch_size),
            fix=self._fix or "take a lower --batch-size or --max-length, or --gradient-checkpointing",
        )

    def losses(self, rows: Sequence[LmRow]) -> NDArray[np.float32]:
        """Mean loss over the response tokens of each row under the present weights, see `mean_losses`."""
        self.model.eval()
        training = self.options.batch_size * self.options.max_length
        vocabulary = self.model.config.vocab_size
        answers = sum(len(row.ids) - row.start for row in rows)
        check_model_memory(
            self.model,
            f"the losses of {self._name} on {training} tokens at a time",
            for_each_trained=1,
            activations=min(training, answers) * vocabulary * _LOGIT_BYTES,
            fix="take a lower --batch-size or --max-length",
        )
        return mean_losses(
            self.token_losses, rows, self.device, evaluated_at_once(self.device, training, vocabulary)
        )


def evaluated_at_once(device: torch.device, training: int, vocabulary: int) -> int:
    """Tokens of a batch whose losses are measured.

    On the CPU those of a training step, so that evaluation does not raise the peak memory. On a GPU, which
    such batches leave half idle, up to `_GPU_TOKENS`, as far as a quarter of the free memory holds
    their logits, if every token were one of a response.

    Args:
        training: tokens of a training step.
        vocabulary: logits of a token.
    """
    if device.type != "cuda":
        return training
    room = free_bytes(device) // 4 // (vocabulary * _LOGIT_BYTES)
    return max(training, min(_GPU_TOKENS, room))
