"""The little world both protocols run: one input makes one state delta and one output.

Each decision draws a nonce. The state keeps a checksum chained over the nonces, the output carries its own nonce.
So an output whose decision is not the durable one (a phantom), a lost effect and a doubled effect all break the chain.
"""

from __future__ import annotations

import itertools
import os
import zlib

import msgspec

PARTITIONS = 8
PADDING = "x" * 330  # brings every value to about 400 bytes


class Input(msgspec.Struct):
    id: str
    padding: str = PADDING


class Output(msgspec.Struct):
    id: str
    sequence: int
    nonce: int
    padding: str = PADDING


class KeyState(msgspec.Struct):
    sequence: int = 0
    chain: int = 0
    padding: str = PADDING


encode_json = msgspec.json.encode
decode_input = msgspec.json.Decoder(Input).decode
decode_output = msgspec.json.Decoder(Output).decode
decode_state = msgspec.json.Decoder(KeyState).decode

# A nonce differs from process to process: the instance that decides again after a crash decides otherwise.
_nonces = itertools.count(int.from_bytes(os.urandom(6), "big"))


def next_chain(chain: int, input_id: str, nonce: int) -> int:
    return zlib.crc32(f"{chain}:{input_id}:{nonce}".encode())


def decide(state: KeyState, value: bytes) -> tuple[KeyState, Output]:
    """Return the state after one input and the one output it makes."""
    message = decode_input(value)
    nonce = next(_nonces)
    sequence = state.sequence + 1
    chain = next_chain(state.chain, message.id, nonce)
    return KeyState(sequence, chain), Output(message.id, sequence, nonce)


def key_name(number: int) -> bytes:
    return b"key-%04d" % number


def key_partition(number: int) -> int:
    return number % PARTITIONS
