"""The form of OpenAI's chat completions: what is sent, what comes back, and what servers say when they refuse."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate, pairwise
from typing import Any

import orjson

from pugc_core.engines.base import Generation, Request, Sampling, folded
from pugc_core.errors import EngineError, ModelNotFound

NEUTRAL: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""Settings that change nothing, by the fields that vLLM's server (0.32.0) fills in from the model's generation_config
where they are missing, beside the temperature; others put defaults of their own there."""
_LARGEST = 2**31 - 1
# How servers say that a prompt does not fit; searched only where the status puts the blame on the request.
_TOO_LONG = re.compile(
    r"(?i)context[ _](length|size|window)|maximum (context|input|sequence|prompt)|too many (\w+ )?tokens|max_model_len"
    r"|(prompt|input|messages?) (is|are|was) too (long|large)|longer than the (model|maximum)"
)
# How servers say that they do not know a field, or not its neutral value: to some, top_k begins at 0 or at 1.
_UNKNOWN = re.compile(
    r"(?i)unrecogni[sz]ed|unknown|unsupported|unexpected|not (yet )?(supported|permitted|allowed|implemented)"
    r"|extra_forbidden|cannot find field|does not support|doesn't support"
    r"|invalid|not (a )?valid|(should|must|has to) be|out of range|not in (the )?range|greater_than|less_than"
)
# How templates say that they have no system role: Mistral, Gemma, and those who wrote theirs after them.
_NO_SYSTEM = re.compile(
    r"(?i)roles must alternate|only user(,| and) assistant|(unsupported|unknown|invalid|unexpected) role"
    r"|system (role|messages?|prompts?|instructions?)[^.]{0,20}(not|un)|(not|n't) support[^.]{0,20}system"
    r"|developer instruction is not enabled"
)
# What follows a model's name in the name of its version: gpt-4o is gpt-4o-2024-08-06.
_VERSION = re.compile(r"[-@:.](latest|\d{4}-?\d{2}-?\d{2}|\d{4})")


class TransientError(Exception):
    """A failure that may pass. Its second argument is the server's Retry-After in seconds, or 0."""


class TooLongError(Exception):
    """The prompt exceeds what the model can read."""


class NoTextError(Exception):
    """The server answered, and gave no text. Its argument says what it gave as the reason."""


def payload(
    model: str, request: Request, draws: Sequence[int], *, fold: bool = False, without: Collection[str] = ()
) -> dict[str, Any]:
    """All settings by value, so that no server puts defaults of its own in their place; but for those of `without`
    that are neutral. `fold` puts a system text before the first user text."""
    sampling = request.sampling
    settings = sampling.model_dump(include={"temperature", "max_tokens", *NEUTRAL})
    if not sampling.top_k:
        del settings["top_k"]  # all tokens: -1 to servers
    body = {**NEUTRAL, **settings, "model": model, "seed": request.seed(draws[0])}
    for name in neutral(body):
        if name in without:
            del body[name]
    body["messages"] = [m._asdict() for m in (folded(request.messages) if fold else request.messages)]
    if sampling.stop:
        body["stop"] = sampling.stop
    if len(draws) > 1:
        body["n"] = len(draws)
    if sampling.choices or sampling.regex:
        body["structured_outputs"] = {"choice": sampling.choices} if sampling.choices else {"regex": sampling.regex}
    return body


def neutral(body: Mapping[str, Any]) -> list[str]:
    """The fields of a payload that change nothing, and which a server that does not know them may go without."""
    return [name for name, value in NEUTRAL.items() if body.get(name) == value]


def unknown_fields(body: Mapping[str, Any], said: str) -> set[str]:
    """The neutral fields of a payload of which a server says that it does not know or take them."""
    if not _UNKNOWN.search(said):
        return set()
    return {name for name in neutral(body) if re.search(rf"\b{name}\b", said)}


def refuses_system(body: Mapping[str, Any], said: str) -> bool:
    """Whether a server says that its model has no place for the system text of a payload."""
    return body["messages"][0]["role"] == "system" and _NO_SYSTEM.search(said) is not None


def read(
    raw: bytes, request: Request, draws: Sequence[int], engine: str, names: Collection[str]
) -> list[Generation | None]:
    """The choices of a response, as answers to the first of `draws`; None for one without text.

    `names` are those by which the server may call the model. Raises NoTextError when none has a text.
    """
    try:
        data = orjson.loads(raw)
        # By index: the answer to a draw is the one that was drawn with its seed.
        choices = sorted(data["choices"], key=lambda c: c.get("index") or 0)[: len(draws)]
        contents = [choice["message"].get("content") for choice in choices]
        if not contents or not all(text is None or isinstance(text, str) for text in contents):
            raise ValueError("without a choice, or one is not text")
        texts = [text or "" for text in contents]
        ends = [str(choice.get("finish_reason") or "") for choice in choices]
        usage = data.get("usage") or {}
        prompt_tokens = _count(usage.get("prompt_tokens"))
        shares = _shares(_count(usage.get("completion_tokens")), texts, ends, request.sampling.max_tokens)
        answered = str(data.get("model") or "")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as err:
        raise TransientError(f"no chat completion ({type(err).__name__} {err})", 0.0) from err
    if not any(_same_model(answered, name) for name in names):
        asked = next(iter(names))
        raise EngineError(
            f"asked for model '{asked}', and '{answered}' answered",
            fix=f"if that is the same model, set served_as = '{answered}' for it in [models.*]; else correct id",
        )
    if all(content is None for content in contents):
        raise NoTextError(f"content: null, finish_reason {ends[0]!r}")
    return [
        Generation(request.key(d), text, end, prompt_tokens, n, request.seed(d), engine)
        if content is not None
        else None
        for d, content, text, end, n in zip(draws, contents, texts, ends, shares, strict=False)
    ]


def _same_model(answered: str, name: str) -> bool:
    """Whether a server's answer may come from the model of that name: servers say nothing, a path, or a version."""
    answered, name = (words.rstrip("/").lower() for words in (answered, name))
    if not answered or answered == name or answered.rpartition("/")[2] == name.rpartition("/")[2]:
        return True
    return answered.startswith(name) and _VERSION.fullmatch(answered[len(name) :]) is not None


def _count(value: Any) -> int:
    return min(max(int(value or 0), 0), _LARGEST)


def _shares(total: int, texts: Sequence[str], ends: Sequence[str], longest: int) -> list[int]:
    """Tokens of each text, which servers give in one sum: those that ended by length have `longest` where the sum
    allows it, the others what is left in proportion to their characters."""
    cut = [end == "length" for end in ends]
    left = total - longest * sum(cut)
    if not any(cut) or left < 0 or (left and all(cut)):
        return _split(total, [len(text) for text in texts])
    rest = iter(_split(left, [len(text) for text, c in zip(texts, cut, strict=True) if not c]) if not all(cut) else [])
    return [longest if c else next(rest) for c in cut]


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole shares proportional to `weights` that add up to it."""
    weights = weights if any(weights) else [1] * len(weights)
    return [b - a for a, b in pairwise(total * part // sum(weights) for part in accumulate(weights, initial=0))]


def obeys(text: str, sampling: Sampling) -> bool:
    """Whether an answer keeps to the choices or the pattern that it was asked to."""
    if sampling.regex:
        return re.fullmatch(sampling.regex, text.strip()) is not None
    return not sampling.choices or text.strip() in sampling.choices


def fault(status: int, retry_after: str, said: str, model: str, url: str) -> Exception:
    """The exception that an HTTP status stands for, with the server's message from where servers put it."""
    try:
        error = orjson.loads(said)
        error = error.get("error") or error
        words = error if isinstance(error, str) else str(error.get("message") or error["detail"])
    except (ValueError, LookupError, AttributeError):
        words = said
    answer = f"{url} answered {status}: {words:.300}"
    if status in (408, 409, 425, 429) or status >= 500:
        return TransientError(f"{status}: {words:.300}", _seconds(retry_after))
    if status in (401, 403):
        return EngineError(answer, fix="set the environment variable that holds this server's API key")
    if status == 404:
        fix = f"use a name that {url.removesuffix('/chat/completions')}/models lists, and check the base URL"
        return ModelNotFound(f"no model {model!r}: {answer}", fix=fix)
    if status in (400, 413, 422) and _TOO_LONG.search(words[:300]):
        return TooLongError(answer)
    return EngineError(answer, fix="change the setting that the server names; where it is n, supports_n to false")


def _seconds(retry_after: str) -> float:
    """Retry-After in seconds from now: servers send a number or an HTTP date."""
    try:
        if re.fullmatch(r"\d+(\.\d+)?", retry_after):
            return float(retry_after)
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
