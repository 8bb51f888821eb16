"""Telling a secret key of age from other text without its library, which hooks that need no key never load."""

from __future__ import annotations

import re

_CHARACTERS = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
_PREFIX = "AGE-SECRET-KEY-"
_KEY = re.compile(f"{_PREFIX}1([{_CHARACTERS}]{{58}})")  # 32 bytes in 52 characters, and a checksum of 6
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def is_secret_key(text: str) -> bool:
    """True if `text` is one as `age-keygen` prints it, and unchanged: Bech32's checksum is right (BIP 173)."""
    match = _KEY.fullmatch(text)
    if match is None:
        return False
    prefix = [ord(letter) for letter in _PREFIX.lower()]
    values = [code >> 5 for code in prefix] + [0] + [code & 31 for code in prefix]
    values += [_CHARACTERS.index(letter) for letter in match[1]]
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate(_GENERATOR):
            checksum ^= term if top >> bit & 1 else 0
    return checksum == 1
