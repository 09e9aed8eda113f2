"""Sparkplug B's payload in protobuf, from its published field numbers: no compiled package of it is needed.

https://github.com/eclipse/tahu/blob/master/sparkplug_b/sparkplug_b.proto
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.errors import UserError

COMPRESSED = "SPBV1.0_COMPRESSED"
"""The uuid of a payload whose body is a compressed payload."""

_PACKAGE = "org.eclipse.tahu.protobuf"
_SCHEMA = {
    "Payload": ("1 timestamp uint64", "2 metrics Metric*", "3 seq uint64", "4 uuid string"),
    "Metric": (
        *("1 name string", "2 alias uint64", "3 timestamp uint64", "4 datatype uint32"),
        *("5 is_historical bool", "7 is_null bool", "9 properties PropertySet"),
        *("10 int_value uint32 |", "11 long_value uint64 |", "12 float_value float |", "13 double_value double |"),
        *("14 boolean_value bool |", "15 string_value string |", "16 bytes_value bytes |"),
        *("17 dataset_value DataSet |", "18 template_value Template |"),
    ),
    "PropertySet": ("1 keys string*", "2 values PropertyValue*"),
    "PropertyValue": (
        *("1 type uint32", "2 is_null bool", "3 int_value uint32 |", "4 long_value uint64 |"),
        *("5 float_value float |", "6 double_value double |", "7 boolean_value bool |", "8 string_value string |"),
    ),
    "DataSet": ("1 num_of_columns uint64", "2 columns string*", "3 types uint32*", "4 rows Row*"),
    "Row": ("1 elements DataSetValue*",),
    "DataSetValue": (
        *("1 int_value uint32 |", "2 long_value uint64 |", "3 float_value float |", "4 double_value double |"),
        *("5 boolean_value bool |", "6 string_value string |"),
    ),
    "Template": ("1 version string", "2 metrics Metric*", "4 template_ref string", "5 is_definition bool"),
}
"""The messages and the fields of them that we read: number, name and type, `*` where repeated, and `|` where one
of the fields of `oneof value`. protobuf passes over all other fields."""


@cache
def payload_type() -> Any:
    """The protobuf message `Payload`.

    Raises:
        UserError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise UserError(
            "SparkplugB: expected the package protobuf, got none; run: pip install 'fml-lightning[sparkplug]'"
        ) from error
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package=_PACKAGE, syntax="proto2")
    for message, fields in _SCHEMA.items():
        kind = file.message_type.add(name=message)
        if any(field.endswith("|") for field in fields):
            kind.oneof_decl.add(name="value")
        for field in fields:
            number, name, of, *one = field.split()
            described = kind.field.add(number=int(number), name=name, label=proto.LABEL_OPTIONAL)
            if of.endswith("*"):
                of, described.label = of[:-1], proto.LABEL_REPEATED
            if of in _SCHEMA:
                described.type, described.type_name = proto.TYPE_MESSAGE, f".{_PACKAGE}.{of}"
            else:
                described.type = getattr(proto, f"TYPE_{of.upper()}")
            if one:
                described.oneof_index = 0
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
