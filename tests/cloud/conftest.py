"""The real servers that the tests of the cloud run against."""

from support.broker import broker
from support.cloud import cloud, own, parts
from support.learning import starter
from support.s3 import s3

__all__ = ["broker", "cloud", "own", "parts", "s3", "starter"]
