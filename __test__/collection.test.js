'use strict';

/** What garbage collection takes and what it must not, with the real addon; no root is needed. */

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { test } = require('node:test');

const { findAddon } = require('../lib/platform.js');
const { ROOT } = require('./support/child.js');

const PREAMBLE = `
  'use strict';
  const { readdirSync, writeSync } = require('node:fs');
  const { setImmediate: turn, setTimeout: sleep } = require('node:timers/promises');
  const { VpnClient, VpnServer } = require('./index.js');
  const say = (value) => writeSync(1, JSON.stringify(value) + '\\n');
  const count = () => ({
    threads: readdirSync('/proc/self/task').length,
    descriptors: readdirSync('/proc/self/fd').length,
  });
  /** The same, once it changes no more: threads end a moment after what they served. */
  async function settled() {
    for (let last; ; await sleep(200)) {
      const now = count();
      if (last?.threads === now.threads && last.descriptors === now.descriptors) return now;
      last = now;
    }
  }
  let collected = 0;
  const registry = new FinalizationRegistry(() => collected++);
  /** Objects are collected in a turn of the event loop after the one that let go of them. */
  async function collect(done = () => false) {
    for (let round = 0; round < 500 && !done(); round++) {
      await sleep(10);
      gc();
      await turn();
    }
  }
`;

function needsAddon() {
  try {
    findAddon();
    return false;
  } catch (error) {
    return error.message;
  }
}
const options = { skip: needsAddon() };

/** Runs `source` in a process of its own and resolves with what it said, when it has ended by itself. */
async function run(source) {
  const child = spawn(process.execPath, ['--expose-gc', '-e', `${PREAMBLE}(async () => {${source}})();`], {
    cwd: ROOT,
    timeout: 60_000,
    killSignal: 'SIGKILL',
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  const [code, signal] = await once(child, 'close');
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, stdout + stderr);
  return stdout.split('\n').filter(Boolean).map(JSON.parse);
}

test('an idle object that nobody knows is collected, with all that it had', options, async () => {
  const [result] = await run(`
    const start = async (Vpn) => {
      const vpn = new Vpn();
      vpn.on('status', () => vpn.running);
      vpn.on('exit', () => vpn.running);
      await vpn.start();
      registry.register(vpn);
    };
    for (const Vpn of [VpnClient, VpnServer]) await start(Vpn);
    await collect(() => collected === 2);
    const before = await settled();
    for (let index = 0; index < 100; index++) await start(index % 2 ? VpnClient : VpnServer);
    await collect(() => collected === 102 && process.listenerCount('exit') === 0);
    say({ collected, before, after: await settled(), listeners: process.listenerCount('exit') });
  `);
  assert.equal(result.collected, 102);
  assert.deepEqual(result.after, result.before);
  assert.equal(result.listeners, 0);
});

test('so are objects that were stopped, at once or after calls', options, async () => {
  const [result] = await run(`
    const startAndStop = async () => {
      const server = new VpnServer();
      await server.start();
      await server.generateKeypair();
      const client = new VpnClient();
      await client.start();
      registry.register(server);
      registry.register(client);
      await Promise.all([server.close(), client.close()]);
    };
    for (let index = 0; index < 20; index++) await startAndStop();
    await collect(() => collected === 40);
    say({ collected });
  `);
  assert.equal(result.collected, 40);
});

test('a call in flight is answered, though only the call is waited for', options, async () => {
  const [results] = await run(`
    const generate = async () => {
      const server = new VpnServer();
      registry.register(server);
      await server.start();
      const answer = server.generateKeypair();
      return answer;
    };
    const answers = Promise.all(Array.from({ length: 50 }, generate));
    for (let round = 0; round < 20; round++) { gc(); await turn(); }
    const keys = await answers;
    await collect(() => collected === 50);
    say({ keys: keys.filter(({ publicKey }) => publicKey).length, collected });
  `);
  assert.deepEqual(results, { keys: 50, collected: 50 });
});

test('a client that connects is kept, and its events come, until it is idle', options, async () => {
  const [told, after] = await run(`
    const silent = require('node:net').createServer(() => {});
    await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const states = [];
    const connect = async () => {
      const { publicKey } = await (async () => {
        const server = new VpnServer();
        await server.start();
        return server.generateKeypair().finally(() => server.close());
      })();
      const client = new VpnClient();
      registry.register(client);
      client.on('status', ({ state }) => states.push([state, collected]));
      await client.start();
      client.connect({
        serverUrl: 'ws://127.0.0.1:' + silent.address().port + '/',
        serverPublicKey: publicKey,
        connectTimeoutMs: 1000,
        stateDir: null,
      }).catch(({ code }) => states.push([code, collected]));
    };
    await connect();
    await collect(() => collected === 1);
    say(states);
    silent.close();
    say(collected);
  `);
  // The answer and the last state come by ways of their own, in either order.
  const said = told.map(([what]) => what);
  assert.deepEqual(said.toSorted(), ['connecting', 'disconnected', 'timeout'], `${said}`);
  assert.ok(told.every(([, gone]) => gone === 0));
  assert.equal(after, 1);
});
