'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');

const { runScript } = require('./support/child.js');

/** Whether the script ends by itself; one that is held is killed. */
async function endsByItself(source) {
  const { code, signal, stderr } = await runScript(`${source}; say('done');`, (line, child) => {
    if (line === 'done') setTimeout(() => child.kill('SIGKILL'), 300);
  });
  assert.equal(stderr, '');
  assert.ok(code === 0 || signal === 'SIGKILL', `code ${code}, signal ${signal}`);
  return code === 0;
}

const CLIENT = 'const client = new VpnClient({ config: CONFIG })';
const SERVER = "const server = new VpnServer({ config: { listenAddr: '127.0.0.1:0' } })";

for (const [what, source, ends] of [
  ['a client that is constructed', CLIENT, true],
  ['a client that is started', `${CLIENT}; await client.start()`, true],
  ['a client that is connected', `${CLIENT}; await client.start(); await client.connect()`, false],
  ['an unreferenced client', `${CLIENT}; await client.start(); await client.connect(); client.unref()`, true],
  [
    'an unreferenced client that is connecting',
    `${CLIENT}.unref(); await client.start(); client.connect()`,
    true,
  ],
  [
    'a client that is referenced again',
    `${CLIENT}; await client.start(); await client.connect(); client.unref(); client.ref()`,
    false,
  ],
  [
    'a client that is connecting',
    `${CLIENT}; await client.start(); engines[0].request = () => {}; client.connect().catch(() => {})`,
    false,
  ],
  [
    'a client that reconnects',
    `${CLIENT}; await client.start(); await client.connect(); engines[0].status('reconnecting')`,
    false,
  ],
  [
    'a client whose tunnel has ended',
    `${CLIENT}; await client.start(); await client.connect(); engines[0].status('error')`,
    true,
  ],
  [
    'a client that has disconnected',
    `${CLIENT}; await client.start(); await client.connect(); await client.disconnect()`,
    true,
  ],
  [
    'a client whose connect() failed',
    `${CLIENT}; await client.start(); engines[0].state = 'connected'; await client.connect().catch(() => {})`,
    true,
  ],
  [
    'a client that is closed',
    `${CLIENT}; await client.start(); await client.connect(); await client.close()`,
    true,
  ],
  [
    'a client that is stopped',
    `${CLIENT}; await client.start(); await client.connect(); client.stop()`,
    true,
  ],
  ['a server without a configuration', 'const server = new VpnServer(); await server.start()', true],
  ['a server that serves', `${SERVER}; await server.start()`, false],
  ['an unreferenced server', `${SERVER}; server.unref(); await server.start()`, true],
  ['a server whose VPN is stopped', `${SERVER}; await server.start(); await server.stopServer()`, true],
]) {
  test(`${what} ${ends ? 'lets the process end' : 'holds the event loop'}`, async () => {
    assert.equal(await endsByItself(source), ends);
  });
}

test('a short call holds the event loop until it is answered, also when unreferenced', async () => {
  const { lines, code } = await runScript(
    `const server = new VpnServer().unref();
     await server.start();
     say('asking');
     say((await server.generateKeypair()).publicKey);`,
  );
  assert.deepEqual(lines, ['asking', 'cHVibGlj']);
  assert.equal(code, 0);
});

test('what stop() has begun is waited for', async () => {
  const { lines, code } = await runScript(
    `${CLIENT};
     client.on('exit', ({ code }) => say('exit ' + code));
     await client.start();
     await client.connect();
     client.unref().stop();
     say('stopped');`,
  );
  assert.deepEqual(lines, ['stopped', 'exit 0']);
  assert.equal(code, 0);
});

test('a shutdown that is never answered is undone, and does not hold the process for ever', async () => {
  const { lines, code, ms } = await runScript(
    `${CLIENT};
     client.on('exit', ({ code }) => say('exit ' + code));
     await client.start();
     sayUndo();
     engines[0].request = () => {};
     client.stop();`,
  );
  assert.deepEqual(lines, ['undo true', 'exit 0']);
  assert.equal(code, 0);
  assert.ok(ms < 7000, `${ms} ms`);
});

test('a listener that throws is uncaught, and the state stays right', async () => {
  const { lines, code, stderr } = await runScript(
    `${CLIENT};
     process.on('uncaughtException', (error) => say('uncaught ' + error.message));
     client.on('status', () => { throw new Error('mine') });
     client.on('exit', () => { throw new Error('mine too') });
     await client.start();
     await client.connect();
     say(process.listenerCount('SIGTERM'));
     await client.close();
     say(String(client.running));`,
  );
  assert.deepEqual(
    lines,
    ['uncaught mine', 'uncaught mine', '1', 'uncaught mine too', 'false'],
    `${lines}\n${stderr}`,
  );
  assert.equal(code, 0);
});
