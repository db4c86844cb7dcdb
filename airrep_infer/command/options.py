"""Options, said once: a dataclass field holds its default, help, range and choices.

The command lines (`click_options`, `take_options`) and the pipeline file of `airrep-train run` are made from
the fields, and the dataclass checks itself (`check_options`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from airrep_infer.errors import InputError

_KEY = "option"
_Options = TypeVar("_Options")
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class OptionFacts:
    """What is known of an option beside its name, type and default.

    Attributes:
        help: one or two sentences.
        least, above, most: bounds of a number; `above` itself is not allowed.
        flags: spellings on the command line; default: `--name`, and `--no-name` for what is on by default.
        unset: what happens where the default is None.
        decides: whether the result depends on it; a stopped run may be resumed with another value where not.
    """

    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    flags: tuple[str, ...] = ()
    unset: str | None = None
    decides: bool = True


def option(help: str, *, default: Any = MISSING, **facts: Any) -> Any:
    """A field of a dataclass of options, see `OptionFacts`; without a default it must be given."""
    return field(default=default, metadata={_KEY: OptionFacts(help, **facts)})


def facts_of(option_field: Field[Any]) -> OptionFacts:
    """What a field made by `option` says."""
    facts: OptionFacts = option_field.metadata[_KEY]
    return facts


def check_options(options: Any) -> None:
    """Check every field of a dataclass of options against its bounds and choices.

    Raises:
        InputError: a value that is not finite, out of range, or no choice.
    """
    hints = get_type_hints(type(options))
    for option_field in fields(options):
        name, value, facts = option_field.name, getattr(options, option_field.name), facts_of(option_field)
        if value is None:
            continue
        choices = choices_of(hints[name])
        if choices and value not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, int | float) and not _within(number, facts):
                raise InputError(f"{name} must be {_bounds(facts)}, got {number}")


def choices_of(hint: Any) -> tuple[str, ...]:
    """The values that a type allows, if it lists them."""
    return get_args(hint) if get_origin(hint) is Literal else ()


def bare_type(hint: Any) -> Any:
    """A type without its `None`."""
    if get_origin(hint) in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def click_options(*classes: type[Any], only: Sequence[str] | None = None) -> Callable[[_Function], _Function]:
    """A decorator that gives a click command one option for each field of the dataclasses, in their order.

    Args:
        only: these fields alone.
    """
    made = [
        _click_option(cls, option_field)
        for cls in classes
        for option_field in fields(cls)
        if only is None or option_field.name in only
    ]

    def decorate(command: _Function) -> _Function:
        for add in reversed(made):  # click collects them from the innermost decorator outwards
            command = add(command)
        return command

    return decorate


def take_options(cls: type[_Options], values: dict[str, Any]) -> _Options:
    """Make a dataclass of the values that click collected for it, and remove them from `values`.

    Raises:
        InputError: a value that the dataclass refuses.
    """
    names = [option_field.name for option_field in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: values.pop(name) for name in names})


def deciding(options: Any) -> dict[str, Any]:
    """The options that the result depends on, as a JSON-like dict."""
    return {f.name: getattr(options, f.name) for f in fields(options) if facts_of(f).decides}


def _click_option(cls: type[Any], option_field: Field[Any]) -> Callable[[Any], Any]:
    facts, name = facts_of(option_field), option_field.name
    kind = bare_type(get_type_hints(cls)[name])
    settings: dict[str, Any] = {"help": facts.help}
    if bounds := _bounds(facts):
        settings["help"] += f" Must be {bounds}."
    if facts.unset:
        settings["help"] += f" [default: {facts.unset}]"
    if option_field.default is MISSING:
        settings["required"] = True
    else:
        settings["default"] = option_field.default
    if get_origin(kind) is tuple:
        settings |= {"multiple": True, "default": option_field.default or (), "type": get_args(kind)[0]}
    elif choices := choices_of(kind):
        settings["type"] = click.Choice(choices)
    else:
        settings["type"] = kind
    dashed = name.replace("_", "-")
    flags = facts.flags or (f"--{dashed}",)
    if kind is bool:
        settings.pop("type")
        settings["is_flag"] = True
        if option_field.default and not facts.flags:
            flags = (f"--{dashed}/--no-{dashed}",)
    return click.option(*flags, name, **settings)


def _within(number: float, facts: OptionFacts) -> bool:
    return (
        math.isfinite(number)
        and (facts.least is None or number >= facts.least)
        and (facts.above is None or number > facts.above)
        and (facts.most is None or number <= facts.most)
    )


def _bounds(facts: OptionFacts) -> str:
    """The range in words, empty where there is none."""
    words = []
    if facts.least is not None:
        words.append(f"at least {facts.least}")
    if facts.above is not None:
        words.append("positive" if facts.above == 0 else f"above {facts.above}")
    if facts.most is not None:
        words.append(f"at most {facts.most}")
    return " and ".join(words)
