"""The test suite itself: `pytest -m fast` covers every directory."""

from conftest import FAST, ROOT


def test_every_folder_has_fast_tests():
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    fast = {path for path in tests if path.as_posix() in FAST}
    assert {path.as_posix() for path in fast} == FAST
    assert {path.parent for path in fast} == {path.parent for path in tests}
