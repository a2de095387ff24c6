"""The published client's methods by the operation that each performs.

Found out, not written down: every method is called with made-up arguments on a transport that answers nothing and
keeps the request; the request's method and path name the operation."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any, Iterator

import anthropic
import httpx2
from typing_extensions import Annotated, Literal, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

_SKIPPED = {"with_raw_response", "with_streaming_response"}


class _Kept(Exception):
    def __init__(self, request: httpx2.Request) -> None:
        self.request = request


@dataclasses.dataclass(frozen=True)
class Method:
    """One method of a resource: `path` is how to reach it from the client."""

    path: tuple[str, ...]
    parameters: dict[str, Any]
    """Required parameters and their types."""
    positional: tuple[str, ...]
    result: Any

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def call(self, client: anthropic.Anthropic, given: dict[str, Any], raw: bool = False) -> Any:
        """Calls it; arguments that are required and not given are made up."""
        target: Any = client
        for step in self.path[:-1]:
            target = getattr(target, step)
        if raw:
            target = target.with_raw_response
        arguments = {name: made_up(name, wanted) for name, wanted in self.parameters.items() if name not in given}
        arguments |= given
        places = [arguments.pop(name) for name in self.positional if name in arguments]
        return getattr(target, self.path[-1])(*places, **arguments)


def made_up(name: str, wanted: Any) -> Any:
    """A value that the type allows, as small as it can be."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Required, NotRequired, Annotated):
        return made_up(name, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return made_up(name, next(choice for choice in arguments if choice is not type(None)))
    if origin is Literal:
        return arguments[0]
    if is_typeddict(wanted):
        hints = get_type_hints(wanted, include_extras=True)
        return {key: made_up(key, hints[key]) for key in sorted(wanted.__required_keys__)}
    if wanted is int:
        return 1
    if wanted is bool:
        return True
    if origin in (dict, typing.Dict):
        return {}
    if name == "file" or name == "files":
        file = ("made-up.md", b"made up\n", "text/markdown")
        return file if name == "file" else [file]
    if origin is not None and wanted is not str:
        return [made_up(name, arguments[0])] if arguments else []
    return f"{name}_made_up" if name.endswith("_id") else "made up"


def methods(client: anthropic.Anthropic) -> Iterator[Method]:
    """Every method of every resource under `client.beta`."""
    yield from _methods_of(client.beta, ("beta",))


def _methods_of(resource: Any, path: tuple[str, ...]) -> Iterator[Method]:
    for name in dir(type(resource)):
        if name.startswith("_") or name in _SKIPPED:
            continue
        member = inspect.getattr_static(type(resource), name)
        if inspect.isfunction(member):
            yield from _method(member, (*path, name))
        elif not callable(member):
            inner = getattr(resource, name)
            if type(inner).__module__.startswith("anthropic.resources."):
                yield from _methods_of(inner, (*path, name))


def _method(function: Any, path: tuple[str, ...]) -> Iterator[Method]:
    function = inspect.unwrap(function)
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:
        return  # a helper whose types are only there for a type checker; it performs no operation of its own
    parameters, positional = {}, []
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(name)
        if parameter.default is parameter.empty:
            parameters[name] = hints.get(name, str)
    yield Method(path, parameters, tuple(positional), hints.get("return"))


def by_operation(wanted: list[tuple[str, str]]) -> dict[tuple[str, str], Method]:
    """The method of each operation `(HTTP method, path template)`."""

    def keep(request: httpx2.Request) -> httpx2.Response:
        raise _Kept(request)

    patterns = [(pair, re.compile(re.sub(r"\\?\{[a-z_]+\\?\}", "[^/]+", re.escape(pair[1])) + "$")) for pair in wanted]
    # `/work/poll` fits `/work/{work_id}` too: the template with the fewest holes wins.
    patterns.sort(key=lambda entry: entry[0][1].count("{"))
    found: dict[tuple[str, str], Method] = {}
    with httpx2.Client(transport=httpx2.MockTransport(keep)) as http:
        client = anthropic.Anthropic(base_url="http://nowhere.invalid", api_key="x", http_client=http, max_retries=0)
        for method in methods(client):
            request = _request_of(client, method)
            if request is None:
                continue
            path = request.url.path
            for pair, pattern in patterns:
                if pair[0] == request.method and pattern.match(path):
                    found.setdefault(pair, method)
                    break
    return found


def _request_of(client: anthropic.Anthropic, method: Method) -> httpx2.Request | None:
    try:
        method.call(client, {})
    except _Kept as kept:
        return kept.request
    except anthropic.APIConnectionError as error:
        cause = error.__cause__
        return cause.request if isinstance(cause, _Kept) else None
    except Exception:  # noqa: BLE001: a helper that wants real arguments performs no operation of its own
        return None
    return None
