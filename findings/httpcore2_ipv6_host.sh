#!/bin/bash
# httpcore2 2.16.2 writes the Host header of an IPv6 address without its brackets.
#
# Expected: GET http://[::1]:8000/ has the header "Host: [::1]:8000", as RFC 9110 says and curl does.
# Real:     "Host: ::1:8000", which reads as another address.
# So what:  who uses httpcore2 itself gives the header, or the host with its brackets.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet httpcore2==2.16.2
"$folder/venv/bin/python" - <<'END'
import socket
import threading

import httpcore2

received = []


def serve(listener):
    connection, _ = listener.accept()
    with connection:
        received.append(connection.recv(4096).decode())
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
    port = listener.getsockname()[1]
    thread = threading.Thread(target=serve, args=[listener])
    thread.start()
    with httpcore2.ConnectionPool() as pool:
        pool.request("GET", f"http://[::1]:{port}/")
    thread.join()
host = next(line for line in received[0].splitlines() if line.lower().startswith("host:"))
print(f"asked for http://[::1]:{port}/, sent {host!r}")
assert host == f"Host: ::1:{port}"
END
