"""What the transfer tests send: the same bytes on both sides."""

import hashlib
import struct

BLOCK = hashlib.shake_256(b"workspacekit").digest(1 << 20)


def stream(count):
    """Bytes that differ from block to block, so that a lost, doubled or swapped block shows."""
    number = 0
    while count > 0:
        block = struct.pack(">Q", number) + BLOCK[8:]
        yield block[:count]
        count -= len(block)
        number += 1
