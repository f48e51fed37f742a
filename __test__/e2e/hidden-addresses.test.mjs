/** A tunnel's addresses are there for the tunnel alone: neighbours' probes find nothing (CVE-2019-14899). */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';

import { endAll, start } from './support/program.mjs';
import {
  arpRequest,
  datagram,
  echoRequest,
  frame,
  inject,
  macOf,
  segment,
  solicitation,
} from './support/raw.mjs';
import { requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { capture, eventually, interfaceWith, reaches } from './support/traffic.mjs';

/** Probes of each kind: 1,000 in all, and some. */
const TRIES = 200;

/** Where something listens on all of a host's addresses, and where nothing does. */
const OPEN = 7000;
const CLOSED = 7001;

/** Wraps a command so that it finds no `nft`. */
const WITHOUT_NFT = [
  'unshare',
  '--mount',
  'sh',
  '-c',
  'for nft in /usr/sbin/nft /sbin/nft; do mount --bind /dev/null $nft; done; exec "$@"',
  'sh',
];

/** How long whoever answers takes at most, in milliseconds. */
const PATIENCE_MS = 400;

/** As much of a packet as the tests look at. */
const SNAP = 128;

/** What a neighbour `from` may ask of a host that has `to`; whole frames, and what is put into one. */
const PROBES = {
  SYN: ({ from, to }) => segment({ from, to, dport: OPEN }),
  'SYN/ACK': ({ from, to }) => segment({ from, to, dport: CLOSED, flags: 'SYN_ACK' }),
  UDP: ({ from, to }) => datagram({ from, to, dport: CLOSED }),
  'echo request': echoRequest,
  // Linux leaves solicitations unanswered for addresses of other interfaces, whatever the rules are.
  'neighbour solicitation': ({ from, to }) => solicitation({ from, target: to }),
};

const V4 = ['SYN', 'SYN/ACK', 'UDP', 'echo request', 'ARP request'];
const V6 = ['SYN', 'SYN/ACK', 'UDP', 'echo request', 'neighbour solicitation'];

/** Who asks whom, and by which interfaces. */
const AT_CLIENT = {
  asker: 'internet',
  device: 'port1',
  from: '10.90.1.1',
  from6: 'fd90:1::1',
  asked: 'client',
};
const AT_SERVER = [
  { asker: 'internet', device: 'port0', from: '10.90.0.1', from6: 'fd90::1', asked: 'server', at: 'eth0' },
  { asker: 'web', device: 'eth0', from: WEB.address, from6: WEB.address6, asked: 'server', at: 'lan' },
];

describe('a client’s tunnel address', { skip: requires('socat', 'tcpdump') }, () => {
  const site = useSite({ clients: 2 });
  afterEach(() => endAll());

  it('answers no probe of a neighbour', async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    const { assignedIp, assignedIp6 } = await site.connect();
    await listen(site.client);
    for (const kind of V4) assert.equal(await answers(site, AT_CLIENT, kind, assignedIp), 0, kind);
    for (const kind of V6) assert.equal(await answers(site, AT_CLIENT, kind, assignedIp6), 0, kind);
    assert.equal(await reaches(site.client, WEB.address), true);
  });

  it('would answer without the rules: a client that finds no nft says so, and connects', async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    const agent = await site.agent(site.client, { wrap: WITHOUT_NFT });
    const { vpn, assignedIp, assignedIp6 } = await site.connect({}, { agent });
    await saysSoOnce(vpn);
    await listen(site.client);
    for (const kind of V4) assert.ok((await answers(site, AT_CLIENT, kind, assignedIp)) > 0, kind);
    for (const kind of V6.slice(0, -1)) {
      assert.ok((await answers(site, AT_CLIENT, kind, assignedIp6)) > 0, kind);
    }
    assert.equal(await answers(site, AT_CLIENT, V6.at(-1), assignedIp6), 0);
    assert.equal(await reaches(site.client, WEB.address), true);
  });

  it('is hidden as well when it has changed', async () => {
    const server = await site.serve();
    const { vpn, assignedIp } = await site.connect();
    await listen(site.client);
    await server.agent.close();
    vpn.forget();
    await site.serve({ ...server.config, subnet: '10.9.0.0/24' });
    const status = await vpn.event('status', ({ state }) => state === 'connected');
    assert.match(status.assignedIp, /^10\.9\.0\./);
    for (const kind of V4) assert.equal(await answers(site, AT_CLIENT, kind, status.assignedIp), 0, kind);
    assert.equal(
      JSON.stringify(await site.client.snapshot()).includes(assignedIp),
      false,
      'the old one is free',
    );
  });

  it('stays hidden when somebody loads another ruleset', async () => {
    await site.serve();
    const { assignedIp } = await site.connect();
    await listen(site.client);
    await survivesFlush(site.client);
    for (const kind of V4) assert.equal(await answers(site, AT_CLIENT, kind, assignedIp), 0, kind);
  });

  it('costs the host nothing else: its containers use the tunnel, and its programs the address', async () => {
    await site.serve();
    const { assignedIp } = await site.connect();
    const container = site.clients[1];
    await site.cable(
      { host: site.client, name: 'docker0', addresses: ['172.30.0.1/24'] },
      { host: container, name: 'eth1', addresses: ['172.30.0.2/24'] },
    );
    await container.ip([`route add ${WEB.network} via 172.30.0.1`]);
    await site.client.sh('echo 1 > /proc/sys/net/ipv4/ip_forward');
    await site.client.exec(['nft', '-f', '-'], { input: DOCKER });
    assert.equal(await reaches(container, WEB.address), true);
    assert.equal(await reaches(site.client, assignedIp), true);
    assert.equal(await reaches(site.client, WEB.address, { source: assignedIp }), true);
    assert.equal(await reaches(site.server, assignedIp), true);
    await site.client.sh('nft delete table ip docker; echo 0 > /proc/sys/net/ipv4/ip_forward');
    await site.client.ip(['link del docker0']);
  });

  it('is left alone where the host has it elsewhere as well, and is reached there', async () => {
    await site.serve();
    await site.client.ip(['addr add 10.8.0.2/32 dev eth0']);
    await site.internet.ip(['route add 10.8.0.2/32 via 10.90.1.2']);
    const { vpn, agent, assignedIp } = await site.connect();
    assert.equal(assignedIp, '10.8.0.2');
    const told = await vpn.event('log', ({ target }) => target === 'firewall');
    assert.match(told.message, /10\.8\.0\.2 is the address of another interface/);
    assert.equal(await reaches(site.internet, assignedIp), true);
    await agent.close();
    await site.internet.ip(['route del 10.8.0.2/32']);
    await site.client.ip(['addr del 10.8.0.2/32 dev eth0']);
  });
});

describe('a server’s tunnel addresses', { skip: requires('socat', 'tcpdump') }, () => {
  const site = useSite();
  afterEach(() => endAll());

  for (const enableNat of [true, false]) {
    it(`answer no probe from beside the tunnel, with NAT ${enableNat ? 'on' : 'off'}`, async () => {
      await site.serve({ enableNat, subnet6: TUNNEL.subnet6 });
      await site.connect();
      await listen(site.server);
      for (const way of AT_SERVER) {
        for (const kind of V4) assert.equal(await answers(site, way, kind, TUNNEL.server), 0, kind);
        for (const kind of V6) assert.equal(await answers(site, way, kind, TUNNEL.server6), 0, kind);
      }
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      assert.equal(await reaches(site.client, TUNNEL.server6), true);
    });
  }

  it('would answer without the rules: a server that finds no nft says so, and serves', async () => {
    const agent = await site.agent(site.server, { wrap: WITHOUT_NFT });
    const { vpn } = await site.serve({ enableNat: false, subnet6: TUNNEL.subnet6 }, { agent });
    await saysSoOnce(vpn);
    await listen(site.server);
    for (const kind of V4) assert.ok((await answers(site, AT_SERVER[1], kind, TUNNEL.server)) > 0, kind);
    await site.connect();
    assert.equal(await reaches(site.client, TUNNEL.server), true);
  });

  it('lead to no client where they are translated, and to all where they are routed to', async () => {
    await site.web.ip([`route add ${TUNNEL.subnet} via ${SERVER.public}`]);
    for (const [enableNat, reached] of Object.entries({ true: false, false: true })) {
      await site.server.sh('echo 1 > /proc/sys/net/ipv4/ip_forward');
      const server = await site.serve({ enableNat: enableNat === 'true' });
      const client = await site.connect();
      assert.equal(await reaches(site.web, client.assignedIp), reached, `enableNat: ${enableNat}`);
      assert.equal(await reaches(site.client, WEB.address), true);
      await client.agent.close();
      await server.agent.close();
    }
    await site.server.sh('echo 0 > /proc/sys/net/ipv4/ip_forward');
    await site.web.ip([`route del ${TUNNEL.subnet}`]);
  });

  for (const guarded of [true, false]) {
    it(`are ${guarded ? 'no' : 'anybody’s'} sources beside the tunnel ${guarded ? 'with' : 'without'} the rules`, async () => {
      const agent = await site.agent(site.server, guarded ? {} : { wrap: WITHOUT_NFT });
      await site.serve({ enableNat: false }, { agent });
      const { assignedIp } = await site.connect();
      const { ifname } = await interfaceWith(site.server, TUNNEL.server);
      const atTunnel = await capture(site.server, ifname, `dst host ${assignedIp}`, { snap: SNAP });
      const [from, to] = await Promise.all([macOf(site.web, 'eth0'), macOf(site.server, 'lan')]);
      const forged = echoRequest({ from: assignedIp, to: SERVER.public });
      await inject(site.web, 'eth0', Array(TRIES).fill(frame({ from, to, packet: forged })));
      await eventually(() => assert.ok(atTunnel.packets.length > 0), PATIENCE_MS).catch(() => {});
      await atTunnel.stop();
      assert.equal(atTunnel.packets.length > 0, !guarded);
    });
  }

  it('stay hidden, and translated, when somebody loads another ruleset', async () => {
    await site.serve({ subnet6: TUNNEL.subnet6 });
    await site.connect();
    await listen(site.server);
    await survivesFlush(site.server);
    assert.equal(await reaches(site.client, WEB.address), true);
    for (const kind of V4) assert.equal(await answers(site, AT_SERVER[1], kind, TUNNEL.server), 0, kind);
  });
});

/** What Docker does for its containers. */
const DOCKER =
  'table ip docker { chain post { type nat hook postrouting priority 100; ip saddr 172.30.0.0/24 masquerade; }; }';

/** Asserts that a VPN has warned once that it has no `nft`. */
async function saysSoOnce(vpn) {
  const isIt = ({ target }) => target === 'firewall';
  const { level, message } = await vpn.event('log', isIt);
  assert.equal(level, 'warn');
  assert.match(message, /apt-get install nftables/);
  assert.equal(vpn.seen('log').filter(isIt).length, 1);
}

/** Has something listen on all addresses of a host. */
async function listen(host) {
  const listener = start(host, [
    'socat',
    '-d',
    '-d',
    `TCP6-LISTEN:${OPEN},ipv6only=0,fork`,
    'OPEN:/dev/null',
  ]);
  await eventually(() => assert.match(listener.output(), /listening/));
}

/** How many answers come to the probes of a kind. */
async function answers(site, { asker, device, from, from6, asked, at = 'eth0' }, kind, to) {
  const [near, far] = await Promise.all([macOf(site[asker], device), macOf(site[asked], at)]);
  const source = to.includes(':') ? from6 : from;
  const probe =
    kind === 'ARP request'
      ? arpRequest({ from: near, sender: source, target: to })
      : frame({ from: near, to: far, packet: PROBES[kind]({ from: source, to }) });
  // Advertisements come from an address of the interface; what they are about stands in them.
  const filter = kind === 'neighbour solicitation' ? 'icmp6 and ip6[40] == 136' : `src host ${to}`;
  const seen = await capture(site[asker], device, filter, { snap: SNAP });
  const count = () =>
    seen.packets.filter((bytes) => kind !== 'neighbour solicitation' || isAbout(bytes, to)).length;
  try {
    await inject(site[asker], device, Array(TRIES).fill(probe));
    await eventually(() => assert.ok(count() > 0), PATIENCE_MS).catch(() => {});
    return count();
  } finally {
    await seen.stop();
  }
}

/** Whether an advertisement is about an address. */
function isAbout(advertisement, address) {
  const asked = solicitation({ from: '::', target: address });
  return advertisement.subarray(48, 64).equals(asked.subarray(48, 64));
}

/** Takes all rules away, ours too, and asserts that ours come back. */
async function survivesFlush(host) {
  const { firewall } = await host.snapshot();
  assert.ok(firewall.length > 0);
  await host.exec(['nft', 'flush', 'ruleset']);
  await eventually(async () =>
    assert.deepEqual(withoutHandles(await host.snapshot()), withoutHandles({ firewall })),
  );
}

/** The rules in the order of their text: handles and the order of tables are the kernel's business. */
function withoutHandles({ firewall }) {
  const text = (item) => JSON.stringify(item, (key, value) => (key === 'handle' ? undefined : value));
  return firewall.map(text).toSorted();
}
