/** The daemon's control connection: good and bad controllers, and the host it shares with them. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { missingTools } from '../../scripts/tools.mjs';
import { Controller, DAEMON, Daemon, folder, notBuilt } from './support/daemon.mjs';
import { clientConfig, LONG, requires, serverConfig, useSite } from './support/site.mjs';
import { eventually } from './support/traffic.mjs';

const LINE_LIMIT = 65_536;
const CONTROLLERS = 1_000;
const MOST_CONTROLLERS = 2_048;
const NOBODY = 65_534;
const FUZZED_LINES = LONG ? 1_000_000 : 100_000;

/** What the median answer takes at most: by the promise, and on a machine that does ten things at once. */
const ANSWER_MS = LONG ? 50 : 500;
const SLOWEST_MS = LONG ? 1_000 : 5_000;

const isRoot = process.getuid?.() === 0;
const notRoot = !isRoot && 'Other users can be played by root only.';

describe('a daemon with a socket', { skip: notBuilt }, () => {
  it('answers or closes a controller that breaks the rules, and serves the others', async (t) => {
    const { socket } = await serving(t);
    const witness = await Controller.connect(socket);
    const bad = [
      ['\xff\xfe'],
      [Buffer.from([0xc3, 0x28])],
      ['{"id":1,'],
      ['{'.repeat(60_000)],
      ['null'],
      ['[]'],
      ['{"id":null,"method":"getStatus"}'],
      ['{"id":1,"method":1}', 1],
      ['{"id":1,"method":"getStatus","params":7}', 1],
      ['{"id":1,"method":"getStatus","params":{"x":1}}', 1],
      ['{"id":1,"method":"getStatus","extra":1}', 1],
      ['{"id":1,"method":"disconnectClient","params":{"id":["c"]}}', 1],
      ['{"id":1,"method":"disconnectClient","params":{"id":"c"}}', 1, 'unknown-client'],
      ['{"id":1,"method":"getMtuInfo"}', 1, 'unsupported-method'],
      ['{"id":1,"method":"rm -rf /"}', 1, 'unsupported-method'],
      ['{"id":1,"method":"start","params":{"listenAddr":1}}', 1, 'invalid-config'],
    ];
    for (const [line, id = null, code = 'invalid-argument'] of bad) {
      const controller = await Controller.connect(socket);
      controller.send(line);
      controller.send('\n');
      const answer = await controller.message((message) => 'id' in message);
      assert.deepEqual([answer.id, answer.error?.code], [id, code], JSON.stringify(answer));
      assert.equal((await controller.result('getStatus')).state, 'disconnected');
      assert.equal((await witness.result('getStatus')).state, 'disconnected');
      await controller.close();
    }
  });

  it('takes 64 KiB a line and not a byte more', async (t) => {
    const { socket } = await serving(t);
    const request = '{"id":1,"method":"getStatus"}';
    const longest = request + ' '.repeat(LINE_LIMIT - request.length);
    const controller = await Controller.connect(socket);
    controller.send(`${longest}\n`);
    assert.equal((await controller.message(({ id }) => id === 1)).success, true);
    controller.send(` ${longest}\n${longest}\n`);
    const refusal = await controller.message(({ id }) => id === null);
    assert.equal(refusal.error.code, 'invalid-argument');
    await controller.closed;
    assert.equal(controller.messages.length, 3);
  });

  it('does not carry out half a line', async (t) => {
    const { daemon, socket } = await serving(t);
    const controller = await Controller.connect(socket);
    controller.send('{"id":1,"method":"shutdown"}');
    await controller.close();
    assert.equal(controller.messages.at(-1).error.code, 'invalid-argument');
    await daemon.listens(socket);
  });

  it(`holds ${CONTROLLERS} idle controllers`, async (t) => {
    const { daemon, socket } = await serving(t);
    const idle = await Promise.all(Array.from({ length: CONTROLLERS }, () => Controller.connect(socket)));
    const { median, max } = summary(await roundTrips(await Controller.connect(socket), 100));
    t.diagnostic(`getStatus beside ${CONTROLLERS} controllers: median ${median} ms, at most ${max} ms`);
    assert.ok(median <= ANSWER_MS && max <= SLOWEST_MS, `median ${median} ms, at most ${max} ms`);
    await idle[0].result('shutdown');
    await Promise.all(idle.map(({ closed }) => closed));
    assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
  });

  it(`lets ${CONTROLLERS} controllers come and go, in the middle of a line too`, async (t) => {
    const { daemon, socket } = await serving(t);
    const witness = await Controller.connect(socket);
    const descriptors = () => readdirSync(`/proc/${daemon.child.pid}/fd`).length;
    const before = descriptors();
    const times = [];
    for (let come = 0; come < CONTROLLERS; come += 50) {
      const visits = Array.from({ length: 50 }, async (_, index) => {
        const controller = await Controller.connect(socket);
        if (index % 3 === 0) controller.send('{"id":1,"meth');
        if (index % 3 === 1) await controller.result('getStatus');
        if (index % 2 === 0) controller.abandon();
        else await controller.close();
      });
      times.push(...(await roundTrips(witness, 1)));
      await Promise.all(visits);
    }
    const { median, max } = summary(times);
    t.diagnostic(`getStatus meanwhile: median ${median} ms, at most ${max} ms`);
    assert.ok(median <= ANSWER_MS && max <= SLOWEST_MS, `median ${median} ms, at most ${max} ms`);
    await eventually(() => assert.equal(descriptors(), before));
    assert.deepEqual(await daemon.end(), [0, null], daemon.stderr);
  });

  it('turns away one controller too many, and lets it in later', async (t) => {
    const { socket } = await serving(t);
    const many = [];
    while (many.length < MOST_CONTROLLERS) {
      const some = Array.from({ length: 64 }, () => Controller.connect(socket));
      many.push(...(await Promise.all(some)));
    }
    const surplus = createConnection(socket);
    const [chunk] = await once(surplus.setEncoding('utf8'), 'data');
    assert.equal(JSON.parse(chunk).error.code, 'control-unavailable');
    await once(surplus, 'close');
    await many[0].close();
    await eventually(async () => (await Controller.connect(socket)).close());
  });

  it('lets all controllers come at once, even when it is held up', async (t) => {
    const { daemon, socket } = await serving(t);
    const room = Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8'));
    daemon.child.kill('SIGSTOP');
    const crowd = Array.from({ length: Math.min(MOST_CONTROLLERS, room) }, () => Controller.connect(socket));
    await sleep(200);
    daemon.child.kill('SIGCONT');
    await Promise.all(crowd);
  });

  it(`answers the others while ${FUZZED_LINES} lines are thrown at it`, async (t) => {
    const { daemon, socket } = await serving(t);
    const before = readdirSync(process.cwd());
    const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31)) || 1;
    t.diagnostic(`SEED=${seed}`);
    const began = performance.now();
    const workers = [0, 1].map(
      (index) =>
        new Worker(new URL('./support/fuzz-lines.mjs', import.meta.url), {
          workerData: { path: socket, lines: FUZZED_LINES / 2, seed: seed + index },
        }),
    );
    const all = Promise.all(workers.map((worker) => once(worker, 'exit')));
    let busy = true;
    const done = all.finally(() => (busy = false));
    const witness = await Controller.connect(socket);
    const times = [];
    while (busy) {
      times.push(...(await roundTrips(witness, 1)));
      await Promise.race([sleep(20), done]);
    }
    await done;
    const { median, max } = summary(times);
    const seconds = Math.round((performance.now() - began) / 100) / 10;
    t.diagnostic(`${FUZZED_LINES} lines in ${seconds} s; getStatus: median ${median} ms, at most ${max} ms`);
    assert.ok(
      median <= ANSWER_MS && max <= SLOWEST_MS,
      `SEED=${seed}: median ${median} ms, at most ${max} ms`,
    );
    assert.deepEqual(readdirSync(process.cwd()), before);
    assert.deepEqual(childrenOf(daemon.child.pid), []);
    assert.doesNotMatch(daemon.stderr, /panic|fault/);
    assert.deepEqual(await daemon.end(), [0, null], daemon.stderr);
  });

  it('is not held up by a log that nobody reads', async (t) => {
    const { daemon, socket } = await serving(t, { env: { RUST_LOG: 'trace' } });
    const controller = await Controller.connect(socket);
    daemon.child.stderr.pause();
    // Each call is traced with some 80 bytes; the pipe holds 64 KiB.
    for (let index = 0; index < 4_000; index++) await controller.result('getStatus');
    const told = daemon.stderr.length;
    daemon.child.stderr.resume();
    await eventually(() => assert.ok(daemon.stderr.length > told + 65_536, `${daemon.stderr.length}`));
  });

  it('refuses to share a socket, and replaces one that is stale', async (t) => {
    const { daemon, socket } = await serving(t);
    const second = await refused(t, socket);
    assert.equal(second.code, 'address-in-use');
    await daemon.end('SIGKILL');
    assert.ok(existsSync(socket));
    const third = await Daemon.listening(t, socket, ['--mode', 'server']);
    assert.deepEqual(await third.end(), [0, null], third.stderr);
    assert.deepEqual(readdirSync(join(socket, '..')), []);
  });

  it('refuses a place that is not safe, and a file that is no socket', async (t) => {
    const path = folder(t);
    const file = join(path, 'precious');
    writeFileSync(file, 'text');
    symlinkSync('precious', join(path, 'link'));
    for (const name of ['precious', 'link']) {
      const error = await refused(t, join(path, name));
      assert.deepEqual([error.code, /not a socket/.test(error.message)], ['file-error', true], error.message);
    }
    for (const mode of [0o777, 0o775, 0o1777]) {
      chmodSync(path, mode);
      const error = await refused(t, join(path, 'socket'));
      assert.deepEqual([error.code, /others can write/.test(error.message)], ['file-error', true]);
      assert.match(error.message, /\/run/);
    }
    chmodSync(path, 0o700);
    assert.deepEqual(readdirSync(path).toSorted(), ['link', 'precious']);
    assert.equal((await refused(t, join(path, 'x'.repeat(100)))).code, 'invalid-argument');
    const group = await refused(t, join(path, 'socket'), '--management-group', 'no-such-group');
    assert.deepEqual([group.code, /no group/.test(group.message)], ['invalid-argument', true]);
  });

  const byOthers = missingTools(['setpriv', 'socat']) ?? notRoot;

  it('listens to its own user and to root only', { skip: byOthers }, async (t) => {
    const { socket, daemon } = await serving(t, { mode: 0o755 });
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    assert.match(asUser([], socket).stderr, /Permission denied/);
    // Even if the file lets everybody in, the peer's credentials do not.
    chmodSync(socket, 0o666);
    assert.deepEqual([asUser([], socket).stdout, asUser(['--groups', '0'], socket).stdout], ['', '']);
    await eventually(() => assert.match(daemon.stderr, /another user.*uid.*65534/));
    await daemon.listens(socket);
  });

  it('admits a group that is named', { skip: byOthers }, async (t) => {
    const group = spawnSync('getent', ['group', 'daemon'], { encoding: 'utf8' }).stdout.split(':')[2];
    const args = ['--management-group', 'daemon'];
    const { socket } = await serving(t, { mode: 0o755, args });
    const { mode, gid } = statSync(socket);
    assert.deepEqual([mode & 0o777, gid], [0o660, Number(group)]);
    for (const member of [
      ['--groups', group],
      ['--regid', group, '--clear-groups'],
    ]) {
      assert.match(asUser(member, socket).stdout, /"event":"ready"/, member.join(' '));
    }
    assert.match(asUser([], socket).stderr, /Permission denied/);
    chmodSync(socket, 0o666);
    assert.equal(asUser([], socket).stdout, '');
  });

  const notActivated = missingTools(['systemd-socket-activate']) ?? false;

  it('takes the socket that the service manager passes', { skip: notActivated }, async (t) => {
    const path = folder(t);
    const socket = join(path, 'socket');
    const options = { wrap: ['systemd-socket-activate', '--listen', socket] };
    const daemon = new Daemon(t, ['--management-socket', socket, '--mode', 'client'], options);
    await daemon.listens(socket);
    const controller = await Controller.connect(socket);
    assert.equal((await controller.result('getStatus')).state, 'disconnected');
    await controller.result('shutdown');
    assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
    assert.ok(existsSync(socket), 'the service manager keeps its socket');
  });

  it(
    'refuses another socket, or none at all, from the service manager',
    { skip: notActivated },
    async (t) => {
      const path = folder(t);
      const socket = join(path, 'socket');
      const wrap = ['systemd-socket-activate', '--listen', socket];
      const elsewhere = new Daemon(t, ['--management-socket', join(path, 'other'), '--mode', 'client'], {
        wrap,
      });
      await eventually(() => createConnection(socket).on('error', () => {}) && assert.ok(existsSync(socket)));
      assert.deepEqual(await elsewhere.ended, [1, null]);
      assert.match(JSON.parse(elsewhere.stdout).error.message, /passed the socket .*; it must pass one/);

      // What the service manager does, but with something that is no socket.
      const passed = {
        wrap: ['sh', '-c', 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"'],
        stdio: ['ignore', 'pipe', 'pipe', 'ignore'],
      };
      const wrong = new Daemon(t, ['--management-socket', socket, '--mode', 'client'], passed);
      assert.deepEqual(await wrong.ended, [1, null]);
      const { code, message } = JSON.parse(wrong.stdout).error;
      assert.deepEqual([code, /it must pass one/.test(message)], ['invalid-argument', true], message);
    },
  );
});

describe('a daemon at the standard streams', { skip: notBuilt }, () => {
  it('ends with its parent, a connect under way or not', async (t) => {
    const mute = createServer(() => {}).listen(0, '127.0.0.1');
    await once(mute, 'listening');
    t.after(() => mute.close());
    const config = clientConfig({ serverUrl: `ws://127.0.0.1:${mute.address().port}/`, stateDir: null });
    for (const busy of [false, true]) {
      const { daemon, controller } = await child(t, 'client');
      const connect = busy && controller.call('connect', { ...config, connectTimeoutMs: 60_000 });
      if (busy) await once(mute, 'connection');
      daemon.child.stdin.end();
      if (busy) assert.equal((await connect).error.code, 'aborted');
      assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
    }
  });

  it('ends when nobody reads, and when nobody is there', async (t) => {
    const { daemon } = await child(t, 'server');
    daemon.child.stdout.pause();
    const request = `${JSON.stringify({ id: 1, method: 'getStatus' })}\n`.repeat(20_000);
    daemon.child.stdin.on('error', () => {});
    daemon.child.stdin.write(request);
    await sleep(300);
    daemon.child.stdin.destroy();
    assert.deepEqual(await once(daemon.child, 'exit'), [0, null], daemon.stderr);

    const broken = await child(t, 'server');
    broken.daemon.child.stdout.destroy();
    broken.controller.send(request);
    assert.deepEqual(await once(broken.daemon.child, 'exit'), [0, null], broken.daemon.stderr);
  });

  it('does not outlive a parent that is killed', async (t) => {
    const script = `
      const { spawn } = require('node:child_process');
      const daemon = spawn(process.argv[1], ['--management', '--mode', 'server'], { stdio: ['pipe', 'pipe', 'ignore'] });
      daemon.stdout.once('data', () => console.log(daemon.pid));
    `;
    const parent = spawn(process.execPath, ['-e', script, DAEMON], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => parent.kill('SIGKILL'));
    const [pid] = await once(parent.stdout.setEncoding('utf8'), 'data');
    assert.ok(isAlive(pid));
    parent.kill('SIGKILL');
    await eventually(() => assert.ok(!isAlive(pid)));
  });

  it('tells each thing once', async (t) => {
    const config = clientConfig({
      serverUrl: 'ws://127.0.0.1:9/',
      stateDir: null,
      reconnect: { maxAttempts: 1 },
    });
    const file = join(folder(t), 'client.json');
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    const { daemon, controller } = await child(t, 'client', '--config', file);
    await controller.event('log', ({ message }) => /next attempt/.test(message));
    const end = await controller.event('exit');
    assert.equal(end.code, 'connection-refused');
    assert.deepEqual(await daemon.ended, [1, null]);
    assert.doesNotMatch(daemon.stderr, /next attempt/);
    assert.match(daemon.stderr, /connection-refused/);
    for (const line of daemon.stdout.trim().split('\n')) assert.ok(JSON.parse(line));
  });

  it('leaves a stream that it shares as it was', async (t) => {
    // The socket that is standard input here blocks, and is the shell's and grep's as well.
    const script = 'read go; "$0" --management --mode server > /dev/null; grep flags /proc/self/fdinfo/0';
    const shell = spawn('sh', ['-c', script, DAEMON], { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => shell.stdin.destroy());
    const flags = () => Number.parseInt(/flags:\s*(\d+)/.exec(text)[1], 8);
    let text = readFileSync(`/proc/${shell.pid}/fdinfo/0`, 'utf8');
    const before = flags();
    shell.stdin.write('go\n');
    await eventually(() => {
      text = readFileSync(`/proc/${shell.pid}/fdinfo/0`, 'utf8');
      assert.notEqual(flags(), before, 'it does not block while the daemon runs');
    });
    text = '';
    shell.stdout.setEncoding('utf8').on('data', (more) => (text += more));
    shell.stdin.end();
    await once(shell, 'close');
    assert.equal(flags(), before);
  });

  it('works with files', async (t) => {
    const path = folder(t);
    writeFileSync(join(path, 'in'), '{"id":1,"method":"getStatus"}\n');
    const run = spawnSync('sh', ['-c', `"$0" --management --mode server < "$1/in" > "$1/out"`, DAEMON, path]);
    assert.equal(run.status, 0, `${run.stderr}`);
    const lines = readFileSync(join(path, 'out'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.deepEqual([lines[0].event, lines[1].success], ['ready', true]);
  });
});

describe('names that a shell or a path could take for something else', { skip: notBuilt }, () => {
  const HOSTILE = {
    semicolon: 'a;reboot',
    substitution: '$(reboot)',
    newline: 'a\nb',
    parent: '../a',
    long: 'a234567890123456',
    nul: 'a\0b',
    unicode: 'ä\u202e',
  };
  const UNPRINTABLE = ['newline', 'nul'];
  const ALL = Object.keys(HOSTILE);
  /** Which of them each field refuses; what it takes never reaches a shell, and is a file's name or a label. */
  const REFUSED = {
    client: {
      serverUrl: [
        (name) => `wss://${name}/`,
        ['semicolon', 'substitution', 'newline', 'parent', 'nul', 'unicode'],
      ],
      serverPublicKey: [(name) => name, ALL],
      dns: [(name) => [name], ALL, 'dns[0]'],
      routes: [(name) => ['10.0.0.0/8', name], ALL, 'routes[1]'],
      tunName: [(name) => name, ALL],
      tlsCa: [(name) => name, UNPRINTABLE],
      proxy: [
        (name) => `http://${name}:3128`,
        ['semicolon', 'substitution', 'newline', 'parent', 'nul', 'unicode'],
      ],
      name: [(name) => name, UNPRINTABLE],
      congestionControl: [(name) => name, ALL],
      stateDir: [(name) => name, UNPRINTABLE],
    },
    server: {
      listenAddr: [
        (name) => `${name}:443`,
        ['semicolon', 'substitution', 'newline', 'parent', 'nul', 'unicode'],
      ],
      privateKey: [(name) => name, ALL],
      publicKey: [(name) => name, ALL],
      subnet: [(name) => name, ALL],
      subnet6: [(name) => name, ALL],
      tlsCert: [(name) => name, UNPRINTABLE],
      tlsKey: [(name) => name, UNPRINTABLE],
      dns: [(name) => [name], ALL, 'dns[0]'],
      path: [(name) => `/${name}`, ['newline', 'nul', 'unicode']],
      tunName: [(name) => name, ALL],
      trustedProxies: [(name) => [name], ALL, 'trustedProxies[0]'],
      congestionControl: [(name) => name, ALL],
      stateDir: [(name) => name, UNPRINTABLE],
    },
  };
  const CONFIGS = { client: clientConfig(), server: serverConfig() };

  for (const mode of ['client', 'server']) {
    it(`are refused in a ${mode}'s configuration, with the field`, async (t) => {
      const { daemon, controller } = await child(t, mode);
      await controller.result('validateConfig', { config: CONFIGS[mode] });
      let tried = 0;
      for (const [field, [make, refusedNames, path = field]] of Object.entries(REFUSED[mode])) {
        for (const name of ALL) {
          const config = { ...CONFIGS[mode], [field]: make(HOSTILE[name]) };
          const answer = await controller.call('validateConfig', { config });
          const expected = refusedNames.includes(name) ? ['invalid-config', path] : [undefined, undefined];
          assert.deepEqual(
            [answer.error?.code, answer.error?.path],
            expected,
            `${field}, ${name}: ${JSON.stringify(answer)}`,
          );
          tried++;
        }
      }
      t.diagnostic(`${tried} names in ${Object.keys(REFUSED[mode]).length} fields`);
      daemon.child.stdin.end();
      await daemon.ended;
    });
  }

  it('are no clients', async (t) => {
    const { daemon, controller } = await child(t, 'server');
    const calls = [
      ['disconnectClient', {}],
      ['getClientTelemetry', {}],
      ['removeClientRateLimit', {}],
      ['setClientRateLimit', { rateBytesPerSec: 1e6, burstBytes: 65_536 }],
    ];
    for (const [method, params] of calls) {
      for (const name of ALL) {
        const { error } = await controller.call(method, { ...params, id: HOSTILE[name] });
        assert.match(error.code, /^(unknown-client|invalid-argument)$/, `${method}, ${name}`);
      }
    }
    daemon.child.stdin.end();
    assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
  });

  it('make no file and run no program where they may stand', async (t) => {
    const path = folder(t);
    const wrap = ['sh', '-c', `cd ${path} && exec "$@"`, 'sh'];
    for (const [mode, method, fields, nowhere] of [
      ['client', 'connect', ['tlsCa', 'name'], { serverUrl: 'wss://127.0.0.1:9/' }],
      ['server', 'start', ['tlsCert', 'tlsKey', 'path'], { tlsCert: 'none.pem', tlsKey: 'none.pem' }],
    ]) {
      const daemon = new Daemon(t, ['--management', '--mode', mode], { stdio: 'pipe', wrap });
      const controller = new Controller(daemon.child.stdout, daemon.child.stdin);
      for (const name of ['semicolon', 'substitution', 'parent']) {
        for (const field of fields) {
          const value = field === 'path' ? `/${HOSTILE[name]}` : HOSTILE[name];
          const config = { ...CONFIGS[mode], ...nowhere, [field]: value, stateDir: null };
          const { error } = await controller.call(method, config);
          assert.match(error.code, /^(file-error|connection-refused)$/, error.message);
          assert.deepEqual(childrenOf(daemon.child.pid), []);
        }
      }
      assert.deepEqual(readdirSync(path), []);
      daemon.child.stdin.end();
      assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
    }
  });
});

describe('a daemon with a VPN and controllers', { skip: requires() || notBuilt }, () => {
  const site = useSite();

  it('tells its controllers and its clients, and leaves the host as found', async (t) => {
    const { socket, daemon } = await serving(t, { host: site.server });
    const controllers = await Promise.all([1, 2, 3].map(() => Controller.connect(socket)));
    await controllers[0].result('start', serverConfig());
    assert.equal((await controllers[1].call('start', serverConfig())).error.code, 'already-running');
    const client = await site.connect();
    for (const controller of controllers) {
      const { assignedIp } = await controller.event('client-connected');
      assert.equal(assignedIp, client.assignedIp);
    }
    const [{ clientId }] = await controllers[2].result('listClients');
    assert.equal((await controllers[1].result('getClientTelemetry', { id: clientId })).clientId, clientId);
    const began = performance.now();
    assert.deepEqual(await daemon.end('SIGTERM'), [0, null], daemon.stderr);
    assert.ok(performance.now() - began < 5_000);
    for (const controller of controllers) {
      await controller.event('client-disconnected', ({ reason }) => reason === 'shutting-down');
      await controller.event('status', ({ state }) => state === 'disconnected');
    }
    assert.deepEqual(readdirSync(join(socket, '..')), []);
    await client.agent.close();
    await site.assertAsFound();
  });

  it('lets a new controller find the VPN of one that left', async (t) => {
    await site.serve();
    const { socket, daemon } = await serving(t, { host: site.client, vpn: 'client' });
    const first = await Controller.connect(socket);
    const { assignedIp } = await first.result('connect', clientConfig());
    await first.close();
    const second = await Controller.connect(socket);
    const status = await second.result('getStatus');
    assert.deepEqual([status.state, status.assignedIp], ['connected', assignedIp]);
    assert.equal((await second.call('connect', clientConfig())).error.code, 'already-connected');
    await second.result('shutdown');
    assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
    await site.assertAsFound(site.client);
  });

  it('is undone by the next daemon when it was killed', async (t) => {
    const { socket, daemon } = await serving(t, { host: site.server });
    await (await Controller.connect(socket)).result('start', serverConfig());
    await daemon.end('SIGKILL');
    const next = await Daemon.listening(t, socket, ['--mode', 'server'], { host: site.server });
    const controller = await Controller.connect(socket);
    await controller.result('start', serverConfig());
    await controller.result('stopServer');
    await site.assertAsFound();
    assert.deepEqual(await next.end(), [0, null], next.stderr);
  });

  it('goes down with its parent, and so does what it set', async (t) => {
    const options = { host: site.server, stdio: 'pipe' };
    const daemon = new Daemon(t, ['--management', '--mode', 'server'], options);
    const controller = new Controller(daemon.child.stdout, daemon.child.stdin);
    await controller.result('start', serverConfig());
    const client = await site.connect();
    daemon.child.stdin.end();
    assert.deepEqual(await daemon.ended, [0, null], daemon.stderr);
    await client.agent.close();
    await site.assertAsFound();
  });
});

/** A daemon with a socket in a folder of its own. */
async function serving(t, { mode = 0o700, vpn = 'server', args = [], host, env } = {}) {
  const path = folder(t);
  chmodSync(path, mode);
  const socket = join(path, 'control.sock');
  const daemon = await Daemon.listening(t, socket, ['--mode', vpn, ...args], { host, env });
  return { socket, daemon };
}

/** A daemon as a child that is spoken to. */
async function child(t, mode, ...args) {
  const daemon = new Daemon(t, ['--management', '--mode', mode, ...args], { stdio: 'pipe' });
  const controller = new Controller(daemon.child.stdout, daemon.child.stdin);
  await controller.event('ready', (data) => data.mode === mode && data.protocol === 1);
  return { daemon, controller };
}

/** The error of a daemon that cannot listen at `socket`. */
async function refused(t, socket, ...args) {
  const daemon = new Daemon(t, ['--management-socket', socket, '--mode', 'server', ...args]);
  assert.deepEqual(await daemon.ended, [1, null], daemon.stderr);
  return JSON.parse(daemon.stdout).error;
}

/** What somebody else reads at the socket within a second; `privileges` are options of setpriv. */
function asUser(privileges, socket) {
  const groups = privileges.length > 0 ? privileges : ['--clear-groups'];
  const regid = groups.includes('--regid') ? [] : ['--regid', `${NOBODY}`];
  const argv = [
    '--reuid',
    `${NOBODY}`,
    ...regid,
    ...groups,
    'socat',
    '-u',
    '-T1',
    `UNIX-CONNECT:${socket}`,
    'STDOUT',
  ];
  return spawnSync('setpriv', argv, { encoding: 'utf8', timeout: 10_000 });
}

/** The processes that a process has started and that are there still. */
function childrenOf(pid) {
  const threads = readdirSync(`/proc/${pid}/task`);
  const lists = threads.map((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8'));
  return lists.flatMap((list) => list.split(' ').filter(Boolean));
}

/** How long `getStatus` takes, in milliseconds, several times. */
async function roundTrips(controller, count) {
  const times = [];
  for (let index = 0; index < count; index++) {
    controller.messages.length = 0;
    const began = performance.now();
    await controller.result('getStatus');
    times.push(performance.now() - began);
  }
  return times;
}

function summary(times) {
  const sorted = times.toSorted((a, b) => a - b);
  const round = (ms) => Math.round(ms * 100) / 100;
  return { median: round(sorted[Math.floor(sorted.length / 2)]), max: round(sorted.at(-1)) };
}

/** Whether a process runs; one that has ended may wait for its parent to notice. */
function isAlive(pid) {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${Number(pid)}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
