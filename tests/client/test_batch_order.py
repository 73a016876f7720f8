"""Questions about the same media go together, the first of them ahead; media in memory are bounded by bytes."""

import asyncio
import json
from pathlib import Path

from client.batches import accounts, run, write
from video_llava_client import AsyncVideoLlava
from video_llava_client.batch.lines import Line
from video_llava_client.batch.order import Leaders, grouped, media_key
from video_llava_client.batch.read_ahead import ReadAhead
from video_llava_client.batch.room import Room
from video_llava_client.testing import FakeServer, Refuse, Reply

CLIP = Path(__file__).parents[1] / "media" / "bikes.mp4"


def lines(*values):
    return [Line(number, number, json.dumps(value).encode()) for number, value in enumerate(values)]


def test_rows_about_the_same_media_are_together_in_the_order_of_their_first():
    given = lines(*({"question": "?", **media} for media in (
        {"video": "a.mp4"}, {}, {"video": "b.mp4"}, {"video": "a.mp4"}, {"images": ["x.jpg"]}, {"video": ["b.mp4"]}, {},
        {"images": "x.jpg"}, {"video": "a.mp4", "images": "x.jpg"}, {"video": "a.mp4"},
    )))  # fmt: skip
    broken = Line(99, 99, b"{")
    assert [row.number for row in grouped([*given, broken])] == [0, 3, 9, 1, 2, 5, 4, 7, 6, 8, 99]


def test_media_that_have_no_name_are_like_no_other():
    assert media_key({"video": {"bytes": b"a"}}) is None
    assert media_key({"video": ["a.mp4", b"b"]}) is None


def test_followers_wait_for_the_leaders_first_token_or_its_end():
    async def follow():
        leaders, log = Leaders(), []

        async def ask(name, key, *, token_after=0.0, fails=False):
            async with leaders.turn(key) as lead:
                log.append(name)
                await asyncio.sleep(token_after)
                if fails:
                    raise ValueError
                lead()
                log.append(f"{name}'s token")

        async with asyncio.timeout(10):
            await asyncio.gather(
                ask("first", "a", token_after=0.1), ask("second", "a"), ask("other", "b"), ask("text", None)
            )
            await asyncio.gather(ask("fails", "c", fails=True), ask("next", "c"), return_exceptions=True)
        return log

    log = asyncio.run(follow())
    assert log[:3] == ["first", "other", "text"]
    assert log.index("first's token") < log.index("second")
    assert log[-3:] == ["fails", "next", "next's token"]


def test_a_room_has_bounds_in_rows_and_in_bytes_that_one_row_may_pass():
    async def enters(room, num_bytes):
        try:
            await asyncio.wait_for(room.enter(num_bytes), 0.05)
        except TimeoutError:
            return False
        return True

    async def follow():
        room = Room(100, lambda: 3)
        assert await enters(room, 500)
        assert not await enters(room, 1)  # how rows grow is not known
        async with room.leaving(500) as grow:
            grow(20)
            assert not await enters(room, 1)
        assert await enters(room, 30)
        async with room.leaving(30) as grow:
            grow(20)
            assert await enters(room, 30)  # with the 20 that it will grow by
            assert not await enters(room, 1)
            async with room.leaving(30):
                pass
            assert await enters(room, 1)
            assert await enters(room, 1)
            assert not await enters(room, 1)  # the fourth

    asyncio.run(follow())


def test_reading_ahead_stops_at_so_many_bytes():
    async def follow():
        made = []

        def items():
            for number in range(8):
                made.append(number)
                yield "x" * 30

        options = {"num_ahead": 100, "max_bytes": 100, "num_bytes": len, "order": list}
        with ReadAhead(items(), **options) as ahead:
            taken = []
            while (item := await asyncio.wait_for(ahead.next(), 10)) is not None:
                await asyncio.sleep(0.02)
                taken.append(item)
                # Those that have room, and the one that waits for it.
                assert len(made) - len(taken) <= 4
        return len(taken)

    assert asyncio.run(follow()) == 8


def test_each_video_is_decoded_once_for_all_its_questions(tmp_path, monkeypatch):
    loaded, load = [], AsyncVideoLlava.load

    async def counted(self, video, **window):
        loaded.append(video)
        return await load(self, video, **window)

    monkeypatch.setattr(AsyncVideoLlava, "load", counted)
    copies = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    for copy in copies:
        copy.symlink_to(CLIP)
    write(tmp_path / "in", *({"question": f"{n}?", "video": str(copy)} for n in range(6) for copy in copies))
    with FakeServer(Reply("Yes.")) as server:
        assert accounts(run(server, tmp_path / "in", tmp_path / "out"))[:2] == (18, 0)
    assert sorted(loaded) == sorted(map(str, copies))


def test_media_of_more_bytes_than_allowed_go_one_at_a_time(tmp_path):
    open_streams = []

    def script(_request):
        open_streams.append(server.num_open_streams)
        return Reply("Yes.", seconds_per_token=0.05)

    write(tmp_path / "in", *({"question": f"{n}?", "video": [str(CLIP)] * 12} for n in range(6)))
    with FakeServer(script=script) as server:
        arguments = (tmp_path / "in", tmp_path / "out", "--media-megabytes")
        assert accounts(run(server, *arguments, 1)) == (6, 0, 0, 0)
        assert max(open_streams) == 1


def test_an_older_server_is_asked_without_what_it_does_not_know(tmp_path):
    def script(request):
        if "return_server_load" in request.tensors:
            return Refuse("[request id: 7] unexpected inference input 'return_server_load' for model 'video_llava'")
        if "priority" in request.sampling:
            return Refuse("INVALID_ARGUMENT: sampling_parameters: unknown parameter 'priority'; supported are n, seed")
        return Reply("Yes.")

    write(tmp_path / "in", *({"question": f"{number}?"} for number in range(20)))
    with FakeServer(script=script) as server:
        assert accounts(run(server, tmp_path / "in", tmp_path / "out")) == (20, 0, 0, 0)
        assert len(server.requests) < 30
