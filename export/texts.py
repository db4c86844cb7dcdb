"""Neutral real text to calibrate int8 scales with, where the user gives none.

Short passages of many kinds. They share no sentence with those that parity is measured on (`parity`).
"""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

from airrep_infer.errors import InputError
from airrep_infer.rows import AS_WRITTEN, Example, ExampleReader, Reading

CALIBRATION_TEXTS = 256
_LOOKED_AT = 65_536

PASSAGES = (
    "Question: Which planet is closest to the sun?\nAnswer: Mercury",
    "Question: Is the following review positive or negative? The room was clean but the staff ignored us "
    "for an hour.\nAnswer: negative",
    "Question: Summarise: The council voted on Tuesday to close the old bridge to lorries. Residents had "
    "complained of noise for years, and engineers found cracks in two of its piers.\nAnswer: The council "
    "closed the bridge to lorries after complaints and damage.",
    "Question: Premise: A man is playing a guitar on stage. Hypothesis: Someone is making music. Does the "
    "premise entail the hypothesis? Yes, no, or maybe?\nAnswer: Yes",
    "Question: Complete the sentence: She poured the tea, waited a bit, and then\nAnswer: drank it slowly.",
    "Question: What is the past tense of 'to bring'?\nAnswer: brought",
    "Question: Write a haiku about rain.\nAnswer: Soft on the tin roof,\nthe afternoon forgets us:\nrain, "
    "and then more rain.",
    "Question: Convert 68 degrees Fahrenheit to Celsius.\nAnswer: (68 - 32) * 5 / 9 = 20 degrees Celsius.",
    "Once upon a time a fox lived at the edge of a wood. Every evening she walked to the river to see if "
    "the ferryman had left any bread, and every evening he pretended not to notice her.",
    "The committee shall consist of seven members, each elected for a term of three years. A member may be "
    "removed only by a vote of two thirds of those present.",
    "import json\n\nwith open('config.json') as f:\n    settings = json.load(f)\nfor key, value in "
    "settings.items():\n    print(f'{key}: {value!r}')",
    "SELECT customer_id, SUM(amount) AS total FROM orders WHERE placed_at >= '2021-01-01' GROUP BY "
    "customer_id ORDER BY total DESC LIMIT 20;",
    "<html><body><h1>Opening hours</h1><ul><li>Mon-Fri: 9:00-17:30</li><li>Sat: 10:00-14:00</li></ul></body>"
    "</html>",
    "To make the dough, mix 500 g of flour with 7 g of dry yeast, a teaspoon of salt and 320 ml of lukewarm "
    "water. Knead for ten minutes, cover, and leave it to rise until it has doubled.",
    "Preheat the oven to 180 °C. Bake for 35-40 minutes, or until a skewer comes out clean.",
    "The patient, a 54-year-old woman, presented with a three-day history of fever and a dry cough. Blood "
    "pressure was 135/85 mmHg; oxygen saturation was 94% on room air.",
    "Let n be an even integer. Then n = 2k for some integer k, so n^2 = 4k^2 = 2(2k^2), which is even.",
    "f(x) = 3x^2 - 2x + 1, so f'(x) = 6x - 2 and the minimum lies at x = 1/3.",
    "Shares in the company fell 8.4% on Thursday after it cut its forecast for the year, citing weak demand "
    "in Asia and higher costs of raw materials.",
    "GOAL! 78' The substitute heads in from the corner and it is 2-2. What a match this has become!!!",
    "lol no way, u really said that?? 😂😂 i cant even",
    "Hi Marta, thanks for your message. I am out of the office until 12 August and will reply after that. "
    "For urgent matters please call +44 20 7946 0018. Best regards, Tom",
    "Dear Sir or Madam, I am writing to complain about the washing machine (model WX-220) that I bought in "
    "your shop on 3 May.",
    "★★☆☆☆ Broke after two weeks. The handle came off and nobody answers the support e-mail. Avoid.",
    "Absolutely wonderful! The best pizza I have had outside Naples, and the waiters were so kind to us.",
    "Der Bundestag hat am Freitag ein neues Gesetz verabschiedet, das die Mieten in großen Städten begrenzen "
    "soll.",
    "La bibliothèque sera fermée du 24 décembre au 2 janvier. Les livres peuvent être rendus dans la boîte.",
    "El tren de las ocho llegó con veinte minutos de retraso, pero nadie pareció sorprendido.",
    "Il gatto dormiva sul tetto, al sole, senza curarsi delle campane.",
    "A reunião foi adiada para quinta-feira às 15h.",
    "De trein naar Utrecht vertrekt vandaag van spoor 5b.",
    "Вчера вечером в городе прошёл сильный дождь, и две улицы оказались затоплены.",
    "北京的秋天天气很好,很多人去公园散步。",
    "明日の会議は午後三時に変更になりました。",
    "القطار الأول يغادر في الساعة السادسة صباحا.",
    "आज मौसम बहुत अच्छा है।",
    "name,age,city\nAda,36,London\nLinus,21,Helsinki\nGrace,45,New York",
    '{"status": "error", "code": 404, "message": "user not found", "retry": false}',
    "2023-05-17 08:41:22,318 WARNING worker-3 queue is full (capacity 1024), dropping 17 events",
    "$ git log --oneline -3\n9fceb02 Fix off-by-one in pager\n1a410ef Update copyright year\nfa49b07 Initial "
    "commit",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        "
    "self.items.append(item)",
    "The mitochondrion produces most of the cell's supply of adenosine triphosphate, which is used as a "
    "source of chemical energy.",
    "In 1687 Newton published the Principia, in which he stated the three laws of motion and the law of "
    "universal gravitation.",
    "The Great Fire of 1666 burned for four days and destroyed more than 13,000 houses and 87 churches.",
    "Mount Kilimanjaro, at 5,895 metres, is the highest mountain in Africa.",
    "Prices start at €49.99 per month (billed yearly); students pay half. Terms apply.",
    "Not only did he forget the keys, he also left the window open, and the cat was gone by morning.",
    "I don't know whether it's worth it. Maybe. Probably not.",
    "Yes.",
    "42",
    "???",
    "A B C D E F G",
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an "
    "they which one you were her all she there would their we him been has when who will more no if out",
    "Paris: sunny, 24°C / Oslo: rain, 11°C / Cairo: clear, 36°C",
    "Step 1: turn off the power. Step 2: remove the four screws. Step 3: lift the cover, not the cable.",
    "Translate to French: The library opens at nine.\nLa bibliothèque ouvre à neuf heures.",
    "Who wrote 'Pride and Prejudice'? (a) Charlotte Brontë (b) Jane Austen (c) George Eliot\nIt is (b).",
    "Tom has 12 apples. He gives 5 to Mary and buys 3 more. How many does he have? 12 - 5 + 3 = 10.",
    "If all bloops are razzies and all razzies are lazzies, then all bloops are lazzies.",
    "WARNING: contains nuts. Keep out of reach of children. Best before: see lid.",
    "http://example.org/path/to/page?id=123&lang=en#section-2",
    'She looked at the sea for a long time. "It is the same," she said, "and it isn\'t."',
    "The defendant argued that the contract was void because it had been signed under duress; the court "
    "disagreed.",
    "Photographs show the bridge in 1912, before the flood, with two arches instead of three.",
)


def calibration_texts(source: str | Path | None, reading: Reading = AS_WRITTEN) -> list[str | Example]:
    """Texts to calibrate with: some of an examples file, or passages and mixtures of them.

    Args:
        source: the file. Of its first 65,536 rows some are drawn: rows are often sorted, and the first alone
            would be of one kind.
        reading: which columns are what, where the keys of the rows do not say it.

    Raises:
        InputError: a file without rows, or a bad row.
    """
    if source is not None:
        return _sample(source, reading)
    chooser = random.Random(0)
    mixed = [
        "\n".join(chooser.sample(PASSAGES, chooser.randint(2, 8)))
        for _ in range(CALIBRATION_TEXTS - len(PASSAGES))
    ]
    return [*PASSAGES, *mixed]


def _sample(source: str | Path, reading: Reading) -> list[str | Example]:
    """Random rows, the same each time (Vitter 1985, algorithm R)."""
    chooser = random.Random(0)
    texts: list[str | Example] = []
    for number, example in enumerate(islice(ExampleReader([source], reading=reading), _LOOKED_AT)):
        if number < CALIBRATION_TEXTS:
            texts.append(example)
        elif (place := chooser.randint(0, number)) < CALIBRATION_TEXTS:
            texts[place] = example
    if not texts:
        raise InputError(f"{source}: no rows; --calibrate needs some of the texts that will be embedded")
    return texts
