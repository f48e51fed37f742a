/** Rate limits with real traffic: how much passes, what is dropped and counted, and who is not touched. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import {
  bulk,
  countDatagrams,
  datagrams,
  handedOver,
  median,
  rateOf,
  reading,
  sumOfDrops,
} from './support/load.mjs';
import { daemonOf, endAll } from './support/program.mjs';
import { LONG, missingDaemon, requires, TUNNEL, useSite } from './support/site.mjs';
import { eventually, interfaceWith, ping } from './support/traffic.mjs';

/** The least that there is, so that it is spent at once. */
const BURST = 65_536;

const DEFAULT_RATE = 1e6;

/** How long the burst takes to be spent, and TCP to find its pace, in milliseconds. */
const SETTLE_MS = LONG ? 3_000 : 1_000;

/** For how long a rate is looked at, in milliseconds. */
const WINDOW_MS = LONG ? 20_000 : 3_000;

/** What TCP must make of a limit; in a short window, on a machine that does other things, near it. */
const [LEAST, MOST] = LONG ? [0.9, 1.01] : [0.7, 1.03];

const PORT = 9000;
const DATAGRAM = 1200;

/** The reasons for which a queue drops. */
const QUEUE_REASONS = ['rate-limit', 'queue-full', 'queue-delay'];

describe('a rate limit', { skip: requires('iperf3') }, () => {
  const site = useSite({ clients: 2 });
  let server;
  /** @type {{ vpn: object, host: object, id: string, assignedIp: string }[]} */
  let clients;

  before(async () => {
    server = await site.serve({ defaultRateLimitBytesPerSec: DEFAULT_RATE, defaultBurstBytes: BURST });
    clients = [];
    for (const host of site.clients) {
      const { vpn, assignedIp } = await site.connect({}, { host });
      const listed = await server.vpn.listClients();
      const { clientId: id } = listed.find((client) => client.assignedIp === assignedIp);
      clients.push({ vpn, host, id, assignedIp });
    }
  });

  afterEach(() => endAll('SIGKILL'));

  const limit = (client, rate) =>
    rate === undefined
      ? server.vpn.removeClientRateLimit(client.id)
      : server.vpn.setClientRateLimit(client.id, rate, BURST);

  /** The rate of TCP flows once the burst is spent. */
  async function tcpRate(t, client, { reverse, flows, expected }) {
    const load = await bulk(client.host, site.server, TUNNEL.server, { flows, reverse });
    await sleep(SETTLE_MS);
    const figure = reverse ? 'bytesSent' : 'bytesReceived';
    const rate = await rateOf(server.vpn, client.id, figure, WINDOW_MS);
    await load.stop();
    const share = `${((100 * rate) / expected).toFixed(1)} %`;
    t.diagnostic(
      `${reverse ? 'down' : 'up'}, ${flows} flow(s) of ${expected} B/s: ${Math.round(rate)} B/s, ${share}`,
    );
    return rate / expected;
  }

  async function assertKept(t, flows, expected) {
    if (LONG) {
      for (const reverse of [false, true]) kept(await tcpRate(t, clients[0], { reverse, flows, expected }));
    } else {
      // One client up, one down: each has limits of its own.
      const [up, down] = clients;
      const rates = await Promise.all([
        tcpRate(t, up, { reverse: false, flows, expected }),
        tcpRate(t, down, { reverse: true, flows, expected }),
      ]);
      rates.forEach(kept);
    }
  }

  function kept(share) {
    assert.ok(share >= LEAST && share <= MOST, `${(100 * share).toFixed(1)} % of the limit`);
  }

  it('of the configuration is what TCP gets in each direction', async (t) => {
    for (const { id } of clients) {
      const { rateLimitBytesPerSec, burstBytes } = await server.vpn.getClientTelemetry(id);
      assert.deepEqual([rateLimitBytesPerSec, burstBytes], [DEFAULT_RATE, BURST]);
    }
    await assertKept(t, 1, DEFAULT_RATE);
  });

  const cases = LONG
    ? [1e5, 1e6, 1e7, 1e8].flatMap((rate) => [1, 4].map((flows) => [rate, flows]))
    : [
        [1e5, 4],
        [1e7, 1],
        [1e8, 1],
      ];
  for (const [rate, flows] of cases) {
    it(`of ${rate} bytes a second is what ${flows} TCP flow(s) get`, async (t) => {
      for (const client of clients) await limit(client, rate);
      await assertKept(t, flows, rate);
    });
  }

  for (const reverse of LONG ? [false, true] : []) {
    it(`of half of what would pass ${reverse ? 'down' : 'up'} is what TCP gets`, async (t) => {
      const [client] = clients;
      await limit(client, undefined);
      const load = await bulk(client.host, site.server, TUNNEL.server, { reverse });
      await sleep(SETTLE_MS);
      const figure = reverse ? 'bytesSent' : 'bytesReceived';
      const unlimited = await rateOf(server.vpn, client.id, figure, 10_000);
      await load.stop();
      const expected = Math.round(unlimited / 2);
      await limit(client, expected);
      for (const flows of LONG ? [1, 4] : [1]) kept(await tcpRate(t, client, { reverse, flows, expected }));
    });
  }

  for (const direction of ['up', 'down']) {
    it(`cuts a flood of datagrams ${direction} to it, and counts each one that it drops`, async (t) => {
      const [client] = clients;
      const rate = 1e6;
      await limit(client, rate);
      await settled(client);
      const [from, to, address] =
        direction === 'up'
          ? [client.host, site.server, TUNNEL.server]
          : [site.server, client.host, client.assignedIp];
      const device = (await interfaceWith(from, direction === 'up' ? client.assignedIp : TUNNEL.server))
        .ifname;
      const figures = async () => ({
        server: sumOfDrops(await server.vpn.getClientTelemetry(client.id)),
        client: sumOfDrops(await client.vpn.getStatistics()),
        tun: await handedOver(from, device),
      });

      const earlier = await figures();
      const sink = await countDatagrams(to, address, PORT);
      const seconds = LONG ? 10 : 2;
      const sender = await datagrams(from, address, PORT, {
        size: DATAGRAM,
        bytesPerSec: 10 * rate,
        seconds,
      });
      const sent = await sender.ended;
      await settled(client);
      const came = await sink.stop();
      const after = await figures();

      const dropped = {
        server: after.server.packets - earlier.server.packets,
        client: after.client.packets - earlier.client.packets,
      };
      const refused = after.tun.refused - earlier.tun.refused;
      t.diagnostic(
        `sent ${sent.packets}, came ${came.packets}, dropped by the server ${dropped.server}, ` +
          `by the client ${dropped.client}, refused by the kernel ${refused}`,
      );
      assert.equal(came.packets + dropped.server + dropped.client + refused, sent.packets);
      assert.equal(
        after.server.bytes - earlier.server.bytes + after.client.bytes - earlier.client.bytes,
        (dropped.server + dropped.client) * DATAGRAM,
      );
      for (const reason of Object.keys(after.server.reasons))
        assert.ok(QUEUE_REASONS.includes(reason), reason);
      assert.ok(after.server.reasons['rate-limit'] > earlier.server.packets, 'the limit is the reason');
      assert.ok(came.bytes >= 0.7 * rate * seconds, `${came.bytes} bytes came`);
      assert.ok(came.bytes <= 1.05 * rate * (seconds + 1) + BURST, `${came.bytes} bytes came`);
    });
  }

  it('takes effect at once, without a reconnect, and so does lifting it', async (t) => {
    const [client] = clients;
    const offered = 6e6;
    client.vpn.forget();
    await limit(client, 1e6);
    const sender = await datagrams(site.server, client.assignedIp, PORT, {
      size: DATAGRAM,
      bytesPerSec: offered,
      seconds: 30,
    });
    await sleep(1_000);
    for (const rate of [3e6, 5e5, 2e6, undefined, 1e6]) {
      const expected = rate ?? offered;
      const begun = performance.now();
      await limit(client, rate);
      const took = await reached(client, expected, begun);
      t.diagnostic(`${rate ?? 'no'} limit: ${took.toFixed(0)} ms until the rate is there`);
      assert.ok(took < 2_000, `it took ${took.toFixed(0)} ms`);
      await sleep(300);
    }
    await sender.stop();
    assert.deepEqual(client.vpn.seen('status'), [], 'the client has noticed nothing');
    const listed = await server.vpn.listClients();
    assert.ok(
      listed.some(({ clientId }) => clientId === client.id),
      'it is the same session',
    );
  });

  /** When the rate has come near the expected one: the begin of the first window that shows it. */
  async function reached(client, expected, begun) {
    /** A burst of the sender's timer must not look like a rate. */
    const windowMs = 60;
    const readings = [await reading(server.vpn, client.id, 'bytesSent')];
    while (performance.now() - begun < 3_000) {
      readings.push(await reading(server.vpn, client.id, 'bytesSent'));
      const last = readings.at(-1);
      const first = readings.findLast(({ at }) => at <= last.at - windowMs);
      if (first && first.at >= begun) {
        const rate = ((last.bytes - first.bytes) / (last.at - first.at)) * 1000;
        if (Math.abs(rate - expected) < expected / 4) return first.at - begun;
      }
      await sleep(2);
    }
    return Infinity;
  }

  it('of one client does not slow another', async (t) => {
    const [limited, free] = clients;
    await limit(free, undefined);
    await limit(limited, 1e5);
    const alone = [];
    const beside = [];
    for (let round = 0; round < (LONG ? 5 : 1); round++) {
      alone.push(await freeRate());
      const flood = await bulk(limited.host, site.server, TUNNEL.server, { flows: 4, reverse: true });
      await sleep(500);
      beside.push(await freeRate());
      await flood.stop();
    }
    t.diagnostic(`alone ${alone.map(Math.round)} B/s, beside a limited one ${beside.map(Math.round)} B/s`);
    assert.ok(median(beside) > 0.3 * median(alone));

    async function freeRate() {
      const load = await bulk(free.host, site.server, TUNNEL.server, { reverse: true });
      await sleep(500);
      const rate = await rateOf(server.vpn, free.id, 'bytesSent', LONG ? 5_000 : 1_000);
      await load.stop();
      return rate;
    }
  });

  /** Resolves when nothing of an earlier load moves any more. */
  async function settled(client) {
    await eventually(async () => {
      const figures = async () => {
        const { bytesSent, bytesReceived, packetsDropped } = await server.vpn.getClientTelemetry(client.id);
        return [bytesSent, bytesReceived, packetsDropped];
      };
      const earlier = await figures();
      await sleep(400);
      assert.deepEqual(await figures(), earlier);
    }, 20_000);
  }
});

describe('a client that has stopped', { skip: requires() || missingDaemon() }, () => {
  const site = useSite({ clients: 2, transport: 'stdio' });

  afterEach(() => endAll('SIGKILL'));

  it('costs its server at most a MiB, and nobody else anything, and comes back', async (t) => {
    const { agent, vpn } = await site.serve();
    const serverPid = daemonOf(agent);
    const stalled = await site.connect();
    const stalledPid = daemonOf(stalled.agent);
    await site.connect({}, { host: site.clients[1] });
    const [{ clientId }] = await vpn.listClients();
    const device = (await interfaceWith(site.server, TUNNEL.server)).ifname;
    const beside = () => ping(site.clients[1], TUNNEL.server, { count: 100, intervalSecs: 0.01 });

    const earlier = { memory: residentBytes(serverPid), ping: await beside() };
    process.kill(stalledPid, 'SIGSTOP');
    const flood = await datagrams(site.server, stalled.assignedIp, PORT, {
      size: 1400,
      bytesPerSec: 125e6,
      seconds: LONG ? 10 : 3,
    });
    await sleep(1_000);
    const meanwhile = { ping: await beside(), memory: residentBytes(serverPid) };
    const sent = await flood.ended;
    const { refused } = await handedOver(site.server, device);
    const after = residentBytes(serverPid);
    process.kill(stalledPid, 'SIGCONT');

    const held = Math.max(meanwhile.memory, after) - earlier.memory;
    t.diagnostic(
      `${sent.bytes} bytes were sent to it, the server holds ${held} bytes more; ` +
        `another's ping took ${earlier.ping.averageMs} ms before, ${meanwhile.ping.averageMs} ms meanwhile; ` +
        `${meanwhile.ping.received} of ${meanwhile.ping.sent} were answered, the kernel refused ${refused} packets`,
    );
    // What the process needs for any flood, the reader's batches and the allocator's slack, is in it too.
    assert.ok(held <= 3 << 20, `${held} bytes`);
    // The flood fills the kernel's own queue of the interface when the machine has no time for the engine.
    assert.ok(meanwhile.ping.received >= 0.6 * meanwhile.ping.sent, meanwhile.ping.output);
    assert.ok(meanwhile.ping.averageMs < earlier.ping.averageMs + 200);
    await eventually(
      async () => assert.ok((await ping(site.server, stalled.assignedIp, { count: 1 })).received > 0),
      20_000,
    );
    assert.equal((await vpn.getClientTelemetry(clientId)).clientId, clientId, 'in the same session');
    const { reasons } = sumOfDrops(await vpn.getClientTelemetry(clientId));
    assert.ok(reasons['queue-full'] > 0, JSON.stringify(reasons));
  });

  it(
    'leaves another its throughput, and its echo requests their time',
    { skip: requires('iperf3') },
    async (t) => {
      const { vpn } = await site.serve();
      const stalled = await site.connect();
      const stalledPid = daemonOf(stalled.agent);
      const other = await site.connect({}, { host: site.clients[1] });
      const { clientId } = (await vpn.listClients()).find(
        ({ assignedIp }) => assignedIp === other.assignedIp,
      );

      /** What the other client gets, first at rest and then busy. */
      const measured = async () => {
        const times = await pingTimes(site.clients[1], TUNNEL.server, { count: 200, intervalSecs: 0.005 });
        const load = await bulk(site.clients[1], site.server, TUNNEL.server, { reverse: true });
        await sleep(500);
        const rate = await rateOf(vpn, clientId, 'bytesSent', LONG ? 5_000 : 1_500);
        await load.stop();
        return { p99: times[Math.ceil(0.99 * times.length) - 1], answered: times.length, rate };
      };
      const alone = await measured();
      // TCP stops with its receiver; datagrams go on coming.
      await bulk(site.client, site.server, TUNNEL.server, { flows: 4, reverse: true });
      await sleep(500);
      process.kill(stalledPid, 'SIGSTOP');
      const flood = await datagrams(site.server, stalled.assignedIp, PORT, {
        size: 1400,
        bytesPerSec: 10e6,
        seconds: 60,
      });
      await sleep(500);
      const beside = await measured();
      await flood.stop();
      process.kill(stalledPid, 'SIGCONT');

      for (const [when, { p99, answered, rate }] of Object.entries({ alone, beside })) {
        t.diagnostic(`${when}: p99 of ${answered} pings ${p99} ms, ${(rate / 1e6).toFixed(0)} MB/s`);
      }
      assert.ok(beside.answered >= 190, `${beside.answered} of 200 were answered`);
      assert.ok(beside.p99 < alone.p99 + 50, `${beside.p99} ms beside it, ${alone.p99} ms alone`);
      assert.ok(beside.rate > 0.35 * alone.rate, `${beside.rate} B/s beside it, ${alone.rate} B/s alone`);
    },
  );
});

/** Round-trip times of echo requests in milliseconds, the shortest first. */
async function pingTimes(host, target, options) {
  const { output } = await ping(host, target, options);
  return Array.from(output.matchAll(/time=([\d.]+) ms/g), ([, ms]) => Number(ms)).toSorted((a, b) => a - b);
}

/** What a process has in memory that is its own. */
function residentBytes(pid) {
  const [, kilobytes] = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(kilobytes) * 1024;
}
