/** What is small or interactive stays quick beside bulk, and nobody is starved: with real traffic. */
import assert from 'node:assert/strict';
import { afterEach, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { bulk, countDatagrams, datagrams, echoDatagrams, median, rateOf } from './support/load.mjs';
import { endAll } from './support/program.mjs';
import { LONG, requires, SERVER, TUNNEL, useSite } from './support/site.mjs';
import { ping } from './support/traffic.mjs';

/** A limit makes a client's tunnel a slow link, in bytes per second. */
const RATE = 1e6;
const BURST = 65_536;

/** The time in which TCP finds its pace, in milliseconds. */
const SETTLE_MS = LONG ? 3_000 : 1_000;

const WINDOW_MS = LONG ? 10_000 : 1_500;
const PROBES = LONG ? 500 : 60;

const [DNS, OTHER] = [53, 9000];

describe('beside bulk in a tunnel with a rate limit', { skip: requires('iperf3') }, () => {
  const site = useSite();
  let server;
  let client;
  let id;

  before(async () => {
    server = await site.serve({ defaultRateLimitBytesPerSec: RATE, defaultBurstBytes: BURST });
    client = await site.connect();
    [{ clientId: id }] = await server.vpn.listClients();
  });

  afterEach(() => endAll('SIGKILL'));

  for (const reverse of [true, false]) {
    it(`what goes first stays quick while bulk goes ${reverse ? 'down' : 'up'}`, async (t) => {
      const dns = await echoDatagrams(site.server, TUNNEL.server, DNS);
      const other = await echoDatagrams(site.server, TUNNEL.server, OTHER);
      const load = await bulk(site.client, site.server, TUNNEL.server, { flows: 4, reverse });
      await sleep(SETTLE_MS);
      const rate = rateOf(server.vpn, id, reverse ? 'bytesSent' : 'bytesReceived', WINDOW_MS);
      const [echo, question, small, ofBulk] = await Promise.all([
        pingTimes(),
        askTimes(DNS, 400),
        askTimes(OTHER, 40),
        bulkTime(reverse),
      ]);
      const times = { ping: median(echo), dns: median(question), small: median(small), bulk: ofBulk };
      t.diagnostic(JSON.stringify({ ...times, ofLimit: (await rate) / RATE, worstPing: Math.max(...echo) }));
      for (const [what, ms] of Object.entries(times).filter(([name]) => name !== 'bulk')) {
        assert.ok(ms < 100, `${what}: ${ms} ms`);
        assert.ok(ms < ofBulk, `${what}: ${ms} ms, bulk ${ofBulk} ms`);
      }
      assert.ok((await rate) >= 0.7 * RATE, 'and bulk fills the link meanwhile');
      await Promise.all([load.stop(), dns.stop(), other.stop()]);
    });
  }

  it('another bulk flow gets its share', async (t) => {
    const first = await bulk(site.client, site.server, TUNNEL.server, { reverse: true });
    await sleep(SETTLE_MS);
    const second = await bulk(site.client, site.server, TUNNEL.server, { reverse: true });
    await sleep(SETTLE_MS);
    const [one, two] = await sharesOf([first, second]);
    t.diagnostic(`${one} and ${two} of the bytes`);
    for (const share of [one, two]) assert.ok(share > 0.25, `${share} of the bytes`);
  });

  it('a flow that needs less than its share loses nothing', async (t) => {
    await bulk(site.client, site.server, TUNNEL.server, { flows: 4, reverse: true });
    await sleep(SETTLE_MS);
    const sink = await countDatagrams(site.client, client.assignedIp, OTHER);
    const { ended } = await datagrams(site.server, client.assignedIp, OTHER, {
      size: 500,
      bytesPerSec: RATE / 20,
      seconds: WINDOW_MS / 1000,
    });
    const sent = await ended;
    await sleep(300);
    const came = await sink.stop();
    t.diagnostic(`${came.packets} of ${sent.packets} came`);
    assert.ok(came.packets >= 0.9 * sent.packets, `${came.packets} of ${sent.packets}`);
  });

  it('a flood of small packets does not starve bulk', async (t) => {
    const load = await bulk(site.client, site.server, TUNNEL.server, { flows: 4, reverse: true });
    await sleep(SETTLE_MS);
    const sink = await countDatagrams(site.client, client.assignedIp, OTHER);
    const flood = await datagrams(site.server, client.assignedIp, OTHER, {
      size: 100,
      bytesPerSec: 3 * RATE,
      seconds: 60,
    });
    await sleep(SETTLE_MS);
    const earlier = received(load);
    const rate = await rateOf(server.vpn, id, 'bytesSent', WINDOW_MS);
    const bulkRate = ((received(load) - earlier) / WINDOW_MS) * 1000;
    await flood.stop();
    await sink.stop();
    t.diagnostic(`bulk got ${Math.round(bulkRate)} of ${Math.round(rate)} B/s`);
    // An eighth is its own, less what it needs for headers and to find its pace.
    assert.ok(bulkRate > RATE / 16, `bulk got ${bulkRate} B/s`);
    assert.ok(rate >= 0.7 * RATE && rate <= 1.1 * RATE, `${rate} B/s`);
  });

  /** Round-trip times of echo requests, in milliseconds. */
  async function pingTimes() {
    const { output } = await ping(site.client, TUNNEL.server, { count: PROBES, intervalSecs: 0.02 });
    return Array.from(output.matchAll(/time=([\d.]+) ms/g), ([, ms]) => Number(ms));
  }

  /** Times until datagrams of `size` bytes have come back from a port, in milliseconds. */
  async function askTimes(port, size) {
    const agent = await site.agent(site.client);
    return agent.run(
      async ({ load }, { address, to, count, bytes }) => {
        const { createSocket } = await load('node:dgram');
        const { once } = await load('node:events');
        const socket = createSocket('udp4');
        socket.connect(to, address);
        await once(socket, 'connect');
        const times = [];
        for (let probe = 0; probe < count; probe++) {
          const begun = performance.now();
          socket.send(Buffer.alloc(bytes));
          try {
            await once(socket, 'message', { signal: AbortSignal.timeout(500) });
            times.push(performance.now() - begun);
          } catch {
            times.push(500);
          }
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        socket.close();
        return times;
      },
      { address: TUNNEL.server, to: port, count: PROBES, bytes: size },
    );
  }

  /** The smoothed round-trip time of the bulk's connections as their sender sees it, in milliseconds. */
  async function bulkTime(reverse) {
    await sleep(500);
    const sender = reverse ? site.server : site.client;
    const { stdout } = await sender.exec(['ss', '-tin', 'dst', reverse ? client.assignedIp : TUNNEL.server]);
    // The connection that controls iperf3 has little to send, the others have a full window.
    const times = Array.from(stdout.matchAll(/ rtt:([\d.]+)\/.*bytes_sent:(\d+)/g))
      .filter(([, , bytes]) => Number(bytes) > 50_000)
      .map(([, ms]) => Number(ms));
    assert.ok(times.length >= 4, stdout);
    return median(times);
  }

  async function sharesOf(loads) {
    const earlier = loads.map(received);
    await sleep(WINDOW_MS);
    const bytes = loads.map((load, index) => received(load) - earlier[index]);
    const all = bytes.reduce((sum, some) => sum + some, 0);
    return bytes.map((some) => some / all);
  }

  /** What iperf3 says that it has received so far, in bytes. */
  function received({ output }) {
    const lines = output().matchAll(/^\[(SUM| +\d+)\] +[\d.]+-[\d.]+ +sec +([\d.]+) ([KM]?)Bytes/gm);
    const all = Array.from(lines);
    const counted = all.some(([, name]) => name === 'SUM') ? all.filter(([, name]) => name === 'SUM') : all;
    return counted.reduce(
      (sum, [, , number, unit]) => sum + number * { '': 1, K: 1 << 10, M: 1 << 20 }[unit],
      0,
    );
  }
});

describe('on a path with a bottleneck', { skip: requires('iperf3', 'tc') }, () => {
  const site = useSite();

  before(async () => {
    // 50 Mbit/s with a queue of 100 ms, in the router, each way.
    const tbf = ['tbf', 'rate', '50mbit', 'burst', '32k', 'limit', '625000'];
    for (const port of ['port0', 'port1']) {
      await site.internet.exec(['tc', 'qdisc', 'add', 'dev', port, 'root', ...tbf]);
    }
  });

  afterEach(() => endAll('SIGKILL'));

  for (const reverse of LONG ? [true, false] : [true]) {
    it(`echo requests are quicker beside bulk ${reverse ? 'down' : 'up'} than without a tunnel`, async (t) => {
      await site.serve();
      await site.connect();
      const through = await besideBulk(TUNNEL.server, reverse);
      const bare = await besideBulk(SERVER.address, reverse);
      t.diagnostic(`median ${through} ms through the tunnel, ${bare} ms without`);
      assert.ok(through < 0.7 * bare, `${through} ms through the tunnel, ${bare} ms without`);
    });
  }

  async function besideBulk(address, reverse) {
    const load = await bulk(site.client, site.server, address, {
      reverse,
      args: ['--congestion', 'cubic'],
    });
    await sleep(2_500);
    const { output } = await ping(site.client, address, { count: LONG ? 1000 : 100, intervalSecs: 0.02 });
    await load.stop();
    return median(Array.from(output.matchAll(/time=([\d.]+) ms/g), ([, ms]) => Number(ms)));
  }
});
