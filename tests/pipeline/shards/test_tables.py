import io

import pytest

from pipeline.settings import UserError
from pipeline.shards.lists import text_lines
from pipeline.shards.tables import Row, csv_rows, json_rows, milliseconds

TABLE = "label,youtube_id,time_start,time_end,split\nrun,-a,1,11,train\nleap frog,b,20,30,val\n"
CLIPS = [("-a_000001_000011", "run", "train"), ("b_000020_000030", "leap frog", "val")]


def rows(content: str | bytes) -> list[Row]:
    stream = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return list(csv_rows(text_lines(stream, "a.csv"), "a.csv"))


def clips(content: str | bytes) -> list[tuple[str, ...]]:
    """File name of a cut clip, class and split."""
    return [(row.stems[0], row.class_name, row.split) for row in rows(content)]


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
        ("", "a.csv has no column of files; allowed are path, "),
        (TABLE + 'run,"c,1,2,val\n' + 3 * "run,d,1,2,val\n", "line 4: unexpected end of data; perhaps a quote"),
        (TABLE + 'run,"c,1,2,val\nrun,d,1,2,"val"\n', "line 4: .*; perhaps a quote is not closed"),
        (TABLE + 'run,"c,1,2,val\nrun,d",1,2,val\n', "line 4: a value spans several lines; perhaps a quote"),
        ("sep=,\n" + TABLE + "run,c,one,2,val\n", "line 5, column time_start: 'one' is not a time"),
        (TABLE + "run,c,1,inf,val\n", "line 4, column time_end: 'inf' is not a time"),
        (TABLE + "run, fast,c,1,2,val\n", "line 4: has more columns than the first line; put quotes around commas"),
        (TABLE.encode("utf-16-le"), "a.csv, line 1: contains a NUL byte; it must be UTF-8 text"),
        (b"\xff\xfe" + b"a\x00b", "a.csv begins like UTF-16 text but is not"),
    ],
)
def test_malformed_tables_are_named(content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clips(content)


def parts(content: str) -> list[tuple[str, str, tuple[int, int | None] | None]]:
    return [(row.name, row.class_name, row.cut) for row in rows(content)]


@pytest.mark.parametrize(
    "content",
    [
        "path,class,start,end\na.mp4,run,62.5,70\na.mp4,,0,\n",
        "path\tclass\tstart\tend\na.mp4\trun\t00:01:02.5\t1:10\na.mp4\t\t\t\n",
        "Filename;Label;t_start;t_end\na.mp4;run;62.500;7e1\na.mp4;;0.0;\n",
        "end,start,task,video_id,label\n70,62.5,9,a.mp4,run\n,,9,a.mp4,\n",
        "label-name,video-id,start-time,end-time\nrun,a.mp4,62.5,70\n,a.mp4,,\n",
        ",path,Class Name,start,end\n0,a.mp4,run,62.5,70.0\n1,a.mp4,,,\n",  # pandas
    ],
)
def test_parts_of_files_in_tables_of_several_forms(content: str) -> None:
    assert parts(content) == [("a.mp4", "run", (62500, 70000)), ("a.mp4", "", None)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,x,2", "line 3, column t_start: 'x' is not a time; allowed are seconds"),
        ("a,-1,2", "line 3, column t_start: '-1' is not a time"),
        ("a,1,nan", "line 3, column t_end: 'nan' is not a time"),
        ("a,1,1e12", "line 3, column t_end: '1e12' is not a time"),
        ("a,1_0,12", "line 3, column t_start: '1_0' is not a time"),
        ("a,00:1:2:3,12", "line 3, column t_start: '00:1:2:3' is not a time"),
        ("a,2,1.5", r"line 3: the end, 1\.5 s, is not after the start, 2 s"),
        ("a,2,2", "line 3: the end, 2 s, is not after the start, 2 s"),
        (",2,3", "line 3, column video_id: is empty"),
        ("a,1,2,3", "line 3: has more columns than the first line"),
    ],
)
def test_rows_without_a_part_are_named(line: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^a\\.csv, {message}"):
        rows(f"video_id,t_start,t_end\nb,1,2\n{line}\n")


def test_times_are_exact_to_a_millisecond() -> None:
    times = {"0.0004": 0, "0.0006": 1, "83.355": 83355, "9:59:59.999": 35_999_999, "1e-05": 0, ".5": 500, "7.": 7000}
    assert {text: milliseconds(text, "") for text in times} == times


def json_clips(content: str) -> list[tuple[object, ...]]:
    found = json_rows(text_lines(io.BytesIO(content.encode()), "a.json"), "a.json")
    return [(row.name, row.class_name, row.split, row.cut) for row in found]


def test_objects_of_an_array_or_of_json_lines() -> None:
    result = [("7", "Holding [something]", "", None), ("8", "b", "", (500, None))]
    first = '{"id": "7", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}'
    second = '{"id": 8, "label": "b", "start": 0.5, "end": null}'
    for content in (
        f"[{first}, {second}]",
        f"[\n{first},\n{second}\n]\n",
        f"{first}\n{second}\n",
        "[" + first.replace(", ", ",\n  ") + "\n,\n" + second.replace("{", "\n{\n") + "]",
    ):
        assert json_clips(content) == result
    many = [f'{{"id": {number},\n "label": "x"}}' for number in range(1000)]
    assert [clip[0] for clip in json_clips(f"[{', '.join(many)}]")] == [str(number) for number in range(1000)]


def test_activitynet_names_parts_of_videos() -> None:
    part = '{"segment": [0.01, 24.5], "label": "Zumba"}'
    annotations = f"[{part}, {part.replace('0.01', '30').replace('24', '40')}]"
    video = f'"3l7quTy4c2s": {{"duration": 82.7, "subset": "training", "annotations": {annotations}}}'
    unlabeled = '"x": {"subset": "testing", "annotations": []}'
    content = f'{{"version": "VERSION 1.3",\n"database": {{{video},\n{unlabeled}}}}}'
    assert json_clips(content) == [
        ("3l7quTy4c2s", "Zumba", "training", (10, 24500)),
        ("3l7quTy4c2s", "Zumba", "training", (30000, 40500)),
    ]
    with pytest.raises(UserError, match=r"a\.json: a video lacks its subset, or a label or segment"):
        json_clips(content.replace('"label"', '"name"'))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"id": 1},\n{"id" 2},\n{"id": 3}]', "a.json, line 3: is not JSON: Expecting ':' delimiter"),
        ('[{"id": 1},\n{"id": 2', "a.json, line 2: is not JSON"),
        ('[{"id":\n1},\n7]', "a.json, line 3: is not an object"),
        ('[\n\n{"label": 1}]', "a.json, line 3 has no column of files"),
        ('[{"id": 1,\n"start": -1}]', "a.json, line 1, column start: '-1' is not a time"),
    ],
)
def test_malformed_json_is_named(content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        json_clips(content)
