"""What MinIO's library for Python does with a store. usage: minio_client.py HOST:PORT KEY SECRET"""

import io
import os
import sys
import urllib.request

from minio import Minio
from minio.commonconfig import ENABLED, ComposeSource, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.sse import SseS3
from minio.versioningconfig import VersioningConfig

BUCKET = {"bucket_name": "shelf"}
client = Minio(sys.argv[1], access_key=sys.argv[2], secret_key=sys.argv[3], secure=False)
client.make_bucket(**BUCKET)
assert client.bucket_exists(**BUCKET)
data = os.urandom(12 << 20)
big = {**BUCKET, "object_name": "big"}
client.put_object(**big, data=io.BytesIO(data), length=len(data), part_size=5 << 20, metadata={"a": "b"})
assert client.get_object(**big).read() == data
client.put_object(**BUCKET, object_name="open-ended", data=io.BytesIO(data), length=-1, part_size=5 << 20)
assert client.stat_object(**BUCKET, object_name="open-ended").size == len(data)
client.copy_object(**BUCKET, object_name="copy", source=CopySource(**big))
client.compose_object(**BUCKET, object_name="composed", sources=[ComposeSource(**big), ComposeSource(**BUCKET, object_name="copy")])
assert client.get_object(**BUCKET, object_name="composed").read() == data + data
tags = Tags.new_object_tags()
tags["x"] = "y"
client.set_object_tags(**big, tags=tags)
assert client.get_object_tags(**big)["x"] == "y"
client.set_bucket_versioning(**BUCKET, config=VersioningConfig(status=ENABLED))
assert [found.object_name for found in client.list_objects(**BUCKET, recursive=True)] == ["big", "composed", "copy", "open-ended"]
assert urllib.request.urlopen(client.presigned_get_object(**big)).read() == data
client.put_object(**BUCKET, object_name="sealed", data=io.BytesIO(b"x" * 100), length=100, sse=SseS3())
assert not list(client.remove_objects(**BUCKET, delete_object_list=[DeleteObject("big"), DeleteObject("copy")]))
for found in list(client.list_objects(**BUCKET, recursive=True, include_version=True)):
    client.remove_object(**BUCKET, object_name=found.object_name, version_id=found.version_id)
client.remove_bucket(**BUCKET)
