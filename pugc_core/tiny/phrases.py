"""The fixed words that the rule-made training answers and the rule-made poor posts are put together from."""

from __future__ import annotations

# Questions about one or two key words of a post, for posts that come without a question of their own.
ASK_ONE = (
    "What should I know about {a}?",
    "How do I deal with {a}?",
    "What is the best way to handle {a}?",
    "Why does {a} matter?",
    "How does {a} work?",
    "Can you explain {a} in simple words?",
    "What can go wrong with {a}?",
)
ASK_TWO = (
    "What should I know about {a} and {b}?",
    "How do {a} and {b} go together?",
    "What is the best way to handle {a} and {b}?",
    "Why does {a} matter for {b}?",
    "How can I get {a} right when it comes to {b}?",
    "Can you explain how {a} and {b} are related?",
    "What do you advise on {a} and {b}?",
)

VERDICT = {
    1: (
        "It is off topic.",
        "It does not answer the request.",
        "Nothing useful is said.",
        "It speaks of something else.",
    ),
    2: ("A weak answer.", "It touches the topic only.", "Most of what is asked is left out.", "Little of it helps."),
    3: ("A fair answer.", "It has the basics.", "About half of it is there.", "It is useful but not complete."),
    4: ("A good answer.", "Most of it is there.", "It is nearly complete.", "Clear and mostly complete."),
    5: ("An excellent answer.", "It is all there.", "Complete and to the point.", "Nothing of weight is left out."),
}

GOOD = {
    3: (
        "Short: it names {words} and leaves most of it open.",
        "A start on {words}, but a reader would have to ask further.",
    ),
    4: (
        "The post is clear and says useful things about {words}.",
        "A clear post; a question about {words} can be answered from it.",
        "It is well ordered and explains {words}, with small gaps.",
    ),
    5: (
        "Detailed and clear: the post gives concrete facts about {words}.",
        "The writer knows the matter and gives full detail on {words}.",
        "An excellent post with real experience of {words}.",
    ),
}
BROKEN = {
    "shuffled": (1, ("The words are in no order and make no sense.", "This cannot be read; the words are mixed up.")),
    "advert": (1, ("This is advertising and answers no question.", "It only wants to sell something.")),
    "repeated": (1, ("The same words come again and again.", "It repeats itself and says nothing.")),
    "vague": (2, ("Vague: it gives no concrete facts.", "It stays general and helps nobody.")),
    "cut": (2, ("It breaks off in the middle of a sentence.", "The end is missing.")),
    "mixed": (2, ("It jumps from one topic to another.", "Two topics are mixed up here.")),
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
