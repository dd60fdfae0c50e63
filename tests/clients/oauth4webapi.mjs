// One OAuth client of the tests, on panva's oauth4webapi: does what the first argument says, to the hub and with the credential
// that standard input tells, and prints what came of it, as JSON. Knows nothing of Hearthkey beyond its issuer.

import { webcrypto } from 'node:crypto'
import { readFileSync } from 'node:fs'
import * as oauth from 'oauth4webapi'

// Node 18 keeps these from the global scope.
globalThis.crypto ??= webcrypto
globalThis.CryptoKey ??= webcrypto.CryptoKey

const P256 = { name: 'ECDSA', namedCurve: 'P-256' }
const told = JSON.parse(readFileSync(0, 'utf8'))
const issuer = new URL(told.issuer)
const client = { client_id: told.client_id }

function print(value) {
  process.stdout.write(JSON.stringify(value) + '\n')
}

async function discovered() {
  const response = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2' })
  return oauth.processDiscoveryResponse(issuer, response)
}

async function keyPair() {
  const { d, ...publicJwk } = told.private_jwk
  return {
    privateKey: await crypto.subtle.importKey('jwk', told.private_jwk, P256, true, ['sign']),
    publicKey: await crypto.subtle.importKey('jwk', { ...publicJwk, key_ops: ['verify'] }, P256, true, ['verify']),
  }
}

async function authentication() {
  switch (told.method) {
    case 'private_key_jwt':
      return oauth.PrivateKeyJwt((await keyPair()).privateKey)
    case 'client_secret_basic':
      return oauth.ClientSecretBasic(told.client_secret)
    case 'client_secret_post':
      return oauth.ClientSecretPost(told.client_secret)
    default:
      return oauth.None()
  }
}

// What a resource server that trusts the issuer makes of a request with this access token.
async function validated(as, request) {
  try {
    return { claims: await oauth.validateJwtAccessToken(as, request, told.issuer) }
  } catch (error) {
    return { refused: error.message }
  }
}

async function proved(as, accessToken) {
  let request
  const keep = async (url, { headers, method }) => {
    request = new Request(url, { headers: { ...headers, authorization: headers.authorization }, method })
    return new Response()
  }
  const resource = new URL('/resource', issuer)
  const DPoP = oauth.DPoP(client, await keyPair())
  await oauth.protectedResourceRequest(accessToken, 'GET', resource, undefined, null, { DPoP, [oauth.customFetch]: keep })
  return validated(as, request)
}

const actions = {
  // A key of its own, registered with an initial access token.
  async register(as) {
    const { privateKey, publicKey } = await oauth.generateKeyPair('ES256', { extractable: true })
    const metadata = {
      grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'private_key_jwt',
      jwks: { keys: [await crypto.subtle.exportKey('jwk', publicKey)] },
      software_id: 'oauth4webapi',
    }
    const response = await oauth.dynamicClientRegistrationRequest(as, metadata, { initialAccessToken: told.code })
    const registered = await oauth.processDynamicClientRegistrationResponse(response)
    return { registered, private_jwk: await crypto.subtle.exportKey('jwk', privateKey) }
  },

  async token(as) {
    const parameters = told.scope ? { scope: told.scope } : {}
    const response = await oauth.clientCredentialsGrantRequest(as, client, await authentication(), parameters)
    const token = await oauth.processClientCredentialsResponse(as, client, response)
    const headers = { authorization: `Bearer ${token.access_token}` }
    const as_bearer = await validated(as, new Request(new URL('/resource', issuer), { headers }))
    const with_proof = told.private_jwk ? await proved(as, token.access_token) : undefined
    return { token, as_bearer, with_proof }
  },

  async introspect(as) {
    const response = await oauth.introspectionRequest(as, client, await authentication(), told.token)
    return { introspection: await oauth.processIntrospectionResponse(as, client, response) }
  },

  async revoke(as) {
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, await authentication(), told.token))
    return { revoked: true }
  },

  // Prints the code for its user, then polls as it was told to.
  async device(as) {
    const asked = await oauth.deviceAuthorizationRequest(as, client, await authentication(), told.parameters ?? {})
    const { device_code, interval, ...shown } = await oauth.processDeviceAuthorizationResponse(as, client, asked)
    print({ shown })
    for (let wait = interval ?? 5; ; ) {
      await new Promise((resolve) => setTimeout(resolve, wait * 1_000))
      try {
        const response = await oauth.deviceCodeGrantRequest(as, client, await authentication(), device_code)
        return { token: await oauth.processDeviceCodeResponse(as, client, response) }
      } catch (error) {
        if (error.error === 'slow_down') wait += 5
        else if (error.error !== 'authorization_pending') throw error
      }
    }
  },
}

try {
  print(await actions[process.argv[2]](await discovered()))
} catch (error) {
  const { status, error: code, error_description } = error
  if (code === undefined && !(error instanceof oauth.WWWAuthenticateChallengeError)) throw error
  const challenges = error instanceof oauth.WWWAuthenticateChallengeError ? error.cause : undefined
  print({ refused: { status, error: code, error_description, challenges } })
}
