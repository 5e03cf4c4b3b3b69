"""Build the wheel, install it away from the source tree, and use it: draw, describe, help."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
USE = """
import sys
from pathlib import Path
import unix_cxr
here = Path(unix_cxr.__file__)
assert here.is_relative_to(sys.argv[1]), f"{here} is not the installed wheel"
assert (here.parent / "py.typed").is_file()
from unix_cxr import ReportCleaner, UniXPipeline
pipe = UniXPipeline.from_pretrained("nano")
drawn = pipe("No pneumonia.", seed=0, num_inference_steps=2)
report = pipe.describe(drawn.images).reports[0]
cleaned = ReportCleaner().clean("FINDINGS: Unchanged right PICC. No pneumothorax.")
print("drew", drawn.images[0].size, "wrote", repr(report), "cleaned", repr(cleaned.text))
"""


def main() -> None:
    """Run the check; a failing step raises."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
        subprocess.run([*build, str(folder)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        (wheel,) = folder.glob("*.whl")
        site = folder / "site"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*install, str(site), str(wheel)], check=True)
        environment = os.environ | {"PYTHONPATH": str(site)}
        subprocess.run(
            [sys.executable, "-c", USE, str(site)], check=True, cwd=folder, env=environment
        )
        sys.stdout.write(f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) works on its own\n")


if __name__ == "__main__":
    main()
