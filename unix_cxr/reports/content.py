"""Whether words state something of the present image, or only name a place in it."""

from collections.abc import Iterable
from typing import Final

from unix_cxr.reports.lexicon import PHRASES
from unix_cxr.reports.tokens import words

_OTHER: Final = """
    normal unremarkable clear enlarged enlargement intact midline low hyperinflated hyperinflation
    hyperexpanded hyperexpansion hypoinflated underinflated inflated expanded tortuous tortuosity
    ectatic ectasia unfolded calcified calcification calcifications calcific scoliosis kyphosis
    dextroscoliosis levoscoliosis degenerative osteophytes osteophyte spondylosis osteopenia
    osteopenic demineralized granuloma granulomas granulomatous hernia eventration elevation
    elevated blunting blunted scarring scar scars thickening thickened fibrosis fibrotic emphysema
    emphysematous copd bullae bulla bleb blebs lucency lucencies wires clips sternotomy cabg
    surgery surgical postsurgical postoperative prominent prominence deformity wedge compression
    deviated deviation shift shifted adenopathy lymphadenopathy hilar-fullness fullness crowding
    bronchiectasis pneumomediastinum pneumoperitoneum widened widening dilated dilatation
    distended distension gas-filled air-fluid dense density densities hazy haziness streaky
    patchy linear reticular interstitial markings disease abnormality abnormalities process
    acute active atherosclerotic atherosclerosis aneurysm aneurysmal tip tips terminates ends
    projects place position satisfactory standard appropriate mild moderate severe small large
    minimal trace foreign body implant implants shunt valve valvular replaced mastectomy
    lobectomy pneumonectomy resection cholecystectomy arthritis arthritic hemorrhage aspiration
    engorged engorgement vascularity-normal negative positive limits loss collapse rib-fracture
    healed chronic old remote absent missing artifact hyperlucent hyperlucency
    free aerated aeration-normal well inspiration inspiratory expiratory effort lordosis flattening
    flattened cyst cysts cystic cavity cavitary bronchitis bronchial cuffing pectus
    excavatum carinatum subluxation dislocation lysis lytic sclerotic sclerosis metastatic
    lesion lesions abscess subcutaneous plaque plaques tracheostomy nipple breast shadow skinfold
    apparatus electrode electrodes pectoral battery lymph calcium bulging bulge convexity loop
    loops stomach bubble ileus air obscured obscures obscuring silhouetting azygos fissure
    accessory cervical-rib anomaly variant rotation-none nodes node contusion histoplasmosis
    tuberculosis sarcoidosis asthma malpositioned coiled kinked mainstem intubation carina
    increased decreased asymmetric asymmetry tenting rounding
    pneumatocele pneumatoceles callus hyperostosis dish augmentation vertebroplasty kyphoplasty
    hypertension varices goiter stenosis narrowing narrowed thymus infarct calculi gallstones
    fusion laminectomy decreased-volume hypoaeration hypoventilation hypoventilatory
    volumes-low inflation-low shallow poor suboptimal tapering pruning"""

_PLACES: Final = words(
    "heart silhouette contour contours shadow size mediastinum cardiomediastinum pattern "
    "disease failure process"
)
STATES: Final = frozenset(_OTHER.split()) | (
    frozenset(word for entries in PHRASES.values() for words, _ in entries for word in words[-1:])
    - _PLACES
)


_EMPTY: Final = words(
    "a an the is are was were be been being of and or in on at to with for by from as that which "
    "this these those there it its has have had again also otherwise overall than but not no any "
    "more less very appears appear appearing seen noted present demonstrated identified visualized "
    "visualised shown size sizes contour contours silhouette silhouettes shadow appearance "
    "position "
    "positioning configuration cardiomediastinal cardiopericardial cardio mediastinal mediastinum "
    "cardiac heart hilar hila hilum lung lungs pulmonary vascular vascularity vasculature vessels "
    "bony bones osseous structures structure thorax thoracic chest soft tissues tissue finding "
    "findings study examination exam film radiograph radiographs image images view views aeration "
    "left right bilateral bilaterally both base bases basilar upper lower mid middle zone zones "
    "lobe "
    "lobes side sided apex apices field fields spine diaphragm hemidiaphragm hemidiaphragms aorta "
    "aortic trachea pleura pleural patient interval change changes changed degree extent area "
    "region visualized visible remaining remainder rest portion portions when where since now "
    "prior "
    "previous previously grossly essentially relatively stable unchanged similar interstitium "
    "significantly slightly likely probably exposure technique technical comparison significant "
    "s t ap pa time today current currently general other all some one two parenchyma abdomen "
    "superior inferior great mediastinal cardiovascular cardiopulmonary status thing"
)


def states_something(tokens: Iterable[str]) -> bool:
    """True unless every word only names a place, an examination, or nothing at all.

    >>> states_something(["heart", "size"]), states_something(["mild", "cardiomegaly"])
    (False, True)
    >>> states_something(["a", "bullet", "is", "present"])
    True
    """
    return any(
        token in STATES or (token not in _EMPTY and (token.isalpha() and len(token) > 1))
        for token in tokens
    )
