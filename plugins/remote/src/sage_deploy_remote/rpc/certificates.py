"""The certificate files of a process, for TLS connections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import ssl

__all__ = ["Certificates"]


def _absolute(_instance: Any, attribute: attrs.Attribute[Any], path: str) -> None:
    if not Path(path).is_absolute():
        msg = f"{attribute.name} must be an absolute path, the same on every node, got {path!r}"
        raise ValueError(msg)


@attrs.frozen
class Certificates:
    """
    Paths of PEM files. Each process reads its own copies for every new connection.

    Attributes:
        certificate: Certificate of the node, followed by intermediate certificates if there are any.
        key: Its private key, without a password.
        authority: Certificates of the accepted authorities.
    """

    certificate: str = attrs.field(validator=_absolute)
    key: str = attrs.field(validator=_absolute)
    authority: str = attrs.field(validator=_absolute)

    def context(self, *, listens: bool) -> ssl.SSLContext:
        """
        Return the TLS context for one side of a connection. Both sides must show a certificate.

        Names in certificates are not checked: see `tls` for what is checked instead.

        Args:
            listens: Whether this is the listening side.

        Raises:
            OSError: A file cannot be read, or has wrong content.
        """
        import ssl  # slow to import, and most processes need none

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        if listens:
            context.num_tickets = 0  # sessions are not resumed
        for path in (self.certificate, self.key, self.authority):
            Path(path).read_bytes()  # its error has the path; those of ssl do not
        try:
            context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            msg = f"{self.authority} has no certificates in PEM: {error}"
            raise OSError(msg) from error
        try:
            context.load_cert_chain(self.certificate, self.key, _no_password)
        except ssl.SSLError as error:
            msg = f"{self.certificate} and {self.key} are not a certificate in PEM and its key: {error}"
            raise OSError(msg) from error
        return context


def _no_password() -> str:
    msg = "the key of the certificate must have no password"
    raise OSError(msg)
