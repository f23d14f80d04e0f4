"""S3 as a store, in parts, and with digests that end at both ends: no server and no line is believed.

What is sent carries its MD5 as Content-MD5, so that a server that checks refuses a damaged body. One that does not
check still computes the ETag of what it got, and that is compared. Where the ETag is no such digest (a server's own
choice), what was written is read back. Only encryption by KMS is believed: those who offer it check Content-MD5.
A small object also keeps its MD5 as metadata, and `read` compares; what is large has its digest in a manifest.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.storage.backend import Versioned
from pipelines.storage.connection import Connection, read_body
from pipelines.storage.parts import NUM_THREADS, PART_BYTES, again, in_order, md5, part_bytes, spans, tag_of
from pipelines.trouble import Unsound, error_code, is_missing_key, status_code

_MARK = "slipway-write"
"""Metadata that names the writer of an object: a conditional write whose answer was lost knows its own work by it."""

_MD5 = "slipway-md5"
"""Metadata with the digest of a small object."""

_REFUSED_BODY = frozenset({"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentSHA256Mismatch"})
_REFUSED_PARTS = frozenset({"EntityTooSmall", "InvalidPart"})
_DAMAGED = "what was written differs from what was sent"

Piece = Callable[[int, int], bytes]
"""Returns the bytes at an offset, of a length."""


class S3Backend:
    """A bucket, or a prefix in it."""

    def __init__(self, root: str) -> None:
        self._bucket, _, self._prefix = root.partition("/")
        self._connection = Connection()
        self._slots = threading.Semaphore(NUM_THREADS)
        self._digesting = threading.Lock()  # one part's digest is ready, and on its way, while the next is computed

    def create(self, path: str, data: bytes) -> bool:
        return self._write_if(path, data, {"IfNoneMatch": "*"})

    def put(self, path: str, *pieces: bytes | memoryview) -> None:
        self._upload(path, sum(map(len, pieces)), _piece_of(*pieces))

    def replace(self, path: str, data: bytes, tag: str) -> bool:
        return self._write_if(path, data, {"IfMatch": tag})

    def read(self, path: str) -> Versioned | None:
        try:
            first = again(lambda: self._sound_range(path))
        except FileNotFoundError:
            return None
        return Versioned(b"".join(self._ranges(path, first)), first.tag)

    def chunks(self, path: str) -> Iterator[bytes]:
        return self._ranges(path, again(lambda: self._range(path, 0)))

    def put_file(self, path: str, source: Path) -> None:
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._upload(path, size, lambda offset, length: os.pread(file.fileno(), length, offset))

    def list(self, prefix: str) -> list[str]:
        folder = self._key("")
        listed = self._connection.objects(self._bucket, f"{self._key(prefix)}/")
        return [found["Key"].removeprefix(folder) for found in listed]

    def delete(self, path: str) -> None:
        self._call("delete_object", path)

    def modified(self, path: str) -> float:
        head = self._head(path)
        if head is None:
            raise FileNotFoundError(path)
        return float(head["LastModified"].timestamp())

    def local_path(self, path: str) -> Path | None:
        return None

    def _upload(self, path: str, size: int, piece: Piece) -> None:
        """Write an object until it is as it was sent; what cannot be made so is removed."""
        try:
            again(lambda: self._upload_once(path, size, piece))
        except Unsound:
            self.delete(path)
            raise

    def _upload_once(self, path: str, size: int, piece: Piece) -> None:
        if size <= PART_BYTES:
            sent, answer = self._send("put_object", path, size, lambda: piece(0, size), Metadata={})
            tag = tag_of([sent])
        else:
            tag, answer = self._upload_parts(path, size, piece)
        if not _is_vouched(answer, tag) and not self._reads_back(path, size, piece):
            raise Unsound(_DAMAGED)

    def _upload_parts(self, path: str, size: int, piece: Piece) -> tuple[str, dict[str, Any]]:
        """Write a large object; a part that fails for good ends the upload, and nothing is left of it."""
        mark = uuid.uuid4().hex
        upload = self._call("create_multipart_upload", path, Metadata={_MARK: mark})["UploadId"]

        def send(part: tuple[int, tuple[int, int]]) -> tuple[bytes, dict[str, Any]]:
            number, (offset, length) = part
            digest, answer = self._send(
                "upload_part", path, length, lambda: piece(offset, length), UploadId=upload, PartNumber=number
            )
            return digest, {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            sent = list(in_order(send, enumerate(spans(size, part_bytes(size)), start=1)))
            answer = self._complete(path, upload, mark, [part for _, part in sent])
        except BaseException:
            with contextlib.suppress(Exception):  # it is the first failure that is told
                self._call("abort_multipart_upload", path, UploadId=upload)
            raise
        return tag_of(digest for digest, _ in sent), answer

    def _complete(self, path: str, upload: str, mark: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        try:
            return self._call("complete_multipart_upload", path, UploadId=upload, MultipartUpload={"Parts": parts})
        except ClientError as error:
            if error_code(error) in _REFUSED_PARTS:
                raise Unsound(_DAMAGED) from error
            written = self._written_by(path, mark) if error_code(error) == "NoSuchUpload" else None
            if written is None:
                raise
            return written

    def _write_if(self, path: str, data: bytes, condition: dict[str, str]) -> bool:
        """Write a small object on a condition; return whether it held."""
        mark = uuid.uuid4().hex

        def write() -> bool:
            answer = self._put_if(path, data, mark, condition)
            if answer is None:
                return False
            if not _is_vouched(answer, md5(data).hex()) and not self._reads_back(path, len(data), _piece_of(data)):
                condition.clear()
                condition["IfMatch"] = answer["ETag"]  # put right what this call damaged, if nobody else did
                raise Unsound(_DAMAGED)
            return True

        return again(write)

    def _put_if(self, path: str, data: bytes, mark: str, condition: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the answer to a conditional write, or None when its condition did not hold."""
        from botocore.exceptions import ClientError

        try:
            return self._send("put_object", path, len(data), lambda: data, Metadata={_MARK: mark}, **condition)[1]
        except ClientError as error:
            match status_code(error):
                case 409:
                    raise Unsound("another writer was at the same object") from error
                case 412:
                    return self._written_by(path, mark)
                case 404 if is_missing_key(error):
                    return None
            raise

    def _written_by(self, path: str, mark: str) -> dict[str, Any] | None:
        """Return what the server knows of an object if it is the work of one writer."""
        head = self._head(path)
        return None if head is None or head["Metadata"].get(_MARK) != mark else head

    def _send(
        self, operation: str, path: str, size: int, body: Callable[[], bytes], **arguments: Any
    ) -> tuple[bytes, dict[str, Any]]:
        """Send a body; return its MD5 and the answer. A body that the server finds damaged is sent again."""
        from botocore.exceptions import ClientError

        with self._slots:
            data = body()
            if len(data) != size:
                raise OSError(f"the file changed while it was read: {len(data)} bytes where {size} were")
            with self._digesting:
                digest = md5(data)
            arguments["ContentMD5"] = base64.b64encode(digest).decode()
            if operation == "put_object":
                arguments["Metadata"][_MD5] = digest.hex()

            def send() -> dict[str, Any]:
                try:
                    return self._call(operation, path, Body=data, **arguments)
                except ClientError as error:
                    if error_code(error) in _REFUSED_BODY:
                        raise Unsound("the server got other bytes than were sent") from error
                    raise

            return digest, again(send)

    def _reads_back(self, path: str, size: int, piece: Piece) -> bool:
        offset = 0
        for chunk in self.chunks(path):
            if chunk != piece(offset, len(chunk)):
                return False
            offset += len(chunk)
        return offset == size

    def _sound_range(self, path: str) -> _Range:
        """Read an object's first part, and compare what is small with the digest that it was written with."""
        found = self._range(path, 0)
        written = found.answer["Metadata"].get(_MD5)
        if found.is_whole and written not in (None, md5(found.data).hex()):
            raise Unsound("what was read differs from what was written")
        return found

    def _ranges(self, path: str, first: _Range) -> Iterator[bytes]:
        """Yield an object's parts in order; all are of one version."""
        yield first.data
        others = range(len(first.data), first.size, PART_BYTES)
        found = in_order(lambda offset: again(lambda: self._range(path, offset, first.tag)), others)
        yield from (each.data for each in found)

    def _range(self, path: str, offset: int, tag: str = "") -> _Range:
        from botocore.exceptions import ClientError

        condition = {"IfMatch": tag} if tag else {}
        span = f"bytes={offset}-{offset + PART_BYTES - 1}"
        with self._slots:
            try:
                answer = self._call("get_object", path, Range=span, **condition)
            except ClientError as error:
                if is_missing_key(error):
                    raise FileNotFoundError(errno.ENOENT, "no such object", path) from error
                if error_code(error) != "InvalidRange":
                    raise
                answer = self._call("get_object", path)  # an empty object has no ranges
            found = _Range(read_body(answer), answer)
        if found.is_short(offset):
            raise Unsound("the answer is shorter than what was asked for")
        return found

    def _head(self, path: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            return self._call("head_object", path)
        except ClientError as error:
            if status_code(error) == 404:
                return None
            raise

    def _call(self, operation: str, path: str, **arguments: Any) -> dict[str, Any]:
        return self._connection.call(operation, Bucket=self._bucket, Key=self._key(path), **arguments)

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path


@dataclass(frozen=True)
class _Range:
    """Some bytes of an object, and the answer that brought them."""

    data: bytes
    answer: Mapping[str, Any]

    @property
    def tag(self) -> str:
        return str(self.answer["ETag"])

    @property
    def size(self) -> int:
        """Size of the object."""
        whole = str(self.answer.get("ContentRange", "")).rpartition("/")[2]
        return int(whole) if whole.isdigit() else len(self.data)

    def is_short(self, offset: int) -> bool:
        """Return whether bytes of this range are missing, though the answer's own length may say that it is whole."""
        return len(self.data) < min(PART_BYTES, self.size - offset)

    @property
    def is_whole(self) -> bool:
        return self.size == len(self.data)


def _piece_of(*pieces: bytes | memoryview) -> Piece:
    starts = itertools.accumulate(map(len, pieces), initial=0)
    views = [(start, memoryview(piece)) for start, piece in zip(starts, pieces, strict=False)]
    return lambda offset, size: b"".join(
        view[max(offset - start, 0) : max(offset + size - start, 0)] for start, view in views
    )


def _is_vouched(answer: Mapping[str, Any], tag: str) -> bool:
    """Return whether the server has the bytes of which this is the tag, as far as its answer can tell."""
    return str(answer["ETag"]).strip('"') == tag or str(answer.get("ServerSideEncryption")).startswith("aws:kms")
