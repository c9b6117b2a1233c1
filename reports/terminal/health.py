"""What `pipetwin doctor` found, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.text import Text

from reports.terminal.console import console, plain_table, show_json
from sim.health import Finding

_STYLES = {"ok": "green", "info": "", "lost": "yellow", "broken": "bold red"}


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print findings by room, each with its remedy, or as JSON; 1 where something is broken."""
    broken = [finding for finding in findings if finding.status == "broken"]
    if as_json:
        show_json({"works": not broken, "findings": [asdict(finding) for finding in findings]})
        return 1 if broken else 0
    out = console()
    for room in dict.fromkeys(finding.room for finding in findings):
        table = plain_table(room, "", "")
        for finding in findings:
            if finding.room != room:
                continue
            status = Text(finding.status, style=_STYLES[finding.status])
            table.add_row(finding.what, status, finding.detail)
            if finding.remedy:
                table.add_row("", "", Text(f"-> {finding.remedy}", style="bold"))
        out.print(table)
        out.print()
    lost = [finding.what for finding in findings if finding.status == "lost"]
    if broken:
        out.print(f"Broken: {', '.join(f.what for f in broken)}. Mend these first.", soft_wrap=True)
    else:
        without = f" What is optional and does not: {', '.join(lost)}." if lost else ""
        out.print(f"All that is needed works.{without}", soft_wrap=True)
    return 1 if broken else 0
