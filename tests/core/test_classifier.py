"""Classifiers on the local engines: one tiny random reward model, the same scores from transformers and vLLM."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.models import LIMIT, make
from helpers.threads import one_thread

from pugc_core.engines import open_engine
from pugc_core.engines.base import Engine, Generation, Refusal, Request
from pugc_core.engines.classifier import TransformersClassifier
from pugc_core.engines.transformers import chat_tokenizer, encode
from pugc_core.errors import EngineError, ModelNotFound
from pugc_core.models.spec import ModelSpec
from pugc_core.prompts.base import Message
from pugc_core.stages.scores import SCORING

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

VLLM = pytest.param(
    "vllm",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    ],
)
ANSWERS = ("Warm.", "Use lukewarm water, slowly, and lay it flat on a towel. " * 3, "No.", "No idea " * 9, "Ask again.")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("classifiers") / "reward", labels=1)


def asked(answer: str, question: str = "How do I wash wool?") -> Request:
    return Request("m@1", (Message("user", question), Message("assistant", answer)), SCORING)


def spec(folder: Path, engine: str = "transformers", **knobs: object) -> ModelSpec:
    options = {"kv_cache_memory_bytes": 64 << 20} if engine == "vllm" else {}
    return ModelSpec(id=str(folder), kind="classifier", engine=engine, options=options, **knobs)  # type: ignore[arg-type]


def scored(engine: Engine, *answers: str) -> list[Generation]:
    """The generations, in the order of the answers."""
    requests = [asked(answer) for answer in answers]
    found = {g.key: g for g in engine.generate(requests) if isinstance(g, Generation)}
    return [found[request.key(0)] for request in requests]


def of_the_library(folder: Path, *answers: str) -> list[float]:
    """What transformers' own classifier gives each conversation alone."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = chat_tokenizer(ModelSpec(id=str(folder)))
    with torch.inference_mode():
        rows = [torch.tensor([encode(tokenizer, asked(answer).messages)]) for answer in answers]
        return [float(model(input_ids=row).logits[0, 0]) for row in rows]


def test_a_whole_conversation_ends_with_its_last_turn(model: Path) -> None:
    tokenizer = chat_tokenizer(spec(model))
    said = (Message("user", "How?"), Message("assistant", "Slowly."))
    assert tokenizer.decode(encode(tokenizer, said)) == "<|user|>How?<|end|><|assistant|>Slowly.<|end|>"
    assert tokenizer.decode(encode(tokenizer, said[:1])) == "<|user|>How?<|end|><|assistant|>"


@pytest.mark.parametrize("pad", [None, "<|pad|>", "<|end|>"])
def test_scores_are_those_of_the_models_own_classifier(tmp_path: Path, pad: str | None) -> None:
    """In batches of any lengths; also where a turn ends with the token to pad with, which the library passes over."""
    folder = make(tmp_path / "reward", labels=1, pad=pad)
    found = scored(TransformersClassifier(spec(folder)), *ANSWERS)
    values = [float(generation.text) for generation in found]
    assert values == pytest.approx(of_the_library(folder, *ANSWERS), abs=1e-4)
    assert len(set(values)) == len(ANSWERS)
    assert [generation.text for generation in found] == [repr(value) for value in values], "nothing is rounded"
    assert {(g.finish_reason, g.completion_tokens) for g in found} == {("stop", 0)}
    assert all(g.prompt_tokens > len(answer) for g, answer in zip(found, ANSWERS, strict=True))


@pytest.mark.parametrize("engine", [pytest.param("transformers", marks=pytest.mark.slow), VLLM])
def test_the_engines_agree(model: Path, tmp_path: Path, engine: str) -> None:
    for folder in (model, make(tmp_path / "padded", labels=1, pad="<|end|>")):
        opened = open_engine(spec(folder, engine))
        try:
            found = scored(opened, *ANSWERS)
            assert [float(g.text) for g in found] == pytest.approx(of_the_library(folder, *ANSWERS), abs=1e-4)
            assert opened.name == found[0].engine
            assert opened.name.startswith(engine)
            (refused,) = opened.generate([asked("x" * LIMIT)])
            assert isinstance(refused, Refusal)
        finally:
            opened.close()


def test_a_conversation_that_is_too_long_is_refused_and_the_others_are_scored(model: Path) -> None:
    long, short = asked("x" * LIMIT), asked("Warm.")
    found = list(TransformersClassifier(spec(model)).generate([long, short]))
    assert [a.reason for a in found if isinstance(a, Refusal)] == ["prompt_too_long"]
    assert [a.key for a in found if isinstance(a, Generation)] == [short.key(0)]


def test_the_head_is_not_rounded_to_half_precision(model: Path) -> None:
    values = [float(g.text) for g in scored(TransformersClassifier(spec(model, dtype="bfloat16")), *ANSWERS)]
    assert values == pytest.approx(of_the_library(model, *ANSWERS), abs=0.2)
    assert all(float(torch.tensor(value).bfloat16()) != value for value in values)


def causal(folder: Path) -> Path:
    return make(folder)


def three_labels(folder: Path) -> Path:
    return make(folder, labels=3)


def promised(folder: Path) -> Path:
    """A chat model whose config calls it a classifier: its head would be random."""
    config = json.loads((make(folder) / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a"}, "label2id": {"a": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("engine", ["transformers", VLLM])
@pytest.mark.parametrize(
    ("maker", "words"),
    [
        (causal, "no classification head: it is LlamaForCausalLM"),
        (three_labels, "a head with 3 labels"),
        (promised, "lack score.weight"),
    ],
)
def test_a_model_without_a_usable_head_is_refused_before_any_call(
    tmp_path: Path, engine: str, maker: Callable[[Path], Path], words: str
) -> None:
    folder = maker(tmp_path / "model")
    with pytest.raises(EngineError, match=words) as refused:
        TransformersClassifier(spec(folder)) if engine == "transformers" else open_engine(spec(folder, engine))
    assert str(folder) in refused.value.problem
    assert 'leave out kind = "classifier"' in str(refused.value.fix)


def test_no_such_classifier(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model"):
        TransformersClassifier(spec(tmp_path / "none"))
