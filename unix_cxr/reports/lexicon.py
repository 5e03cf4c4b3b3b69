"""Phrases by which the rule labeler knows the 14 findings; whole words, hyphens read as spaces."""

from typing import Final

from unix_cxr.reports.tokens import words

# `?Label`: no more than a doubt, however plainly stated (congestion is not yet edema).
# Each line: phrases divided by commas. `a|b` stands for either word.
_PHRASES: Final[dict[str, str]] = {
    "Enlarged Cardiomediastinum": """
        widened mediastinum, mediastinal widening, mediastinal enlargement, mediastinum is widened,
        widening of the mediastinum, widened mediastinal silhouette|contour|contours,
        enlarged cardiomediastinal silhouette|contour|contours, enlarged cardiomediastinum,
        cardiomediastinal enlargement, enlarged mediastinum, enlarged mediastinal silhouette,
        prominent mediastinum, prominent mediastinal silhouette|contour|contours,
        prominence of the mediastinum, enlargement of the cardiomediastinal silhouette,
        mediastinal prominence""",
    "Cardiomegaly": """
        cardiomegaly, enlarged heart, cardiac enlargement, enlargement of the heart,
        enlargement of the cardiac silhouette, enlargement of cardiac silhouette,
        enlarged cardiac silhouette|contour|shadow|size, prominent cardiac silhouette,
        prominent heart, enlarged heart size, heart enlargement, increased heart size,
        increased cardiac size, enlargement of heart, cardiomyopathy, megalocardia, big heart,
        large heart, large cardiac silhouette, prominence of the cardiac silhouette,
        prominence of the heart, enlargement of the cardiopericardial silhouette,
        cardiopericardial enlargement, enlarged cardiopericardial silhouette,
        ventricular enlargement,
        atrial enlargement, enlarged heart silhouette, enlarged cardiac and mediastinal silhouette,
        mild heart enlargement, biventricular enlargement""",
    "Lung Lesion": """
        mass, masses, nodule, nodules, nodular density|densities|opacity|opacities|opacification,
        lung lesion|lesions, pulmonary lesion|lesions, cavitary lesion|lesions, carcinoma, neoplasm,
        tumor, tumors, tumour, metastasis, metastases, metastatic disease, hamartoma, malignancy,
        bronchogenic cancer, lung cancer, micronodules""",
    "Lung Opacity": """
        opacity, opacities, opacification, opacifications, opacified, airspace disease,
        air space disease, airspace process, air space process, infiltrate, infiltrates,
        infiltration, infiltrations, interstitial marking|markings, interstitial pattern,
        interstitial lung disease, reticular pattern|markings|opacities, reticulation,
        peribronchial thickening, parenchymal scarring, increased density, decreased translucency,
        retrocardiac density, interstitial thickening, interstitial prominence,
        interstitial disease, airspace opacity, alveolar opacity|opacities, white out, whiteout,
        interstitial changes, reticulonodular pattern|opacities, ground glass""",
    "Edema": """edema, oedema""",
    "?Edema": """vascular congestion, pulmonary congestion, pulmonary venous congestion,
        congestive heart failure, heart failure, chf, congestive failure, venous congestion,
        cephalization, vascular engorgement, volume overload, fluid overload, kerley b lines,
        cardiac decompensation, congestive changes, vascular redistribution""",
    "Consolidation": """
        consolidation, consolidations, consolidative, consolidated""",
    "Pneumonia": """
        pneumonia, pneumonias, pneumonic, bronchopneumonia, infection, infectious process,
        infectious, pneumonitis, infectious infiltrate""",
    "Atelectasis": """
        atelectasis, atelectases, atelectatic, subatelectasis, lobar collapse, lobe collapse,
        lung collapse, collapse, collapsed, atelectactic, atelectasia""",
    "Pneumothorax": """
        pneumothorax, pneumothoraces, hydropneumothorax, hydropneumothoraces, pneumothoracies""",
    "Pleural Effusion": """
        effusion, effusions, pleural fluid, hydropneumothorax, hydropneumothoraces, hydrothorax,
        hemothorax, haemothorax, empyema, hemopneumothorax, fluid in the fissure|fissures,
        pleural collection, pleural collections""",
    "Pleural Other": """
        pleural thickening, pleural scarring, pleural scar, pleural plaque, pleural plaques,
        fibrothorax, pleural calcification, pleural calcifications, pleuroparenchymal scarring,
        pleural parenchymal scarring, pleuro parenchymal scarring, calcified plaque,
        pleural parenchymal scar, apical thickening, apical capping""",
    "Fracture": """
        fracture, fractures, fractured""",
    "Support Devices": """
        tube, tubes, catheter, catheters, picc, pacemaker, pacemakers, pacer, pacers, port, ports,
        portacath, mediport, port a cath, line, lines, icd, aicd, defibrillator, drain, drains,
        stent, stents, hardware, prosthesis, prosthetic, arthroplasty, cannula, sheath,
        sternotomy wires, sternal wires, wires, clips, clip, leads, lead, generator, plate, plates,
        screws, screw, rods, coil, coils, balloon pump, iabp, ett, endotracheal, nasogastric,
        tracheostomy, dobbhoff, swan ganz, pigtail, filter, cerclage, valve replacement,
        support device|devices, monitoring devices, device, impella, ecmo, vad, lvad, stimulator""",
}

_LONGEST: Final = 6


def _expand(phrase: str) -> list[tuple[str, ...]]:
    options: list[tuple[str, ...]] = [()]
    for word in phrase.split():
        options = [(*head, choice) for head in options for choice in word.split("|")]
    return options


def _index() -> dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]]:
    """First word -> the phrases that begin with it, longest first, each with its labels."""
    by_phrase: dict[tuple[str, ...], list[str]] = {}
    for label, text in _PHRASES.items():
        for phrase in text.split(","):
            for variant in _expand(phrase):
                by_phrase.setdefault(variant, []).append(label)
    index: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for variant, found_labels in by_phrase.items():
        index.setdefault(variant[0], []).append((variant, tuple(found_labels)))
    return {
        first: tuple(sorted(found, key=lambda item: -len(item[0])))
        for first, found in index.items()
    }


PHRASES: Final = _index()
"""First word -> ((words of the phrase, labels), …), longest phrase first."""

HEART: Final = words(
    "heart cardiac cardiopericardial cardiomediastinal cardiomediastinum mediastinum"
)
"""Subjects that "enlarged" may say something of."""

ENLARGED: Final = words("enlarged enlargement enlarges widened widening prominent prominence")

SIDES: Final[dict[str, tuple[str, ...]]] = {
    "left": ("left",),
    "right": ("right",),
    "bilateral": ("left", "right"),
    "bilaterally": ("left", "right"),
    "bibasilar": ("left", "right"),
    "bibasal": ("left", "right"),
    "biapical": ("left", "right"),
    "both": ("left", "right"),
    "lingula": ("left",),
    "lingular": ("left",),
}

SEVERITIES: Final[dict[str, str]] = {
    **dict.fromkeys(["trace", "tiny", "minimal", "minimally", "minute", "miniscule"], "minimal"),
    "borderline": "borderline",
    **dict.fromkeys(["small", "mild", "mildly", "slight", "slightly", "subtle"], "mild"),
    **dict.fromkeys(["moderate", "moderately", "medium"], "moderate"),
    **dict.fromkeys(
        [
            "large", "severe", "severely", "massive", "marked", "markedly", "extensive",
            "substantial",   "huge",
        ],
        "severe",
    ),
}  # fmt: skip

NOT_A_MENTION: Final[tuple[tuple[str, str], ...]] = (
    ("body soft bone bony muscle", "mass masses"),
    ("vertebral body compression wedge endplate vertebra", "collapse collapsed"),
    ("pleural skin fracture fissural clavicular midclavicular axillary fat spinal interspinous",
     "line lines"),
    ("soft", "edema"),
    ("pericardial", "effusion effusions"),
    ("respiratory renal liver", "failure"),
    ("nipple", "nodule nodules"),
    ("to can may could would", "lead port"),
    ("chest", "plate"),
)  # fmt: skip
"""(words before, words) that are no finding: "soft tissue mass", "vertebral collapse"."""
