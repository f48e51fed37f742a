/** Every packet that is dropped is counted once, with its class and its reason. */
import assert from 'node:assert/strict';
import { afterEach, before, describe, it } from 'node:test';

import { datagrams, sendDatagrams, sumOfDrops } from './support/load.mjs';
import { endAll } from './support/program.mjs';
import { PORT, requires, SERVER, TUNNEL, useSite } from './support/site.mjs';
import { eventually, interfaceWith, ping } from './support/traffic.mjs';

const COUNT = 20;

/** In class normal: longer than what goes first for its length. */
const SIZE = 200;

const NOBODY = '10.8.0.99';
const LINK_LOCAL = '169.254.3.4';

describe('dropped packets', { skip: requires('socat') }, () => {
  const site = useSite({ clients: 2 });
  let server;
  let client;
  let other;
  let id;
  let device;

  before(async () => {
    server = await site.serve();
    client = await site.connect();
    [{ clientId: id }] = await server.vpn.listClients();
    other = await site.connect({}, { host: site.clients[1] });
    device = (await interfaceWith(site.client, client.assignedIp)).ifname;
  });

  afterEach(() => endAll('SIGKILL'));

  const telemetry = () => server.vpn.getClientTelemetry(id);
  const statistics = () => server.vpn.getStatistics();
  const atClient = () => client.vpn.getStatistics();

  /** Asserts that `provoke` has just so many packets dropped for one reason, and none for another. */
  async function assertDropped(read, reason, provoke, { packets = COUNT, bytes = packets * SIZE } = {}) {
    const earlier = sumOfDrops(await read());
    const sums = await of(reason, read);
    await provoke();
    await eventually(async () => {
      const after = sumOfDrops(await read());
      const now = await of(reason, read);
      assert.deepEqual([now.packets - sums.packets, now.bytes - sums.bytes], [packets, bytes]);
      assert.deepEqual(
        [after.packets - earlier.packets, after.bytes - earlier.bytes],
        [packets, bytes],
        'nothing else was dropped',
      );
    });
  }

  async function of(reason, read) {
    return (await read()).drops?.normal?.[reason] ?? { packets: 0, bytes: 0 };
  }

  for (const [reason, source] of [
    ['spoofed', '10.8.0.77'],
    ['link-local', LINK_LOCAL],
  ]) {
    it(`of a client that sends from ${source} are ${reason}`, async () => {
      await site.client.ip([`addr add ${source}/32 dev ${device}`]);
      const send = () => sendDatagrams(site.client, TUNNEL.server, COUNT, { size: SIZE, source });
      await assertDropped(telemetry, reason, send);
      await site.client.ip([`addr del ${source}/32 dev ${device}`]);
    });
  }

  it('for an address that nobody has are no-route, and nobody’s', async () => {
    const ofClient = sumOfDrops(await telemetry());
    const send = () => sendDatagrams(site.server, NOBODY, COUNT, { size: SIZE });
    await assertDropped(statistics, 'no-route', send);
    assert.deepEqual(sumOfDrops(await telemetry()), ofClient);
  });

  it('from one client to another are client-to-client where that is not allowed', async () => {
    await assertDropped(telemetry, 'client-to-client', () =>
      sendDatagrams(site.client, other.assignedIp, COUNT, { size: SIZE }),
    );
  });

  it('that are shorter than their header are malformed', async () => {
    const send = () =>
      site.client.sh(`printf '\\105${'\\000'.repeat(18)}' | socat -u - 'INTERFACE:${device}'`);
    await assertDropped(atClient, 'malformed', send, { packets: 1, bytes: 19 });
  });

  it('that are longer than the MTU are too-big', async () => {
    await site.client.ip([`link set dev ${device} mtu 9000`]);
    const packet = Buffer.alloc(1500);
    packet.set([0x45, 0, packet.length >> 8, packet.length & 0xff, 0, 0, 0x40, 0, 64, 253]);
    packet.set([...client.assignedIp.split('.'), ...TUNNEL.server.split('.')].map(Number), 12);
    const send = () =>
      site.client.sh(`socat -u -b ${packet.length} - 'INTERFACE:${device}'`, { input: packet });
    await assertDropped(atClient, 'too-big', send, { packets: 1, bytes: packet.length });
    await site.client.ip([`link set dev ${device} mtu 1420`]);
  });

  it('that the link has no room for are of a queue, and of their class', async (t) => {
    await site.client.exec([
      'tc', 'qdisc', 'add', 'dev', 'eth0', 'root', 'tbf', 'rate', '10mbit', 'burst', '32k', 'limit', '125000',
    ]); // prettier-ignore
    try {
      const earlier = sumOfDrops(await atClient());
      const flood = await datagrams(site.client, TUNNEL.server, 9, { bytesPerSec: 8e6, seconds: 2 });
      const { sent, received } = await ping(site.client, TUNNEL.server, { count: 20, intervalSecs: 0.05 });
      await flood.ended;
      const after = sumOfDrops(await atClient());
      t.diagnostic(JSON.stringify(after));
      const fresh = (reason) => (after.reasons[reason] ?? 0) - (earlier.reasons[reason] ?? 0);
      assert.ok(fresh('queue-full') + fresh('queue-delay') > 1000, JSON.stringify(after.reasons));
      assert.equal(
        fresh('queue-full') + fresh('queue-delay'),
        after.packets - earlier.packets,
        'for no other reason',
      );
      // A flow is normal for its first megabyte, then low.
      assert.ok(after.classes.low > 1000, JSON.stringify(after.classes));
      assert.equal(after.classes.high, undefined, 'echo requests are not dropped');
      assert.equal(received, sent, 'echo requests pass');
    } finally {
      await site.client.exec(['tc', 'qdisc', 'del', 'dev', 'eth0', 'root']);
    }
  });
});

describe('the figures of what was dropped', { skip: requires() }, () => {
  const site = useSite();

  it('say stale of what has waited too long for a connection, and go on after it', async () => {
    const server = await site.serve();
    const client = await site.connect({ reconnect: { baseDelayMs: 200, maxDelayMs: 200 } });
    await server.vpn.stopServer();
    await client.vpn.event('status', ({ state }) => state === 'reconnecting');
    const earlier = sumOfDrops(await client.vpn.getStatistics());
    await sendDatagrams(site.client, TUNNEL.server, COUNT, { size: SIZE });
    await eventually(async () => {
      const after = await client.vpn.getStatistics();
      assert.equal(sumOfDrops(after).packets - earlier.packets, COUNT);
      assert.deepEqual(after.drops.normal.stale, { packets: COUNT, bytes: COUNT * SIZE });
    });
    client.vpn.forget();
    await server.vpn.start({ ...server.config, listenAddr: `${SERVER.address}:${PORT}` });
    await client.vpn.event('status', ({ state }) => state === 'connected');
    const { drops } = await client.vpn.getStatistics();
    assert.equal(drops.normal.stale.packets, COUNT, 'figures go on over a reconnect');
  });

  it('stay in the server’s sums when a client goes, and begin anew with its next connect()', async () => {
    const server = await site.serve();
    const client = await site.connect();
    await sendDatagrams(site.client, NOBODY, COUNT, { size: SIZE });
    const expected = { packets: COUNT, bytes: COUNT * SIZE };
    const ofServer = async () => (await server.vpn.getStatistics()).drops?.normal?.['client-to-client'];
    await eventually(async () => assert.deepEqual(await ofServer(), expected));
    await client.vpn.disconnect();
    await eventually(async () => assert.equal((await server.vpn.getStatistics()).activeClients, 0));
    assert.deepEqual(await ofServer(), expected);
    sumOfDrops(await server.vpn.getStatistics());
    await client.vpn.connect();
    assert.equal(sumOfDrops(await client.vpn.getStatistics()).packets, 0);
    const [listed] = await server.vpn.listClients();
    assert.equal(sumOfDrops(listed).packets, 0);
  });
});
