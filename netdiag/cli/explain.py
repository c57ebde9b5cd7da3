"""`netdiag explain`: the page of a finding code, or the list of codes."""

from __future__ import annotations

from netdiag.cli.output import OK, UserError, emit, to_json
from netdiag.explain import codes, page


def explain_command(code: str | None, as_json: bool) -> int:
    if code is None:
        emit(to_json({"schema": "netdiag.codes/1", "codes": list(codes())}) if as_json else _listing())
        return OK
    text = _page(code)
    emit(to_json({"schema": "netdiag.page/1", "code": code, "page": text}) if as_json else text)
    return OK


def _page(code: str) -> str:
    try:
        return page(code)
    except KeyError:
        import difflib

        near = difflib.get_close_matches(code, codes(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`netdiag explain` lists the codes"
        raise UserError(f"no finding has the code {code!r}", hint) from None


def _listing() -> str:
    return "\n".join(f"{code:<24}{_headline(page(code))}" for code in codes())


def _headline(text: str) -> str:
    """What the page's title says after its code."""
    return text.partition("\n")[0].partition(": ")[2]
