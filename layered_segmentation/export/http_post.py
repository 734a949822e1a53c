"""HTTP POST to one server: no redirects, proxies or stored passwords, and one deadline for all."""

import contextlib
import http.client
import socket
import ssl
import threading
import time

from layered_segmentation.errors import UserError

_PART = 1 << 16  # bytes that are read at once


class TooLong(Exception):
    """The answer is longer than allowed."""


class Untrusted(Exception):
    """The server's certificate is not valid, or there is no encryption."""


class Server:
    """A server that answers HTTP POST.

    Args:
        address: HOST:PORT.
        tls: Whether to encrypt, and to check the server's certificate.
        authorities: Certificates to trust, in PEM format; empty for those of the system.

    Raises:
        UserError: The port is not a number, or the certificates cannot be used.
    """

    def __init__(self, address: str, tls: bool = False, authorities: str = ""):
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UserError(f"--server={address}: {port!r} is not a port, 1 to 65535")
        self._address, self._host, self._port = address, host.strip("[]"), int(port)
        self._context = None
        if tls:
            try:
                self._context = ssl.create_default_context(cadata=authorities or None)
            except ssl.SSLError as error:
                raise UserError(f"--tls_ca: cannot be used as certificates ({error})") from error

    def post(self, path: str, body: bytes, timeout: float, most: int) -> tuple[int, bytes]:
        """Sends JSON and returns the answer's status and content.

        Args:
            path: The path of the URL.
            body: The content to send.
            timeout: Seconds from connecting to the last byte. A socket's own timeout begins anew
                with every byte, so a server that drips would never reach it.
            most: Longest answer, bytes.

        Raises:
            TimeoutError: The time is over.
            TooLong: The answer is longer.
            Untrusted: The server's certificate is not valid.
            OSError: The server did not answer, or not in HTTP.
        """
        end = time.monotonic() + timeout
        connected = socket.create_connection((self._host, self._port), timeout)
        sockets = [connected]
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            for one in sockets:
                with contextlib.suppress(OSError):
                    # Not the method of an encrypted socket, which is not safe in another thread.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, end - time.monotonic()), stop)
        timer.daemon = True
        timer.start()
        try:
            if self._context:
                wrapped = self._context.wrap_socket(
                    connected, server_hostname=self._host, do_handshake_on_connect=False
                )
                sockets.append(wrapped)
                wrapped.do_handshake()
            return self._exchange(sockets[-1], path, body, most)
        except (OSError, http.client.HTTPException) as error:
            if is_late.is_set() or isinstance(error, TimeoutError):
                raise TimeoutError from error
            if isinstance(error, ssl.SSLError):
                raise Untrusted(_reason(error)) from error
            if isinstance(error, OSError):
                raise
            raise OSError(f"not an answer in HTTP ({type(error).__name__})") from error
        finally:
            timer.cancel()
            for one in sockets:
                one.close()

    def _exchange(
        self, connected: socket.socket, path: str, body: bytes, most: int
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = connected
        headers = {"Content-Type": "application/json", "Host": self._address, "Connection": "close"}
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        parts: list[bytes] = []
        length = 0
        while part := response.read(_PART):
            length += len(part)
            if length > most:
                raise TooLong
            parts.append(part)
        if response.length:  # a shorter answer than announced
            raise http.client.IncompleteRead(b"")
        return response.status, b"".join(parts)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); name its authority with "
            "--tls_ca"
        )
    return f"there is no TLS ({error.reason or error}); is it the port for TLS?"
