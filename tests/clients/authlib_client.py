"""One OAuth client of the tests, on Authlib: does what the first argument says, to the hub and with the credential that standard
input tells, and prints what came of it, as JSON. Knows nothing of Hearthkey beyond its issuer."""

import json
import sys

import httpx
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

told = json.load(sys.stdin)
http = httpx.Client(verify=told["ca"], trust_env=False)
discovery = http.get(told["issuer"] + "/.well-known/oauth-authorization-server")
discovery.raise_for_status()
metadata = discovery.json()


def session():
    """A client as Authlib's documentation makes one."""
    method = told["method"]
    credential = ECKey.import_key(told["private_jwk"]) if method == "private_key_jwt" else told["client_secret"]
    client = OAuth2Client(
        told["client_id"],
        credential,
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        scope=told.get("scope"),
        verify=told["ca"],
        trust_env=False,
    )
    client.register_client_auth_method(PrivateKeyJWT(metadata["token_endpoint"], alg="ES256"))
    return client


def register():
    key = ECKey.generate_key("P-256")
    client_metadata = {
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [key.as_dict(private=False)]},
        "software_id": "authlib",
    }
    headers = {"authorization": "Bearer " + told["code"]}
    answer = http.post(metadata["registration_endpoint"], json=client_metadata, headers=headers)
    answer.raise_for_status()
    return {"registered": answer.json(), "private_jwk": key.as_dict(private=True)}


def token():
    token = session().fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
    keys = KeySet.import_key_set(http.get(metadata["jwks_uri"]).json())
    verified = jwt.decode(token["access_token"], keys, algorithms=["ES256"])
    jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": metadata["issuer"]}, aud={"essential": True, "value": metadata["issuer"]}, exp={"essential": True}
    ).validate(verified.claims)
    return {"token": token, "header": verified.header, "claims": verified.claims}


def introspect():
    answer = session().introspect_token(metadata["introspection_endpoint"], token=told["token"])
    return {"status": answer.status_code, "introspection": answer.json()}


def revoke():
    answer = session().revoke_token(metadata["revocation_endpoint"], token=told["token"])
    return {"status": answer.status_code}


ACTIONS = {"register": register, "token": token, "introspect": introspect, "revoke": revoke}
try:
    result = ACTIONS[sys.argv[1]]()
except OAuthError as error:
    result = {"refused": {"error": error.error, "error_description": error.description}}
print(json.dumps(result))
