import io

import pytest

from pipeline.settings import UserError
from pipeline.shards.lists import annotated_clips, text_lines, unquoted

TABLE = "label,youtube_id,time_start,time_end,split\nrun,-a,1,11,train\nleap frog,b,20,30,val\n"
CLIPS = [("-a_000001_000011", "run", "train"), ("b_000020_000030", "leap frog", "val")]


def clips(content: str | bytes) -> list[tuple[str, ...]]:
    stream = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return [tuple(clip) for clip in annotated_clips(text_lines(stream, "a.csv"), "a.csv")]


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        "sep=,\n" + TABLE,
        '"sep=;"\r\n' + TABLE.replace(",", ";").replace("\n", "\r\n"),
        TABLE.replace("label,youtube_id", "Label, YouTube_ID").replace(",", ", "),
        TABLE.replace(",1,11,", ",1.0,11.04,"),
        TABLE.replace("leap frog", '"leap frog"').replace("label", '"label"'),
        TABLE.replace("\n", "\n\n"),
        TABLE.replace("train\n", "train,,\n"),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        b"\xfe\xff" + TABLE.encode("utf-16-be"),
    ],
)
def test_annotations_of_any_spreadsheet(content: str | bytes) -> None:
    assert clips(content) == CLIPS


def test_columns_may_be_missing_and_in_any_order() -> None:
    assert clips("time_end,youtube_id,time_start\n11,-a,1\n") == [("-a_000001_000011", "", "")]
    assert clips('label,youtube_id,time_start,time_end\n"a, ""b"" \'c",x,1,2\n')[0][1] == 'a, "b" \'c'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv has no column time_end, time_start, youtube_id"),
        (TABLE + 'run,"c,1,2,val\n' + 3 * "run,d,1,2,val\n", "line 4: unexpected end of data; perhaps a quote"),
        (TABLE + 'run,"c,1,2,val\nrun,d,1,2,"val"\n', "line 4: .*; perhaps a quote is not closed"),
        (TABLE + 'run,"c,1,2,val\nrun,d",1,2,val\n', "line 4: a value spans several lines; perhaps a quote"),
        ("sep=,\n" + TABLE + "run,c,one,2,val\n", "line 5: time_start and time_end must be seconds"),
        (TABLE + "run,c,1,inf,val\n", "line 4: time_start and time_end must be seconds"),
        (TABLE + "run, fast,c,1,2,val\n", "line 4: time_start and time_end must be seconds"),
        (TABLE.encode("utf-16-le"), "a.csv, line 1: contains a NUL byte; it must be UTF-8 text"),
        (b"\xff\xfe" + b"a\x00b", "a.csv begins like UTF-16 text but is not"),
    ],
)
def test_malformed_tables_are_named(content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clips(content)


@pytest.mark.parametrize("text", ["a b.mp4", "it's.mp4", "'a'.mp4", "profile x.mp4", "files/a.mp4", "\udcff.mp4"])
def test_paths_without_quotes_stay(text: str) -> None:
    assert unquoted(text, "list") == text
