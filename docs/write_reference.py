"""Write the pages of docs/reference from the schema and the commands: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"


def main() -> None:
    """Write each page where it belongs."""
    sys.path.insert(0, str(ROOT))
    from pipetwin import app
    from reports.commands.reference import pages

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages(app).items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {(FOLDER / name).relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
