'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { existsSync, readFileSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { after, test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const { VpnClient, VpnServer } = require('../index.js');
const { record, rejectsWith } = require('./support/assertions.js');
const { runScript } = require('./support/child.js');
const { makeDaemon, makeFolder } = require('./support/stand-in-daemon.js');

const CONFIG = { serverUrl: 'ws://192.0.2.1/', serverPublicKey: 'key' };

// A client that is merely started does not hold the event loop, nor this test while it waits for an event.
const held = setInterval(() => {}, 1000);
after(() => clearInterval(held));

/** A daemon that is of the right mode and answers with what it was asked. */
const ECHO = `
  ready();
  serve(({ method, params }) => ({ method, params: params ?? null, pid: process.pid }));
`;

/** A client of a stand-in that runs `source`, closed with the test. */
function makeClient(t, source, Class = VpnClient) {
  const client = new Class({ transport: { transport: 'stdio', daemonPath: makeDaemon(t, source) } });
  t.after(() => client.close().catch(() => {}));
  return client;
}

async function startClient(t, source) {
  const client = makeClient(t, source);
  assert.equal(await client.start(), true);
  return client;
}

/** Whether a process of that id is there and is no zombie. */
function lives(pid) {
  return existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`).length > 0;
}

async function dies(pid) {
  for (let waited = 0; lives(pid); waited += 20) {
    assert.ok(waited < 5000, 'the daemon lives on');
    await sleep(20);
  }
}

test('the daemon is started in the right mode, and asked in its language', async (t) => {
  const client = await startClient(t, ECHO);
  const events = record(client, 'exit');
  assert.equal(client.running, true);
  assert.equal(await client.start(), true);
  const { pid, ...asked } = await client.connect(CONFIG);
  assert.deepEqual(asked, { method: 'connect', params: CONFIG });
  assert.ok(lives(pid));
  assert.deepEqual(await client.getStatus(), { method: 'getStatus', params: null, pid });
  await client.close();
  assert.ok(!lives(pid));
  assert.deepEqual(events, [['exit', { code: 0, signal: null }]]);

  const server = makeClient(t, 'ready(); serve(() => process.argv.slice(2))', VpnServer);
  await server.start();
  assert.deepEqual(await server.listClients(), ['--management', '--mode', 'server']);
});

test('the daemon has a session of its own', async (t) => {
  const client = await startClient(
    t,
    "ready(); serve(() => require('node:fs').readFileSync('/proc/self/stat', 'latin1').split(' '))",
  );
  const [pid, , , , group, session] = await client.getStatus();
  assert.deepEqual([group, session], [pid, pid]);
});

test('a daemon that cannot be started says why', async (t) => {
  const folder = makeFolder(t);
  writeFileSync(join(folder, 'plain'), 'not executable');
  writeFileSync(join(folder, 'garbage'), 'no program', { mode: 0o755 });
  for (const [daemonPath, words, cause] of [
    [join(folder, 'absent'), /absent could not be started: there is no such file.*daemonPath/, 'ENOENT'],
    [join(folder, 'plain'), /not executable.*chmod/, 'EACCES'],
    [folder, /could not be started/, 'EACCES'],
  ]) {
    const client = new VpnClient({ transport: { transport: 'stdio', daemonPath } });
    const events = record(client, 'exit');
    await assert.rejects(client.start(), (error) => {
      assert.equal(error.code, 'control-unavailable');
      assert.match(error.message, words);
      assert.equal(error.cause.code, cause);
      return true;
    });
    assert.equal(client.running, false);
    await rejectsWith(client.getStatus(), 'not-running');
    await client.close();
    assert.deepEqual(events, []);
  }
});

for (const [what, source, code, words] of [
  [
    'ends at once',
    "process.stderr.write('no such option\\n'); process.exit(2)",
    'control-unavailable',
    /ended before it was ready \(exit code 2\)\.\nno such option/,
  ],
  ['is killed at once', "process.kill(process.pid, 'SIGKILL')", 'control-unavailable', /SIGKILL/],
  ['says something else', "raw('hello\\n')", 'control-unavailable', /no JSON object.*smartvpn_daemon/],
  ['says what is no object', "raw('7\\n')", 'control-unavailable', /no JSON object/],
  ['answers before it is ready', 'say({ id: 1, success: true })', 'control-unavailable', /first line/],
  ['is not sure of its mode', "say({ event: 'ready', data: null })", 'control-unavailable', /first line/],
  [
    'is of the other mode',
    "ready({ mode: 'server' })",
    'wrong-mode',
    /is a VPN server, not a client: use VpnServer/,
  ],
  [
    'speaks another protocol',
    "ready({ protocol: 2, version: '9.0.0' })",
    'control-unavailable',
    /9\.0\.0 and speaks protocol 2/,
  ],
  [
    'says invalid UTF-8',
    'writeSync(1, Buffer.from(\'{"event":"\\xff"}\\n\', \'latin1\'))',
    'control-unavailable',
    /no JSON object/,
  ],
]) {
  test(`a daemon that ${what} is ${code}`, async (t) => {
    const client = makeClient(t, `${source}; input.on('line', () => {});`);
    const events = record(client, 'exit', 'error');
    await rejectsWith(client.start(), code, words);
    assert.equal(client.running, false);
    await client.close();
    assert.deepEqual(events, []);
  });
}

test('half lines and split characters are put together', async (t) => {
  const client = await startClient(
    t,
    `let said = Promise.resolve();
     const sayInPieces = (message) =>
       (said = said.then(async () => {
         for (const byte of Buffer.from(JSON.stringify(message) + '\\n')) {
           writeSync(1, Uint8Array.of(byte));
           await new Promise((resolve) => setTimeout(resolve, 1));
         }
       }));
     input.on('line', (line) => sayInPieces({ id: JSON.parse(line).id, success: true, result: 'grüße 🚇' }));
     sayInPieces({ event: 'ready', data: { version: '0.1.0', protocol: 1, mode } });`,
  );
  assert.equal(await client.getStatus(), 'grüße 🚇');
});

test('a slow daemon is waited for', async (t) => {
  const client = makeClient(t, `serve(() => 'late'); setTimeout(() => ready(), 700)`);
  assert.equal(await client.start(), true);
  assert.equal(await client.getStatus(), 'late');
});

test('stop() while the daemon starts makes start() reject aborted at once, and ends the daemon', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'pid');
  const client = makeClient(
    t,
    `require('node:fs').writeFileSync(${JSON.stringify(file)}, String(process.pid)); input.on('line', () => {});`,
  );
  const events = record(client, 'exit');
  const start = client.start();
  while (!existsSync(file)) await sleep(10);
  const begun = performance.now();
  client.stop();
  await rejectsWith(start, 'aborted');
  assert.ok(performance.now() - begun < 1000);
  await client.close();
  assert.ok(!lives(readFileSync(file, 'utf8')));
  assert.deepEqual(events, []);
});

test('a daemon that ends by itself rejects the calls in flight, and is told by exit', async (t) => {
  for (const [ending, code, signal, words] of [
    ['process.exit(7)', 7, null, /exit code 7/],
    ["process.kill(process.pid, 'SIGABRT')", null, 'SIGABRT', /SIGABRT/],
    ['process.exit(0)', 0, null, /exit code 0/],
  ]) {
    const client = await startClient(
      t,
      `ready(); serve(({ method }) => { if (method !== 'getStatus') ${ending} })`,
    );
    const events = record(client, 'exit');
    const pending = client.getStatus();
    await rejectsWith(client.getStatistics(), 'daemon-exited', words);
    await rejectsWith(pending, 'daemon-exited', words);
    assert.equal(client.running, false);
    assert.equal(events.length, 1);
    const [[, { error, ...end }]] = events;
    assert.deepEqual(end, { code, signal });
    assert.equal(error.code, 'daemon-exited');
    await rejectsWith(client.getStatus(), 'not-running');
    await client.close();
    assert.equal(events.length, 1);
    assert.equal(await client.start(), true, 'it can be started again');
    client.stop();
    await once(client, 'exit');
  }
});

test('what the daemon says with its last breath is heard', async (t) => {
  const client = await startClient(
    t,
    `ready();
     serve(() => {
       setImmediate(() => {
         raw(JSON.stringify({ event: 'status', data: { state: 'error', lastError: 'x'.repeat(300000) } }) + '\\n');
         process.stderr.write('no line end');
         process.exit(3);
       });
       return 'answered';
     })`,
  );
  const events = record(client, 'status', 'log', 'exit');
  assert.equal(await client.getStatus(), 'answered');
  if (client.running) await once(client, 'exit');
  assert.deepEqual(events.map(([name]) => name).toSorted(), ['exit', 'log', 'status']);
  assert.equal(events.find(([name]) => name === 'status')[1].lastError.length, 300000);
  assert.equal(events.find(([name]) => name === 'log')[1].message, 'no line end');
  assert.equal(events.at(-1)[0], 'exit');
});

test('an engine that failed is what exit tells, with the code of the child', async (t) => {
  const client = await startClient(
    t,
    `ready();
     serve(() => {
       say({ event: 'exit', data: { code: 'internal', message: 'a task panicked' } });
       setTimeout(() => process.exit(1), 50);
     })`,
  );
  const events = record(client, 'exit');
  await rejectsWith(client.getStatus(), 'internal', /panicked/);
  assert.equal(events.length, 1);
  assert.equal(events[0][1].code, 1);
  assert.equal(events[0][1].error.code, 'internal');
});

for (const [what, answer, words] of [
  ['no JSON', "raw('oops\\n')", /no JSON object/],
  ['an answer to another call', 'say({ id: 99, success: true })', /call that was not made/],
  ['an answer without success', 'say({ id, result: 1 })', /neither an event nor an answer/],
  [
    'a failure of the engine without an error',
    "say({ event: 'exit', data: null })",
    /failed, but not of what/,
  ],
  ['a failure without an error', 'say({ id, success: false })', /neither an event nor an answer/],
  [
    'a refusal of what was asked',
    "say({ id: null, success: false, error: { code: 'invalid-argument', message: 'half a line' } })",
    /half a line/,
  ],
  ['a line without an end', "raw('x'.repeat(17 * 1024 * 1024))", /more than 16777216 bytes/],
]) {
  test(`${what} ends the connection`, async (t) => {
    const client = await startClient(
      t,
      `ready(); input.on('line', (line) => { const { id } = JSON.parse(line); ${answer}; });`,
    );
    const events = record(client, 'exit');
    await rejectsWith(client.getStatus(), 'control-unavailable', words);
    if (client.running) await once(client, 'exit');
    assert.equal(events.length, 1);
    assert.equal(events[0][1].error.code, 'control-unavailable');
    await client.close();
  });
}

test('a long answer is taken, a long request is refused without being sent', async (t) => {
  const client = await startClient(
    t,
    `let count = 0; ready(); serve(() => ({ count: ++count, text: 'é'.repeat(1000000) }))`,
  );
  await rejectsWith(
    client.connect({ ...CONFIG, tlsCa: 'x'.repeat(65536) }),
    'invalid-argument',
    /65536 at once/,
  );
  const { count, text } = await client.getStatus();
  assert.equal(count, 1);
  assert.equal(text.length, 1000000);
});

test('calls beyond a thousand are refused, and those before are answered', async (t) => {
  const client = await startClient(t, ECHO);
  const calls = Array.from({ length: 1001 }, () => client.getStatus());
  const outcomes = await Promise.allSettled(calls);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    [...Array.from({ length: 1000 }, () => 'fulfilled'), 'rejected'],
  );
  assert.equal(outcomes.at(-1).reason.code, 'invalid-argument');
});

test('a daemon that does not read makes calls be refused, not kept without end', async (t) => {
  const client = await startClient(
    t,
    'input.close(); process.stdin.pause(); ready(); setInterval(() => {}, 1000)',
  );
  const config = { ...CONFIG, tlsCa: 'x'.repeat(60000) };
  const calls = Array.from({ length: 100 }, () => client.connect(config));
  calls.forEach((call) => call.catch(() => {}));
  await rejectsWith(calls.at(-1), 'invalid-argument', /wait for the daemon/);
  client.stop();
  await rejectsWith(calls[0], 'aborted');
});

test('a daemon that does not end is terminated, and one that ignores that too is killed', async (t) => {
  const deaf = 'ready(); serve(() => process.pid); setInterval(() => {}, 1000);';
  const [patient, stubborn] = await Promise.all([
    startClient(t, `${deaf} process.on('SIGTERM', () => process.exit(0));`),
    startClient(t, `${deaf} process.on('SIGTERM', () => {});`),
  ]);
  const events = [record(patient, 'exit'), record(stubborn, 'exit')];
  const pids = await Promise.all([patient.getStatus(), stubborn.getStatus()]);
  const begun = performance.now();
  patient.stop();
  stubborn.stop();
  assert.ok(performance.now() - begun < 100);
  await Promise.all([patient.close(), rejectsWith(stubborn.close(), 'internal', /killed/)]);
  pids.forEach((pid) => assert.ok(!lives(pid)));
  assert.deepEqual(events[0], [['exit', { code: 0, signal: null }]]);
  assert.equal(events[1].length, 1);
  assert.equal(events[1][0][1].signal, 'SIGKILL');
  assert.equal(events[1][0][1].error.code, 'internal');
});

test('a daemon that fails to end in good order is told by close() and exit', async (t) => {
  const client = await startClient(t, "ready(); input.on('close', () => process.exit(1))");
  const events = record(client, 'exit');
  await rejectsWith(client.close(), 'internal', /exit code 1/);
  assert.equal(events[0][1].code, 1);
  assert.equal(events[0][1].error.code, 'internal');
});

test('events and the lines of standard error are told, but none after stop()', async (t) => {
  const client = await startClient(
    t,
    `ready();
     process.stderr.write('2026-08-22T10:11:12Z  INFO smartvpn::client: hel');
     setTimeout(() => process.stderr.write('lo\\nplain\\n' + 'y'.repeat(9000) + '\\n'), 20);
     serve(() => {
       say({ event: 'quality', data: { srttMs: 3 } });
       say({ event: 'lost', data: { count: 4 } });
       say({ event: 'oops' });
       return 1;
     });
     process.on('exit', () => process.stderr.write('goodbye\\n'));`,
  );
  const events = record(client, 'quality', 'lost', 'oops', 'log', 'exit');
  await client.getStatus();
  while (events.filter(([name]) => name === 'log').length < 3) await once(client, 'log');
  assert.deepEqual(events.slice(0, 2), [
    ['quality', { srttMs: 3 }],
    ['lost', { count: 4 }],
  ]);
  const logs = events.filter(([name]) => name === 'log').map(([, log]) => log);
  assert.deepEqual(logs[0], {
    level: 'info',
    target: 'smartvpn::client',
    message: 'hello',
    time: '2026-08-22T10:11:12Z',
  });
  assert.deepEqual([logs[1].level, logs[1].target, logs[1].message], ['warn', 'daemon', 'plain']);
  assert.match(logs[2].message, /^y{8192} … \(808 more bytes\)$/);
  await client.close();
  assert.equal(events.at(-1)[0], 'exit');
  assert.equal(events.filter(([name]) => name === 'log').length, 3);
});

const TELL = (daemonPath) => `
  const client = new VpnClient({ config: CONFIG, transport: { transport: 'stdio', daemonPath: ${JSON.stringify(daemonPath)} } });
  client.on('exit', ({ code }) => say('exit ' + code));
  await client.start();
  const { pid } = await client.getStatistics();
  say('pid ' + pid);
`;

/** Runs a program that holds a daemon, and resolves with how it ended and the daemon's process id. */
async function runProgram(t, rest, { source = ECHO, onLine } = {}) {
  const end = await runScript(`${TELL(makeDaemon(t, source))}\n${rest}`, onLine);
  return { ...end, pid: Number(/^pid (\d+)$/.exec(end.lines[0])[1]), lines: end.lines.slice(1) };
}

test('a program that only started a daemon ends, and with it the daemon', async (t) => {
  const { code, pid, lines, stderr } = await runProgram(t, '');
  assert.equal(code, 0, stderr);
  assert.deepEqual(lines, []);
  await dies(pid);
});

test('a tunnel holds the program, unless it is unreferenced', async (t) => {
  const connected = await runProgram(t, "await client.connect(); say('up')", {
    onLine: (line, child) => line === 'up' && setTimeout(() => child.kill('SIGKILL'), 500),
  });
  assert.equal(connected.signal, 'SIGKILL', 'held');
  await dies(connected.pid);
  const free = await runProgram(t, 'await client.connect(); client.unref()');
  assert.equal(free.code, 0, free.stderr);
  await dies(free.pid);
});

test('the daemon has ended before the program has: exit, throw, signal', async (t) => {
  const slow = `${ECHO}; process.on('SIGTERM', () => setTimeout(() => process.exit(0), 300));`;
  for (const [ending, how] of [
    ['process.exit(5)', { code: 5, signal: null }],
    ["setTimeout(() => { throw new Error('oops') })", { code: 1, signal: null }],
    ["process.kill(process.pid, 'SIGTERM')", { code: null, signal: 'SIGTERM' }],
    ["process.kill(process.pid, 'SIGINT')", { code: null, signal: 'SIGINT' }],
  ]) {
    const end = await runProgram(t, `await client.connect(); ${ending}`, { source: slow });
    assert.deepEqual({ code: end.code, signal: end.signal }, how, end.stderr);
    assert.ok(!lives(end.pid), `the daemon outlives ${ending}`);
  }
});

test('what hangs at the end of the program delays it by two seconds at most', async (t) => {
  const deaf = `${ECHO}; process.on('SIGTERM', () => {});`;
  const begun = performance.now();
  const { code, pid } = await runProgram(t, 'await client.connect(); process.exit(0)', { source: deaf });
  assert.equal(code, 0);
  assert.ok(performance.now() - begun < 6000);
  await dies(pid);
});

test('a daemon ends with a program that is killed', async (t) => {
  const end = await runProgram(t, "await client.connect(); say('up')", {
    onLine: (line, child) => line === 'up' && child.kill('SIGKILL'),
  });
  assert.equal(end.signal, 'SIGKILL');
  await dies(end.pid);
});

test('a worker that is terminated takes its daemon with it', async (t) => {
  const daemonPath = makeDaemon(t, ECHO);
  const { code, lines, stderr } = await runScript(`
    const { Worker } = require('node:worker_threads');
    const worker = new Worker(\`
      const { VpnClient } = require('./index.js');
      const { parentPort } = require('node:worker_threads');
      (async () => {
        const client = new VpnClient({ transport: { transport: 'stdio', daemonPath: ${JSON.stringify(daemonPath)} } });
        await client.start();
        parentPort.postMessage((await client.connect({})).pid);
      })();
    \`, { eval: true });
    worker.on('message', async (pid) => { await worker.terminate(); say(String(pid)); });
  `);
  assert.equal(code, 0, stderr);
  await dies(Number(lines[0]));
});
