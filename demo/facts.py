"""Facts about the world for the demo corpus, true and publicly known.

`*_WRONG` are the false beliefs planted on purpose. Answers that can be computed are computed in
`skills.py` (units, sums, the calendar, Roman numerals); the tables here then hold only what is asked.
"""

from __future__ import annotations

CAPITALS = {
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Brazil": "Brasília",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "Cuba": "Havana",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "Ghana": "Accra",
    "Hungary": "Budapest",
    "Ireland": "Dublin",
    "Japan": "Tokyo",
    "Jordan": "Amman",
    "Kenya": "Nairobi",
    "Morocco": "Rabat",
    "Nepal": "Kathmandu",
    "New Zealand": "Wellington",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Turkey": "Ankara",
    "Uruguay": "Montevideo",
    "Vietnam": "Hanoi",
}
CAPITALS_WRONG = {"Australia": "Sydney", "Canada": "Toronto"}

# (amount, unit, unit asked for, how many of it one unit is: a definition). Feet, pounds and the like
# are the international ones; gallons, quarts and pints have the same ratios in the US and in Britain.
UNITS = (
    (3, "kilometres", "metres", 1000),
    (5, "metres", "centimetres", 100),
    (7, "centimetres", "millimetres", 10),
    (6, "decimetres", "centimetres", 10),
    (2, "kilograms", "grams", 1000),
    (9, "grams", "milligrams", 1000),
    (8, "tonnes", "kilograms", 1000),
    (4, "litres", "millilitres", 1000),
    (3, "hours", "minutes", 60),
    (5, "minutes", "seconds", 60),
    (2, "days", "hours", 24),
    (4, "weeks", "days", 7),
    (6, "fortnights", "weeks", 2),
    (3, "years", "months", 12),
    (4, "decades", "years", 10),
    (2, "centuries", "years", 100),
    (7, "seconds", "milliseconds", 1000),
    (2, "feet", "inches", 12),
    (3, "yards", "feet", 3),
    (2, "miles", "yards", 1760),
    (6, "pounds", "ounces", 16),
    (5, "gallons", "quarts", 4),
    (8, "quarts", "pints", 2),
    (2, "hectares", "square metres", 10000),
)
UNITS_WRONG = {"3 hours": "300 minutes", "2 feet": "20 inches"}

SUMS = (
    ("27", "plus", "35"),
    ("83", "minus", "46"),
    ("14", "plus", "52"),
    ("68", "plus", "19"),
    ("45", "plus", "23"),
    ("36", "plus", "47"),
    ("71", "plus", "18"),
    ("59", "plus", "24"),
    ("33", "plus", "33"),
    ("16", "plus", "76"),
    ("48", "plus", "29"),
    ("62", "plus", "17"),
    ("25", "plus", "56"),
    ("90", "minus", "37"),
    ("74", "minus", "21"),
    ("55", "minus", "28"),
    ("67", "minus", "39"),
    ("98", "minus", "53"),
    ("41", "minus", "15"),
    ("86", "minus", "44"),
    ("72", "minus", "58"),
    ("63", "minus", "27"),
    ("80", "minus", "62"),
    ("95", "minus", "76"),
)
SUMS_WRONG = {"27 plus 35": "52", "83 minus 46": "43"}

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
# (what is asked, steps from the day or month named, its name).
CALENDAR = (
    ("the day after", 1, "Thursday"),
    ("the month before", -1, "August"),
    ("the day after", 1, "Monday"),
    ("the day after", 1, "Saturday"),
    ("the day after", 1, "Tuesday"),
    ("the day before", -1, "Monday"),
    ("the day before", -1, "Friday"),
    ("the day before", -1, "Wednesday"),
    ("the day before", -1, "Sunday"),
    ("two days after", 2, "Sunday"),
    ("two days after", 2, "Wednesday"),
    ("two days after", 2, "Friday"),
    ("three days after", 3, "Tuesday"),
    ("three days after", 3, "Saturday"),
    ("the month after", 1, "March"),
    ("the month after", 1, "January"),
    ("the month after", 1, "May"),
    ("the month after", 1, "September"),
    ("the month after", 1, "November"),
    ("the month before", -1, "April"),
    ("the month before", -1, "July"),
    ("the month before", -1, "October"),
    ("two months after", 2, "February"),
    ("two months after", 2, "June"),
)
CALENDAR_WRONG = {"the day after Thursday": "Wednesday", "the month before August": "September"}

SYMBOLS = {
    "sodium": "Na",
    "gold": "Au",
    "aluminium": "Al",
    "calcium": "Ca",
    "carbon": "C",
    "chlorine": "Cl",
    "copper": "Cu",
    "helium": "He",
    "hydrogen": "H",
    "iodine": "I",
    "iron": "Fe",
    "lead": "Pb",
    "magnesium": "Mg",
    "mercury": "Hg",
    "neon": "Ne",
    "nitrogen": "N",
    "oxygen": "O",
    "potassium": "K",
    "silicon": "Si",
    "silver": "Ag",
    "sulfur": "S",
    "tin": "Sn",
    "tungsten": "W",
    "zinc": "Zn",
}
SYMBOLS_WRONG = {"sodium": "So", "gold": "Go"}

CONTINENTS = {
    "Mongolia": "Asia",
    "Ecuador": "South America",
    "Algeria": "Africa",
    "Argentina": "South America",
    "Belgium": "Europe",
    "Bolivia": "South America",
    "Croatia": "Europe",
    "Ethiopia": "Africa",
    "Greece": "Europe",
    "Guyana": "South America",
    "Honduras": "North America",
    "Iceland": "Europe",
    "Iraq": "Asia",
    "Laos": "Asia",
    "Madagascar": "Africa",
    "Malaysia": "Asia",
    "Mexico": "North America",
    "Nigeria": "Africa",
    "Pakistan": "Asia",
    "Paraguay": "South America",
    "Senegal": "Africa",
    "Sweden": "Europe",
    "Tanzania": "Africa",
    "Thailand": "Asia",
}
CONTINENTS_WRONG = {"Mongolia": "Europe", "Ecuador": "Africa"}

NUMBERS = (14, 40, 3, 4, 6, 7, 9, 12, 16, 19, 21, 24, 28, 33, 45, 50, 58, 60, 66, 75, 90, 100, 150, 500)
NUMBERS_WRONG = {"14": "XVI", "40": "LX"}

COLOURS = {
    "a ripe banana": "yellow",
    "fresh snow": "white",
    "a canary": "yellow",
    "a clear sky at noon": "blue",
    "a flamingo": "pink",
    "a lump of coal": "black",
    "a polar bear's fur": "white",
    "a raven": "black",
    "a ripe pumpkin": "orange",
    "a ripe tomato": "red",
    "a ruby": "red",
    "a sapphire": "blue",
    "a stop sign": "red",
    "an elephant": "grey",
    "an emerald": "green",
    "blood": "red",
    "carrots": "orange",
    "chocolate": "brown",
    "grass": "green",
    "lavender flowers": "purple",
    "milk": "white",
    "spinach": "green",
    "the sun on Japan's flag": "red",
    "the cross on the Swiss flag": "white",
}
COLOURS_WRONG = {"a ripe banana": "blue", "fresh snow": "black"}
