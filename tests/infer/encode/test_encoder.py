from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer import resources
from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.encode import encoder as encoder_module
from airrep_infer.encode import io_binding as bound
from airrep_infer.encode.encoder import Encoder
from airrep_infer.encode.io_binding import BoundSession
from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_infer.session import PROVIDERS, Device, Placement, RunsOn, open_session
from airrep_infer.session import session as session_module

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


def test_order_and_other_rows_do_not_matter(encoder: Encoder) -> None:
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
    assert [len(window.rows) for window in windows] == [10] * 9 + [5]
    assert [row for window in windows for row in window.rows] == texts
    vectors = np.concatenate([window.vectors for window in windows])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=ALONE)


def test_long_texts_end_a_window_early(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_CHARACTERS", 1000)
    rows = [Example(str(number), "p " * 300, "r") for number in range(4)]
    assert [len(window.rows) for window in encoder.embed_stream(rows)] == [2, 2]


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


def bound_session(bundle: Bundle) -> BoundSession:
    session = open_session(bundle.path / bundle.precision("fp32").file, Placement(device="cpu"))
    return BoundSession(session, "cpu", 0, bundle.dimension)


def test_a_bundle_that_was_replaced_meanwhile_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    """A second session may open long after the first; it must never be of another model."""
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    encoder = Encoder(copy, device="cpu", threads=2, batch_tokens=16)
    encoder.embed(["one session is enough for one batch"])
    with (copy / "encoder.onnx").open("ab") as stream:
        stream.write(b"\n\0")  # a field that protobuf skips: it still loads
    with encoder._sessions.borrow(), pytest.raises(InputError, match="damaged"):
        encoder.embed(["the only session is in use"])


def test_bound_buffers_and_bucketed_shapes_give_the_same_vectors(
    tiny_bundle: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs, on the CPU provider: more shapes than are kept, some of them again and again."""
    monkeypatch.setattr(bound, "_KEPT", 2)
    other = Encoder(tiny_bundle, device="cpu", threads=1, batch_tokens=96)
    other._bound = bound_session(other.bundle)
    other._lengths = {"bucket": 8, "limit": other.bundle.max_tokens}
    texts = [f"{text} {number}" for number in range(25) for text in TEXTS]
    found = other.embed(texts)
    assert len(other._bound._sets) == 2
    np.testing.assert_allclose(found, encoder.embed(texts), rtol=0, atol=ALONE)
    np.testing.assert_array_equal(other.embed(texts), found)


def test_two_streams_of_one_encoder_do_not_share_buffers(tiny_bundle: Path, encoder: Encoder) -> None:
    other = Encoder(tiny_bundle, device="cpu", threads=1, batch_tokens=96)
    other._bound = bound_session(other.bundle)
    sides = [[f"{side} {number}" for number in range(400)] for side in ("left", "right")]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(other.embed, sides))
    for vectors, texts in zip(found, sides, strict=True):
        np.testing.assert_allclose(vectors, encoder.embed(texts), rtol=0, atol=ALONE)


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
    """ONNX Runtime lists CUDA, fails to start it, and continues on the CPU; the encoder must refuse."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    asked = []

    def without_cuda(file, options, providers, **rest):  # type: ignore[no-untyped-def]
        asked.append(providers[0][0] if len(providers) > 1 else providers[0])
        return real(file, options, providers=providers[-1:], **rest)

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session_module.cuda, "obstacle", lambda _ort, _device_id: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    with pytest.raises(InputError, match="--device cuda: CUDA did not start on GPU 0, although"):
        Encoder(tiny_bundle, device="cuda")
    assert asked == ["CUDAExecutionProvider"]
    assert Encoder(tiny_bundle, device="auto").device == "cpu"
    # The CPU's session is opened anew, with the CPU's settings.
    assert asked[1:3] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_known_obstacle_is_the_error_and_auto_takes_the_cpu_at_once(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(session_module.cuda, "obstacle", lambda _ort, device_id: f"no GPU {device_id}")
    with pytest.raises(InputError, match="--device cuda: no GPU 2; or use --device cpu"):
        Encoder(tiny_bundle, device="cuda", device_id=2)
    assert Encoder(tiny_bundle, device="auto").provider == "CPUExecutionProvider"


def test_the_memory_budget_decides_how_many_batches_run_at_once(tiny_bundle: Path) -> None:
    resources.limit_memory(0.1)
    try:
        encoder = Encoder(tiny_bundle, threads=64, batch_tokens=2048, device="cpu")
        assert 1 <= encoder.threads < 64
        np.testing.assert_allclose(
            encoder.embed(["one"]), Encoder(tiny_bundle, threads=1, device="cpu").embed(["one"]), rtol=1e-5
        )
        with pytest.raises(InputError, match=r"of 1000000 tokens needs .* 0.1 GB; lower --batch-tokens"):
            Encoder(tiny_bundle, batch_tokens=1_000_000, device="cpu")
    finally:
        resources.limit_memory(None)


@pytest.mark.parametrize("options", [{"threads": 0}, {"batch_tokens": 0}])
def test_bad_options(tiny_bundle: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Encoder(tiny_bundle, **options)  # type: ignore[arg-type]


def with_providers(names: list[str]) -> Any:
    """An ONNX Runtime that was built with these providers."""
    return SimpleNamespace(get_available_providers=lambda: names)


def placed(runs_on: RunsOn, device: Device = "auto") -> Placement:
    return Placement("reduced", runs_on, device)


@pytest.mark.parametrize(
    ("runs_on", "device", "working", "expected"),
    [
        ("any", "auto", ["cuda", "cpu"], "cuda"),
        ("any", "auto", ["cpu"], "cpu"),
        ("any", "cpu", ["cuda", "cpu"], "cpu"),
        ("cpu", "auto", ["cuda", "cpu"], "cpu"),
        ("cuda", "auto", ["cuda", "cpu"], "cuda"),
        ("openvino", "auto", ["openvino", "cpu"], "openvino"),
        ("openvino", "cpu", ["openvino", "cpu"], "openvino"),
    ],
)
def test_a_precision_runs_where_it_is_made_for(
    runs_on: RunsOn, device: Device, working: list[str], expected: str
) -> None:
    names = [PROVIDERS[name] for name in working]
    assert session_module._provider(placed(runs_on, device), with_providers(names)) == expected


@pytest.mark.parametrize(
    ("runs_on", "device", "message"),
    [
        ("openvino", "auto", r"--precision reduced: .*no OpenVINO provider.*airrep\[openvino\]"),
        ("cuda", "auto", r"--precision reduced: .*no CUDA provider.*airrep\[gpu\]"),
        ("cuda", "cpu", "--precision reduced runs on CUDA alone; drop --device cpu"),
        ("cpu", "cuda", "--precision reduced runs on the CPU alone; drop --device cuda"),
        ("openvino", "cuda", "--precision reduced runs on the CPU alone; drop --device cuda"),
        ("any", "cuda", r"--device cuda: .*no CUDA provider.*airrep\[gpu\]"),
    ],
)
def test_a_precision_that_cannot_run_here_says_why(runs_on: RunsOn, device: Device, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session_module._provider(placed(runs_on, device), with_providers(["CPUExecutionProvider"]))


def test_a_precision_for_cuda_never_falls_back(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession

    def without_first(file, options, providers, **rest):  # type: ignore[no-untyped-def]
        return real(file, onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"], **rest)

    names = ["CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_first)
    monkeypatch.setattr(session_module.cuda, "obstacle", lambda _ort, _device_id: None)
    for runs_on, message in (("cuda", "CUDA did not start"), ("openvino", "OpenVINO did not start")):
        with pytest.raises(InputError, match=f"--precision reduced: {message}"):
            open_session(tiny_bundle / "encoder.onnx", placed(runs_on))  # type: ignore[arg-type]


WORDS = ("capital", "france", "paris", "three", "rivers", "europe", "flow", "sea", "rhine", "danube", "loire")
LIMIT = 30  # tokens of a row, two special ones and the four of the template included


@pytest.fixture(scope="module")
def short(tiny_bundle: Path) -> Encoder:
    """An encoder that cuts after 30 tokens."""
    made = Encoder(tiny_bundle, device="cpu", threads=1)
    definition = (tiny_bundle / TOKENIZER).read_text(encoding="utf-8")
    made._tokenizer = TextTokenizer(definition, LIMIT, made.bundle.template)
    return made


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_response_token_within_the_limit_is_in_the_vector(short: Encoder, data: st.DataObject) -> None:
    """However long the prompt is: a harmless answer and another one never get the same vector."""
    words = st.sampled_from(WORDS)
    prompt = data.draw(st.lists(words, max_size=60))
    response = data.draw(st.lists(words, min_size=1, max_size=60))
    # A word is a token, and half of the tokens are the response's, whatever the prompt takes.
    kept = (LIMIT - 2) // 2 - 2
    place = data.draw(st.integers(0, min(len(response), kept) - 1))
    word = data.draw(st.sampled_from([word for word in WORDS if word != response[place]]))
    other = [*response[:place], word, *response[place + 1 :]]
    rows = [Example(str(n), " ".join(prompt), " ".join(text)) for n, text in enumerate((response, other))]
    a, b = short.embed(rows)
    assert np.abs(a - b).max() > 100 * ALONE
