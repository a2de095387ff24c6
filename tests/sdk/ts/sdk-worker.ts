// Runs the published `EnvironmentWorker` of the TypeScript SDK as it is, until it is stopped.
// Arguments: base URL, environment id, environment key, working folder, idle milliseconds.
import Anthropic from '@anthropic-ai/sdk';

const [baseURL, environmentId, environmentKey, workdir, maxIdleMs] = process.argv.slice(2);
if (!baseURL || !environmentId || !environmentKey || !workdir || !maxIdleMs) throw new Error('five arguments are needed');
const stop = new AbortController();
for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort());
const client = new Anthropic({ baseURL, apiKey: null, authToken: environmentKey, logLevel: 'info' });
try {
  await client.beta.environments.work
    .worker({ environmentId, environmentKey, workdir, maxIdleMs: Number(maxIdleMs) })
    .run(stop.signal);
} catch (error) {
  if (!stop.signal.aborted) throw error;
}
