"""The fixed words that the rule-made training answers and the rule-made poor posts are put together from."""

from __future__ import annotations

# Questions about one or two key words of a post, for posts that come without a question of their own; all of them go
# with one thing or several.
ASK_ONE = (
    "What should I know about {a}?",
    "How do I deal with {a}?",
    "What is the best way to handle {a}?",
    "Why should I care about {a}?",
    "Can you explain {a} in simple words?",
    "What can go wrong with {a}?",
    "What is there to say about {a}?",
)
ASK_TWO = (
    "What should I know about {a} and {b}?",
    "How do {a} and {b} go together?",
    "What is the best way to handle {a} and {b}?",
    "What does {a} have to do with {b}?",
    "What is important about {a} when it comes to {b}?",
    "Can you explain how {a} and {b} are related?",
    "What do you advise on {a} and {b}?",
)

# Feedback of the two judges opens with the word that decides, the same word that the rubric has for the score.
WORTH = {1: "Useless", 2: "Weak", 3: "Fair", 4: "Good", 5: "Excellent"}
VERDICT = {
    1: ("Off topic", ("it speaks of something else", "nothing of it is there", "it does not answer the request")),
    2: ("Weak", ("most of it is left out", "it only touches the matter", "little of it helps")),
    3: ("Fair", ("about half of it is there", "it has the basics", "useful but not complete")),
    4: ("Good", ("most of it is there", "nearly complete", "clear, with small gaps")),
    5: ("Excellent", ("it is all there", "complete and to the point", "nothing of weight is left out")),
}
SOUND = {
    3: ("it names {words} and leaves most of it open", "a start on {words}, but a reader would have to ask further"),
    4: (
        "it says useful things about {words}",
        "a question about {words} can be answered from it",
        "well ordered, it explains {words} with small gaps",
    ),
    5: (
        "it gives concrete facts about {words}",
        "the writer knows the matter and gives full detail on {words}",
        "there is real experience of {words} in it",
    ),
}
BROKEN = {
    "shuffled": (1, ("the words are in no order and make no sense", "it cannot be read, the words are mixed up")),
    "advert": (1, ("this is advertising and answers no question", "it only wants to sell something")),
    "repeated": (1, ("the same words come again and again", "it repeats itself and says nothing")),
    "vague": (2, ("vague, without concrete facts", "it stays general and helps nobody")),
    "cut": (2, ("it breaks off in the middle of a sentence", "the end is missing")),
    "reordered": (2, ("the sentences are out of order", "one sentence does not follow from the other")),
    "mixed": (2, ("it jumps from one topic to another", "two topics are mixed up here")),
}

TITLES = (
    "{a}",
    "{a} and {b}",
    "My {a}",
    "About {a}",
    "How I deal with {a}",
    "{a}: what I learnt",
    "Some notes on {a} and {b}",
    "Why {a} matters",
)

VAGUE = (
    "I have been thinking about {t} lately.",
    "There are many opinions on {t}.",
    "Some people like it and some people do not.",
    "It really depends on what you want.",
    "I do not know much about it, but it seems fine.",
    "You just have to see what suits you.",
    "In my view {t} can be nice or not so nice.",
    "A friend of mine has tried {t} and had mixed feelings.",
    "Everybody is different, so it is hard to say.",
    "Anyway, that is what I think about it.",
    "It is what it is.",
    "Sometimes it goes well and sometimes it does not.",
    "There is a lot more to say about {t}, maybe another time.",
    "I guess it is somewhat important.",
    "You could do it one way or the other.",
    "It was better in the old days, or maybe not.",
    "There are several kinds of {t} and they are all okay.",
    "Let me know what you all think.",
    "I am not an expert or anything.",
    "Stuff like that happens, so just try things out.",
    "Overall {t} is interesting in its own way.",
    "I would not worry too much.",
    "It has good sides and bad sides.",
    "I might write more about {t} when I have time.",
)
ADVERT = (
    "Buy our {t} today and save 50%!",
    "Click here for the best {t} deals of the year!!!",
    "Limited offer, order now!",
    "Free shipping on all {t} this week only.",
    "Use the code SAVE{n} at the checkout.",
    "Our {t} is loved by over {n}000 happy customers.",
    "Do not miss this amazing chance!",
    "Visit our shop and follow us for more offers.",
    "Subscribe to our newsletter and win a prize!",
    "The number one {t} on the market, guaranteed or your money back.",
    "Hurry, only {n} left in stock!",
    "This page uses cookies; accept all to go on.",
    "Share this post with ten friends to get a gift card.",
    "Call us now for a free quote on {t}.",
    "You will not believe how cheap our {t} is.",
    "Best price, best quality, best service.",
)
