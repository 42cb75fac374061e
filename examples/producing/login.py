"""How to log in to Kafka: what a credentials file of Sluice says, as settings of librdkafka.

`python login.py CREDENTIALS.json` prints them as a file for kcat. It holds the password: say `umask 077` before.
"""

import json
import sys
from pathlib import Path


def login(credentials_file: str) -> dict[str, str]:
    """Settings for any client of librdkafka."""
    found = json.loads(Path(credentials_file).read_text())
    settings = {
        "bootstrap.servers": found["bootstrap_servers"],
        "security.protocol": found.get("security_protocol", "SASL_PLAINTEXT"),
        "sasl.mechanism": found.get("sasl_mechanism", "SCRAM-SHA-512"),
        "sasl.username": found["username"],
        "sasl.password": found["password"],
    }
    if found.get("ssl_ca_file"):
        settings["ssl.ca.location"] = found["ssl_ca_file"]
    return settings


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give one credentials file: python login.py CREDENTIALS.json")
    for name, value in login(sys.argv[1]).items():
        print(f"{name}={value}")
