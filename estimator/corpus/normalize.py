"""Repairs of text before it is encoded: of characters decoded wrongly, and of several spellings of one character."""

import unicodedata
from collections.abc import Callable

from estimator import invocation
from estimator.errors import UserError, import_failed

NORMAL_FORMS = ("NFC", "NFKC", "NFD", "NFKD")


def cleaner(*, fix: bool, normalize: str | None) -> Callable[[str], str] | None:
    """What `clean` does with these options; None where that is nothing. UserError where ftfy is missing."""
    if fix:
        try:
            import ftfy  # noqa: F401 (only whether it is installed)
        except ImportError as error:
            raise import_failed(error, f"--fix_text needs the package ftfy: {invocation.install('data')}") from error
    if normalize is not None and normalize not in NORMAL_FORMS:
        raise UserError(f"--normalize {normalize}: no such normal form; available: {', '.join(NORMAL_FORMS)}")
    return (lambda text: clean(text, fix=fix, normalize=normalize)) if fix or normalize else None


def clean(text: str, *, fix: bool, normalize: str | None) -> str:
    """The text repaired.

    fix: ftfy's repairs with its own settings, except for the normal form, which is the other option.
    normalize: the Unicode normal form, NFC or NFKC for instance; None leaves characters as they are.
    """
    if fix:
        import ftfy

        text = ftfy.fix_text(text, normalization=None)
    return unicodedata.normalize(normalize, text) if normalize else text  # type: ignore[arg-type]
