"""Writes the tables beside this file (pyarrow 26). What they hold is computed once more in `tests/parquet.rs`."""

import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
ROWS = 40


def png(seed):
    """A grey picture of one pixel."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes([0, seed]))) + chunk(b"IEND", b"")


def text(row):
    return None if row % 7 == 3 else f"Row {row} of the table, " * (row % 5) + "end."


def picture(row):
    return None if row % 6 == 5 else {"bytes": png(row), "path": None if row % 4 == 0 else f"{row}.png"}


def plain():
    string = pa.string()
    return pa.table({
        "id": pa.array(range(ROWS), pa.int64()),
        "nested": pa.array([[["a"] * (row % 3), []] for row in range(ROWS)], pa.list_(pa.list_(string))),
        "image": pa.array([picture(row) for row in range(ROWS)], pa.struct([("bytes", pa.binary()), ("path", string)])),
        "text": pa.array([text(row) for row in range(ROWS)], pa.large_string()),
        "speaker": pa.array([f"speaker {row // 10}" for row in range(ROWS)], string),
    })


def save(name, table, **options):
    options = {"row_group_size": 16, "data_page_size": 200, "write_batch_size": 3, "store_schema": False} | options
    pq.write_table(table, HERE / f"{name}.parquet", **options)


for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
    for version in ["1.0", "2.0"]:
        name = f"{codec}-v{version[0]}"
        save(name, plain(), compression=codec, data_page_version=version, write_page_checksum=version == "2.0")
for encoding in ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
    columns = {name: encoding for name in ["image.bytes", "image.path", "text", "speaker"]}
    save(encoding.lower().replace("_", "-"), plain(), compression="zstd", data_page_version="2.0",
         use_dictionary=False, column_encoding=columns | {"id": "DELTA_BINARY_PACKED"})

media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
place = {"bytes": png(1), "path": "1.png"}
lists = [
    ([place, None, place], [None, "between", None]),
    ([None, place], ["only one"]),
    ([], []),
    (None, None),
    ([place, None], ["both", "second"]),
    ([None], [None]),
    ([{"bytes": None, "path": "gone.png"}, None], [None, "text"]),
    ([place, None] * 300, [None, "long"] * 300),
    ([None], ["text alone"]),
]
save("documents", pa.table({
    "images": pa.array([images for images, _ in lists], pa.list_(media)),
    "texts": pa.array([texts for _, texts in lists], pa.list_(pa.string())),
    "url": pa.array([f"https://example.com/{row}" for row in range(len(lists))]),
}), row_group_size=5)
save("addresses", pa.table({
    "images": pa.array([["https://example.com/a.png", None], [None]], pa.list_(pa.string())),
    "texts": pa.array([[None, "a text"], ["a text alone"]], pa.list_(pa.string())),
}))
save("two-images", pa.table({
    "image": pa.array([place, place, None, {"bytes": None, "path": "gone.png"}], media),
    "mask": pa.array([place, None, None, None], media),
    "vector": pa.array([b"BM\x01\x02", b"\xff\xfb\x00", b"", None], pa.binary()),
    "caption": pa.array([b"a", b"\xff\xfe", None, b"d"], pa.binary()),
    "score": pa.array([0.5, 2.0, None, 1e9]),
}))
save("gallery", pa.table({
    "images": pa.array([[place], [place, place], [], None], pa.list_(media)),
    "text": pa.array(["one", "two", "none", None]),
}))
save("numbers", pa.table({"score": pa.array([0.5, 2.0]), "flag": pa.array([True, False])}))
