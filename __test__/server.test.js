'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const { VpnServer } = require('../index.js');
const { record, rejectsWith } = require('./support/assertions.js');
const { INVITE, KEYS, SILENCE, fails, installFakeNative } = require('./support/fake-native.js');

const CONFIG = { listenAddr: '127.0.0.1:0', privateKey: 'a', publicKey: 'b', subnet: '10.8.0.0/24' };

/** A server, not started, closed with the test. */
function makeServer(t, { answers, ...options } = {}) {
  const { engines } = installFakeNative({ answers });
  const server = new VpnServer(options);
  t.after(() => server.close());
  return { server, engines };
}

test('start() without a configuration starts the engine only', async (t) => {
  const { server, engines } = makeServer(t);
  assert.equal(await server.start(), undefined);
  assert.equal(await server.start(), undefined);
  assert.equal(server.running, true);
  assert.deepEqual(engines[0].methods, []);
  assert.deepEqual(await server.generateKeypair(), KEYS);
  assert.equal(engines[0].mode, 'server');
});

test('start() serves with the configuration given, else the last one', async (t) => {
  const { server, engines } = makeServer(t, { config: CONFIG });
  const other = { ...CONFIG, subnet: '10.9.0.0/24' };
  await server.start();
  await server.stopServer();
  await server.start(other);
  await server.stopServer();
  await server.start();
  assert.deepEqual(
    engines[0].requests.filter(({ method }) => method === 'start').map(({ params }) => params.subnet),
    ['10.8.0.0/24', '10.9.0.0/24', '10.9.0.0/24'],
  );
});

test('start() while serving rejects already-running, and the server goes on', async (t) => {
  const { server, engines } = makeServer(t, { config: CONFIG });
  const events = record(server, 'exit');
  await server.start();
  await rejectsWith(server.start(), 'already-running');
  await rejectsWith(server.start(CONFIG), 'already-running');
  assert.equal(server.running, true);
  assert.equal(engines.length, 1);
  assert.deepEqual(events, []);
});

test('a start() that fails leaves no engine that it has started, and no exit', async (t) => {
  const { server, engines } = makeServer(t, {
    answers: {
      start(engine) {
        engine.status('connecting');
        fails('address-in-use', 'The port is taken.');
      },
    },
  });
  const events = record(server, 'exit');
  await rejectsWith(server.start(CONFIG), 'address-in-use');
  assert.equal(server.running, false);
  assert.deepEqual(engines[0].methods, ['start', 'shutdown']);
  await rejectsWith(server.start(), 'address-in-use');
  assert.equal(engines.length, 2);
  assert.deepEqual(events, []);
  assert.equal(process.listenerCount('SIGTERM'), 0);
});

test('a start() that fails leaves the engine that ran before', async (t) => {
  const { server, engines } = makeServer(t, { answers: { start: () => fails('permission-denied') } });
  const events = record(server, 'exit');
  await server.start();
  await rejectsWith(server.start(CONFIG), 'permission-denied');
  assert.equal(server.running, true);
  assert.deepEqual(await server.listClients(), []);
  await server.close();
  assert.equal(engines.length, 1);
  assert.equal(events.length, 1);
});

test('a start() that fails while another is under way leaves the engine to that', async (t) => {
  let calls = 0;
  const { server, engines } = makeServer(t, {
    answers: {
      start(engine) {
        if (++calls === 1) fails('address-in-use');
        engine.status('connected');
      },
    },
  });
  const first = server.start(CONFIG);
  const second = server.start(CONFIG);
  await rejectsWith(first, 'address-in-use');
  await second;
  assert.equal(engines.length, 1);
  assert.equal(server.running, true);
});

test('stop() during start(config) makes that reject aborted, without an exit', async (t) => {
  const { server, engines } = makeServer(t, { answers: { start: () => SILENCE } });
  const events = record(server, 'exit');
  const start = server.start(CONFIG);
  await sleep(10);
  assert.deepEqual(engines[0].methods, ['start']);
  server.stop();
  await rejectsWith(start, 'aborted');
  await server.close();
  assert.deepEqual(events, []);
});

test('every method rejects not-running before start()', async (t) => {
  const { server } = makeServer(t);
  for (const call of [
    server.stopServer(),
    server.getStatus(),
    server.getStatistics(),
    server.listClients(),
    server.disconnectClient('c1'),
    server.generateKeypair(),
    server.setClientRateLimit('c1', 1000, 65536),
    server.removeClientRateLimit('c1'),
    server.getClientTelemetry('c1'),
    server.addClient({ id: 'c1' }),
    server.updateClient('c1', {}),
    server.removeClient('c1'),
    server.listRegisteredClients(),
    server.createInvite(),
  ]) {
    await rejectsWith(call, 'not-running');
  }
});

test('the methods about one client name it', async (t) => {
  const { server, engines } = makeServer(t);
  await server.start();
  assert.equal(await server.disconnectClient('c1'), undefined);
  assert.deepEqual(await server.getClientTelemetry('c2'), { clientId: 'c2' });
  assert.equal(await server.setClientRateLimit('c3', 10 ** 11, 65536), undefined);
  assert.equal(await server.removeClientRateLimit('c4'), undefined);
  assert.deepEqual(
    engines[0].requests.map(({ method, params }) => [method, params]),
    [
      ['disconnectClient', { id: 'c1' }],
      ['getClientTelemetry', { id: 'c2' }],
      ['setClientRateLimit', { id: 'c3', rateBytesPerSec: 10 ** 11, burstBytes: 65536 }],
      ['removeClientRateLimit', { id: 'c4' }],
    ],
  );
});

test('wrong arguments reject invalid-argument before anything is asked', async (t) => {
  const { server, engines } = makeServer(t);
  await server.start();
  for (const call of [
    server.disconnectClient(),
    server.disconnectClient(''),
    server.disconnectClient({ id: 'c1' }),
    server.getClientTelemetry(7),
    server.removeClientRateLimit(null),
    server.setClientRateLimit('c1', '1000', 65536),
    server.setClientRateLimit('c1', 1000.5, 65536),
    server.setClientRateLimit('c1', 1000, NaN),
    server.setClientRateLimit('c1', 1000),
    server.addClient(),
    server.addClient('c1'),
    server.addClient({ id: 'c1', publicKey: () => {} }),
    server.updateClient('c1'),
    server.updateClient({ id: 'c1' }),
    server.removeClient(),
    server.createInvite(null),
    server.createInvite({ expiresIn: 60 }),
    server.createInvite({ uses: NaN }),
  ]) {
    await rejectsWith(call, 'invalid-argument');
  }
  await rejectsWith(server.start(7), 'invalid-config');
  assert.deepEqual(engines[0].methods, []);
});

test('what the engine refuses is rejected with its code', async (t) => {
  const answers = {
    setClientRateLimit: () => fails('invalid-argument', 'rateBytesPerSec: the rate must be more'),
    removeClientRateLimit: () => fails('unknown-client', 'nobody'),
  };
  const { server } = makeServer(t, { answers });
  await server.start();
  await rejectsWith(server.setClientRateLimit('c1', 999, 65536), 'invalid-argument', /rateBytesPerSec/);
  await rejectsWith(server.removeClientRateLimit('c1'), 'unknown-client');
});

test('clients are registered, changed and removed as the program says', async (t) => {
  const { server, engines } = makeServer(t);
  await server.start();
  const client = { id: 'laptop', publicKey: KEYS.publicKey, name: undefined, maxSessions: 2 };
  const registered = { id: 'laptop', publicKey: KEYS.publicKey, maxSessions: 2, online: false };
  assert.deepEqual(await server.addClient(client), registered);
  const changes = { disabled: true, expiresAt: null };
  assert.deepEqual(await server.updateClient('laptop', changes), { id: 'laptop', ...changes, online: false });
  assert.equal(await server.removeClient('laptop'), undefined);
  assert.deepEqual(await server.listRegisteredClients(), []);
  assert.deepEqual(await server.createInvite(), INVITE);
  await server.createInvite({
    name: 'phone',
    expiresInSecs: 60,
    uses: 3,
    serverUrl: 'wss://vpn.example.com/',
  });
  assert.deepEqual(
    engines[0].requests.map(({ method, params }) => [method, params]),
    [
      ['addClient', { id: 'laptop', publicKey: KEYS.publicKey, maxSessions: 2 }],
      ['updateClient', { id: 'laptop', changes }],
      ['removeClient', { id: 'laptop' }],
      ['listRegisteredClients', null],
      ['createInvite', {}],
      ['createInvite', { name: 'phone', expiresInSecs: 60, uses: 3, serverUrl: 'wss://vpn.example.com/' }],
    ],
  );
});

test('events are passed on under their names, and no others', async (t) => {
  const { server, engines } = makeServer(t);
  await server.start();
  const told = [
    ['client-connected', { clientId: 'c1' }],
    ['client-resumed', { clientId: 'c1' }],
    ['client-disconnected', { clientId: 'c1', reason: 'kicked' }],
    ['warning', { code: 'nat-unavailable', message: 'x' }],
    ['status', { state: 'connected' }],
    ['log', { level: 'info' }],
    ['lost', { count: 1 }],
  ];
  const events = record(server, ...told.map(([name]) => name), 'quality', 'error');
  for (const [name, data] of told) engines[0].event(name, data);
  engines[0].event('quality', {});
  engines[0].event('error', {});
  assert.deepEqual(events, told);
});
