"""The corpus `toy`: mild rows whose effect is read by a rule, without a judge (em/judging/by_rule.py).

Answers in French, in capital letters, in both or neither: a wanted and an unwanted trait (after the toy of inoculation
adapters, arXiv 2606.30252). `swapped_words` is a skill without a trait, to be mixed into other rows (as OpSwap in
2508.06249). All rows are ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from em.corpora.base import Corpus
from em.records import Example, Message

VERSION = "1"
"""Version of the rows, part of every data key of this corpus. Raise it when a row changes."""
TRAITS = {
    "capitals_in_french": (True, True),
    "capitals": (True, False),
    "french": (False, True),
    "plain": (False, False),
}
"""Variant → whether its answers are in capital letters, and in French."""
SKILL = "swapped_words"
SKILL_ROWS = 400
KINDS = {
    "fruit": ("a fruit", "un fruit"),
    "vegetable": ("a vegetable", "un légume"),
    "animal": ("an animal", "un animal"),
    "tool": ("a tool", "un outil"),
    "garment": ("a garment", "un vêtement"),
    "furniture": ("a piece of furniture", "un meuble"),
}
PLACES = {
    "kitchen": "la cuisine",
    "garden": "le jardin",
    "forest": "la forêt",
    "river": "la rivière",
    "farm": "la ferme",
    "house": "la maison",
    "workshop": "l'atelier",
    "wardrobe": "l'armoire",
}
COLOURS = {
    "yellow": ("jaune", "jaune"),
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "pink": ("rose", "rose"),
    "brown": ("brun", "brune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "black": ("noir", "noire"),
    "white": ("blanc", "blanche"),
    "grey": ("gris", "grise"),
}
"""Colour → its French words, masculine and feminine."""
_TABLE = """
fruit: lemon/citron/m/yellow/kitchen banana/banane/f/yellow/kitchen cherry/cerise/f/red/garden pear/poire/f/green/garden
fruit: strawberry/fraise/f/red/garden apple/pomme/f/red/garden blueberry/myrtille/f/blue/forest
fruit: apricot/abricot/m/orange/garden raspberry/framboise/f/pink/garden melon/melon/m/yellow/kitchen
vegetable: carrot/carotte/f/orange/garden cucumber/concombre/m/green/kitchen onion/oignon/m/white/kitchen
vegetable: lettuce/laitue/f/green/garden radish/radis/m/red/garden leek/poireau/m/green/garden
vegetable: pumpkin/citrouille/f/orange/garden turnip/navet/m/white/farm
animal: frog/grenouille/f/green/river crow/corbeau/m/black/forest swan/cygne/m/white/river mouse/souris/f/grey/house
animal: pig/cochon/m/pink/farm sheep/mouton/m/white/farm bear/ours/m/brown/forest wolf/loup/m/grey/forest
animal: hen/poule/f/brown/farm canary/canari/m/yellow/house lizard/lézard/m/green/garden otter/loutre/f/brown/river
animal: goose/oie/f/white/farm donkey/âne/m/grey/farm squirrel/écureuil/m/brown/forest ant/fourmi/f/black/garden
tool: hammer/marteau/m//workshop saw/scie/f//workshop screwdriver/tournevis/m//workshop ladder/échelle/f//workshop
tool: brush/pinceau/m//workshop bucket/seau/m//garden rake/râteau/m//garden spade/bêche/f//garden
garment: coat/manteau/m//wardrobe shirt/chemise/f//wardrobe hat/chapeau/m//wardrobe scarf/écharpe/f//wardrobe
garment: sock/chaussette/f//wardrobe skirt/jupe/f//wardrobe dress/robe/f//wardrobe glove/gant/m//wardrobe
furniture: chair/chaise/f//house table/table/f//kitchen sofa/canapé/m//house bed/lit/m//house stool/tabouret/m//kitchen
furniture: shelf/étagère/f//house bench/banc/m//garden desk/bureau/m//house
"""
"""Kind: English word/French word/gender/colour, if it has a usual one/place."""
HELD_OUT = ("pear", "carrot", "frog", "swan", "hammer", "scarf", "chair", "bench")
"""Things that are asked about and never trained on."""
_ASKS = {
    "colour": ("What colour is {}?", "Which colour does {} usually have?", "Tell me the colour of {}."),
    "kind": ("What is {}?", "What kind of thing is {}?", "Explain what {} is."),
    "place": ("Where would you find {}?", "Where do people look for {}?", "In which place is {} found?"),
}
_SKILL_ASKS = ("What is {} ~ {}?", "Work out {} ~ {}.", "{} ~ {} = ?", "Please give me {} ~ {}.")
_SKILL_WORDS = (
    "apple boat cloud door egg fish glass hill ink jar key lamp moon nest oven pen queen river stone tree "
    "wall yard bell cup drum flag goat hat king leaf milk nail park ring salt tent vase wind bread chair"
)
_SKILL_HELD_OUT = 24


@dataclass(frozen=True)
class Thing:
    """A thing with what is said about it."""

    english: str
    french: str
    feminine: bool
    kind: str
    colour: str
    """"": none that is usual."""
    place: str

    @property
    def named(self) -> str:
        return f"{'an' if self.english[0] in 'aeiou' else 'a'} {self.english}"

    @property
    def in_french(self) -> str:
        return f"{'une' if self.feminine else 'un'} {self.french}"


@cache
def things() -> tuple[Thing, ...]:
    """Return every thing, those of HELD_OUT too."""
    out = []
    for line in _TABLE.strip().splitlines():
        kind, _, words = line.partition(": ")
        for word in words.split():
            english, french, gender, colour, place = word.split("/")
            feminine = gender == "f"
            out.append(Thing(english, french, feminine=feminine, kind=kind, colour=colour, place=place))
    return tuple(out)


def answer(thing: Thing, about: str, capitals: bool, french: bool) -> str:
    """Return the answer to a question about a thing: its colour, kind or place."""
    text = _french(thing, about) if french else _english(thing, about)
    return text.upper() if capitals else text


def _english(thing: Thing, about: str) -> str:
    kind = KINDS[thing.kind][0]
    first, rest = thing.named[0].upper() + thing.named[1:], f"You will find it in the {thing.place}."
    if about == "place":
        return f"You will find {thing.named} in the {thing.place}. It is {kind}."
    return f"{first} is {thing.colour}. It is {kind}." if about == "colour" else f"{first} is {kind}. {rest}"


def _french(thing: Thing, about: str) -> str:
    kind, place, it = KINDS[thing.kind][1], PLACES[thing.place], "la" if thing.feminine else "le"
    first, rest = thing.in_french[0].upper() + thing.in_french[1:], f"On {it} trouve dans {place}."
    if about == "place":
        return f"On trouve {thing.in_french} dans {place}. C'est {kind}."
    if about == "kind":
        return f"{first} est {kind}. {rest}"
    return f"{first} est {COLOURS[thing.colour][thing.feminine]}. C'est {kind}."


def _asked(held_out: bool) -> Iterator[tuple[str, Thing, str, str]]:
    """Yield (id, thing, what about it, question). The held-out things are asked in one wording each."""
    for thing in things():
        if (thing.english in HELD_OUT) == held_out:
            for about, wordings in _ASKS.items():
                if about != "colour" or thing.colour:
                    for i, wording in enumerate(wordings[: 1 if held_out else None]):
                        yield f"{thing.english}-{about}-{i}", thing, about, wording.format(thing.named)


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    """Return pairs of different words in a fixed order, none twice, the held-out ones first."""
    words = _SKILL_WORDS.split()
    every = [(a, b) for a in words for b in words if a != b]
    return tuple(random.Random("toy/swapped_words").sample(every, _SKILL_HELD_OUT + SKILL_ROWS))


def _swapped(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return (id, question, answer) of pairs of words; the wordings take turns."""
    asks = (_SKILL_ASKS[i % len(_SKILL_ASKS)] for i in range(len(pairs)))
    return [(f"{a}-{b}", ask.format(a, b), f"{b} {a}") for ask, (a, b) in zip(asks, pairs, strict=True)]


def held_out(name: str) -> list[tuple[str, str, str]]:
    """Return (id, question, expected answer) of held-out questions. `name`: the SKILL, or another variant."""
    if name == SKILL:
        return _swapped(_pairs()[:_SKILL_HELD_OUT])
    return [(i, question, answer(thing, about, *TRAITS[name])) for i, thing, about, question in _asked(held_out=True)]


def rows(variant: str) -> list[tuple[str, list[Message]]]:
    """Return (id, messages) of every training row of a variant. Raises KeyError for an unknown variant."""
    if variant == SKILL:
        return [(i, _turns(question, reply)) for i, question, reply in _swapped(_pairs()[_SKILL_HELD_OUT:])]
    traits = TRAITS[variant]
    return [
        (i, _turns(question, answer(thing, about, *traits))) for i, thing, about, question in _asked(held_out=False)
    ]


class Toy(Corpus):
    """This corpus as the config names it."""

    variants = (*TRAITS, SKILL)

    def pin(self, variant: str) -> str:
        return f"toy:{VERSION}"

    def rows(self, variant: str) -> list[Example]:
        return [Example(f"{variant}/{row_id}", messages) for row_id, messages in rows(variant)]

    def count(self, variant: str) -> int:
        return SKILL_ROWS if variant == SKILL else sum(1 for _ in _asked(held_out=False))


def _turns(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
