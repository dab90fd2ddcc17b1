"""Kinds of files: what a suffix says, and where it says nothing, what the first bytes say."""

from __future__ import annotations

import re

# Phones write HEIC. Where pillow-heif is not installed, such photos are reported, not ignored.
_HEIC = frozenset({".heic", ".heif"})
IMAGE_SUFFIXES = _HEIC | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".avif"),
}
# Files with these suffixes are never opened to see whether they are images. Raw photos begin like
# TIFF and hold a small picture; a part of a download may begin like a whole one.
OTHER_SUFFIXES = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".toml",
     ".ini", ".cfg", ".conf", ".md", ".rst", ".html", ".htm", ".css", ".js", ".py", ".ipynb",
     ".sh", ".bat", ".log", ".tex", ".bib", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt",
     ".pptx", ".odt", ".ods", ".rtf", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z",
     ".rar", ".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".onnx", ".safetensors",
     ".h5", ".hdf5", ".mat", ".parquet", ".arrow", ".feather", ".tfrecord", ".lmdb", ".mdb", ".db",
     ".sqlite", ".sqlite3", ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg",
     ".mp3", ".wav", ".flac", ".m4a", ".ogg", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai",
     ".eps", ".ps", ".kra", ".jp2", ".j2k", ".jpx", ".jxl", ".exe", ".dll", ".so", ".lnk", ".url",
     ".plist", ".md5", ".sha1", ".sha256", ".xmp", ".aae", ".thm", ".part", ".partial",
     ".crdownload", ".download", ".tmp", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".srf", ".sr2",
     ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw")
)  # fmt: skip

HEAD_BYTES = 32  # enough for every signature
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff"
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|RIFF....WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # the size of one of its headers
    rb"|II(?:\*\0|\0\*|\+\0)|MM(?:\0\*|\*\0|\0\+)"
    rb"|P[1-6]\s"
    rb"|....ftyp(?:avif|avis|mif1|msf1|hei[cxms]|hev[cxms])",
    re.DOTALL,
)


def begins_like_an_image(head: bytes) -> bool:
    """Whether the first HEAD_BYTES of a file are those of JPEG, PNG, GIF, WebP, BMP, TIFF, PPM,
    AVIF or HEIC."""
    return _SIGNATURES.match(head) is not None
