"""TF-IDF of responses alone: which words, marks and spellings a row teaches the target to write.

Fine-tuning on a row raises the probability of the tokens of its response, whatever the prompt was. Case and
punctuation count, since the format of an answer is learned like its content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.rows import Example

_TOKEN = r"(?u)\w+|[^\w\s]"


def response_words(examples: Sequence[Example]) -> Any:
    """TF-IDF of the responses.

    Returns:
        (n, words) float32 CSR matrix, rows of unit length; zero for a response of white space.

    Raises:
        InputError: no response has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=_TOKEN, lowercase=False, sublinear_tf=True, dtype=np.float32)
    try:
        return vectorizer.fit_transform([example.response for example in examples])
    except ValueError as error:  # scikit-learn: "empty vocabulary"
        raise InputError(f"the responses of all {len(examples)} rows have no words ({error})") from error
