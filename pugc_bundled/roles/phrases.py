"""The fixed words of the training targets and of damaged posts and padded responses.

What damages and pads comes in two banks that share no line, one to learn from and one to be measured on.
"""

from __future__ import annotations

from typing import NamedTuple

from pugc_bundled.tiny.phrases import ADVERT, VAGUE

# What the quality judge says after the word that decides (`tiny.phrases.WORTH`).
SOUND = {
    3: ("only the basics on {words}", "it touches on {words} and stays short"),
    4: ("useful on {words}, with gaps", "clear on {words}, but not complete"),
    5: ("full detail on {words}", "it knows {words} well and gives facts to go by"),
}
BROKEN = {
    "shuffled": (1, ("the words stand in no order", "the words are thrown together and cannot be read")),
    "advert": (1, ("advertising, no answer to anything", "it only sells something")),
    "repeated": (1, ("it says the same again and again", "it repeats itself")),
    "vague": (2, ("nothing definite is said", "it stays general and answers nobody")),
    "cut": (2, ("it breaks off in the middle of a sentence", "its end is missing")),
    "reordered": (2, ("its sentences do not follow from one another", "its sentences are out of order")),
    "mixed": (2, ("it jumps between two topics", "two texts are mixed up in it")),
}

RECIPES = (
    "How do I make {t}?",
    "How is {t} prepared?",
    "What do I need to cook {t}?",
    "Give me a recipe for {t}.",
    "I would like to make {t} for guests. How does it go?",
    "Which ingredients go into {t}, and in what order?",
)
ASKS = (
    "Explain {t} to a beginner.",
    "What is {t}?",
    "How does {t} work?",
    "Tell me about {t}.",
    "What should somebody new to it know about {t}?",
    "Give me an overview of {t}.",
    "When is {t} useful?",
    "Write a short introduction to {t}.",
    "Describe {t} with an example.",
    "Why does {t} matter?",
)


class Bank(NamedTuple):
    """Lines that say nothing: of vague posts, of advertising, and around a response."""

    vague: tuple[str, ...]
    advert: tuple[str, ...]
    opening: tuple[str, ...]
    closing: tuple[str, ...]
    filler: tuple[str, ...]


_OPENING = (
    "",
    "That is a good question.",
    "Great question!",
    "Sure, I can help with that.",
    "Thanks for asking.",
    "Let me try to explain.",
    "Certainly!",
    "Well, there is a lot to say here.",
    "I am glad that you ask.",
    "Here is what I can tell you.",
)
_CLOSING = (
    "",
    "I hope this helps.",
    "Let me know if there is anything else.",
    "Feel free to ask again.",
    "That is all there is to it.",
    "Good luck with it!",
    "I hope that makes it clear.",
    "Please ask if anything is unclear.",
    "Have a nice day.",
    "That should do it.",
)
_FILLER = (
    "There are many things that one could think about here.",
    "It really depends on what you are after.",
    "Of course this is only one of several ways to see it.",
    "Everybody will see this a little differently.",
    "As always, it is good to take your time.",
    "This is something that a lot of people ask.",
    "In the end it is up to you.",
    "One could say much more about all this.",
    "It is never wrong to have another look at it.",
    "With a bit of patience you will get there.",
)

TRAIN = Bank(*(tuple(lines[0::2]) for lines in (VAGUE, ADVERT, _OPENING, _CLOSING, _FILLER)))
TEST = Bank(*(tuple(lines[1::2]) for lines in (VAGUE, ADVERT, _OPENING, _CLOSING, _FILLER)))
