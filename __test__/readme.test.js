'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { after, before, test } = require('node:test');

const smartvpn = require('../index.js');
const { ROOT } = require('./support/child.js');
const { PROGRAMS, README } = require('./support/readme.js');
const { startSocketDaemon } = require('./support/stand-in-daemon.js');

const TYPES = readFileSync(join(ROOT, 'index.d.ts'), 'utf8');

let folder;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'smartvpn-readme-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules/smartvpn'));
  for (const [name, text] of Object.entries(PROGRAMS)) writeFileSync(join(folder, name), text);
});
after(() => rmSync(folder, { recursive: true }));

/** Runs a program on a fake addon until it ends, or says `until`; then it is told to end. */
async function runProgram(name, args = [], until) {
  const preload = join(__dirname, 'support/preload-fake.js');
  const child = spawn(process.execPath, ['--require', preload, name, ...args], {
    cwd: folder,
    timeout: 10_000,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      if (until?.test(output)) child.kill('SIGTERM');
    });
  }
  const [code, signal] = await once(child, 'close');
  return { code, signal, output };
}

test('the README has the programs of the quick start', () => {
  assert.deepEqual(
    Object.keys(PROGRAMS).filter((name) => !/^\d/.test(name)),
    ['keys.mjs', 'server.mjs', 'client.mjs', 'server-tls.mjs', 'client-tls.mjs', 'socket.mjs'],
  );
});

test('keys.mjs prints the public key and writes server.json', async () => {
  const { code, output } = await runProgram('keys.mjs');
  assert.equal(code, 0, output);
  const { publicKey } = JSON.parse(readFileSync(join(folder, 'server.json'), 'utf8'));
  assert.equal(output, `${publicKey}\n`);
});

test('server.mjs serves until it is told to end', async () => {
  const { signal, output } = await runProgram('server.mjs', [], /Serving on/);
  assert.equal(signal, 'SIGTERM', output);
});

test('client.mjs connects, and stays', async () => {
  const { signal, output } = await runProgram(
    'client.mjs',
    ['ws://192.0.2.10:8443/', 'key'],
    /This machine is/,
  );
  assert.equal(signal, 'SIGTERM', output);
  assert.match(output, /connecting[^]*connected[^]*This machine is 10\.8\.0\.2 in the tunnel/);
});

for (const name of Object.keys(PROGRAMS).filter(
  (file) => !['keys.mjs', 'server.mjs', 'client.mjs', 'socket.mjs'].includes(file),
)) {
  test(`${name} runs, and holds its process`, async () => {
    writeFileSync(join(folder, name), `${PROGRAMS[name]}\nconsole.log('done');\n`);
    const { signal, output } = await runProgram(name, ['key'], /done/);
    assert.equal(signal, 'SIGTERM', output);
  });
}

test('socket.mjs asks a daemon that runs already, and leaves it running', async (t) => {
  const daemon = await startSocketDaemon(t, { answers: { getStatus: () => ({ state: 'connected' }) } });
  const program = PROGRAMS['socket.mjs'].replace('/run/smartvpn/client.sock', daemon.path);
  writeFileSync(join(folder, 'socket.mjs'), program);
  const { code, output } = await runProgram('socket.mjs');
  assert.deepEqual([code, output], [0, "{ state: 'connected' }\n"]);
  assert.deepEqual(daemon.methods, ['getStatus']);
});

test('the README names every method, event, configuration field and error code', () => {
  const missing = namesToExplain().filter(
    (name) => !README.includes(`\`${name}`) && !README.includes(`.${name}(`),
  );
  assert.deepEqual(missing, []);
});

function namesToExplain() {
  const methods = [smartvpn.VpnClient, smartvpn.VpnServer].flatMap(({ prototype }) =>
    Object.getOwnPropertyNames(prototype).filter((name) => name !== 'constructor'),
  );
  const fields = ['IVpnClientConfig', 'IVpnServerConfig'].flatMap((name) =>
    Array.from(declaration(`export interface ${name} {`).matchAll(/^ {2}(\w+)\??:/gm), ([, field]) => field),
  );
  const codes = Array.from(
    TYPES.slice(TYPES.indexOf('export type TVpnErrorCode')).matchAll(/^ {2}\| '([a-z-]+)'/gm),
    ([, code]) => code,
  );
  return [...methods, ...fields, ...codes];
}

function declaration(start) {
  const from = TYPES.indexOf(start);
  return TYPES.slice(from, TYPES.indexOf('\n}', from));
}
