// The live stream of a session through the published TypeScript client, with previews, tools and interrupts.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { accumulateManagedAgentsEvent } from '@anthropic-ai/sdk/lib/sessions/accumulate';
import type {
  BetaManagedAgentsAgentMessageEvent,
  BetaManagedAgentsStreamSessionEvents,
} from '@anthropic-ai/sdk/resources/beta/sessions/events';

import { Servers } from './servers.ts';
import { Session, WEATHER, call, message, say, texts } from './sessions.ts';

const LONG = 'The quick brown fox jumps over the lazy dog. '.repeat(20);

let servers: Servers;
before(async () => {
  servers = await Servers.start();
});
after(() => servers?.close());

/** Opens the stream, does something, and reads until `last` says that it is enough. */
async function follow(
  session: Session,
  act: () => Promise<unknown>,
  last: (event: BetaManagedAgentsStreamSessionEvents) => boolean | Promise<boolean>,
  event_deltas: ('agent.message' | 'agent.thinking')[] = [],
): Promise<BetaManagedAgentsStreamSessionEvents[]> {
  const stream = await session.client.beta.sessions.events.stream(session.id, { event_deltas });
  const events = [];
  await act();
  for await (const event of stream) {
    events.push(event);
    if (await last(event)) break;
  }
  return events;
}

const rests = (event: BetaManagedAgentsStreamSessionEvents) => event.type === 'session.status_idle';

test('the stream gives what the list gives', async () => {
  const session = await Session.make(servers);
  const streamed = await follow(session, () => session.send(message('Hello.')), rests);
  const listed = await session.events();
  assert.deepEqual(
    new Set(streamed.map((event) => ('id' in event ? event.id : event.type))),
    new Set(listed.map((event) => event.id)),
  );
});

test('previews add up to the message', async () => {
  const session = await Session.make(servers);
  const act = () => session.send(message(say([LONG], { pace: { per_chunk_ms: 2 } })));
  const events = await follow(session, act, rests, ['agent.message']);
  let shown: BetaManagedAgentsAgentMessageEvent | undefined;
  let deltas = 0;
  for (const event of events) {
    shown = accumulateManagedAgentsEvent(shown, event);
    if (event.type !== 'event_delta') continue;
    deltas += 1;
    assert.ok(shown && LONG.startsWith(texts(shown)));
  }
  assert.ok(deltas > 1, 'a slow answer came in one piece');
  assert.ok(shown);
  assert.equal(texts(shown), LONG);
  assert.notEqual(shown.processed_at, '');
});

test('a custom tool is answered while the stream is read', async () => {
  const session = await Session.make(servers, {}, [WEATHER]);
  const events = await follow(
    session,
    () => session.send(message(say([call('weather', { city: 'Berlin' })]), say(['It is {{result}}.']))),
    async (event) => {
      if (event.type === 'agent.custom_tool_use') {
        const content = [{ type: 'text' as const, text: 'sunny' }];
        await session.send({ type: 'user.custom_tool_result', custom_tool_use_id: event.id, content });
      }
      return event.type === 'session.status_idle' && event.stop_reason.type === 'end_turn';
    },
  );
  const answers = events.filter((event) => event.type === 'agent.message');
  assert.deepEqual(answers.map(texts), ['It is sunny.']);
});

test('an interrupt ends the turn', async () => {
  const session = await Session.make(servers);
  const events = await follow(
    session,
    () => session.send(message(say(['never'], { pace: { first_token_ms: 60_000 } }))),
    async (event) => {
      if (event.type === 'span.model_request_start') await session.send({ type: 'user.interrupt' });
      return rests(event);
    },
  );
  const idle = events.at(-1);
  assert.ok(idle?.type === 'session.status_idle' && idle.stop_reason.type === 'end_turn');
  assert.ok(!events.some((event) => event.type === 'agent.message'));
});

test('a busy model is asked again', async () => {
  const session = await Session.make(servers);
  const faults = [{ status: 529, times: 1, retry_after: 0 }];
  const events = await follow(session, () => session.send(message(say(['Recovered.'], { faults }))), rests);
  const error = events.find((event) => event.type === 'session.error');
  assert.ok(error?.type === 'session.error');
  assert.equal(error.error.type, 'model_overloaded_error');
  assert.equal(error.error.retry_status.type, 'retrying');
  assert.ok(events.some((event) => event.type === 'session.status_rescheduled'));
});

test('a thread has a stream of its own', async () => {
  const session = await Session.make(servers);
  const { threads } = servers.client.beta.sessions;
  const primary = (await threads.list(session.id)).data[0];
  assert.ok(primary);
  const stream = await threads.events.stream(primary.id, { session_id: session.id });
  await session.send(message('Hello.'));
  const types = [];
  for await (const event of stream) {
    types.push(event.type);
    if (event.type === 'session.thread_status_idle') break;
  }
  assert.ok(types.includes('agent.message'));
});
