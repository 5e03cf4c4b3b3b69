"""How a report denies, doubts or remembers a finding: the scopes of the rule labeler.

Each expression is matched against the words of one clause, joined by single spaces, before or
after the mention. The word lists are ours; NegEx (Chapman 2001) gave the idea of the two sides.
"""

import re
from typing import Final

from unix_cxr.reports.tokens import words

CLAUSE_ENDS: Final = words(
    "; . but however although though except aside apart besides otherwise which while whereas "
    "suggesting suggests suggestive likely reflecting representing indicating obscuring "
    "causing because"
)
"""Words at which a negation stops."""

_CHANGE = (
    r"(?:(?:significant|interval|appreciable|substantial|relevant|definite|large|major|overall|"
    r"other|further|gross|marked|real|obvious|certain|notable|great|evident|convincing|"
    r"visible|short|material|\w+ly) ){0,3}"
    r"(?:changed?|increased?|decreased?|improvement|improved|worsening|worsened|progression|"
    r"difference|differently)\b"
)

DENIED_BEFORE: Final = re.compile(
    rf"\b(?:no|without|neither|nor|never|lack of|lacks|absence of|absent|denies|"
    rf"negative for|free of|clear of|devoid of|cleared of|rather than|instead of)\b(?! {_CHANGE})"
    r"(?! (?:\w+ ){0,2}(?:comparisons?|priors)\b)"
    r"(?! longer\b)(?! way to\b)"
    rf"|\bnot\b(?! {_CHANGE})(?! (?:\w+ ){{0,2}}(?:exclude|excluding|excluded|ruled? out|"
    r"resolved|only|significantly|clear of)\b)"
    r"|(?<!partial )(?<!near )(?<!near complete )(?<!incomplete )(?<!almost complete )"
    r"(?<!partially )(?<!nearly )(?<!almost )\b(?:resolution of|resolved|clearing of)\b"
    r"|\b(?:excludes?|ruled? out)\b(?=.*\bno longer\b)|\bno longer\b|\bfailure to (?:see|show)\b"
)
"""Before the mention, in its clause: the finding is denied."""

DENIED_AFTER: Final = re.compile(
    r"^(?: \S+){0,7}? (?:(?:is|are|was|were|has|have)(?: been)? )?"
    r"(?:(?:not|no longer)(?: (?:definitely|clearly|definitively|currently|otherwise|"
    r"confidently|be|readily|been))?"
    r" (?:seen|identified|present|visuali[sz]ed|appreciated|evident|demonstrated|noted|detected|"
    r"observed|visible|apparent|suspected|suggested|enlarged|found|there)"
    r"|absent|excluded|ruled out|(?:(?:now|completely|entirely|fully|since|nearly as) )*"
    r"(?:resolved|disappeared)|unlikely|negative)\b(?! (?:on|in) (?:the |any |a )?(?:prior|"
    r"previous|earlier|comparison))(?<!ly resolved)(?<!almost resolved)"
    r"|^(?: \S+){0,12}? (?:has|have|is|are)(?: now| since)? (?:(?:completely|entirely|fully|"
    r"totally) resolved|cleared|(?:completely|entirely) cleared)\b"
)
"""After the mention, in its clause: the finding is denied."""

_NOT_CERTAIN_AFTER: Final = (
    r"(?:not|cannot|can not|can't)(?: \w+){0,3} (?:excluded?|ruled out)|not certain"
)

DOUBTED_BEFORE: Final = re.compile(
    r"\b(?:may|might|could|possible|possibly|question(?:able|ed)?|equivocal|versus|vs|"
    r"concern for|concerning for|suspicious for|suspicion (?:of|for)|worrisome for|suspected|"
    r"exclude|excluding|rule out|cannot rule out|not ruled out|perhaps|potential(?:ly)?|"
    r"differential|whether|if|consider|considered|can be seen with|(?<!most )suggest(?:s|ing|ive)?|"
    r"cannot be excluded|r / o|concerning|indeterminate for)\b"
)
"""Before the mention: the finding is uncertain."""

DOUBTED_AFTER: Final = re.compile(
    rf"^(?: \S+){{0,8}}? (?:{_NOT_CERTAIN_AFTER}|(?:is|are|remains?|also|would be)"
    r"(?: \w+){0,2} (?:possible|questioned|considered|a consideration|considerations?|suspected|"
    r"of concern|in the differential|a possibility)|suspected|versus|vs|questioned|"
    r"questionable(?! \w))\b"
)
"""After the mention: the finding is uncertain."""

REMEMBERED_BEFORE: Final = re.compile(
    r"(?:prior|previous|earlier) (?:\S+ )?(?:study|exam\w*|films?|radiographs?) "
    r"(?:showed|demonstrated|revealed|described|had)\b|^question\b|\b(?:history of|hx of|h / o|"
    r"known history|"
    r"prior history|evaluat(?:e|ion|ing) "
    r"(?:for|of)|"
    r"assess(?:ment)?(?: \w+)? for|rule out|r / o|recommend(?:ed|s)?|suggested to|follow up|"
    r"indication|reason for|clinical(?:ly)?|exclude|near(?:ly)?(?: complete)?(?:ly)? resol\w+|"
    r"(?:partial|almost complete|incomplete) (?:resolution|clearing)|almost (?:completely "
    r")?resolved|"
    r"(?:interval )?removal of(?=[^,]*$)|helpful|to (?:identify|evaluate|assess|exclude|confirm|"
    r"document|rule out)|correlation with|patient with(?=[^,]*$)|"
    r"(?:prior|previous|former)(?= (?:(?!(?:stud|exam|radiograph|film|imag|report|"
    r"comparison)\w*\b)[^ ,]+ ?){0,3}$)|"
    r"request(?:ed)?|looking for|screening for|treated for|symptoms of|signs and symptoms)\b"
)
"""Before the mention: it speaks of the past, of a wish or of a question, and states nothing."""

_LIKE_EARLIER: Final = "(?<!as )" + "".join(
    rf"(?<!as {word} )"
    for word in ("seen", "noted", "described", "demonstrated", "shown", "identified", "reported")
)
"""Not behind "as", "as seen", …: what is as it was on an earlier image is there now."""

REMEMBERED_AFTER: Final = re.compile(
    r"^(?: \S+){0,5}? (?:(?:has|have|had|was|were)(?: since| now)? (?:been |now )*removed|"
    r"(?:near(?:ly)?|almost|partially|mostly|largely)(?: completely| entirely)? (?:resolved|"
    r"cleared)|"
    r"removed|removal|protocol|not (?:as )?well (?:seen|visuali[sz]ed|demonstrated|"
    rf"appreciated)(?! on (?:the )?(?:prior|previous))|{_LIKE_EARLIER}on (?:the )?"
    r"(?:prior|previous)|(?<!as )seen (?:previously|before))\b"
)
"""After the mention: what it names is gone or belongs to another examination."""

STILL_PRESENT: Final = frozenset(["prior", "previous", "previously", "former"])
"""Words of the past that leave these labels standing: an old fracture is a fracture."""

LASTING: Final = frozenset(("Fracture", "Support Devices", "Pleural Other"))

DENIAL_WORDS: Final = words(
    "no without neither nor never lack lacks absence absent denies negative free clear devoid "
    "cleared rather instead not resolution resolved clearing excludes exclude ruled rule "
    "longer failure excluded disappeared unlikely cleared"
)
DOUBT_WORDS: Final = words(
    "may might could possible possibly question questionable questioned equivocal versus vs "
    "concern concerning suspicious suspicion worrisome suspected exclude excluding excluded "
    "rule ruled perhaps potential potentially differential whether if consider considered can "
    "cannot suggest suggests suggesting suggestive r indeterminate not certain consideration "
    "considerations possibility questions"
)
MEMORY_WORDS: Final = words(
    "history hx h known prior evaluate evaluation evaluating assess assessment rule r "
    "recommend recommended recommends suggested follow indication reason clinical clinically "
    "exclude near nearly almost partial incomplete partially mostly largely removal removed "
    "with previous former request requested looking screening treated symptoms signs protocol "
    "previously before question resolution well earlier helpful correlation to"
)
"""A sentence without these words needs no search for the expressions above."""
