"""A PostgreSQL to try netdiag on: ``.venv/bin/python docs/tutorial/server.py [PORT]``. Enter ends it."""

from __future__ import annotations

import os
import sys

from netdiag.lab.postgres import postgres_server

PORT = 5440
HBA = ("host all all 127.0.0.1/32 scram-sha-256",)
SETUP = ("CREATE ROLE app LOGIN PASSWORD 'try-me'", "CREATE DATABASE shop OWNER app")


def main(port: int) -> None:
    with postgres_server(port=port, hba=HBA, setup=SETUP) as server:
        sys.stdout.write(f"PostgreSQL {server.version}, process {server.process.pid}: ")
        sys.stdout.write(f"postgresql://app@127.0.0.1:{port}/shop, password try-me. Enter ends it.\n")
        sys.stdout.flush()
        os.read(0, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PORT)
