from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airrep_infer import encoder as encoder_module
from airrep_infer.encoder import Encoder
from airrep_infer.errors import InputError
from airrep_infer.examples import Example

ALONE = 1e-5
TEXTS = [
    "short",
    "Question: What is the capital of France?\nAnswer: Paris",
    "",
    "café au lait, s'il vous plaît",
    "🦜🔥👩‍👩‍👧‍👦 " * 20,
    "a\r\nb\tc\x00d",
    "word " * 400,
    "東京は日本の首都です。",
]


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    return Encoder(tiny_bundle, device="cpu", threads=2)


def one_by_one(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return np.concatenate([encoder.embed([text]) for text in texts])


def test_order_and_company_do_not_matter(encoder: Encoder) -> None:
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    np.testing.assert_allclose(encoder.embed(texts), one_by_one(encoder, texts), rtol=0, atol=ALONE)


@pytest.mark.parametrize("batch_tokens", [1, 17, 100_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_and_threads_do_not_matter(
    tiny_bundle: Path, encoder: Encoder, batch_tokens: int, threads: int
) -> None:
    other = Encoder(tiny_bundle, device="cpu", threads=threads, batch_tokens=batch_tokens)
    np.testing.assert_allclose(other.embed(TEXTS), encoder.embed(TEXTS), rtol=0, atol=ALONE)


def test_many_windows_come_in_order(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"row number {number} {'x ' * (number % 7)}" for number in range(95)]
    expected = encoder.embed(texts)
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", 10)
    windows = list(encoder.embed_stream(iter(texts)))
    assert [len(rows) for rows, _ in windows] == [10] * 9 + [5]
    assert [row for rows, _ in windows for row in rows] == texts
    vectors = np.concatenate([vectors for _, vectors in windows])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=ALONE)


def test_long_texts_end_a_window_early(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_CHARACTERS", 1000)
    rows = [Example(str(number), "p " * 300, "r") for number in range(4)]
    assert [len(window) for window, _ in encoder.embed_stream(rows)] == [2, 2]


def test_an_endless_stream_is_read_only_as_far_as_needed(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", 4)
    read = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal read
        while True:
            read += 1
            yield f"text {read}"

    stream = encoder.embed_stream(endless())
    next(stream)
    stream.close()
    assert read <= 4 * 4


def test_an_error_in_the_source_is_raised_as_it_is(encoder: Encoder) -> None:
    def failing():  # type: ignore[no-untyped-def]
        yield "fine"
        raise InputError("row 2 is bad")

    with pytest.raises(InputError, match="row 2 is bad"):
        list(encoder.embed_stream(failing()))


def test_examples_are_embedded_by_their_template(encoder: Encoder) -> None:
    example = Example("a", "What is 1 + 1?", "2")
    np.testing.assert_array_equal(encoder.embed([example]), encoder.embed([example.text]))


def test_huge_row_and_empty_input(encoder: Encoder) -> None:
    huge = "word " * 100_000
    limit = encoder.bundle.max_tokens
    np.testing.assert_array_equal(encoder.embed([huge]), encoder.embed(["word " * limit]))
    assert encoder.embed([]).shape == (0, encoder.bundle.dimension)


def test_provider_and_device(tiny_bundle: Path, encoder: Encoder) -> None:
    import onnxruntime

    assert encoder.provider == "CPUExecutionProvider"
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert Encoder(tiny_bundle, device="auto").provider == "CPUExecutionProvider"
    with pytest.raises(InputError, match=r"--device cuda.*airrep\[gpu\]"):
        Encoder(tiny_bundle, device="cuda")


def test_cuda_that_falls_back_is_an_error(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, does not get it to work, and goes on with the CPU: not with us."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def without_cuda(file, options, providers, **rest):  # type: ignore[no-untyped-def]
        assert providers[0][0] == "CUDAExecutionProvider"
        return real(file, options, providers=providers[1:], **rest)

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    with pytest.raises(InputError, match="fell back to CPUExecutionProvider"):
        Encoder(tiny_bundle, device="cuda")
    assert Encoder(tiny_bundle, device="auto").device == "cpu"


@pytest.mark.parametrize("options", [{"threads": 0}, {"batch_tokens": 0}])
def test_bad_options(tiny_bundle: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Encoder(tiny_bundle, **options)  # type: ignore[arg-type]
