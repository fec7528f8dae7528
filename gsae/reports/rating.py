"""The page on which one person rates features that are blinded: self-contained, it saves as it goes, exports JSON."""

from typing import Any

from gsae.artifacts import fingerprint
from gsae.reports.packing import interactive_page, json_element, packed


def rating_page(shown: Any, *, rater: str) -> tuple[str, str]:
    """The text of the page, and the name under which its ratings can be told from those of other pages.

    Args:
        shown: what the rater sees, `study.shown.Shown`: item 1 first.
        rater: what the rater is called.
    """
    data = {
        "rater": rater,
        "items": len(shown.tokens),
        "strings": shown.strings,
        "length": int(shown.rows.shape[1]),
        "size": shown.size,
        "tokens": [int(tokens) for tokens in shown.tokens],
        "packed": packed({**shown.arrays, "rows": shown.rows}),
    }
    study = fingerprint(data)[:16]
    page = interactive_page(
        "rating.html",
        styles=("report.css", "examples.css", "rating.css"),
        scripts=("examples.js", "rating.js"),
        data=json_element("study", {"study": study, **data}),
    )
    return page, study
