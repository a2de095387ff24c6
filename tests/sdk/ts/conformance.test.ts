// The protocol's own conformance suite against one server, reached directly and through a tunnel: edge, link, gateway.
// What the suite finds must be the same, check by check, for both revisions of the protocol.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { fail, Program, waitFor } from './servers.ts';

const SUITE = fileURLToPath(import.meta.resolve('@modelcontextprotocol/conformance/dist/index.js'));
const SERVER = fileURLToPath(new URL('./conformance-server.ts', import.meta.url));
/** `cargo build -p outwork-gateway --example entry` makes it, beside the binary under test. */
const ENTRY = process.env.OUTWORK_ENTRY ?? path.join(path.dirname(process.env.OUTWORK_BINARY ?? '.'), 'examples/entry');
const RUN_MS = 120_000;
/** How many checks there are at least, so that nothing passes because nothing ran. */
const REVISIONS = { '2026-07-28': 150, '2025-11-25': 75 } as const;
type Revision = keyof typeof REVISIONS;
/** The rules read every message, and none of them has anything against these. */
const RULES = ['tools: {deny: [there_is_none]}', 'redact: [{detector: all, action: redact, direction: both}]', 'response_max: 8MiB'];
const WAYS = { quic: ['quic'], tcp: ['tcp'], rules: ['quic', ...RULES] } as const;

interface Check {
  id: string;
  name: string;
  status: string;
  errorMessage?: string;
}

const folder = mkdtempSync(path.join(tmpdir(), 'outwork-suite-conformance-'));
const direct = {} as Record<Revision, Map<string, Check[]>>;
let server: Program;
let upstream: string;

/** What the suite finds at `url`: for each scenario its checks. */
async function examine(url: string, revision: Revision, name: string): Promise<Map<string, Check[]>> {
  const output = path.join(folder, name);
  const run = new Program(process.execPath, [SUITE, 'server', '--url', url, '--requirements', revision, '-o', output]);
  try {
    await waitFor(`the end of the suite for ${name}`, () => run.ended, RUN_MS);
    assert.equal(run.process.exitCode, 0, `the suite is not content with ${name}:\n${run.output.slice(-4000)}`);
  } finally {
    await run.close();
  }
  const found = new Map<string, Check[]>();
  for (const entry of readdirSync(output).sort()) {
    const scenario = entry.match(/^server-(.*)-\d{4}-\d{2}-\d{2}T/)?.[1] ?? fail(`what is ${entry}?`);
    const checks = JSON.parse(readFileSync(path.join(output, entry, 'checks.json'), 'utf8')) as Check[];
    // The rest is a log of what was sent, whose pieces depend on time.
    found.set(scenario, checks.filter((check) => check.status !== 'INFO'));
  }
  return found;
}

const shown = (checks: Check[] | undefined) => checks?.map((check) => `${check.status} ${check.id} ${check.name}`) ?? ['not run'];

/** A door into a tunnel to the server: where it is. */
async function door(args: readonly string[]): Promise<{ url: string; close: () => Promise<void> }> {
  // It ends with its standard input, so a shell holds that open.
  const program = new Program('/bin/sh', ['-c', 'sleep 600 | "$0" "$@"', ENTRY, new URL(upstream).origin, ...args]);
  const url = (await program.line(/entry: listening on (http:\S+)/))[1]!;
  return { url: `${url}${new URL(upstream).pathname}`, close: () => program.kill() };
}

before(async () => {
  assert.ok(existsSync(ENTRY), `${ENTRY} is not there: cargo build -p outwork-gateway --example entry, or set OUTWORK_ENTRY`);
  server = new Program(process.execPath, ['--disable-warning=ExperimentalWarning', SERVER]);
  upstream = (await server.line(/conformance-server: listening on (http:\S+)/))[1]!;
});
after(async () => {
  await server?.close();
  rmSync(folder, { recursive: true, force: true });
});

for (const revision of Object.keys(REVISIONS) as Revision[]) {
  test(`${revision}: the server conforms, reached directly`, async () => {
    direct[revision] = await examine(upstream, revision, `direct-${revision}`);
    const checks = [...direct[revision].values()].flat();
    assert.ok(checks.length >= REVISIONS[revision], `only ${checks.length} checks`);
    // Tasks are an extension that this server does not have; the suite says so and does not count it.
    const failed = [...direct[revision]].filter(([scenario]) => !scenario.startsWith('tasks-'));
    assert.deepEqual(failed.flatMap(([, all]) => all).filter((check) => check.status === 'FAILURE'), []);
  });

  for (const [way, args] of Object.entries(WAYS)) {
    test(`${revision}: the same through a tunnel (${way})`, async () => {
      const { url, close } = await door(args);
      try {
        const found = await examine(url, revision, `${way}-${revision}`);
        assert.deepEqual([...found.keys()], [...direct[revision].keys()]);
        for (const [scenario, checks] of direct[revision]) {
          const messages = found.get(scenario)?.map((check) => check.errorMessage).filter(Boolean).join('; ');
          assert.deepEqual(shown(found.get(scenario)), shown(checks), `${scenario} differs: ${messages}`);
        }
      } finally {
        await close();
      }
    });
  }
}
