"""What the suites expect of calls that must not go through."""

from botocore.exceptions import ClientError


def fails(code, status, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert got == (code, status), f"{got} instead of {(code, status)}"
        return error.response
    raise AssertionError(f"{code} was expected, and the call went through")
