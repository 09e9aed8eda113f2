"""Why a site and its server do not come together, in one sentence.

NVFlare's client says nothing of a refused certificate: it tries again, for ever. So this tries the same TLS
handshake once, with the kit's own files, and listens how the server takes it.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime

from fml_lightning.executors.nvflare.kit import Kit

PATIENCE = 5.0
"""Seconds that a server may take to answer."""
EXPIRED, NOT_YET_VALID, OTHER_NAME = 10, 9, 62
"""OpenSSL's codes of what is wrong with the other end's certificate (X509_V_ERR_…)."""


def refusal(kit: Kit, patience: float = PATIENCE) -> str | None:
    """What keeps a site from its server; None where the handshake succeeds.

    Args:
        kit: the site's.
        patience: seconds that the server may take.
    """
    where = f"{kit.host}:{kit.port}"
    try:
        context = ssl.create_default_context(cafile=str(kit.startup / "rootCA.pem"))
        context.load_cert_chain(kit.certificate_file, kit.key_file)
        context.set_alpn_protocols(["h2"])
    except (OSError, ValueError) as error:
        return f"kit {kit.folder}: its certificates cannot be read ({_words(error)}); package it again"
    try:
        with socket.create_connection((kit.host, kit.port), timeout=patience) as line:
            return _greet(context, line, where, kit)
    except socket.gaierror:
        return f"{where}: no address is known of the name {kit.host!r}; mend the DNS, or the kit's address"
    except ConnectionRefusedError:
        return f"nobody listens at {where}: the server is not running, or has another address"
    except TimeoutError:
        return f"{where} does not answer: the server's host is down, or a firewall stands between"
    except OSError as error:
        return f"{where} cannot be reached ({_words(error)})"


def _greet(context: ssl.SSLContext, line: socket.socket, where: str, kit: Kit) -> str | None:
    """Shake hands over a line, and listen whether the server sends an alert."""
    try:
        with context.wrap_socket(line, server_hostname=kit.host) as greeted:
            # TLS 1.3 judges the client's certificate after the client thinks that all is well.
            if greeted.recv(1) == b"":
                return _refused(where, kit)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (EXPIRED, NOT_YET_VALID):
            return (
                f"the certificate of the server at {where} has expired or is not yet valid"
                f" ({error.verify_message}); renew it, or set the clock here"
            )
        if error.verify_code == OTHER_NAME:
            return f"the server's certificate is not for {where} ({error.verify_message}); give it this name"
        return (
            f"the certificate of the server at {where} is of another CA than this kit's ({error.verify_message}):"
            " mend the kit's address, or make this host a kit of the server's authority (fml provision request)"
        )
    except ssl.SSLError as error:
        reason = (error.reason or type(error).__name__).upper()
        if "ALERT" in reason:
            return _refused(where, kit)
        return f"{where} does not speak TLS as a server of ours does ({reason.replace('_', ' ').lower()})"
    except TimeoutError:
        return None  # a server that waits for us to speak has taken the certificate
    except ConnectionResetError:
        return f"the line to {where} is cut in the handshake: it is no server of ours, or a firewall cuts it"
    return None


def _refused(where: str, kit: Kit) -> str:
    """Why a server refuses a certificate: it does not say so, as gRPC sends no alert."""
    now = datetime.now(UTC)
    said = f"the server at {where} refuses our certificate"
    if kit.ends <= now:
        return f"{said}: it has expired on {kit.ends:%Y-%m-%d %H:%M} UTC"
    if now < kit.starts:
        return (
            f"{said}: it is not valid before {kit.starts:%Y-%m-%d %H:%M} UTC, and the clock here says"
            f" {now:%Y-%m-%d %H:%M} UTC"
        )
    return (
        f"{said}, which is valid here until {kit.ends:%Y-%m-%d %H:%M} UTC: either the clocks differ (here it is"
        f" {now:%Y-%m-%d %H:%M} UTC), or the server's kit is of another authority than {kit.authority}"
    )


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
