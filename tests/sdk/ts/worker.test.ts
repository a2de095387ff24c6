// Whole sessions with the published TypeScript `EnvironmentWorker` beside them, unmodified.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import { type Program, Servers, waitFor, worker } from './servers.ts';
import { Session, TOOLSET, WEATHER, call, environment, environmentKey, message, say, texts } from './sessions.ts';

let servers: Servers;
let folder: string;
const running: Program[] = [];
before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'outwork-suite-work-'));
  servers = await Servers.start();
});
afterEach(async () => {
  for (const program of running.splice(0)) await program.close();
});
after(async () => {
  await servers?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function bench(workers = 1): Promise<{ environment_id: string; workdirs: string[] }> {
  const { id } = await environment(servers.client);
  const workdirs = [];
  for (let number = 0; number < workers; number += 1) {
    const workdir = path.join(folder, `${id}-${number}`);
    mkdirSync(workdir);
    running.push(worker(servers.url, id, await environmentKey(servers.client, id), workdir));
    workdirs.push(workdir);
  }
  return { environment_id: id, workdirs };
}

async function resultsOf(session: Session): Promise<Map<string, Awaited<ReturnType<typeof session.of<'user.tool_result'>>>>> {
  const results = await session.of('user.tool_result');
  const named = new Map<string, typeof results>();
  for (const use of await session.of('agent.tool_use')) {
    const found = results.filter((result) => result.tool_use_id === use.id);
    assert.equal(found.length, 1, `${use.name} has ${found.length} results`);
    named.set(use.name, [...(named.get(use.name) ?? []), found[0]!]);
  }
  return named;
}

test('every tool', async () => {
  const { environment_id, workdirs } = await bench();
  const session = await Session.make(servers, { environment_id });
  await session.send(
    message(
      say([call('write', { file_path: 'notes/one.txt', content: 'alpha\nbeta\n' })]),
      say([call('read', { file_path: 'notes/one.txt' })]),
      say([call('edit', { file_path: 'notes/one.txt', old_string: 'beta', new_string: 'delta' })]),
      say([call('bash', { command: 'cat notes/one.txt' })]),
      say([call('glob', { pattern: '**/*.txt' })]),
      say([call('grep', { pattern: 'del.a' })]),
      say([call('read', { file_path: 'missing.txt' })]),
      'All done.',
    ),
  );
  assert.equal((await session.finished()).stop_reason.type, 'end_turn');
  assert.equal(texts((await session.of('agent.message')).at(-1)!), 'All done.');
  const results = await resultsOf(session);
  assert.match(texts(results.get('read')![0]!), /alpha/);
  assert.match(texts(results.get('bash')![0]!), /delta/);
  assert.match(texts(results.get('glob')![0]!), /one\.txt/);
  assert.match(texts(results.get('grep')![0]!), /delta/);
  assert.equal(results.get('read')![1]!.is_error, true);
  assert.equal(readFileSync(path.join(workdirs[0]!, 'notes/one.txt'), 'utf8'), 'alpha\ndelta\n');
});

test('two workers share the sessions', async () => {
  const { environment_id } = await bench(2);
  const sessions = await Promise.all(Array.from({ length: 4 }, () => Session.make(servers, { environment_id })));
  await Promise.all(
    sessions.map((session, number) =>
      session.send(message(say([call('bash', { command: `echo session-${number}` })]), 'done')),
    ),
  );
  for (const [number, session] of sessions.entries()) {
    assert.equal((await session.finished(80_000)).stop_reason.type, 'end_turn');
    assert.equal(texts((await resultsOf(session)).get('bash')![0]!).trim(), `session-${number}`);
  }
});

test('a question is asked before the call', async () => {
  const { environment_id } = await bench();
  const asking = { ...TOOLSET, default_config: { permission_policy: { type: 'always_ask' as const } } };
  const session = await Session.make(servers, { environment_id }, [asking, WEATHER]);
  await session.send(message(say([call('bash', { command: 'echo ran' })]), say([call('bash', { command: 'echo not' })]), 'end'));
  const first = await session.wait('agent.tool_use');
  assert.equal(first.evaluated_permission, 'ask');
  await session.send({ type: 'user.tool_confirmation', tool_use_id: first.id, result: 'allow' });
  const second = await session.wait('agent.tool_use', 2);
  await session.send({ type: 'user.tool_confirmation', tool_use_id: second.id, result: 'deny', deny_message: 'No.' });
  assert.equal((await session.finished()).stop_reason.type, 'end_turn');
  const posted = await session.of('user.tool_result');
  assert.equal(texts(posted.find((result) => result.tool_use_id === first.id)!).trim(), 'ran');
});

test('an interrupt stops a running command', async () => {
  const { environment_id } = await bench();
  const session = await Session.make(servers, { environment_id });
  await session.send(message(say([call('bash', { command: 'sleep 600' })]), 'unused'));
  await session.wait('agent.tool_use');
  await session.send({ type: 'user.interrupt' });
  await session.finished();
  await session.send(message(say([call('bash', { command: 'echo alive' })]), 'Back.'));
  await waitFor('the next answer', async () => (await session.of('agent.message')).some((event) => texts(event) === 'Back.'), 80_000);
});
