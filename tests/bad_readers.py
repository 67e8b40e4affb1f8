"""Readers for test_reading's child processes, and one that says what it found there. No torch here."""

import ctypes
import os
import sys
import time

import numpy as np

from hpe_lib.data.reading import apart


@apart("a poem")
def crashing(stream):
    ctypes.string_at(0)


@apart("a poem")
def hanging(stream):
    while True:
        pass


@apart("a poem")
def sleeping(stream):
    time.sleep(600)


@apart("a poem")
def flooding(stream):
    return np.ones(10 << 30, np.uint8).sum()


@apart("a poem")
def leaving(stream):
    os._exit(3)


@apart("a poem")
def measuring(stream, unit):
    """(units of the stream's bytes, is torch there?)."""
    return len(stream.read()) // unit, "torch" in sys.modules
