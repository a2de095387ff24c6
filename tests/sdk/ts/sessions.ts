// What most tests do: make the things that a session needs, script the rehearsal model, wait until a session rests.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';

import Anthropic, { APIError } from '@anthropic-ai/sdk';
import type { BetaManagedAgentsCustomToolParams } from '@anthropic-ai/sdk/resources/beta/agents/agents';
import type { SessionCreateParams } from '@anthropic-ai/sdk/resources/beta/sessions/sessions';
import type {
  BetaManagedAgentsSessionEvent,
  BetaManagedAgentsSessionEventType,
  BetaManagedAgentsUserMessageEventParams,
} from '@anthropic-ai/sdk/resources/beta/sessions/events';

import { type Servers, waitFor } from './servers.ts';

export const MODEL = 'rehearsal/script';
export const TOOLSET = {
  type: 'agent_toolset_20260401',
  default_config: { enabled: true, permission_policy: { type: 'always_allow' } },
} as const;
export const WEATHER: BetaManagedAgentsCustomToolParams = {
  type: 'custom',
  name: 'weather',
  description: 'Says the weather of a city.',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};

type Block = Record<string, unknown>;
type Step = Record<string, unknown>;

export const call = (name: string, input: Record<string, unknown>): Block => ({ tool_use: { name, input } });
export const say = (blocks: (Block | string)[], more: Step = {}): Step => ({
  say: blocks.map((block) => (typeof block === 'string' ? { text: block } : block)),
  ...more,
});

/** The message that carries the steps which the model shall play. */
export function message(...steps: (Step | string)[]): BetaManagedAgentsUserMessageEventParams {
  const whole = steps.map((step) => (typeof step === 'string' ? say([step]) : step));
  // Numbered: the model counts faults by the words of a conversation, and no two tests share one.
  const text = `${randomUUID()}\n\`\`\`json\n${JSON.stringify({ steps: whole })}\n\`\`\``;
  return { type: 'user.message', content: [{ type: 'text', text }] };
}

export const fresh = (name: string): string => `${name}-${randomUUID().slice(0, 8)}`;

export type EventOf<T extends BetaManagedAgentsSessionEventType> = Extract<BetaManagedAgentsSessionEvent, { type: T }>;

export class Session {
  readonly client: Anthropic;
  readonly id: string;

  constructor(client: Anthropic, id: string) {
    this.client = client;
    this.id = id;
  }

  static async make(
    servers: Servers,
    fields: Partial<SessionCreateParams> = {},
    tools: NonNullable<Anthropic.Beta.AgentCreateParams['tools']> = [TOOLSET],
  ): Promise<Session> {
    const { client } = servers;
    const agent = fields.agent ?? (await client.beta.agents.create({ name: fresh('agent'), model: MODEL, tools })).id;
    const environment_id = fields.environment_id ?? (await environment(client)).id;
    const made = await client.beta.sessions.create({ ...fields, agent, environment_id });
    return new Session(client, made.id);
  }

  async send(...events: Parameters<Anthropic.Beta.Sessions.Events['send']>[1]['events']) {
    return (await this.client.beta.sessions.events.send(this.id, { events })).data ?? [];
  }

  async events(): Promise<BetaManagedAgentsSessionEvent[]> {
    const events = [];
    for await (const event of this.client.beta.sessions.events.list(this.id)) events.push(event);
    return events;
  }

  async of<T extends BetaManagedAgentsSessionEventType>(type: T): Promise<EventOf<T>[]> {
    const found = [];
    for await (const event of this.client.beta.sessions.events.list(this.id, { types: [type] })) {
      assert.equal(event.type, type);
      found.push(event as EventOf<T>);
    }
    return found;
  }

  /** Waits for the `count`th event of a type. */
  async wait<T extends BetaManagedAgentsSessionEventType>(type: T, count = 1, ms?: number): Promise<EventOf<T>> {
    return waitFor(`event ${type} number ${count}`, async () => (await this.of(type))[count - 1], ms);
  }

  /** Waits until the session rests and waits for nobody. */
  async finished(ms = 60_000): Promise<EventOf<'session.status_idle'>> {
    return waitFor(
      `the end of ${this.id}`,
      async () => {
        const last = (await this.of('session.status_idle')).at(-1);
        return last && last.stop_reason.type !== 'requires_action' && last;
      },
      ms,
    );
  }
}

export const environment = (client: Anthropic) =>
  client.beta.environments.create({ name: fresh('environment'), config: { type: 'self_hosted' } });

/** A fresh environment key; ours, since the hosted service has it only in its console. */
export async function environmentKey(client: Anthropic, environmentId: string): Promise<string> {
  const made = await client.post<{ key: string }>(`/v1/environments/${environmentId}/keys`, { body: { name: 'suite' } });
  return made.key;
}

/** A session without the figures that grow by themselves. */
export function unclocked<T extends { stats: unknown }>(thing: T): Omit<T, 'stats'> {
  const { stats: _, ...rest } = thing;
  return rest;
}

export function texts(event: { content?: readonly { type: string }[] | null }): string {
  return (event.content ?? [])
    .filter((block): block is { type: 'text'; text: string } => block.type === 'text')
    .map((block) => block.text)
    .join('');
}

/** The call must be refused with this status, by a message that has each of `names` in it. */
export async function refused(status: number, refuse: () => PromiseLike<unknown>, ...names: string[]): Promise<APIError> {
  try {
    await refuse();
  } catch (error) {
    assert.ok(error instanceof APIError, String(error));
    assert.equal(error.status, status, error.message);
    assert.ok(error.type, 'no error.type');
    assert.ok(error.requestID, 'no request-id header');
    for (const name of names) assert.ok(error.apiMessage?.includes(name), `${name} is not named in ${error.apiMessage}`);
    return error;
  }
  assert.fail(`it was accepted; a refusal with ${status} was due`);
}
