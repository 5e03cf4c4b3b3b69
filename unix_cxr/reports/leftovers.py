"""What a cleaned report should no longer hold, by word list, and the contexts that are exempt.

The list is published so that others can hold their own cleaning against it. It is looked up in the
cleaned text and knows nothing of the rules; the exempt contexts are those in which a word names a
finding of this image and no earlier one.
"""

import re
from collections.abc import Mapping
from typing import Final

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "prior": (
        "prior", "previous", "previously", "priors", "earlier", "compared", "comparison",
        "comparisons", "since", "last exam", "last study", "again", "redemonstrated",
        "redemonstration", "re-demonstrated", "preceding", "yesterday",
    ),
    "change": (
        "unchanged", "stable", "interval", "new", "newly", "increased", "increasing", "increase",
        "decreased", "decreasing", "decrease", "improved", "improving", "improvement", "worsened",
        "worsening", "worse", "persistent", "persists", "persist", "resolved", "resolving",
        "resolution", "progressed", "progression", "change", "changes", "changed", "remains",
        "remain", "no longer", "continued", "continues", "enlarging", "developed",
    ),
    "communication": (
        "discussed", "notified", "communicated", "telephone", "telephoned", "paged", "dr", "phone",
        "physician", "called", "conveyed", "informed", "dictated", "electronically",
    ),
    "placeholder": ("___", "xxxx", "[**", "<date>", "<unk>", "[date]"),
}  # fmt: skip
"""Kind of leftover -> words that count as one."""

EXEMPT: Final[Mapping[str, tuple[str, ...]]] = {
    "surgery or disease of the past": (
        r"\b(?:prior|previous|previously)(?: \S+){0,4}? (?:cabg|bypass|sternotom\w+|surger\w+|"
        r"surgical|"
        r"operation|lobectomy|pneumonectomy|mastectomy|thoracotomy|resection|cholecystectomy|"
        r"granulomatous|histoplasmosis|granuloma\w*|tuberculosis|tb|infection|inflammation|trauma|"
        r"fractures?|valve|replacement|radiation|vertebroplasty|kyphoplasty|fusion|arthroplasty|"
        r"chest tube|injury|transplant|repair|laminectomy|healed|wires?|clips|exposure|biopsy|"
        r"insult|aspiration|asbestos|infarct\w*|intervention|procedure|hardware|trauma\w*|rib|"
        r"gunshot|lumpectomy|shot)\b",
    ),
    "a look that is no change over time": (
        r"\b(?:increased?|decreased?)(?: \S+){0,4}? (?:markings?|densit\w+|luc\w+|vascularity|"
        r"volumes?|diameter|kyphosis|kyphotic|tortuosity|cuffing|attenuation|mineralization|translucency|interstiti\w+|"
        r"opacit\w+|"
        r"prominence|inspiration|aeration|space|bronchovascular|reticul\w+|radiolucency|thickness|"
        r"caliber|size|convexity|vasculature|height|inflation|lordosis|distance|expansion|airspace|"
        r"intensity|fullness|focus|sclerotic|perfusion|attenuat\w+|pulmonary)\b",
        r"\b(?:markings?|vascularity|vasculature|volumes?|density|diameter|lucency|"
        r"mineralization|size|"
        r"interstitium|kyphosis|translucency|trachea|lungs?|caliber|space|densities)(?: \S+){0,3}? "
        r"(?:increased|decreased)\b",
    ),
    "changes that are findings": (
        r"\b(?:degenerative|degeneration|chronic|emphysematous|fibrotic|fibrosis|arthritic|"
        r"postoperative|"
        r"postsurgical|post-surgical|post-operative|surgical|bony|cystic|bullous|interstitial|"
        r"copd|age-related|"
        r"osteoarthritic|atherosclerotic|granulomatous|inflammatory|endplate|skeletal|spondylitic|"
        r"spondylotic|hypertrophic|scoliotic|congestive|scarring|scar|osteophytic|radiation|"
        r"bronchitic|obstructive|arthropathic|reactive|calcific|senescent|atelectatic|disc|spine|"
        r"posttraumatic|post-traumatic|structural|vascular|sclerotic|proliferative|erosive|wedge|"
        r"parenchymal|spondylosis|osseous|airway|arthritis|airways|lung|pulmonary|pleural|apical|"
        r"bronchiectatic|fatty|disk|degenerate|productive|postop|thoracotomy|ver\w*plasty|"
        r"reticulonodular|bibasilar|basilar|infectious|infiltrative)(?:\S*)"
        r"(?: (?:and|or) \S+)? changes?\b",
        r"\bchanges (?:of|related|consistent|compatible|from|in the|are|involving|throughout|seen|"
        r"suggest\w*|at|within|noted|present|secondary|due|along|about|and|to)\b",
    ),
    "one side against the other": (
        r"\b(?:worse|increased|improved)(?: \S+)? (?:on|at|in|within|along|than|toward|involving) "
        r"(?:the )?(?:left|right|bases?|lower|upper|mid\w*|lung|apex|apices|perihilar|basilar|"
        r"both)\b",
    ),
    "names": (
        r"\btumor progression\b",
        r"\bcalled (?:a|an|the)\b", r"\bnew (?:bone|or old)\b", r"\bor new\b",
        r"\bpersistent left (?:svc|superior)\b",
        r"\bcompared (?:to|with) (?:the )?(?:left|right|contralateral)\b",
        r"\binterval (?:between|spacing)\b", r"\bstable-appearing\b", r"\bincreased since\b(?!.)",
        r"\bhemodynamically stable\b",
    ),
}  # fmt: skip
"""Why a listed word is allowed -> expressions that cover it."""

_FINDERS: Final = {
    kind: re.compile(
        "|".join(
            rf"(?<!\w){re.escape(word)}(?!\w)" if word[0].isalpha() else re.escape(word)
            for word in sorted(words, key=len, reverse=True)
        ),
        re.IGNORECASE,
    )
    for kind, words in WORDS.items()
}
_EXEMPT: Final = tuple(
    re.compile(pattern, re.IGNORECASE) for patterns in EXEMPT.values() for pattern in patterns
)


def leftovers(text: str) -> dict[str, list[str]]:
    """Kind -> the listed words that `text` still holds outside the exempt contexts.

    >>> leftovers("Status post prior CABG. Stable effusion compared to ___.")
    {'prior': ['compared'], 'change': ['Stable'], 'placeholder': ['___']}
    """
    for pattern in _EXEMPT:
        text = pattern.sub(" ", text)
    found = {kind: finder.findall(text) for kind, finder in _FINDERS.items()}
    return {kind: words for kind, words in found.items() if words}
