"""Signatures of records: DSSE envelopes around the in-toto statement, with ed25519 keys in PEM files, offline.

`signature.json` holds the fields of the envelope and beside them the public key. `securesystemslib` signs and verifies.
No private key is ever shown, copied or written anywhere but where it is made.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError, OutsideError
from deckbench.extras import is_installed, require
from deckbench.record.schema import SIGNATURE, STATEMENT

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PACKAGES = ("cryptography", "securesystemslib")
MAX_KEY_BYTES = 1 << 16
AGAIN = "sign the record again, or remove the signature"


@dataclass(frozen=True)
class Signature:
    """Who signed a record. key: fingerprint of the public key; None where nobody did. checked: whether that holds."""

    key: str | None = None
    checked: bool = False

    @property
    def words(self) -> str:
        if self.key is None:
            return "unsigned"
        return f"signed by {self.key[:16]}" + ("" if self.checked else ", not verified here")


def check_signature(folder: Path, key: Path | None = None) -> Signature:
    """The signature of a record whose statement was checked.

    key: a public key that must have signed it; None: whichever is named in the signature.

    Raises InputError when the signature is not of this statement, by no key or by another one.
    """
    place = folder / SIGNATURE
    if not place.is_file():
        return Signature()
    envelope = artifact.read_json(place, AGAIN)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        pem = envelope["publicKey"].encode()
        (entry,) = envelope["signatures"]
        known = {"payload", "payloadType", "publicKey", "signatures"} == set(envelope)
        good = known and envelope["payloadType"] == PAYLOAD_TYPE and set(entry) == {"keyid", "sig"}
        keyid = str(entry["keyid"])
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise InputError(f"is no signature ({type(error).__name__})", place, AGAIN) from error
    if not good:
        raise InputError("is no signature of a record", place, AGAIN)
    if payload != (folder / STATEMENT).read_bytes():
        raise InputError("the signature is of another statement", place, AGAIN)
    if not all(map(is_installed, PACKAGES)):
        return Signature(keyid, checked=False)
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    signer = public_key(pem, place)
    if signer.keyid != keyid:
        raise InputError("the signature is of another key than it names", place, AGAIN)
    if key is not None and public_key(read_key(key), key).keyid != keyid:
        raise InputError(f"was signed by another key, {keyid[:16]}", place, "give the key of the signer")
    try:
        fields = {name: envelope[name] for name in ("payload", "payloadType")}
        Envelope.from_dict({**fields, "signatures": [dict(entry)]}).verify([signer], 1)
    except (VerificationError, ValueError, KeyError) as error:
        raise InputError("the signature is wrong", place, AGAIN) from error
    return Signature(keyid, checked=True)


def sign(folder: Path, key: Path) -> str:
    """Sign a record that was checked; returns the key's fingerprint. An older signature is replaced.

    Raises InputError when the key cannot be read, or is no ed25519 private key.
    """
    for package in PACKAGES:
        require(package, "a signature")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    try:
        private = load_pem_private_key(read_key(key), None)
    except (ValueError, TypeError):  # the error may show parts of the key
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(
            "is no ed25519 private key in PEM without a password", key, "make one: `deckbench sign --new-key FILE`"
        )
    signer = CryptoSigner(private)
    envelope = Envelope((folder / STATEMENT).read_bytes(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    value = {**envelope.to_dict(), "publicKey": pem_of(private)}
    artifact.atomic_write(folder / SIGNATURE, json.dumps(value, indent=1) + "\n")
    return str(signer.public_key.keyid)


def new_key(place: Path) -> tuple[Path, str]:
    """Write a new private key (readable by its owner only) and PLACE.pub; returns that and the fingerprint.

    Raises InputError when a file is there already.
    """
    for package in PACKAGES:
        require(package, "a signature")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    public = place.with_name(f"{place.name}.pub")
    for path in (place, public):
        if path.exists() or path.is_symlink():
            raise InputError("refusing to overwrite a file", path, "choose another name for the key")
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    artifact.make_parent(place)
    try:
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(signer.private_bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutsideError(f"cannot write the key: {error.strerror}", place, "choose another place") from error
    artifact.atomic_write(public, pem_of(private))
    return public, str(signer.public_key.keyid)


def pem_of(private: Any) -> str:
    """The public half of a private key, in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    data: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data.decode()


def public_key(pem: bytes, where: Path) -> Any:
    """An ed25519 public key from PEM. Raises InputError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError("holds no ed25519 public key in PEM", where, "give the file that ends in .pub")
    return SSlibKey.from_crypto(key)


def read_key(place: Path) -> bytes:
    """The bytes of a key file. Raises InputError; what is in it is never shown."""
    try:
        if not place.is_file() or place.stat().st_size > MAX_KEY_BYTES:
            raise InputError("no key file is here", place, "make one: `deckbench sign --new-key FILE`")
        return place.read_bytes()
    except OSError as error:
        raise InputError(f"the key cannot be read ({error.strerror})", place, "check its permissions") from error
