// An MCP server with everything that the conformance suite asks servers for, on the published server package, in both
// revisions of the protocol: 2026-07-28 without sessions, 2025-11-25 with them. It prints where it listens.
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

import { toNodeHandler } from '@modelcontextprotocol/node';
import {
  acceptedContent,
  CLIENT_CAPABILITIES_META_KEY,
  createMcpHandler,
  createRequestStateCodec,
  fromJsonSchema,
  hostHeaderValidationResponse,
  inputRequired,
  inputResponse,
  isLegacyRequest,
  localhostAllowedHostnames,
  localhostAllowedOrigins,
  McpServer,
  originValidationResponse,
  ResourceTemplate,
  WebStandardStreamableHTTPServerTransport,
  type CallToolResult,
  type ClientCapabilities,
  type EventStore,
  type JSONRPCMessage,
  type JsonSchemaType,
  type ServerContext,
} from '@modelcontextprotocol/server';

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';
const STEP_MS = 50;

const state = createRequestStateCodec<{ step: string }>({ key: randomBytes(32) });
const text = (value: string): CallToolResult => ({ content: [{ type: 'text', text: value }] });
const image = { type: 'image', data: PNG, mimeType: 'image/png' } as const;
const schema = (value: object) => fromJsonSchema<Record<string, unknown>>(value as JsonSchemaType);
const object = (properties: object, required: string[] = []) => ({ type: 'object', properties, required }) as const;
const question = (message: string, properties: object, required: string[]) =>
  inputRequired.elicit({ message, requestedSchema: object(properties, required) as never });
const sampling = (prompt: string, maxTokens: number) =>
  inputRequired.createMessage({ messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens });
const content = (ctx: ServerContext, key: string) =>
  acceptedContent<Record<string, unknown>>(ctx.mcpReq.inputResponses, key);
const has = (ctx: ServerContext, key: string) => inputResponse(ctx.mcpReq.inputResponses, key).kind !== 'missing';
const NAME = { name: { type: 'string' } };

/** What the caller of this request can do, whatever the revision. */
function capabilities(server: McpServer, ctx: ServerContext): ClientCapabilities {
  const envelope = ctx.mcpReq.envelope as Record<string, unknown> | undefined;
  const declared = envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? ctx.mcpReq._meta?.[CLIENT_CAPABILITIES_META_KEY];
  return (declared as ClientCapabilities | undefined) ?? server.server.getClientCapabilities() ?? {};
}

function addContentTools(server: McpServer): void {
  const tool = (name: string, result: CallToolResult) =>
    server.registerTool(name, { description: `Answers as ${name} has to` }, () => result);
  const resource = (uri: string, mimeType: string, value: string) =>
    ({ type: 'resource', resource: { uri, mimeType, text: value } }) as const;
  tool('test_simple_text', text('This is a simple text response for testing.'));
  tool('test_image_content', { content: [image] });
  tool('test_audio_content', { content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] });
  tool('test_embedded_resource', {
    content: [resource('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')],
  });
  tool('test_multiple_content_types', {
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      image,
      resource('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}'),
    ],
  });
  server.registerTool('test_error_handling', { description: 'Always fails' }, () => {
    throw new Error('This tool intentionally returns an error for testing');
  });
  const everything = {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    type: 'object',
    $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } } },
    properties: {
      name: { type: 'string' },
      address: { $ref: '#/$defs/address' },
      contactMethod: { type: 'string', enum: ['phone', 'email'] },
      phone: { type: 'string' },
      email: { type: 'string' },
    },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
    then: { required: ['phone'] },
    else: { required: ['email'] },
    additionalProperties: false,
  };
  const described = { description: 'A schema of the 2020-12 dialect', inputSchema: schema(everything) };
  server.registerTool('json_schema_2020_12_tool', described, (args) => text(JSON.stringify(args)));
  const region = object({ region: { type: 'string', 'x-mcp-header': 'Region' }, note: { type: 'string' } }, ['region']);
  const headers = { description: 'An argument that a header repeats', inputSchema: schema(region) };
  server.registerTool('test_custom_header', headers, (args) => text(`region ${String(args['region'])}`));
}

function addTalkingTools(server: McpServer): void {
  const logs = async (ctx: ServerContext) => {
    await ctx.mcpReq.log('info', 'Tool execution started');
    await pause(STEP_MS);
    await ctx.mcpReq.log('info', 'Tool processing data');
    await pause(STEP_MS);
    await ctx.mcpReq.log('info', 'Tool execution completed');
    return text('It is done.');
  };
  server.registerTool('test_tool_with_logging', { description: 'Logs three times' }, logs);
  server.registerTool('test_logging_tool', { description: 'Logs three times' }, logs);
  server.registerTool('test_tool_with_progress', { description: 'Tells how far it is' }, async (ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) {
        await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      }
      if (progress < 100) await pause(STEP_MS);
    }
    return text('It is done.');
  });
  server.registerTool('test_reconnection', { description: 'Ends its stream before it answers' }, async (ctx) => {
    ctx.http?.closeSSE?.();
    await pause(STEP_MS);
    return text('The answer after the stream ended.');
  });
  const prompt = { description: 'Asks the caller for a completion', inputSchema: schema(object({ prompt: { type: 'string' } }, ['prompt'])) };
  server.registerTool('test_sampling', prompt, (args, ctx) => {
    const given = inputResponse(ctx.mcpReq.inputResponses, 'answer');
    if (given.kind === 'missing') return inputRequired({ inputRequests: { answer: sampling(String(args['prompt']), 100) } });
    return text(`LLM response: ${JSON.stringify(given)}`);
  });
}

function addElicitingTools(server: McpServer): void {
  const asks = (name: string, message: string, properties: object, required: string[] = []) =>
    server.registerTool(name, { description: 'Asks the user' }, (ctx) => {
      const given = inputResponse(ctx.mcpReq.inputResponses, 'form');
      if (given.kind === 'missing') return inputRequired({ inputRequests: { form: question(message, properties, required) } });
      return text(`Elicitation completed: ${JSON.stringify(given)}`);
    });
  const person = {
    username: { type: 'string', description: "User's response" },
    email: { type: 'string', description: "User's email address" },
  };
  const message = { description: 'Asks the user', inputSchema: schema(object({ message: { type: 'string' } }, ['message'])) };
  server.registerTool('test_elicitation', message, (args, ctx) => {
    const given = inputResponse(ctx.mcpReq.inputResponses, 'form');
    const form = () => question(String(args['message']), person, ['username', 'email']);
    return given.kind === 'missing' ? inputRequired({ inputRequests: { form: form() } }) : text(`User response: ${JSON.stringify(given)}`);
  });
  asks('test_streaming_elicitation', 'What now?', NAME, ['name']);
  asks('test_elicitation_sep1034_defaults', 'Is this right?', {
    name: { type: 'string', default: 'John Doe' },
    age: { type: 'integer', default: 30 },
    score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
    verified: { type: 'boolean', default: true },
  });
  const titled = (names: string[]) => names.map((name, at) => ({ const: `value${at + 1}`, title: name }));
  const options = ['option1', 'option2', 'option3'];
  asks('test_elicitation_sep1330_enums', 'Which?', {
    untitledSingle: { type: 'string', enum: options },
    titledSingle: { type: 'string', oneOf: titled(['First Option', 'Second Option', 'Third Option']) },
    legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
    untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
    titledMulti: { type: 'array', items: { anyOf: titled(['First Choice', 'Second Choice', 'Third Choice']) } },
  });
}

function addRounds(server: McpServer): void {
  const round = (name: string, work: (ctx: ServerContext) => unknown) =>
    server.registerTool(name, { description: 'Needs input from the caller' }, (ctx) => work(ctx) as CallToolResult);
  const askName = () => question('What is your name?', NAME, ['name']);
  round('test_input_required_result_elicitation', (ctx) => {
    const name = content(ctx, 'user_name')?.['name'];
    return typeof name === 'string' ? text(`Hello, ${name}!`) : inputRequired({ inputRequests: { user_name: askName() } });
  });
  round('test_input_required_result_sampling', (ctx) => {
    const given = inputResponse(ctx.mcpReq.inputResponses, 'capital_question');
    const ask = () => sampling('What is the capital of France?', 100);
    return given.kind === 'missing' ? inputRequired({ inputRequests: { capital_question: ask() } }) : text(JSON.stringify(given));
  });
  round('test_missing_capability', (ctx) => {
    if (has(ctx, 'answer')) return text('The caller can sample.');
    // The package refuses to ask a caller that did not declare sampling.
    return inputRequired({ inputRequests: { answer: sampling('Say something', 50) } });
  });
  round('test_input_required_result_list_roots', (ctx) => {
    const given = inputResponse(ctx.mcpReq.inputResponses, 'client_roots');
    if (given.kind === 'missing') return inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
    return text(JSON.stringify(given));
  });
  const confirmed = (name: string) =>
    round(name, async (ctx) => {
      if (has(ctx, 'confirm') && ctx.mcpReq.requestState<{ step: string }>()?.step === 'confirm') return text('state-ok');
      const confirm = question('Please confirm', { ok: { type: 'boolean' } }, ['ok']);
      return inputRequired({ inputRequests: { confirm }, requestState: await state.mint({ step: 'confirm' }) });
    });
  confirmed('test_input_required_result_request_state');
  confirmed('test_input_required_result_tampered_state');
  round('test_input_required_result_multiple_inputs', async (ctx) => {
    if (['user_name', 'greeting', 'client_roots'].every((key) => has(ctx, key))) return text('All three are there.');
    const inputRequests = {
      user_name: askName(),
      greeting: sampling('Generate a greeting', 50),
      client_roots: inputRequired.listRoots(),
    };
    return inputRequired({ inputRequests, requestState: await state.mint({ step: 'all' }) });
  });
  round('test_input_required_result_multi_round', async (ctx) => {
    const step = ctx.mcpReq.requestState<{ step: string }>()?.step;
    if (step === 'color' && has(ctx, 'step2')) return text('Both are known.');
    if (step === 'name' && has(ctx, 'step1')) {
      const step2 = question('Step 2: What is your favorite color?', { color: { type: 'string' } }, ['color']);
      return inputRequired({ inputRequests: { step2 }, requestState: await state.mint({ step: 'color' }) });
    }
    const step1 = question('Step 1: What is your name?', NAME, ['name']);
    return inputRequired({ inputRequests: { step1 }, requestState: await state.mint({ step: 'name' }) });
  });
  round('test_input_required_result_capabilities', (ctx) => {
    const able = capabilities(server, ctx);
    if (['form', 'sample'].some((key) => has(ctx, key))) return text('There is an answer.');
    return inputRequired({
      inputRequests: {
        ...(able.elicitation ? { form: askName() } : {}),
        ...(able.sampling ? { sample: sampling('Say something', 50) } : {}),
      },
    });
  });
}

function addPrompts(server: McpServer): void {
  const user = (value: string) => ({ role: 'user', content: { type: 'text', text: value } }) as const;
  const words = (...names: string[]) => schema(object(Object.fromEntries(names.map((name) => [name, { type: 'string' }])), names));
  server.registerPrompt('test_simple_prompt', { description: 'Nothing to fill in' }, () => ({
    messages: [user('This is a simple prompt for testing.')],
  }));
  const two = { description: 'Two arguments', argsSchema: words('arg1', 'arg2') };
  server.registerPrompt('test_prompt_with_arguments', two, (args) => ({
    messages: [user(`Prompt with arguments: arg1='${String(args['arg1'])}', arg2='${String(args['arg2'])}'`)],
  }));
  const one = { description: 'A resource in it', argsSchema: words('resourceUri') };
  server.registerPrompt('test_prompt_with_embedded_resource', one, (args) => {
    const resource = { uri: String(args['resourceUri']), mimeType: 'text/plain', text: 'Embedded resource content for testing.' };
    return { messages: [{ role: 'user', content: { type: 'resource', resource } }, user('Please process the embedded resource above.')] };
  });
  server.registerPrompt('test_prompt_with_image', { description: 'An image in it' }, () => ({
    messages: [{ role: 'user', content: image }, user('Please analyze the image above.')],
  }));
  server.registerPrompt('test_input_required_result_prompt', { description: 'Needs input' }, (ctx) => {
    const given = content(ctx, 'user_context')?.['context'];
    if (given !== undefined) return { messages: [user(`In the context of ${String(given)}`)] };
    const user_context = question('What context should the prompt use?', { context: { type: 'string' } }, ['context']);
    return inputRequired({ inputRequests: { user_context } });
  });
  server.server.setRequestHandler('completion/complete', (request) => {
    const values = ['paris', 'park', 'party'].filter((value) => value.startsWith(request.params.argument.value));
    return { completion: { values, total: values.length, hasMore: false } };
  });
}

function addResources(server: McpServer): void {
  const plain = (uri: string, value: string) => ({ contents: [{ uri, mimeType: 'text/plain', text: value }] });
  const kind = { description: 'Plain text', mimeType: 'text/plain' };
  server.registerResource('static-text', 'test://static-text', kind, (uri) =>
    plain(uri.href, 'This is the content of the static text resource.'));
  server.registerResource('watched', 'test://watched-resource', kind, (uri) => plain(uri.href, 'Watched.'));
  server.registerResource('static-binary', 'test://static-binary', { description: 'An image', mimeType: 'image/png' }, (uri) => ({
    contents: [{ uri: uri.href, mimeType: 'image/png', blob: PNG }],
  }));
  const template = new ResourceTemplate('test://template/{id}/data', { list: undefined });
  server.registerResource('template', template, { description: 'By id', mimeType: 'application/json' }, (uri, { id }) => {
    const body = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${String(id)}` });
    return { contents: [{ uri: uri.href, mimeType: 'application/json', text: body }] };
  });
}

function make(changed: (what: 'tools' | 'prompts') => void): McpServer {
  const server = new McpServer(
    { name: 'conformance-server', version: '1.0.0' },
    {
      capabilities: {
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { listChanged: true, subscribe: true },
        completions: {},
        logging: {},
      },
      requestState: { verify: state.verify },
    },
  );
  addContentTools(server);
  addTalkingTools(server);
  addElicitingTools(server);
  addRounds(server);
  addPrompts(server);
  addResources(server);
  for (const what of ['tools', 'prompts'] as const) {
    server.registerTool(`test_trigger_${what.slice(0, -1)}_change`, { description: `Says that ${what} changed` }, () => {
      changed(what);
      return text('It is announced.');
    });
  }
  return server;
}

/** The events of a session, so that a stream can be taken up again. */
class Events implements EventStore {
  readonly #events: { id: string; stream: string; message: JSONRPCMessage }[] = [];

  async storeEvent(stream: string, message: JSONRPCMessage): Promise<string> {
    const id = `${stream}_${this.#events.length}`;
    this.#events.push({ id, stream, message });
    return id;
  }

  async getStreamIdForEventId(id: string): Promise<string | undefined> {
    return this.#events.find((event) => event.id === id)?.stream;
  }

  async replayEventsAfter(id: string, { send }: { send: (id: string, message: JSONRPCMessage) => Promise<void> }): Promise<string> {
    const at = this.#events.findIndex((event) => event.id === id);
    const stream = this.#events[at]?.stream ?? '';
    for (const event of this.#events.slice(at + 1)) {
      // What primes a stream has no message.
      if (event.stream === stream && 'jsonrpc' in event.message) await send(event.id, event.message);
    }
    return stream;
  }
}

const modern = createMcpHandler(
  () => make((what) => (what === 'tools' ? modern.notify.toolsChanged() : modern.notify.promptsChanged())),
  { legacy: 'reject' },
);
const sessions = new Map<string, WebStandardStreamableHTTPServerTransport>();

/** Revision 2025-11-25: a server for each session. */
async function withSession(request: Request): Promise<Response> {
  const id = request.headers.get('mcp-session-id');
  const known = id === null ? undefined : sessions.get(id);
  if (known) return known.handleRequest(request);
  if (id !== null) {
    const error = { code: -32001, message: 'Session not found' };
    return Response.json({ jsonrpc: '2.0', id: null, error }, { status: 404 });
  }
  const transport = new WebStandardStreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (opened) => void sessions.set(opened, transport),
    onsessionclosed: (closed) => void sessions.delete(closed),
    eventStore: new Events(),
    retryInterval: 500,
  });
  const server = make((what) => (what === 'tools' ? server.sendToolListChanged() : server.sendPromptListChanged()));
  const accepted = async () => ({});
  server.server.setRequestHandler('resources/subscribe', accepted);
  server.server.setRequestHandler('resources/unsubscribe', accepted);
  await server.connect(transport);
  return transport.handleRequest(request);
}

async function answer(request: Request): Promise<Response> {
  const refused =
    hostHeaderValidationResponse(request, localhostAllowedHostnames()) ??
    originValidationResponse(request, localhostAllowedOrigins());
  if (refused) return refused;
  return (await isLegacyRequest(request)) ? withSession(request) : modern.fetch(request);
}

const http = createServer(toNodeHandler({ fetch: answer }));
http.listen(0, '127.0.0.1', () => {
  console.log(`conformance-server: listening on http://127.0.0.1:${(http.address() as AddressInfo).port}/mcp`);
});
