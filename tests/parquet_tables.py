"""Parquet files in the hub's layout, for tests."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def table(labels, image="img", label="label", names=None, struct=True, first=0, label_type=None):
    encoded = [png(PIXELS[first + i]) for i in range(len(labels))]
    images = [{"bytes": e, "path": f"{i}.png"} for i, e in enumerate(encoded)] if struct else encoded
    made = pa.table(
        {image: images, label: pa.array(labels, label_type or pa.int64()), "other": list(range(len(labels)))}
    )
    if names is None:
        return made
    features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(features)})


def write(root, train, test):
    """One or several tables of each split, named as the hub names them."""
    root.mkdir(parents=True, exist_ok=True)
    for split, tables in (("train", train), ("test", test)):
        for i, part in enumerate(tables):
            name = f"{split}.parquet" if len(tables) == 1 else f"{split}-{i:05}-of-{len(tables):05}.parquet"
            pq.write_table(part, root / name, row_group_size=2)
    return root
