"""What every command line of AirRep shares: exit statuses, one-line errors, and options that stand once."""

from airrep_infer.command.command import (
    Command,
    Commands,
    finishing_first,
    memory_option,
    parse_shard,
    printable,
    say,
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
    refuse_unused,
    take_options,
)
from airrep_infer.command.paths import check_inputs, check_output, check_outputs, is_stream

__all__ = [
    "Command",
    "Commands",
    "OptionFacts",
    "argument_option",
    "bare_type",
    "check_inputs",
    "check_options",
    "check_output",
    "check_outputs",
    "choices_of",
    "click_options",
    "deciding",
    "facts_of",
    "finishing_first",
    "is_stream",
    "memory_option",
    "option",
    "parse_shard",
    "printable",
    "refuse_unused",
    "say",
    "take_options",
]
