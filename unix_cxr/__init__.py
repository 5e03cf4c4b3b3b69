"""One model, two jobs: it writes the report of a chest X-ray and draws the X-ray of a report.

Public names are imported on first use, so `import unix_cxr` costs milliseconds.
"""

from importlib import import_module
from typing import Any, Final

__version__ = "0.1.0"

_PUBLIC: Final = {
    "Context": "unix_cxr.models.context",
    "FrontalStudies": "unix_cxr.data.frontal",
    "GenerationBranch": "unix_cxr.models.generation",
    "Image": "unix_cxr.models.context",
    "JointBlock": "unix_cxr.modules.joint_block",
    "Latents": "unix_cxr.models.context",
    "PreparedStudies": "unix_cxr.data.prepared",
    "ReportCleaner": "unix_cxr.reports.cleaner",
    "Study": "unix_cxr.data.studies",
    "SyntheticStudy": "unix_cxr.data.dicom_writing",
    "Text": "unix_cxr.models.context",
    "UniXConfig": "unix_cxr.models.config",
    "UniXModel": "unix_cxr.models.unix",
    "UniXPipeline": "unix_cxr.pipelines.pipeline",
    "UniXProcessor": "unix_cxr.pipelines.processing",
    "XRay": "unix_cxr.data.pixels",
    "load_xray": "unix_cxr.data.pixels",
    "open_source": "unix_cxr.data.sources",
    "phi_report": "unix_cxr.data.identifying",
    "write_dicom": "unix_cxr.data.dicom_writing",
    "write_png": "unix_cxr.data.png",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - names are resolved by __getattr__


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import a public name when it is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'unix_cxr' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
