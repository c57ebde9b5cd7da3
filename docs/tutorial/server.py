"""A PostgreSQL to try netdiag on: ``.venv/bin/python docs/tutorial/server.py``. It is gone when Enter is pressed."""

from __future__ import annotations

import os
import sys

from netdiag.lab.postgres import postgres_server

PORT = 5440


def main() -> None:
    hba = ("host all all 127.0.0.1/32 scram-sha-256",)
    setup = ("CREATE ROLE app LOGIN PASSWORD 'try-me'", "CREATE DATABASE shop OWNER app")
    with postgres_server(port=PORT, hba=hba, setup=setup) as server:
        sys.stdout.write(f"PostgreSQL {server.version}, process {server.process.pid}: ")
        sys.stdout.write(f"postgresql://app@127.0.0.1:{PORT}/shop, password try-me. Enter ends it.\n")
        sys.stdout.flush()
        os.read(0, 1)


if __name__ == "__main__":
    main()
