import pytest

from pipeline.core.urls import without_credentials

PASSWORDS = [
    "secret", "s:ecret", "s@ecret", "s/ecret", "s#ecret", "s?ecret", "s%40%2Fecret", "s[ecret",
    "@/secret", "secret@@", "://secret", "s/e@c?r#e:t", "s ecret", "12:34", "",
]  # fmt: skip
PLACES = [
    "host", "host:5000/x", "[::1]:5000/x", "[fe80::1%25eth0]/", "10.0.0.1", "/db?host=/tmp/socket",
    "host/db?sslmode=require#part",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("password", PASSWORDS)
def test_no_part_of_a_password_is_shown(password: str, place: str) -> None:
    for scheme in ("http", "https", "postgresql+psycopg", "mysql"):
        address = f"{scheme}://user:{password}@{place}"
        assert without_credentials(address) == f"{scheme}://{place}"


@pytest.mark.parametrize(
    "address",
    [
        *(f"http://{place}" for place in PLACES),
        "",
        "mlruns",
        "/tmp/a@b/mlflow.db",
        "file:///tmp/a@b",
        "sqlite:///a@b.db",
        "sqlite:////tmp/a@b.db",
        "https://host:1/x@y",
        "databricks://profile",
        "s3://bucket/key@1",
    ],
)
def test_an_address_without_credentials_is_unchanged(address: str) -> None:
    assert without_credentials(address) == address


def test_a_user_alone_goes_too() -> None:
    assert without_credentials("https://me@host/x") == "https://host/x"
    assert without_credentials("//me:secret@host") == "//host"


def test_secret_parameters_are_hidden() -> None:
    address = "postgresql://host/db?user=me&password=a:b&sslmode=require&access_token=x#y"
    shown = "postgresql://host/db?user=me&password=***&sslmode=require&access_token=***#y"
    assert without_credentials(address) == shown


def test_rather_too_little_is_shown_than_part_of_a_password() -> None:
    assert without_credentials("https://me:secret@host/x@y") == "https://y"
