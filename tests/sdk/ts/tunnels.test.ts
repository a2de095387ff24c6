// The published TypeScript client over tunnels, with an API key and by workload identity.
import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';

import Anthropic, { APIError, PermissionDeniedError } from '@anthropic-ai/sdk';
import { WorkloadIdentityError } from '@anthropic-ai/sdk/lib/credentials/types';

import { Servers } from './servers.ts';
import { fresh, refused } from './sessions.ts';

const ORGANIZATION = '11111111-2222-3333-4444-555555555555';
/** An authority that nobody has the key of any more. */
const AUTHORITY = `-----BEGIN CERTIFICATE-----
MIIBiDCCAS6gAwIBAgIUMXvXdjux/9JLuHG6B0GzUslnIwUwCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWYW4gYXV0aG9yaXR5IG9mIGEgdGVzdDAgFw0yNjExMjEwNDE4
NDhaGA8yMTI2MTAyODA0MTg0OFowITEfMB0GA1UEAwwWYW4gYXV0aG9yaXR5IG9m
IGEgdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDY2aHKwBx8IOPwA3Tf6
fEMl4ykTtf0yHYlshu29NrucCycz3mQDxQWEzHVfFKNNE9exDhv6F07KDOELLlTE
g/ejQjBAMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgIEMB0GA1UdDgQW
BBQZ8RcZiX4HiuaHE2ep6m8GNqE5fTAKBggqhkjOPQQDAgNIADBFAiEA2oSQbuP0
1Mp8KvgAY0hdCWYEvgHi3F7Xq0IBIQnE6/cCID2FiSj29Wc/EQOcE6oFkQpdT9IM
4AcujgcDA3t47FBU
-----END CERTIFICATE-----`;
const FINGERPRINT = 'fd975d9890e5bcdf2042c6dc26b9f3b3cbca662c2de8a5ee311f690935e37149';

/** An OpenID identity provider. */
class Issuer {
  readonly #key = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  readonly #server: Server;
  url = '';

  constructor() {
    const key = { ...this.#key.publicKey.export({ format: 'jwk' }), kid: '1', alg: 'ES256', use: 'sig' };
    this.#server = createServer((request, response) => {
      const document = request.url === '/keys' ? { keys: [key] } : { issuer: this.url, jwks_uri: `${this.url}/keys` };
      response.setHeader('content-type', 'application/json').end(JSON.stringify(document));
    });
  }

  async listen(): Promise<this> {
    await new Promise<void>((done) => this.#server.listen(0, '127.0.0.1', done));
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    return this;
  }

  token(subject = 'repo:example/infra:environment:prod'): string {
    const now = Math.floor(Date.now() / 1000);
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const claims = { iss: this.url, sub: subject, aud: 'outwork.example', iat: now, exp: now + 300 };
    const signed = `${part({ alg: 'ES256', kid: '1' })}.${part(claims)}`;
    const options = { key: this.#key.privateKey, dsaEncoding: 'ieee-p1363' } as const;
    return `${signed}.${sign('sha256', Buffer.from(signed), options).toString('base64url')}`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

let issuer: Issuer;
let servers: Servers;
before(async () => {
  issuer = await new Issuer().listen();
  servers = await Servers.start(`
[federation]
organization_id = "${ORGANIZATION}"
[[federation.rules]]
id = "fdrl_prod"
issuer = "${issuer.url}"
audience = "outwork.example"
subject = "repo:example/infra:*"
scope = "workspace:manage_tunnels"
`);
});
after(async () => {
  await servers?.close();
  issuer?.close();
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

test('tunnels and their tokens', async () => {
  const { tunnels } = servers.client.beta;
  const name = fresh('tunnel');
  const made = await tunnels.create({ display_name: name });
  assert.equal(made.display_name, name);
  assert.match(made.domain, /^[a-z0-9]+\.tunnel\.outwork\.internal$/);
  assert.deepEqual(await tunnels.retrieve(made.id), made);
  assert.ok((await collect(tunnels.list({ limit: 1 }))).some((tunnel) => tunnel.id === made.id));
  const first = await tunnels.revealToken(made.id);
  assert.deepEqual(await tunnels.revealToken(made.id), first);
  const second = await tunnels.rotateToken(made.id, { reason: 'it was on a screen' });
  assert.notEqual(second.tunnel_token, first.tunnel_token);
  assert.deepEqual(await tunnels.revealToken(made.id), second);
  const archived = await tunnels.archive(made.id);
  assert.ok(archived.archived_at);
  assert.deepEqual(await tunnels.archive(made.id), archived);
  assert.ok(!(await collect(tunnels.list())).some((tunnel) => tunnel.id === made.id));
  assert.ok((await collect(tunnels.list({ include_archived: true }))).some((tunnel) => tunnel.id === made.id));
  await refused(409, () => tunnels.revealToken(made.id), 'archived');
  await refused(404, () => tunnels.retrieve('tnl_unknown'), 'tnl_unknown');
});

test('certificates of tunnels', async () => {
  const { tunnels } = servers.client.beta;
  const { id } = await tunnels.create({});
  const made = await tunnels.certificates.create(id, { ca_certificate_pem: AUTHORITY });
  assert.equal(made.fingerprint, FINGERPRINT);
  assert.equal(made.tunnel_id, id);
  assert.deepEqual(await tunnels.certificates.retrieve(made.id, { tunnel_id: id }), made);
  assert.deepEqual(await collect(tunnels.certificates.list(id)), [made]);
  await refused(409, () => tunnels.certificates.create(id, { ca_certificate_pem: AUTHORITY }), made.id);
  await refused(400, () => tunnels.certificates.create(id, { ca_certificate_pem: 'none' }), 'one_certificate');
  assert.ok((await tunnels.certificates.archive(made.id, { tunnel_id: id })).archived_at);
  assert.deepEqual(await collect(tunnels.certificates.list(id)), []);
});

test('workload identity', async () => {
  const workload = (token: () => string) =>
    new Anthropic({
      baseURL: servers.url,
      maxRetries: 0,
      config: {
        organization_id: ORGANIZATION,
        authentication: {
          type: 'oidc_federation',
          federation_rule_id: 'fdrl_prod',
          identity_token: { source: 'file', path: servers.file('identity-token', token()) },
        },
      },
    });
  const client = workload(() => issuer.token());
  const made = await client.beta.tunnels.create({ display_name: 'by a workload' });
  assert.ok((await collect(client.beta.tunnels.list())).some((tunnel) => tunnel.id === made.id));
  await assert.rejects(
    async () => client.beta.agents.list(),
    (error) => error instanceof PermissionDeniedError && error instanceof APIError,
  );
  const stranger = workload(() => issuer.token('repo:example/other:environment:prod'));
  await assert.rejects(
    async () => stranger.beta.tunnels.list(),
    (error) => error instanceof WorkloadIdentityError && String(error).includes('401'),
  );
});
