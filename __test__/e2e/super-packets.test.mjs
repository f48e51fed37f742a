/**
 * What the kernel hands over as one packet of up to 64 KiB goes through whole, and nobody outside can tell: it
 * counts as its segments, and only those leave the host.
 *
 * That a limit holds for it is shown in limits.test.mjs, whose TCP is such packets in both directions.
 */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { missingTools } from '../../scripts/tools.mjs';
import { start } from './support/program.mjs';
import { requires, TUNNEL, useSite, WEB } from './support/site.mjs';
import { capture, eventually, interfaceWith, iperf } from './support/traffic.mjs';

const MTU = 1420;

/** What a cable takes, with Ethernet's header in front. */
const FRAME = 1514;

/** What has the IP header of a packet in it. */
const HEADERS = 96;

const BYTES = 30_000_000;

describe('super-packets', { skip: requires('iperf3', 'tcpdump') }, () => {
  const site = useSite();
  let server;
  let client;

  before(async () => {
    server = await site.serve({ subnet6: TUNNEL.subnet6 });
    client = await site.connect({ routes: [WEB.network, WEB.network6] });
  });

  /** Moves so many bytes by TCP between the client and another host. */
  const transfer = (peer, address, ...args) =>
    iperf(site.client, peer, address, ['--bytes', `${BYTES}`, ...args]);

  for (const [direction, family, ...args] of [
    ['up', 'IPv4'],
    ['down', 'IPv4', '--reverse'],
    ['up', 'IPv6'],
    ['down', 'IPv6', '--reverse'],
  ]) {
    it(`go whole from TUN to TUN, ${family} ${direction}`, async (t) => {
      const isV6 = family === 'IPv6';
      const address = isV6 ? TUNNEL.server6 : TUNNEL.server;
      const own = isV6 ? client.assignedIp6 : client.assignedIp;
      const sender = direction === 'up' ? own : address;
      const long = isV6 ? `ip6[4:2] > ${MTU - 40}` : `ip[2:2] > ${MTU}`;
      const devices = [
        [site.client, await interfaceWith(site.client, own)],
        [site.server, await interfaceWith(site.server, address)],
      ];
      // Headers suffice: whole packets are lost when the machine is busy.
      const captures = await Promise.all(
        devices.map(([host, { ifname }]) =>
          capture(host, ifname, `tcp and src host ${sender} and ${long}`, { snap: HEADERS }),
        ),
      );
      await transfer(site.server, address, ...args);
      await Promise.all(captures.map(({ stop }) => stop()));
      for (const [index, { packets }] of captures.entries()) {
        const lengths = packets.map((head) => (isV6 ? 40 + head.readUInt16BE(4) : head.readUInt16BE(2)));
        const sum = lengths.reduce((one, other) => one + other, 0);
        t.diagnostic(
          `${devices[index][0].name}: ${lengths.length} packets longer than the MTU, with ` +
            `${((100 * sum) / BYTES).toFixed(0)} % of the bytes; the longest has ${Math.max(0, ...lengths)}`,
        );
        assert.ok(sum > BYTES / 2, `${sum} bytes in long packets`);
      }
    });
  }

  for (const [direction, ...args] of [['up'], ['down', '--reverse']]) {
    it(`count as their segments at both ends, ${direction}`, async (t) => {
      const figures = () => Promise.all([client, server].map(({ vpn }) => vpn.getStatistics()));
      const grown = (now, then, name) => now[name] - then[name];
      const earlier = await figures();
      const { sum_received: arrived } = await transfer(site.server, TUNNEL.server, ...args);
      const [sent, received] = await eventually(async () => {
        const later = await figures();
        const [atClient, atServer] = later.map((now, end) => (name) => grown(now, earlier[end], name));
        const end = (of, way) => ({ packets: of(`packets${way}`), bytes: of(`bytes${way}`) });
        // Nothing is under way any more.
        assert.deepEqual(end(atClient, 'Sent'), end(atServer, 'Received'));
        assert.deepEqual(end(atServer, 'Sent'), end(atClient, 'Received'));
        return [end(atClient, 'Sent'), end(atClient, 'Received')];
      });
      const { packets, bytes } = direction === 'up' ? sent : received;
      t.diagnostic(`${packets} packets, ${bytes} bytes: ${(bytes / packets).toFixed(1)} each`);
      assert.ok(bytes >= arrived.bytes && bytes < 1.2 * BYTES, `${bytes} bytes for ${arrived.bytes}`);
      assert.ok(bytes / packets <= MTU && bytes / packets > 0.9 * MTU, `${bytes / packets} bytes a packet`);
    });
  }

  it('leave the host as packets that the cable takes, with right checksums behind NAT', async (t) => {
    const missing = missingTools(['ethtool']);
    if (missing) return t.skip(`${missing} (a kernel that leaves checksums to a cable shows wrong ones)`);
    // A veth takes anything and completes nothing, unless it is told to be a plain cable.
    const cables = [
      [site.client, 'eth0'],
      [site.server, 'eth0'],
      [site.server, 'lan'],
      [site.web, 'eth0'],
      [site.internet, 'port0'],
      [site.internet, 'port1'],
    ];
    const offload = (state) =>
      Promise.all(
        cables.map(([host, device]) =>
          host.exec(['ethtool', '--offload', device, 'tx', state, 'tso', state]),
        ),
      );
    await offload('off');
    t.after(() => offload('on'));

    const outside = ['port0', 'port1'].map((device) => [site.internet, device]);
    const long = await Promise.all(
      [...outside, [site.web, 'eth0']].map(([host, device]) => capture(host, device, `greater ${FRAME + 1}`)),
    );
    for (const args of [[], ['--reverse']]) {
      const seen = start(site.web, [
        'tcpdump', '-i', 'eth0', '-n', '-vv', '-s', '0', '-B', '65536', '-c', '10000', 'tcp',
      ]); // prettier-ignore
      await eventually(() => assert.match(seen.output(), /listening on/), 20_000);
      await transfer(site.web, WEB.address, ...args);
      await seen.end('SIGINT');
      const text = seen.output();
      const fine = (text.match(/cksum 0x[0-9a-f]{4} \(correct\)/g) ?? []).length;
      t.diagnostic(`${args.length > 0 ? 'down' : 'up'}: ${fine} packets have the right checksum`);
      assert.doesNotMatch(text, /incorrect|bad cksum/);
      assert.ok(fine > 1000, `${fine} packets were looked at`);
    }
    await Promise.all(long.map(({ stop }) => stop()));
    for (const { packets } of long) assert.equal(packets.length, 0, `one has ${packets[0]?.length} bytes`);
  });
});
