"""Targets in every form; libpq itself (through psycopg) is the oracle for what a connection string says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from netdiag.plan.conninfo import TargetError, parse_keywords, parse_uri
from netdiag.plan.dsn import parse_target
from netdiag.plan.model import Alternatives, Credentials
from probes.model import Secret

CANARY = "C4nary-s3cret"


def one(text: str, environ: dict[str, str] | None = None, home: Path | None = None):
    (endpoint,) = parse_target(text, environ or {}, home).endpoints
    return endpoint


def places(text: str, environ: dict[str, str] | None = None) -> list[tuple[str, int | None]]:
    return [(endpoint.host, endpoint.port) for endpoint in parse_target(text, environ or {}, None).endpoints]


# --- the forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db.example", [("db.example", None)]),
        ("db.example:5432", [("db.example", 5432)]),
        ("192.0.2.7", [("192.0.2.7", None)]),
        ("::1", [("::1", None)]),
        ("[::1]", [("::1", None)]),
        ("[2001:DB8::1]:6432", [("2001:db8::1", 6432)]),
        ("fe80::1%eth0", [("fe80::1%eth0", None)]),
        ("my_host-1.example.", [("my_host-1.example.", None)]),
        ("bücher.example:443", [("bücher.example", 443)]),
        ("postgresql://db", [("db", 5432)]),
        ("postgres://db:6000/x", [("db", 6000)]),
        ("postgresql://a:1,b,[::1]:3/x", [("a", 1), ("b", 5432), ("::1", 3)]),
        ("postgresql:///x?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql://u@/x?host=db", [("db", 5432)]),
        ("host=a,b port=1,2 user=u", [("a", 1), ("b", 2)]),
        ("host = 'db' port=''", [("db", 5432)]),
        ("hostaddr=192.0.2.1", [("192.0.2.1", 5432)]),
        ("jdbc:postgresql://a,b:6000/x?user=u&password=p", [("a", 5432), ("b", 6000)]),
        ("jdbc:postgresql:x", [("localhost", 5432)]),
        ("jdbc:postgresql:///x", [("localhost", 5432)]),
        ("jdbc:yugabytedb://a:5434,b/yugabyte?load-balance=true", [("a", 5434), ("b", 5433)]),
    ],
)
def test_places(text, expected):
    assert places(text) == expected


@pytest.mark.parametrize("text", ["db.example:5432", "db.example:5433", "db.example:6432", "db.example", "::1"])
def test_a_plain_place_is_a_host_and_takes_nothing_from_the_environment(text):
    endpoint = one(text, {"PGUSER": "u", "PGPASSWORD": CANARY, "PGPORT": "9", "PGHOST": "other"})
    assert (endpoint.role, endpoint.database, endpoint.credentials) == ("host", False, None)


def test_names_of_endpoints_are_their_places():
    targets = parse_target("postgresql://a,b:7,[::1]:8,a/x", {}, None)
    assert [endpoint.name for endpoint in targets.endpoints] == ["a:5432", "b:7", "[::1]:8"]


def test_a_url_with_everything_and_the_warning_about_its_password():
    targets = parse_target(
        f"postgresql://app:{CANARY}@db:5433/yugabyte?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=7"
        "&load_balance_hosts=true&topology_keys=aws.us-east.a&sslnegotiation=direct&target_session_attrs=any",
        {},
        None,
    )
    (endpoint,) = targets.endpoints
    assert (endpoint.role, endpoint.database) == ("database", True)
    assert endpoint.credentials == Credentials(
        user="app",
        password=Secret(CANARY),
        password_from="the connection string",
        dbname="yugabyte",
        sslmode="verify-full",
        sslrootcert="/ca.pem",
        sslnegotiation="direct",
        connect_timeout=7.0,
    )
    assert targets.warnings == (
        "a password stands in the command line, where the process list and the shell's history show it:"
        " move it to ~/.pgpass or PGPASSWORD",
    )
    assert CANARY not in repr(targets) + str(targets)


@pytest.mark.parametrize(
    "text", ["postgresql://db/x", "host=db", "jdbc:postgresql://db/x", "postgresql://db?sslmode=prefer"]
)
def test_no_user_stated_no_credentials(text):
    assert one(text).credentials is None


def test_no_user_but_tls_settings_are_kept_for_the_tls_phase():
    assert one("postgresql://db/x?sslmode=verify-ca").credentials == Credentials(dbname="x", sslmode="verify-ca")


def test_hostaddr_is_dialled_and_host_is_verified():
    endpoint = one("host=db.example hostaddr=192.0.2.9 user=u")
    assert (endpoint.host, endpoint.address, endpoint.name) == ("db.example", "192.0.2.9", "db.example:5432")


def test_jdbc_parameters():
    endpoint = one("jdbc:postgresql://db/x?user=a+b&password=p%2B+q&ssl=true&connectTimeout=3&targetServerType=primary")
    assert endpoint.credentials == Credentials(
        user="a b",
        password=Secret("p+ q"),
        password_from="the connection string",
        dbname="x",
        sslmode="verify-full",
        connect_timeout=3.0,
    )


# --- several hosts, and the kind of session that is wanted ----------------------------------------------------------


def test_the_hosts_of_one_dsn_know_of_each_other():
    targets = parse_target("postgresql://a:1,b:2/db?load_balance_hosts=random", {}, None)
    choices = {endpoint.alternatives for endpoint in targets.endpoints}
    assert choices == {Alternatives(hosts=("a:1", "b:2"), shuffled=True)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://a/db", None),
        ("postgresql://a/db?target_session_attrs=prefer-standby", None),
        ("postgresql://a,a/db", None),
        (
            "postgresql://a/db?target_session_attrs=read-write",
            Alternatives(hosts=("a:5432",), target_session_attrs="read-write"),
        ),
        ("postgresql://a,b/db?load_balance_hosts=true", Alternatives(hosts=("a:5432", "b:5432"), shuffled=True)),
        ("jdbc:postgresql://a,b/db", Alternatives(hosts=("a:5432", "b:5432"), driver="pgjdbc")),
        (
            "jdbc:postgresql://a/db?targetServerType=master",
            Alternatives(hosts=("a:5432",), target_session_attrs="primary", driver="pgjdbc"),
        ),
        (
            "jdbc:yugabytedb://a,b/db?loadBalanceHosts=true&targetServerType=preferSecondary",
            Alternatives(
                hosts=("a:5433", "b:5433"), target_session_attrs="prefer-standby", shuffled=True, driver="pgjdbc"
            ),
        ),
    ],
)
def test_what_the_driver_may_choose_between(text, expected):
    assert parse_target(text, {}, None).endpoints[0].alternatives == expected


def test_sqlalchemys_name_for_the_driver_is_passed_over():
    assert one("postgresql+psycopg2://u:p@db:7/x") == one("postgresql://u:p@db:7/x")


def test_the_environment_says_what_session_is_wanted():
    (endpoint,) = parse_target("postgresql://a/db", {"PGTARGETSESSIONATTRS": "standby"}, None).endpoints
    assert endpoint.alternatives == Alternatives(hosts=("a:5432",), target_session_attrs="standby")


def test_where_the_password_came_from(tmp_path):
    environ = {"PGPASSWORD": "p"}
    assert one("postgresql://u@db/x", environ).credentials.password_from == "PGPASSWORD"
    assert one("postgresql://u:q@db/x", environ).credentials.password_from == "the connection string"
    passwords = tmp_path / ".pgpass"
    passwords.write_text("db:*:*:u:p\n")
    passwords.chmod(0o600)
    assert parse_target("postgresql://u@db/x", {}, tmp_path).endpoints[0].credentials.password_from == (
        f"password file {passwords}"
    )
    other = parse_target("postgresql://u@other/x", {}, tmp_path).endpoints[0].credentials
    assert other.password is None
    assert other.password_from == f"password file {passwords} has no line for other:5432, x, u"


def test_no_parameter_can_speak_in_the_name_of_where_the_password_came_from():
    stated = one("postgresql://u:q@db/x?%20password%20from=elsewhere").credentials
    assert stated.password_from == "the connection string"


# --- environment, service, password file -------------------------------------------------------------------------


def test_the_environment_alone():
    environ = {
        "PGHOST": "h1,h2",
        "PGPORT": "7",
        "PGUSER": "u",
        "PGPASSWORD": "p",
        "PGDATABASE": "d",
        "PGSSLMODE": "require",
    }
    targets = parse_target("", environ, None)
    assert [(e.host, e.port) for e in targets.endpoints] == [("h1", 7), ("h2", 7)]
    assert targets.endpoints[0].credentials == Credentials(
        user="u", password=Secret("p"), password_from="PGPASSWORD", dbname="d", sslmode="require"
    )
    assert targets.warnings == ()


def test_the_text_outranks_its_service_which_outranks_the_environment(tmp_path):
    (tmp_path / ".pg_service.conf").write_text(
        "# services\n[other]\nhost=no\n\n[mine]\nhost=svc-host\nport=6000\nuser=svc-user\n[next]\nport=1\n"
    )
    environ = {"PGPORT": "1", "PGUSER": "env-user", "PGDATABASE": "env-db"}
    endpoint = one("service=mine user=me", environ, tmp_path)
    assert (endpoint.host, endpoint.port) == ("svc-host", 6000)
    assert (endpoint.credentials.user, endpoint.credentials.dbname) == ("me", "env-db")
    assert one("", {"PGSERVICE": "mine"}, tmp_path).host == "svc-host"
    assert one("postgresql://?service=mine", {}, tmp_path).host == "svc-host"


def test_service_files_are_looked_for_where_libpq_does(tmp_path):
    (tmp_path / "pg_service.conf").write_text("[system]\nhost=sys\n")
    (tmp_path / "named.conf").write_text("[named]\nhost=nam\n")
    assert one("service=system", {"PGSYSCONFDIR": str(tmp_path)}, tmp_path).host == "sys"
    environ = {"PGSERVICEFILE": str(tmp_path / "named.conf"), "PGSYSCONFDIR": str(tmp_path)}
    assert one("service=named", environ, tmp_path).host == "nam"
    assert one("service=system", environ, tmp_path).host == "sys"
    with pytest.raises(TargetError, match="no definition of service 'absent' in"):
        one("service=absent", environ, tmp_path)
    with pytest.raises(TargetError, match=r"service file .*none cannot be read \(No such file"):
        one("service=x", {"PGSERVICEFILE": str(tmp_path / "none")}, tmp_path)
    (tmp_path / "bad.conf").write_text(f"[bad]\nhost=x\n{CANARY}\n")
    with pytest.raises(TargetError, match=r"bad\.conf:3: not of the form") as caught:
        one("service=bad", {"PGSERVICEFILE": str(tmp_path / "bad.conf")}, tmp_path)
    assert CANARY not in str(caught.value)


PASSFILE = r"""
# a comment:5432:d:u:no
too:few:fields
db:6000:d:u:other-port
d\:b:*:*:u:es\:cap\\ed
db:5432:d:u:first:rest
*:*:*:*:any
"""


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("host=db user=u dbname=d", "first"),
        ("host=db port=6000 user=u dbname=d", "other-port"),
        ("host=db user=u", "any"),  # dbname defaults to the user's name
        ("host=else user=someone", "any"),
        ("host=db hostaddr=192.0.2.1 user=u dbname=d", "first"),  # by host, not by hostaddr
        ("host=db user=u dbname=d password=stated", "stated"),
    ],
)
def test_the_password_file(tmp_path, text, password):
    (tmp_path / ".pgpass").write_text(PASSFILE)
    (tmp_path / ".pgpass").chmod(0o600)
    assert one(text, {}, tmp_path).credentials.password == Secret(password)


def test_escapes_in_the_password_file(tmp_path):
    from netdiag.plan.libpq_files import find_password

    (tmp_path / "pass").write_text(PASSFILE)
    (tmp_path / "pass").chmod(0o600)
    found = find_password(tmp_path / "pass", explicit=True, host="d:b", port=1, dbname="x", user="u")
    assert found.password == Secret(r"es:cap\ed")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_password_file_that_others_may_read_is_not_used(tmp_path, mode):
    passfile = tmp_path / ".pgpass"
    passfile.write_text(f"*:*:*:*:{CANARY}\n")
    passfile.chmod(mode)
    targets = parse_target("host=db user=u", {}, tmp_path)
    assert targets.endpoints[0].credentials.password is None
    (warning,) = targets.warnings
    assert f"chmod 0600 {passfile}" in warning
    assert CANARY not in warning


def test_password_files_that_are_not_there(tmp_path):
    assert parse_target("host=db user=u", {}, tmp_path).warnings == ()
    (warning,) = parse_target("host=db user=u", {"PGPASSFILE": str(tmp_path / "none")}, tmp_path).warnings
    assert warning == f"password file {tmp_path}/none does not exist"
    (warning,) = parse_target(f"host=db user=u passfile={tmp_path}", {}, None).warnings
    assert "is not a plain file" in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read the file")
def test_an_unreadable_password_file(tmp_path):
    passfile = tmp_path / "pass"
    passfile.write_text("*:*:*:*:p\n")
    passfile.chmod(0o600)
    tmp_path.chmod(0o755)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.setuid(65534)
        found = parse_target(f"host=db user=u passfile={passfile}", {}, None)
        os.write(writer, "|".join(found.warnings).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert b"cannot be read (Permission denied): not used" in os.read(reader, 4096)
    os.close(reader)


# --- what cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("postgresql://db/x?target_session_attrs=leader", "target_session_attrs is none of any, read-write"),
        ("", "no target: give"),
        ("   ", "no target: give"),
        ("db:0", "the port is not a number from 1 to 65535"),
        ("db:70000", "the port is not a number from 1 to 65535"),
        ("db:", "the port is not a number"),
        ("db:x", "the port is not a number"),
        ("db:٣", "the port is not a number"),
        ("5432", "a number alone is not a host"),
        (":5432", "names no host"),
        ("/var/run/postgresql", "Unix socket"),
        ("host=/var/run/postgresql", "Unix socket"),
        ("postgresql:///x?host=/tmp", "Unix socket"),
        ("postgresql://%2Ftmp/x", "Unix socket"),
        ("host=@abstract", "Unix socket"),
        ("postgresql:///x", "names no host"),
        ("dbname=x", "names no host"),
        ("postgresql://a,/x", "names no host"),
        ("http://db:80/", "a URL that is not PostgreSQL's"),
        ("mysql://u:p@db/x", "a URL that is not PostgreSQL's"),
        ("a b", "not a name or an address"),
        ("-rf", "not a name or an address"),
        ("a..b", "not a name or an address"),
        ("a" * 64, "not a name or an address"),
        ("1:2:3", "not an IPv6 address"),
        ("[db]:5432", "not an IPv6 address"),
        ("postgresql://[::1/x", "an IPv6 address in a URL"),
        ("postgresql://[]:1/x", "an IPv6 address in a URL"),
        ("host=a,b port=1,2,3", "3 ports for 2 hosts"),
        ("host=a,b hostaddr=192.0.2.1", "2 hosts but 1 hostaddr"),
        ("hostaddr=db", "hostaddr 1 is not an IP address"),
        ("host=a,b port=1,x", "the port of host 2 is not a number"),
        ("host=db sslmode=full", "sslmode is none of disable, allow"),
        ("host=db sslnegotiation=x", "sslnegotiation is neither"),
        ("host=db connect_timeout=soon", "connect_timeout is not a whole number"),
        ("host='db", "setting 1 is not of the form keyword=value"),
        ("host=db password", "setting 2 is not of the form keyword=value"),
        ("postgresql://db?x", 'parameter 1 after the "?"'),
        ("postgresql://db/%zz", "hexadecimal"),
        ("postgresql://db/%ff", "not UTF-8"),
        ("db\x1b[31m", "control characters"),
        ("db\x00", "control characters"),
    ],
)
def test_each_bad_target_gives_one_clear_line(text, complaint):
    with pytest.raises(TargetError) as caught:
        parse_target(text, {}, None)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://u:{CANARY}/x@db/d",
        f"postgresql://u:1/{CANARY}@db/d",
        f"postgresql://u:x@{CANARY}@db/d",
        f"postgresql://u:{CANARY}@db:x/d",
        f"postgresql://u:{CANARY}@/d",
        f"postgresql://u:{CANARY}@db/d?sslmode=x",
        f"postgresql://u:{CANARY}@db/d?bad",
        f"postgresql://u:{CANARY}%@db/d",
        f"postgresql://u:[{CANARY}/@db/d",
        f"postgresql://{CANARY}:x",
        f"u:{CANARY}@db",
        f"u:{CANARY}@db:5432",
        f"user:{CANARY}:x",
        f"host=db port=x password={CANARY}",
        f"host=db password=one {CANARY}",
        f"host=db password='{CANARY}",
        f"mysql://u:{CANARY}@db/d",
        f"jdbc:postgresql://u:{CANARY}/x@db/d",
        f"jdbc:postgresql://db:x/d?password={CANARY}",
        f"service=absent password={CANARY}",
    ],
)
def test_no_error_repeats_what_may_be_a_password(text):
    with pytest.raises(TargetError) as caught:
        parse_target(text, {"PGSYSCONFDIR": "/nonexistent"}, None)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


# --- libpq as the oracle -----------------------------------------------------------------------------------------

KEYWORDS = ["host", "hostaddr", "port", "user", "password", "dbname", "sslmode", "connect_timeout", "application_name"]
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Z"]), max_size=10)
SPACED = st.text(st.sampled_from("ab'\\ =,:@/?&#%[]\t\n é"), max_size=8)


def oracle(text: str) -> dict[str, str] | None:
    """What libpq makes of it, or None where it (or psycopg, of bytes that are not UTF-8) refuses."""
    try:
        return {key: str(value) for key, value in conninfo_to_dict(text).items()}
    except (ProgrammingError, UnicodeDecodeError):
        return None


def ours(parse, text: str) -> dict[str, str] | None:
    try:
        return parse(text)
    except TargetError:
        return None


@st.composite
def keyword_strings(draw) -> str:
    pairs = []
    for key in draw(st.lists(st.sampled_from(KEYWORDS), max_size=4)):
        text = draw(SPACED | PRINTABLE)
        quoted = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
        pairs.append(key + draw(st.sampled_from(["=", " = ", "= ", "\t="])) + draw(st.sampled_from([text, quoted])))
    return draw(st.sampled_from([" ", "\n", "  "])).join(pairs)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(keyword_strings())
@example("host='a'port=1")
@example("host=a\\")
@example("host=a\\ b port = 'x\\'y'")
@example("password=a'b")
def test_keyword_strings_as_libpq_reads_them(text):
    expected, found = oracle(text), ours(parse_keywords, text)
    if expected is None and found is not None:
        # libpq also refuses keywords that it does not know; those are other drivers' here.
        assert not found.keys() <= set(KEYWORDS)
    else:
        assert found == expected


HOST = st.sampled_from(["", "db", "db.example", "192.0.2.1", "[::1]", "[fe80::1]", "%2Ftmp", "a%20b"])
PORT = st.sampled_from(["", ":", ":5432", ":x", ":%31"])
PART = SPACED.filter(lambda text: " " not in text and "\t" not in text and "\n" not in text) | PRINTABLE


@st.composite
def uris(draw) -> str:
    encode = draw(st.sampled_from([lambda text: text, lambda text: quote(text, safe="")]))
    userinfo = draw(st.sampled_from(["", "{0}@", "{0}:{1}@", ":{1}@"])).format(encode(draw(PART)), encode(draw(PART)))
    hosts = ",".join(draw(HOST) + draw(PORT) for _ in range(draw(st.integers(1, 3))))
    dbname = draw(st.sampled_from(["", "/", "/{}"])).format(encode(draw(PART)))
    pairs = [f"{key}={encode(draw(PART))}" for key in draw(st.lists(st.sampled_from(KEYWORDS), max_size=3))]
    query = ("?" + "&".join(pairs)) if pairs else draw(st.sampled_from(["", "?"]))
    return draw(st.sampled_from(["postgresql://", "postgres://"])) + userinfo + hosts + dbname + query


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(uris())
@example("postgresql://a,b:1,c/x")
@example("postgresql://u:p@a:1,[::1]:2/d?sslmode=require&host=z")
@example("postgresql://?host=a&ssl=true")
@example("postgresql://u%40x:p%3A%2F@a/d%2Fe")
def test_uris_as_libpq_reads_them(text):
    expected, found = oracle(text), ours(parse_uri, text)
    if found is None and expected is not None:
        # On purpose stricter: such a name is the rest of a password that was not percent-encoded.
        assert re.match(r"[^/]*//[^/?]*/[^?]*@", text)
    elif expected is None and found is not None:
        assert not found.keys() <= set(KEYWORDS)
    else:
        assert found == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    complaint = ""
    try:
        targets = parse_target(text, {}, None)
    except TargetError as error:
        complaint, targets = str(error), None
    assert complaint.isprintable()
    assert targets is None or all(e.host and (e.port is None or 1 <= e.port <= 65535) for e in targets.endpoints)
