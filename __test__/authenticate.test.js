'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { setImmediate: turn, setTimeout: sleep } = require('node:timers/promises');

const { VpnConfig, VpnServer } = require('../index.js');
const { rejectsWith } = require('./support/assertions.js');
const { SILENCE, fails, installFakeNative } = require('./support/fake-native.js');

const CONFIG = { listenAddr: '127.0.0.1:0', privateKey: 'a', publicKey: 'b', subnet: '10.8.0.0/24' };
const REQUEST = { token: 't', remoteAddr: '192.0.2.1:4711' };

/** A server that serves with `authenticate`, and its engine. */
async function serve(t, authenticate, answers) {
  const { engines } = installFakeNative({ answers });
  const server = new VpnServer();
  t.after(() => server.close());
  await server.start({ ...CONFIG, authenticate });
  return { server, engine: engines[0] };
}

/** Asks, and resolves with what is answered. */
async function ask(engine, id, request = REQUEST) {
  engine.ask(id, request);
  for (let tries = 0; tries < 100; tries++) {
    const verdict = engine.verdicts.find((given) => given.id === id);
    if (verdict) return verdict;
    await turn();
  }
  throw new Error('no answer');
}

test('the engine is told that there is a function, and the function what the engine asks', async (t) => {
  const asked = [];
  const { engine } = await serve(t, async ({ signal, ...request }) => {
    asked.push(request);
    assert.ok(signal instanceof AbortSignal);
    return { clientId: 'laptop', assignedIp: undefined, rateLimitBytesPerSec: 1e6 };
  });
  assert.deepEqual(engine.requests[0].params, { ...CONFIG, authenticate: true });
  const answer = { clientId: 'laptop', rateLimitBytesPerSec: 1e6 };
  assert.deepEqual(await ask(engine, 7), { id: 7, answer, failure: null });
  assert.deepEqual(asked, [REQUEST]);
});

test('null and undefined are a no, at once or later', async (t) => {
  for (const authenticate of [() => null, () => {}, async () => null, async () => {}]) {
    const { engine } = await serve(t, authenticate);
    assert.deepEqual(await ask(engine, 1), { id: 1, answer: null, failure: null });
  }
});

test('what is thrown, and what is no answer, is a no with its reason', async (t) => {
  for (const [authenticate, words] of [
    [() => fails('x', 'the database is away'), /^the database is away$/],
    [() => Promise.reject(new Error('later')), /^later$/],
    [() => Promise.reject(), /undefined/], // oxlint-disable-line prefer-promise-reject-errors
    [() => Promise.reject(Object.create(null)), /no message/],
    [() => true, /must be an object or null, not a boolean/],
    [() => 'laptop', /not a string/],
    [() => [{ clientId: 'x' }], /not an array/],
    [() => ({ clientId: () => 'x' }), /^clientId cannot be a function$/],
    [() => Promise.reject(new Error('x'.repeat(5000))), /^x{1000}$/],
  ]) {
    const { engine } = await serve(t, authenticate);
    const { answer, failure } = await ask(engine, 1);
    assert.equal(answer, null);
    assert.match(failure, words);
  }
});

test('a question that is taken back aborts its signal, and its answer is not told', async (t) => {
  const signals = [];
  const { engine } = await serve(t, async ({ signal }) => {
    signals.push(signal);
    await sleep(20);
    return { clientId: 'late' };
  });
  engine.ask(1, REQUEST);
  engine.ask(2, REQUEST);
  engine.ask(1, null);
  engine.ask(9, null);
  assert.deepEqual(
    signals.map(({ aborted }) => aborted),
    [true, false],
  );
  assert.equal(signals[0].reason.code, 'aborted');
  await sleep(50);
  assert.deepEqual(
    engine.verdicts.map(({ id }) => id),
    [2],
  );
});

test('close() takes all questions back', async (t) => {
  let asked;
  const { server, engine } = await serve(t, ({ signal }) => {
    asked = signal;
    return new Promise(() => {});
  });
  engine.ask(1, REQUEST);
  await server.close();
  assert.equal(asked.aborted, true);
  engine.ask(2, REQUEST);
  assert.deepEqual(engine.verdicts, []);
});

test('the function is that of the configuration that serves', async (t) => {
  const named = (clientId) => () => ({ clientId });
  const { server, engine } = await serve(t, named('first'));
  await rejectsWith(server.start({ ...CONFIG, authenticate: named('second') }), 'already-running');
  assert.equal((await ask(engine, 1)).answer.clientId, 'first');
  await server.stopServer();
  await server.start();
  assert.equal((await ask(engine, 2)).answer.clientId, 'second', 'the configuration given last');
});

test('a start() that is under way does not change it', async (t) => {
  let starts = 0;
  const answers = {
    start(engine) {
      if (++starts > 1) return SILENCE;
      engine.status('connected');
      return null;
    },
  };
  const { server, engine } = await serve(t, () => ({ clientId: 'first' }), answers);
  server.start({ ...CONFIG, authenticate: () => ({ clientId: 'second' }) }).catch(() => {});
  assert.equal((await ask(engine, 1)).answer.clientId, 'first');
});

test('only a function of this process will do', async (t) => {
  const { validations } = installFakeNative();
  const authenticate = () => null;
  const details = { path: 'authenticate' };
  for (const transport of [{ transport: 'stdio' }, { transport: 'socket', socketPath: '/x.sock' }]) {
    const refusal = { code: 'invalid-config', ...details, message: /only a server in this process/ };
    assert.throws(() => new VpnServer({ transport, config: { ...CONFIG, authenticate } }), refusal);
    const server = new VpnServer({ transport });
    await assert.rejects(server.start({ ...CONFIG, authenticate }), refusal);
    await server.close();
  }
  for (const value of [true, 'x', null, {}]) {
    const server = new VpnServer();
    t.after(() => server.close());
    const refusal = { code: 'invalid-config', ...details, message: /must be a function/ };
    await assert.rejects(server.start({ ...CONFIG, authenticate: value }), refusal);
    assert.throws(() => VpnConfig.validateServerConfig({ ...CONFIG, authenticate: value }), refusal);
  }
  VpnConfig.validateServerConfig({ ...CONFIG, authenticate });
  assert.deepEqual(validations, [{ mode: 'server', config: { ...CONFIG, authenticate: true } }]);
  await rejectsWith(VpnConfig.saveToFile('x.json', { ...CONFIG, authenticate }), 'invalid-config');
});
