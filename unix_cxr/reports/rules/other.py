"""Rules for what is no finding: communication, recommendation, technique, history and so on."""

from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule, words
from unix_cxr.reports.rules.phrases import STUDY

_PEOPLE: Final = (
    r"(?:dr\b|doctor|physician|nurse|\brn\b|team|resident|clinician|service|telephone|phone|pager|"
    r"\ber\b|\bed\b|\bicu\b|house ?officer|provider|office|staff|\bpa\b|\bnp\b|m\.?d\b|"
    r"department|surgeon|attending|intern|dashboard|system|emergency|floor|patient|page|"
    r"referring|ordering|hospitalist|fellow|by ___|with ___|to ___|at ___|time of|___)"
)
_TOLD: Final = (
    r"(?:discussed|communicated|conveyed|relayed|telephoned|phoned|paged|notified|informed|"
    r"reported|called|transmitted|emailed|e-mailed|texted|posted|entered|flagged|submitted|"
    r"alerted|contacted|reviewed with|verbally|messaged|made aware|faxed|forwarded|placed into)"
)
_TOLD_WORDS: Final = words(
    "discussed communicated conveyed relayed telephoned phoned paged notified informed reported "
    "called transmitted emailed texted posted entered flagged submitted alerted contacted reviewed "
    "verbally messaged aware faxed forwarded placed given told mailed e"
)
_LOOKED_AT: Final = (
    r"(?:ct|computed tomography|mri|pet(?:[-/]ct)?|ultrasound|sonograph\w*|radiographs?|"
    r"radiography|films?|imaging|views?|follow[- ]?up|x-?rays?|x-___|stud(?:y|ies)|series|exam\w*|"
    r"evaluation|correlation|clinical\w*|echo\w*|biopsy|bronchoscopy|repeat|advancement|withdrawal|"
    r"retraction|repositioning|short[- ]interval|surveillance|tomography|chest|attention|"
    r"oblique\w*|scan\w*|comparison|treatment|therapy|diuresis|workup|work-up|___|consultation|"
    r"characterization|management|monitoring|confirmation|assessment|documentation|resolution)"
)

COMMUNICATION: Final = (
    Rule(
        "communication.told-tail",
        Category.COMMUNICATION,
        rf"(?:[,;:.]|\s-|\s\()\s*(?:and |as |a |these |this |the |all |above |critical |"
        r"findings? |results? |information |which |that |preliminary |it |impression |(?:\w+ "
        rf"){{1,5}}?(?=(?:was|were|has|have) ))*"
        rf"(?:(?:was|were|is|are|has been|have been) )?(?:\w+ly )?{_TOLD}\b"
        rf"(?=[^;]*?\b{_PEOPLE})[^;]*$",
        _TOLD_WORDS,
        (
            "Large left pneumothorax, which was reported to Dr. ___ at 9 am.",
            "Large left pneumothorax.",
        ),
        "Right hilar mass, called a hamartoma by its popcorn calcification.",
    ),
    Rule(
        "communication.told",
        Category.COMMUNICATION,
        rf"\b(?:(?:was|were|is|are|been|be|i|we|he|she|had|has|have|been) (?:\w+ly )?{_TOLD}|"
        rf"^{_TOLD}|(?:findings?|results?|case|study|above|impression|this)\b.{{0,40}}\b{_TOLD})\b"
        rf"(?=.*\b{_PEOPLE}|.*\b(?:at|on|by|via)\b)",
        _TOLD_WORDS,
        ("These results were communicated to the ED team.", ""),
        "A nodule is reported in the right upper lobe.",
        Action.REMOVE,
    ),
    Rule(
        "communication.persons",
        Category.COMMUNICATION,
        r"\b(?:acknowledged|read[- ]?back|voicemail|voice mail|requested a|wet read|dashboard|"
        r"pager|verbal(?:ly)? (?:report|communicat)|message (?:was|has been|left)|"
        r"telephone\b|by (?:tele)?phone|"
        r"over the (?:tele)?phone|(?:tele)?phone (?:call|conversation)|"
        r""
        r"telephone report|^call |please (?:call|contact|page)|aware of (?:the|these|this)"
        r"|critical (?:result|finding|value)s?|discussion with)",
        words(
            "acknowledged read readback voicemail voice requested wet dashboard pager verbal "
            "verbally message phone telephone call please aware critical discussion"
        ),
        ("A message was left at the clinic.", ""),
        "The right hemidiaphragm is elevated.",
        Action.REMOVE,
    ),
    Rule(
        "communication.doctor",
        Category.COMMUNICATION,
        r"\b(?:dr|drs|doctors?)\b\.? (?:___|(?-i:[A-Z]))|\bthank you\b|\bm\.?d\.? (?:was|on|by|"
        r"at)\b",
        words("dr drs doctor doctors thank md d"),
        ("Dr. ___ requested this examination.", ""),
        "The drain ends in the right pleural space.",
        Action.REMOVE,
    ),
)

RECOMMENDATION: Final = (
    Rule(
        "recommendation.tail",
        Category.RECOMMENDATION,
        rf"(?:[,;]|\s-|\s\()\s*(?:and |but |for which |therefore |thus |so )*"
        rf"(?:(?:[^,;]{{0,60}}?\b(?:(?:is|are|be) )?(?:again )?(?:recommended|advised|suggested|"
        r"warranted|requested|required))|"
        r"(?:would |we |i |please |strongly )*(?:recommend|suggest|advise|consider|"
        r"correlate)(?:ed|ing)?\b"
        rf"(?=[^,;]*\b{_LOOKED_AT}|[^,;]*\b(?:by|advanc\w+|retract\w+|withdraw\w+|reposition\w+)\b)"
        rf"|(?:clinical(?:ly)? )?correlat(?:e|ion)\b)[^;]*?(?=[.;]?$)",
        words(
            "recommended advised suggested warranted requested required recommend suggest advise "
            "consider correlate correlation recommending suggesting considering"
        ),
        (
            "Right base opacity, recommend clinical correlation for pneumonia.",
            "Right base opacity.",
        ),
        "Bibasilar opacities, suggesting edema.",
    ),
    Rule(
        "recommendation.should",
        Category.RECOMMENDATION,
        r"(?:,? (?:and|which|that|but|this))? (?:should|could|can|may|would|might|needs? to|"
        r"will|must)"
        r"(?: also| then| probably| either)? (?:be )?(?:(?:further|better|more fully|"
        r"additionally) )?"
        r"(?:(?:evaluated|assessed|characterized|followed(?! into)|imaged|correlated|confirmed|"
        r"withdrawn|"
        r"retracted|advanced|repositioned|pulled back|investigated|delineated|repeated|reassessed|"
        r"obtained|performed|re-?evaluated|monitored|helpful|useful|beneficial|of use|"
        r"considered (?:for|to)|"
        r"documented|clarified|removed)\b|follow[- ]?up)[^;]*?(?=[.;]?$)",
        words(
            "evaluated assessed characterized followed imaged correlated confirmed withdrawn "
            "retracted advanced repositioned pulled investigated delineated repeated reassessed "
            "obtained performed reevaluated monitored helpful useful beneficial considered "
            "follow followup "
            "of documented clarified removed re"
        ),
        (
            "Left upper lobe nodule should be further evaluated with CT.",
            "Left upper lobe nodule.",
        ),
        "Opacity may be followed into the left hilum.",
        also=(words("should could can may would might need needs will must"),),
    ),
    Rule(
        "recommendation.setting",
        Category.RECOMMENDATION,
        r",? ?(?:\b(?:if|as|when|where)(?: there is)?(?: a)? (?:clinically|clinical|medically)"
        r" (?:indicated|warranted|appropriate|suspected|concern\w*|suspicion|necessary|relevant|"
        r"feasible|needed|desired|concerned|question\w*|correlat\w+)|"
        r"\bin the (?:appropriate|correct|right|proper) clinical (?:setting|context|scenario))"
        r"[^,.;]*",
        words("clinically clinical medically"),
        (
            "Left basilar opacity could represent pneumonia in the appropriate clinical setting.",
            "Left basilar opacity could represent pneumonia.",
        ),
        "Clinically occult rib fractures are seen.",
    ),
    Rule(
        "recommendation.advice",
        Category.RECOMMENDATION,
        r"\b(?:(?:is|are|be|was|were|also|strongly|again|correlation|evaluation|ct|follow-up) "
        r"recommended\b|recommended(?=\.?$| (?:for|to|in|after|when|with|on|if|as|at|by)\b)|"
        r"recommend(?:s|ations?|ing)?\b|^recommended\b|(?:is|are|be) (?:advised|suggested|"
        r"advisable|"
        rf"warranted|requested|indicated|needed|necessary|required)\b|"
        rf"^(?:please |would |we |may |also |clinical |also )*(?:suggest|consider|advise|correlate|"
        rf"obtain|repeat|follow|attention|continued|further|withdraw|advance|retract|reposition|"
        rf"clinical(?:ly)?)\b(?=.*\b{_LOOKED_AT}|.*\bby\b)|^(?:clinical )?correlat\w+|"
        r"attention (?:on|to|at) (?:\w+ )?(?:follow|next)|further evaluat\w+ (?:with|by|could|"
        r"can)|"
        r"(?:may|might|could|would|can) (?:also )?be (?:helpful|useful|obtained|performed|"
        r"reasonable|"
        rf"considered for|of (?:use|help|value|benefit)|beneficial|repeated)|"
        rf"if (?:clinical|there is|symptoms|concern|further|indicated|warranted|needed|desired|"
        rf"patient|persistent|the clinical)\b.*\b(?:{_LOOKED_AT})|follow[- ]?up (?:{STUDY}|to|"
        r"is|in|"
        rf"with|as|until|after|by|chest|recommended|examination|ct|pa)|"
        rf"correlat(?:e|ion) (?:with|to|for|is))",
        words(
            "recommend recommended recommends recommendation recommendations recommending advised "
            "suggested advisable warranted requested indicated needed necessary required suggest "
            "consider advise correlate obtain repeat follow attention continued further withdraw "
            "advance retract reposition clinical clinically correlation correlated helpful useful "
            "obtained performed reasonable considered may might could would can beneficial "
            "repeated if followup evaluation evaluate "
            "evaluated correlating correlates followed"
        ),
        ("Consider CT for further evaluation.", ""),
        "Consider the aorta tortuous.",
        Action.REMOVE,
    ),
)

_AGED: Final = (
    r"(?:\d{1,3}|___)[- ]?(?:years?|yrs?|y|yo|y/o|months?|days?|weeks?|m|f)\b[- /]*(?:olds?|o)?|"
    r"(?:\d{1,3}|___) ?(?:yo|y/o|m|f)\b"
)

HISTORY: Final = (
    Rule(
        "history.in-this-patient",
        Category.HISTORY,
        r"(?:^in (?:this|a|the) (?:\S+ ){0,3}?(?:patient|man|woman|male|female|gentleman|lady)\b"
        r"[^,]*,\s*|,? \b(?:in|for) (?:this|a|the) (?:\S+ ){0,3}?(?:patient|man|woman|male|female)"
        r"(?: (?:with|who|status)\b[^,;.]*)?|,? given (?:the )?(?:patient'?s? |clinical |known )*"
        r"(?:history|symptoms|presentation)\b[^,;.]*)",
        words("patient man woman male female gentleman lady given"),
        (
            "Moderate cardiomegaly in this patient with known heart failure.",
            "Moderate cardiomegaly.",
        ),
        "The patient is status post CABG.",
    ),
    Rule(
        "history.age",
        Category.HISTORY,
        rf"^(?:(?:the |this |a |an |patient |is |history of |mr |mrs |ms )*(?:{_AGED})"
        r"|.*\b(?:is|in) (?:a |an )?(?:___|\d{1,3})[- ]?(?:year|yr|month|week|day|y/?o))",
        words("year years yr yrs yo y m f month months day days week weeks old ___"),
        ("54 year old female presenting with cough and fever.", ""),
        "A 54 mm mass in the right lung.",
        Action.REMOVE,
    ),
    Rule(
        "history.known",
        Category.HISTORY,
        r"^(?:(?:the |this )?(?:patient|pt)(?: has| had| with| is known)?(?: a| an)?(?: known| "
        r"prior| "
        r"remote| past)? (?:history|hx)\b|(?:(?:clinical|past|medical|prior|known|remote|smoking|"
        r"surgical|patient|with|a) )*(?:history|hx)\b|(?:patient|pt) (?:presents|presented|"
        r"complains|reports|"
        r"complaining|presenting)|(?:presents|presenting|presented|complains) with\b|"
        r"(?:reason|indication)\b|h/o\b|(?:clinical|medical) (?:indication|information|data|"
        r"concern|condition))",
        words(
            "history hx presents presented complains reports presenting complaining reason "
            "indication indications information data concern condition h"
        ),
        ("History of congestive heart failure.", ""),
        "The heart has a globular shape.",
        Action.REMOVE,
    ),
    Rule(
        "history.question",
        Category.HISTORY,
        r"^(?:please )?(?:evaluate|eval|assess|rule[- ]?out|r/o|exclude|query|question(?: of)?|"
        r"looking for|confirm|check)\b|^evaluation (?:of|for)\b",
        words(
            "evaluate eval assess rule r ruleout exclude query question looking confirm check "
            "evaluation"
        ),
        ("Evaluate for pneumonia.", ""),
        "A question mark shaped catheter loop is seen.",
        Action.REMOVE,
    ),
)

ADMINISTRATIVE: Final = (
    Rule(
        "administrative.as-above",
        Category.ADMINISTRATIVE,
        r",? ?\(?\bas (?:discussed|described|detailed|noted|mentioned|stated|outlined) "
        r"(?:above|below)\)?",
        words("above below"),
        ("Chronic findings of emphysema as discussed below.", "Chronic findings of emphysema."),
        "The tip lies below the carina.",
        also=(words("discussed described detailed noted mentioned stated outlined"),),
    ),
    Rule(
        "administrative.signature",
        Category.ADMINISTRATIVE,
        r"\b(?:(?:electronically|digitally) (?:signed|approved|verified)|dictated|transcribed|"
        r"signed (?:by|on|at|electronically)|approved by|verified by|interpreted by|reported by|"
        r"reviewed by|read by|voice recognition|speech recognition|"
        r"transcription(?:ist)?|typographical|dragon|(?:personally|i have|has|have) (?:\w+ )?"
        r"(?:reviewed|viewed|examined)|agree(?:s|d)? with|concur(?:s|red)? with|end of (?:the )?"
        r"(?:report|impression|dictation)|end (?:report|impression)|job (?:id|number)|accession|"
        r"attending radiologist|resident radiologist|this report|report status|final report|"
        r"preliminary report|copy to|see (?:above|below|findings|report|impression|full report|"
        r"ct|separate)|as above|not otherwise specified|page \d|clip #|medical record|mrn|"
        r"(?:discrepan\w+|addendum|preliminary (?:findings|read|report|interpretation))\b)",
        words(
            "electronically digitally dictated transcribed signed approved verified interpreted "
            "reported reviewed read voice speech transcription transcriptionist typographical "
            "dragon personally viewed examined agree agrees agreed concur concurs concurred end "
            "job "
            "accession attending resident report copy see above page clip medical mrn "
            "preliminary addendum specified discrepancy discrepant"
        ),
        ("Electronically signed by ___, MD.", ""),
        "The end of the catheter lies in the SVC.",
        Action.REMOVE,
    ),
)
