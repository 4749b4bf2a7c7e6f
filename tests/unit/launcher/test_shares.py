from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher.shares import Share, Wanted, checked, parse_shares


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
    [share] = parse_shares([text])
    assert share == Share(here / name, tag, read_only)
    assert share.mount_point == here / name


@pytest.mark.parametrize(
    ("text", "name", "tag", "at", "access"),
    [
        ("src:/work", "src", "share0-src", "/work", "rw"),
        ("src:/work:ro", "src", "share0-src", "/work", "ro"),
        ("src:/work:rw", "src", "share0-src", "/work", "rw"),
        ("src:code:/work/./here/:ro", "src", "code", "/work/here", "ro"),
        ("with:colon:/work", "with:colon", "share0-with-colon", "/work", "rw"),
        ("with:colon:t:/work", "with:colon", "t", "/work", "rw"),
        ("odd:ro:/work:ro", "odd:ro", "share0-odd-ro", "/work", "ro"),
        ("src:/a b/c\n", "src", "share0-src", "/a b/c\n", "rw"),
        ("src:/dev/shm/src", "src", "share0-src", "/dev/shm/src", "rw"),
    ],
)
def test_a_share_at_another_place(here: Path, text: str, name: str, tag: str, at: str, access: str) -> None:
    [share] = parse_shares([text])
    assert share == Share(here / name, tag, access == "ro", Path(at))
    assert (str(share.mount_point), share.access) == (at, access)


def test_a_share_of_one_file(here: Path) -> None:
    (here / "link").symlink_to("src/../file")
    assert parse_shares(["file:ro"]) == [Share(here / "file", "share0-file", True, single=True)]
    assert parse_shares(["file:f:/root/f"]) == [Share(here / "file", "f", at=Path("/root/f"), single=True)]
    [linked] = parse_shares(["link"])
    assert (linked.path, linked.mount_point) == (here / "file", here / "file")


def test_one_folder_at_two_places(here: Path) -> None:
    first, second = parse_shares(["src", "src:/work:ro"])
    assert first.path == second.path
    assert (first.tag, second.tag) == ("share0-src", "share1-src")


def test_a_default_tag_is_one_that_is_free(here: Path) -> None:
    """Where shares came and went, a number may be in use."""
    others = [Share(here / "a b", "share1-src"), Share(here / "odd:ro", "x")]
    assert checked(Wanted("src"), others).tag == "share2-src"
    assert checked(Wanted("src"), others[:1]).tag == "share2-src"
    assert checked(Wanted("src"), others[1:]).tag == "share1-src"


@pytest.mark.parametrize(
    ("share", "command"),
    [
        (Share(Path("/a"), "t"), "mount -t virtiofs t /mnt"),
        (Share(Path("/a"), "t", True, Path("/b c")), "mount -t virtiofs -o ro t '/b c'"),
        (Share(Path("/a"), "t", at=Path("/b"), single=True), "mount -t virtiofs t /mnt"),
    ],
)
def test_the_command_for_a_guest_that_is_not_ours(share: Share, command: str) -> None:
    assert share.mount_command() == command


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["none"], "the share none does not exist"),
        (["none:tag:/place"], "the share none does not exist"),
        (["/dev/null"], "the share /dev/null is neither a folder nor a file"),
        (["src:place:tag"], "'tag' in the share src:place:tag is no mount point"),
        (["src:/place:tag"], "'tag' in the share src:/place:tag is no mount point"),
        (["src:ro:/place"], "ro is no tag"),
        (["src:/"], "/ is the guest's root already"),
        (["src:/x/.."], "/ is the guest's root already"),
        (["src:/dev"], "the share /dev would hide the guest's own /dev"),
        (["src:/run"], "the share /run would hide the guest's own /run/subos"),
        (["src:/var/../run/subos/bin:ro"], "would lie in the guest's own /run/subos"),
        (["src:/work", "a b:/work/"], "would both be mounted at /work"),
        (["none:tag:ro"], "the share none does not exist"),
        (["src:bad/tag"], "'bad/tag' cannot be a share's tag"),
        (["src:" + "x" * 37], "cannot be a share's tag"),
        (["src:subos-root"], "the tag subos-root is one of ours"),
        (["src:t", "a b:t"], "the tag t is used twice"),
        (["src", "src/../src:b"], "is shared already, with the tag share0-src"),
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
