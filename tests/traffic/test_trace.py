"""Trace files: what is read, what is refused and how it is told, and the events that rows become."""

from __future__ import annotations

import msgspec
import pytest

from spendgate_daemon.demo import DEMO_CUSTOMERS
from spendgate_daemon.traffic import TraceError, TraceRow, read_trace
from spendgate_daemon.traffic.trace import trace_events

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
FIRST = "2023-11-16 18:15:46.6805900,374,44\r\n"
PROFILES = [customer.profile for customer in DEMO_CUSTOMERS]


def written(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_are_timed_from_the_first(tmp_path):
    path = written(tmp_path, HEADER + FIRST + "2023-11-16 18:15:50.9951690,396,109\r\n")
    assert read_trace(path) == [TraceRow(0.0, 374, 44), TraceRow(pytest.approx(4.314579), 396, 109)]


def test_columns_are_found_by_name_and_blank_lines_passed_over(tmp_path):
    path = written(tmp_path, "\ufeffGeneratedTokens,x,TIMESTAMP,ContextTokens\n7,?,2023-11-16T18:15:46Z,5\n\n")
    assert read_trace(path) == [TraceRow(0.0, 5, 7)]


@pytest.mark.parametrize(
    ("text", "line", "field", "words"),
    [
        ("", 1, "row", "header"),
        (HEADER, 2, "row", "at least one row"),
        ("TIMESTAMP,ContextTokens\n", 1, "GeneratedTokens", "this column once"),
        ("TIMESTAMP,TIMESTAMP,ContextTokens,GeneratedTokens\n", 1, "TIMESTAMP", "this column once"),
        (HEADER + FIRST + "2023-11-16 18:15:47,12.5,3\n", 3, "ContextTokens", "whole number of tokens"),
        (HEADER + FIRST + "2023-11-16 18:15:47,12,-3\n", 3, "GeneratedTokens", "not '-3'"),
        (HEADER + FIRST + "2023-11-16 18:15:47,0x10,3\n", 3, "ContextTokens", "not '0x10'"),
        (HEADER + FIRST + "2023-11-16 18:15:47,\u0663,3\n", 3, "ContextTokens", "whole"),
        (HEADER + FIRST + "2023-11-16 18:15:47,9999999999999,3\n", 3, "ContextTokens", "whole"),
        (HEADER + FIRST + "2023-11-16 18:15:47,1\n", 3, "GeneratedTokens", "only 2 columns"),
        (HEADER + FIRST + "yesterday,1,1\n", 3, "TIMESTAMP", "not 'yesterday'"),
        (HEADER + FIRST + "2023-11-16 18:15:46,1,1\n", 3, "TIMESTAMP", "not before"),
        (HEADER + FIRST + '2023-11-16 18:15:47,"1\n', 3, "row", "comma-separated"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff\n", 1, "", "UTF-8"),
    ],
)
def test_a_bad_row_is_told_by_line_and_field(tmp_path, text, line, field, words):
    with pytest.raises(TraceError) as caught:
        read_trace(written(tmp_path, text))
    assert (caught.value.line, caught.value.field) == (line, field)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv")


def test_a_row_is_the_same_event_in_every_run_but_for_its_id():
    rows = [TraceRow(number / 10, 100 + number, number % 3) for number in range(200)]
    first = list(trace_events("a", rows, PROFILES, 0))
    again = list(trace_events("a", rows, PROFILES, 0))
    other = list(trace_events("b", rows, PROFILES, 0))
    assert first == again
    assert [event.body.replace(b'"a-', b'"b-') for event in first] == [event.body for event in other]
    tail = list(trace_events("a", rows, PROFILES, 150))
    assert [event.body for event in tail] == [event.body for event in first[150:]]
    assert tail[0].at_seconds == 0


def test_an_event_is_what_the_api_takes():
    event = next(trace_events("run", [TraceRow(0.0, 374, 0)], PROFILES[:1], 0))
    body = msgspec.json.decode(event.body)
    assert body["event_id"] == "run-00000000"
    assert body["quantities"] == {"ai_agent_run": 1, "tokens.input": 374}
    assert body["metadata"]["context_window"] == 374
    assert body["metadata"]["model"] in PROFILES[0].models


def test_the_first_customers_get_most_rows_and_nobody_is_left_out():
    rows = [TraceRow(0.0, 1, 1)] * 5000
    counts = [0] * len(PROFILES)
    index = {profile.customer_id: at for at, profile in enumerate(PROFILES)}
    for event in trace_events("run", rows, PROFILES, 0):
        counts[index[event.customer_id]] += 1
    assert counts[0] > 4 * counts[11] > 0
    assert min(counts) > 0
