/** The resolvers of a client's host: set while the tunnel is up, and back as they were, however it ends. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';

import { assertFails } from './support/assert.mjs';
import { clientConfig, PORT, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith } from './support/traffic.mjs';

const BY_FILE = { servers: [WEB.address], by: 'file' };
const NONE = { servers: [], by: 'none' };

/** Nothing but the resolver leads into the tunnel, so that only its own route can be what leads there. */
const NO_ROUTES = { routes: [] };

describe('the host’s resolvers', { skip: requires('dig') }, () => {
  const site = useSite();

  it('are the server’s while connected, and asked through the tunnel', async () => {
    await serve();
    const { vpn, assignedIp } = await site.connect(NO_ROUTES);
    assert.deepEqual((await vpn.getStatus()).dns, BY_FILE);
    assert.deepEqual(await named(), [WEB.address]);
    assert.equal(await lookUp('web.test'), WEB.address);
    assert.equal(await deviceTo(WEB.address), (await interfaceWith(site.client, assignedIp)).ifname);
    const connected = vpn.seen('status').find(({ state }) => state === 'connected');
    assert.deepEqual(connected.dns, BY_FILE);

    await vpn.disconnect();
    assert.deepEqual((await vpn.getStatus()).dns, NONE);
    await site.assertAsFound(site.client);
  });

  it('are the configuration’s where it has some', async () => {
    await serve({ dns: ['192.0.2.53'] });
    const { vpn } = await site.connect({ ...NO_ROUTES, dns: [TUNNEL.server, WEB.address] });
    assert.deepEqual((await vpn.getStatus()).dns, { servers: [TUNNEL.server, WEB.address], by: 'file' });
    assert.deepEqual(await named(), [TUNNEL.server, WEB.address]);
  });

  it('are left alone with an empty list, and where nobody gives any', async () => {
    await serve();
    const { vpn } = await site.connect({ dns: [] });
    assert.deepEqual((await vpn.getStatus()).dns, NONE);
    assert.deepEqual(await named(), ['127.0.0.1']);
  });

  it('may have IPv6 addresses if the tunnel has', async () => {
    const server = await serve({ dns: [WEB.address6, WEB.address], subnet6: TUNNEL.subnet6 });
    const both = await site.connect(NO_ROUTES);
    assert.deepEqual((await both.vpn.getStatus()).dns.servers, [WEB.address6, WEB.address]);
    assert.equal(await lookUp('web.test', `@${WEB.address6}`), WEB.address);
    await both.vpn.disconnect();
    await server.vpn.stopServer();

    await server.vpn.start({ ...server.config, subnet6: undefined });
    const { vpn } = await site.connect(NO_ROUTES);
    assert.deepEqual((await vpn.getStatus()).dns, BY_FILE);
    await vpn.event('log', ({ message }) => message.includes(WEB.address6));
  });

  it('follow the server over a reconnect', async () => {
    const server = await serve();
    const { vpn } = await site.connect({ ...NO_ROUTES, reconnect: { baseDelayMs: 100, maxDelayMs: 300 } });
    await server.vpn.stopServer();
    const away = await vpn.event('status', ({ state }) => state === 'reconnecting');
    assert.deepEqual(away.dns, BY_FILE, 'nothing is asked beside the tunnel meanwhile');
    assert.deepEqual(await named(), [WEB.address]);
    vpn.forget();

    await server.vpn.start({ ...server.config, dns: [TUNNEL.server] });
    const back = await vpn.event('status', ({ state }) => state === 'connected');
    assert.deepEqual(back.dns, { servers: [TUNNEL.server], by: 'file' });
    assert.deepEqual(await named(), [TUNNEL.server]);
    assert.equal(await deviceTo(WEB.address), 'eth0', 'the former resolver has its old way again');
  });

  for (const [how, act] of Object.entries({
    'process.exit()': (agent) =>
      agent.run(() => void setImmediate(() => process.exit(0))).then(() => agent.ended),
    SIGTERM: (agent) => agent.kill('SIGTERM'),
    'stop()': (agent) => agent.run(({ vpns }) => vpns.values().next().value.stop()),
  })) {
    it(`come back after ${how}`, async () => {
      await serve();
      const { agent } = await site.connect();
      assert.deepEqual(await named(), [WEB.address]);
      await act(agent);
      await eventually(() => site.assertAsFound(site.client));
    });
  }

  it('come back at the next start after SIGKILL', async () => {
    await serve();
    const { agent } = await site.connect();
    await agent.kill();
    assert.deepEqual(await named(), [WEB.address]);
    const { vpn } = await site.connect({ dns: [] });
    assert.deepEqual(await named(), ['127.0.0.1']);
    await vpn.disconnect();
    await site.assertAsFound(site.client);
  });

  it('are asked for the server itself, and do not keep it from being found again', async () => {
    const server = await serve({ tlsCert: undefined, tlsKey: undefined });
    // The names of the internet: this one is the VPN server's there.
    const names = await site.agent(site.internet);
    const options = { address: SERVER.address };
    await names.run(async ({ load }, to) => (await load('./lab-web.mjs')).serveWeb(to), options);
    const before = await text();
    await site.client.sh('echo nameserver 10.90.1.1 > /etc/resolv.conf');
    const byName = {
      serverUrl: `ws://web.test:${PORT}/`,
      tlsCa: undefined,
      reconnect: { baseDelayMs: 100, maxDelayMs: 300 },
    };
    const { agent } = await site.connect(byName);
    await agent.kill();
    assert.deepEqual(await named(), [WEB.address], 'which nothing leads to now');

    const { vpn } = await site.connect(byName);
    assert.deepEqual((await vpn.getStatus()).dns, BY_FILE);
    await server.agent.close();
    await vpn.event('status', ({ state }) => state === 'reconnecting');
    vpn.forget();
    await site.serve(server.config);
    await vpn.event('status', ({ state }) => state === 'connected', 20_000);
    await vpn.disconnect();
    assert.deepEqual(await named(), ['10.90.1.1']);
    await site.client.sh(`printf '%s' '${before}' > /etc/resolv.conf`);
  });

  it('are a link again where they were one, and its target is not touched', async () => {
    await serve();
    await site.client.sh(`
      mv /etc/resolv.conf /run/kept
      echo nameserver 192.0.2.1 > /run/managed.conf
      ln -s ../run/managed.conf /etc/resolv.conf
    `);
    const { vpn } = await site.connect();
    assert.deepEqual(await named(), [WEB.address]);
    await site.client.sh('echo nameserver 192.0.2.2 > /run/managed.conf');
    await vpn.disconnect();
    assert.equal((await site.client.sh('readlink /etc/resolv.conf')).stdout, '../run/managed.conf\n');
    assert.deepEqual(await named(), ['192.0.2.2']);
    await site.client.sh('rm /etc/resolv.conf; mv /run/kept /etc/resolv.conf');
  });

  it('stay as somebody else has set them meanwhile', async () => {
    await serve();
    await site.client.sh('cp -p /etc/resolv.conf /run/kept');
    const { vpn } = await site.connect();
    await site.client.sh('echo nameserver 192.0.2.1 > /etc/resolv.conf');
    await vpn.disconnect();
    assert.deepEqual(await named(), ['192.0.2.1']);
    await site.client.sh('mv /run/kept /etc/resolv.conf');
  });

  it('are set in a file that a container’s runtime has mounted', async () => {
    await serve();
    await site.client.sh(`
      cp -p /etc/resolv.conf /run/mounted.conf
      mount --bind /run/mounted.conf /etc/resolv.conf
    `);
    try {
      const { vpn } = await site.connect();
      assert.deepEqual((await vpn.getStatus()).dns, BY_FILE);
      assert.equal(await lookUp('web.test'), WEB.address);
      await vpn.disconnect();
      assert.deepEqual(await named(), ['127.0.0.1']);
    } finally {
      await site.client.sh('umount /etc/resolv.conf; rm /run/mounted.conf');
    }
  });

  it('make connect() fail, and the host is as before, where they cannot be set', async () => {
    await serve();
    await site.client.sh('mount -o remount,ro /etc');
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    try {
      await assertFails(vpn.connect(clientConfig()), 'dns-failed', '/etc/resolv.conf', 'dns: []');
      await site.assertAsFound(site.client);
      await vpn.connect(clientConfig({ dns: [] }));
      await vpn.disconnect();
    } finally {
      await site.client.sh('mount -o remount,rw /etc');
    }
  });

  it('come back with the last of two tunnels', async () => {
    await serve();
    const listenAddr = `${SERVER.address}:${PORT + 1}`;
    await site.serve({ listenAddr, subnet: '10.9.0.0/24', dns: ['10.9.0.1'] });
    const second = { serverUrl: `wss://${listenAddr}/`, ...NO_ROUTES };
    for (const order of [
      [0, 1],
      [1, 0],
    ]) {
      const tunnels = [await site.connect(), await site.connect(second)];
      assert.deepEqual(await named(), ['10.9.0.1']);
      await tunnels[order[0]].vpn.disconnect();
      assert.deepEqual(await named(), [order[0] === 0 ? '10.9.0.1' : WEB.address]);
      await tunnels[order[1]].vpn.disconnect();
      await site.assertAsFound(site.client);
    }
  });

  it('are told to openresolv where that is in charge', { skip: openresolvMissing() }, async () => {
    await serve();
    await installOpenresolv();
    try {
      const before = await text();
      assert.match(before, /^# Generated by resolvconf\n/);
      const { vpn } = await site.connect(NO_ROUTES);
      assert.deepEqual((await vpn.getStatus()).dns, { servers: [WEB.address], by: 'resolvconf' });
      assert.deepEqual(await named(), [WEB.address], 'those of other interfaces are left out');
      assert.equal(await lookUp('web.test'), WEB.address);
      await vpn.disconnect();
      assert.equal(await text(), before);

      const { agent } = await site.connect(NO_ROUTES);
      await agent.kill();
      assert.deepEqual(await named(), [WEB.address]);
      await (await site.connect({ dns: [] })).vpn.disconnect();
      assert.equal(await text(), before);
    } finally {
      await removeOpenresolv();
    }
  });

  /** A server that gives the public host's DNS server as the resolver, and that server. */
  async function serve(config) {
    await site.serveWeb();
    return site.serve({ dns: [WEB.address], ...config });
  }

  async function text() {
    return (await site.client.sh('cat /etc/resolv.conf')).stdout;
  }

  /** The resolvers that the client's file names. */
  async function named() {
    return Array.from((await text()).matchAll(/^nameserver (\S+)$/gm), ([, address]) => address);
  }

  /** What the client's programs get for a name, of the resolvers in its file unless told otherwise. */
  async function lookUp(name, ...args) {
    const { stdout } = await site.client.exec(['dig', '+short', '+time=2', '+tries=3', ...args, name]);
    return stdout.trim();
  }

  /** The interface by which the client host sends to an address. */
  async function deviceTo(address) {
    const { stdout } = await site.client.exec(['ip', '-json', 'route', 'get', address]);
    return JSON.parse(stdout)[0].dev;
  }

  /** Puts openresolv in charge on the client host, with a record of another interface. */
  async function installOpenresolv() {
    const from = process.env.SMARTVPN_OPENRESOLV;
    await site.client.sh(`
      cp -p /etc/resolv.conf /run/kept
      mount -t tmpfs lab /usr/local/sbin
      cp -R ${from}/lib/resolvconf /run/openresolv
      cp ${from}/sbin/resolvconf /usr/local/sbin/resolvconf
      sed -i 's|/sbin/resolvconf|/usr/local&|; s|/lib/resolvconf|/run/openresolv|' \\
        /usr/local/sbin/resolvconf /run/openresolv/libc
      echo resolv_conf=/etc/resolv.conf > /etc/resolvconf.conf
      echo nameserver 192.0.2.1 | /usr/local/sbin/resolvconf -a eth0
    `);
  }

  async function removeOpenresolv() {
    await site.client.sh(`
      umount /usr/local/sbin
      rm -r /run/openresolv /run/resolvconf /etc/resolvconf.conf /etc/resolv.conf.bak
      mv /run/kept /etc/resolv.conf
    `);
  }
});

/** For `skip`: why openresolv is not here, or `false`. */
function openresolvMissing() {
  const folder = process.env.SMARTVPN_OPENRESOLV;
  if (folder && existsSync(`${folder}/sbin/resolvconf`)) return false;
  return (
    'SMARTVPN_OPENRESOLV must name a folder with the unpacked package: ' +
    '`apt-get download openresolv && dpkg-deb -x openresolv_*.deb FOLDER`'
  );
}
