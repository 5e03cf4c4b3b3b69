"""Turn a trained pipeline folder into package data: half precision, with an example image.

python scripts/bundle_weights.py runs/nano/pipeline unix_cxr/weights/nano
"""

import argparse
import json
from pathlib import Path

import torch

from unix_cxr.pipelines.marking import save_synthetic_png
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.pipelines.showcase import EXAMPLE

EXAMPLE_TEXT = "AP chest radiograph of a child. Bacterial pneumonia."
LARGEST_MEGABYTES = 40


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--known-finding", action="append", default=[])
    options = parser.parse_args()
    pipeline = UniXPipeline.from_pretrained(options.source)
    if options.known_finding:
        pipeline.model.config.known_findings = options.known_finding
    pipeline.to(torch.float16)
    pipeline.save_pretrained(options.target)
    for config in (options.target / "model_index.json", options.target / "vae" / "config.json"):
        content = json.loads(config.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)  # where it lay on the machine that trained it
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    bundled = UniXPipeline.from_pretrained(options.target)
    bundled.model_id = options.target.name
    drawn = bundled(EXAMPLE_TEXT, seed=7)
    facts = drawn.facts(0, with_prompt=True)
    save_synthetic_png(drawn.images[0], options.target / EXAMPLE, facts)
    size = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file()) / 1e6
    if size > LARGEST_MEGABYTES:
        raise ValueError(f"{options.target} takes {size:.1f} MB, more than {LARGEST_MEGABYTES}")
    parser.exit(0, f"{options.target}: {size:.1f} MB\n")


if __name__ == "__main__":
    main()
