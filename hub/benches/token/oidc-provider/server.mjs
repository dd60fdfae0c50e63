// node oidc-provider as a token endpoint, its best foot forward: the in-memory adapter, no TLS, nothing logged, features that are
// not asked for switched off, ES256-signed JWTs as ours are. Told how many clients of each kind to make by CLIENTS; answers
// with one line of JSON, and serves until its standard input ends.

import { createHash, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import Provider from 'oidc-provider';

const ES256 = { kty: 'EC', crv: 'P-256', alg: 'ES256', use: 'sig' };
const count = Number(process.env.CLIENTS);

function keyPair() {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { x, y } = publicKey.export({ format: 'jwk' });
  // RFC 7638: the assertions name the key by its thumbprint.
  const kid = createHash('sha256').update(JSON.stringify({ crv: 'P-256', kty: 'EC', x, y })).digest('base64url');
  return {
    publicJwk: { x, y, kid, ...ES256 },
    privateJwk: { ...privateKey.export({ format: 'jwk' }), kid, ...ES256 },
    pkcs8: privateKey.export({ format: 'der', type: 'pkcs8' }).toString('base64'),
  };
}

const grant = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [], id_token_signed_response_alg: 'ES256' };
const bySecret = [];
const byKey = [];
const clients = [];
for (let number = 0; number < count; number += 1) {
  const secret = `secret-${number}-0123456789abcdef0123456789abcdef`;
  bySecret.push({ id: `secret-${number}`, secret });
  clients.push({ client_id: `secret-${number}`, client_secret: secret, token_endpoint_auth_method: 'client_secret_post', ...grant });
  const { publicJwk, pkcs8 } = keyPair();
  byKey.push({ id: `key-${number}`, key: pkcs8 });
  clients.push({
    client_id: `key-${number}`,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'ES256',
    jwks: { keys: [publicJwk] },
    ...grant,
  });
}

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const issuer = `http://localhost:${port}`;
  const provider = new Provider(issuer, {
    clients,
    clientAuthMethods: ['client_secret_post', 'private_key_jwt'],
    enabledJWA: { clientAuthSigningAlgValues: ['ES256'] },
    jwks: { keys: [keyPair().privateJwk] },
    scopes: ['telemetry'],
    ttl: { ClientCredentials: 300 },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => issuer,
        getResourceServerInfo: () => ({
          scope: 'telemetry',
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  server.on('request', provider.callback());
  const { version } = JSON.parse(readFileSync(new URL('node_modules/oidc-provider/package.json', import.meta.url)));
  console.log(JSON.stringify({
    name: `oidc-provider ${version}, node ${process.versions.node}`,
    plain: `127.0.0.1:${port}`,
    token_path: '/token',
    issuer,
    by_secret: bySecret,
    by_key: byKey,
  }));
});

process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
