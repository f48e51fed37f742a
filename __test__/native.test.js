'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');

const { target } = require('../lib/platform.js');
const { PACKAGE, copyLibrary } = require('./support/copy.js');

const HERE = target();
const NAME = `smartvpn-${HERE}`;

test('an addon that does not load on this system says why', async (t) => {
  const { load } = copyLibrary(t, {
    platforms: [HERE],
    files: {
      [`../${NAME}/package.json`]: JSON.stringify({ name: NAME, version: PACKAGE.version }),
      [`../${NAME}/smartvpn.${HERE}.node`]: 'not what the system expects of an addon',
    },
  });
  const { VpnClient, VpnConfig, VpnError } = load('index.js');
  const refused = (error) => {
    assert.ok(error instanceof VpnError);
    assert.equal(error.code, 'unsupported-platform');
    // The system's words: a library that is missing, a symbol of a newer one, a header that is none.
    assert.ok(error.cause.message.includes(`smartvpn.${HERE}.node`), error.cause.message);
    assert.ok(error.message.includes(error.cause.message), error.message);
    return true;
  };
  await assert.rejects(new VpnClient().start(), refused);
  assert.throws(() => VpnConfig.validateClientConfig({}), refused);
});

test('without its package, start() rejects and the object stays usable', async (t) => {
  const { load } = copyLibrary(t, { platforms: [HERE] });
  const { VpnServer } = load('index.js');
  const server = new VpnServer();
  for (let attempt = 0; attempt < 2; attempt++) {
    await assert.rejects(server.start(), { code: 'unsupported-platform' });
    assert.equal(server.running, false);
  }
  await server.close();
});
