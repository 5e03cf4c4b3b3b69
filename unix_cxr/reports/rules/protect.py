"""Contexts that only look like a comparison; the rules and the leftovers list pass over them."""

import re
from typing import Final

from unix_cxr.reports.tokens import words

_LOOKS: Final = (
    r"interstitial|reticul\w+|bronchovascular|vascular|vascularity|pulmonary vascular\w*|markings?|"
    r"density|densities|lucency|lucencies|radiolucency|attenuation|translucency|ap diameter|"
    r"anteroposterior|a-p|kyphosis|kyphotic|tortuosity|tortuous|peribronchial cuffing|cuffing|"
    r"lordosis|aeration of|volumes?|lung volumes?|"
    r"bone|bony|mineralization|osseous|intensity|caliber|retrocardiac|retrosternal|soft tissue|"
    r"perihilar|peribronchial|prominence|lung|lordotic|inspiration|inspiratory|"
    r"air space|convexity|size of the heart|heart|cardiac|diameter|caliber|thickness|bilateral"
    r"|curvature|vertebral|disc|disk|height|hilar|central|body habitus|distance|basilar|basal"
    r"|space|subsegmental|overlying|linear|streaky|right|left|lower|upper|mid|middle|expiratory"
)
PROTECTED: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "surgery-of-the-past",
        r"\b(?P<word>prior|previous)(?= (?!(?:chest|ct|exam\w*|stud\w+|radiograph\w*|films?|"
        r"images?|"
        r"imaging|x|reports?|views?|scans?|pa|ap|comparison|portable)\b)(?:\S+ ){0,3}?(?:cabg|"
        r"bypass|sternotomy|surger(?:y|ies)|surgical|operation|lobectomy|"
        r"pneumonectomy|mastectomy|thoracotomy|thoracostomy|resections?|cholecystectomy|"
        r"granulomatous|histoplasmosis|granuloma|tuberculosis|tb|infection|inflammation|trauma|"
        r"fractures?|valve|replacement|radiation|vertebroplasty|kyphoplasty|fusions?|arthroplasty|"
        r"wedge|chest tube|injury|insult|asbestos|transplant|cervical|biopsy|repair|laminectomy|"
        r"laparotomy|procedure|intervention|rib|aspiration|healed|wires?|clips|sternal|"
        r"tracheostomy|stent\w*|amputation|ablation|esophagectomy|fundoplication|myocardial|"
        r"infarct\w*|gunshot|empyema|pleurodesis|talc|lumpectomy|axillary|lumbar|hardware|"
        r"ex-?plant\w*|augmentation|exposure)\b)",
        "Status post prior CABG.",
    ),
    (
        "change-in-caliber",
        r"\b(?P<word>change)(?= in (?:the )?(?:caliber|contour of the|course of the))",
        "Minimal change in caliber of the trachea.",
    ),
    (
        "increased-look",
        r"(?<!has )(?<!have )(?<!slight )(?<!been )\b(?P<word>increased|decreased|increase|"
        r"decrease)"
        rf"(?= (?:in )?(?:the )?(?:{_LOOKS})\b(?! (?:\S+ ){{0,8}}?(?:effusions?|pneumothora\w+|"
        r"edema|"
        r"atelectasis|consolidations?|infiltrates?|opacit\w+|opacification|congestion|nodules?|"
        r"mass|collapse)\b))",
        "Increased interstitial markings.",
    ),
    (
        "increased-look-behind",
        r"\b(?:markings?|vascularity|vasculature|vessels|volumes?|density|diameter|lucency|"
        r"mineralization|trachea|kyphosis|size|caliber|interstitium|lungs?|translucency|"
        r"space) (?:is|are|appears?|appear) (?:also |mildly |slightly |somewhat |diffusely |"
        r"moderately |markedly |minimally )*(?P<word>increased|decreased)\b(?! (?:since|from|"
        r"compared|in the interval|in comparison))",
        "Interstitial markings are increased.",
    ),
    (
        "changes-that-are-findings",
        r"\b(?:degenerative|chronic|emphysematous|fibrotic|fibrosis|arthritic|spondylitic|post-?"
        r"operative|post-?surgical|surgical|bony|cystic|bullous|interstitial|copd|arthritis|"
        r"age-related|osteoarthritic|atherosclerotic|granulomatous|inflammatory|endplate|skeletal|"
        r"spondylotic|hypertrophic|scoliotic|congestive|scarring|scar|osteophytic|radiation|"
        r"bronchitic|obstructive|arthropathic|reactive|calcific|senescent|atelectatic|disc|disk|"
        r"degeneration|spine|productive|malignant|wedge|posttraumatic|post-?traumatic|structural|"
        r"vascular|sclerotic|proliferative|infectious|erosive|parenchymal|focal|postoperative|"
        r"spondylosis|osseous|airway|arthrosis|sequential|edematous|degenerate|airways|"
        r"lung|pulmonary|pleural|apical|basilar|biapical|postop|thoracotomy|vertebroplasty|"
        r"reticulonodular|"
        r"fatty|bronchiectatic) (?P<word>changes?)\b"
        r"(?<!interval change)(?<!interval changes)(?! (?:since|compared|from|in comparison))",
        "Degenerative changes of the spine.",
    ),
    (
        "changes-of",
        r"(?<!no )(?<!significant )(?<!interval )(?<!little )(?<!without )(?<!minimal )"
        r"\b(?P<word>changes)(?= (?:of|related|consistent|compatible|from|in the (?:spine|thoracic|"
        r"shoulder|lumbar|osseous|skeleton|cervical|bones)|are (?:seen|present|noted)|involving|"
        r"throughout|seen|suggest\w*)\b)",
        "Changes of prior left mastectomy.",
    ),
    (
        "worse-on-one-side",
        r"\b(?P<word>worse|greater|more|less|larger|smaller|increased|improved|better)"
        r"(?= (?:(?:prominent|severe|marked|pronounced|extensive|conspicuous|opaque|so|evident|"
        r"dense|confluent) )?(?:on|at|in|within|along|than|toward|towards) "
        r"(?:the )?(?:left|right|bases?|lower|upper|mid\w*|lung|apex|apices|periphery|lateral|"
        r"medial|hila|perihilar|both|other)\b)",
        "Bibasilar atelectasis, worse on the left.",
    ),
    (
        "old-disease",
        r"(?:(?<=old or )|(?<=old nor )|(?<=old and )|\b(?=\w+ (?:or|and|nor|generation|born|"
        r"york|bone)\b))(?P<word>new|prior|previous)\b",
        "No old or new disease.",
    ),
    (
        "anatomy-of-its-own",
        r"\b(?P<word>persist(?:ent|ing))(?= left (?:svc|superior vena cava|sided svc))",
        "Persistent left SVC.",
    ),
    (
        "interval-of-space",
        r"\b(?P<word>interval)(?= (?:between|spacing|of the ribs))",
        "Widened interval between the first ribs.",
    ),
    (
        "called-by-name",
        r"\b(?P<word>called)(?= (?:a|an|the)\b)",
        "Opacity called a hamartoma.",
    ),
    (
        "no-change-in-looks",
        r"\b(?:hemodynamically|clinically|mechanically) (?P<word>stable)\b",
        "The patient is hemodynamically stable.",
    ),
)
"""(name, expression whose group `word` is protected, example)."""

_SHIELD: Final = "\x02"
_COMPILED: Final = tuple(
    (re.compile(pattern), re.compile(pattern, re.IGNORECASE)) for _, pattern, _ in PROTECTED
)
PROTECTED_WORDS: Final = words(
    "prior previous increased decreased increase decrease persistent persisting change "
    "changes worse greater more less larger smaller improved better new interval called "
    "stable"
)


def shield(sentence: str) -> str:
    """Break the protected words so that no rule sees them; `unshield` makes them whole."""
    lowered = sentence.lower() if sentence.isascii() else None
    for in_lower_case, regex in _COMPILED:
        if lowered is None or in_lower_case.search(lowered):
            sentence = regex.sub(_shield_word, sentence)
            lowered = lowered and sentence.lower()
    return sentence


def unshield(sentence: str) -> str:
    """Undo `shield`."""
    return sentence.replace(_SHIELD, "")


def _shield_word(match: re.Match[str]) -> str:
    start = match.start("word") - match.start() + 1
    whole = match.group()
    return whole[:start] + _SHIELD + whole[start:]
