"""Rules for change over time: the finding stays, its history goes (preset `unix` only)."""

import re
from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule, words
from unix_cxr.reports.rules.phrases import (
    CHANGE_NOUN,
    CHANGED,
    DEGREE,
    FINDING_NOUN,
    SIZE_OF,
    STEADY,
)
from unix_cxr.reports.rules.shared import (
    CHANGE_NOUN_WORDS,
    CHANGED_WORDS,
    LIGHT,
    STEADY_WORDS,
    UNIX,
    be_form,
    present,
)


def _after_change(match: re.Match[str]) -> str:
    head = match.group().lower().lstrip()
    if head.startswith("there"):
        return "There is "
    return "with " if head.startswith("with") else " "


def _steady(match: re.Match[str]) -> str:
    verb = match.group("verb").lower()
    plural = verb in {"are", "remain", "were", "appear", "have been"}
    if match.group("rest") is not None:
        return "are " if plural else "is "
    return "are present" if plural else "is present"


CHANGE: Final = (
    Rule(
        "change.no-change-in",
        Category.PRIOR,
        r"^(?P<head>there(?: is| are| was| has been| have been|'s been|'s) )?(?:no|little|"
        r"minimal|without|not much|minor|"
        rf"slight|some|mild) {LIGHT}(?:change|changes|difference)(?:,? (?:in|of|to|for|with "
        r"regard to|involving)|(?= (?:right|left|no|calcified|marked|bilateral|mild|moderate|"
        r"small|large))) (?:the )?"
        rf"(?:{SIZE_OF} (?:of|in) )?(?:the )?(?=\S)",
        words("change changes difference"),
        (
            "There is little change in the substantial enlargement of the cardiac silhouette.",
            "There is substantial enlargement of the cardiac silhouette.",
        ),
        "No degenerative change of the spine.",
        replacement=lambda m: "There is " if m.group("head") else " ",
        presets=UNIX,
    ),
    Rule(
        "change.no-change-alone",
        Category.PRIOR,
        r"^(?:otherwise,? |overall,? |there (?:is|are|has been|have been) |the |i see |"
        r"essentially |"
        r"findings?:? |again |with )*(?:no|little|minimal|without)\b(?: or (?:no|minimal))? "
        rf"{LIGHT}"
        r"(?:change|changes|difference|interval)s?(?: (?:is|are) (?:seen|noted|identified|"
        r"appreciated|detected|demonstrated|evident|present|observed))?(?: (?:since|from|to|in|is|"
        r"are|within|of) [^;]*)?[.]?$",
        words("change changes difference differences interval"),
        ("No significant interval change.", ""),
        "No interval between the ribs is widened.",
        Action.REMOVE,
        presets=UNIX,
    ),
    Rule(
        "change.no-change-tail",
        Category.PRIOR,
        r"(?:,|;| but| and)? (?:with(?:out)?|or|showing|demonstrat\w+|which shows|has|with) "
        rf"(?:no |little |any |minimal )?{LIGHT}"
        rf"(?:change|changes|difference|{CHANGE_NOUN})\b(?: (?:in|of) {SIZE_OF}(?! "
        r"of))?(?=[,.;]|$)",
        words("change changes difference") | CHANGE_NOUN_WORDS,
        ("Mild cardiomegaly without significant interval change.", "Mild cardiomegaly."),
        "Thoracic spine without degenerative change.",
        presets=UNIX,
    ),
    Rule(
        "change.of",
        Category.PRIOR,
        r"\b(?:(?:there (?:is|are|has been|have been|appears to be|continues to be|was|"
        r"remains)|with) (?P<with>))?"
        rf"(?:an? |the |this )?{DEGREE}(?:{CHANGE_NOUN}|(?<=interval )enlargement)"
        rf"(?: or (?:no |possible )?{CHANGE_NOUN}| and {DEGREE}{CHANGE_NOUN})? (?:in|of) "
        r"(?:both |the |a |an |this |these )?"
        rf"(?:{SIZE_OF} (?:of|and \w+ of|in) (?:the |a |an |this |both )?)?(?:prior |previous "
        r")?(?=\S)",
        CHANGE_NOUN_WORDS,
        ("Interval increase in the right pleural effusion.", "Right pleural effusion."),
        "Increase in density over the left base.",
        replacement=_after_change,
        presets=UNIX,
    ),
    Rule(
        "change.advanced-and",
        Category.PRIOR,
        r"\b(?:has|have)(?: been)?(?: slightly| further| subsequently| since| interval\w*| "
        r"now)* (?:advanced|withdrawn|"
        r"repositioned|pulled back|retracted|exchanged|replaced|removed|adjusted|changed|moved|"
        r"placed|inserted|migrated)"
        r"(?: (?:slightly|somewhat|further|approximately \S+ cm))?,? (?:and|with|so that) "
        r"(?:the |its )?(?:tip (?:is )?)?"
        r"(?:now |currently )?(?=(?:terminates?|ends?|lies?|projects?|is|are|in|at|courses?|"
        r"overl\w+|extends?|reaches)\b)",
        words(
            "advanced withdrawn repositioned pulled retracted exchanged replaced adjusted "
            "changed moved placed inserted migrated"
        ),
        (
            "The Dobbhoff tube has been advanced and now terminates in the stomach.",
            "The Dobbhoff tube terminates in the stomach.",
        ),
        "The advanced emphysema is diffuse.",
        presets=UNIX,
    ),
    Rule(
        "change.are-now",
        Category.PRIOR,
        rf"\b(?P<verb>has|have|is|are) (?:been )?{DEGREE}{CHANGED}(?: in (?:size|extent))?"
        r"(?:,| since \w+)? (?:and|but) (?:(?:is|are) )?(?:now|currently) (?:is |are )?(?!seen\b)",
        CHANGED_WORDS,
        (
            "Bilateral effusions have increased and are now moderate.",
            "Bilateral effusions are moderate.",
        ),
        "The heart is enlarged and the lungs are clear.",
        replacement=lambda m: f"{be_form(m)} ",
        presets=UNIX,
    ),
    Rule(
        "change.has-been-placed",
        Category.PRIOR,
        r"\b(?P<verb>has|have) (?:now |also |since |subsequently |newly |interval\w* )*been "
        r"(?:newly |interval\w* )?(?:placed|inserted|"
        r"advanced|withdrawn|repositioned|exchanged|replaced|retracted|adjusted|pulled back)"
        r"(?: (?:slightly|somewhat|in the interval|further))?(?= with\b| in\b| via\b|,|\.|;|$| "
        r"and\b| through\b| on\b)",
        words(
            "placed inserted advanced withdrawn repositioned exchanged replaced retracted "
            "adjusted pulled"
        ),
        ("A right pigtail catheter has been placed.", "A right pigtail catheter is in place."),
        "The clips were placed at surgery.",
        replacement=lambda m: f"{be_form(m)} in place",
        presets=UNIX,
    ),
    Rule(
        "change.placement-of",
        Category.PRIOR,
        r"^(?:(?:there has been(?: an?)? |(?:there is |status post )?(?:the |an? )?(?=interval|"
        r"new|recent))(?:(?:interval|new|recent) )*)(?:placement|insertion|"
        r"repositioning|advancement|intubation with|exchange|replacement|withdrawal|retraction) "
        r"(?:of )?(?:the |an? )?",
        words(
            "placement insertion repositioning advancement intubation exchange replacement "
            "withdrawal retraction"
        ),
        (
            "Interval placement of a left internal jugular line.",
            "Left internal jugular line.",
        ),
        "Placement of the tube is satisfactory.",
        presets=UNIX,
    ),
    Rule(
        "change.developed",
        Category.PRIOR,
        r"^(?:(?:the )?patient (?:has|had)|there (?:has|have)|now) (?:also |now |since |newly "
        r")*(?:developed|been (?:(?:interval|new) )*development of)"
        r" (?:an? )?|^(?:there is |there has been )?(?:an? )?(?:(?:interval|new) "
        r")+(?:development|appearance|onset|"
        r"emergence) of (?:an? |the )?",
        words("developed development appearance onset emergence"),
        ("The patient has developed a large right pneumothorax.", "Large right pneumothorax."),
        "A well developed azygos lobe is seen.",
        presets=UNIX,
    ),
    Rule(
        "change.has-developed",
        Category.PRIOR,
        rf"\b(?P<verb>has|have) {DEGREE}(?:since |newly )?(?:developed|appeared|occurred|"
        r"recurred|arisen)\b",
        words("developed appeared occurred recurred arisen"),
        ("A large right effusion has developed.", "A large right effusion is present."),
        "The developed muscles overlie the apices.",
        replacement=present,
        presets=UNIX,
    ),
    Rule(
        "change.has-changed",
        Category.PRIOR,
        rf",? ?(?:\bwhich )?\b(?P<verb>has|have) (?:not )?{DEGREE}(?:been |become "
        rf")?{DEGREE}(?:not )?(?:{CHANGED}|"
        r"become (?:more|less) \w+|resolved|worse)(?: (?:slightly|somewhat|significantly|"
        r"markedly|substantially|minimally|"
        rf"considerably|appreciably|mildly|in the interval|moderately))*(?: in {SIZE_OF})?(?: "
        r"bilaterally| overall)?"
        r"(?: and (?:slightly )?(?:\w+ly )?(?:increased|decreased|improved|worsened|progressed))?",
        CHANGED_WORDS | words("become resolved worse"),
        (
            "The right pleural effusion has slightly decreased.",
            "The right pleural effusion is present.",
        ),
        "Enlarged heart.",
        replacement=lambda m: "" if "which" in m.group().lower() else present(m),
        presets=UNIX,
    ),
    Rule(
        "change.remains-steady",
        Category.PRIOR,
        r"(?<!there )\b(?P<verb>is|are|remains?|appears?|was|were|has been|have been)(?: "
        rf"(?:also|again|still|to be|all|both))* {DEGREE}(?:in )?"
        rf"{STEADY}\b(?!-)(?: (?:and|or) {STEADY}| in appearance)?(?: (?:(?:in|with respect to|"
        rf"with) (?:the )?)?(?:{SIZE_OF}|radiographic appearance))?"
        r"(?: (?:and|but)(?! (?:there|the|no)\b) (?P<rest>(?:is |are )?))?"
        r"(?:(?<=[a-z]) bilaterally)?",
        STEADY_WORDS,
        ("Small left pleural effusion is unchanged.", "Small left pleural effusion is present."),
        "The patient has stable-appearing bones.",
        replacement=_steady,
        presets=UNIX,
    ),
    Rule(
        "change.in-same-position",
        Category.PRIOR,
        r"\b(?:in|at|with) (?:an? |the )?(?:grossly |essentially |relatively )?(?:unchanged|"
        r"stable|similar|same|constant|satisfactory unchanged) "
        r"(?:and satisfactory )?(?:standard )?(?:positions?|locations?|appearance|configuration|"
        r"placement|alignment|course|level|size|extent|distribution)",
        STEADY_WORDS,
        ("Left subclavian line in unchanged position.", "Left subclavian line in place."),
        "Left subclavian line in standard position.",
        replacement=lambda m: "in place" if re.search("posi|loca|plac", m.group(), re.I) else " ",
        presets=UNIX,
    ),
    Rule(
        "change.steady-tail",
        Category.PRIOR,
        r"(?:,|;| but| and| -|, which (?:is|are|appears?|has|have)|, (?:but|and)) (?:(?:is|are|"
        rf"appears?|again|also|remains?) )*{DEGREE}(?:{STEADY}(?: to {DEGREE}{CHANGED})?|"
        rf"{CHANGED}|worse|better|larger|smaller|worsening|improving|increasing|decreasing|"
        r"resolving|progressing|more so|new|"
        r"persistent|more (?:prominent|conspicuous|extensive|pronounced)|less (?:prominent|"
        r"conspicuous|extensive|pronounced))"
        rf"(?: in (?:the )?(?:{SIZE_OF}|interval))?(?: bilaterally| overall| today)?(?=[,.;]|$| "
        r"and (?:likely|may)\b)",
        STEADY_WORDS
        | CHANGED_WORDS
        | words(
            "worse better larger smaller worsening improving increasing decreasing resolving "
            "progressing more new persistent less"
        ),
        ("Small left effusion, unchanged.", "Small left effusion."),
        "Bibasilar atelectasis, worse on the left.",
        presets=UNIX,
    ),
    Rule(
        "change.not-changed",
        Category.PRIOR,
        r"(?:,|;| and| but)? ?(?:(?:which )?(?:has|have|is|are) )?\b(?:not|little) (?:been "
        r")?(?:significantly |substantially |appreciably |"
        r"markedly |much |definitely |really |greatly |grossly )*changed\b(?: in \w+)?",
        words("changed"),
        (
            "Mild left basilar atelectasis, not significantly changed.",
            "Mild left basilar atelectasis.",
        ),
        "Not a degenerative change.",
        presets=UNIX,
    ),
    Rule(
        "change.is-changed",
        Category.PRIOR,
        rf"\b(?P<subject>{FINDING_NOUN}(?: (?:at|in|of|on) (?:the )?(?:\w+ ){{1,3}}?)?) "
        rf"?\b(?P<verb>is|are|appears?|was|were) (?:also |again )?{DEGREE}"
        rf"(?:{CHANGED}|worse|better|larger|smaller|worsening|improving|increasing|decreasing|"
        r"resolving|progressing|new|"
        r"persistent|(?:more|less) (?:prominent|conspicuous|extensive|pronounced|apparent|"
        r"evident|well seen))"
        rf"(?: in {SIZE_OF})?(?= ?[,.;]|$| and\b| with\b| but\b)",
        CHANGED_WORDS
        | words(
            "worse better larger smaller worsening improving increasing decreasing resolving "
            "progressing more new persistent less"
        ),
        ("Right effusion is larger.", "Right effusion is present."),
        "The right hemidiaphragm is elevated.",
        replacement=lambda m: m.group("subject").rstrip() + present(m),
        presets=UNIX,
    ),
)
