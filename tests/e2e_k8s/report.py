"""What was checked, what was not, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """The checks of one run, in their order."""

    passed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def check(self, what: str, is_so: bool) -> None:
        """Note one check, and print it: a run takes its time."""
        (self.passed if is_so else self.failed).append(what)
        print(f"{'ok' if is_so else 'FAILED':8}{what}", flush=True)

    def skip(self, what: str) -> None:
        """Note what is not checked, and why."""
        self.skipped.append(what)
        print(f"{'skipped':8}{what}", flush=True)

    def text(self) -> str:
        """Return the end of the report: how much was checked, and what is wrong or was left out."""
        rows = (("FAILED", self.failed), ("skipped", self.skipped))
        lines = [f"{word:8}{line}" for word, lines in rows for line in lines]
        counts = f"{len(self.passed)} checks passed, {len(self.failed)} failed, {len(self.skipped)} were skipped"
        return "\n".join(["", *lines, counts])
