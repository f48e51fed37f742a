/** Proxies: an HTTP proxy that the client goes through, and one before the server that speaks the PROXY protocol. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { assertFails } from './support/assert.mjs';
import { authority, clientConfig, PORT, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

/** The router between client and server, where the proxies are: as clients reach it, and as the server does. */
const ROUTER = '10.90.1.1';
const BEYOND = '10.90.0.1';
const PROXY_PORT = 3128;
const CREDENTIALS = 'me:p%40ss';
const NAME = `vpn.test:${PORT}`;

describe('a client behind an HTTP proxy', { skip: requires() }, () => {
  const site = useSite();
  const serverUrl = `wss://${NAME}/`;
  const through = `http://${CREDENTIALS}@${BEYOND}:${PROXY_PORT}`;
  let proxy;

  before(async () => {
    // Nothing but the proxy lets the client out, and nothing but the proxy knows the server's name.
    await site.internet.exec(['nft', '-f', '-'], {
      input: `table ip closed { chain out { type filter hook forward priority 0; tcp dport ${PORT} drop; }; }`,
    });
    proxy = await site.agent(site.internet);
    await proxy.run(serveConnect, { port: PROXY_PORT, user: 'me:p@ss', hosts: { [NAME]: SERVER.address } });
  });

  it('has a tunnel through it, and keeps the way to it', async () => {
    const server = await site.serve();
    const { vpn } = await site.connect({ serverUrl, proxy: through, routes: ['0.0.0.0/0'] });
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    assert.equal(await reaches(site.client, WEB.address), true);
    const status = await vpn.getStatus();
    assert.equal(status.serverAddr, NAME);
    assert.doesNotMatch(JSON.stringify([status, vpn.events]), /p@ss|p%40ss/);
    const [{ remoteAddr }] = await server.vpn.listClients();
    assert.match(remoteAddr, /^10\.90\.0\.1:\d+$/);
    const { stdout } = await site.client.exec(['ip', 'route', 'get', BEYOND]);
    assert.match(stdout, /via 10\.90\.1\.1 dev eth0/, 'the proxy is reached beside the tunnel');
    assert.equal((await vpn.getMtuInfo()).linkMtu, 1500);
  });

  it('comes back through it when it has cut the connection', async () => {
    await site.serve();
    const reconnect = { baseDelayMs: 100, maxDelayMs: 200 };
    const { vpn } = await site.connect({ serverUrl, proxy: through, routes: ['0.0.0.0/0'], reconnect });
    vpn.forget();
    await proxy.run(() => globalThis.cutTunnels());
    await vpn.event('status', ({ state }) => state === 'reconnecting');
    await vpn.event('status', ({ state }) => state === 'connected');
    assert.equal(await reaches(site.client, TUNNEL.server), true);
  });

  it('takes it from the environment, unless that exempts the server', async () => {
    await site.serve();
    const connect = async (env, config, ...failure) => {
      const agent = await site.agent(site.client, { env });
      const vpn = await agent.startedClient();
      const connecting = vpn.connect(clientConfig({ serverUrl, connectTimeoutMs: 1_500, ...config }));
      if (failure.length > 0) await assertFails(connecting, ...failure);
      else await connecting;
      await agent.close();
    };
    const HTTPS_PROXY = through;
    await connect({ HTTPS_PROXY });
    await connect({ HTTPS_PROXY: 'http://wrong.invalid:1', https_proxy: through });
    await connect({ HTTPS_PROXY, NO_PROXY: 'other.test' });
    await connect({ HTTPS_PROXY, NO_PROXY: '.test' }, {}, 'dns-lookup-failed', 'vpn.test');
    await connect({ HTTPS_PROXY }, { proxy: '' }, 'dns-lookup-failed', 'vpn.test');
    const direct = { serverUrl: `wss://${SERVER.address}:${PORT}/` };
    await connect({ HTTPS_PROXY, no_proxy: '10.90.0.0/16' }, direct, 'timeout', SERVER.address);
    await connect({ HTTPS_PROXY: 'socks5://proxy.test:1080' }, {}, 'invalid-config', 'HTTPS_PROXY');
    await connect({ HTTPS_PROXY: 'socks5://proxy.test:1080' }, { proxy: through });
  });

  for (const [what, config, ...words] of [
    ['wants a user', { proxy: `http://${BEYOND}:${PROXY_PORT}` }, '407', 'user'],
    ['does not know the user', { proxy: `http://me:x@${BEYOND}:${PROXY_PORT}` }, '407', 'does not accept'],
    ['does not reach the server', { serverUrl: `wss://vpn.test:1/` }, '502', 'vpn.test:1'],
    ['is not there', { proxy: `http://${BEYOND}:1` }, `${BEYOND}:1`, 'refuses'],
    ['has no address', { proxy: 'http://proxy.invalid:3128' }, 'proxy.invalid', 'resolve'],
  ]) {
    it(`is told if it ${what}`, async () => {
      const agent = await site.agent(site.client);
      const vpn = await agent.startedClient();
      const settings = clientConfig({ serverUrl, proxy: through, ...config });
      const error = await assertFails(vpn.connect(settings), 'proxy-error', ...words);
      assert.doesNotMatch(error.message, /p@ss|p%40ss/);
    });
  }
});

describe('a server behind a proxy that speaks the PROXY protocol', { skip: requires() }, () => {
  const site = useSite({ clients: 2 });
  const { certificate, key } = authority.issue([SERVER.address, ROUTER]);
  const config = { tlsCert: certificate, tlsKey: key, trustedProxies: [BEYOND], proxyProtocol: true };
  const serverUrl = `wss://${ROUTER}:${PORT}/`;

  for (const version of ['v1', 'v2']) {
    it(`hears from its header, ${version}, who connects`, async () => {
      const server = await site.serve(config);
      const relay = await site.agent(site.internet);
      await relay.run(serveRelay, { port: PORT, server: SERVER.address, version });
      await site.connect({ serverUrl, name: 'behind' });
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      const known = await relay.run(() => globalThis.sources);
      // Another client needs no header at the same time.
      await site.connect({ name: 'direct' }, { host: site.clients[1] });
      const clients = await server.vpn.listClients();
      const byName = Object.fromEntries(clients.map(({ name, remoteAddr }) => [name, remoteAddr]));
      assert.deepEqual(known, [byName.behind]);
      assert.match(byName.behind, /^10\.90\.1\.2:\d+$/);
      assert.match(byName.direct, /^10\.90\.2\.2:\d+$/);
    });
  }

  it('serves what the proxy itself connects for', async () => {
    const server = await site.serve(config);
    const relay = await site.agent(site.internet);
    await relay.run(serveRelay, { port: PORT, server: SERVER.address, version: 'local' });
    await site.connect({ serverUrl });
    assert.match((await server.vpn.listClients())[0].remoteAddr, /^10\.90\.0\.1:\d+$/);
  });

  for (const version of ['none', 'nonsense']) {
    it(`does not answer the proxy without a header: ${version}`, async () => {
      const server = await site.serve(config);
      const relay = await site.agent(site.internet);
      await relay.run(serveRelay, { port: PORT, server: SERVER.address, version });
      const agent = await site.agent(site.client);
      const vpn = await agent.startedClient();
      await assertFails(vpn.connect(clientConfig({ serverUrl })), /^(connection-lost|tls-error)$/, ROUTER);
      assert.equal((await server.vpn.getStatistics()).totalConnections, 0);
      // Nobody else is hurt.
      await site.connect({}, { host: site.clients[1] });
      await eventually(async () => (await server.vpn.listClients()).length === 1);
    });
  }

  it('believes nobody else', async () => {
    const server = await site.serve({ ...config, trustedProxies: ['192.0.2.1'] });
    const relay = await site.agent(site.internet);
    await relay.run(serveRelay, { port: PORT, server: SERVER.address, version: 'v1' });
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    await assertFails(vpn.connect(clientConfig({ serverUrl })), /^(tls-error|connection-lost)$/);
    assert.equal((await server.vpn.getStatistics()).totalConnections, 0);
  });
});

/** An HTTP proxy that asks for a user and knows its hosts by name. Runs in an agent. */
async function serveConnect({ load }, { port, user, hosts }) {
  const { createServer } = await load('node:http');
  const { connect } = await load('node:net');
  const wanted = `Basic ${Buffer.from(user).toString('base64')}`;
  const tunnels = new Set();
  globalThis.cutTunnels = () => {
    for (const tunnel of tunnels) tunnel.destroy();
  };
  const server = createServer();
  server.on('connect', ({ url, headers }, near, early) => {
    near.on('error', () => {});
    if (headers['proxy-authorization'] !== wanted) {
      near.end('HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="lab"\r\n\r\n');
    } else if (!hosts[url]) {
      near.end('HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n');
    } else {
      const far = connect(Number(url.split(':')[1]), hosts[url], () => {
        near.write('HTTP/1.1 200 Connection established\r\n\r\n');
        far.write(early);
        near.pipe(far).pipe(near);
      });
      far.on('error', () => near.destroy()).on('close', () => near.destroy());
      near.on('close', () => {
        far.destroy();
        tunnels.delete(near);
      });
      tunnels.add(near);
    }
  });
  await new Promise((resolve) => server.listen(port, resolve));
}

/** Passes TCP on, behind a header that says from where. Runs in an agent. */
async function serveRelay({ load }, { port, server, version }) {
  const { connect, createServer } = await load('node:net');
  const octets = (address) => address.split('.').map(Number);
  const pair = (number) => [number >> 8, number & 0xff];
  const binary = (command, family, block) =>
    Buffer.from([...Buffer.from('\r\n\r\n\0\r\nQUIT\n'), command, family, ...pair(block.length), ...block]);
  const header = (from, fromPort, to, toPort) =>
    ({
      v1: `PROXY TCP4 ${from} ${to} ${fromPort} ${toPort}\r\n`,
      // With an extension behind the addresses, of a kind that says nothing.
      v2: binary(0x21, 0x11, [
        ...octets(from),
        ...octets(to),
        ...pair(fromPort),
        ...pair(toPort),
        4,
        0,
        2,
        0,
        0,
      ]),
      local: binary(0x20, 0, []),
      none: '',
      nonsense: 'PROXY TCP4 nobody nowhere 1 2\r\n',
    })[version];
  globalThis.sources = [];
  const listener = createServer((near) => {
    const [from, to] = [near.remoteAddress, near.localAddress].map((address) =>
      address.replace('::ffff:', ''),
    );
    globalThis.sources.push(`${from}:${near.remotePort}`);
    const far = connect(port, server, () => {
      far.write(header(from, near.remotePort, to, near.localPort));
      near.pipe(far).pipe(near);
    });
    far.on('error', () => near.destroy()).on('close', () => near.destroy());
    near.on('error', () => far.destroy()).on('close', () => far.destroy());
  });
  await new Promise((resolve) => listener.listen(port, resolve));
}
