"""litellm's exception classes in this gateway's error tree: none slips through."""

import inspect

import openai
import pytest

from gateway.backends import translate
from gateway.backends.litellm_errors import KINDS, said, translated
from gateway.backends.litellm_hosted import imported
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable

litellm = imported()  # as the gateway does: what it takes from its environment it reads once a process
CLASSES = sorted(
    {
        cls
        for module in (litellm.exceptions, openai)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Exception)
    },
    key=lambda cls: (cls.__module__, cls.__name__),
)
REFUSED = {
    "BadRequestError",
    "ContentPolicyViolationError",
    "ContextWindowExceededError",
    "ImageFetchError",
    "InvalidRequestError",
    "NotFoundError",
    "RejectedRequestError",
    "UnprocessableEntityError",
    "UnsupportedParamsError",
    "VectorStoreSearchError",
}
ACCOUNT = {"AuthenticationError", "OAuthError", "PermissionDeniedError", "PaymentRequiredError"}
TIMEOUT = {"Timeout", "APITimeoutError"}
BROKEN = {"APIResponseValidationError", "JSONSchemaValidationError"}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_class_has_its_place(cls: type[Exception]) -> None:
    error = cls.__new__(cls)
    error.args = ("said",)
    error.__class__ = type(cls.__name__, (cls,), {"__str__": lambda _: "said"})
    failure = translated(error)
    kinds: dict[type[UpstreamError], set[str]] = {
        UpstreamRefused: REFUSED,
        UpstreamTimeout: TIMEOUT,
        UpstreamBroken: BROKEN,
    }
    expected = next((kind for kind, names in kinds.items() if cls.__name__ in names), UpstreamUnavailable)
    assert type(failure) is expected
    assert (failure.code == translate.AUTH) == (cls.__name__ in ACCOUNT)


def test_the_table_names_classes_that_exist() -> None:
    assert set(KINDS) - {"TimeoutError"} <= {cls.__name__ for cls in CLASSES}


def test_any_other_exception_is_a_target_that_is_not_available() -> None:
    assert type(translated(KeyError("choices"))) is UpstreamUnavailable
    assert type(translated(TimeoutError())) is UpstreamTimeout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('litellm.X: AnthropicException - {"error":{"message":"too long"}}. Handle with `litellm.X`.', "too long"),
        ("litellm.X: {curly\nTraceback", "{curly"),
        ('litellm.X: YException - {"a": 1}', '{"a": 1}'),
        ("", "ValueError"),
    ],
)
def test_quotes_upstreams_own_words(text: str, words: str) -> None:
    assert said(ValueError(text)) == words


def test_sharper_codes() -> None:
    long = litellm.exceptions.ContextWindowExceededError("too long", model="m", llm_provider="p")
    assert translated(long).code == "context_length_exceeded"
    unknown = translated(litellm.exceptions.LiteLLMUnknownProvider(model="m"))
    assert isinstance(unknown, UpstreamUnavailable)
    assert unknown.connect
