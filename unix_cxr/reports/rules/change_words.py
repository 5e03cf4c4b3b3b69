"""Single words of change over time, after the phrases of `change.py` (preset `unix` only)."""

import re
from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule, words
from unix_cxr.reports.rules.phrases import CHANGED, DEGREE, FINDING_NOUN, SIZE_OF, STEADY
from unix_cxr.reports.rules.shared import CHANGED_WORDS, LIGHT, STEADY_WORDS, UNIX

_MODIFIED: Final = (
    r"(?:(?:left|right|bilateral|bibasilar|small|mild|moderate|large|minimal|trace|tiny|basilar|"
    r"diffuse|patchy|apical|pleural|pulmonary|interstitial|vascular|venous|severe|lower|upper|"
    r"middle|"
    r"lobe|lung|both|multifocal|perihilar|retrocardiac|central|focal|airspace|alveolar|in|"
    r"and|sided|hazy|loculated|dense|linear|subsegmental|basal|base|the|confluent|"
    r"moderate-to-large|mid|zone|lateral|of|a|subtle|ill-defined|streaky|heterogeneous|"
    r"[a-z]+-sided|parenchymal|reticular|ground-glass|consolidative|known|widespread|"
    r"asymmetric|multiple|extensive|post-obstructive|subcutaneous) )*"
)


def _remain(match: re.Match[str]) -> str:
    verb = match.group("verb").lower()
    if verb.endswith(("show", "demonstrate", "have")):
        return {"show": "shows", "demonstrate": "demonstrates", "have": "has"}[verb.split()[-1]]
    if verb in {"continues to", "continue to"}:
        return " "
    return "are" if verb in {"remain", "continue to be", "stay"} else "is"


CHANGE_WORDS: Final = (
    Rule(
        "change.remains",
        Category.PRIOR,
        r"\b(?P<verb>remains?|continues? to be|continues? to (?:show|demonstrate)|continues? to "
        r"have|continues? to|stays?)\b(?! of)"
        r"(?: (?:to be|present|essentially|grossly|relatively|largely)(?= \w))?",
        words("remains remain continues continue stay stays"),
        ("The heart remains enlarged.", "The heart is enlarged."),
        "The remainder of the lungs is clear.",
        replacement=_remain,
        presets=UNIX,
    ),
    Rule(
        "change.persists",
        Category.PRIOR,
        r"\b(?P<verb>persists?)\b|\b(?P<verb2>is|are) (?:still )?(?:persistent|"
        r"unchanging)(?=[,.;]|$)",
        words("persists persist persistent unchanging"),
        ("Mild pulmonary edema persists.", "Mild pulmonary edema is present."),
        "Persisting left superior vena cava anomaly.",
        replacement=lambda m: (
            " are present"
            if (m.group("verb") or m.group("verb2")).lower() in {"persist", "are"}
            else " is present"
        ),
        presets=UNIX,
    ),
    Rule(
        "change.again-seen-is",
        Category.PRIOR,
        rf"^(?:(?:there (?:is|are|has been) )?re-?demonstration(?: without {LIGHT}change)? "
        r"(?:of|in)|(?:re-?demonstrated|re-?identified)(?: again)?(?: is| are)?|(?:once "
        r")?again,? (?:(?:seen|noted|demonstrated|identified|visuali[sz]ed|evident|present|"
        r"appreciated|shown|observed)(?: (?:is|are))?|there (?:is|are)|we see)|stable "
        r"(?:appearance|position|positioning|configuration|size) of|unchanged (?:appearance|"
        r"position|positioning|size|configuration) of|"
        r"(?:there (?:is|are) )?(?:unchanged|similar|stable) (?:appearance|position|positioning|"
        r"extent|size|configuration|degree|amount) (?:of|to)|once again,?|again,?)"
        r" (?:an? |the )?",
        words("redemonstrated reidentified redemonstration re again stable unchanged similar"),
        ("Again seen is a right chest tube.", "Right chest tube."),
        "Fixation hardware is intact.",
        presets=UNIX,
    ),
    Rule(
        "change.again",
        Category.PRIOR,
        r",? ?\b(?:once again|again|re-?demonstrated|still|as well as before)\b(?: "
        r"(?:re-?demonstrated))?(?!-)",
        words("again redemonstrated still re"),
        ("Right upper lobe opacity is again noted.", "Right upper lobe opacity is noted."),
        "The tube abuts against the wall of the carina.",
        presets=UNIX,
    ),
    Rule(
        "change.no-new",
        Category.PRIOR,
        r"\b(?P<no>no|without|nor|or|any|not any)(?: (?P<adjective>definite|significant|"
        r"evidence of|convincing|other|obvious|acute or|large|evidence of any|other|suspicious|"
        r"definitive))? "
        r"(?:new|newly developed|recurrent|interval)(?:,| or(?: (?:worsening|enlarging|"
        r"progressive|increasing|acute|suspicious|evolving))?| and)?"
        r"(?: (?:worsening|enlarging|evolving))? (?=\S)",
        words("new newly recurrent interval"),
        ("No new focal consolidation.", "No focal consolidation."),
        "No old or new disease.",
        replacement=lambda m: f"{m.group('no')} {m.group('adjective') or ''} ",
        presets=UNIX,
    ),
    Rule(
        "change.newly",
        Category.PRIOR,
        r"\b(?:newly(?:[- ](?:placed|inserted|developed|apparent|visualized|seen|noted))?|"
        r"interval(?:ly)? (?:placed|inserted|developed|development of)|recently (?:placed|"
        r"inserted)|now|currently|today|at this time|at the present time|presently|at "
        r"present)\b,? ?",
        words("newly interval intervally recently now currently today time presently present"),
        (
            "Newly placed Dobbhoff tube terminates in the stomach.",
            "Dobbhoff tube terminates in the stomach.",
        ),
        "Normal time of inspiration.",
        presets=UNIX,
    ),
    Rule(
        "change.adjective-pair",
        Category.PRIOR,
        rf"(?<!-)\b{DEGREE}(?:persistent|persisting|continued|stable|unchanged|new|worsening|"
        r"worsened|improving|improved|"
        r"increasing|increased|decreasing|decreased|progressive|chronic stable)(?:,| but| and|, "
        r"but| yet| or|/| to)? "
        rf"{DEGREE}(?:persistent|stable|unchanged|new|worsening|worsened|improving|improved|"
        r"increasing|increased|decreasing|"
        r"decreased|resolving|enlarging|progressive) (?=\S)",
        words(
            "persistent persisting continued stable unchanged new worsening worsened improving "
            "improved increasing increased decreasing decreased progressive chronic"
        ),
        ("Persistent but improved left retrocardiac opacity.", "Left retrocardiac opacity."),
        "Dense but small nodule.",
        presets=UNIX,
    ),
    Rule(
        "change.steady-adjective",
        Category.PRIOR,
        r"(?<!-)\b(?:(?:grossly|essentially|relatively|largely|overall|otherwise|currently|"
        r"generally) )?(?:stable|unchanged|persistent|persisting|continued|continuing|ongoing|"
        r"similar|unaltered)"
        r"(?! (?:to|from|with|in|of)\b)(?:/|(?:,? (?:and|but|,)| appearing| in (?:appearance|"
        r"size) of| appearance of)? )(?=[a-z_\d])",
        words(
            "stable unchanged persistent persisting continued continuing ongoing similar unaltered"
        ),
        ("Stable mild cardiomegaly.", "Mild cardiomegaly."),
        "Both sides have similar-sized breasts.",
        presets=UNIX,
    ),
    Rule(
        "change.new-adjective",
        Category.PRIOR,
        rf"\b(?:{DEGREE}(?:new|worsening|worsened|improving|improved|enlarging|increasing|"
        r"decreasing|progressive|progressing|evolving|resolving|clearing|recurrent|interval))"
        r"(?: since|,| and| or| but| of)? (?:(?:new|worsening|improving|increasing|interval|"
        r"increase in|decrease in|of) )*(?=[a-z_\d])",
        words(
            "new worsening worsened improving improved enlarging increasing decreasing "
            "progressive progressing evolving resolving clearing recurrent interval"
        ),
        ("There is a new left lower lobe opacity.", "There is a left lower lobe opacity."),
        "No new or old disease.",
        presets=UNIX,
    ),
    Rule(
        "change.increasing-finding",
        Category.PRIOR,
        rf"\b{DEGREE}(?:increasing|decreasing|increased|decreased|diminished|diminishing|"
        r"reduced)(?: in (?:the )?size of(?: the)?)?,? (?:size of (?:the )?)?"
        rf"(?={_MODIFIED}{FINDING_NOUN}\b)",
        words("increasing decreasing increased decreased diminished diminishing reduced"),
        (
            "Increased right lower lobe consolidation.",
            "Right lower lobe consolidation.",
        ),
        "Increased lucency of the upper lobes.",
        presets=UNIX,
    ),
    Rule(
        "change.no-change-word",
        Category.PRIOR,
        rf",? (?:no|little|without) {LIGHT}(?:interval )?changes?(?=[.,;]|$)|\bno "
        rf"{LIGHT}changes?,? (?=no\b)",
        words("change changes"),
        ("Mild fullness of the left hilum, no change.", "Mild fullness of the left hilum."),
        "Chronic change.",
        presets=UNIX,
    ),
    Rule(
        "change.steady-in-size",
        Category.PRIOR,
        rf",? ?(?<!in )\b{STEADY} in (?:the )?{SIZE_OF}",
        STEADY_WORDS,
        (
            "Sternotomy wires unchanged in position, one of them broken.",
            "Sternotomy wires, one of them broken.",
        ),
        "Mild scoliosis in stable-appearing bones.",
        presets=UNIX,
    ),
    Rule(
        "change.stable-with",
        Category.PRIOR,
        r"\b(?:stable|unchanged)(?= (?:with|without)\b)|\bre-?demonstration of (?:an? |the )?",
        words("stable unchanged redemonstration re"),
        (
            "Cardiac silhouette enlarged, stable with edema.",
            "Cardiac silhouette enlarged, with edema.",
        ),
        "A line with edema about it.",
        presets=UNIX,
    ),
    Rule(
        "change.left-over",
        Category.PRIOR,
        rf",? ?\b(?:{DEGREE}(?:unchanged|(?<!-)stable(?!-)|in the interval|interval change|"
        rf"interval))(?=[,.;]|$)| ?\((?:{DEGREE}(?:{STEADY}|{CHANGED})(?: in (?:the )?"
        rf"(?:{SIZE_OF}|interval))?)\)",
        words("interval") | STEADY_WORDS | CHANGED_WORDS,
        ("Mild scoliosis unchanged.", "Mild scoliosis."),
        "The fracture line is stable-appearing on both views.",
        presets=UNIX,
    ),
    Rule(
        "change.unresolved",
        Category.PRIOR,
        r"\b(?:unchanged|stable(?!-)|interval|newly|improved|improving|improvement|worsened|worsening|"
        r"persistent|persists?|resolved|resolving|resolution|progression|progressed|redemonstration|"
        r"change|changed)\b",
        words(
            "unchanged stable interval newly improved improving improvement worsened worsening "
            "persistent persist persists resolved resolving resolution progression progressed "
            "redemonstration change changed"
        ),
        ("Chest with findings of progression.", ""),
        "Degenerative change of the spine.",
        Action.REMOVE,
        presets=UNIX,
    ),
)
