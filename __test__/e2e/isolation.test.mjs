/** Clients are kept from each other: by whatever they send, and by the addresses that they have one after the other. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { assertFails } from './support/assert.mjs';
import { sumOfDrops } from './support/load.mjs';
import { datagram, echoRequest, inject, OTHER, packet, segment } from './support/raw.mjs';
import { openRelay } from './support/relay.mjs';
import { LONG, PORT, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { capture, eventually, interfaceWith, reaches } from './support/traffic.mjs';

/** Packets of each kind. */
const TRIES = LONG ? 1_000 : 100;

/** Fewer than a queue of an interface holds. */
const AT_ONCE = 200;

/** As much of a packet as the tests look at. */
const SNAP = 128;

/** What one client may try with another. */
const KINDS = {
  'echo requests': echoRequest,
  UDP: (ends) => datagram({ ...ends, dport: 1 + Math.floor(Math.random() * 65_000) }),
  SYN: (ends) => segment({ ...ends, dport: 1 + Math.floor(Math.random() * 65_000) }),
  'SYN/ACK': (ends) => segment({ ...ends, dport: 4000, flags: 'SYN_ACK' }),
  'other protocols': (ends) => packet({ ...ends, protocol: OTHER, payload: Buffer.alloc(64) }),
};

describe('what a client sends', { skip: requires('socat', 'tcpdump') }, () => {
  const site = useSite({ clients: 2 });
  let server;
  let first;
  let second;
  let device;
  let id;

  before(async () => {
    server = await site.serve({ subnet6: TUNNEL.subnet6 });
    [first, second] = [await site.connect(), await site.connect({}, { host: site.clients[1] })];
    device = (await interfaceWith(site.client, first.assignedIp)).ifname;
    [{ clientId: id }] = await server.vpn.listClients();
  });

  /** Its sources, and for what each is taken. The IPv6 ones are for the server's IPv6 address. */
  const sources = () => ({
    'another client’s': [second.assignedIp, 'spoofed'],
    'the server’s': [TUNNEL.server, 'spoofed'],
    loopback: ['127.0.0.1', 'spoofed'],
    multicast: ['224.0.0.1', 'spoofed'],
    broadcast: ['255.255.255.255', 'spoofed'],
    'anybody’s': ['198.51.100.7', 'spoofed'],
    'another client’s, IPv6': [second.assignedIp6, 'spoofed'],
    'the server’s, IPv6': [TUNNEL.server6, 'spoofed'],
    'multicast, IPv6': ['ff02::1', 'spoofed'],
    'anybody’s, IPv6': ['2001:db8::7', 'spoofed'],
    'link-local': ['169.254.3.4', 'link-local'],
    'link-local, IPv6': ['fe80::7', 'link-local'],
  });

  const serverOf = (address) => (address.includes(':') ? TUNNEL.server6 : TUNNEL.server);

  it('arrives from no address but its own, and is counted to the packet', async () => {
    const { ifname } = await interfaceWith(site.server, TUNNEL.server);
    const told = () => server.vpn.seen('log').length + server.agent.stderr.split('\n').length;
    const [lines, begun] = [told(), Date.now()];
    for (const [whose, [from, reason]] of Object.entries(sources())) {
      const atServer = await capture(site.server, ifname, `src host ${from}`, { snap: SNAP });
      await assertDropped(reason, [datagram({ from, to: serverOf(from) })], whose);
      await atServer.stop();
      assert.equal(atServer.packets.length, 0, whose);
    }
    const seconds = 1 + (Date.now() - begun) / 1000;
    assert.ok(told() - lines <= 10 * seconds, `${told() - lines} lines in ${seconds} s`);

    const own = first.assignedIp;
    const atServer = await capture(site.server, ifname, `src host ${own}`, { snap: SNAP });
    await send([echoRequest({ from: own, to: TUNNEL.server })]);
    await eventually(() => assert.equal(atServer.packets.length, TRIES));
    await atServer.stop();
  });

  it('arrives nowhere that is the server’s own, or everybody’s', async () => {
    const [from, from6] = [first.assignedIp, first.assignedIp6];
    // As container runtimes set it: then the kernel alone would let it in.
    await site.server.sh('echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet');
    const packets = [
      ...['127.0.0.1', '224.0.0.251', '255.255.255.255'].map((to) => datagram({ from, to })),
      ...['::1', 'ff02::fb'].map((to) => datagram({ from: from6, to })),
    ];
    const { ifname } = await interfaceWith(site.server, TUNNEL.server);
    const atServer = await capture(site.server, ifname, `src host ${from} or src host ${from6}`, {
      snap: SNAP,
    });
    await assertDropped('misdirected', packets);
    await atServer.stop();
    assert.equal(atServer.packets.length, 0);
    await site.server.sh('echo 0 > /proc/sys/net/ipv4/conf/all/route_localnet');
  });

  it('does not even leave the client unless it is a packet', async () => {
    const good = datagram({ from: first.assignedIp, to: TUNNEL.server });
    const altered = (at, ...bytes) =>
      Buffer.concat([good.subarray(0, at), Buffer.from(bytes), good.subarray(at + bytes.length)]);
    const wrong = [
      ...[0x05, 0xf5, 0x40].map((byte) => altered(0, byte)),
      ...[0, 19, 250].map((length) => altered(2, 0, length)),
      good.subarray(0, 1),
    ];
    const earlier = sumOfDrops(await first.vpn.getStatistics());
    await send(wrong);
    const packets = wrong.length * TRIES;
    await eventually(async () => {
      const { packets: now, reasons } = sumOfDrops(await first.vpn.getStatistics());
      assert.equal(now - earlier.packets, packets);
      assert.equal(reasons.malformed - (earlier.reasons.malformed ?? 0), packets);
    });
    assert.equal(await reaches(site.client, TUNNEL.server), true, 'the connection stays');
  });

  it('does not reach another client, whatever it is', async () => {
    for (const [own, other] of [
      [first.assignedIp, second.assignedIp],
      [first.assignedIp6, second.assignedIp6],
    ]) {
      for (const [kind, make] of Object.entries(KINDS)) {
        const seen = await atSecond(own, () =>
          assertDropped('client-to-client', [make({ from: own, to: other })], kind),
        );
        assert.equal(seen, 0, kind);
      }
    }
  });

  /** Sends each of the packets `TRIES` times. */
  async function send(packets) {
    for (const one of packets) {
      for (let left = TRIES; left > 0; left -= AT_ONCE) {
        await inject(site.client, device, Array(Math.min(left, AT_ONCE)).fill(one));
      }
    }
  }

  /** Asserts that each of the packets, sent `TRIES` times, is dropped for one reason, and nothing for another. */
  async function assertDropped(reason, packets, what) {
    const earlier = sumOfDrops(await server.vpn.getClientTelemetry(id));
    await send(packets);
    await eventually(async () => {
      const { packets: now, reasons } = sumOfDrops(await server.vpn.getClientTelemetry(id));
      const fresh = [now - earlier.packets, reasons[reason] - (earlier.reasons[reason] ?? 0)];
      assert.deepEqual(fresh, Array(2).fill(packets.length * TRIES), what);
    });
  }

  /** How many packets from an address the second client's interface has while something is done. */
  async function atSecond(from, act) {
    const { ifname } = await interfaceWith(site.clients[1], second.assignedIp);
    const seen = await capture(site.clients[1], ifname, `src host ${from}`, { snap: SNAP });
    await act();
    await seen.stop();
    return seen.packets.length;
  }
});

describe('what a client sends where clients may meet', { skip: requires('socat', 'tcpdump') }, () => {
  const site = useSite({ clients: 2 });

  it('reaches another one, of every kind', async () => {
    await site.serve({ subnet6: TUNNEL.subnet6, clientToClient: true });
    const [first, second] = [await site.connect(), await site.connect({}, { host: site.clients[1] })];
    const { ifname } = await interfaceWith(site.client, first.assignedIp);
    const far = await interfaceWith(site.clients[1], second.assignedIp);
    for (const [own, other] of [
      [first.assignedIp, second.assignedIp],
      [first.assignedIp6, second.assignedIp6],
    ]) {
      for (const [kind, make] of Object.entries(KINDS)) {
        const seen = await capture(site.clients[1], far.ifname, `src host ${own}`, { snap: SNAP });
        await inject(site.client, ifname, Array(10).fill(make({ from: own, to: other })));
        // Datagrams of one flow may come as one super-packet.
        await eventually(() => assert.ok(seen.packets.length > 0, kind));
        await seen.stop();
      }
    }
  });
});

for (const [version, config, own, web] of [
  ['IPv4', { subnet: '10.8.0.0/29' }, 'assignedIp', WEB.address],
  ['IPv6', { subnet6: 'fd08::/125' }, 'assignedIp6', WEB.address6],
]) {
  describe(`addresses of ${version} that are all given`, { skip: requires('socat', 'tcpdump') }, () => {
    const site = useSite({ clients: 6 });

    // A /29 has six addresses for hosts; a /125 has seven: one each is the server's.
    const places = version === 'IPv4' ? 5 : 6;

    it('are refused to one more at once, taken from nobody, and had again by their ticket', async () => {
      const server = await site.serve(config);
      const relay = await openRelay(site, site.server, {
        listen: { host: SERVER.address, port: 9443 },
        to: { host: SERVER.address, port: PORT },
      });
      const through = {
        serverUrl: `wss://${SERVER.address}:9443/`,
        reconnect: { baseDelayMs: 50, maxDelayMs: 100 },
      };
      const clients = [await site.connect(through)];
      while (clients.length < places)
        clients.push(await site.connect({ routes: [] }, await next(clients.length)));
      const given = await addresses(server);
      assert.equal(new Set(given).size, places);

      const { host, agent } = await next(places);
      const refused = async () => {
        const begun = Date.now();
        await assertFails(site.connect({ routes: [] }, { host, agent }), 'pool-exhausted');
        assert.ok(Date.now() - begun < 1_000, `it took ${Date.now() - begun} ms`);
        assert.deepEqual(await addresses(server), given);
      };
      await refused();

      // One that is away keeps its place, and has it back.
      await relay.refuse(true);
      await relay.cut('reset');
      await eventually(async () => assert.equal((await server.vpn.listClients())[0].online, false));
      await refused();
      await relay.refuse(false);
      await server.vpn.event('client-resumed');
      assert.deepEqual(await addresses(server), given);
      assert.equal((await clients[0].vpn.getStatus())[own], clients[0][own]);
      assert.equal(await reaches(site.client, WEB.address), true);
    });

    it('bring their next holder nothing of the last one’s', async () => {
      const server = await site.serve({ ...config, maxClients: places });
      const routes = [WEB.network, WEB.network6];
      const clients = [await site.connect({ routes })];
      while (clients.length < places)
        clients.push(await site.connect({ routes: [] }, await next(clients.length)));

      const flood = await site.agent(site.web);
      const port = await flood.run(answerForEver, web);
      const { ifname } = await interfaceWith(site.client, clients[0][own]);
      const family = version === 'IPv4' ? 'UDP4' : 'UDP6';
      const peer = version === 'IPv4' ? web : `[${web}]`;
      const old = await capture(site.client, ifname, `src host ${web} and udp src port ${port}`, {
        snap: SNAP,
      });
      await site.client.sh(`echo begin | socat -u - ${family}:${peer}:${port},sourceport=5000`);
      await eventually(() => assert.ok(old.packets.length > 20, 'the last holder is sent packets'));
      await old.stop();

      const { host, agent } = await next(places);
      await clients[0].vpn.disconnect();
      await eventually(async () => assert.equal((await server.vpn.listClients()).length, places - 1));
      const heir = await site.connect({ routes }, { host, agent });
      assert.equal(heir[own], clients[0][own]);
      const device = (await interfaceWith(host, heir[own])).ifname;
      const seen = await capture(host, device, `src host ${web}`, { snap: SNAP });
      const earlier = await flood.run(({ sent }) => sent);
      await eventually(async () => {
        const now = await flood.run(({ sent }) => sent);
        assert.ok(now - earlier > 100, 'they are sent all the while');
      });
      assert.equal(seen.packets.length, 0);
      assert.equal(await reaches(host, web), true);
      await seen.stop();
    });

    /** Where the next client goes: hosts are as many as an IPv4 pool has and one, and may hold several. */
    async function next(index) {
      const host = site.clients[index % site.clients.length];
      return { host, agent: await site.agent(host) };
    }

    async function addresses(server) {
      return (await server.vpn.listClients())
        .map(({ assignedIp, assignedIp6 }) => `${assignedIp} ${assignedIp6}`)
        .toSorted();
    }
  });
}

/** Runs in an agent: answers whoever sends a datagram, again and again. Returns the port. */
async function answerForEver(context, address) {
  const { createSocket } = await context.load('node:dgram');
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  context.sent = 0;
  socket.once('message', (_, from) => {
    const answer = () => socket.send('again', from.port, from.address, () => (context.sent += 1));
    setInterval(answer, 5).unref();
  });
  await new Promise((resolve) => socket.unref().bind(0, address, resolve));
  return socket.address().port;
}
