import io
import json
import math
import os
import random
import struct
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ww_callbacks.worker.protocol import MAX_BYTES, VERSION, ProtocolError, decode, encode, recv_exact, send_all


def reader(data):
    stream = io.BytesIO(data)

    def read(count):
        part = stream.read(count)
        if len(part) < count:
            raise EOFError
        return part

    return read


def frame(payload, *, magic=b"wwcb", version=VERSION, length=None, checksum=None):
    length = len(payload) if length is None else length
    checksum = zlib.crc32(payload) if checksum is None else checksum
    return struct.pack(">4sHII", magic, version, length, checksum) + payload


def bits(value):
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_messages_round_trip_with_exact_floats(message):
    assert bits(decode(reader(encode(message)))) == bits(message)


@given(st.lists(st.dictionaries(st.text(), st.integers(), max_size=3), min_size=2, max_size=5))
def test_consecutive_frames_are_read_one_by_one(messages):
    read = reader(b"".join(map(encode, messages)))
    assert [decode(read) for _ in messages] == messages
    with pytest.raises(EOFError):
        decode(read)


def test_frame_may_arrive_in_pieces():
    incoming, outgoing = os.pipe()
    message = {"text": "x" * 1000, "list": list(range(50))}
    data = encode(message)
    for start in range(0, len(data), 7):
        send_all(outgoing, data[start : start + 7])
    assert decode(lambda count: recv_exact(incoming, count)) == message
    os.close(outgoing)
    with pytest.raises(EOFError):
        decode(lambda count: recv_exact(incoming, count))
    os.close(incoming)


@pytest.mark.timeout(30)
def test_data_larger_than_the_pipe_buffer_is_sent():
    reading, writing = os.pipe()
    data = os.urandom(1_000_000)
    thread = threading.Thread(target=send_all, args=(writing, data))
    thread.start()
    assert recv_exact(reading, len(data)) == data
    thread.join()
    os.close(writing)
    with pytest.raises(EOFError):
        recv_exact(reading, 1)
    os.close(reading)


def test_truncated_frame_raises_eof_error():
    data = encode({"a": [1, 2, 3]})
    for end in range(len(data)):
        with pytest.raises(EOFError):
            decode(reader(data[:end]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame(b"{}", magic=b"HTTP"), "not a frame: it begins with b'HTTP'"),
        (b"Traceback (most recent call last):", "not a frame"),
        (b"\0" * 100, "not a frame"),
        (frame(b"{}", version=VERSION + 1), f"protocol version {VERSION + 1}, expected {VERSION}"),
        (frame(b"{}", version=0), "protocol version 0"),
        (frame(b"{}", length=MAX_BYTES + 1), "at most"),
        (frame(b"{}", length=2**32 - 1), "at most"),
        (frame(b"{}", checksum=0), "wrong checksum"),
        (frame(b""), "not JSON"),
        (frame(b"{'a': 1}"), "not JSON"),
        (frame(b"\xff\xfe{"), "not JSON"),
        (frame(b'{"a": 1} {"b": 2}'), "not JSON"),
        (frame(b'{"a": ' + b"9" * 5000 + b"}"), "not JSON"),
        (frame(b"[1, 2]"), "expected a JSON object, got list"),
        (frame(b"null"), "expected a JSON object, got NoneType"),
        (frame(b'"text"'), "expected a JSON object, got str"),
        (frame(b"3.5"), "expected a JSON object, got float"),
    ],
)
def test_invalid_frames_are_refused(data, message):
    with pytest.raises(ProtocolError, match=message.replace("(", r"\(")):
        decode(reader(data))


def test_too_deeply_nested_message_is_refused():
    depth = 100_000
    with pytest.raises(ProtocolError):
        decode(reader(frame(b'{"a": ' + b"[" * depth + b"]" * depth + b"}")))


def test_length_is_checked_before_the_payload_is_read():
    asked = []

    def read(count):
        asked.append(count)
        return frame(b"", length=2**31)[:count]

    with pytest.raises(ProtocolError, match="at most"):
        decode(read)
    assert max(asked) < 100


def test_largest_allowed_frame_is_accepted():
    payload = b'{"a":"' + b"x" * (MAX_BYTES - 8) + b'"}'
    assert len(payload) == MAX_BYTES
    assert len(decode(reader(frame(payload)))["a"]) == MAX_BYTES - 8


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, place = rng.randrange(5), rng.randrange(len(data) + 1)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:place] = rng.randbytes(rng.randint(1, 8))
        elif kind == 2:
            del data[place : place + rng.randint(1, 8)]
        elif kind == 3:
            data = data[:place]
        else:
            data[place : place + 4] = rng.randbytes(4)
    return bytes(data)


def test_damaged_frames_raise_protocol_error_or_eof_error():
    rng = random.Random(0)
    original = encode({"spec": {"name": "fc", "shape": [3, 4]}, "step": 5, "alpha": 1.5})
    message = decode(reader(original))
    refused = 0
    for _ in range(2000):
        data = mutated(rng, original)
        try:
            result = decode(reader(data))
        except (ProtocolError, EOFError):
            refused += 1
        else:
            assert result == message  # the damage is after the frame
    assert refused > 1500


def test_damaged_json_with_valid_checksum_is_refused_or_an_object():
    rng = random.Random(1)
    payload = json.dumps({"report": {"name": "fc", "alpha": 2.5, "warning": ""}}).encode()
    for _ in range(1000):
        try:
            result = decode(reader(frame(mutated(rng, payload))))
        except ProtocolError:
            continue
        assert isinstance(result, dict)
