from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher.shares import Share, parse_shares


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("src", "with:colon", "odd:ro", "a b"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "to-root").symlink_to("/")
    (tmp_path / "to-run").symlink_to("/run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name", "tag", "read_only"),
    [
        ("src", "src", "share0-src", False),
        ("./src/", "src", "share0-src", False),
        ("src:code", "src", "code", False),
        ("src:ro", "src", "share0-src", True),
        ("src:rw", "src", "share0-src", False),
        ("src:code:ro", "src", "code", True),
        ("with:colon", "with:colon", "share0-with-colon", False),
        ("with:colon:t:ro", "with:colon", "t", True),
        ("odd:ro", "odd:ro", "share0-odd-ro", False),  # a folder of that name is meant
        ("a b", "a b", "share0-a-b", False),
    ],
)
def test_one_share(here: Path, text: str, name: str, tag: str, read_only: bool) -> None:
    assert parse_shares([text]) == [Share(here / name, tag, read_only)]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["none"], "the share none does not exist"),
        (["file"], "the share file is not a folder"),
        (["file:tag"], "the share file is not a folder"),
        (["none:tag:ro"], "the share none does not exist"),
        (["src:bad/tag"], "'bad/tag' cannot be a share's tag"),
        (["src:" + "x" * 37], "cannot be a share's tag"),
        (["src:subos-root"], "the tag subos-root is one of ours"),
        (["src:t", "a b:t"], "the tag t is used twice"),
        (["src", "src/../src:b"], "is shared twice"),
        (["/"], "/ is the guest's root already"),
        (["to-root"], "/ is the guest's root already"),
        (["/run"], "the share /run would hide the guest's own /run/subos"),
        (["to-run:t"], "the share to-run would hide the guest's own /run/subos"),
        (["/dev"], "would hide the guest's own /dev"),
        (["/proc:t:ro"], "would hide the guest's own /proc"),
        (["/sys/"], "would hide the guest's own /sys"),
    ],
)
def test_what_cannot_be_shared_is_told_with_a_hint(here: Path, texts: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_shares(texts)
    assert said in caught.value.message
    assert caught.value.hint


def test_two_shares_of_the_same_name_get_tags_of_their_own(here: Path) -> None:
    (here / "src/src").mkdir()
    assert [share.tag for share in parse_shares(["src", "src/src"])] == ["share0-src", "share1-src"]
