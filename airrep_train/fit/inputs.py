"""The identity of everything that a training run reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from airrep_infer.rows import PUBLISHED, Example, published_text
from airrep_train.evaluate import hash_content
from airrep_train.label import LabelledSplit
from airrep_train.model import Checkpoint

BASE_SETTINGS = "base settings"
"""What runs of earlier versions do not know of their start."""


def hash_inputs(
    examples: Sequence[Example],
    training: Sequence[LabelledSplit],
    validation: Sequence[LabelledSplit],
    base: Checkpoint,
) -> dict[str, str]:
    """The sha256 of everything a run reads: texts, labels, and the start's weights and vocabulary."""
    published = base.model.config.text_template == PUBLISHED
    return {
        "examples": _hash_published(examples) if published else hash_content(examples),
        **identify_base(base),
        "training labels": hash_labels(training),
        "validation labels": hash_labels(validation),
    }


def _hash_published(examples: Sequence[Example]) -> str:
    """What earlier versions recorded of examples."""
    texts = hashlib.sha256()
    for example in examples:
        texts.update(published_text(example).encode() + b"\0")
    return texts.hexdigest()


def identify_base(base: Checkpoint) -> dict[str, str]:
    """The sha256 of a start's weights, vocabulary and token limit, and of how it makes vectors with them."""
    config = base.model.config
    names = ("pooling", "dense", "normalize", "scale", "prompt", "lower_case")
    settings = {name: getattr(config, name) for name in names}
    settings |= {"trained": base.trained, "improved": base.improved}
    of_settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    return {"base": _hash_base(base), BASE_SETTINGS: of_settings.hexdigest()}


def _hash_base(base: Checkpoint) -> str:
    weights = hashlib.sha256()
    for name, tensor in sorted(base.model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    weights.update(base.tokenizer.backend_tokenizer.to_str().encode())
    weights.update(str(base.model.config.max_tokens).encode())
    return weights.hexdigest()


def hash_labels(splits: Sequence[LabelledSplit]) -> str:
    """The sha256 of what labels say.

    Repeated measurements are not labels, and base losses decide no weight, see `FitResult.with_typical`.
    """
    digest = hashlib.sha256()
    for split in splits:
        for numbers in (split.dev, *(subset.select for subset in split.subsets)):
            digest.update(str(len(numbers)).encode() + numbers.tobytes())
        digest.update(split.losses.tobytes())
    return digest.hexdigest()
