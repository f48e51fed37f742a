'use strict';

const assert = require('node:assert/strict');
const {
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { test } = require('node:test');
const { pathToFileURL } = require('node:url');

const { VpnConfig, VpnError } = require('../index.js');
const { rejectsWith } = require('./support/assertions.js');
const { installFakeNative } = require('./support/fake-native.js');

const KEY = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';

function makeFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

test('the checks are the addon’s, and throw what it says', () => {
  const { validations } = installFakeNative({
    validate: (mode) =>
      mode === 'server' ? { code: 'invalid-config', message: 'subnet is missing', path: 'subnet' } : null,
  });
  assert.equal(VpnConfig.validateClientConfig({ serverUrl: 'ws://x/' }), undefined);
  assert.throws(() => VpnConfig.validateServerConfig({}), {
    name: 'VpnError',
    code: 'invalid-config',
    message: 'subnet is missing',
    path: 'subnet',
  });
  assert.deepEqual(validations, [
    { mode: 'client', config: { serverUrl: 'ws://x/' } },
    { mode: 'server', config: {} },
  ]);
});

test('what is no configuration at all is invalid-config, too', () => {
  installFakeNative();
  for (const config of [undefined, null, 7, 'x', [], { f() {} }, { s: Symbol('x') }]) {
    assert.throws(() => VpnConfig.validateClientConfig(config), { code: 'invalid-config' });
    assert.throws(() => VpnConfig.validateServerConfig(config), VpnError);
  }
});

test('a message never quotes a value, which may be a key', () => {
  installFakeNative();
  assert.throws(
    () => VpnConfig.validateClientConfig(KEY),
    (error) => !error.stack.includes(KEY),
  );
});

test('a file written is read as it was, and by its owner only', async (t) => {
  const file = join(makeFolder(t), 'server.json');
  const config = { listenAddr: '0.0.0.0:443', privateKey: KEY, dns: ['1.1.1.1'], stateDir: null };
  await VpnConfig.saveToFile(file, config);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(await VpnConfig.loadFromFile(file), config);
  assert.deepEqual(await VpnConfig.loadFromFile(pathToFileURL(file)), config);
});

test('writing replaces a file whole, with its mode, and leaves nothing beside it', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'c.json');
  writeFileSync(file, 'x'.repeat(10_000), { mode: 0o644 });
  await VpnConfig.saveToFile(file, { mtu: 1400 });
  assert.equal(readFileSync(file, 'utf8'), '{\n  "mtu": 1400\n}\n');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(folder), ['c.json']);
});

test('writing through a symbolic link replaces what it points to', async (t) => {
  const folder = makeFolder(t);
  writeFileSync(join(folder, 'real.json'), '{}');
  symlinkSync('real.json', join(folder, 'link.json'));
  await VpnConfig.saveToFile(join(folder, 'link.json'), { mtu: 1400 });
  assert.deepEqual(JSON.parse(readFileSync(join(folder, 'real.json'), 'utf8')), { mtu: 1400 });
  assert.deepEqual(readdirSync(folder).toSorted(), ['link.json', 'real.json']);
});

test('a write that fails leaves the old file, and nothing beside it', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'folder.json');
  await rejectsWith(VpnConfig.saveToFile(join(folder, 'none', 'c.json'), {}), 'file-error', /ENOENT/);
  symlinkSync(folder, file);
  await rejectsWith(VpnConfig.saveToFile(file, {}), 'file-error');
  assert.deepEqual(readdirSync(folder), ['folder.json']);
});

test('relative paths in a file start at its folder; PEM text and absolute ones stay', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'c.json');
  const pem = '-----BEGIN CERTIFICATE-----\n';
  const written = { tlsCert: 'tls/cert.pem', tlsKey: '/etc/key.pem', tlsCa: pem, stateDir: 'state' };
  writeFileSync(file, JSON.stringify(written));
  assert.deepEqual(await VpnConfig.loadFromFile(file), {
    tlsCert: join(folder, 'tls/cert.pem'),
    tlsKey: '/etc/key.pem',
    tlsCa: pem,
    stateDir: join(folder, 'state'),
  });
});

test('a file that cannot be read, or holds no JSON object, says why without quoting it', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'c.json');
  await rejectsWith(VpnConfig.loadFromFile(join(folder, 'none.json')), 'file-error', /ENOENT/);
  await rejectsWith(VpnConfig.loadFromFile(folder), 'file-error', /EISDIR/);
  for (const [text, message] of [
    ['', /not valid JSON/],
    [`{\n  "privateKey": "${KEY}",\n}`, /not valid JSON \(line 3, column 1\)/],
    [KEY, /not valid JSON/],
    ['[]', /must be an object, not an array/],
    ['null', /must be an object/],
  ]) {
    writeFileSync(file, text);
    await assert.rejects(VpnConfig.loadFromFile(file), (error) => {
      assert.equal(error.code, 'invalid-config');
      assert.match(error.message, message);
      assert.ok(!require('node:util').inspect(error).includes(KEY.slice(0, 8)));
      return true;
    });
  }
});

test('a path that is none is invalid-argument', async () => {
  for (const path of [undefined, '', 7, {}, new URL('https://example.com/c.json')]) {
    await rejectsWith(VpnConfig.loadFromFile(path), 'invalid-argument');
    await rejectsWith(VpnConfig.saveToFile(path, {}), 'invalid-argument');
  }
});

test('the cause of a file error is the system’s', async (t) => {
  const file = join(makeFolder(t), 'c.json');
  await assert.rejects(VpnConfig.loadFromFile(file), (error) => error.cause.code === 'ENOENT');
});
