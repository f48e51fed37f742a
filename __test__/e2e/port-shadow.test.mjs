/** With NAT, clients share the server's addresses, but never the port that it listens on (CVE-2021-3773). */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { datagram, inject, OTHER, packet, portsOf, segment } from './support/raw.mjs';
import { PORT, requires, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { capture, eventually, interfaceWith } from './support/traffic.mjs';

/** Connections of a client that try for the port. */
const TRIES = 1_000;

/** Fewer than an interface's queue holds. */
const AT_ONCE = 200;

/** As much of a packet as has its ports: tcpdump has room for many of them then. */
const SNAP = 96;

/** From which port a victim comes: one with the rule, one without. */
const VICTIM_PORT = 33_333;
const LOST_PORT = 33_334;

/** What the server's host does without our rule: a client has the port that it asks for. */
const PLAIN_NAT = `
  table inet control { chain post { type nat hook postrouting priority 99; ip saddr ${TUNNEL.subnet} masquerade; }; }
`;

for (const [whose, listenPort] of Object.entries({ 'a server': PORT, 'a server that chose it itself': 0 })) {
  describe(`the port of ${whose}`, { skip: requires('conntrack', 'socat', 'tcpdump') }, () => {
    const site = useSite();
    let server;
    let port;
    let client;
    let device;

    before(async () => {
      server = await site.serve({ listenAddr: `0.0.0.0:${listenPort}`, subnet6: TUNNEL.subnet6 });
      const { serverAddr } = await server.vpn.getStatus();
      port = Number(serverAddr.split(':').at(-1));
      const serverUrl = `wss://${SERVER.address}:${port}/`;
      client = await site.connect({ serverUrl, routes: [WEB.network, WEB.network6] });
      device = (await interfaceWith(site.client, client.assignedIp)).ifname;
    });

    for (const [name, make] of Object.entries({ UDP: datagram, TCP: segment })) {
      for (const [version, own, web] of [
        ['IPv4', 'assignedIp', WEB.address],
        ['IPv6', 'assignedIp6', WEB.address6],
      ]) {
        it(`is given to no client over ${name} and ${version}, however often it is asked for`, async () => {
          const ends = { from: client[own], to: web };
          // The same port to ever other ones, and ever other ports.
          const packets = Array.from({ length: TRIES }, (_, index) =>
            make({ ...ends, sport: index % 2 ? port : 1 + index * 65, dport: 20_000 + index }),
          );
          const sent = packets.map(portsOf);
          const seen = await seenByWeb(packets, web);
          assert.equal(seen.length, TRIES);
          assert.deepEqual(
            seen.filter(({ source }) => source === port || source < 1024),
            [],
          );
          // Nothing else is changed for ports that can be had.
          const kept = seen.filter(({ source, destination }) =>
            sent.some((one) => one.source === source && one.destination === destination),
          );
          assert.ok(kept.length > TRIES / 5, `${kept.length} kept theirs`);
        });
      }
    }

    it('is not what others lose by it: protocols without ports pass', async () => {
      for (const [own, web] of [
        ['assignedIp', WEB.address],
        ['assignedIp6', WEB.address6],
      ]) {
        const payload = Buffer.alloc(40);
        const seen = await seenByWeb([packet({ from: client[own], to: web, protocol: OTHER, payload })], web);
        assert.equal(seen.length, 1);
      }
    });

    it('reaches the server from where a client has sent with it before', async () => {
      await cast(datagram, VICTIM_PORT);
      await cast(segment, VICTIM_PORT);
      assert.equal(await connectsFrom(VICTIM_PORT), true);
    });

    it('would be the client’s without the rule', async () => {
      // What a port of the client's was translated to once, it is again.
      await site.server.exec(['conntrack', '-F']);
      await site.server.exec(['nft', '-f', '-'], { input: PLAIN_NAT });
      try {
        const [{ source }] = await cast(segment, LOST_PORT);
        assert.equal(source, port);
        const atClient = await capture(site.client, device, `tcp src port ${LOST_PORT} and dst port ${port}`);
        assert.equal(await connectsFrom(LOST_PORT), false);
        await eventually(() => assert.ok(atClient.packets.length > 0, 'the client has the victim’s packets'));
        await atClient.stop();
      } finally {
        await site.server.sh('nft delete table inet control');
      }
    });

    /** Has the client send from the server's port to a victim's, which does not answer. */
    async function cast(make, dport) {
      await site.web.exec(['nft', '-f', '-'], {
        input: `table inet silent { chain in { type filter hook input priority 0; th dport ${dport} drop; }; }`,
      });
      try {
        const ends = { from: client.assignedIp, to: WEB.address, sport: port, dport };
        return await seenByWeb([make(ends)], WEB.address);
      } finally {
        await site.web.sh('nft delete table inet silent');
      }
    }

    /** Whether a connection from a victim's port to the server's is accepted. */
    async function connectsFrom(sport) {
      const target = `TCP:${SERVER.public}:${port},sourceport=${sport},reuseaddr,connect-timeout=2`;
      const { code } = await site.web.exec(['socat', '-u', '/dev/null', target], { check: false });
      return code === 0;
    }

    /** What comes of packets of the client at the public host, in ports. */
    async function seenByWeb(packets, web) {
      const filter = `dst host ${web} and (udp or tcp or proto ${OTHER} or ip6 proto ${OTHER})`;
      const atWeb = await capture(site.web, 'eth0', filter, { snap: SNAP });
      try {
        for (let at = 0; at < packets.length; at += AT_ONCE) {
          const some = packets.slice(at, at + AT_ONCE);
          await inject(site.client, device, some);
          await eventually(() => assert.equal(atWeb.packets.length, at + some.length));
        }
        return atWeb.packets.map(portsOf);
      } finally {
        await atWeb.stop();
      }
    }
  });
}
