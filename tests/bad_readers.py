"""Readers for test_reading's child processes, and one that says what it found there. No torch."""

import ctypes
import os
import sys
import time

import numpy as np

from hpe_lib.data.reading import in_child_process


@in_child_process("a poem")
def crashing(stream):
    ctypes.string_at(0)


@in_child_process("a poem")
def hanging(stream):
    while True:
        pass


@in_child_process("a poem")
def sleeping(stream):
    time.sleep(600)


@in_child_process("a poem")
def flooding(stream):
    return np.ones(10 << 30, np.uint8).sum()


@in_child_process("a poem")
def leaving(stream):
    os._exit(3)


@in_child_process("a poem")
def measuring(stream, unit):
    """(units of the stream's bytes, is torch there?)."""
    return len(stream.read()) // unit, "torch" in sys.modules
