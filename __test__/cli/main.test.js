'use strict';

const assert = require('node:assert/strict');
const { mkdtempSync, readFileSync, readdirSync, rmSync, statSync } = require('node:fs');
const { createServer } = require('node:net');
const { tmpdir } = require('node:os');
const { join, resolve } = require('node:path');
const { createInterface } = require('node:readline');
const { Readable } = require('node:stream');
const { test } = require('node:test');

const { COMMANDS, main } = require('../../lib/cli/main.js');
const { freeSubnet, overlaps, parseNetwork, usedNetworks } = require('../../lib/cli/subnet.js');
const { commandLine } = require('../../lib/cli/shell.js');
const { INVITE, KEYS, installFakeNative } = require('../support/fake-native.js');

/** Runs a command line, and resolves with its exit code and what it printed. */
async function run(...argv) {
  return runWith({}, ...argv);
}

async function runWith({ stdin, terminal = {} }, ...argv) {
  let [stdout, stderr] = ['', ''];
  const code = await main(argv, {
    stdin,
    stdout: { write: (text) => (stdout += text), ...terminal },
    stderr: { write: (text) => (stderr += text) },
    env: {},
    now: Date.now,
    process,
    exit: assert.fail,
    unread: new AbortController().signal,
  });
  return { code, stdout, stderr };
}

function makeFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-cli-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** A daemon's control socket, whose answers are `answers`. */
async function standIn(t, mode, answers) {
  const requests = [];
  const path = join(makeFolder(t), 'control.sock');
  const server = createServer((socket) => {
    const send = (message) => socket.write(`${JSON.stringify(message)}\n`);
    socket.on('error', () => {});
    send({ event: 'ready', data: { version: '0.0.0', protocol: 1, mode } });
    createInterface({ input: socket }).on('line', (line) => {
      const { id, method, params } = JSON.parse(line);
      requests.push({ method, params });
      const answer = answers[method];
      if (answer?.code) send({ id, success: false, error: answer });
      else send({ id, success: true, result: answer ?? null });
    });
  });
  await new Promise((listening) => server.listen(path, listening));
  t.after(() => server.close());
  return { path, requests };
}

test('every command has help with its options and the exit codes', async () => {
  for (const { name, options, positionals } of COMMANDS) {
    const { code, stdout, stderr } = await run(...name.split(' '), '--help');
    assert.equal(code, 0, stderr);
    for (const option of [...Object.keys(options), 'json', 'help'])
      assert.ok(stdout.includes(`--${option}`), option);
    for (const positional of positionals) assert.ok(stdout.includes(positional.name));
    assert.match(stdout, /Exit codes:[^]*3 +no daemon was reached/);
  }
  const { stdout } = await run('--help');
  for (const { name } of COMMANDS) assert.ok(stdout.includes(`  ${name}`));
});

test('a wrong command line is told in one line, with what was probably meant', async () => {
  for (const [argv, words] of [
    [['statsu'], /no command "statsu"\. Did you mean status\?/],
    [['init', 'sever'], /Did you mean `init server`\?/],
    [['init'], /followed by server or client/],
    [['--sockt', 'x', 'status'], /The command comes first/],
    [['status', '--sokcet', 'x'], /no option --sokcet\. Did you mean --socket\?/],
    [['status', '--socket'], /--socket/],
    [['status', 'x'], /"x" is too much/],
    [['kick'], /ID is missing/],
    [['install', 'serve', '--config', 'x'], /MODE cannot be "serve"\. Did you mean server\?/],
    [['install', 'server'], /--config is missing/],
    [['keygen'], /Say where the private key goes/],
    [['limit', 'c1', 'fast'], /RATE must be/],
    [['limit', 'c1', '-5'], /-5/],
    [['limit', 'c1', '1m'], /RATE must be/],
    [['limit', 'c1', '1M', '0'], /BURST must be/],
    [['limit', 'c1', 'off', '1M'], /`off` takes no BURST/],
    [['invite', '--expires', '1w'], /--expires must be a time/],
    [['invite', '--expires', '0'], /--expires must be a time/],
    [['invite', '--uses', '0'], /--uses must be/],
    [['join'], /URL is missing/],
  ]) {
    const { code, stdout, stderr } = await run(...argv);
    assert.equal(code, 2, argv.join(' '));
    assert.match(stderr, words);
    assert.equal(stderr.trimEnd().split('\n').length, 1);
    assert.equal(stdout, '');
  }
  assert.equal((await run()).code, 2);
});

test('a failure is JSON besides where JSON was asked for', async () => {
  installFakeNative();
  const { code, stdout, stderr } = await run('status', '--socket', '/nonexistent/x.sock', '--json');
  assert.equal(code, 3);
  assert.equal(JSON.parse(stdout).error.code, 'control-unavailable');
  assert.match(stderr, /^smartvpn: control-unavailable: .*\n$/);
});

test('keygen prints the private key only as JSON', async () => {
  installFakeNative();
  assert.deepEqual(JSON.parse((await run('keygen', '--json')).stdout), KEYS);
});

test('a server is asked what the command says', async (t) => {
  const { path, requests } = await standIn(t, 'server', {
    getStatus: { state: 'connected', serverAddr: '0.0.0.0:443', assignedIp: '10.8.0.1' },
    getStatistics: {
      bytesSent: 1e6,
      bytesReceived: 5,
      packetsSent: 1,
      packetsReceived: 2,
      packetsDropped: 0,
    },
    listClients: [],
  });
  const socket = ['--socket', path];
  const status = await run('status', ...socket);
  assert.equal(status.code, 0, status.stderr);
  assert.match(status.stdout, /^smartvpn server: serving\n[^]*sent +1\.0 MB in 1 packet\n/);
  assert.equal((await run('clients', ...socket)).stdout, 'Nobody is connected.\n');
  requests.length = 0;
  for (const argv of [
    ['kick', 'c1'],
    ['limit', 'c1', '1.5M', '64k'],
    ['limit', 'c1', '1k'],
    ['limit', 'c1', 'off'],
  ]) {
    assert.equal((await run(...argv, ...socket)).code, 0, argv.join(' '));
  }
  assert.deepEqual(requests, [
    { method: 'disconnectClient', params: { id: 'c1' } },
    { method: 'setClientRateLimit', params: { id: 'c1', rateBytesPerSec: 1_500_000, burstBytes: 64_000 } },
    { method: 'setClientRateLimit', params: { id: 'c1', rateBytesPerSec: 1000, burstBytes: 65_536 } },
    { method: 'removeClientRateLimit', params: { id: 'c1' } },
  ]);
});

test('an invite is asked for, and printed with a QR code on a terminal', async (t) => {
  installFakeNative({ qr: () => `${'█'.repeat(60)}\n${'▀'.repeat(60)}\n` });
  const { path, requests } = await standIn(t, 'server', { createInvite: INVITE });
  const argv = ['invite', '--socket', path];
  const plain = await run(...argv, '--name', 'phone', '--expires', '2h', '--uses', '3', '--url', 'ws://x/');
  assert.equal(plain.code, 0, plain.stderr);
  const { url, expiresAt } = INVITE;
  const next = `Good for 3 clients, until ${expiresAt}. On the client:\n  npx smartvpn join '${url}'\n`;
  assert.equal(plain.stdout, `${url}\n\n${next}`);
  const options = { name: 'phone', expiresInSecs: 7200, uses: 3, serverUrl: 'ws://x/' };
  assert.deepEqual(requests, [{ method: 'createInvite', params: options }]);
  assert.deepEqual(JSON.parse((await run(...argv, '--json')).stdout), INVITE);
  assert.match((await run(...argv, '--qr')).stdout, /^vpn:.*\n\n█{60}\n▀{60}\n\nGood for one client/);

  const wide = await runWith({ terminal: { isTTY: true, columns: 80 } }, ...argv);
  assert.ok(wide.stdout.includes(`\u001b[38;5;16;48;5;231m${'█'.repeat(60)}\u001b[0m\n`));
  const narrow = await runWith({ terminal: { isTTY: true, columns: 59 } }, ...argv);
  assert.doesNotMatch(narrow.stdout, /█/);
  assert.match(narrow.stderr, /takes 60 columns/);
});

test('a URL too long for a QR code is printed without one', async (t) => {
  installFakeNative({ qr: () => null });
  const { path } = await standIn(t, 'server', { createInvite: INVITE });
  const { code, stdout, stderr } = await run('invite', '--socket', path, '--qr');
  assert.equal(code, 0);
  assert.match(stdout, /^vpn:.*\n\nGood/);
  assert.match(stderr, /too long/);
});

test('joining writes the file and says how to connect', async () => {
  const { joined } = installFakeNative();
  const file = resolve('vpn.json');
  const { code, stdout, stderr } = await run('join', INVITE.url, '--config', 'vpn.json', '--name', 'laptop');
  assert.equal(code, 0, stderr);
  assert.deepEqual(joined, [{ url: INVITE.url, name: 'laptop', file }]);
  assert.match(
    stdout,
    /^Joined wss:\/\/vpn\.example\.com\/\..*\n\nConnect:\n {2}(sudo )?npx smartvpn up vpn\.json\n$/,
  );
  assert.ok(!stdout.includes(KEYS.privateKey));
  const { file: named, next } = JSON.parse((await run('join', INVITE.url, '--json')).stdout);
  assert.equal(named, resolve('client.json'));
  assert.match(next.here, /smartvpn up client\.json$/);
});

test('an invite can come from the standard input', async () => {
  const { joined } = installFakeNative();
  const { code } = await runWith({ stdin: Readable.from([`  ${INVITE.url}`, '\nmore']) }, 'join', '-');
  assert.equal(code, 0);
  assert.equal(joined[0].url, INVITE.url);
  const nothing = await runWith({ stdin: Readable.from(['\n']) }, 'join', '-');
  assert.equal(nothing.code, 2);
});

test('an invite that is refused is told in one line, without the invite', async () => {
  installFakeNative({ joins: () => ({ error: { code: 'unauthorized', message: 'it is used up' } }) });
  const { code, stdout, stderr } = await run('join', INVITE.url);
  assert.deepEqual([code, stdout, stderr], [1, '', 'smartvpn: unauthorized: it is used up\n']);
});

test('what a daemon refuses ends with another code than no daemon', async (t) => {
  const { path } = await standIn(t, 'server', {
    disconnectClient: { code: 'unknown-client', message: 'nobody' },
  });
  assert.equal((await run('kick', 'c9', '--socket', path)).code, 4);
  const client = await standIn(t, 'client', {});
  assert.equal((await run('kick', 'c9', '--socket', client.path)).code, 3);
});

test('a new file is its owner\u2019s alone, and no file is replaced', async (t) => {
  const file = join(makeFolder(t), 'client.json');
  const { claimFile } = require('../../lib/cli/new-file.js');
  await claimFile(file, false, async () => {});
  assert.equal(statSync(file).mode & 0o777, 0o600);
  await assert.rejects(claimFile(file, false, assert.fail), { code: 'file-error' });
  const other = join(makeFolder(t), 'x.json');
  await assert.rejects(
    claimFile(other, false, () => Promise.reject(new Error('full'))),
    /full/,
  );
  assert.deepEqual(readdirSync(join(other, '..')), []);
  assert.equal(readFileSync(file, 'utf8'), '');
});

test('a free subnet overlaps no route, of whatever table', () => {
  const routes =
    'Id 77:\n  |-- 10.8.0.0\n     /14 universe UNREACHABLE\nMain:\n  +-- 0.0.0.0/0 3 0 5\n  |-- 0.0.0.0\n     /0 universe UNICAST\n  |-- 10.12.0.0\n     /24 link UNICAST\n     /16 link UNICAST\n';
  const used = usedNetworks(routes);
  assert.equal(used.length, 3, 'a default route uses no network');
  assert.equal(freeSubnet(used), '10.13.0.0/24');
  assert.equal(freeSubnet([]), '10.8.0.0/24');
  assert.equal(freeSubnet([parseNetwork('10.0.0.0/8')]), '172.16.0.0/24');
  assert.equal(freeSubnet(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'].map(parseNetwork)), undefined);
  assert.equal(overlaps(parseNetwork('10.0.0.0/8'), parseNetwork('11.0.0.0/8')), false);
  assert.equal(parseNetwork('10.0.0.256/8') ?? parseNetwork('x') ?? parseNetwork('1.2.3.4/33'), undefined);
});

test('a command line to type is quoted for a shell', () => {
  assert.equal(commandLine(['smartvpn', 'up', "a b'c.json"]), String.raw`npx smartvpn up 'a b'\''c.json'`);
});
