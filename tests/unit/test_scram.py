"""SCRAM against the vectors of RFC 7677, SASLprep against those of RFC 4013, and a server that cheats."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.wire.scram import MAX_ITERATIONS, ScramClient, ScramError, saslprep

# RFC 7677, section 3
NONCE = "rOprNGfwEbeRWgbNEkqO"
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def client(**changes) -> ScramClient:
    return ScramClient("pencil", username="user", nonce=NONCE, **changes)


def test_the_exchange_of_rfc_7677():
    scram = client()
    assert scram.first() == FIRST
    assert scram.final(SERVER_FIRST) == FINAL
    scram.verify(SERVER_FINAL)


@pytest.mark.parametrize(
    "final", [b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", b"v=", b"", b"e=invalid-proof", b"v=%%", b"\xff"]
)
def test_a_server_that_does_not_know_the_verifier_is_refused(final):
    scram = client()
    scram.final(SERVER_FIRST)
    with pytest.raises(ScramError):
        scram.verify(final)


def test_nothing_is_verified_before_the_client_made_its_proof():
    with pytest.raises(ScramError):
        client().verify(SERVER_FINAL)


@pytest.mark.parametrize(
    "challenge",
    [
        b"r=somebody-else,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=not base64,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==",
        f"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i={MAX_ITERATIONS + 1}".encode(),
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=" + b"9" * 5000,
        b"\xff\xfe",
        b"",
    ],
)
def test_an_unfit_challenge_is_refused(challenge):
    with pytest.raises(ScramError):
        client().final(challenge)


@given(st.binary(max_size=200))
def test_no_challenge_raises_anything_else(challenge):
    scram = client()
    try:
        scram.final(challenge)
    except ScramError:
        return


def test_plus_carries_the_channel_binding_and_its_proof_covers_it():
    binding = hashlib.sha256(b"certificate").digest()
    scram = client(binding=binding, plus=True)
    assert scram.first() == b"p=tls-server-end-point,,n=user,r=" + NONCE.encode()
    without_proof, _, proof = scram.final(SERVER_FIRST).rpartition(b",p=")
    carried = base64.b64decode(without_proof.split(b",")[0][2:])
    assert carried == b"p=tls-server-end-point,," + binding
    # RFC 5802, section 3, computed the server's way: from StoredKey.
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    message = b"n=user,r=" + NONCE.encode() + b"," + SERVER_FIRST + b"," + without_proof
    signature = hmac.digest(stored, message, "sha256")
    key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    assert hashlib.sha256(key).digest() == stored


def test_a_client_that_could_bind_and_was_not_offered_it_says_so():
    assert client(binding=b"x").first().startswith(b"y,,")


@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        # RFC 4013, section 3
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        # PostgreSQL takes what the RFC prohibits as it is (saslprep.c: the caller falls back to the raw password)
        ("\u0007", "\u0007"),
        ("\u0627\u0031", "\u0627\u0031"),
        ("\u0627\u00e9\u0628", "\u0627\u00e9\u0628"),
        ("\ue000p", "\ue000p"),
        ("\u00ad", "\u00ad"),
        ("a\u00a0b", "a b"),
        ("\u0627b\u0628", "\u0627b\u0628"),
        ("e\u0301", "\u00e9"),
        ("", ""),
    ],
)
def test_saslprep(given, prepared):
    assert saslprep(given) == prepared


@given(st.text(max_size=30))
def test_what_is_prepared_stays_as_it_is(text):
    assert saslprep(saslprep(text)) == saslprep(text)
