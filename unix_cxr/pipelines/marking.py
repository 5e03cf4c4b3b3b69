"""Every drawn image says that it is synthetic: PNG text, and XMP with IPTC's source type."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unix_cxr.files import replacing

SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that a trained model made."""

_XMP_KEY: Final = "XML:com.adobe.xmp"
_XMP: Final = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def prompt_hash(prompt: str) -> str:
    """SHA-256 of a prompt: tells prompts apart without repeating what may name a patient."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def save_synthetic_png(image: Image.Image, path: Path, facts: Mapping[str, object]) -> None:
    """Write a PNG that is marked as synthetic; it appears whole or not at all.

    Args:
        image: what was drawn.
        path: of the file.
        facts: what else to write down, as JSON: model, seed, prompt hash, version.
    """
    info = PngInfo()
    info.add_text("Synthetic", "yes: drawn by a generative model; not an X-ray of any person")
    info.add_text("Software", f"unix_cxr {facts.get('version', '')}".strip())
    info.add_text("unix_cxr", json.dumps(dict(facts), sort_keys=True))
    info.add_itxt(_XMP_KEY, _XMP)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def is_marked_synthetic(path: Path) -> bool:
    """Whether a PNG carries the mark of `save_synthetic_png`."""
    with Image.open(path) as image:
        return SOURCE_TYPE in str(image.info.get(_XMP_KEY, ""))
