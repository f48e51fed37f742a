/** Real traffic through the tunnel: every kind of program a user would run, in both directions. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { digest } from '../../scripts/lab-web.mjs';
import { LONG, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import {
  counters,
  eventually,
  fetchDigest,
  fetchText,
  interfaceWith,
  iperf,
  ping,
} from './support/traffic.mjs';

const FILE_BYTES = 64 * 1024 * 1024;
const MTU = 1420;
const IPV4_PING_OVERHEAD = 28;
const IPV6_PING_OVERHEAD = 48;

describe('traffic through the tunnel', { skip: requires('curl', 'dig', 'iperf3') }, () => {
  const site = useSite();
  let client;

  before(async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    client = await site.connect({ routes: [WEB.network, WEB.network6] });
    await site.serveWeb();
  });

  it('gives the client addresses of both families', async () => {
    const status = await client.vpn.getStatus();
    assert.equal(status.state, 'connected');
    assert.match(client.assignedIp, /^10\.8\.0\.\d+$/);
    assert.match(client.assignedIp6, /^fd08::/);
    assert.equal(status.assignedIp, client.assignedIp);
    assert.equal(status.assignedIp6, client.assignedIp6);
    assert.match(status.serverAddr, /^10\.90\.0\.2:8443$/);
    assert.ok(Math.abs(Date.parse(status.connectedSince) - Date.now()) < 60_000);
  });

  for (const [name, target] of Object.entries({
    'the server': TUNNEL.server,
    'the server by IPv6': TUNNEL.server6,
    'the public host': WEB.address,
    'the public host by IPv6': WEB.address6,
  })) {
    it(`pings ${name}`, async () => {
      const { sent, received, duplicates, output } = await ping(site.client, target, {
        count: 20,
        intervalSecs: 0.01,
      });
      assert.deepEqual({ sent, received, duplicates }, { sent: 20, received: 20, duplicates: 0 }, output);
    });
  }

  it('pings the client from the server', async () => {
    for (const address of [client.assignedIp, client.assignedIp6]) {
      const { received, output } = await ping(site.server, address);
      assert.equal(received, 3, output);
    }
  });

  for (const [name, ...args] of [
    ['TCP, one stream up'],
    ['TCP, one stream down', '-R'],
    ['TCP, four streams up', '-P', '4'],
    ['TCP, four streams down', '-P', '4', '-R'],
    ['TCP over IPv6', '-6'],
  ]) {
    it(`carries ${name}`, async () => {
      const address = args.includes('-6') ? WEB.address6 : WEB.address;
      const { sum_received, streams } = await iperf(site.client, site.web, address, args);
      assert.ok(sum_received.bytes > 1_000_000, `${sum_received.bytes} bytes arrived`);
      for (const { receiver } of streams) assert.ok(receiver.bytes > 0, 'a stream was starved');
    });
  }

  for (const [name, ...args] of [['up'], ['down', '-R']]) {
    it(`carries UDP ${name}`, async () => {
      const { sum } = await iperf(site.client, site.web, WEB.address, [
        '-u',
        '-b',
        '10M',
        '-l',
        '1200',
        ...args,
      ]);
      assert.ok(sum.packets > 500, `${sum.packets} packets were sent`);
      assert.ok(sum.lost_percent < 5, `${sum.lost_percent} % were lost`);
    });
  }

  it('fetches a page, and the public host sees the server’s address', async () => {
    assert.ok(
      (await fetchText(site.client, `http://${WEB.address}/`)).includes(`came from ${SERVER.public}.`),
    );
    assert.ok(
      (await fetchText(site.client, `http://[${WEB.address6}]/`)).includes(`came from ${SERVER.public6}.`),
    );
  });

  it('moves a large file both ways, byte for byte', async () => {
    const url = `http://${WEB.address}`;
    assert.equal(await fetchDigest(site.client, `${url}/random/${FILE_BYTES}`), digest(FILE_BYTES));
    const { stdout } = await site.client.sh(`
      curl --silent --show-error --max-time 60 '${url}/random/${FILE_BYTES}' |
        curl --silent --show-error --max-time 60 --upload-file - '${url}/'
    `);
    assert.deepEqual(JSON.parse(stdout), { bytes: FILE_BYTES, sha256: digest(FILE_BYTES) });
  });

  it('resolves names through the tunnel', async () => {
    const { stdout } = await site.client.exec(['dig', '+short', `@${WEB.address}`, 'web.test']);
    assert.equal(stdout.trim(), WEB.address);
  });

  it('carries packets of every size up to the MTU, and says so of larger ones', async () => {
    const largest = MTU - IPV4_PING_OVERHEAD;
    const some = [0, 1, 15, 16, 99, 100, 511, 512, 1000, largest - 1, largest];
    const sizes = LONG ? Array.from({ length: largest + 1 }, (_, size) => size) : some;
    for (const size of sizes) {
      const { received, output } = await ping(site.client, WEB.address, {
        count: 1,
        size,
        dontFragment: true,
      });
      assert.equal(received, 1, `${size} bytes: ${output}`);
    }
    const largest6 = MTU - IPV6_PING_OVERHEAD;
    assert.equal(
      (await ping(site.client, WEB.address6, { count: 1, size: largest6, dontFragment: true })).received,
      1,
    );

    for (const [address, size] of [
      [WEB.address, largest + 1],
      [WEB.address6, largest6 + 1],
    ]) {
      const tooBig = await ping(site.client, address, { count: 1, size, dontFragment: true });
      assert.equal(tooBig.received, 0);
      assert.match(tooBig.output, /message too long/i);
    }
  });

  it('carries what needs fragments', async () => {
    for (const size of [MTU, 10_000, 60_000]) {
      const { received, output } = await ping(site.client, WEB.address, { size });
      assert.equal(received, 3, `${size} bytes: ${output}`);
    }
  });

  it('reports the MTU in force', async () => {
    const { mtu } = await interfaceWith(site.client, client.assignedIp);
    const info = await client.vpn.getMtuInfo();
    assert.equal(mtu, MTU);
    assert.equal(info.tunMtu, MTU);
    assert.equal(info.overheadBytes, 79);
    assert.equal(info.linkMtu - info.effectiveMtu, info.overheadBytes);
  });

  it('measures the link', async () => {
    const quality = await client.vpn.getConnectionQuality();
    assert.equal(quality.linkHealth, 'healthy');
    assert.ok(quality.srttMs > 0 && quality.srttMs < 1000, `${quality.srttMs} ms`);
    assert.ok(quality.minRttMs <= quality.srttMs && quality.srttMs <= quality.maxRttMs);
    assert.equal(quality.consecutiveTimeouts, 0);
  });
});

describe('statistics', { skip: requires() }, () => {
  const site = useSite();

  it('equal what the interfaces carried', async () => {
    const server = await site.serve();
    const client = await site.connect();
    await site.serveWeb();
    for (const size of [0, 100, 1392, 4000])
      await ping(site.client, WEB.address, { count: 10, intervalSecs: 0.01, size });
    await ping(site.server, client.assignedIp);

    for (const [host, vpn, address] of [
      [site.client, client.vpn, client.assignedIp],
      [site.server, server.vpn, TUNNEL.server],
    ]) {
      const { ifname } = await interfaceWith(host, address);
      await eventually(async () => {
        const device = await counters(host, ifname);
        const statistics = await vpn.getStatistics();
        // What the kernel sends into the interface is sent to the peer or dropped with a reason.
        assert.deepEqual(
          {
            packetsReceived: statistics.packetsReceived,
            bytesReceived: statistics.bytesReceived,
            packetsSent: statistics.packetsSent + (statistics.packetsDropped ?? 0),
            bytesSent: statistics.bytesSent + (statistics.bytesDropped ?? 0),
          },
          {
            packetsReceived: device.received.packets,
            bytesReceived: device.received.bytes,
            packetsSent: device.sent.packets,
            bytesSent: device.sent.bytes,
          },
          host.name,
        );
      });
    }
    const statistics = await server.vpn.getStatistics();
    assert.equal(statistics.activeClients, 1);
    assert.equal(statistics.totalConnections, 1);
    const [listed] = await server.vpn.listClients();
    assert.equal(listed.bytesReceived, statistics.bytesReceived);
    assert.equal(listed.bytesSent, statistics.bytesSent);

    await client.vpn.disconnect();
    await server.vpn.event('client-disconnected');
    const afterwards = await server.vpn.getStatistics();
    assert.equal(afterwards.activeClients, 0);
    for (const count of ['bytesSent', 'bytesReceived', 'packetsSent', 'packetsReceived']) {
      assert.equal(afterwards[count], statistics[count], `${count} outlive the client`);
    }
  });
});
