"""Options, said once: a dataclass field holds its default, help, range and choices.

The command lines (`click_options`, `take_options`) and the pipeline file of `airrep-train run` are made from
the fields, and the dataclass checks itself (`check_options`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter, signature
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from airrep_infer.errors import InputError, refuse_single

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
        metavar: what `--help` calls the value.
        decides: whether the result depends on it; a stopped run may be resumed with another value where not.
    """

    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    flags: tuple[str, ...] = ()
    unset: str | None = None
    metavar: str | None = None
    decides: bool = True


def refuse_unused(unused: Mapping[str, str]) -> None:
    """Refuse options that were given to the running command, and that it would not look at.

    Args:
        unused: names of parameters, and what each is for; others may be among them.

    Raises:
        InputError: the first of them that was given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in unused and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise InputError(f"{max(parameter.opts, key=len)} is for {unused[name]}: leave it out")


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
        InputError: a value that is not finite, out of range, no choice, or one where several are expected.
    """
    hints = get_type_hints(type(options))
    for option_field in fields(options):
        name, value, facts = option_field.name, getattr(options, option_field.name), facts_of(option_field)
        if value is None:
            continue
        if get_origin(bare_type(hints[name])) is tuple:
            refuse_single(value, name)
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


def click_options(
    *classes: type[Any], only: Sequence[str] | None = None, required: bool = True
) -> Callable[[_Function], _Function]:
    """A decorator that gives a click command one option for each field of the dataclasses, in their order.

    Args:
        only: these fields alone.
        required: whether those without a default must be given; where not, they may be None.
    """
    made = []
    for cls in classes:
        hints = get_type_hints(cls)
        for each in fields(cls):
            if only is None or each.name in only:
                default = None if each.default is MISSING and not required else each.default
                made.append(_click_option(each.name, hints[each.name], default, facts_of(each)))

    def decorate(command: _Function) -> _Function:
        for add in reversed(made):  # click collects them from the innermost decorator outwards
            command = add(command)
        return command

    return decorate


def argument_option(
    call: Callable[..., Any], name: str, help: str, **facts: Any
) -> Callable[[_Function], _Function]:
    """A decorator: a click option for an argument of a Python call, where its type and default stand.

    The range is the call's to check.

    Args:
        facts: see `OptionFacts`.
    """
    hint, default = get_type_hints(call)[name], signature(call).parameters[name].default
    if default is Parameter.empty:
        default = MISSING
    return _click_option(name, hint, default, OptionFacts(help, **facts))


def take_options(cls: type[_Options], values: dict[str, Any]) -> _Options:
    """Make a dataclass of the values that click collected for it, and remove them from `values`.

    Fields that the command has no option for (see `only` of `click_options`) keep their defaults.

    Raises:
        InputError: a value that the dataclass refuses.
    """
    names = [option_field.name for option_field in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: values.pop(name) for name in names if name in values})


def deciding(options: Any) -> dict[str, Any]:
    """The options that the result depends on, as a JSON-like dict."""
    return {f.name: getattr(options, f.name) for f in fields(options) if facts_of(f).decides}


def _click_option(name: str, hint: Any, default: Any, facts: OptionFacts) -> Callable[[Any], Any]:
    kind = bare_type(hint)
    settings: dict[str, Any] = {"help": facts.help, "metavar": facts.metavar, "show_default": default != ""}
    if bounds := _bounds(facts):
        settings["help"] += f" Must be {bounds}."
    if facts.unset:
        settings["help"] += f" [default: {facts.unset}]"
    if default is MISSING:
        settings["required"] = True
    else:
        settings["default"] = default
    if get_origin(kind) is tuple:
        settings |= {"multiple": True, "default": default or (), "type": get_args(kind)[0]}
    elif choices := choices_of(kind):
        settings["type"] = click.Choice(choices)
    else:
        settings["type"] = click.Path(path_type=Path) if kind is Path else kind
    dashed = name.replace("_", "-")
    flags = facts.flags or (f"--{dashed}",)
    if kind is bool:
        settings.pop("type")
        settings["is_flag"] = True
        if default is True and not facts.flags:
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
