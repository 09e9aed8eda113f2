"""`fml provision`: the certificates and kits with which hosts join a federation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.process import Port, settings_of
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare import provisioning
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.provisioning import AUTHORITY_DAYS, CERTIFICATE_DAYS, Authority

OVERVIEW = """usage: fml provision STEP [options]

Make the certificates and kits with which hosts join a federation.

Every private key is made on the host that it is for, and never leaves it.
Only *.request.zip and *.signed.zip travel, by mail or stick; they hold nothing
secret.

  1. where the certificate authority is, once; best on a computer that is off
     the network, never on the server's:
         fml provision init --server hub.example.com --port 8002
     It prints a fingerprint. Read it out to every host's people over the phone.
  2. on the server's host, and on every site's:
         fml provision request --role server --name hub.example.com
         fml provision request --role site --name plant1
     Send requests/NAME/NAME.request.zip to the authority; leave the rest of
     that folder where it is.
  3. where the authority is, for each request:
         fml provision approve plant1.request.zip
     Compare the fingerprint of the key over the phone, then send
     NAME.signed.zip back.
  4. on the host again:
         fml provision package plant1.signed.zip --fingerprint SHA256:1F:A0:...
     Now kits/NAME is the kit: fml server --kit kits/NAME, or
     fml site --config site.yaml --kit kits/NAME.

steps:
"""

STEPS: dict[str, tuple[str, str]] = {
    "init": (
        "make the certificate authority, once",
        "Make the certificate authority of a federation: a folder of its own, on a computer apart from the"
        " server. Who has its rootCA.key can join as anybody: keep it offline, and a copy of the folder in a"
        " safe. The server's name and port are written into project_profile.yaml there; edit that file when the"
        " server moves.",
    ),
    "request": (
        "make a host's key, and ask for its certificate",
        "Make this host's private key, and the file NAME.request.zip that asks the authority for its"
        " certificate. Run it on the host that the certificate is for. A server that gets a new name needs a"
        " new request, with all its names; one that moves to another address under a name of its certificate"
        " needs none.",
    ),
    "approve": (
        "issue a certificate, where the authority is",
        "Issue the certificate that a request asks for, where the authority is. Compare the fingerprint of the"
        " key that is printed with the one that was printed on the host, over the phone, before you send the"
        " answer back.",
    ),
    "package": (
        "make the kit, on the host",
        "Make this host's kit, of the key that was made here and the certificate that came back. The"
        " fingerprint is the one that fml provision init printed; have it read out to you over the phone, for"
        " whoever could exchange the file could exchange a fingerprint that came with it.",
    ),
    "renew": (
        "renew a certificate, first where the authority is, then on the host",
        "Renew a certificate before it ends; the key stays. Where the authority is: fml provision renew"
        " NAME.request.zip, with the old request; then on the host: fml provision renew NAME.signed.zip --kit"
        " KIT, which replaces the certificate and nothing else. Restart fml server or fml site then. A server"
        " that gets a new name needs a new request instead.",
    ),
    "demo": (
        "all of it on this machine, for a trial",
        "Make an authority, the server's kit and those of some sites in one folder, with what to train, for a"
        " trial on this machine alone. In earnest the keys would be on their hosts, and the authority"
        " elsewhere.",
    ),
}
"""What each step is for, in short and at length."""


def run(arguments: Sequence[str]) -> int:
    """Run one step."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print(OVERVIEW + "\n".join(f"  {name:<9} {short}" for name, (short, _) in STEPS.items()))
        print("\nfml provision STEP --help lists a step's options.")
        return 0 if arguments else 2
    step, *rest = arguments
    if step not in STEPS:
        print(f"fml: error: provision: expected a step, one of {', '.join(STEPS)}, got {step!r}", file=sys.stderr)
        return 2
    actions: dict[str, Callable[[Parser, Sequence[str]], None]] = {
        "init": _init,
        "request": _request,
        "approve": _approve,
        "package": _package,
        "renew": _renew,
        "demo": _demo,
    }
    options = Parser(prog=f"fml provision {step}", description=STEPS[step][1])
    options.add_argument("--config", action="config", help="YAML file with any of the settings below")
    actions[step](options, rest)
    return 0


def _init(options: Parser, arguments: Sequence[str]) -> None:
    _add_federation(options)
    options.add_argument(
        "--server", type=str, required=True, help="the server's host name or address, at which sites find it"
    )
    options.add_argument(
        "--port", type=Port, default=8002, help="where the server listens; there is no other port"
    )
    options.add_argument("--ca", type=str, default="ca", help="the folder to make")
    options.add_argument(
        "--valid_days", "--valid-days", type=int, default=AUTHORITY_DAYS, help="until the authority ends"
    )
    given = settings_of(options, arguments)
    authority = Authority.create(
        Path(given["ca"]), given["federation"], given["server"], given["port"], given["valid_days"]
    )
    print(f"certificate authority of {given['federation']!r}: {authority.folder}, until {_day(authority.ends)}")
    print("keep this folder off the server and in a safe place: who has its rootCA.key can join as anybody")
    print("read this fingerprint out to every host's people over the phone; fml provision package asks for it:")
    print(f"  {authority.fingerprint}")


def _request(options: Parser, arguments: Sequence[str]) -> None:
    _add_federation(options)
    options.add_argument("--role", type=Literal["server", "site"], required=True, help="what this host will be")
    options.add_argument(
        "--name",
        type=str,
        required=True,
        help="the site's name; the server's is the host name at which sites find it",
    )
    options.add_argument(
        "--host",
        type=str,
        nargs="*",
        default=[],
        help="further names and addresses of the server, as hub.lan 10.0.0.5",
    )
    options.add_argument("--folder", type=str | None, default=None, help="the folder to make; null: requests/NAME")
    given = settings_of(options, arguments)
    name = given["name"]
    folder = _folder(given["folder"], "requests", name)
    made = provisioning.request(folder, given["federation"], given["role"], name, given["host"])
    print(f"private key of {name!r}: {folder / f'{name}.key'}; it stays on this host")
    print(f"send to the certificate authority: {made.file}")
    print("read this fingerprint of the key out to its people over the phone:")
    print(f"  {made.key}")


def _approve(options: Parser, arguments: Sequence[str]) -> None:
    _add_file(options, "request", "NAME.request.zip, as it came from the host")
    _add_approval(options)
    options.add_argument(
        "--another_key",
        "--another-key",
        type=bool,
        default=False,
        help="whether the name may have another key than before, since its host lost the first one",
    )
    given = settings_of(options, arguments)
    _approved(given, renew=False, another_key=given["another_key"])


def _approved(given: dict[str, Any], renew: bool, another_key: bool) -> None:
    out = Path(given["out"]) if given["out"] is not None else None
    authority = Authority(Path(given["ca"]))
    done = authority.approve(_file(given, "request"), out, given["valid_days"], renew, another_key)
    print(f"certificate of the {done.role} {done.name!r}, until {_day(done.ends)}, for the key")
    print(f"  {done.key}")
    if done.role == "server":
        print(f"it proves the names {', '.join(done.hosts)}; send it back only if all of them are the server's")
    if renew:
        print(f"send back to the host, for fml provision renew: {done.file}")
        return
    print(f"if its people read out the same fingerprint, send back to the host: {done.file}")
    print("and read the fingerprint of this authority out to them over the phone:")
    print(f"  {authority.fingerprint}")


def _package(options: Parser, arguments: Sequence[str]) -> None:
    _add_file(options, "signed", "NAME.signed.zip, as it came from the authority")
    options.add_argument(
        "--fingerprint", type=str, required=True, help="the authority's, as it was read out over the phone"
    )
    options.add_argument(
        "--request", type=str | None, default=None, help="where this host's key is; null: requests/NAME"
    )
    options.add_argument("--kit", type=str | None, default=None, help="the folder to make; null: kits/NAME")
    given = settings_of(options, arguments)
    signed = _file(given, "signed")
    name = provisioning.signed_name(signed)
    request = _folder(given["request"], "requests", name)
    kit = provisioning.package(signed, request, given["fingerprint"], _folder(given["kit"], "kits", name))
    print(
        f"kit of the {kit.role} {kit.name!r}: {kit.folder}, until {_day(kit.ends)}; server {kit.host}:{kit.port}"
    )
    config = "" if kit.role == "server" else " --config site.yaml"
    print(f"start it: fml {kit.role}{config} --kit {kit.folder}")
    _warn(kit)


def _renew(options: Parser, arguments: Sequence[str]) -> None:
    _add_file(options, "file", "where the authority is: the old NAME.request.zip; on the host: NAME.signed.zip")
    _add_approval(options)
    options.add_argument("--kit", type=str | None, default=None, help="on the host: its kit; null: kits/NAME")
    given = settings_of(options, arguments)
    file = _file(given, "file")
    if file.name.endswith(".request.zip"):
        _approved(given | {"request": str(file)}, renew=True, another_key=False)
        return
    if not file.name.endswith(".signed.zip"):
        raise UserError(f"expected NAME.request.zip at the authority, or NAME.signed.zip on the host, got {file}")
    name = provisioning.signed_name(file)
    kit = provisioning.renew(Kit(_folder(given["kit"], "kits", name)), file)
    print(f"certificate of the {kit.role} {kit.name!r}, for the same key, until {_day(kit.ends)}: {kit.folder}")
    print(f"restart fml {kit.role} on this host, unless it says by itself that it has taken the new one")
    _warn(kit)


def _demo(options: Parser, arguments: Sequence[str]) -> None:
    options.add_class_arguments(DemoFederation, as_group=False, skip={"port"})
    options.add_argument(
        "--port", type=Port | None, default=None, help="where the server listens; null: a free one"
    )
    demo = DemoFederation(**settings_of(options, arguments))
    demo.make(print)
    print(f"\nA federation on this machine: {demo.folder}. Type, each line in a terminal of its own:")
    for command in demo.commands():
        print(f"  {command}")


def _add_file(options: Parser, name: str, purpose: str) -> None:
    options.add_argument(name, type=str, nargs="?", default="", metavar="FILE", help=purpose)


def _file(given: dict[str, Any], name: str) -> Path:
    if not given[name]:
        raise UserError("name the file: NAME.request.zip of the host, or NAME.signed.zip of the authority")
    return Path(given[name])


def _add_federation(options: Parser) -> None:
    options.add_argument("--federation", type=str, default="fml", help="its name, the same at every host")


def _add_approval(options: Parser) -> None:
    options.add_argument(
        "--ca", type=str, default="ca", help="the authority's folder, which fml provision init made"
    )
    options.add_argument(
        "--out", type=str | None, default=None, help="what is sent back; null: NAME.signed.zip beside the request"
    )
    options.add_argument(
        "--valid_days", "--valid-days", type=int, default=CERTIFICATE_DAYS, help="until the certificate ends"
    )


def _folder(given: str | None, parent: str, name: str) -> Path:
    return Path(given) if given is not None else Path(parent) / name


def _day(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d}"


def _warn(kit: Kit) -> None:
    if warning := kit.warning():
        print(f"warning: {warning}")
