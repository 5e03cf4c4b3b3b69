"""Pieces of expressions that several rules share."""

from typing import Final

DATE: Final = r"(?:___|yesterday|today|the same day|same day|earlier today)"
DATE_WORDS: Final = frozenset(("___", "yesterday", "today", "same"))

STUDY: Final = (
    r"(?:(?:(?:bedside|chest|portable|frontal|lateral|ap|pa|and|plain|radiographic|single|view|ct|"
    r"thoracic|scout|two)[ -])*(?:stud(?:y|ies)|exam(?:s|ination|inations)?|radiographs?|"
    r"radiography|films?|images?|imaging|x-?rays?|x-___|ct(?: scan)?s?|scans?|views?|reports?|"
    r"cxr|comparison))"
)
EARLIER: Final = (
    r"(?:(?:most|immediate|immediately|several|multiple|more|many|two|available|outside|recent|her|"
    r"his|the|a|an|any|all|same|___) )*"
    r"(?:prior|previous|earlier|preceding|last|recent|past|older|old|comparison|initial|baseline|"
    r"outside|yesterday's|today's|yesterday|priors|previously|before)\b"
)
WHEN: Final = (
    r"(?: ?,? ?(?:of|from|dated|on|performed|obtained|done|taken|at|in|and|earlier|to|date)? "
    rf"?{DATE}"
    r"(?: at ___)?)*"
)
THE_PRIOR: Final = (
    rf"(?:(?:the |a |an |any )?{EARLIER}(?: (?:the )?{STUDY})?{WHEN}"
    rf"|(?:the |a )?{STUDY}{WHEN}|(?:that|those) of {DATE}|___(?: {STUDY})?{WHEN})"
)
"""An earlier examination, with or without its date."""

DEGREE: Final = (
    r"(?:(?:very|slightly?|mildly?|moderately?|markedly?|minimally?|minimal|substantially?|"
    r"significantly?|somewhat|further|interval|interval |much|considerably?|definite(?:ly)?|"
    r"overall|probabl[ey]|possibl[ey]|mild|moderate|marked|significant|substantial|small|dramatic|"
    r"modest|large|subtle|apparent|gradual|essentially|grossly|relatively|slowly|rapidly|now|"
    r"perhaps|progressive|progressively|continued|also|otherwise|appreciable|relevant|gradually|"
    r"generally|unchanged|visible|notable|noticeable|partial(?:ly)?|large|only|both|again|"
    r"still|well|at least|likely|appears?|appear to be|if anything|in general|in the interval|"
    r"interim|overall|net|generalized|minor|great(?:ly)?|no) )*"
)
"""Words that say how much something changed."""

CHANGE_NOUN: Final = (
    r"(?:increase|decrease|improvement|worsening|progression|reduction|growth|decline|"
    r"regression|deterioration|exacerbation|re-?accumulation)"
)
CHANGED: Final = (
    r"(?:increased|decreased|improved|worsened|progressed|enlarged|grown|diminished|"
    r"deteriorated|regressed|evolved|changed|recurred|lessened|reaccumulated|"
    r"shrunk|reduced|risen|fallen|dropped|advanced)"
)
SIZE_OF: Final = (
    r"(?:(?:the |its |their |overall )?(?:size|extent|degree|amount|severity|volume|appearance|"
    r"position|number|conspicuity|configuration|prominence|distribution|thickness|location|"
    r"positioning|course|caliber|density|magnitude|placement|quantity|radiographic appearance|"
    r"intensity|morphology)(?:(?:,| and| or) (?:the )?(?:size|extent|degree|severity|position|"
    r"appearance|number|density|distribution|configuration|conspicuity))*)"
)
STEADY: Final = r"(?:unchanged|stable|constant|the same|similar|unaltered|static)"

FINDING_NOUN: Final = (
    r"(?:effusions?|pneumothora(?:x|ces)|hydropneumothora(?:x|ces)|edema|atelectas[ie]s|"
    r"opacit(?:y|ies)|opacifications?|consolidations?|infiltrates?|congestion|cardiomegaly|"
    r"nodul(?:e|es|ar)|mass(?:es)?|collapse|pneumonia|engorgement|airspace|air-space|emphysema|"
    r"disease|pneumomediastinum|hemorrhage|fluid|elevation|abnormalit(?:y|ies)|process|"
    r"enlargement|atelectatic|consolidative|lymphadenopathy|adenopathy|infiltrative|"
    r"pneumonic|haziness|fractures?|lesions?|thickening|infiltrations?|hernia|failure|scarring|"
    r"pneumoperitoneum|aspiration|calcifications?|hydrothorax|collections?|process(?:es)?)"
)
"""Findings that come and go, so that "increased" before them means a change and not a look."""
