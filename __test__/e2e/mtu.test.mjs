/** The tunnel's MTU with real packets: what passes, what is cut, and who is told of what does not fit. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { LONG, PORT, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { capture, counters, eventually, interfaceWith, iperf, ping } from './support/traffic.mjs';

const MTU = 1420;
const SMALL_MTU = 1280;

/** For experiments (RFC 3692): no host acts on it. */
const EXPERIMENT = 253;

const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const PING_OVERHEAD = { 4: IPV4_HEADER + 8, 6: IPV6_HEADER + 8 };

/** Packets that come at once, many more than may be answered. */
const FLOOD = 1000;

/** What a SYN may announce: the MTU less the headers. */
const mssOf = { 4: (mtu) => mtu - 40, 6: (mtu) => mtu - 60 };

describe('packets of every size', { skip: requires('socat', 'tcpdump') }, () => {
  const site = useSite();
  let client;
  let devices;

  before(async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    client = await site.connect();
    devices = {
      client: (await interfaceWith(site.client, client.assignedIp)).ifname,
      server: (await interfaceWith(site.server, TUNNEL.server)).ifname,
    };
  });

  for (const [family, header, target, filter] of [
    ['IPv4', IPV4_HEADER, `IP4-SENDTO:${TUNNEL.server}`, `ip proto ${EXPERIMENT}`],
    ['IPv6', IPV6_HEADER, `IP6-SENDTO:[${TUNNEL.server6}]`, `ip6 proto ${EXPERIMENT}`],
  ]) {
    it(`passes ${family} from a bare header up to the MTU unchanged`, async () => {
      const largest = MTU - header;
      const some = [0, 1, 2, 7, 8, 107, 108, 127, 128, 535, 536, 1239, 1240, largest - 1, largest];
      const sizes = LONG ? Array.from({ length: largest + 1 }, (_, size) => size) : some;
      const left = await capture(site.client, devices.client, filter);
      const arrived = await capture(site.server, devices.server, filter);
      // Without a payload, the end of the input is what makes a packet.
      await site.client.sh(
        `for size in ${sizes.join(' ')}; do
          end=; [ $size -gt 0 ] || end=,shut-null
          head -c $size /dev/urandom | socat -u -b 65536 - '${target}:${EXPERIMENT}'$end
        done`,
        { timeoutMs: 300_000 },
      );
      await eventually(() => assert.equal(arrived.packets.length, sizes.length));
      await Promise.all([left.stop(), arrived.stop()]);
      assert.deepEqual(
        arrived.packets.map((packet) => packet.length),
        sizes.map((size) => header + size),
      );
      const hex = (packets) => packets.map((packet) => packet.toString('hex'));
      assert.deepEqual(hex(arrived.packets), hex(left.packets));
    });
  }

  it('lets the kernel cut what is longer before it is in the tunnel', async () => {
    const seen = await capture(
      site.client,
      devices.client,
      'icmp[icmptype] = icmp-echo or ip[6:2] & 0x1fff != 0',
    );
    const { received, output } = await ping(site.client, TUNNEL.server, {
      size: MTU - PING_OVERHEAD[4] + 1,
      dontFragment: false,
    });
    assert.equal(received, 3, output);
    await eventually(() => assert.ok(seen.packets.length >= 6));
    await seen.stop();
    for (const packet of seen.packets) assert.ok(packet.length <= MTU, `${packet.length} bytes`);
    const { drops } = await client.vpn.getStatistics();
    assert.equal(drops?.high?.['too-big'], undefined);
  });

  it('counts what is shorter than its header as malformed', async () => {
    const earlier = malformed(await client.vpn.getStatistics());
    const [v4, v6] = ['\\105' + '\\000'.repeat(18), '\\140' + '\\000'.repeat(38)];
    for (const bytes of [v4, v6, '\\105', '\\000\\001\\002'])
      await site.client.sh(`printf '${bytes}' | socat -u - 'INTERFACE:${devices.client}'`);
    await eventually(async () => {
      const after = malformed(await client.vpn.getStatistics());
      assert.equal(after.packets - earlier.packets, 4);
      assert.equal(after.bytes - earlier.bytes, 19 + 39 + 1 + 3);
    });
    assert.equal((await ping(site.client, TUNNEL.server)).received, 3, 'the tunnel works on');
  });

  function malformed({ drops }) {
    return drops?.normal?.malformed ?? { packets: 0, bytes: 0 };
  }
});

describe('a TUN whose MTU somebody raised', { skip: requires('socat') }, () => {
  const site = useSite();
  let client;

  before(async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    client = await site.connect();
    const { ifname } = await interfaceWith(site.client, client.assignedIp);
    await site.client.ip([`link set dev ${ifname} mtu 9000`]);
  });

  for (const [family, target] of [
    [4, TUNNEL.server],
    [6, TUNNEL.server6],
  ]) {
    for (const length of [MTU + 1, 2048, 2049, 9000]) {
      it(`answers an IPv${family} packet of ${length} bytes with the tunnel's MTU`, async () => {
        await forgetPaths(site.client);
        const earlier = await client.vpn.getMtuInfo();
        const { received, output } = await ping(site.client, target, {
          count: 1,
          size: length - PING_OVERHEAD[family],
          dontFragment: true,
        });
        assert.equal(received, 0);
        assert.match(
          output,
          family === 4
            ? /From 10\.8\.0\.1 .*Frag needed and DF set \(mtu = 1420\)/
            : /From fd08::1 .*Packet too big: mtu=1420/,
        );
        await eventually(async () => {
          const after = await client.vpn.getMtuInfo();
          assert.equal(after.icmpTooBigSent - earlier.icmpTooBigSent, 1);
          assert.equal(after.oversizedPacketsDropped - earlier.oversizedPacketsDropped, 1);
          const { drops } = await client.vpn.getStatistics();
          assert.equal(drops.high['too-big'].packets, after.oversizedPacketsDropped);
        });
      });
    }
  }

  it('has what may be cut cut to the tunnel’s MTU', async () => {
    await forgetPaths(site.client);
    const earlier = await client.vpn.getMtuInfo();
    for (const length of [MTU + 1, 1500, 2048]) {
      const { received, output } = await ping(site.client, TUNNEL.server, {
        size: length - PING_OVERHEAD[4],
        dontFragment: false,
      });
      assert.equal(received, 3, `${length} bytes: ${output}`);
    }
    assert.equal((await client.vpn.getMtuInfo()).oversizedPacketsDropped, earlier.oversizedPacketsDropped);
  });

  it('answers a flood rarely, and counts all of it', async () => {
    const { ifname } = await interfaceWith(site.client, client.assignedIp);
    const figures = async () => {
      const { oversizedPacketsDropped, icmpTooBigSent } = await client.vpn.getMtuInfo();
      const { sent } = await counters(site.client, ifname);
      return { dropped: oversizedPacketsDropped, answered: icmpTooBigSent, came: sent.packets };
    };
    const earlier = await figures();
    const begun = Date.now();
    const packet = tooBigPacket(client.assignedIp, TUNNEL.server);
    await site.client.sh(
      `cat > /run/flood; socat -u -b ${packet.length} OPEN:/run/flood,rdonly INTERFACE:${ifname}; rm /run/flood`,
      { input: Buffer.concat(Array(FLOOD).fill(packet)) },
    );
    let answered;
    await eventually(async () => {
      const after = await figures();
      const [dropped, came] = [after.dropped - earlier.dropped, after.came - earlier.came];
      assert.ok(came >= FLOOD / 2, `${came} came`);
      assert.equal(dropped, came);
      answered = after.answered - earlier.answered;
    });
    const seconds = (Date.now() - begun) / 1000;
    assert.ok(answered >= 50, `${answered} answered`);
    assert.ok(answered <= 50 + 100 * seconds, `${answered} answered in ${seconds} s`);
  });
});

describe(
  'clients with different MTUs behind one server',
  { skip: requires('iperf3', 'socat', 'tcpdump') },
  () => {
    const site = useSite({ clients: 2 });
    let server;
    let large;
    let small;

    before(async () => {
      server = await site.serve({ subnet6: TUNNEL.subnet6, clientToClient: true });
      large = await site.connect({ name: 'large', routes: [WEB.network, WEB.network6] });
      small = await site.connect(
        { name: 'small', mtu: SMALL_MTU, routes: [WEB.network, WEB.network6] },
        { host: site.clients[1] },
      );
      await site.serveWeb();
    });

    it('agree on their own', async () => {
      assert.equal((await large.vpn.getMtuInfo()).tunMtu, MTU);
      assert.equal((await small.vpn.getMtuInfo()).tunMtu, SMALL_MTU);
      assert.equal((await interfaceWith(site.clients[1], small.assignedIp)).mtu, SMALL_MTU);
    });

    for (const family of [4, 6]) {
      it(`tells an IPv${family} sender on the server the MTU of the client it sends to`, async () => {
        const [toLarge, toSmall] = [large, small].map((client) =>
          family === 4 ? client.assignedIp : client.assignedIp6,
        );
        const options = { count: 1, size: MTU - PING_OVERHEAD[family], dontFragment: true };
        assert.equal((await ping(site.server, toLarge, options)).received, 1);
        const dropped = await tooBig('small');
        const told = await ping(site.server, toSmall, options);
        assert.equal(told.received, 0);
        assert.match(told.output, /mtu ?= ?1280/);
        assert.equal((await tooBig('small')) - dropped, 1);
        const largest = { count: 1, size: SMALL_MTU - PING_OVERHEAD[family], dontFragment: true };
        assert.equal((await ping(site.server, toSmall, largest)).received, 1);
      });

      it(`tells an IPv${family} sender at another client`, async () => {
        const target = family === 4 ? small.assignedIp : small.assignedIp6;
        const { received, output } = await ping(site.client, target, {
          count: 1,
          size: MTU - PING_OVERHEAD[family],
          dontFragment: true,
        });
        assert.equal(received, 0);
        assert.match(
          output,
          family === 4 ? /From 10\.8\.0\.1 .*mtu = 1280/ : /From fd08::1 .*Packet too big: mtu=1280/,
        );
      });
    }

    it('cuts what may be cut', async () => {
      const { ifname } = await interfaceWith(site.clients[1], small.assignedIp);
      const arrived = await capture(site.clients[1], ifname, `dst ${small.assignedIp} and ip`);
      const { received, output } = await ping(site.server, small.assignedIp, {
        size: MTU - PING_OVERHEAD[4],
        dontFragment: false,
      });
      assert.equal(received, 3, output);
      await eventually(() => assert.equal(arrived.packets.length, 6));
      await arrived.stop();
      assert.deepEqual(
        arrived.packets.slice(0, 2).map((packet) => packet.length),
        [1276, 164],
      );
    });

    it('tells a host behind the server, through its NAT', async () => {
      const size = MTU - IPV4_HEADER - 8;
      const answerer = site.web.spawn([
        'socat',
        'UDP4-RECVFROM:9000,fork',
        `SYSTEM:"head -c ${size} /dev/zero"`,
      ]);
      try {
        const ask = async () => {
          const { stdout } = await site.clients[1].sh(
            `echo | socat -b 65536 -t 1 - UDP4:${WEB.address}:9000 | wc -c`,
          );
          return Number(stdout);
        };
        const dropped = await tooBig('small');
        await eventually(async () => {
          assert.equal(await ask(), size, 'sent again, it comes in fragments');
        }, 15_000);
        assert.equal((await tooBig('small')) - dropped, 1, 'the first one did not fit');
      } finally {
        answerer.kill();
        await forgetPaths(site.web);
      }
    });

    for (const family of [4, 6]) {
      it(`announces segments over IPv${family} that fit, at both ends`, async () => {
        const address = family === 4 ? WEB.address : WEB.address6;
        await forgetPaths(site.web);
        // The large client's kernel would announce what its own interface takes.
        const { ifname } = await interfaceWith(site.client, large.assignedIp);
        await site.client.ip([`link set dev ${ifname} mtu 1500`]);
        for (const [host, client, mtu] of [
          [site.client, large, MTU],
          [site.clients[1], small, SMALL_MTU],
        ]) {
          const dropped = await tooBig('small');
          const device = (await interfaceWith(host, client.assignedIp)).ifname;
          const syn = family === 4 ? 'tcp[tcpflags] & tcp-syn != 0' : 'ip6[6] = 6 and ip6[53] & 2 != 0';
          const at = {
            client: await capture(host, device, syn),
            web: await capture(site.web, 'eth0', syn),
          };
          const { sum_received } = await iperf(host, site.web, address, ['-R']);
          assert.ok(sum_received.bytes > 1_000_000, `${sum_received.bytes} bytes arrived`);
          await Promise.all([at.client.stop(), at.web.stop()]);
          const to = (packets, port) =>
            packets.filter((packet) => ports(packet).includes(port)).map(announced);
          const received = at.client.packets.filter((packet) => isAnswer(packet)).map(announced);
          const sent = to(at.web.packets, 5201).filter((_, index) => !isAnswer(at.web.packets[index]));
          assert.ok(received.length >= 2 && sent.length >= 2);
          for (const mss of [...received, ...sent]) assert.equal(mss, mssOf[family](mtu));
          assert.equal(await tooBig('small'), dropped, 'TCP needs no answer');
        }
        await site.client.ip([`link set dev ${ifname} mtu ${MTU}`]);
      });
    }

    it('carries TCP between them', async () => {
      const dropped = await tooBig('small');
      for (const args of [[], ['-R']]) {
        const { sum_received } = await iperf(site.client, site.clients[1], small.assignedIp, args);
        assert.ok(sum_received.bytes > 1_000_000, `${sum_received.bytes} bytes arrived`);
      }
      assert.equal(await tooBig('small'), dropped);
    });

    /** How many packets that were too big the server dropped on their way to a client. */
    async function tooBig(name) {
      const client = (await server.vpn.listClients()).find((listed) => listed.name === name);
      const byReason = Object.values(client.drops ?? {});
      return byReason.reduce((sum, drops) => sum + (drops['too-big']?.packets ?? 0), 0);
    }
  },
);

describe('the layers of a connection', { skip: requires('socat', 'tcpdump') }, () => {
  const site = useSite();

  for (const [name, { plain, address, names }] of Object.entries({
    'wss over IPv4': {
      address: SERVER.address,
      names: ['ip', 'tcp', 'tls', 'websocket', 'mask', 'frame', 'nonce', 'tag'],
    },
    'wss over IPv6': {
      address: `[${SERVER.address6}]`,
      names: ['ip', 'tcp', 'tls', 'websocket', 'mask', 'frame', 'nonce', 'tag'],
    },
    'ws over IPv4': {
      plain: true,
      address: SERVER.address,
      names: ['ip', 'tcp', 'websocket', 'mask', 'frame', 'nonce', 'tag'],
    },
  })) {
    it(`of ${name} are what is on the wire, for any MTU of the link`, async () => {
      await site.serve({
        listenAddr: `[::]:${PORT}`,
        ...(plain && { tlsCert: undefined, tlsKey: undefined }),
      });
      const client = await site.connect({
        serverUrl: `${plain ? 'ws' : 'wss'}://${address}:${PORT}/`,
        ...(plain && { tlsCa: undefined }),
      });
      for (const linkMtu of [1500, 1400, 1600]) {
        // Each segment on its own, as a wire has them.
        await site.client.ip([`link set dev eth0 mtu ${linkMtu} gso_max_segs 1`]);
        await site.internet.ip([`link set dev port1 mtu ${linkMtu}`]);
        // TCP looks at the link when it sends.
        await ping(site.client, TUNNEL.server, { count: 1 });
        const seen = await capture(site.client, 'eth0', `dst port ${PORT}`);
        await site.client.sh(
          `head -c ${MTU - 28} /dev/urandom | socat -u -b 65536 - UDP4-SENDTO:${TUNNEL.server}:9`,
        );
        await eventually(() => assert.ok(seen.packets.some(hasPayload)));
        const info = await client.vpn.getMtuInfo();
        await seen.stop();
        assert.equal(info.linkMtu, linkMtu);
        assert.equal(info.effectiveMtu, linkMtu - 79);
        assert.deepEqual(
          info.layers.map((layer) => layer.name),
          names,
        );
        const onTheWire = seen.packets.filter(hasPayload).reduce((sum, packet) => sum + packet.length, 0);
        const layers = info.layers.reduce((sum, layer) => sum + layer.bytes, 0);
        assert.equal(MTU + layers, onTheWire, JSON.stringify(info.layers));
      }
      await site.client.ip(['link set dev eth0 mtu 1500 gso_max_segs 65535']);
      await site.internet.ip(['link set dev port1 mtu 1500']);
    });
  }
});

/** Lets a host's kernel forget what it was told of paths. */
async function forgetPaths(host) {
  for (const family of ['-4', '-6']) await host.exec(['ip', family, 'route', 'flush', 'cache']);
}

/** An IPv4 packet of 1,500 bytes that must not be cut. */
function tooBigPacket(from, to) {
  const packet = Buffer.alloc(1500);
  packet.set([0x45, 0, packet.length >> 8, packet.length & 0xff, 0, 0, 0x40, 0, 64, EXPERIMENT]);
  packet.set([...from.split('.'), ...to.split('.')].map(Number), 12);
  return packet;
}

/** Where the TCP header of a captured packet begins; there are no extension headers. */
function tcpOffset(packet) {
  return packet[0] >> 4 === 4 ? (packet[0] & 0x0f) * 4 : IPV6_HEADER;
}

function ports(packet) {
  const tcp = tcpOffset(packet);
  return [packet.readUInt16BE(tcp), packet.readUInt16BE(tcp + 2)];
}

/** Whether a SYN is a SYN-ACK. */
function isAnswer(packet) {
  return (packet[tcpOffset(packet) + 13] & 0x10) !== 0;
}

function hasPayload(packet) {
  const tcp = tcpOffset(packet);
  return packet.length > tcp + (packet[tcp + 12] >> 4) * 4;
}

/** The maximum segment size that a SYN announces. */
function announced(packet) {
  const tcp = tcpOffset(packet);
  const end = tcp + (packet[tcp + 12] >> 4) * 4;
  for (let at = tcp + 20; at < end && packet[at] !== 0; at += packet[at] === 1 ? 1 : packet[at + 1])
    if (packet[at] === 2) return packet.readUInt16BE(at + 2);
  return undefined;
}
