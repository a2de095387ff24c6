// Published MCP servers in a private network, called by sessions through a tunnel: `server-everything`, and
// `server-filesystem` behind a published bridge, because it speaks over standard input and output alone.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { ADMIN_KEY, BINARY, Program, Servers, waitFor } from './servers.ts';
import { call, fresh, message, MODEL, say, Session, texts } from './sessions.ts';

const EVERYTHING = fileURLToPath(import.meta.resolve('@modelcontextprotocol/server-everything/dist/index.js'));
const FILESYSTEM = fileURLToPath(import.meta.resolve('@modelcontextprotocol/server-filesystem/dist/index.js'));
const BRIDGE = path.join(path.dirname(EVERYTHING), '../../../mcp-proxy/dist/bin/mcp-proxy.mjs');
const CARD = '4111111111111111';

const folder = mkdtempSync(path.join(tmpdir(), 'outwork-suite-private-'));
const office = path.join(folder, 'gateway');
const files = path.join(folder, 'files');
const programs: Program[] = [];
let servers: Servers;
let domain: string;
let tunnelId: string;

/** A port that is free now. These servers cannot be given one that the kernel chooses. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

function start(command: string, args: string[], environment: Record<string, string> = {}): Program {
  const program = new Program(command, args, environment);
  programs.push(program);
  return program;
}

/** `outwork tunnel ...` to its end: what it said. */
async function tunnel(...words: string[]): Promise<string> {
  const environment = { OUTWORK_BASE_URL: servers.url, OUTWORK_API_KEY: ADMIN_KEY };
  const program = new Program(BINARY, ['tunnel', ...words, '--folder', office, '--json'], environment);
  try {
    await waitFor(`the end of tunnel ${words[0]}`, () => program.ended);
    assert.equal(program.process.exitCode, 0, program.output);
    return program.output;
  } finally {
    await program.close();
  }
}

interface Kept {
  tool?: string;
  session?: string;
  decision: string;
  rule: string;
  status?: number;
}

const records = async (session: Session): Promise<Kept[]> =>
  (await tunnel('records'))
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Kept)
    .filter((record) => record.session === session.id && record.tool !== undefined);

before(async () => {
  mkdirSync(files);
  writeFileSync(path.join(files, 'orders.txt'), `parcel 7 is late, paid with ${CARD}\n`);
  const everything = await freePort();
  const filesystem = await freePort();
  servers = await Servers.start(undefined, ['--tunnel-listen', '127.0.0.1:0']);
  const first = start(process.execPath, [EVERYTHING, 'streamableHttp'], { PORT: String(everything) });
  const bridge = ['--host', '127.0.0.1', '--port', String(filesystem), '--server', 'stream', '--'];
  const second = start(process.execPath, [BRIDGE, ...bridge, process.execPath, FILESYSTEM, files]);
  await first.line(/listening on port \d+/);
  await second.line(/starting server on port \d+/);
  const routes = ['--route', `everything=http://127.0.0.1:${everything}`, '--route', `files=http://127.0.0.1:${filesystem}`];
  const flags = ['--name', fresh('office'), '--allow', '127.0.0.1/32', '--health', '127.0.0.1:0', '--identity'];
  const made = JSON.parse((await tunnel('setup', ...flags, ...routes)).split('\n').find((line) => line.startsWith('{'))!);
  ({ domain, tunnel_id: tunnelId } = made);
  // The files may be read and not written, and what is in them must not all leave.
  const config = path.join(office, 'config.yaml');
  const rules = '"files":\n    tools: {read_only: true}\n    redact: [{detector: card_number, action: redact}]\n    url: ';
  const text = readFileSync(config, 'utf8');
  const changed = text.replace(/"files": (?="http)/, rules);
  assert.notEqual(changed, text, text);
  writeFileSync(config, changed);
  const gateway = start(BINARY, ['tunnel', 'run', '--folder', office]);
  await gateway.line(/gateway of/);
  await waitFor('two connections', async () => (await connections()).length === 2);
});
after(async () => {
  await servers?.close();
  for (const program of programs.reverse()) await program.close();
  rmSync(folder, { recursive: true, force: true });
});

async function connections(): Promise<{ transport: string; in_flight: number }[]> {
  const headers = { 'anthropic-beta': 'mcp-tunnels-2026-06-22' };
  const answer = await servers.client.get<{ data: { transport: string; in_flight: number }[] }>(
    `/v1/tunnels/${tunnelId}/connections`,
    { headers },
  );
  return answer.data;
}

/** A session whose agent has the server behind this route, and plays these steps to their end. */
async function play(route: string, ...steps: Parameters<typeof message>): Promise<Session> {
  const agent = await servers.client.beta.agents.create({
    name: fresh('agent'),
    model: MODEL,
    mcp_servers: [{ type: 'url', name: 'far', url: `https://${route}.${domain}/mcp` }],
    tools: [
      { type: 'mcp_toolset', mcp_server_name: 'far', default_config: { permission_policy: { type: 'always_allow' } } },
    ],
  });
  const session = await Session.make(servers, { agent: agent.id });
  await session.send(message(...steps));
  await session.finished();
  assert.deepEqual((await session.of('session.error')).map((event) => event.error.message), []);
  return session;
}

const answers = async (session: Session) =>
  (await session.of('agent.mcp_tool_result')).map((event) => ({ text: texts(event), failed: event.is_error, content: event.content }));

test('server-everything answers through the tunnel', async () => {
  const steps = [
    say([call('mcp__far__echo', { message: 'is anybody there?' }), call('mcp__far__get-sum', { a: 19, b: 23 })]),
    say([call('mcp__far__trigger-long-running-operation', { duration: 1, steps: 4 })]),
    say([call('mcp__far__get-tiny-image', {})]),
    'that is all',
  ];
  const session = await play('everything', ...steps);
  const given = await answers(session);
  assert.equal(given.length, 4);
  assert.ok(given.every((answer) => !answer.failed), JSON.stringify(given));
  const said = given.map((answer) => answer.text).join('\n');
  for (const part of ['is anybody there?', '42', 'Duration: 1']) assert.ok(said.includes(part), said);
  assert.ok(given[3]!.content?.some((block) => block.type === 'image'), 'the image comes whole');
  const kept = await records(session);
  assert.deepEqual(kept.map((record) => record.tool).sort(), ['echo', 'get-sum', 'get-tiny-image', 'trigger-long-running-operation']);
  assert.ok(kept.every((record) => record.decision === 'allowed' && record.status === 200), JSON.stringify(kept));
});

test('server-filesystem is read through the tunnel, by the rules of its route', async () => {
  const file = path.join(files, 'orders.txt');
  const session = await play('files', say([call('mcp__far__read_text_file', { path: file })]), 'late');
  const [answer] = await answers(session);
  assert.ok(answer && !answer.failed && answer.text.includes('parcel 7 is late'), JSON.stringify(answer));
  assert.ok(!JSON.stringify(await session.events()).includes(CARD), 'the number of the card has not left');
  assert.deepEqual((await records(session)).map((record) => [record.tool, record.decision]), [['read_text_file', 'allowed']]);
});

test('what writes is not offered', async () => {
  const file = path.join(files, 'new.txt');
  const unlisted = { tool_use: { name: 'mcp__far__write_file', input: { path: file, content: 'x' }, unlisted: true } };
  const session = await play('files', say([unlisted]), 'it would not');
  // The list lost it on the way, so the session knows no such tool of the server.
  const [use] = await session.of('agent.tool_use');
  assert.deepEqual([use?.name, use?.evaluated_permission], ['mcp__far__write_file', 'deny']);
  assert.ok(!existsSync(file));
});
