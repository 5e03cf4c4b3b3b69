"""Rules for technique and views: what they show stays, how it was taken goes."""

from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule, words

_VIEW: Final = (
    r"(?:(?:a|an|the|one|two|three|single|1|2|3|___|supine|semi-?erect|semi-?upright|upright|erect|"
    r"portable|ap|pa|frontal|lateral|lat|and|/|,|bedside|mobile|standing|sitting|digital|"
    r"additional|"
    r"this|these|submitted|provided|available|current|dual-energy|radiographic|posteroanterior|"
    r"anteroposterior|semi|chest|decubitus|lordotic|oblique|repeat|initial|dedicated|conventional|"
    r"pa/lateral|ap/lateral|\d+) ?)*"
    r"(?:chest )?(?:views?|radiographs?|films?|images?|projections?|x-?rays?|x-___|examinations?|"
    r"exam|stud(?:y|ies)|radiography)(?: (?:of|through|from) (?:the )?(?:chest|thorax|abdomen|___)"
    r"(?: and (?:upper )?abdomen)?)?"
)
_SHOWS: Final = (
    r"(?:again )?(?:demonstrates?|shows?|reveals?|displays?|depicts?|exhibits?|(?:is|are) "
    r"notable for|"
    r"(?:is|are) remarkable for|demonstrated|showed|revealed|showing|demonstrating)(?: that)?"
)
_VIEW_WORDS: Final = words(
    "view views radiograph radiographs film films image images projection projections xray xrays x "
    "examination examinations exam study studies radiography"
)

TECHNIQUE: Final = (
    Rule(
        "technique.technical-factors",
        Category.TECHNIQUE,
        r"^(?:considering|given|allowing for|accounting for) (?:the )?(?:differences? in "
        r")?technical (?:factors|differences),? ",
        words("considering given allowing accounting"),
        ("Considering technical factors the heart size is normal.", "The heart size is normal."),
        "Given the kyphosis the heart is normal.",
    ),
    Rule(
        "technique.view-shows",
        Category.TECHNIQUE,
        rf"^(?:the )?{_VIEW}(?:,? (?:was|were)? ?(?:obtained|provided|performed|submitted)"
        rf"[^.]{{0,30}}?)? {_SHOWS}:? (?:the following:? )?",
        _VIEW_WORDS,
        ("A single AP view of the chest shows no pneumothorax.", "No pneumothorax."),
        "The heart shows mild enlargement.",
    ),
    Rule(
        "technique.on-view",
        Category.TECHNIQUE,
        r",? ?\(?(?:\b(?:best |better |only |well |also |just |faintly )*(?:(?:seen|visualized|"
        r"appreciated|"
        r"identified|noted|demonstrated|visible|evident|apparent) )?)?\b(?:on|in|by) (?:the |"
        r"this |a |"
        r"both |these |single )?(?:lateral|frontal|pa|ap|current|portable|today's|present|ap/pa|"
        r"lordotic|oblique|supine)(?:,? ?(?:and|or) (?:the )?(?:lateral|frontal|pa|ap))?"
        r"(?: chest)? (?:views?|projections?|radiographs?|films?|images?|exam\w*|stud(?:y|ies)|"
        r"x-?rays?)"
        r"\)?(?: only| alone)?,?",
        _VIEW_WORDS,
        (
            "On the lateral view, a small effusion blunts the posterior sulcus.",
            "A small effusion blunts the posterior sulcus.",
        ),
        "A mass on the lateral chest wall is seen.",
        also=(
            words("on in by"),
            words("lateral frontal pa ap current portable today's present lordotic oblique supine"),
        ),
    ),
    Rule(
        "technique.image-number",
        Category.TECHNIQUE,
        r" ?\((?:see )?(?:series|image|im|se|slice|key image|arrow)s?\b[^)]*\)|"
        r",? \b(?:on )?series (?:\d+|___),? image (?:\d+|___)",
        words("series image images im se slice key arrow"),
        ("Hilar mass (series 2, image 14).", "Hilar mass."),
        "A series of healed rib fractures is seen.",
    ),
    Rule(
        "technique.limited-by",
        Category.TECHNIQUE,
        rf"^(?:(?:the |this )?(?:{_VIEW}|evaluation|assessment|exam|interpretation)(?: of "
        r"[^,;]+?)? (?:is|are|was|remains) "
        r"(?:\w+ )?(?:limited|degraded|suboptimal|compromised|limited in)(?: by| due to| "
        r"secondary to|"
        r" because of| given)|limited (?:exam|examination|study|evaluation|film)(?: due to| by|"
        r" secondary to| because of)) (?:the )?(?=.*\b(?:volumes?|opaci|effusion|atelect|edema|"
        r"consolid))",
        words("limited degraded suboptimal compromised"),
        ("Evaluation is limited by low lung volumes.", "Low lung volumes."),
        "The right costophrenic sulcus is blunted by low lung volumes.",
    ),
    Rule(
        "technique.views",
        Category.TECHNIQUE,
        r"^(?:(?:the )?(?:exam\w*|study|technique) (?:consists of|includes|is composed of|"
        r"comprises) .*"
        rf"|(?:there (?:is|are) )?{_VIEW}(?:,? (?:and|with) {_VIEW})?(?:,? (?:(?:was|were|is|"
        r"are) )?(?:\w+ )?(?:obtained|provided|"
        r"performed|submitted|acquired|available|presented|reviewed|taken|received|interpreted|"
        r"evaluated|done|made|limited|repeated|compared|with)\b.*)?"
        r"|(?:chest|portable|ap|pa|cxr|upright|supine)[,:;]? (?:\(?(?:single|one|two|portable|ap|"
        r"pa|and|lat|lateral|2|1|view|views|frontal|upright|supine|line|placement|only|erect|"
        r"chest|radiograph|semi-erect|film|x-ray|xray|___)\)?[,/ ]*)+"
        r"(?:clip # ?\S*)?)[.:]?$",
        _VIEW_WORDS
        | words("consists includes composed comprises chest portable cxr upright supine ap pa"),
        ("PA and lateral views of the chest were obtained.", ""),
        "PA catheter tip is in the right main pulmonary artery.",
        Action.REMOVE,
    ),
    Rule(
        "technique.header-line",
        Category.TECHNIQUE,
        rf"^(?:{_VIEW}|(?:(?:ap|pa|portable|frontal|upright|supine|and|lateral|semi-erect) )*chest)"
        r"[^:;]{0,80}\b(?:compared|comparison|___|am|pm|view|views|portable|single|"
        r"hours?)\b[^:;]{0,60}:$",
        words("compared comparison ___ am pm view views portable single hour hours"),
        ("AP chest compared to ___:", ""),
        "Chest tube on the left: no pneumothorax.",
        Action.REMOVE,
    ),
    Rule(
        "technique.rotated",
        Category.TECHNIQUE,
        r"\b(?:patient|study|exam\w*|image|film|radiograph|positioning|view)\b.{0,40}\b(?:is|"
        r"are|was|"
        r"were|slightly|mildly|markedly)\b.{0,15}\brotat\w+|\brotated (?:positioning|patient|film|"
        r"radiograph|view|study)|\bpatient (?:rotation|motion|positioning)\b|^rotat(?:ed|ion)\b"
        r"|\b(?:lordotic|kyphotic|semi-?erect|apical lordotic) (?:positioning|position|"
        r"technique|view|patient)\b",
        words("rotated rotation motion positioning lordotic kyphotic semi semierect apical"),
        ("The patient is rotated to the right.", ""),
        "The mediastinum is shifted to the right.",
        Action.REMOVE,
    ),
    Rule(
        "technique.quality",
        Category.TECHNIQUE,
        r"\b(?:field of view|collimated|collimation|under-?penetrat\w*|over-?penetrat\w*|"
        r"under-?exposed|over-?exposed|(?:film|radiographic|low|poor) exposure|penetration|"
        r"excluded from|not included|"
        r"(?:is|are) excluded|incompletely imaged|cut off|off the (?:film|edge|image)|"
        r"technically (?:limited|adequate|suboptimal)|technical factors|(?:study|exam\w*|film|"
        r"image|"
        r"evaluation|assessment|radiograph|detail|quality|sensitivity)s? (?:of .{0,40} )?(?:is|"
        r"are|was|remains) "
        r"(?:\w+ )?(?:limited|degraded|suboptimal|compromised|of limited|adequate|obscured|"
        r"technically|"
        r"rotated|difficult)|(?:limited|suboptimal) (?:study|exam\w*|evaluation|film|assessment|"
        r"quality)|"
        r"(?:was|were) (?:obtained|acquired|performed) (?:with|at|in|for|using|while)|"
        r"(?:was|were) performed|for evaluation of|large body habitus)",
        words(
            "field collimated collimation underpenetrated overpenetrated under over underexposed "
            "overexposed exposure penetration excluded included incompletely cut off technically "
            "technical limited degraded suboptimal compromised adequate obscured rotated difficult "
            "obtained acquired performed underpenetration evaluation habitus soft overpenetration"
        ),
        ("The costophrenic angles are excluded from the field of view.", ""),
        "Limited excursion of the right hemidiaphragm.",
        Action.REMOVE,
    ),
)
