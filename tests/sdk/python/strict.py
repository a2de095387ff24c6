"""Checks a JSON answer against a type of the published SDK, field by field.

The SDK itself builds its models from whatever comes, so that an old client can read a new service. Here nothing is
forgiven: a field that the type requires must be there and be of its type, a literal must have one of its values, an
optional field may be null or absent, and a field that the type does not have is an error."""

from __future__ import annotations

import datetime
import inspect
import types
import typing
from typing import Any, Iterator

import pydantic
from typing_extensions import Annotated, Literal, get_args, get_origin, is_typeddict

_ISO = pydantic.TypeAdapter(datetime.datetime)


def faults(value: Any, wanted: Any, where: str = "$") -> Iterator[str]:
    """Everything in which `value` is not what the type `wanted` says, each with its place."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if isinstance(wanted, typing.TypeVar) or wanted in (Any, object):
        return
    if isinstance(wanted, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        yield from faults(value, wanted.__value__, where)
    elif origin is Annotated:
        yield from faults(value, arguments[0], where)
    elif origin in (typing.Union, types.UnionType):
        yield from _union(value, arguments, where)
    elif origin is Literal:
        if value not in arguments:
            yield f"{where} is {value!r}, not one of {', '.join(map(repr, arguments))}"
    elif origin in (list, typing.List):
        if not isinstance(value, list):
            yield f"{where} is not a list"
            return
        for index, item in enumerate(value):
            yield from faults(item, arguments[0] if arguments else Any, f"{where}[{index}]")
    elif origin in (dict, typing.Dict):
        if not isinstance(value, dict):
            yield f"{where} is not an object"
            return
        for key, item in value.items():
            yield from faults(item, arguments[1] if arguments else Any, f"{where}.{key}")
    elif inspect.isclass(wanted):
        yield from _plain(value, wanted, where)
    elif inspect.isclass(origin):
        yield from _plain(value, wanted, where)
    else:
        raise TypeError(f"{where}: no rule for the type {wanted!r}")


def _plain(value: Any, wanted: Any, where: str) -> Iterator[str]:
    if wanted is type(None):
        if value is not None:
            yield f"{where} is not null"
    elif wanted is datetime.datetime:
        text = isinstance(value, str)
        try:
            moment = _ISO.validate_python(value) if text else None
        except pydantic.ValidationError:
            moment = None
        if moment is None or moment.tzinfo is None:
            yield f"{where} is {value!r}, not a moment with its time zone"
    elif wanted is bool:
        if not isinstance(value, bool):
            yield f"{where} is {value!r}, not true or false"
    elif wanted is int:
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{where} is {value!r}, not a whole number"
    elif wanted is float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            yield f"{where} is {value!r}, not a number"
    elif wanted is str:
        if not isinstance(value, str):
            yield f"{where} is {value!r}, not a text"
    elif _is_model(wanted):
        yield from _model(value, wanted, where)
    elif is_typeddict(wanted):
        raise TypeError(f"{where}: {wanted!r} is a type of requests")
    else:
        raise TypeError(f"{where}: no rule for the type {wanted!r}")


def _is_model(wanted: Any) -> bool:
    return inspect.isclass(wanted) and issubclass(wanted, pydantic.BaseModel)


def _model(value: Any, wanted: type[pydantic.BaseModel], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is not an object"
        return
    wanted.model_rebuild()
    known = set()
    for name, field in wanted.model_fields.items():
        key = field.alias or name
        known.add(key)
        if key not in value:
            if field.is_required():
                yield f"{where}.{key} is missing"
            continue
        yield from faults(value[key], field.annotation, f"{where}.{key}")
    for key in value:
        if key not in known:
            yield f"{where}.{key} is not a field of {wanted.__name__}"


def _union(value: Any, arguments: tuple[Any, ...], where: str) -> Iterator[str]:
    if value is None:
        if type(None) not in arguments:
            yield f"{where} is null"
        return
    choices = [choice for choice in map(_bare, arguments) if choice is not type(None)]
    # A variant is chosen by its `type`, so that what is said is about that variant and not about all.
    kind = value.get("type") if isinstance(value, dict) else None
    named = [choice for choice in choices if _is_model(choice) and kind in _kinds(choice)]
    if kind is not None and not named and all(_is_model(choice) and _kinds(choice) for choice in choices):
        yield f"{where}.type is {kind!r}, which no variant has"
        return
    found: list[str] = []
    for choice in named or choices:
        found = list(faults(value, choice, where))
        if not found:
            return
    yield from found


def _bare(wanted: Any) -> Any:
    return get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted


def _kinds(model: type[pydantic.BaseModel]) -> tuple[Any, ...]:
    model.model_rebuild()
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()
