"""English words of numbers, and those that say what a number beside them may be. Tables, no code."""

from __future__ import annotations

from fractions import Fraction


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
CARDINALS = {word: value for value, word in enumerate(SMALL)}
CARDINALS |= {word: 10 * tens for tens, word in enumerate(TENS, start=2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
BELOW = {"half": 2, "halves": 2, "halved": 2, "quarter": 4, "quarters": 4}
BELOW |= {word + s: value for value, word in enumerate(ORDINALS[2:], start=3) for s in ("", "s")}
"""Parts: what stands below the line of their fraction."""
VULGAR = {"½": (1, 2), "¼": (1, 4), "¾": (3, 4), "⅓": (1, 3), "⅔": (2, 3)}
MULTIPLES = dict.fromkeys(("twice", "double", "doubled", "doubles", "doubling"), 2)
MULTIPLES |= dict.fromkeys(("thrice", "triple", "tripled", "triples", "tripling"), 3)
MULTIPLES |= dict.fromkeys(("quadruple", "quadrupled", "quadruples"), 4) | dict.fromkeys(("dozen", "dozens"), 12)

UNITS = _words("m km cm mm kg mg g lb lbs oz ft in mph ml l hr hrs min mins s x k")
"""What may be written behind a number without a space, and changes nothing of what it is."""
MONEY = _words("dollar dollars cents euros pounds bucks pesos yen")
NAMING = _words(
    """
    grade grades chapter page pages room number no level route highway bus channel day week month year question problem
    floor size top section part volume season episode version round lap stage step team group class flight area exit
    apartment unit lot type model since age aged times # base power
    """
)
"""Before a number that names something instead of counting it: page 40, grade 5."""
DEFINITE = _words("the all both these those")
REST = _words("other others remaining")
ADJECTIVES = _words("front back dollar cent different equal identical distinct separate main other")
DECIDED = _words(
    """
    leg legs legged wheel wheels wheeled wheeler wheelers eye eyes eyed ear ears arm arms hand hands finger fingers
    toe toes wing wings side sides sided corner corners edges angles faces hooves paws horn horns string strings door
    doors bill bills note notes coin coins quarter quarters halves innings semester semesters trimesters seasons
    continents planets suits story stories storey storeys star dimensional speed digit digits letter letters vowels
    different kind kinds type types sort sorts varieties flavor flavors flavour flavours color colors colours ply
    zones way ways by out consecutive
    """
)
"""After a number that the thing itself decides: the legs of a dog, the sides of a square, a five-dollar bill."""
CASH = _words("bill bills note notes coin coins")
MOST = {
    **dict.fromkeys(("day", "days"), 30),
    **dict.fromkeys(("hour", "hours", "hr", "hrs"), 20),
    **dict.fromkeys(("minute", "minutes", "second", "seconds", "min", "mins"), 59),
    **dict.fromkeys(("month", "months"), 11),
    **dict.fromkeys(("week", "weeks"), 50),
    **dict.fromkeys(("kids", "children", "siblings", "sons", "daughters", "brothers", "sisters"), 9),
    "cents": 99,
}
"""Of these there are no more, where the number itself keeps to it."""
RATES = _words("a per each every of in this")
MOST_EACH = {
    "week": {"day": 6, "days": 6, "nights": 6, "times": 6, "time": 6, "hours": 99, "hour": 99},
    "day": {"hours": 12, "hour": 12, "times": 6, "meals": 6},
}
"""The same of days a week, of hours a day."""
NARROW = _words(
    """
    old age ages aged older younger birthday tall taller height weigh weighs weight degrees temperature mph speed
    calories
    """
)
"""Where these are spoken of, numbers stay within a third of what they were."""
SCHOOL = _words("test tests exam exams quiz quizzes grade grades score scores scored")
"""Where these are, numbers up to a hundred stay up to a hundred."""

IMPLIED: dict[str, tuple[int | Fraction, ...]] = {}
"""What a calculation may know from a word: the days of a week, the cents of a dollar."""
for _spoken, _values in {
    "pair pairs couple couples both twins twin either parents biweekly roundtrip halfway again opposite": (2,),
    "weekend weekends": (2,),
    "weekday weekdays workday workdays workweek weekly": (5, 7, 52),
    "week weeks": (7, 5, 52, 4),
    "month months monthly": (12, 30, 31, 28, 4),
    "year years yearly annual annually birthday": (12, 52, 365, 366),
    "day days daily everyday": (24, 7, 365, 30),
    "hour hours hourly hr hrs": (60, 24, 3600),
    "minute minutes second seconds min mins": (60,),
    "decade decades": (10,),
    "century centuries": (100,),
    "foot feet ft": (12, 3, 5280),
    "inch inches": (12, 36),
    "yard yards": (3, 36),
    "mile miles": (5280, 1760),
    "pound pounds lb lbs": (16, 2000),
    "ounce ounces oz": (16, 128, 8),
    "ton tons": (2000, 1000),
    "gallon gallons": (4, 16, 128, 8),
    "quart quarts": (4, 2, 32),
    "pint pints": (2, 16, 8),
    "cup cups": (16, 2, 4, 8),
    "tablespoon tablespoons teaspoon teaspoons": (3, 16),
    "kilogram kilograms kilo kilos kg km kilometer kilometers kilometre kilometres gram grams g": (1000,),
    "liter liters litre litres l ml milliliter milliliters": (1000,),
    "meter meters metre metres m cm centimeter centimeters mm millimeters": (100, 1000, 10),
    "percent percentage": (100,),
    "average mean": (2, 3, 4, 5, 6, 7, 8, 9, 10),
    "perimeter rectangle rectangular fence border": (2, 4),
    "square squares": (4, 2),
    "triangle triangular": (3, 2),
    "cube cubes cubic": (3, 6, 12, 8),
    "penny pennies cent cents change": (100, Fraction(1, 100)),
    "nickel nickels": (5, Fraction(1, 20)),
    "dime dimes": (10, Fraction(1, 10)),
    "quarter quarters": (25, Fraction(1, 4), 4, 15, 45),
    "half": (30, 6),
    "legs feet paws hooves wheels eyes tires bicycle bicycles bike bikes tricycle tricycles car cars": (2, 3, 4, 6, 8),
    "dog dogs cat cats chicken chickens horse horses cow cows goat goats spider spiders insects": (2, 4, 6, 8),
    "dice die pack packs": (6,),
    "deck": (52,),
    "fortnight fortnightly": (14, 2),
    "quarterly seasons": (4,),
    "alphabet": (26,),
}.items():
    IMPLIED |= dict.fromkeys(_spoken.split(), _values)
