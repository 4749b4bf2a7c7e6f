"""Two desktops with all that lies between a host's and a guest's, except the guest itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from subos_desktop.clipboard import HTML, PNG, TEXT, Selection, files
from subos_devices.agent.clipboard import process as host_process
from subos_devices.agent.clipboard import questions
from subos_protocol.agent.errors import RemoteError
from support.agents import on_a_loop
from support.clipboard_chain import (
    Chain,
    arrives,
    chain,
    copy,
    endless,
    offers_text,
    paste,
    pasting,
    until,
    until_true,
    watch_until,
)
from support.command import subos

MIB = 1 << 20


@on_a_loop
async def test_text_html_images_and_what_is_marked_both_ways() -> None:
    async with chain(["primary=both"]) as made:
        for source, target in ((made.guest, made.host), (made.host, made.guest)):
            text = os.urandom(8).hex().encode() + "ä\r\nb\nc\r".encode()
            await copy(source, text)
            await arrives(target, text)
            await copy(source, b"marked", selection="primary")
            await arrives(target, b"marked", selection="primary")
            assert await paste(target) == text
            await copy(source, b"<b>bold</b>", HTML)
            await arrives(target, b"<b>bold</b>", HTML)
            assert await paste(target, "UTF8_STRING") is None
            image = os.urandom(30 * MIB)
            await copy(source, image, PNG)
            await arrives(target, image, PNG)
        passed = [(line["direction"], line["type"], line["size"], line["complete"]) for line in made.logged()]
        for way in ("from-guest", "to-guest"):
            assert (way, PNG, 30 * MIB, True) in passed
            assert (way, HTML, len(b"<b>bold</b>"), True) in passed
        assert b"bold" not in Path(os.environ["XDG_STATE_HOME"], "subos", "clipboard-clip.log").read_bytes()


@on_a_loop
async def test_what_is_marked_on_the_host_is_not_the_guests_unless_a_rule_says_so() -> None:
    async with chain() as made:
        await copy(made.host, b"marked", selection="primary")
        await copy(made.host, b"copied")
        await arrives(made.guest, b"copied")
        assert await paste(made.guest, selection="primary") is None
        await copy(made.guest, b"marked there", selection="primary")
        await arrives(made.host, b"marked there", selection="primary")
        await made.policy("primary=both")
        await copy(made.host, b"marked again", selection="primary")
        await arrives(made.guest, b"marked again", selection="primary")
        await made.policy("primary=off")
        await arrives(made.guest, None, selection="primary")
        assert await paste(made.guest) == b"copied"


@on_a_loop
async def test_what_is_too_large_is_said_and_the_next_copy_works() -> None:
    async with chain(["limit=1M"]) as made:
        for source, target in ((made.guest, made.host), (made.host, made.guest)):
            await copy(source, bytes(MIB + 1), PNG)
            if source is made.guest:
                await watch_until(made, lambda news: PNG in news["clipboard"])
                done = await asyncio.to_thread(subos, "clipboard", made.name, "get", "--type", PNG)
                assert done.returncode == 2
                assert b"more than 1 MiB of image/png" in done.stderr
            await arrives(target, None, PNG)  # xclip has what it copied itself, before, for any type
            await copy(source, b"small")
            await arrives(target, b"small")


@on_a_loop
async def test_the_policy_changes_at_once() -> None:
    async with chain() as made:
        await copy(made.guest, b"<i>g</i>", HTML)
        await arrives(made.host, b"<i>g</i>", HTML)
        await made.policy("both=text-only")
        await arrives(made.host, None, HTML)
        await made.policy("both.html=allow")
        await arrives(made.host, b"<i>g</i>", HTML)
        await copy(made.host, b"secret")
        await arrives(made.guest, b"secret")
        done = await asyncio.to_thread(subos, "clipboard", made.name, "off", check=0)
        assert done.stdout == b""
        await arrives(made.guest, None)
        await copy(made.host, b"secret too")
        await asyncio.sleep(0.5)
        assert await paste(made.guest) is None
        await made.policy("on")
        await arrives(made.guest, b"secret too")


@on_a_loop
async def test_a_transfer_under_way_ends_when_it_is_denied() -> None:
    async with chain(["limit=4G"]) as made, endless(made.host), pasting(made.guest):
        await watch_until(made, lambda news: news["transfers"] and news["transfers"][0]["bytes"] > MIB)
        await made.policy("to-guest=deny")
        await watch_until(made, lambda news: not news["transfers"])
        assert not made.logged()[-1]["complete"]


def asked(answer: str | None) -> Callable[[Chain], Coroutine[Any, Any, bytes | None]]:
    async def ask(made: Chain) -> bytes | None:
        await watch_until(made, offers_text)
        pasted = asyncio.ensure_future(paste(made.host, seconds=20))

        async def question() -> Any:
            return (await made.ask("formats"))["question"]

        await until_true(question)
        if answer is not None:
            number = (await question())["number"]
            said = (await asyncio.to_thread(subos, "clipboard", made.name, "formats", check=0)).stdout.decode()
            assert f"subos-devices clipboard {made.name} yes {number} (or no {number})" in said
            await asyncio.to_thread(subos, "clipboard", made.name, answer, number, check=0)
        return await pasted

    return ask


@on_a_loop
async def test_a_person_is_asked_once_for_each_copy() -> None:
    async with chain(["from-guest=ask"]) as made:
        await copy(made.guest, b"one")
        assert await asked("yes")(made) == b"one"
        assert await paste(made.host) == b"one"  # not asked again
        await copy(made.guest, b"two")
        await asyncio.sleep(0.3)
        assert await asked("no")(made) is None
        assert await paste(made.host, seconds=5) is None
        with pytest.raises(RemoteError, match="nothing is being asked"):
            await made.ask("answer", yes=True)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        policy = host_process.HostPolicy("vm", host_process.Rules.parse(["both=ask"]))
        assert not await policy.approve("in", Selection.CLIPBOARD, TEXT, 1)
        assert policy.questions.shown is None
        again = asyncio.ensure_future(policy.approve("in", Selection.CLIPBOARD, TEXT, 1))  # nobody has said no
        while policy.questions.shown is None:
            await asyncio.sleep(0)
        policy.questions.answer(True, policy.questions.shown.number)
        assert await again

    monkeypatch.setattr(questions, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    asyncio.run(test())


@on_a_loop
async def test_files_are_copied_into_a_drop_folder(tmp_path: Path) -> None:
    (tmp_path / "a dir").mkdir()
    (tmp_path / "a dir" / "ä").write_bytes(os.urandom(3 * MIB))
    async with chain(["from-guest.files=allow"]) as made:
        await copy(made.guest, files.uri_list([tmp_path / "a dir"]), "text/uri-list")
        await watch_until(made, lambda news: files.FILES in news["clipboard"])
        pasted = await paste(made.host, "text/uri-list", seconds=20)
        assert pasted is not None
        (folder,) = files.local_paths(pasted)
        assert str(folder).startswith(f"{os.environ['XDG_CACHE_HOME']}/subos/drop/")
        assert (folder / "ä").read_bytes() == (tmp_path / "a dir" / "ä").read_bytes()
        assert made.logged()[-1]["type"] == files.FILES


@on_a_loop
async def test_both_sides_copy_at_once_and_end_with_the_same() -> None:
    async with chain() as made:
        for turn in range(5):
            await asyncio.gather(copy(made.host, b"h%d" % turn), copy(made.guest, b"g%d" % turn))

        async def same() -> bool:
            host, guest = await asyncio.gather(paste(made.host), paste(made.guest))
            return host == guest and host in (b"h4", b"g4")

        await until_true(same)
        heard = []

        async def listen() -> None:
            async with made.asker.call({"op": "host-clipboard.watch"}) as stream:
                while (message := await stream.receive()) is not None:
                    heard.append(message.content)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(listen(), 1.0)
        assert len(heard) == 1, "offers go to and fro without anybody copying"


# --- who dies in the middle of a transfer


async def next_copies_work(made: Chain) -> None:
    await copy(made.guest, b"next from the guest")
    await arrives(made.host, b"next from the guest")
    await copy(made.host, b"next from the host")
    await arrives(made.guest, b"next from the host")


@pytest.mark.parametrize("part", ["session", "service", "process"])
def test_a_part_is_killed_in_the_middle(part: str) -> None:
    async def test() -> None:
        async with chain(["limit=4G"]) as made:
            async with endless(made.guest), pasting(made.host):
                await watch_until(made, lambda news: news["transfers"] and news["transfers"][0]["bytes"] > MIB)
                if part == "process":
                    await made.policy("limit=2G")
                    os.kill(made.process(), signal.SIGKILL)
                else:
                    made.kill(part)
                    made.begin(part)
                    await watch_until(made, lambda news: not news["transfers"])
            await next_copies_work(made)
            if part == "process":
                limits = (await made.ask("policy"))["limits"]
                assert limits["text"] == 2 << 30, "the policy that was set meanwhile holds for the next process"
            assert not (await made.ask("formats"))["transfers"]

    on_a_loop(test)()


@on_a_loop
async def test_the_hosts_x_server_is_killed_in_the_middle() -> None:
    async with chain(["limit=4G"]) as made, endless(made.guest):
        await watch_until(made, offers_text)
        async with made.asker.call({"op": "host-clipboard.get", "type": TEXT}) as other:
            async with pasting(made.host):
                await watch_until(made, lambda news: len(news["transfers"]) == 2)
                made.host_server.kill()
                await watch_until(made, lambda news: len(news["transfers"]) == 1)
            for _ in range(100):  # the other transfer goes on
                message = await other.receive()
                assert message is not None
                assert message.content
        assert (await made.ask("formats"))["desktop"].startswith("none: ")
        await made.ask("formats")
        async with made.asker.call({"op": "host-clipboard.set", "type": TEXT}) as stream:
            await stream.send(b"without a desktop")
            stream.end()
            await stream.result()
        await arrives(made.guest, b"without a desktop")
        await asyncio.sleep(1.5)  # the desktop is looked for meanwhile
        await copy(made.guest, b"for commands")
        await until_true(lambda: _can_be_had(made, b"for commands"))


async def _can_be_had(made: Chain, data: bytes) -> bool:
    done = await asyncio.to_thread(subos, "clipboard", made.name, "get")
    return done.stdout == data


@on_a_loop
async def test_the_guests_x_server_is_killed_in_the_middle() -> None:
    async with chain(["limit=4G"]) as made, endless(made.host), pasting(made.guest):
        await watch_until(made, lambda news: news["transfers"] and news["transfers"][0]["bytes"] > MIB)
        made.guest_server.kill()
        await watch_until(made, lambda news: not news["transfers"])
        await until(lambda: made.processes["session"].poll() is None)  # it waits for another desktop
        assert (await made.ask("policy"))["on"]


@on_a_loop
async def test_transfers_are_shown_to_all_who_watch() -> None:
    async with chain(["limit=4G"]) as made, endless(made.guest):
        await watch_until(made, offers_text)

        def under_way(news: Any) -> bool:
            return bool(news["transfers"]) and news["transfers"][0]["bytes"] > MIB

        watching = [asyncio.ensure_future(watch_until(made, under_way)) for _ in range(3)]
        await asyncio.sleep(0.2)
        async with pasting(made.host):
            for news in await asyncio.gather(*watching):
                assert (news["transfers"][0]["direction"], news["transfers"][0]["type"]) == ("from-guest", TEXT)
        await watch_until(made, lambda news: not news["transfers"])
