// The published TypeScript client over every endpoint of this service.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { APIError, AuthenticationError, ConflictError, NotFoundError, PreconditionFailedError } from '@anthropic-ai/sdk';

import { Servers, waitFor } from './servers.ts';
import {
  MODEL,
  Session,
  TOOLSET,
  WEATHER,
  call,
  environment,
  environmentKey,
  fresh,
  message,
  refused,
  say,
  unclocked,
} from './sessions.ts';

let servers: Servers;
before(async () => {
  servers = await Servers.start();
});
after(() => servers?.close());

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

test('agents and their versions', async () => {
  const { agents } = servers.client.beta;
  const made = await agents.create({ name: fresh('agent'), model: MODEL, tools: [TOOLSET, WEATHER], metadata: { a: '1' } });
  assert.equal(made.version, 1);
  assert.deepEqual(await agents.retrieve(made.id), made);
  const updated = await agents.update(made.id, { version: 1, system: 'second', metadata: { a: null, b: '2' } });
  assert.equal(updated.version, 2);
  assert.deepEqual(updated.metadata, { b: '2' });
  assert.equal((await agents.retrieve(made.id, { version: 1 })).system, null);
  assert.ok((await refused(409, () => agents.update(made.id, { version: 1, system: 'x' }), 'version')) instanceof ConflictError);
  const versions = await collect(agents.versions.list(made.id, { limit: 1 }));
  assert.deepEqual(versions.map((agent) => agent.version).sort(), [1, 2]);
  assert.ok((await collect(agents.list({ limit: 2 }))).some((agent) => agent.id === made.id));
  assert.ok((await agents.archive(made.id)).archived_at);
  assert.ok((await refused(404, () => agents.retrieve('agent_unknown'))) instanceof NotFoundError);
});

test('environments', async () => {
  const { environments } = servers.client.beta;
  const made = await environments.create({ name: fresh('env'), config: { type: 'self_hosted' }, metadata: { a: '1' } });
  assert.deepEqual(await environments.retrieve(made.id), made);
  assert.deepEqual((await environments.update(made.id, { metadata: { a: null, b: '2' } })).metadata, { b: '2' });
  assert.ok((await collect(environments.list({ limit: 1 }))).some((found) => found.id === made.id));
  assert.ok((await environments.archive(made.id)).archived_at);
  assert.equal((await environments.delete(made.id)).type, 'environment_deleted');
  await refused(404, () => environments.retrieve(made.id), made.id);
});

test('the work queue', async () => {
  const { client } = servers;
  const { id } = await environment(client);
  const key = await environmentKey(client, id);
  const { work } = servers.bearer(key).beta.environments;
  assert.equal(await work.poll(id, { block_ms: 20 }), null);
  const session = await Session.make(servers, { environment_id: id });
  await session.send(message(say([call('bash', { command: 'true' })]), 'done'));
  const item = await waitFor('an item', () => work.poll(id, { block_ms: 500 }));
  assert.equal(item.data.id, session.id);
  assert.ok(item.secret);
  const where = { environment_id: id };
  assert.equal((await work.ack(item.id, where)).state, 'starting');
  const first = await work.heartbeat(item.id, { ...where, expected_last_heartbeat: 'NO_HEARTBEAT' });
  assert.ok(first.lease_extended);
  const lost = await refused(412, () => work.heartbeat(item.id, { ...where, expected_last_heartbeat: 'NO_HEARTBEAT' }));
  assert.ok(lost instanceof PreconditionFailedError);
  assert.equal(lost.errorCode, 'heartbeat_precondition_failed');
  await work.heartbeat(item.id, { ...where, expected_last_heartbeat: first.last_heartbeat });
  assert.equal((await collect(work.list(id)))[0]?.id, item.id);
  assert.equal((await client.beta.environments.work.stats(id)).type, 'work_queue_stats');
  assert.equal((await client.beta.environments.work.retrieve(item.id, where)).state, 'active');
  const updated = await client.beta.environments.work.update(item.id, { ...where, metadata: { a: '1' } });
  assert.deepEqual(updated.metadata, { a: '1' });
  assert.equal((await work.stop(item.id, { ...where })).state, 'stopping');
  assert.equal((await work.stop(item.id, { ...where, force: true })).state, 'stopped');
});

test('sessions: created in three ways, listed from both ends, changed, archived, deleted', async () => {
  const { sessions, agents } = servers.client.beta;
  const agent = await agents.create({ name: fresh('agent'), model: MODEL, system: 'first' });
  const { id: environment_id } = await environment(servers.client);
  const one = await sessions.create({ agent: agent.id, environment_id, title: 'one' });
  const two = await sessions.create({ agent: { type: 'agent', id: agent.id, version: 1 }, environment_id });
  const three = await sessions.create({
    agent: { type: 'agent_with_overrides', id: agent.id, system: 'other', tools: [WEATHER] },
    environment_id,
  });
  assert.equal(three.agent.system, 'other');
  assert.deepEqual(unclocked(await sessions.retrieve(one.id)), unclocked(one));
  const page = await sessions.list({ agent_id: agent.id, limit: 2 });
  assert.deepEqual(page.data.map((session) => session.id), [three.id, two.id]);
  const next = await page.getNextPage();
  assert.deepEqual(next.data.map((session) => session.id), [one.id]);
  assert.ok(next.prev_page);
  const back = await sessions.list({ agent_id: agent.id, limit: 2, page: next.prev_page });
  assert.deepEqual(back.data.map((session) => session.id), [three.id, two.id]);
  assert.equal((await sessions.update(one.id, { title: 'renamed' })).title, 'renamed');
  assert.ok((await sessions.archive(two.id)).archived_at);
  assert.equal((await sessions.delete(three.id)).type, 'session_deleted');
  await refused(404, () => sessions.retrieve(three.id), three.id);
  assert.deepEqual((await sessions.resources.list(one.id)).data, []);
});

test('events: sent, listed with filters, refused by name', async () => {
  const session = await Session.make(servers);
  const [sent] = await session.send(message('Hello.'));
  assert.equal(sent?.type, 'user.message');
  assert.equal((await session.finished()).stop_reason.type, 'end_turn');
  const all = (await session.events()).map((event) => event.id);
  const { events } = servers.client.beta.sessions;
  const reversed = await collect(events.list(session.id, { order: 'desc', limit: 3 }));
  assert.deepEqual(reversed.map((event) => event.id), all.reverse());
  const since = await collect(events.list(session.id, { 'created_at[gte]': reversed[0]!.processed_at! }));
  assert.ok(since.some((event) => event.type === 'session.status_idle'));
  await refused(400, () => events.send(session.id, { events: [{ type: 'user.sneeze' } as never] }), 'user.sneeze');
  await refused(400, () => events.send(session.id, { events: [{ ...message('x'), loud: true } as never] }), 'loud');
});

test('threads', async () => {
  const session = await Session.make(servers, { initial_events: [message('Hello.')] });
  await session.finished();
  const { threads } = servers.client.beta.sessions;
  const [primary] = await collect(threads.list(session.id));
  assert.ok(primary);
  assert.equal(primary.parent_thread_id, null);
  assert.equal((await threads.retrieve(primary.id, { session_id: session.id })).id, primary.id);
  const events = await collect(threads.events.list(primary.id, { session_id: session.id }));
  assert.ok(events.some((event) => event.type === 'agent.message'));
});

test('models', async () => {
  const models = await collect(servers.client.beta.models.list());
  assert.ok(models.length > 0);
  assert.deepEqual(await servers.client.beta.models.retrieve(models[0]!.id), models[0]);
  await refused(404, () => servers.client.beta.models.retrieve('no-such-model'), 'no-such-model');
});

test('credentials are told apart', async () => {
  const wrong = servers.client.withOptions({ apiKey: 'sk-ow-wrong' });
  assert.ok((await refused(401, () => wrong.beta.agents.list())) instanceof AuthenticationError);
  const { id } = await environment(servers.client);
  const key = servers.bearer(await environmentKey(servers.client, id));
  await assert.rejects(
    async () => key.beta.agents.list(),
    (error) => error instanceof APIError && (error.status === 401 || error.status === 403),
  );
});

test('what is not supported says so', async () => {
  for (const refuse of [() => servers.client.beta.skills.list(), () => servers.client.beta.deployments.list()]) {
    await assert.rejects(
      async () => refuse(),
      (error) => error instanceof APIError && error.status! < 500 && !!error.apiMessage?.includes('not supported'),
    );
  }
});
