"""Rules for the blanks that a de-identifier left (`___`), after every other rule has run."""

from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule, words

_BLANK: Final = frozenset(("___",))

RESIDUE: Final = (
    Rule(
        "residue.angle",
        Category.RESIDUE,
        r"\b(?P<word>costophrenic|cardiophrenic) ___s?(?= (?P<verb>is|are)\b|)",
        _BLANK,
        ("Blunting of the left costophrenic ___.", "Blunting of the left costophrenic angle."),
        "Blunting of the left costophrenic sulcus.",
        replacement=lambda m: (
            f"{m.group('word')} {'angles' if m.group('verb') == 'are' else 'angle'}"
        ),
        also=(words("costophrenic cardiophrenic"),),
    ),
    Rule(
        "residue.x-ray",
        Category.RESIDUE,
        r"\bx-___\b",
        _BLANK,
        ("Negative chest x-___.", "Negative chest x-ray."),
        "Negative chest x-ray.",
        replacement="x-ray",
        also=(words("x"),),
    ),
    Rule(
        "residue.no-blank-of",
        Category.RESIDUE,
        r"\b(?P<no>no|without) ___ (?:of|for) (?:the |an? |any )?",
        _BLANK,
        ("No ___ of active disease.", "No active disease."),
        "No evidence of active disease.",
        replacement=lambda m: f"{m.group('no')} ",
        also=(words("no without"),),
    ),
    Rule(
        "residue.measure",
        Category.RESIDUE,
        r",? ?\(?(?:(?:which |it |and )?(?:measures?|measuring|measured)(?: (?:approximately|"
        r"about|up to|roughly))?|"
        r"(?:approximately|about|roughly|up to)) ___(?: ?(?:x|by) ?(?:___|[\d.]+))*(?: ?(?:mm|"
        r"cm|centimeters?|millimeters?)\b)?\)?"
        r"(?: in (?:diameter|size|length))?",
        _BLANK,
        ("Right hilar mass measuring approximately ___ cm.", "Right hilar mass."),
        "Right hilar mass measuring 4 cm.",
        also=(words("measures measure measuring measured approximately about up roughly"),),
    ),
    Rule(
        "residue.number",
        Category.RESIDUE,
        r"\b___ ?-?(?:mm|cm|centimeters?|millimeters?)\b(?: (?:above|below|from|proximal to|"
        r"distal to) the \w+)?",
        _BLANK,
        ("Tip ___ cm above the carina.", "Tip."),
        "Tip 4 cm above the carina.",
        also=(words("mm cm centimeter centimeters millimeter millimeters"),),
    ),
    Rule(
        "residue.date",
        Category.RESIDUE,
        r",? ?\(?\b(?:(?:on|from|dated|since|of|at|in|by|until|as of|to|with|and|per|for|than|"
        r"during|through|versus|or|about|over|near|"
        r"around|between|within|into|the|a|an|this|that|his|her|both) )+___s?(?: at "
        r"___)?\)?(?=[,.;:)]|$)",
        _BLANK,
        ("Opacity in the left lung base on ___.", "Opacity in the left lung base."),
        "Opacity on the left.",
    ),
    Rule(
        "residue.no-subject",
        Category.RESIDUE,
        r"^(?:(?:the|a|an|there|is|are|and|or|of|in|visualized|this|these|both|left|right|no) "
        r")*___s?(?: (?:and|or|of|in|the|,))*"
        r"(?: (?:is|are|was|were|has|have|appears?|measures?|of|in|shows?|seen|___|"
        r"approximately|cm|mm|present|noted|normal|intact|"
        r"unremarkable|identified|grossly|and|the|or|it|to|for))*[.,;]?$",
        _BLANK,
        ("The ___ are ___.", ""),
        "The lungs are clear.",
        Action.REMOVE,
    ),
    Rule(
        "residue.no-predicate",
        Category.RESIDUE,
        r"\b(?:is|are|was|were|appears?|seen|be|remains?|measures?|to) (?:\w+ly )?___s?[.;,]?$",
        _BLANK,
        ("The aorta is ___.", ""),
        "The aorta is tortuous.",
        Action.REMOVE,
    ),
    Rule(
        "residue.list-item",
        Category.RESIDUE,
        r"(?<=,) ?(?:the )?___s?,| and ___s?(?= (?:is|are|have|has)\b)|(?<=, )___s? (?=and\b)",
        _BLANK,
        ("The heart, ___, and lungs are normal.", "The heart, and lungs are normal."),
        "The heart, hila, and lungs are normal.",
    ),
    Rule(
        "residue.word",
        Category.RESIDUE,
        r" ?[-/'(]?___(?:'s|s)?[-/')]? ?",
        _BLANK,
        ("The ___ lungs are clear.", "The lungs are clear."),
        "The lungs are clear.",
    ),
)
