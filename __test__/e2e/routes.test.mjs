/** What the client sends into the tunnel, and what must never leave beside it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';

import { PORT, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, ping, reaches } from './support/traffic.mjs';

describe('routes into the tunnel', { skip: requires('tcpdump') }, () => {
  const site = useSite();

  it('are the VPN subnet alone unless more are asked for', async () => {
    await site.serve();
    const { assignedIp } = await site.connect({ routes: [] });
    const { ifname } = await interfaceWith(site.client, assignedIp);
    assert.equal(await wayTo(TUNNEL.server), ifname);
    assert.equal(await wayTo(WEB.address), 'eth0');
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    assert.equal(await reaches(site.client, WEB.address), false);
  });

  it('may be everything without the tunnel looping through itself', async () => {
    await site.serve();
    await watchLeaks();
    await ping(site.client, WEB.address, { count: 1 });
    assert.ok((await leaked()) > 0, 'without a tunnel the leak is seen');

    const { assignedIp, vpn } = await site.connect({ routes: ['0.0.0.0/0'] });
    const { ifname } = await interfaceWith(site.client, assignedIp);
    await watchLeaks();
    assert.equal(await wayTo(SERVER.address), 'eth0', 'the server keeps its old way');
    assert.equal(await wayTo(WEB.address), ifname);
    assert.equal(await wayTo('198.51.100.1'), ifname);
    assert.equal((await ping(site.client, WEB.address, { count: 20, intervalSecs: 0.01 })).received, 20);
    await reaches(site.client, '198.51.100.1', { count: 1 });
    assert.equal(await leaked(), 0);
    await site.internet.exec(['nft', 'delete', 'table', 'inet', 'watch']);
    assert.ok((await vpn.getStatistics()).packetsSent < 100, 'nothing goes round in circles');
  });

  it('make IPv6 unreachable where the tunnel has none', async () => {
    await site.serve();
    assert.equal(await reaches(site.client, SERVER.address6), true);
    const { vpn } = await site.connect({ routes: ['0.0.0.0/0'] });
    const { output } = await ping(site.client, WEB.address6, { count: 1 });
    assert.match(output, /unreachable|no route/i);
    assert.equal((await ping(site.client, SERVER.address6, { count: 1 })).received, 0);
    assert.equal(await reaches(site.client, 'fd90:1::1'), true, 'neighbours stay');
    await vpn.event('log', ({ message }) => /IPv6/.test(message));
    await vpn.disconnect();
    assert.equal(await reaches(site.client, SERVER.address6), true);
  });

  it('may be everything of both families', async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    await site.connect({ routes: ['0.0.0.0/0', '::/0'] });
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.equal(await reaches(site.client, WEB.address6), true);
  });

  it('may be everything over a server that is reached by IPv6', async () => {
    await site.serve({ listenAddr: `[${SERVER.address6}]:${PORT}`, subnet6: TUNNEL.subnet6 });
    const serverUrl = `wss://[${SERVER.address6}]:${PORT}/`;
    const client = await site.connect({ serverUrl, routes: ['0.0.0.0/0', '::/0'] });
    assert.equal(await reaches(site.client, WEB.address6), true);
    assert.equal((await client.vpn.getStatus()).serverAddr, `[${SERVER.address6}]:${PORT}`);
  });

  it('leave the server its own way even when it has no IPv6 to give', async () => {
    await site.serve({ listenAddr: `[${SERVER.address6}]:${PORT}` });
    const serverUrl = `wss://[${SERVER.address6}]:${PORT}/`;
    await site.connect({ serverUrl, routes: ['0.0.0.0/0'] });
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.match((await ping(site.client, WEB.address6, { count: 1 })).output, /unreachable|no route/i);
  });

  it('may hold the server’s own network', async () => {
    await site.serve();
    await site.connect({ routes: ['10.90.0.0/24', WEB.network] });
    assert.equal(await wayTo(SERVER.address), 'eth0');
    assert.equal(await reaches(site.client, WEB.address), true);
  });

  it('find the server by name', async () => {
    await site.serve();
    await site.client.sh(`cp /etc/hosts /run/hosts; echo '${SERVER.address} vpn.test' >> /etc/hosts`);
    try {
      await site.connect({ serverUrl: `wss://vpn.test:${PORT}/`, routes: ['0.0.0.0/0'] });
      assert.equal(await reaches(site.client, WEB.address), true);
    } finally {
      await site.client.exec(['cp', '/run/hosts', '/etc/hosts']);
    }
  });

  it('work over plain ws://, sealed all the same', async () => {
    await site.serve({ tlsCert: undefined, tlsKey: undefined });
    const serverUrl = `ws://${SERVER.address}:${PORT}/`;
    await site.connect({ serverUrl, tlsCa: undefined });
    const capture = site.internet.spawn([
      'tcpdump',
      '-i',
      'any',
      '-n',
      '-A',
      '-l',
      '-s',
      '0',
      'tcp',
      'port',
      `${PORT}`,
    ]);
    let seen = '';
    capture.stdout.setEncoding('latin1').on('data', (text) => (seen += text));
    await once(capture.stderr, 'data'); // it says that it listens
    const pattern = Buffer.from('smartvpn').toString('hex');
    const { stdout } = await site.client.exec(['ping', '-c', '3', '-i', '0.05', '-p', pattern, WEB.address]);
    assert.match(stdout, /3 received/);
    await eventually(() => assert.ok(seen.split('IP ').length > 6, 'the packets pass by'));
    capture.kill();
    await once(capture, 'exit');
    assert.ok(!seen.includes('smartvpn'), 'but cannot be read');
  });

  /** The interface by which the client host sends to an address. */
  async function wayTo(address) {
    const { stdout } = await site.client.exec(['ip', '-json', 'route', 'get', address]);
    return JSON.parse(stdout)[0].dev;
  }

  /** Counts, on the internet, what the client sends to anyone but the server. */
  async function watchLeaks() {
    const rules = `
      table inet watch
      delete table inet watch
      table inet watch {
        chain through {
          type filter hook prerouting priority 0;
          ip saddr 10.90.1.2 ip daddr != ${SERVER.address} counter
        }
      }
    `;
    await site.internet.exec(['nft', '-f', '-'], { input: rules });
  }

  async function leaked() {
    const { stdout } = await site.internet.exec(['nft', '-j', 'list', 'table', 'inet', 'watch']);
    const { rule } = JSON.parse(stdout).nftables.find((item) => item.rule);
    return rule.expr.find(({ counter }) => counter).counter.packets;
  }
});
