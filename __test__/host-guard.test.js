'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');

const { runScript } = require('./support/child.js');

const SERVE = `
  const client = new VpnClient({ config: CONFIG });
  await client.start();
  await client.connect();
  sayUndo();
  say('up');
`;

/** Sends `signal` to the child when it says "up". */
function kill(signal) {
  return (line, child) => {
    if (line === 'up') child.kill(signal);
  };
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  test(`${signal} undoes, and then has its default action`, async () => {
    const end = await runScript(SERVE, kill(signal));
    assert.deepEqual(end.lines, ['up', 'undo true'], end.stderr);
    assert.equal(end.signal, signal);
  });
}

test('a signal undoes every engine of the process', async () => {
  const end = await runScript(
    `const server = new VpnServer();
     await server.start({ listenAddr: '127.0.0.1:0' });
     ${SERVE}`,
    kill('SIGTERM'),
  );
  assert.deepEqual(end.lines, ['up', 'undo true', 'undo true'], end.stderr);
  assert.equal(end.signal, 'SIGTERM');
});

test("a program's own listener decides; what it leaves is undone at its exit", async () => {
  const end = await runScript(
    `process.on('SIGTERM', () => {
       say('mine');
       setTimeout(() => process.exit(3), 50);
     });
     ${SERVE}`,
    kill('SIGTERM'),
  );
  assert.deepEqual(end.lines, ['up', 'mine', 'undo true'], end.stderr);
  assert.equal(end.code, 3);
});

test('a listener of signal-exit counts as none, and ends the process after ours', async () => {
  const end = await runScript(
    `const emitter = (globalThis[Symbol.for('signal-exit emitter')] = { count: 1 });
     const listener = () => {
       if (process.listenerCount('SIGTERM') !== emitter.count) return;
       say('signal-exit');
       process.removeListener('SIGTERM', listener);
       process.kill(process.pid, 'SIGTERM');
     };
     process.on('SIGTERM', listener);
     ${SERVE}`,
    kill('SIGTERM'),
  );
  assert.deepEqual(end.lines, ['up', 'undo true', 'signal-exit'], end.stderr);
  assert.equal(end.signal, 'SIGTERM');
});

test('two copies of the package in one process both undo, and the signal is raised once', async () => {
  const end = await runScript(
    `for (const name of Object.keys(require.cache)) delete require.cache[name];
     const copy = require('./index.js');
     const fake = require('./__test__/support/fake-native.js').installFakeNative();
     const other = new copy.VpnServer();
     await other.start({ listenAddr: '127.0.0.1:0' });
     fake.engines[0].undo = () => (say('undo of the copy'), true);
     ${SERVE}`,
    kill('SIGINT'),
  );
  assert.deepEqual(end.lines.toSorted(), ['undo of the copy', 'undo true', 'up'], end.stderr);
  assert.equal(end.signal, 'SIGINT');
});

test('a signal finds nothing of ours while nothing is set on the host', async () => {
  const end = await runScript(
    `const client = new VpnClient({ config: CONFIG });
     await client.start();
     setInterval(() => {}, 1000);
     say(process.listenerCount('SIGTERM'));
     sayUndo();
     say('up');`,
    kill('SIGTERM'),
  );
  assert.deepEqual(end.lines, ['0', 'up'], end.stderr);
  assert.equal(end.signal, 'SIGTERM');
});

test('process.exit(), an uncaught error and an unhandled rejection undo', async () => {
  for (const [ending, code] of [
    ['process.exit(7)', 7],
    ["setTimeout(() => { throw new Error('oops') })", 1],
    ["Promise.reject(new Error('oops'))", 1],
    ['client.unref()', 0],
  ]) {
    const end = await runScript(`${SERVE}\n${ending}`);
    assert.deepEqual(end.lines, ['up', 'undo true'], `${ending}\n${end.stderr}`);
    assert.equal(end.code, code, ending);
  }
});

test('an engine that cannot undo does not keep the next one from it', async () => {
  const end = await runScript(
    `${SERVE}
     engines[0].undo = () => { throw new Error('broken') };
     const server = new VpnServer();
     await server.start({ listenAddr: '127.0.0.1:0' });
     engines[1].undo = () => (say('second'), true);
     process.exit();`,
  );
  assert.deepEqual(end.lines, ['up', 'second'], end.stderr);
  assert.equal(end.code, 0);
});

test('a worker that exits undoes its own engines; its program gets its signals', async () => {
  const end = await runScript(
    `const { Worker } = require('node:worker_threads');
     const worker = new Worker(\`
       const { VpnClient } = require('./index.js');
       const { installFakeNative } = require('./__test__/support/fake-native.js');
       const { engines } = installFakeNative();
       (async () => {
         const client = new VpnClient({ config: { serverUrl: 'ws://192.0.2.1/' } });
         await client.start();
         await client.connect();
         engines[0].undo = () => (require('node:fs').writeSync(1, 'undo in the worker\\\\n'), true);
         process.exit(0);
       })();
     \`, { eval: true });
     worker.on('exit', (code) => say('worker ' + code + ' ' + process.listenerCount('SIGTERM')));`,
  );
  assert.deepEqual(end.lines, ['undo in the worker', 'worker 0 0'], end.stderr);
  assert.equal(end.code, 0);
});
