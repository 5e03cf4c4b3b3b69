"""Rules for comparison with earlier examinations: what refers to them is cut."""

import re
from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule, words
from unix_cxr.reports.rules.phrases import (
    DATE,
    DATE_WORDS,
    DEGREE,
    EARLIER,
    FINDING_NOUN,
    STUDY,
    THE_PRIOR,
    WHEN,
)
from unix_cxr.reports.rules.shared import UNIX

_COMPARED: Final = (
    r"(?:(?:as|when|if) )?(?:compar(?:ed|ing|ison)|in comparison|by comparison|in correlation|"
    r"relative|"
    r"(?:in )?reference|referring|correlat(?:ed|ing|ion)|with respect|comparison (?:is|was) made)"
    r"(?: is made| made)? (?:to|with)"
)
_COMPARED_WORDS: Final = words(
    "compared comparing comparison correlation relative reference referring correlated "
    "correlating respect"
)
_PRIOR_WORDS: Final = words(
    "prior previous earlier preceding last recent past older comparison initial baseline priors "
    "previously before yesterday's yesterday today's old"
)
_SEEN: Final = (
    r"(?:seen|noted|described|identified|visuali[sz]ed|demonstrated|reported|mentioned|questioned|"
    r"suspected|present|observed|appreciated|documented|placed|existing|evident|detected|found|"
    r"measured|shown|imaged)"
)


_VALUE: Final = (
    r"(?:(?:\d+(?:\.\d+)?|___)(?: ?(?:x|by) ?\d+(?:\.\d+)?)* ?(?:mm|cm|centimeters?|millimeters?)?)"
)


def _no(match: re.Match[str]) -> str:
    """`No X`, where X may be a list: denied together, its parts are joined by `or`."""
    thing = re.sub(r"^(?:the|a|an|any|his|her|these|this) ", "", match.group("x").strip(" ,"))
    if thing[:1].isupper() and thing[1:2].islower():
        thing = thing[0].lower() + thing[1:]
    return "No " + re.sub(r",? and ", " or ", thing)


def _there_is_no(match: re.Match[str]) -> str:
    return f"{match.group('verb')} no "


PRIOR: Final = (
    Rule(
        "prior.without-comparison",
        Category.PRIOR,
        r"^(?:without|in the absence of|given (?:the )?(?:lack|absence) of|lacking) (?:any )?"
        r"(?:prior|previous|older|available|comparison|priors|comparisons)\b[^,;.]{0,60}, ",
        words("prior previous older available comparison priors comparisons"),
        (
            "Without comparisons, this may represent pneumonia.",
            "This may represent pneumonia.",
        ),
        "Without effusion, the left base is clear.",
        also=(words("without absence lack lacking"),),
    ),
    Rule(
        "prior.none-available",
        Category.PRIOR,
        r"\b(?:no|without|not)\b.{0,40}\b(?:prior|previous|comparison|old|earlier)s?\b.{0,60}"
        r"\b(?:availab\w+|comparison|provided|correlation)|^(?:no|without) (?:prior|previous|"
        r"comparison|"
        r"old|earlier) ?(?:[\w-]+ )*(?:studies|study|exams?|examinations?|films?|images?|imaging|"
        r"radiographs?|comparisons?|x-rays?)?\.?$ ",
        _PRIOR_WORDS,
        ("There are no prior studies available for comparison.", ""),
        "No prior sternotomy wires.",
        Action.REMOVE,
    ),
    Rule(
        "prior.none-on-prior",
        Category.PRIOR,
        rf"(?: -+|,|;)? ?(?:but |and )?(?:none|not(?: \w+)? {_SEEN}|unseen|absent) (?:on|in) "
        rf"{THE_PRIOR}",
        _PRIOR_WORDS,
        ("A granuloma, not seen on the prior film.", "A granuloma."),
        "None of the leads is fractured.",
    ),
    Rule(
        "prior.statement",
        Category.PRIOR,
        r"^(?:the )?(?:comparison|compared?|correlation)\b(?: (?:is|was|made|studies|study|"
        r"made with|"
        rf"with|to|radiographs?|films?|exams?|examinations?|chest))*:? ?(?:{THE_PRIOR}|none|"
        r"not available|unavailable)?(?: (?:for|is|was) [\w ]*)?[.:]?$",
        _COMPARED_WORDS | words("compare none"),
        ("Comparison is made with the prior study of ___.", ""),
        "Relative lucency of the left lung.",
        Action.REMOVE,
    ),
    Rule(
        "prior.compared-leading",
        Category.PRIOR,
        rf"^(?:again )?{_COMPARED} {THE_PRIOR}[^,:;]{{0,40}}?(?:[,:;] ?(?:(?:\d{{4}}|___)(?: at "
        r"___)?, )?|"
        r" (?=there (?:is|are|has|have)\b))",
        _COMPARED_WORDS,
        (
            "In comparison with the study of ___, there is cardiomegaly.",
            "There is cardiomegaly.",
        ),
        "Relative to the left, the right hemidiaphragm is elevated by 3 cm.",
    ),
    Rule(
        "prior.compared",
        Category.PRIOR,
        rf",? ?\(?\b(?:which is |as |and )?(?:{DEGREE}(?:improved|worse|better|increased|decreased|"
        r"unchanged|stable|similar|larger|smaller|new|worsened|progressed|"
        r"more (?:prominent|conspicuous)|less (?:prominent|conspicuous)) "
        rf"(?:(?:in (?:size|extent|appearance)|overall) )?)?{_COMPARED} {THE_PRIOR}"
        r"\)?(?: (?:and|but) (?=\.|$))?",
        _COMPARED_WORDS,
        ("Mild cardiomegaly compared to the prior film.", "Mild cardiomegaly."),
        "The right lung is small compared to the left lung.",
    ),
    Rule(
        "prior.resolved-previous",
        Category.PRIOR,
        rf"^(?:the |a |there is |there has been )?(?:previously {_SEEN}|previous|prior|{STUDY})"
        rf"(?: (?:on|from) {THE_PRIOR})? (?P<x>[^,;.]+?)"
        r" (?:(?:has|have|is|are|appears? to have) (?:now |also |since |completely |entirely |"
        r"fully |"
        r"apparently )*(?:been )?(?:completely |entirely )?(?:resolved|disappeared|cleared)|"
        r"(?:is|are) (?:no longer|not)"
        r"(?: definitely| clearly)? (?:seen|visuali[sz]ed|identified|present|appreciated|evident|"
        r"demonstrated|visible|apparent|noted)|is no longer)(?: (?:on|in|at) (?:the |this "
        r")?(?:current|present|today's|this)"
        r"(?: \w+)?)?(?: today| currently)?(?=[.,;]|$)",
        words("resolved disappeared cleared longer not"),
        (
            "Previously seen right apical pneumothorax has resolved.",
            "No right apical pneumothorax.",
        ),
        "The right apex is not well seen.",
        replacement=_no,
        presets=UNIX,
    ),
    Rule(
        "prior.resolved",
        Category.PRIOR,
        r"^(?:the |a |there has been )?(?P<x>(?![^.]*\b(?:near|partial|most|almost|large|"
        rf"previous)\w*\b)[^,;.]{{0,60}}?\b{FINDING_NOUN}"
        rf"(?: (?:and|or|in|at|of) [^,;.]{{3,60}}?)?)"
        r" (?:(?:has|have|is|are) (?:now |also |since |completely |entirely |fully )*"
        r"(?:been )?(?:completely |entirely )?(?:resolved|disappeared|cleared(?: completely)?)|"
        r"(?:is|are) no longer"
        r"(?: definitely| clearly)? (?:seen|visuali[sz]ed|identified|present|appreciated|evident|"
        r"demonstrated|visible|apparent|noted))(?: in the interval| since (?:the )?(?:prior|"
        r"previous)[^,.;]*)?(?=[.,;]|$)",
        words("resolved disappeared cleared longer"),
        ("Left pleural effusion has resolved.", "No left pleural effusion."),
        "The right pleural effusion has nearly resolved.",
        replacement=_no,
        presets=UNIX,
    ),
    Rule(
        "prior.resolution-of",
        Category.PRIOR,
        r"^(?:(?:there has been|there is|status post) )?(?:an? |the )?(?:(?:interval|complete) )*"
        r"(?:resolution|clearing) of (?P<x>(?!.*\b(?:partial|near))[^,;.]+)",
        words("resolution clearing"),
        ("Interval resolution of the left pleural effusion.", "No left pleural effusion."),
        "Near complete resolution of the right effusion.",
        replacement=_no,
        presets=UNIX,
    ),
    Rule(
        "prior.resolved-adjective",
        Category.PRIOR,
        r"^(?:interval(?:ly)? |completely |now )*resolved (?P<x>[^,;.]+)",
        words("resolved"),
        ("Resolved right effusion.", "No right effusion."),
        "Partially resolved right effusion.",
        replacement=_no,
        presets=UNIX,
    ),
    Rule(
        "prior.no-longer",
        Category.PRIOR,
        r"\b(?P<verb>(?:is|are)) no longer (?:any |an? |evidence of )?(?=(?:\S+ "
        r"){0,3}?(?:effusions?|"
        r"pneumothora(?:x|ces)|edema|pneumonia|consolidations?|atelectasis|opacit\w+|"
        r"infiltrates?|congestion)\b)",
        words("longer"),
        ("There is no longer a pneumothorax.", "There is no pneumothorax."),
        "The catheter is no longer than 5 cm.",
        replacement=_there_is_no,
        presets=UNIX,
    ),
    Rule(
        "prior.nearly-resolved",
        Category.PRIOR,
        r"\b(?:near(?:ly)?|almost|partial(?:ly)?|incomplete(?:ly)?|mostly|largely|essentially|"
        r"virtually|substantial(?:ly)?)"
        r"(?:[- ](?:complete(?:ly)?|entire(?:ly)?|total(?:ly)?))? (?:interval )?(?:resolved|"
        r"resolution|clearing|cleared)\b",
        words("resolved resolution clearing cleared"),
        ("The effusion has nearly resolved.", ""),
        "The effusion is nearly as large as the lung.",
        Action.REMOVE,
        presets=UNIX,
    ),
    Rule(
        "prior.removed-and",
        Category.PRIOR,
        r"^[^,;]*?\b(?:has|have) (?:been |since been |now been )?(?:removed|extubated|withdrawn "
        r"and removed),? "
        r"(?:and|while|but|with) (?:there is )?",
        words("removed extubated"),
        (
            "The ET tube has been removed and the PICC ends in the SVC.",
            "The PICC ends in the SVC.",
        ),
        "Surgically removed ribs and clips are seen.",
    ),
    Rule(
        "prior.removed",
        Category.PRIOR,
        r"\b(?:(?:interval|status post|there has been|there is) (?:interval )?(?:removal|"
        r"extubation|discontinuation)|(?:has|have) "
        r"(?:been |since been |now been |subsequently been )?(?:removed|extubated)|"
        r"(?:was|were) (?:removed|extubated)|^(?:removal|extubation) of|no longer "
        r"(?:seen|present|visuali[sz]ed|in place))\b",
        words("removal extubation discontinuation removed extubated longer"),
        ("Interval removal of the endotracheal tube.", ""),
        "Surgical removal site with clips.",
        Action.REMOVE,
    ),
    Rule(
        "prior.previous-value",
        Category.PRIOR,
        r"(?:,|;)? ?\(?(?:(?:as )?(?:which (?:was )?)?(?:previously|formerly|earlier)(?: "
        rf"(?:measured|measuring|at|approximately|about))* {_VALUE}"
        rf"|(?:{DEGREE}(?:increased|decreased|grown|up|down|changed|larger|smaller|enlarged) "
        r"(?:from|than)|compared (?:to|with)|versus|vs\.?|from|(?:which )?(?:previously "
        r")?(?:measured|was)) (?:approximately )?"
        rf"{_VALUE}(?: (?:previously|before|earlier)| (?:on|in|from|at) {THE_PRIOR})?(?=[,.;)]|"
        r"$))\)?",
        words(
            "previously formerly earlier compared versus vs increased decreased grown up down "
            "changed from measured was larger smaller enlarged"
        ),
        (
            "Nodule measures 12 mm, previously 9 mm.",
            "Nodule measures 12 mm.",
        ),
        "Nodules range from 3 mm to 9 mm in size.",
    ),
    Rule(
        "prior.previously-adjective",
        Category.PRIOR,
        rf"\b(?:as )?(?:previously|earlier)[- ]{_SEEN}(?: (?:on|in) {THE_PRIOR})?,? (?=[a-z])",
        words("previously earlier"),
        ("Previously noted right effusion is small.", "Right effusion is small."),
        "Previous sternotomy wires are intact.",
    ),
    Rule(
        "prior.as-before",
        Category.PRIOR,
        rf",? ?\(?\b(?:(?:{DEGREE}(?:unchanged|stable|(?:the )?same|similar|worse|better|"
        r"improved|increased|decreased|larger|"
        r"smaller|greater|less|more)(?: \w+)? )?(?:as|than|to|from|since|on|with|in|like|versus|"
        r"vs|over|at the time of) "
        rf"(?:was |were |that |what |it was |{_SEEN} )*(?:(?:on|in|from|at|of) )?(?:the |a |an |"
        rf"any |her |his )?{EARLIER}"
        rf"(?: (?:the )?{STUDY})?{WHEN}(?: {_SEEN}(?= ?[,.;)]|$))?|(?:as )?(?:{_SEEN}|described) "
        rf"(?:previously|before|earlier)|(?:as )?(?:before|previously)(?: {_SEEN})?(?= ?[,.;)]|"
        r"$))\)?",
        _PRIOR_WORDS,
        ("Moderate right effusion as before.", "Moderate right effusion."),
        "Evidence of previous thoracotomy on the right.",
    ),
    Rule(
        "prior.than-date",
        Category.PRIOR,
        rf",? ?{DEGREE}(?:(?:more|less) \w+|worse|better|larger|smaller|greater|higher|lower|"
        r"similar|"
        rf"unchanged|stable|increased|decreased|improved|new|worsened) (?:(?:than|to|from|since|as)"
        rf"(?: (?:it was|was|seen|noted|that|those))?(?: (?:on|of|in|at))?)"
        rf" (?:the )?(?:{STUDY} )?(?:(?:of|from|dated|on|performed) )?{DATE}{WHEN}",
        DATE_WORDS,
        (
            "Left lower lobe consolidation, slightly more prominent than on ___.",
            "Left lower lobe consolidation.",
        ),
        "The right lung is smaller than the left.",
        also=(
            words("than to from since as"),
            words(
                "more less worse better larger smaller greater higher lower similar unchanged "
                "stable increased decreased improved new worsened"
            ),
        ),
    ),
    Rule(
        "prior.since",
        Category.PRIOR,
        rf"(?:^|,? ?\b)(?:interval(?:ly)? )?since (?:{THE_PRIOR}|that (?:time|{STUDY})|then|"
        r"admission|surgery)"
        r"(?:[^,.;]{0,30}?(?=,|$|\.))?,? ?",
        words("since"),
        ("Mild edema since ___.", "Mild edema."),
        "The tube has been clamped since it is kinked.",
    ),
    Rule(
        "prior.in-the-interval",
        Category.PRIOR,
        r",? ?\b(?:(?:in|over|during|for) (?:the|this|that) (?:short |long |brief )?(?:interval|"
        r"interim)"
        r"|(?:over|in|for|within|during) (?:the )?(?:past|last|previous|preceding) (?:few |"
        r"several |"
        r"\d+ |two |three |___ )?(?:hours?|days?|weeks?|months?|years?|decade)|interval(?:ly)? "
        r"(?=since|from)|over time|serial(?:ly)?),? ?",
        words("interval interim past last previous preceding time serial serially intervally"),
        ("Mild edema in the interval.", "Mild edema."),
        "Widened interval between the ribs.",
    ),
    Rule(
        "prior.technique-difference",
        Category.PRIOR,
        r"^(?:even )?(?:allowing|accounting|given|adjusting|taking into account|considering)(?: "
        r"for)? (?:the |a |for )?"
        r"(?:differences?|changes?|variations?) (?:in|of) [^,]*,\s*|,? ?(?:even )?(?:allowing|"
        r"accounting|"
        r"given|adjusting) (?:for )?(?:the )?(?:differences?|changes?|variations?) (?:in|of) "
        r"[^,.;]*",
        words("allowing accounting given adjusting taking considering"),
        (
            "Allowing for differences in technique, moderate right effusion.",
            "Moderate right effusion.",
        ),
        "Given the rotation, the heart is normal.",
    ),
    Rule(
        "prior.the-earlier",
        Category.PRIOR,
        rf"^(?:the |on the |in the )?(?:{EARLIER} {STUDY}{WHEN})"
        r"(?: (?:from|of|dated) [^,]*)?,? (?:(?:also |has |had )*(?:demonstrated|showed|shows|"
        r"revealed|described|was|were|is|are)\b.*|$)",
        _PRIOR_WORDS,
        ("The prior study showed a large effusion.", ""),
        "The prior sternotomy wires are intact.",
        Action.REMOVE,
    ),
    Rule(
        "prior.label",
        Category.PRIOR,
        r"^(?:chest )?(?:comparison|compared?)[:,.] (?=\S)",
        words("comparison compare compared"),
        ("Comparison, Clear lungs.", "Clear lungs."),
        "A comparison view is normal.",
    ),
    Rule(
        "prior.dated-study",
        Category.PRIOR,
        rf"\b{STUDY} (?:from|of|dated|on|performed) {DATE}(?!\w)",
        DATE_WORDS,
        ("The ct of ___ is known.", ""),
        "The study of the chest is normal.",
        Action.REMOVE,
        also=(
            words(
                "study studies exam exams examination examinations radiograph radiographs "
                "radiography film films image images imaging x xray xrays ct cts scan scans view "
                "views report reports cxr comparison"
            ),
        ),
    ),
    Rule(
        "prior.mentioned",
        Category.PRIOR,
        rf"\b(?:{EARLIER} (?:\S+ )?{STUDY}|the priors?)\b",
        _PRIOR_WORDS,
        ("Discordant the previous exam.", ""),
        "Prior granulomatous disease.",
        Action.REMOVE,
    ),
    Rule(
        "prior.unresolved",
        Category.PRIOR,
        r"\b(?:prior|previous|previously|priors|earlier|comparisons?|yesterday)\b",
        _PRIOR_WORDS | words("comparisons"),
        ("Nodules were known previously by name.", ""),
        "Prior granulomatous disease.",
        Action.REMOVE,
    ),
)
