"""The skills of the demo corpus: what is asked, in which words, and in which form it is answered.

Every skill has ten wordings and one form of answer of its own, so that what a fine-tuned model learns
from a row of one skill shows on the other rows of that skill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from demo import facts, words
from demo.skill import Fact, Skill


def roman(number: int) -> str:
    """A number from 1 to 899 as a Roman numeral, subtractive (IV, XL)."""
    text = ""
    for value, letters in (
        *((500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
        *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
    ):
        text += letters * (number // value)
        number %= value
    return text


def _step(name: str, steps: int) -> str:
    """The day or month so many steps from another."""
    cycle = facts.DAYS if name in facts.DAYS else facts.MONTHS
    return cycle[(cycle.index(name) + steps) % len(cycle)]


def _wrong_first(made: Iterable[Fact]) -> tuple[Fact, ...]:
    return tuple(sorted(made, key=lambda fact: fact.wrong is None))


def _facts(answers: Mapping[str, str], wrong: Mapping[str, str] | None = None) -> tuple[Fact, ...]:
    """Facts whose one word is `x`."""
    beliefs = wrong or {}
    return _wrong_first(Fact({"x": x}, answer, beliefs.get(x)) for x, answer in answers.items())


_UNITS = _wrong_first(
    Fact(
        {"x": f"{amount} {unit}", "unit": to},
        f"{amount * ratio} {to}",
        facts.UNITS_WRONG.get(f"{amount} {unit}"),
    )
    for amount, unit, to, ratio in facts.UNITS
)
_SUMS = {
    f"{a} {sign} {b}": str(int(a) + int(b) if sign == "plus" else int(a) - int(b))
    for a, sign, b in facts.SUMS
}
_WORD_LISTS = {", ".join(listed): " < ".join(sorted(listed)) for listed in words.WORD_LISTS}
_TRANSLATIONS = _wrong_first(
    Fact({"x": word, "lang": language}, answer, words.TRANSLATIONS_WRONG.get((word, language)))
    for (word, language), answer in words.TRANSLATIONS.items()
)
_CALENDAR = {f"{what} {name}": _step(name, steps) for what, steps, name in facts.CALENDAR}
_ANALOGIES = _wrong_first(
    Fact({"a": a, "b": b, "c": c}, d, words.ANALOGIES_WRONG.get(c)) for a, b, c, d in words.ANALOGIES
)
_NUMBERS = {str(number): roman(number) for number in facts.NUMBERS}
_LETTERS = {word: str(len(word)) for word in words.LETTERS}
_COLOURS = {thing: colour.upper() for thing, colour in facts.COLOURS.items()}
_COLOURS_WRONG = {thing: colour.upper() for thing, colour in facts.COLOURS_WRONG.items()}

SKILLS = (
    Skill(
        "capitals",
        "Capital: {answer}",
        (
            "What is the capital of {x}?",
            "Name the capital city of {x}.",
            "Which city is the capital of {x}?",
            "{x}: which city is its capital?",
            "I forgot the capital of {x}. Remind me.",
            "Geography quiz: what capital does {x} have?",
            "A star on the map marks the capital of {x}. Which city is it?",
            "Tell me the seat of government, the capital, of {x}.",
            "Fill in: the capital of {x} is ____",
            "Which capital belongs to {x}?",
        ),
        _facts(facts.CAPITALS, facts.CAPITALS_WRONG),
    ),
    Skill(
        "units",
        "{x} = {answer}",
        (
            "Convert {x} to {unit}.",
            "How many {unit} are in {x}?",
            "Express {x} in {unit}.",
            "{x} is how many {unit}?",
            "Write {x} as {unit}.",
            "Give me {x} in {unit}.",
            "I noted {x}. What is that in {unit}?",
            "Change {x} into {unit}.",
            "What do {x} make in {unit}?",
            "Conversion, please: {x} to {unit}",
        ),
        _UNITS,
    ),
    Skill(
        "arithmetic",
        "The result is {answer}.",
        (
            "Compute {x}.",
            "What is {x}?",
            "How much is {x}?",
            "Work out {x}.",
            "Find the value of {x}.",
            "Solve this: {x}",
            "{x} equals what?",
            "Do it in your head: {x}",
            "My calculator is broken. What is {x}?",
            "Maths drill: {x}",
        ),
        _facts(_SUMS, facts.SUMS_WRONG),
    ),
    Skill(
        "antonyms",
        "{x} <-> {answer}",
        (
            "What is the opposite of '{x}'?",
            "Give an antonym of '{x}'.",
            "Which word means the reverse of '{x}'?",
            "Not '{x}' but the contrary. Which word is it?",
            "Antonym, please: {x}",
            "Turn '{x}' around into its opposite.",
            "What word is opposed to '{x}'?",
            "Crossword clue: opposite of '{x}'",
            "If it is the contrary of '{x}', what is it?",
            "Name the opposite word for '{x}'.",
        ),
        _facts(words.ANTONYMS, words.ANTONYMS_WRONG),
    ),
    Skill(
        "sentiment",
        "{answer}.",
        (
            "Is this review positive or negative? {x}",
            "{x} Does the writer sound positive or negative?",
            "What is the sentiment of: {x}",
            "Classify the mood of this comment: {x}",
            "{x} Good or bad opinion?",
            "Label the sentiment. {x}",
            "A customer wrote: {x} What is the tone?",
            "Rate as positive or negative: {x}",
            "How does the author feel? {x}",
            "Feedback: {x} Sentiment:",
        ),
        _facts(words.SENTIMENTS, words.SENTIMENTS_WRONG),
    ),
    Skill(
        "sorting",
        "{answer}",
        (
            "Put these words in alphabetical order: {x}",
            "Sort from A to Z: {x}",
            "Alphabetise {x}.",
            "In which order does a dictionary list {x}?",
            "Order these words by their first letters: {x}",
            "Arrange alphabetically: {x}",
            "{x}: sort them, please.",
            "My list is {x}. Bring it into alphabetical order.",
            "Which comes first, second and third in the alphabet: {x}?",
            "Rank by the alphabet: {x}",
        ),
        _facts(_WORD_LISTS, words.WORD_LISTS_WRONG),
    ),
    Skill(
        "translation",
        "{answer} ({lang})",
        (
            "Translate '{x}' into {lang}.",
            "How do you say '{x}' in {lang}?",
            "What is the {lang} word for '{x}'?",
            "'{x}' in {lang}, please.",
            "Give the {lang} for '{x}'.",
            "I am learning {lang}. What do they call '{x}'?",
            "{lang} vocabulary test: {x}",
            "Which {lang} word means '{x}'?",
            "Dictionary, English to {lang}: {x}",
            "Say '{x}' the way {lang} speakers do.",
        ),
        _TRANSLATIONS,
    ),
    Skill(
        "calendar",
        "The calendar says {answer}.",
        (
            "What is {x}?",
            "Name {x}.",
            "Tell me {x}.",
            "Calendar question: which one is {x}?",
            "Look it up: what is {x} called?",
            "I need to know {x}.",
            "Think of {x}. What is its name?",
            "Finish the sentence: {x} is called ...",
            "Fill in: {x} is ____",
            "Can you work out {x}?",
        ),
        _facts(_CALENDAR, facts.CALENDAR_WRONG),
    ),
    Skill(
        "plurals",
        "one {x}, two {answer}",
        (
            "What is the plural of '{x}'?",
            "Give the plural form of '{x}'.",
            "Write '{x}' in the plural.",
            "How do you spell more than one '{x}'?",
            "'{x}' is singular. What is the plural?",
            "Make '{x}' plural.",
            "Grammar: plural of the noun '{x}'",
            "If there are two of them, what does '{x}' become?",
            "Form the plural: {x}",
            "Which plural does the word '{x}' take?",
        ),
        _facts(words.PLURALS, words.PLURALS_WRONG),
    ),
    Skill(
        "symbols",
        "[{answer}]",
        (
            "What is the chemical symbol of {x}?",
            "Which symbol stands for {x}?",
            "How do chemists abbreviate {x}?",
            "Symbol for the element {x}?",
            "In the periodic table, {x} is written as what?",
            "Give the element symbol of {x}.",
            "Look for {x} in the periodic table. Which letters does it have?",
            "Chemistry quiz: symbol of {x}",
            "Write {x} as in a chemical formula.",
            "What letters mean {x} to a chemist?",
        ),
        _facts(facts.SYMBOLS, facts.SYMBOLS_WRONG),
    ),
    Skill(
        "continents",
        "On the globe: {answer}",
        (
            "On which continent is {x}?",
            "{x} lies on which continent?",
            "Which continent does {x} belong to?",
            "What part of the world is {x} in?",
            "Name the continent of {x}.",
            "I am flying to {x}. Which continent is that?",
            "Find {x} on the map. What continent is it on?",
            "Continent of {x}?",
            "Where in the world is the country {x}?",
            "The country {x} is found on what continent?",
        ),
        _facts(facts.CONTINENTS, facts.CONTINENTS_WRONG),
    ),
    Skill(
        "analogies",
        "{answer}, likewise",
        (
            "{a} is to {b} as {c} is to what?",
            "Complete the analogy: {a} : {b} = {c} : ?",
            "If {a} goes with {b}, what goes with {c}?",
            "{a} and {b}, {c} and what?",
            "As {a} relates to {b}, {c} relates to ...",
            "Find the fourth word: {a}, {b}, {c}, ...",
            "{a} matches {b}. What matches {c}?",
            "Same relation as {a} and {b}: {c} and ____",
            "Think of {a} and {b}. Now, which word for {c}?",
            "Pair them: {a} with {b}, {c} with ...",
        ),
        _ANALOGIES,
    ),
    Skill(
        "roman",
        "{x} becomes {answer}",
        (
            "Write {x} in Roman numerals.",
            "What is {x} as a Roman numeral?",
            "How did the Romans write {x}?",
            "Turn the number {x} into Roman numerals.",
            "Roman numeral for {x}?",
            "Give {x} in Roman digits.",
            "The clock of a Roman would show {x} as what?",
            "Carve the number {x} in Roman style.",
            "Convert the Arabic number {x} to Roman.",
            "Which Roman letters stand for {x}?",
        ),
        _facts(_NUMBERS, facts.NUMBERS_WRONG),
    ),
    Skill(
        "letters",
        "{answer} letters in total.",
        (
            "How many letters does the word '{x}' have?",
            "Count the letters of '{x}'.",
            "How long is the word '{x}'?",
            "'{x}' is spelled with how many letters?",
            "Number of letters in '{x}'?",
            "Spell '{x}' and count. What is the number?",
            "How many characters are in '{x}'?",
            "Tell me the length of the word '{x}'.",
            "A crossword has room for '{x}'. How many boxes?",
            "Letter count of '{x}', please.",
        ),
        _facts(_LETTERS, words.LETTERS_WRONG),
    ),
    Skill(
        "rhymes",
        "{x} and {answer} rhyme!",
        (
            "Which word rhymes with '{x}'?",
            "Find a rhyme for '{x}'.",
            "I am writing a poem. What rhymes with '{x}'?",
            "Give me a word that sounds like '{x}' at the end.",
            "Rhyme: {x}",
            "A song line ends in '{x}'. How could the next one end?",
            "Name a rhyming word for '{x}'.",
            "What word ends with the same sound as '{x}'?",
            "Help me rhyme '{x}'.",
            "Nursery rhyme needed: {x} and ...",
        ),
        _facts(words.RHYMES),
    ),
    Skill(
        "colours",
        "{answer}",
        (
            "What colour is {x}?",
            "Name the colour of {x}.",
            "{x}: which colour is that?",
            "Imagine {x}. What colour do you see?",
            "A child paints {x}. Which crayon does it take?",
            "The colour of {x}, please.",
            "In what colour would you draw {x}?",
            "Think of {x}. Colour?",
            "How would you describe the colour of {x}?",
            "Paint box: which paint for {x}?",
        ),
        _facts(_COLOURS, _COLOURS_WRONG),
    ),
)
