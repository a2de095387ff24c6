// The programs under test, started and stopped: each in its own process group, on a port that the kernel chooses, with
// a folder of its own, ended by its process id. Nothing waits for a time to pass: a condition is looked at until it
// holds or its deadline comes.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import Anthropic, { type ClientOptions } from '@anthropic-ai/sdk';

export const BINARY = process.env.OUTWORK_BINARY ?? fail('set OUTWORK_BINARY to the binary under test');
export const ADMIN_KEY = 'sk-ow-suite-0123456789abcdefghijklmnopqrstuvwxyz';
const PASSED_ON = ['PATH', 'LANG', 'TMPDIR', 'RUST_LOG', 'RUST_BACKTRACE'];
const START_MS = 30_000;
const STOP_MS = 20_000;
const WAIT_MS = 45_000;

export function fail(message: string): never {
  throw new Error(message);
}

/** Calls `look` until it gives something; fails with `what` when the deadline comes. */
export async function waitFor<T>(
  what: string,
  look: () => Promise<T | undefined | null | false> | T | undefined | null | false,
  ms = WAIT_MS,
): Promise<T> {
  const deadline = Date.now() + ms;
  for (let wait = 5; ; wait = Math.min(wait * 1.5, 100)) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) fail(`${what} did not come to be within ${ms / 1000} s`);
    await pause(wait);
  }
}

/** A running program whose output is kept and whose whole group ends with it. */
export class Program {
  output = '';
  readonly process: ChildProcess;
  readonly #home = mkdtempSync(path.join(tmpdir(), 'outwork-suite-home-'));

  constructor(command: string, args: string[], environment: Record<string, string> = {}) {
    const passed = Object.fromEntries(PASSED_ON.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
    this.process = spawn(command, args, {
      env: { ...passed, HOME: this.#home, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
  }

  get ended(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** The first match; fails with the whole output when the program ends or the deadline comes. */
  async line(pattern: RegExp): Promise<RegExpMatchArray> {
    const look = () => {
      const found = this.output.match(pattern);
      if (!found && this.ended) fail(`it ended; its output was:\n${this.output}`);
      return found;
    };
    return waitFor(`a line like ${pattern}`, look, START_MS);
  }

  /** Ends the program and what it started at once. */
  async kill(): Promise<void> {
    if (this.process.pid !== undefined) {
      try {
        process.kill(-this.process.pid, 'SIGKILL');
      } catch {
        // The group is already gone.
      }
    }
    await waitFor('the end of a killed program', () => this.ended, STOP_MS);
  }

  async close(): Promise<void> {
    if (!this.ended) {
      this.process.kill('SIGTERM');
      await waitFor('an end after SIGTERM', () => this.ended, STOP_MS).catch(() => undefined);
    }
    await this.kill();
    rmSync(this.#home, { recursive: true, force: true });
  }
}

/** The rehearsal model and a plane that speaks to it. */
export class Servers {
  readonly url: string;
  readonly client: Anthropic;
  readonly #programs: Program[];
  readonly #folder: string;

  private constructor(url: string, programs: Program[], folder: string) {
    this.url = url;
    this.#programs = programs;
    this.#folder = folder;
    this.client = new Anthropic({ baseURL: url, apiKey: ADMIN_KEY, maxRetries: 0, timeout: 30_000 });
  }

  /** With a settings file of this text, if there is one, and more flags. */
  static async start(settings?: string, flags: string[] = []): Promise<Servers> {
    // Credentials of the person who runs the suite must not get in.
    for (const name of Object.keys(process.env)) if (name.startsWith('ANTHROPIC_')) delete process.env[name];
    const folder = mkdtempSync(path.join(tmpdir(), 'outwork-suite-data-'));
    const rehearsal = new Program(BINARY, ['rehearsal', '--listen', '127.0.0.1:0']);
    const programs = [rehearsal];
    try {
      const model = (await rehearsal.line(/rehearsal: listening on (http:\S+)/))[1]!;
      const args = ['serve', '--listen', '127.0.0.1:0', '--data-dir', path.join(folder, 'data'), ...flags];
      if (settings !== undefined) {
        writeFileSync(path.join(folder, 'outwork.toml'), settings);
        args.push('--config', path.join(folder, 'outwork.toml'));
      }
      const plane = new Program(BINARY, args, {
        OUTWORK_API_KEY: ADMIN_KEY,
        OUTWORK_MODEL_BASE_URL: model,
        OUTWORK_MODEL_API_KEY: 'sk-rehearsal-suite',
      });
      programs.push(plane);
      return new Servers((await plane.line(/outwork: listening on (http\S+)/))[1]!, programs, folder);
    } catch (error) {
      for (const program of programs) await program.close();
      throw error;
    }
  }

  /** The published client with an environment key or a session's token. */
  bearer(token: string): Anthropic {
    const options: ClientOptions = { baseURL: this.url, apiKey: null, authToken: token, maxRetries: 0, timeout: 30_000 };
    return new Anthropic(options);
  }

  /** A file that is there as long as the servers are: where it is. */
  file(name: string, text: string): string {
    const file = path.join(this.#folder, name);
    writeFileSync(file, text);
    return file;
  }

  async close(): Promise<void> {
    for (const program of this.#programs.reverse()) await program.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The published `EnvironmentWorker` in a process of its own. */
export function worker(url: string, environmentId: string, key: string, workdir: string, maxIdleMs = 5000): Program {
  const script = fileURLToPath(new URL('./sdk-worker.ts', import.meta.url));
  const args = ['--disable-warning=ExperimentalWarning', script, url, environmentId, key, workdir, String(maxIdleMs)];
  return new Program(process.execPath, args);
}
