'use strict';

const assert = require('node:assert/strict');
const { createServer } = require('node:http');
const { connect } = require('node:net');
const { test } = require('node:test');

const { checkClient } = require('../../lib/cli/doctor/client.js');

const HOST = { env: {}, now: Date.now, read: () => undefined, sudo: (command) => command };

/** A server that lets a WebSocket through, and a proxy that asks for a user; the proxy alone knows where it is. */
async function listen(t) {
  const open = new Set();
  const server = createServer().on('upgrade', (request, socket) => {
    socket.end('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
  });
  const proxy = createServer().on('connect', ({ url, headers }, near) => {
    const credentials = Buffer.from('me:p@ss').toString('base64');
    if (headers['proxy-authorization'] !== `Basic ${credentials}`) {
      near.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    } else if (!url.startsWith('vpn.invalid:')) {
      near.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    } else {
      const far = connect(server.address().port, '127.0.0.1', () => {
        near.write('HTTP/1.1 200 OK\r\n\r\n');
        near.pipe(far).pipe(near);
      });
      far.on('error', () => near.destroy());
      near.on('error', () => far.destroy());
    }
  });
  for (const one of [server, proxy]) {
    one.on('connection', (socket) => open.add(socket));
    await new Promise((resolve) => {
      one.listen(0, '127.0.0.1', resolve);
    });
  }
  t.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
    proxy.close();
  });
  return proxy.address().port;
}

async function states(config, env = {}) {
  const results = await checkClient({ ...HOST, env }, config);
  return Object.fromEntries(results.map((result) => [result.name, result]));
}

test('the way through a proxy is looked at as the client goes it', async (t) => {
  const port = await listen(t);
  const through = (userInfo, host = 'vpn.invalid') =>
    states({ serverUrl: `ws://${host}/`, proxy: `http://${userInfo}127.0.0.1:${port}` });

  const good = await through('me:p%40ss@');
  assert.equal(good.proxy.state, 'ok', JSON.stringify(good));
  assert.equal(good.upgrade.state, 'ok', JSON.stringify(good));
  assert.equal(good['server name'], undefined, 'the proxy looks it up');
  assert.doesNotMatch(JSON.stringify(good), /p%40ss|p@ss/);

  const nobody = await through('');
  assert.equal(nobody.proxy.state, 'fail');
  assert.match(nobody.proxy.message, /407/);
  assert.match(nobody.proxy.fix, /user:password/);
  assert.match((await through('me:p%40ss@', 'other.invalid')).proxy.message, /403/);
});

test('a proxy that is not there is the fault', async () => {
  const { proxy, upgrade } = await states({ serverUrl: 'ws://vpn.invalid/', proxy: 'http://127.0.0.1:1' });
  assert.equal(proxy.state, 'fail');
  assert.match(proxy.message, /127\.0\.0\.1:1 refuses connections/);
  assert.equal(upgrade, undefined);
});

test('the environment’s proxy is pointed at, unless the configuration wants none', async () => {
  const env = { https_proxy: 'http://me:secret@proxy.invalid:3128' };
  const config = { serverUrl: 'ws://127.0.0.1:1/' };
  const { proxy } = await states(config, env);
  assert.equal(proxy.state, 'warn');
  assert.match(proxy.message, /https_proxy/);
  assert.doesNotMatch(JSON.stringify(proxy), /secret/);
  assert.equal((await states({ ...config, proxy: '' }, env)).proxy, undefined);
});
