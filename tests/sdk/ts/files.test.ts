// The published TypeScript client over files and the resources of sessions.
import assert from 'node:assert/strict';
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { toFile } from '@anthropic-ai/sdk';

import { Servers } from './servers.ts';
import { Session, refused } from './sessions.ts';

let servers: Servers;
const folder = mkdtempSync(path.join(tmpdir(), 'outwork-suite-files-'));

before(async () => {
  servers = await Servers.start();
});

after(async () => {
  await servers?.close();
  rmSync(folder, { recursive: true });
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

test('files: uploaded in every form, listed, shown, deleted', async () => {
  const { files } = servers.client.beta;
  const onDisk = path.join(folder, 'on disk.csv');
  writeFileSync(onDisk, 'name,count\nbeans,3\n');
  const made = [
    await files.upload({ file: createReadStream(onDisk) }),
    await files.upload({ file: new File(['# a'], 'ä.md', { type: 'text/markdown' }) }),
    await files.upload({ file: await toFile(Buffer.from('{}'), 'a.json'), expires_in_seconds: 3600 }),
  ];
  assert.deepEqual(made.map((file) => file.filename), ['on disk.csv', 'ä.md', 'a.json']);
  assert.deepEqual(made.map((file) => file.size_bytes), [19, 3, 2]);
  assert.equal(made[1]!.mime_type, 'text/markdown');
  assert.ok(Date.parse(made[2]!.expires_at!) - Date.parse(made[2]!.created_at) === 3_600_000);
  assert.deepEqual(await files.retrieveMetadata(made[0]!.id), made[0]);
  const listed = await collect(files.list({ limit: 2 }));
  assert.deepEqual(listed.slice(0, 3).map((file) => file.id), made.map((file) => file.id).reverse());
  const some = await files.list({ ids: [made[0]!.id, 'file_none'] });
  assert.deepEqual(some.data.map((file) => file.id), [made[0]!.id]);
  await refused(400, () => files.download(made[0]!.id), 'cannot be downloaded');
  assert.equal((await files.delete(made[0]!.id)).type, 'file_deleted');
  await refused(404, () => files.retrieveMetadata(made[0]!.id), made[0]!.id);
});

test('resources: given to a session, added, replaced, taken away', async () => {
  const { files, sessions } = servers.client.beta;
  const file = await files.upload({ file: await toFile(Buffer.from('a,b'), 'a.csv') });
  const { id } = await Session.make(servers);
  const added = await sessions.resources.add(id, { type: 'file', file_id: file.id, mount_path: '/workspace/a.csv' });
  assert.equal(added.mount_path, '/workspace/a.csv');
  assert.deepEqual((await sessions.retrieve(id)).resources, [added]);
  assert.deepEqual(await collect(sessions.resources.list(id)), [added]);
  assert.deepEqual(await sessions.resources.retrieve(added.id, { session_id: id }), added);
  await refused(400, () => sessions.resources.add(id, { type: 'file', file_id: file.id, mount_path: 'a.csv' }), 'mount_path');
  await refused(400, () => sessions.resources.update(added.id, { session_id: id, authorization_token: 'x' }), 'token');
  assert.equal((await sessions.resources.delete(added.id, { session_id: id })).type, 'session_resource_deleted');
  await refused(404, () => sessions.resources.retrieve(added.id, { session_id: id }), added.id);
});
