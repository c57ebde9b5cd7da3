"""The page of each finding code: what it means, what looks like it, how it is told apart, how it is fixed."""

from __future__ import annotations

from importlib.resources import files

_PAGES = "pages"


def codes() -> tuple[str, ...]:
    """Every code with a page, sorted."""
    names = (entry.name for entry in files(__package__).joinpath(_PAGES).iterdir())
    return tuple(sorted(name.removesuffix(".md") for name in names if name.endswith(".md")))


def page(code: str) -> str:
    """The page as Markdown, with the rule's own terms at its end. Raises KeyError for a code without one."""
    if code not in codes():
        raise KeyError(code)
    text = files(__package__).joinpath(_PAGES, f"{code}.md").read_text("utf-8")
    return text.rstrip("\n") + "\n" + _terms(code)


def _terms(code: str) -> str:
    from netdiag.diagnosis.catalogue import RULES

    rule = next((rule for rule in RULES if rule.code == code), None)
    if rule is None:
        return ""
    return (
        "\n## The rule\n\n"
        f"- It fires when: {rule.fires}\n- It stays quiet when: {rule.quiet}\n- It is refuted by: {rule.refuted_by}\n"
    )
