"""What schemathesis has to know beyond the OpenAPI document: a profile is sent as text."""

import schemathesis


@schemathesis.serializer("application/toml")
def toml(context, value):
    return value if isinstance(value, (str, bytes)) else str(value)
