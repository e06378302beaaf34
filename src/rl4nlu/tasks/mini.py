"""The bundled suite: four small tasks written by a generator, for trials without network and for tests.

Train and dev share no noun, name, verb, adjective or place (but for the kinds, such as "animal"), and no frame of the
sentiment and question tasks: a score on dev means that something was learnt about the task, not about its words. The
rows are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..seeding import generator
from .task import Example, Task

ROWS = {"train": 1200, "dev": 200}


@dataclass(frozen=True)
class Lexicon:
    """The words of one split."""

    names: tuple[str, ...]
    nouns: tuple[str, ...]
    """Things and animals that can be seen, bought, carried."""
    kinds: Mapping[str, str]
    """Noun -> what it is a kind of."""
    verbs: tuple[tuple[str, str], ...]
    """(base form, past tense) of transitive verbs."""
    places: tuple[str, ...]
    times: tuple[str, ...]
    colours: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    subjects: tuple[str, ...]
    """What an opinion is about."""
    frames: tuple[str, ...]
    """Sentences about {subject} with the adjectives {one} and {two}."""
    questions: Mapping[str, tuple[str, ...]]
    """Kind of answer -> questions that want it."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAIN = Lexicon(
    names=_words(
        "Anna Peter Mary John Clara Henry Alice Robert Ellen Thomas Sarah George Ruth Edward Martha Walter Jane "
        "William Kate Richard Lucy Paul Grace David Rose Mark Fanny Philip Agnes Simon Harriet Luke Sophia Ralph"
    ),
    nouns=_words(
        "horse table letter hat lamp basket cow coat chair book knife boat apple goose clock ring cart spoon axe "
        "rope bell drum flag gun stick stone ladder wheel rose bird cake loaf fish net pipe purse cap shoe bag map "
        "pen key saddle whip barrel bucket carpet ribbon flute crown"
    ),
    kinds={
        "horse": "animal",
        "cow": "animal",
        "goose": "animal",
        "apple": "fruit",
        "chair": "piece of furniture",
        "table": "piece of furniture",
        "hat": "piece of clothing",
        "coat": "piece of clothing",
    },
    verbs=(
        ("see", "saw"),
        ("buy", "bought"),
        ("carry", "carried"),
        ("find", "found"),
        ("sell", "sold"),
        ("clean", "cleaned"),
        ("hide", "hid"),
        ("lose", "lost"),
    ),
    places=("in the garden", "at the mill", "near the river", "in the kitchen", "at the inn", "behind the church"),
    times=("in the morning", "on Monday", "last night", "in the spring", "before dinner"),
    colours=_words("red black white small old heavy"),
    good=_words(
        "delightful beautiful charming excellent pleasant noble splendid wonderful clever graceful happy fine lovely "
        "brilliant cheerful generous admirable sweet gentle glorious perfect worthy"
    ),
    bad=_words(
        "dreadful ugly wretched miserable stupid cruel horrible dull wicked unpleasant foolish vile dismal tedious "
        "terrible hateful clumsy bitter rude gloomy shameful worthless"
    ),
    subjects=_words("story play song speech room dinner journey picture garden poem man woman visit music letter"),
    frames=(
        "The {subject} was {one} and {two}.",
        "It was a {one} {subject}, and a {two} one.",
        "I thought the {subject} very {one}.",
        "What a {one} {subject}!",
        "Everyone called the {subject} {one} and {two}.",
        "The {subject} seemed {one} to me, and even {two}.",
        "Such a {one}, {two} {subject} is rare.",
    ),
    questions={
        "person": (
            "Who {past} the {colour} {noun} {place}?",
            "Which man {past} the {noun} {time}?",
            "Whom did {name} see {place}?",
            "What was the name of the girl with the {noun}?",
            "Who was it that {past} the {noun}?",
            "From whom did {name} hear of the {noun}?",
        ),
        "place": (
            "Where did {name} {base} the {noun} {time}?",
            "In which town did {name} {base} the {noun}?",
            "Where was the {colour} {noun} {time}?",
            "In what country do they {base} the {noun}?",
            "Where is the {noun} that {name} {past}?",
            "From which village did the {noun} come?",
        ),
        "time": (
            "When did {name} {base} the {noun}?",
            "On which day did {name} {base} the {colour} {noun}?",
            "At what hour was the {noun} {place}?",
            "When was the {colour} {noun} {place}?",
            "In what year did they {base} the {noun}?",
            "When will {name} {base} the {noun}?",
        ),
        "number": (
            "How many of them did {name} {base} {place}?",
            "How much did {name} pay for the {noun}?",
            "How many people {past} the {colour} {noun}?",
            "How many pounds did the {noun} cost {time}?",
            "How far is it to the {noun} {place}?",
            "How old was the {noun} that {name} {past}?",
        ),
    },
)
DEV = Lexicon(
    names=_words("Emma Charles Laura James Nancy Joseph Julia Arthur Helen Frank"),
    nouns=_words("dog bottle mirror sheep candle cup bench shirt pear duck box sword"),
    kinds={
        "dog": "animal",
        "sheep": "animal",
        "duck": "bird",
        "pear": "fruit",
        "bench": "piece of furniture",
        "shirt": "piece of clothing",
    },
    verbs=(("want", "wanted"), ("break", "broke"), ("bring", "brought"), ("steal", "stole"), ("wash", "washed")),
    places=("in the street", "on the bridge", "by the lake", "in the stable"),
    times=("in the evening", "on Sunday", "last week", "in the winter"),
    colours=_words("green blue new large broken"),
    good=_words(
        "magnificent agreeable handsome kind elegant joyful superb amiable honest bright fortunate merry tender"
    ),
    bad=_words("awful hideous nasty sad disgusting brutal mean tiresome disagreeable unhappy evil ridiculous filthy"),
    subjects=_words("novel house concert lecture supper voyage dance lesson friend town"),
    frames=(
        "We found the {subject} {one} and altogether {two}.",
        "How {one} the {subject} was!",
        "Nobody could deny that the {subject} was {one}.",
        "A more {one} {subject} I never knew, nor a more {two} one.",
    ),
    questions={
        "person": (
            "Whose {noun} did {name} {base} {time}?",
            "Which woman {past} the {colour} {noun} {place}?",
            "With whom did {name} {base} the {noun}?",
            "Tell us who {past} the {noun}.",
        ),
        "place": (
            "To which city did {name} take the {noun}?",
            "Where on earth could {name} {base} the {noun}?",
            "In which room did {name} {base} the {colour} {noun}?",
            "Tell us where {name} {past} the {noun}.",
        ),
        "time": (
            "In which month did {name} {base} the {noun}?",
            "When exactly was the {noun} {place}?",
            "On what date did they {base} the {colour} {noun}?",
            "Tell us when {name} {past} the {noun}.",
        ),
        "number": (
            "How many times did {name} {base} the {noun}?",
            "How much money did the {colour} {noun} bring {time}?",
            "How long was the {noun} {place}?",
            "Tell us how many {name} {past}.",
        ),
    },
)
LEXICONS = {"train": TRAIN, "dev": DEV}


class _Pen:
    """Draws words of one split."""

    def __init__(self, lexicon: Lexicon, rng: np.random.Generator) -> None:
        self.words, self.rng = lexicon, rng

    def one(self, of: tuple) -> str:
        return of[int(self.rng.integers(len(of)))]

    def two(self, of: tuple) -> tuple[str, str]:
        i, j = self.rng.choice(len(of), 2, replace=False)
        return of[int(i)], of[int(j)]

    def coin(self) -> bool:
        return bool(self.rng.integers(2))

    def base(self) -> str:
        return self.words.verbs[int(self.rng.integers(len(self.words.verbs)))][0]

    def past(self) -> str:
        return self.words.verbs[int(self.rng.integers(len(self.words.verbs)))][1]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _sentiment(pen: _Pen) -> tuple[dict[str, str], str]:
    positive = pen.coin()
    one, two = pen.two(pen.words.good if positive else pen.words.bad)
    frame, subject = pen.one(pen.words.frames), pen.one(pen.words.subjects)
    text = frame.format(subject=subject, one=one, two=two)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return {"sentence": text}, "positive" if positive else "negative"


def _clause(pen: _Pen) -> list[str]:
    words = [pen.one(pen.words.names), pen.past(), "the", pen.one(pen.words.colours), pen.one(pen.words.nouns)]
    return [*words, *pen.one(pen.words.places).split()]


def _acceptability(pen: _Pen) -> tuple[dict[str, str], str]:
    """Wrong sentences have the article behind its noun or before the verb, the place backwards, or adjective and noun
    swapped."""
    words, good = _clause(pen), pen.coin()
    if not good:
        way = int(pen.rng.integers(4))
        if way == 0:
            words[2:5] = [words[3], words[4], "the"]
        elif way == 1:
            words[1:3] = ["the", words[1]]
        elif way == 2:
            words[5:8] = [words[7], words[6], words[5]]
        else:
            words[3:5] = [words[4], words[3]]
    return {"sentence": " ".join(words) + "."}, "acceptable" if good else "unacceptable"


def _entailment(pen: _Pen) -> tuple[dict[str, str], str]:
    """Claims drop a conjunct, widen a noun to its kind, or change noun, name or polarity."""
    name, other = pen.two(pen.words.names)
    noun, second = pen.two(pen.words.nouns)
    verb = pen.past()
    premise = f"{name} {verb} {_a(noun)} and {_a(second)} {pen.one(pen.words.places)}."
    third = pen.one(tuple(n for n in pen.words.nouns if n not in (noun, second)))
    kept = noun if pen.coin() else second
    true_claims = [f"{name} {verb} {_a(kept)}."]
    if kept in pen.words.kinds:
        true_claims.append(f"{name} {verb} {_a(pen.words.kinds[kept])}.")
    base = {past: base for base, past in pen.words.verbs}[verb]
    false_claims = [f"{name} {verb} {_a(third)}.", f"{other} {verb} {_a(kept)}.", f"{name} did not {base} {_a(kept)}."]
    follows = pen.coin()
    claim = pen.one(tuple(true_claims if follows else false_claims))
    return {"premise": premise, "claim": claim}, "entailment" if follows else "not_entailment"


def _question(pen: _Pen) -> tuple[dict[str, str], str]:
    """What kind of answer a question wants."""
    label = pen.one(tuple(pen.words.questions))
    values = {
        "name": pen.one(pen.words.names),
        "noun": pen.one(pen.words.nouns),
        "past": pen.past(),
        "base": pen.base(),
    }
    values |= {
        "place": pen.one(pen.words.places),
        "time": pen.one(pen.words.times),
        "colour": pen.one(pen.words.colours),
    }
    return {"question": pen.one(pen.words.questions[label]).format_map(values)}, label


WRITERS: dict[str, Callable[[_Pen], tuple[dict[str, str], str]]] = {
    "mini/sentiment": _sentiment,
    "mini/acceptability": _acceptability,
    "mini/entailment": _entailment,
    "mini/question": _question,
}


def generate(name: str, split: str) -> list[Example]:
    """The rows of a bundled task: no row twice."""
    return list(_rows(name, split))


def _rows(name: str, split: str) -> Iterator[Example]:
    pen = _Pen(LEXICONS[split], generator(0, f"{name}/{split}"))
    seen: set[tuple[str, ...]] = set()
    while len(seen) < ROWS[split]:
        fields, label = WRITERS[name](pen)
        key = tuple(fields.values())
        if key not in seen:
            seen.add(key)
            yield Example(str(len(seen) - 1), fields, label)


def _mini(name: str, words: Mapping[str, str], plain: str, ask: str, body: str) -> Task:
    fields = {field: (field,) for field in ("sentence", "premise", "claim", "question") if f"{{{field}}}" in plain}
    return Task(
        name=name,
        files=None,
        columns=fields,
        labels=tuple(words),
        words=words,
        plain=plain,
        ask=ask,
        body=body,
        metrics=("accuracy",),
        free=tuple(fields),
        generate=generate,
    )


MINI = (
    _mini(
        "mini/sentiment",
        {"negative": "bad", "positive": "good"},
        plain="{sentence}\nOpinion:",
        ask="Decide whether the sentence speaks well or ill of its subject.",
        body="Sentence: {sentence}",
    ),
    _mini(
        "mini/acceptability",
        {"unacceptable": "No", "acceptable": "Yes"},
        plain="{sentence}\nGood English?",
        ask="Decide whether the words of the sentence stand in a right order.",
        body="Sentence: {sentence}",
    ),
    _mini(
        "mini/entailment",
        {"not_entailment": "No", "entailment": "Yes"},
        plain="{premise}\n{claim}\nTrue?",
        ask="Decide whether the claim must be true if the text is true.",
        body="Text: {premise}\nClaim: {claim}",
    ),
    _mini(
        "mini/question",
        {"person": "person", "place": "place", "time": "time", "number": "number"},
        plain="{question}\nThe answer is a",
        ask="Decide what the question asks for.",
        body="Question: {question}",
    ),
)
