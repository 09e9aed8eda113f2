"""Sparkplug B's payload in protobuf, from its published field numbers: no compiled package of it is needed.

https://github.com/eclipse/tahu/blob/master/sparkplug_b/sparkplug_b.proto
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import scalar, shown
from fml_lightning.errors import UserError

COMPRESSED = "SPBV1.0_COMPRESSED"
"""The uuid of a payload whose body is a compressed payload."""

_PACKAGE = "org.eclipse.tahu.protobuf"
_INTEGERS = {1: 8, 2: 16, 3: 32, 4: 64, 5: 8, 6: 16, 7: 32, 8: 64}  # Int8 … Int64, UInt8 … UInt64: their bits
_LAST_SIGNED = 4
_FLOAT, _DOUBLE = 9, 10
BOOLEAN = 11
"""The last datatype that is a number; strings, times, sets, templates and arrays follow."""


@cache
def payload_type() -> Any:
    """The protobuf message `Payload`, with the fields that we read; protobuf passes over all others.

    Raises:
        UserError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise UserError(
            "SparkplugB: expected the package protobuf, got none; run: pip install 'fml-lightning[sparkplug]'"
        ) from error
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package=_PACKAGE, syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    proto = descriptor_pb2.FieldDescriptorProto
    for number, name, kind in (
        (1, "timestamp", proto.TYPE_UINT64),
        (3, "seq", proto.TYPE_UINT64),
        (4, "uuid", proto.TYPE_STRING),
    ):
        payload.field.add(number=number, name=name, type=kind, label=proto.LABEL_OPTIONAL)
    payload.field.add(
        number=2,
        name="metrics",
        type=proto.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.Payload.Metric",
        label=proto.LABEL_REPEATED,
    )
    for number, name, kind in (
        (1, "name", proto.TYPE_STRING),
        (2, "alias", proto.TYPE_UINT64),
        (3, "timestamp", proto.TYPE_UINT64),
        (4, "datatype", proto.TYPE_UINT32),
        (7, "is_null", proto.TYPE_BOOL),
    ):
        metric.field.add(number=number, name=name, type=kind, label=proto.LABEL_OPTIONAL)
    for number, name, kind in (
        (10, "int_value", proto.TYPE_UINT32),
        (11, "long_value", proto.TYPE_UINT64),
        (12, "float_value", proto.TYPE_FLOAT),
        (13, "double_value", proto.TYPE_DOUBLE),
        (14, "boolean_value", proto.TYPE_BOOL),
        (15, "string_value", proto.TYPE_STRING),
    ):
        metric.field.add(number=number, name=name, type=kind, label=proto.LABEL_OPTIONAL, oneof_index=0)
    pool = descriptor_pool.DescriptorPool()  # of its own: another package may have the same message
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


def parse(payload: bytes) -> Any:
    """The `Payload` in the bytes of a message.

    Raises:
        CodecError: it is none, or is compressed.
    """
    from google.protobuf.message import DecodeError

    try:
        message = payload_type().FromString(payload)
    except (DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"expected a Sparkplug B payload, got: {error}") from error
    if message.uuid == COMPRESSED:
        raise CodecError("expected a payload that is not compressed; turn compression off at the edge node")
    return message


def value_of(metric: Any, name: str, datatype: int) -> float | None:
    """A metric's value; None where it has none, or one that is no number.

    Raises:
        CodecError: the value is not of its datatype, or is beyond float32.
    """
    stored = metric.WhichOneof("value")
    if metric.is_null or stored is None or datatype > BOOLEAN:
        return None
    value = getattr(metric, stored)
    if datatype in _INTEGERS and stored in ("int_value", "long_value"):
        value = _integer(value, 32 if stored == "int_value" else 64, datatype, name)
    elif datatype == BOOLEAN and stored == "boolean_value":
        value = float(value)
    elif datatype not in (_FLOAT, _DOUBLE) or stored not in ("float_value", "double_value"):
        raise CodecError(f"metric {shown(name)}: expected a value of datatype {datatype}, got {stored}")
    return scalar(value, f"metric {shown(name)}")


def _integer(raw: int, width: int, datatype: int, name: str) -> int:
    """An integer from the unsigned field, `width` bits wide, that Sparkplug keeps all integers in.

    Some senders extend the sign of an Int8 to the whole field, others leave it in the low 8 bits; both are read.
    """
    bits = _INTEGERS[datatype]
    low, high = 0, 1 << bits
    value = raw
    if datatype <= _LAST_SIGNED:
        low, high = -(1 << (bits - 1)), 1 << (bits - 1)
        if raw >> (width - 1):
            value = raw - (1 << width)
        elif raw >> (bits - 1) == 1:
            value = raw - (1 << bits)
    if not low <= value < high:
        raise CodecError(f"metric {shown(name)}: expected an integer of {bits} bits, got {value}")
    return value
