"""Ed25519 signatures (RFC 8032) over a package's record, which holds the hash of every file. Keys are PEM files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlc.errors import CapabilityError, UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CONTEXT = b"dlc-package/1\n"
"""Signed before the record, so that a signature made for another purpose never counts here."""
MAKE_KEYS = "openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out pub.pem"


def load_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key; UserError if the file is no unencrypted Ed25519 key in PEM."""
    serialization = _library()
    try:
        key: Ed25519PrivateKey = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a private key that can be read ({error}); make a pair: {MAKE_KEYS}") from error
    _check_kind(key, path)
    return key


def load_public(path: Path) -> Ed25519PublicKey:
    """Read a public key; UserError if the file is no Ed25519 key in PEM."""
    serialization = _library()
    try:
        key: Ed25519PublicKey = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a public key that can be read ({error}); make a pair: {MAKE_KEYS}") from error
    _check_kind(key, path)
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def sign(key: Ed25519PrivateKey, record: bytes) -> bytes:
    """Return the 64 bytes of the signature; the same key and record give the same ones."""
    return key.sign(CONTEXT + record)


def is_signed(key: Ed25519PublicKey, signature: bytes, record: bytes) -> bool:
    """Whether this key's owner signed this record."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, CONTEXT + record)
    except InvalidSignature:
        return False
    return True


def _check_kind(key: object, path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    if not isinstance(key, (Ed25519PrivateKey, Ed25519PublicKey)):
        raise UserError(f"{path} is not an Ed25519 key; make a pair: {MAKE_KEYS}")


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise CapabilityError("signatures need the package cryptography: pip install 'dlc[package]'") from error
    return serialization
