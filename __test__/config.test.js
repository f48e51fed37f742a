'use strict';

const assert = require('node:assert/strict');
const { resolve } = require('node:path');
const { test } = require('node:test');

const { VpnConfig, VpnError } = require('../index.js');
const { rejectsWith } = require('./support/assertions.js');
const { installFakeNative } = require('./support/fake-native.js');

const KEY = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';

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

test('files are the addon’s, and fail as it says', async () => {
  const body = { code: 'file-error', message: 'no', cause: 'No such file or directory (os error 2)' };
  const { saved } = installFakeNative({ loads: () => ({ error: body }), saves: () => body });
  for (const call of [VpnConfig.loadFromFile('a.json'), VpnConfig.saveToFile('a.json', { mtu: 1400 })]) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof VpnError);
      assert.deepEqual([error.code, error.message], ['file-error', 'no']);
      assert.deepEqual([error.cause.code, error.cause.errno], ['ENOENT', -2]);
      return true;
    });
  }
  assert.deepEqual(saved, [{ path: resolve('a.json'), config: { mtu: 1400 } }]);
});

test('a fault of the addon is internal', async () => {
  installFakeNative({
    loads: () => {
      throw Object.assign(new Error('it panicked'), { code: 'GenericFailure' });
    },
  });
  await assert.rejects(VpnConfig.loadFromFile('a.json'), { name: 'VpnError', code: 'internal' });
});

test('a path that is none is invalid-argument', async () => {
  installFakeNative();
  for (const path of [undefined, '', 7, {}, new URL('https://example.com/c.json')]) {
    await rejectsWith(VpnConfig.loadFromFile(path), 'invalid-argument');
    await rejectsWith(VpnConfig.saveToFile(path, {}), 'invalid-argument');
  }
});
