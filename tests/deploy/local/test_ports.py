"""Ports."""

import socket

import pytest
from video_llava_serve import PortError
from video_llava_serve._ports import choose_ports

HERE = "127.0.0.1"


def test_free_ports_are_different_and_can_be_bound() -> None:
    ports = choose_ports([(HERE, 0), (HERE, 0), (HERE, 0)])
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server((HERE, port)).close()


def test_a_named_port_stays() -> None:
    port = choose_ports([(HERE, 0)])[0]
    assert choose_ports([(HERE, port), (HERE, 0)])[0] == port


def test_an_address_of_another_machine() -> None:
    with pytest.raises(PortError, match=r"no free port on 192\.0\.2\.1"):
        choose_ports([("192.0.2.1", 0)])
