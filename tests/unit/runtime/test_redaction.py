"""Secrets go, everything else stays, at any size."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_runtime.redaction import Redactor, names_secret, redact

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM_BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\nVJTUt9Us8cKj" * 4
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}\n-----END RSA PRIVATE KEY-----"

SECRETS = {
    "vault service token": ("hvs.CAESIJ1234567890abcdefgh", "vault-token"),
    "vault batch token": ("hvb.AAAAAQJ1234567890abcdefghijk", "vault-token"),
    "vault legacy token": ("s.aB3dE5gH7jK9mN1pQ3sT5vX7", "vault-token"),
    "openai": ("sk-proj-abcDEF123456_7890-abcdefghijkl", "api-key"),
    "openrouter": ("sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef", "api-key"),
    "anthropic": ("sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789", "api-key"),
    "aws key": ("AKIAIOSFODNN7EXAMPLE", "aws-key"),
    "aws temporary key": ("ASIAIOSFODNN7EXAMPLE", "aws-key"),
    "github": ("ghp_abcdefghij0123456789ABCDEFGHIJ012345", "api-key"),
    "jwt": (JWT, "jwt"),
    "private key": (PEM, "private-key"),
    "private key in JSON": (json.dumps(PEM)[1:-1], "private-key"),
}


@pytest.mark.covers("O7")
@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("around", ["{}", "before {} after", '{{"message": "{}"}}', "({}).", "x={}, y=1", "'{}'\n"])
def test_secrets_are_known_by_their_form(name: str, around: str) -> None:
    secret, kind = SECRETS[name]
    assert redact(around.format(secret)) == around.format(f"[redacted:{kind}]")


@pytest.mark.covers("O7")
@pytest.mark.parametrize("name", ["vault legacy token", "aws key", "aws temporary key"])
def test_a_secret_of_exact_length_is_known_right_before_another_one(name: str) -> None:
    secret, kind = SECRETS[name]
    assert redact(secret + JWT) == f"[redacted:{kind}][redacted:jwt]"


@pytest.mark.covers("O7")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=hunter2", "password=[redacted:password]"),
        ("db_password = hunter2; x", "db_password = [redacted:password]; x"),
        ("DB_PASSWORD: hunter2", "DB_PASSWORD: [redacted:password]"),
        ('{"password": "hun\\"ter 2", "a": 1}', '{"password": "[redacted:password]", "a": 1}'),
        ('{\\"password\\": \\"hunter2\\", \\"a\\": 1}', '{\\"password\\": \\"[redacted:password]\\", \\"a\\": 1}'),
        ("{'client_secret': 'abc'}", "{'client_secret': '[redacted:secret]'}"),
        ("export API_KEY=abcdef", "export API_KEY=[redacted:api-key]"),
        ("X-Api-Key: abcdef", "X-Api-Key: [redacted:api-key]"),
        ("X-Vault-Token: 8d7c6b5a-aaaa", "X-Vault-Token: [redacted:token]"),
        ('{"access_token":"abcdefgh"}', '{"access_token":"[redacted:token]"}'),
        ("/login?token=abcdefgh&next=/", "/login?token=[redacted:token]&next=/"),
        ("secret_id=0d1e2f", "secret_id=[redacted:secret]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = [redacted:secret]"),
        ("Authorization: Bearer abc.def HTTP/1.1", "Authorization: Bearer [redacted:authorization] HTTP/1.1"),
        ('"authorization": "Basic dXNlcjpwYXNz"', '"authorization": "Basic [redacted:authorization]"'),
        ("authorization: abc", "authorization: [redacted:authorization]"),
        ('Authorization: Digest username=Ann, nonce=1\nHost: x', "Authorization: [redacted:authorization]\nHost: x"),
        ("sent Bearer 0123456789abcdefghij to it", "sent Bearer [redacted:authorization] to it"),
        ("Cookie: session=abc; theme=dark\nHost: x", "Cookie: [redacted:cookie]\nHost: x"),
        ("postgres://app:s3cr3t@db:5432/orders", "postgres://app:[redacted:password]@db:5432/orders"),
        ("redis://:p@ss@cache:6379", "redis://:[redacted:password]@cache:6379"),
        ("https://0123456789abcdef0123@host/x.git", "https://[redacted:token]@host/x.git"),
        ("password=f(password=hunter2)", "password=f(password=[redacted:password]"),
        ("\u0130\u0130 password=hunter2", "\u0130\u0130 password=[redacted:password]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\nBgkq", "[redacted:private-key]"),
    ],
)  # fmt: skip
def test_secrets_are_known_by_what_stands_before_them(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.covers("O7")
@pytest.mark.parametrize(
    "text",
    [
        "GET /orders/550e8400-e29b-41d4-a716-446655440000 200 12ms",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709 by task-list-for-the-whole-incident-2026",
        "token_count: 17, input_tokens=512, max_tokens: 4096, tokens: 9",
        "token: 17",
        "Unexpected token: } in JSON at position 12",
        "unexpected token: identifier expected",
        "the password is required; a secret is missing; token expired",
        "password: null, secret=None, token=''",
        "password = os.environ",
        "token = lexer.next()",
        "password: ${DB_PASSWORD}",
        "authorization: required",
        "risk-averse, disk-usage-of-the-host-01-is-high, ask-me-about-it-sometimes-2",
        "logs.appendTheWholeLineNow(x) and this.isAlsoNoTokenOfVault24()",
        "see https://example.org/a@b and ssh://git@host/x.git, mail me@example.org",
        "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIID\n-----END PUBLIC KEY-----",
        "2026-11-21T09:26:00.123Z ERROR orders: pool exhausted (size=20, waited 30s) at pool.py:88",
        "primary key: id, foreign key: order_id, partition_key=orders, the bearer of bad news",
        "eyJhbGciOiJIUzI1NiJ9 alone is a header, not a token",
        "s.startswith(prefix) or s.encode('utf-8')",
    ],
)
def test_ordinary_text_survives(text: str) -> None:
    assert redact(text) == text


@pytest.mark.covers("O7")
def test_known_secrets_go_in_every_spelling() -> None:
    redactor = Redactor(['quo"te\\d', "a/b c+d", "longer-than", "longer"])
    assert redactor.redact('x quo"te\\d y') == "x [redacted:secret] y"
    assert redactor.redact(json.dumps({"x": 'quo"te\\d'})) == '{"x": "[redacted:secret]"}'
    assert redactor.redact("/a%2Fb%20c%2Bd/") == "/[redacted:secret]/"
    assert redactor.redact("longer-than longer") == "[redacted:secret] [redacted:secret]"


def test_a_known_secret_that_stands_in_a_marker_spoils_no_marker() -> None:
    redactor = Redactor(["password", "redacted"])
    once = redactor.redact("x password y password=hunter2")
    assert redactor.redact(once) == once
    assert "hunter2" not in once


def test_a_secret_too_short_to_hide_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="3 characters") as caught:
        Redactor(["xyz"])
    assert "xyz" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("db_password", True), ("X-Vault-Token", True), ("token_count", False), ("path", False), ("apiKey", True)],
)
def test_names_of_secrets(name: str, expected: bool) -> None:
    assert names_secret(name) is expected


HOSTILE = [
    "eyJ", "eyJ.", "eyJa.eyJa.", "eyJa.a.", "sk-", "-sk-", "hvs.", "s.a", "AKIA", "ghp_", "github_pat_",
    "password=", 'password="', "password='\\", "password\\\\\\", "password=password", "password=a.", "token = a.",
    'token:\\"', "token: =", "token:a=", "secret_id secret=", "authorization: ", "authorization: digest ", "bearer ",
    "cookie: ", "://", "://a@", "://a:", "\\", " \t", "[redacted:", "[redacted:x]", "\u0130password=",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n-----END ", "-----BEGIN ", "-----END A PRIVATE KEY",
    "-----BEGIN PRIVATE KEY-----a",
]  # fmt: skip


@pytest.mark.covers("O7")
@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.timeout(20)  # a quadratic rule would take hours for a megabyte; a linear one takes part of a second
def test_a_hostile_megabyte_takes_linear_time(pattern: str) -> None:
    text = (pattern * (1_000_000 // len(pattern) + 1))[:1_000_000]
    once = redact(text)
    assert redact(once) == once


FRAGMENTS = [
    *[secret for secret, _ in SECRETS.values()], *HOSTILE, "hunter2", " ", "\n", '"', "'", "\\", ":", "=", "@", "/",
    ",", "}", "(", "user", "token", "secret", "Basic ", "[redacted:password]", "]", "1", "-----END PRIVATE KEY-----",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(string.printable, max_size=5)), max_size=12).map("".join))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(
    st.dictionaries(
        st.sampled_from(["password", "message", "token", "authorization", "url", "x"]),
        st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join),
    )
)
def test_json_inside_a_text_stays_json(document: dict[str, str]) -> None:
    assert isinstance(json.loads(redact(json.dumps(document))), dict)
