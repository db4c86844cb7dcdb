"""What every command line of AirRep shares: exit statuses, one-line errors, and options that stand once."""

from airrep_infer.command.command import (
    INTERRUPTED,
    TERMINATED,
    Command,
    Commands,
    Terminated,
    check_output,
    finishing_first,
    memory_option,
    parse_shard,
    printable,
)
from airrep_infer.command.options import (
    OptionFacts,
    argument_option,
    bare_type,
    check_options,
    choices_of,
    click_options,
    deciding,
    facts_of,
    option,
    take_options,
)

__all__ = [
    "INTERRUPTED",
    "TERMINATED",
    "Command",
    "Commands",
    "OptionFacts",
    "Terminated",
    "argument_option",
    "bare_type",
    "check_options",
    "check_output",
    "choices_of",
    "click_options",
    "deciding",
    "facts_of",
    "finishing_first",
    "memory_option",
    "option",
    "parse_shard",
    "printable",
    "take_options",
]
