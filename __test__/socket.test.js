'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { readdirSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { after, test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const { VpnClient, VpnServer } = require('../index.js');
const { record, rejectsWith } = require('./support/assertions.js');
const { runScript } = require('./support/child.js');
const { makeFolder, ready, say, startSocketDaemon } = require('./support/stand-in-daemon.js');

const CONFIG = { serverUrl: 'ws://192.0.2.1/', serverPublicKey: 'key' };

/** Quick to come back, and quick to give up. */
const QUICK = { reconnectBaseDelayMs: 20, reconnectMaxDelayMs: 60, maxReconnectAttempts: 4 };

// A client that is merely started does not hold the event loop, nor this test while it waits for an event.
const held = setInterval(() => {}, 1000);
after(() => clearInterval(held));

/** A client of the daemon at `path`, closed with the test. */
function makeClient(t, path, options = QUICK, Class = VpnClient) {
  const client = new Class({ transport: { transport: 'socket', socketPath: path, ...options } });
  t.after(() => client.close());
  return client;
}

async function startClient(t, { options, ...daemonOptions } = {}) {
  const daemon = await startSocketDaemon(t, daemonOptions);
  const client = makeClient(t, daemon.path, options);
  assert.equal(await client.start(), true);
  return { client, daemon };
}

/** Never answers. */
const silent = () => undefined;

test('start(), stop() and close() send nothing; calls are what they are', async (t) => {
  const { client, daemon } = await startClient(t, {
    answers: { connect: () => ({ assignedIp: '10.8.0.2' }) },
  });
  const events = record(client, 'exit', 'reconnected', 'status');
  assert.equal(client.running, true);
  assert.equal(await client.start(), true);
  assert.deepEqual(daemon.methods, []);
  assert.deepEqual(await client.connect(CONFIG), { assignedIp: '10.8.0.2' });
  assert.deepEqual(daemon.requests[0].params, CONFIG);
  await client.close();
  await client.close();
  assert.equal(client.running, false);
  assert.deepEqual(daemon.methods, ['connect']);
  assert.deepEqual(events, [['exit', { code: 0, signal: null }]]);
  assert.equal(daemon.accepted, 1);
  await rejectsWith(client.getStatus(), 'not-running');
});

test('exit comes after stop() has returned', async (t) => {
  const { client } = await startClient(t);
  client.stop();
  assert.deepEqual(await once(client, 'exit'), [{ code: 0, signal: null }]);
});

test('what was asked before stop() reaches the daemon', async (t) => {
  const { client, daemon } = await startClient(t);
  const call = client.disconnect();
  client.stop();
  await rejectsWith(call, 'aborted');
  await client.close();
  for (let waited = 0; daemon.requests.length === 0 && waited < 2000; waited += 10) await sleep(10);
  assert.deepEqual(daemon.methods, ['disconnect']);
});

test('a daemon that cannot be reached says why, after one attempt', async (t) => {
  const folder = makeFolder(t);
  const stale = join(folder, 'stale.sock');
  writeFileSync(join(folder, 'file'), '');
  const { code } = await runScript(`
    require('node:net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'));
  `);
  assert.equal(code, null);
  for (const [path, words, cause] of [
    [
      join(folder, 'absent.sock'),
      /no such socket.*smartvpn_daemon --management-socket .*absent\.sock --mode client/,
      'ENOENT',
    ],
    [stale, /nobody listens.*smartvpn_daemon/, 'ECONNREFUSED'],
    [join(folder, 'file'), /nobody listens/, 'ECONNREFUSED'],
  ]) {
    const client = makeClient(t, path);
    const events = record(client, 'exit');
    const begun = performance.now();
    await assert.rejects(client.start(), (error) => {
      assert.equal(error.code, 'control-unavailable');
      assert.match(error.message, words);
      assert.equal(error.cause.code, cause);
      return true;
    });
    assert.ok(performance.now() - begun < 1000);
    assert.equal(client.running, false);
    assert.deepEqual(events, []);
  }
  await rejectsWith(makeClient(t, '/x'.repeat(200)).start(), 'control-unavailable');
});

test(
  'another user may not',
  { skip: process.getuid?.() !== 0 && 'Becoming another user needs root.' },
  async (t) => {
    const { path } = await startSocketDaemon(t);
    const { lines, stderr } = await runScript(`
    process.setuid(65534);
    const client = new VpnClient({ transport: { transport: 'socket', socketPath: ${JSON.stringify(path)} } });
    const { code, message, cause } = await client.start().catch((error) => error);
    say(code + ' ' + cause.code + ' ' + message.includes('--management-group'));
  `);
    assert.deepEqual(lines, ['control-unavailable EACCES true'], stderr);
  },
);

for (const [what, greet, code, words] of [
  [
    'is of the other mode',
    (socket) => say(socket, ready('server')),
    'wrong-mode',
    /is a VPN server, not a client: use VpnServer/,
  ],
  [
    'speaks another protocol',
    (socket) => say(socket, ready('client', { protocol: 7 })),
    'control-unavailable',
    /protocol 7/,
  ],
  [
    'is something else',
    (socket) => socket.write('220 mail ready\r\n'),
    'control-unavailable',
    /no JSON object/,
  ],
  ['hangs up', (socket) => socket.end(), 'control-unavailable', /at once.*--management-group/],
  ['resets', (socket) => socket.destroy(), 'control-unavailable', /closed the connection at once/],
  [
    'is full',
    (socket) => {
      say(socket, {
        id: null,
        success: false,
        error: { code: 'control-unavailable', message: '2048 controllers are connected already' },
      });
      socket.end();
    },
    'control-unavailable',
    /2048 controllers/,
  ],
]) {
  test(`what ${what} is ${code}`, async (t) => {
    const daemon = await startSocketDaemon(t, { onConnection: greet });
    const client = makeClient(t, daemon.path);
    const events = record(client, 'exit');
    await rejectsWith(client.start(), code, words);
    assert.equal(client.running, false);
    await client.close();
    assert.deepEqual(events, []);
    assert.equal(daemon.accepted, 1);
    daemon.onConnection = null;
    assert.equal(await client.start(), true, 'start() begins anew');
  });
}

test('a server is found by VpnServer', async (t) => {
  const daemon = await startSocketDaemon(t, {
    mode: 'server',
    answers: { getStatus: () => ({ state: 'connected' }) },
  });
  const server = makeClient(t, daemon.path, QUICK, VpnServer);
  await server.start();
  assert.deepEqual(await server.getStatus(), { state: 'connected' });
  daemon.say({ event: 'client-connected', data: { clientId: 'c1' } });
  assert.deepEqual(await once(server, 'client-connected'), [{ clientId: 'c1' }]);
});

test('a drop rejects the calls in flight; the later ones wait for the new connection', async (t) => {
  const { client, daemon } = await startClient(t, {
    answers: {
      connect: silent,
      getStatistics: () => ({ bytesSent: 5 }),
      getStatus: () => ({ state: 'connected' }),
    },
  });
  const events = record(client, 'exit', 'reconnected', 'status', 'log');
  client.on('reconnected', (...args) => assert.deepEqual(args, []));
  const inFlight = client.connect(CONFIG);
  while (daemon.requests.length === 0) await sleep(5);
  daemon.drop();
  await rejectsWith(inFlight, 'control-disconnected', /before it answered/);
  assert.equal(client.running, true);
  const later = client.getStatistics();
  assert.deepEqual(await later, { bytesSent: 5 });
  assert.deepEqual(
    events.map(([name]) => name),
    ['log', 'reconnected', 'status'],
  );
  assert.equal(events[0][1].target, 'control');
  assert.deepEqual(events[2], ['status', { state: 'connected' }]);
  assert.deepEqual(daemon.methods, ['connect', 'getStatus', 'getStatistics']);
  assert.equal(daemon.accepted, 2);
});

test('the calls that wait go out in their order', async (t) => {
  const { client, daemon } = await startClient(t);
  await Promise.all([once(client, 'log'), daemon.close()]);
  const calls = [client.getStatistics(), client.getMtuInfo(), client.disconnect()];
  await daemon.listen();
  await Promise.all(calls);
  assert.deepEqual(daemon.methods, ['getStatus', 'getStatistics', 'getMtuInfo', 'disconnect']);
});

test('the attempts come at growing distances, and when they are used up, all is rejected', async (t) => {
  const { client, daemon } = await startClient(t);
  const events = record(client, 'exit', 'reconnected');
  const times = [performance.now()];
  daemon.onConnection = (socket) => {
    times.push(performance.now());
    socket.end();
  };
  daemon.drop();
  await once(client, 'log');
  const waiting = client.getStatus();
  await rejectsWith(waiting, 'control-unavailable', /did not come back in 4 attempts/);
  if (events.length === 0) await once(client, 'exit');
  assert.equal(times.length, 5);
  const waits = times.slice(1).map((time, index) => time - times[index]);
  const least = [20, 40, 60, 60].map((delay) => delay * 0.8 - 2);
  waits.forEach((wait, index) => assert.ok(wait >= least[index] && wait < 1000, `${index}: ${wait} ms`));

  assert.equal(client.running, false);
  assert.equal(events.length, 1);
  const [[name, { code, signal, error }]] = events;
  assert.deepEqual([name, code, signal, error.code], ['exit', 1, null, 'control-unavailable']);
  await rejectsWith(client.getStatistics(), 'control-unavailable', /start\(\) begins anew/);
  await rejectsWith(client.connect(CONFIG), 'control-unavailable');

  daemon.onConnection = null;
  assert.equal(await client.start(), true);
  assert.deepEqual(await client.getStatus(), { state: 'disconnected' });
  await client.close();
  assert.equal(events.length, 2);
  await rejectsWith(client.getStatus(), 'not-running');
});

test('the attempts begin anew once the connection has worked again', async (t) => {
  const { client, daemon } = await startClient(t, { options: { ...QUICK, maxReconnectAttempts: 1 } });
  for (let round = 0; round < 5; round++) {
    daemon.drop();
    await once(client, 'status');
  }
  assert.equal(client.running, true);
  assert.equal(daemon.accepted, 6);
});

test('a daemon that greets and drops uses the attempts up', async (t) => {
  const { client, daemon } = await startClient(t);
  const events = record(client, 'exit', 'reconnected');
  daemon.onConnection = (socket) => {
    say(socket, ready());
    socket.end();
  };
  daemon.drop();
  await once(client, 'exit');
  assert.equal(events.filter(([name]) => name === 'exit').length, 1);
  assert.equal(daemon.accepted, 5);
});

test('without autoReconnect, and without attempts, a drop is the end', async (t) => {
  for (const options of [{ autoReconnect: false }, { maxReconnectAttempts: 0 }]) {
    const { client, daemon } = await startClient(t, { options, answers: { getStatus: silent } });
    const events = record(client, 'exit');
    const inFlight = client.getStatus();
    while (daemon.requests.length === 0) await sleep(5);
    daemon.drop();
    await rejectsWith(inFlight, 'control-disconnected');
    assert.equal(events.length, 1);
    assert.equal(events[0][1].code, 1);
    assert.equal(events[0][1].error.code, 'control-unavailable');
    assert.equal(client.running, false);
    await rejectsWith(client.getStatus(), 'control-unavailable');
    await sleep(50);
    assert.equal(daemon.accepted, 1);
  }
});

test('a daemon of the other mode that comes back is given up', async (t) => {
  const { client, daemon } = await startClient(t);
  const events = record(client, 'exit', 'reconnected');
  daemon.mode = 'server';
  daemon.drop();
  await once(client, 'log');
  await rejectsWith(client.getStatus(), 'wrong-mode');
  assert.equal(events.length, 1);
  assert.equal(events[0][1].code, 1);
  assert.equal(events[0][1].error.code, 'wrong-mode');
  await rejectsWith(client.getStatus(), 'wrong-mode');
  assert.equal(daemon.accepted, 2);
});

test('stop() while the connection is gone ends the waiting', async (t) => {
  const { client, daemon } = await startClient(t, { options: { reconnectBaseDelayMs: 60_000 } });
  const events = record(client, 'exit');
  daemon.drop();
  await once(client, 'log');
  const waiting = client.getStatus();
  client.stop();
  await rejectsWith(waiting, 'aborted');
  await client.close();
  assert.deepEqual(events, [['exit', { code: 0, signal: null }]]);
  assert.equal(await client.start(), true);
  assert.equal(daemon.accepted, 2);
});

test('stop() while the daemon has not greeted yet makes start() reject aborted', async (t) => {
  const daemon = await startSocketDaemon(t, { onConnection: () => {} });
  const client = makeClient(t, daemon.path);
  const events = record(client, 'exit');
  const start = client.start();
  while (daemon.accepted === 0) await sleep(5);
  client.stop();
  await rejectsWith(start, 'aborted');
  await client.close();
  assert.deepEqual(events, []);
});

for (const [what, answer, words] of [
  ['no JSON', (socket) => socket.write('oops\n'), /no JSON object/],
  ['invalid UTF-8', (socket) => socket.write(Buffer.from('"\xff"\n', 'latin1')), /no JSON object/],
  ['an answer to another call', (socket) => say(socket, { id: 99, success: true }), /call that was not made/],
  [
    'an answer to a strange id',
    (socket) => say(socket, { id: '__proto__', success: true }),
    /call that was not made/,
  ],
  ['an answer without success', (socket) => say(socket, { id: 1 }), /neither an event nor an answer/],
  [
    'a complaint about a line',
    (socket) =>
      say(socket, { id: null, success: false, error: { code: 'invalid-argument', message: 'what?' } }),
    /refused this program: what\?/,
  ],
]) {
  test(`${what} ends the connection for good`, async (t) => {
    const { client, daemon } = await startClient(t, { answers: { getStatus: silent } });
    const events = record(client, 'exit', 'reconnected');
    const call = client.getStatus();
    while (daemon.requests.length === 0) await sleep(5);
    answer(daemon.controllers[0]);
    await rejectsWith(call, 'control-disconnected');
    if (client.running) await once(client, 'exit');
    assert.equal(events.length, 1);
    assert.equal(events[0][1].error.code, 'control-unavailable');
    assert.match(events[0][1].error.message, words);
    await rejectsWith(client.getStatus(), 'control-unavailable', words);
  });
}

test('half lines and split characters are put together', async (t) => {
  const { client, daemon } = await startClient(t, { answers: { getStatus: silent } });
  const call = client.getStatus();
  while (daemon.requests.length === 0) await sleep(5);
  for (const byte of Buffer.from(JSON.stringify({ id: 1, success: true, result: 'grüße 🚇' }) + '\n')) {
    daemon.controllers[0].write(Uint8Array.of(byte));
    await sleep(1);
  }
  assert.equal(await call, 'grüße 🚇');
});

test('a failed call rejects with what the daemon says of it', async (t) => {
  const error = {
    code: 'invalid-config',
    message: 'mtu must be a number.',
    path: 'mtu',
    cause: 'os error 1',
  };
  const { client } = await startClient(t, { answers: { connect: () => ({ error }) } });
  async function whoAsked() {
    await client.connect(CONFIG);
  }
  await assert.rejects(whoAsked(), (thrown) => {
    assert.deepEqual(
      [thrown.code, thrown.message, thrown.path],
      ['invalid-config', 'mtu must be a number.', 'mtu'],
    );
    assert.equal(thrown.cause.message, 'os error 1');
    assert.match(thrown.stack, /whoAsked/);
    return true;
  });
});

test('a request that is too long is refused, also while it would have to wait', async (t) => {
  const { client, daemon } = await startClient(t, { options: { reconnectBaseDelayMs: 60_000 } });
  const config = { ...CONFIG, tlsCa: 'x'.repeat(65_536) };
  await rejectsWith(client.connect(config), 'invalid-argument', /65536 at once/);
  assert.deepEqual(daemon.methods, []);
  daemon.drop();
  await once(client, 'log');
  await rejectsWith(client.connect(config), 'invalid-argument', /65536 at once/);
  const calls = Array.from({ length: 100 }, () => client.connect({ ...config, tlsCa: 'x'.repeat(60_000) }));
  calls.forEach((call) => call.catch(() => {}));
  await rejectsWith(calls.at(-1), 'invalid-argument', /wait for the daemon/);
});

test('a failing engine is why the daemon has gone', async (t) => {
  const { client, daemon } = await startClient(t, { answers: { getStatus: silent } });
  const call = client.getStatus();
  while (daemon.requests.length === 0) await sleep(5);
  daemon.say({ event: 'exit', data: { code: 'internal', message: 'a task panicked' } });
  daemon.controllers[0].end();
  await assert.rejects(call, (error) => {
    assert.equal(error.code, 'control-disconnected');
    assert.match(error.message, /internal \(a task panicked\)/);
    assert.equal(error.cause.code, 'internal');
    return true;
  });
});

test('an abort during connect() leaves a tunnel alone that was up before', async (t) => {
  for (const [state, methods] of [
    ['connected', ['getStatus', 'connect']],
    ['disconnected', ['getStatus', 'connect', 'disconnect']],
  ]) {
    const abort = new AbortController();
    const { client, daemon } = await startClient(t, {
      answers: {
        getStatus: () => ({ state }),
        connect() {
          setImmediate(() => abort.abort('enough'));
          setTimeout(
            () => daemon.say({ id: 2, success: false, error: { code: 'aborted', message: 'x' } }),
            30,
          );
        },
      },
    });
    await assert.rejects(client.connect(CONFIG, { signal: abort.signal }), {
      code: 'aborted',
      cause: 'enough',
    });
    assert.deepEqual(daemon.methods, methods);
  }
});

/** A program that has a client of a daemon, run with a tunnel in the state given. */
async function runProgram(t, source, { status = 'disconnected', onLine } = {}) {
  const daemon = await startSocketDaemon(t, {
    answers: { getStatus: () => ({ state: status }), connect: () => ({}), getStatistics: silent },
  });
  const end = await runScript(
    `const client = new VpnClient({ config: CONFIG, transport: { transport: 'socket', socketPath: ${JSON.stringify(daemon.path)} } });
     client.on('exit', ({ code }) => say('exit ' + code));
     await client.start();
     ${source};
     say('done')`,
    (line, child) => {
      if (line === 'done') setTimeout(() => child.kill('SIGKILL'), 500);
      onLine?.(line, daemon);
    },
  );
  return { ...end, ends: end.signal === null, daemon };
}

for (const [what, source, ends, options] of [
  ['a client that is started', '', true],
  ['a daemon that was asked and has no tunnel', 'await client.getStatus()', true],
  ['a daemon that was asked and has one', 'await client.getStatus()', false, { status: 'connected' }],
  ['an unreferenced client', 'client.unref(); await client.connect()', true],
  ['a client that is connected', 'await client.connect()', false],
  ['a client that is closed', 'await client.connect(); await client.close()', true],
  ['a call that is not answered', 'client.getStatistics().catch(() => {})', false],
  [
    'an event of a tunnel',
    "const { once } = require('node:events'); say('listening'); client.getStatistics().catch(() => {}); await once(client, 'status')",
    false,
    {
      onLine: (line, daemon) =>
        line === 'listening' && daemon.say({ event: 'status', data: { state: 'connecting' } }),
    },
  ],
  [
    'a lost daemon, while nothing is asked',
    "const { once } = require('node:events'); say('listening'); setTimeout(() => {}, 200); await once(client, 'log')",
    true,
    { onLine: (line, daemon) => line === 'listening' && daemon.close() },
  ],
]) {
  test(`${what} ${ends ? 'lets the process end' : 'holds the event loop'}`, async (t) => {
    const end = await runProgram(t, source, options);
    assert.equal(end.stderr, '');
    assert.equal(end.ends, ends);
  });
}

test('a program that ends leaves the daemon’s VPN alone, and handles its own signals', async (t) => {
  const { lines, daemon, code } = await runProgram(
    t,
    "await client.connect(); say(process.listenerCount('SIGTERM') + process.listenerCount('exit')); process.exit(4)",
  );
  assert.equal(code, 4);
  assert.deepEqual(lines, ['0']);
  assert.deepEqual(daemon.methods, ['connect']);
});

test('several controllers are several connections, each told all', async (t) => {
  const daemon = await startSocketDaemon(t);
  const clients = [makeClient(t, daemon.path), makeClient(t, daemon.path)];
  await Promise.all(clients.map((client) => client.start()));
  const told = clients.map((client) => once(client, 'status'));
  daemon.say({ event: 'status', data: { state: 'error' } });
  assert.deepEqual(await Promise.all(told), [[{ state: 'error' }], [{ state: 'error' }]]);
});

test('no descriptor is left over from a hundred starts', async (t) => {
  const daemon = await startSocketDaemon(t);
  const client = makeClient(t, daemon.path);
  const count = () => readdirSync('/proc/self/fd').length;
  await client.start();
  await client.close();
  await sleep(50);
  const before = count();
  for (let round = 0; round < 100; round++) {
    await client.start();
    await client.close();
  }
  await sleep(50);
  assert.ok(count() <= before, `${before} before, ${count()} now`);
});
