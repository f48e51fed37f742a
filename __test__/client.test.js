'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { resolve } = require('node:path');
const { test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');
const { pathToFileURL } = require('node:url');

const { VpnClient, VpnError } = require('../index.js');
const { record, rejectsWith } = require('./support/assertions.js');
const { SILENCE, fails, installFakeNative } = require('./support/fake-native.js');

const CONFIG = { serverUrl: 'ws://192.0.2.1/', serverPublicKey: 'key' };

/** A client that runs, closed with the test. */
async function started(t, { answers, ...options } = {}) {
  const { engines } = installFakeNative({ answers });
  const client = new VpnClient({ config: CONFIG, ...options });
  t.after(() => client.close());
  assert.equal(await client.start(), true);
  return { client, engine: engines[0], engines };
}

test('start() makes one engine, and is true when it runs already', async (t) => {
  const { client, engines } = await started(t);
  assert.equal(client.running, true);
  assert.equal(await client.start(), true);
  assert.equal(engines.length, 1);
  assert.equal(engines[0].mode, 'client');
});

test('calls of start() at the same time make one engine', async (t) => {
  const { engines } = installFakeNative();
  const client = new VpnClient();
  t.after(() => client.close());
  assert.deepEqual(await Promise.all([client.start(), client.start()]), [true, true]);
  assert.equal(engines.length, 1);
});

test('every method rejects not-running before start() and after stop()', async (t) => {
  const { client } = await started(t);
  await client.close();
  for (const object of [client, new VpnClient({ config: CONFIG })]) {
    assert.equal(object.running, false);
    for (const method of [
      'connect',
      'disconnect',
      'getStatus',
      'getStatistics',
      'getConnectionQuality',
      'getMtuInfo',
    ]) {
      await rejectsWith(object[method](), 'not-running', /start\(\)/);
    }
  }
});

test('the methods ask the engine for what they are named after', async (t) => {
  const { client, engine } = await started(t);
  assert.deepEqual(await client.connect(), { assignedIp: '10.8.0.2' });
  assert.deepEqual(await client.getStatus(), { state: 'connected' });
  assert.deepEqual(await client.getStatistics(), { bytesSent: 1 });
  assert.deepEqual(await client.getConnectionQuality(), { srttMs: 1 });
  assert.deepEqual(await client.getMtuInfo(), { tunMtu: 1420 });
  assert.equal(await client.disconnect(), undefined);
  assert.equal(await client.disconnect(), undefined);
  assert.deepEqual(engine.methods, [
    'connect',
    'getStatus',
    'getStatistics',
    'getConnectionQuality',
    'getMtuInfo',
    'disconnect',
    'disconnect',
  ]);
});

test('the configuration given to connect() replaces the one before, whole', async (t) => {
  const { client, engine } = await started(t, { answers: { connect: () => ({}) } });
  const other = { serverUrl: 'ws://192.0.2.2/', serverPublicKey: 'other', mtu: 1300 };
  await client.connect();
  await client.connect({ ...other, dns: undefined });
  await client.connect();
  assert.deepEqual(
    engine.requests.map(({ params }) => params),
    [CONFIG, other, other],
  );
});

test('the configuration is copied: what happens to the object later changes nothing', async (t) => {
  const config = { ...CONFIG, dns: ['192.0.2.53'] };
  const { client, engine } = await started(t, { config });
  config.dns.push('192.0.2.54');
  await client.connect();
  assert.deepEqual(engine.requests[0].params.dns, ['192.0.2.53']);
});

test('what JSON cannot say is invalid-config, with its path', async (t) => {
  const { client } = await started(t);
  const cycle = {};
  cycle.self = cycle;
  for (const [members, path] of [
    [{ authenticate() {} }, 'authenticate'],
    [{ mtu: NaN }, 'mtu'],
    [{ mtu: 1420n }, 'mtu'],
    [{ dns: [undefined] }, 'dns[0]'],
    [{ reconnect: { baseDelayMs: Infinity } }, 'reconnect.baseDelayMs'],
  ]) {
    await assert.rejects(client.connect({ ...CONFIG, ...members }), { code: 'invalid-config', path });
  }
  await rejectsWith(client.connect(cycle), 'invalid-config', /contains itself/);
  await rejectsWith(client.connect('ws://192.0.2.1/'), 'invalid-config', /must be an object/);
  await rejectsWith(client.connect(null), 'invalid-config', /must be an object/);
});

test('connect() without any configuration says so', async (t) => {
  const { client } = await started(t, { config: undefined });
  await rejectsWith(client.connect(), 'invalid-config', /no configuration/);
});

test('wrong arguments are invalid-argument, thrown by the constructor and rejected by connect()', async (t) => {
  for (const options of [
    null,
    'inprocess',
    { transprot: {} },
    { transport: 'inprocess' },
    { transport: { transport: 'pigeon' } },
    { transport: { transport: 'toString' } },
    { transport: { transport: 'inprocess', socketPath: '/x' } },
    { transport: { transport: 'stdio', daemonPath: 7 } },
    { transport: { transport: 'socket' } },
    { transport: { transport: 'socket', socketPath: '/x', maxReconnectAttempts: -1 } },
    { transport: { transport: 'socket', socketPath: '/x', autoReconnect: 'yes' } },
  ]) {
    assert.throws(() => new VpnClient(options), { name: 'VpnError', code: 'invalid-argument' });
  }
  const { client } = await started(t);
  for (const options of [null, 7, { signals: 1 }, { signal: 'now' }, { signal: {} }]) {
    await rejectsWith(client.connect(CONFIG, options), 'invalid-argument');
  }
});

test('an engine that cannot be made rejects start(), and leaves nothing running', async () => {
  const refusal = Object.assign(new Error('no such thing'), { code: 'permission-denied' });
  installFakeNative({ refuse: refusal });
  const client = new VpnClient();
  const events = record(client, 'exit');
  await rejectsWith(client.start(), 'permission-denied', /no such thing/);
  assert.equal(client.running, false);
  installFakeNative({ refuse: Object.assign(new Error('bad napi call'), { code: 'InvalidArg' }) });
  await rejectsWith(client.start(), 'internal', /could not be started/);
  assert.deepEqual(events, []);
});

test('a failure of the engine rejects with its code, path, message and cause, and says who asked', async (t) => {
  const body = { path: 'serverUrl', cause: 'os error 111' };
  const { client } = await started(t, {
    answers: { getStatus: () => fails('connection-refused', 'The port is closed.', body) },
  });
  async function whoAsked() {
    return client.getStatus();
  }
  await assert.rejects(whoAsked(), (error) => {
    assert.equal(error.code, 'connection-refused');
    assert.equal(error.message, 'The port is closed.');
    assert.equal(error.path, 'serverUrl');
    assert.equal(error.cause.message, 'os error 111');
    assert.match(error.stack, /^VpnError: The port is closed\.\n[^]*whoAsked/);
    return true;
  });
});

test('events are passed on under their names, and no others', async (t) => {
  const { client, engine } = await started(t);
  const events = record(client, 'status', 'quality', 'log', 'lost', 'error', 'warning', 'client-connected');
  const told = [
    ['status', { state: 'connecting' }],
    ['quality', { srttMs: 3 }],
    ['log', { level: 'info', message: 'hello' }],
    ['lost', { count: 2 }],
  ];
  for (const [name, data] of told) engine.event(name, data);
  engine.event('error', { message: 'no event has this name' });
  engine.event('client-connected', { clientId: 'for servers only' });
  assert.deepEqual(events, told);
});

test('stop() rejects the calls in flight, ends the events, and tells exit once', async (t) => {
  const { client, engine } = await started(t, {
    answers: { connect: () => SILENCE, getStatus: () => SILENCE },
  });
  const events = record(client, 'status', 'exit');
  const calls = [client.connect(), client.getStatus()];
  const before = performance.now();
  client.stop();
  assert.ok(performance.now() - before < 100);
  client.stop();
  assert.equal(client.running, false);
  for (const call of calls) await rejectsWith(call, 'aborted');
  engine.event('status', { state: 'disconnected' });
  await client.close();
  await client.close();
  await sleep(20);
  assert.deepEqual(events, [['exit', { code: 0, signal: null }]]);
  assert.equal(engine.methods.filter((method) => method === 'shutdown').length, 1);
});

test('close() resolves when the engine has put everything back, after exit', async (t) => {
  const { client, engine } = await started(t, { answers: { shutdown: () => SILENCE } });
  const order = [];
  client.on('exit', () => order.push('exit'));
  const closed = client.close().then(() => order.push('closed'));
  await sleep(20);
  assert.deepEqual(order, []);
  engine.answer(engine.requests.at(-1).id, true, null);
  await closed;
  assert.deepEqual(order, ['exit', 'closed']);
});

test('close() before start(), and an asynchronous disposal, do what they should', async (t) => {
  await new VpnClient().close();
  const { client } = await started(t);
  const exited = once(client, 'exit');
  await client[Symbol.asyncDispose]();
  assert.deepEqual(await exited, [{ code: 0, signal: null }]);
});

test('a shutdown that fails is made good by the synchronous undo', async (t) => {
  const { client, engine } = await started(t, { answers: { shutdown: () => fails('internal', 'stuck') } });
  const events = record(client, 'exit');
  await client.close();
  assert.equal(engine.undone.length, 1);
  assert.deepEqual(events, [['exit', { code: 0, signal: null }]]);
});

test('a host that could not be put back is told by close() and exit', async () => {
  const { engines } = installFakeNative({ answers: { shutdown: () => fails('internal', 'stuck') } });
  const client = new VpnClient();
  const events = record(client, 'exit');
  await client.start();
  engines[0].undo = () => false;
  await rejectsWith(client.close(), 'internal', /stuck/);
  assert.equal(events[0][1].code, 1);
  assert.equal(events[0][1].error.code, 'internal');
  assert.equal(await client.start(), true);
  client.stop();
  await once(client, 'exit');
});

test('start() after stop() makes a new engine, once the one before has let go', async () => {
  const shutdowns = [];
  const answers = {
    shutdown(engine, _, id) {
      shutdowns.push(() => engine.answer(id, true, null));
      return SILENCE;
    },
  };
  const { engines } = installFakeNative({ answers });
  const client = new VpnClient({ config: CONFIG });
  const events = record(client, 'exit');
  await client.start();
  client.stop();
  const again = client.start();
  await sleep(20);
  assert.equal(engines.length, 1);
  shutdowns[0]();
  assert.equal(await again, true);
  assert.equal(engines.length, 2);
  assert.equal(events.length, 1);
  await client.connect();
  const closed = client.close();
  await sleep(20);
  shutdowns[1]();
  await closed;
  assert.equal(events.length, 2);
});

test('stop() during start() makes that reject aborted, without an exit', async () => {
  const { engines } = installFakeNative();
  const client = new VpnClient();
  const events = record(client, 'exit');
  const start = client.start();
  client.stop();
  await rejectsWith(start, 'aborted');
  await client.close();
  assert.equal(client.running, false);
  assert.deepEqual(engines, []);
  assert.deepEqual(events, []);

  const first = client.start();
  client.stop();
  const second = client.start();
  await rejectsWith(first, 'aborted');
  assert.equal(await second, true);
  await client.close();
  assert.equal(events.length, 1);
});

test('whenever stop() comes, each engine that was made is ended, and told by exit if start() resolved', async () => {
  for (let turns = 0; turns < 12; turns++) {
    const { engines } = installFakeNative();
    const client = new VpnClient();
    const events = record(client, 'exit');
    const start = client.start().then(
      () => true,
      () => false,
    );
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    await client.close();
    assert.equal(client.running, false);
    assert.ok(
      engines.every(({ methods }) => methods.join() === 'shutdown'),
      `after ${turns} turns`,
    );
    assert.equal(events.length, (await start) ? 1 : 0, `after ${turns} turns`);
  }
});

test('an engine that fails tells exit with the error, and rejects the calls in flight', async (t) => {
  const { client, engine } = await started(t, { answers: { getStatus: () => SILENCE } });
  const events = record(client, 'exit');
  const call = client.getStatus();
  engine.event('exit', { code: 'internal', message: 'a task panicked' });
  await rejectsWith(call, 'internal', /panicked/);
  assert.equal(client.running, false);
  assert.equal(engine.undone.length, 1);
  assert.equal(events.length, 1);
  const [[, { code, signal, error }]] = events;
  assert.deepEqual({ code, signal }, { code: 1, signal: null });
  assert.equal(error.code, 'internal');
  assert.ok(error instanceof VpnError);
  await client.close();
  assert.equal(events.length, 1);
  assert.equal(await client.start(), true);
});

test('a signal aborted before connect() keeps the engine out of it', async (t) => {
  const { client, engine } = await started(t);
  const reason = new Error('changed my mind');
  await assert.rejects(client.connect(CONFIG, { signal: AbortSignal.abort(reason) }), {
    code: 'aborted',
    cause: reason,
  });
  assert.deepEqual(engine.methods, []);
});

test('an abort during connect() disconnects, and rejects with the reason', async (t) => {
  let connecting;
  const { client, engine } = await started(t, {
    answers: {
      connect(native, _, id) {
        native.status('connecting');
        connecting = id;
        return SILENCE;
      },
      disconnect(native) {
        native.answer(connecting, false, { code: 'aborted', message: 'disconnected' });
        native.status('disconnected');
      },
    },
  });
  const abort = new AbortController();
  const connected = client.connect(undefined, { signal: abort.signal });
  await once(client, 'status');
  abort.abort('too slow');
  await assert.rejects(connected, { code: 'aborted', cause: 'too slow' });
  assert.deepEqual(engine.methods, ['connect', 'disconnect']);
  assert.equal((await client.getStatus()).state, 'disconnected');
});

test('an abort that comes when the tunnel has just come up takes it down again', async (t) => {
  const abort = new AbortController();
  const { client, engine } = await started(t, {
    answers: {
      connect(native) {
        native.status('connected');
        native.event('log', {});
        return {};
      },
    },
  });
  client.once('log', () => abort.abort());
  await rejectsWith(client.connect(CONFIG, { signal: abort.signal }), 'aborted');
  assert.deepEqual(engine.methods, ['connect', 'disconnect']);
});

test('an abort of a connect() that found a tunnel up leaves it alone', async (t) => {
  const { client, engine } = await started(t);
  await client.connect();
  const abort = new AbortController();
  const second = client.connect(CONFIG, { signal: abort.signal });
  abort.abort();
  await rejectsWith(second, 'aborted');
  assert.deepEqual(engine.methods, ['connect', 'connect']);
  assert.equal(engine.state, 'connected');
});

test('after connect() the signal has no listener left and no effect', async (t) => {
  const { client, engine } = await started(t);
  const abort = new AbortController();
  await client.connect(CONFIG, { signal: abort.signal });
  abort.abort();
  await sleep(20);
  assert.deepEqual(engine.methods, ['connect']);
});

test('lost events make the state be asked for', async (t) => {
  const { client, engine } = await started(t);
  await client.connect();
  engine.state = 'error';
  engine.event('lost', { count: 9 });
  await sleep(20);
  assert.equal(engine.methods.at(-1), 'getStatus');
  assert.equal(process.listenerCount('SIGTERM'), 0);
});

test('join() is the addon’s, and resolves with the configuration', async () => {
  const config = { serverUrl: 'wss://vpn.example.com/', privateKey: 'key' };
  const { engines, joined } = installFakeNative({ joins: () => ({ config }) });
  assert.deepEqual(await VpnClient.join('vpn://x#y'), config);
  await VpnClient.join('vpn://x#y', { configPath: 'client.json', name: 'laptop' });
  await VpnClient.join('vpn://x#y', { configPath: pathToFileURL('/etc/vpn.json') });
  assert.deepEqual(joined, [
    { url: 'vpn://x#y', name: undefined, file: undefined },
    { url: 'vpn://x#y', name: 'laptop', file: resolve('client.json') },
    { url: 'vpn://x#y', name: undefined, file: '/etc/vpn.json' },
  ]);
  assert.equal(engines.length, 0, 'it needs no engine');
});

test('join() rejects what the addon says, and wrong arguments before', async () => {
  const { joined } = installFakeNative({
    joins: () => ({ error: { code: 'unauthorized', message: 'spent' } }),
  });
  await rejectsWith(VpnClient.join('vpn://x#y'), 'unauthorized', /spent/);
  joined.length = 0;
  for (const args of [
    [],
    [''],
    [new URL('vpn://x#y')],
    ['vpn://x', null],
    ['vpn://x', { config: 'x' }],
    ['vpn://x', { configPath: '' }],
    ['vpn://x', { configPath: 7 }],
    ['vpn://x', { name: '' }],
  ]) {
    await rejectsWith(VpnClient.join(...args), 'invalid-argument');
  }
  assert.deepEqual(joined, []);
});

test('nothing is listened to in a program that has nothing on the host', async (t) => {
  const { client } = await started(t);
  assert.equal(process.listenerCount('SIGINT'), 0);
  await client.connect();
  assert.equal(process.listenerCount('SIGINT'), 1);
  await client.disconnect();
  assert.equal(process.listenerCount('SIGINT'), 0);
  await client.connect();
  assert.equal(process.listenerCount('SIGINT'), 1);
  const before = process.listenerCount('exit');
  await client.close();
  assert.equal(process.listenerCount('SIGINT'), 0);
  assert.equal(process.listenerCount('exit'), before - 1);
});
