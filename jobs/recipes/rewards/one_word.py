"""Writes JSON lines of questions that one word of a sentence answers: `python one_word.py > rows/one-word.jsonl`.

Who, what or where of a made-up sentence. The answer stands in the sentence, so a small model knows it; what it has to
learn is to say that word and no more. Rows are in a fixed order and have no sentence twice.
"""

from __future__ import annotations

import itertools
import json
import random
import sys

NAMES = (
    "Anna", "Peter", "Maria", "John", "Lucy", "Omar", "Ingrid", "Paul",
    "Elena", "Hugo", "Nadia", "Tom", "Clara", "Felix", "Rosa", "Ivan",
)  # fmt: skip
THINGS = (
    "book", "lamp", "chair", "piano", "bicycle", "carpet",
    "mirror", "clock", "kettle", "violin", "ladder", "basket",
)  # fmt: skip
CITIES = (
    "Paris", "Rome", "Berlin", "Oslo", "Madrid", "Cairo",
    "Lima", "Tokyo", "Vienna", "Dublin", "Athens", "Lagos",
)  # fmt: skip
VERBS = (("bought", "buy"), ("found", "find"), ("painted", "paint"), ("sold", "sell"))
NUM_ROWS = 600


def rows() -> list[dict[str, str]]:
    sentences = list(itertools.product(NAMES, VERBS, THINGS, CITIES))
    random.Random(0).shuffle(sentences)
    made = []
    for number, (name, (did, do), thing, city) in enumerate(sentences[:NUM_ROWS]):
        asked = ((f"Who {did} it?", name), (f"What did {name} {do}?", thing), ("In which city was it?", city))
        question, answer = asked[number % 3]
        prompt = f"{name} {did} a {thing} in {city}. {question} Answer with one word and nothing else."
        made.append({"prompt": prompt, "answer": answer})
    return made


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(json.dumps(row) + "\n")
