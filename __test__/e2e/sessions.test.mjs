/** Sessions that outlive their connections, and addresses that outlive the server. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { openRelay } from './support/relay.mjs';
import { PORT, requires, SERVER, STATE_DIR, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const RELAY_PORT = 9443;
const THROUGH_RELAY = { serverUrl: `wss://${SERVER.address}:${RELAY_PORT}/` };

describe('a session', { skip: requires('conntrack') }, () => {
  const site = useSite({ clients: 2 });
  const openTheRelay = () =>
    openRelay(site, site.server, {
      listen: { host: SERVER.address, port: RELAY_PORT },
      to: { host: SERVER.address, port: PORT },
    });

  it('goes on by another connection, with its id, limits and counters', async () => {
    const server = await site.serve();
    const relay = await openTheRelay();
    const client = await site.connect({ ...THROUGH_RELAY, name: 'one' });
    const { clientId } = await server.vpn.event('client-connected');
    await server.vpn.setClientRateLimit(clientId, 2_000_000, 100_000);
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    const [before] = await server.vpn.listClients();

    for (const way of ['reset', 'end']) {
      server.vpn.forget();
      await relay.cut(way);
      const resumed = await server.vpn.event('client-resumed');
      assert.equal(resumed.clientId, clientId);
      assert.equal(await reaches(site.client, TUNNEL.server), true);
    }

    const [after] = await server.vpn.listClients();
    for (const name of [
      'clientId',
      'assignedIp',
      'connectedSince',
      'name',
      'rateLimitBytesPerSec',
      'burstBytes',
    ]) {
      assert.equal(after[name], before[name], name);
    }
    assert.equal(after.online, true);
    assert.ok(after.bytesReceived > before.bytesReceived && after.bytesSent > before.bytesSent);
    assert.equal(server.vpn.seen('client-disconnected').length, 0);
    assert.equal((await client.vpn.getStatus()).assignedIp, client.assignedIp);
    assert.equal((await server.vpn.getStatistics()).totalConnections, 1);
  });

  it('waits for its client while others come and go', async () => {
    const server = await site.serve({ subnet: '10.8.0.0/29' });
    const relay = await openTheRelay();
    const client = await site.connect({ ...THROUGH_RELAY, reconnect: { baseDelayMs: 50, maxDelayMs: 100 } });
    await relay.refuse(true);
    await relay.cut('reset');
    await eventually(async () => assert.equal((await server.vpn.listClients())[0].online, false));
    assert.equal((await client.vpn.getStatus()).state, 'reconnecting');

    const host = site.clients[1];
    const other = await site.connect({}, { host });
    const given = new Set([other.assignedIp]);
    for (let round = 0; round < 6; round++) {
      await other.vpn.disconnect();
      given.add((await other.vpn.connect(other.config)).assignedIp);
    }
    assert.equal(given.size, 4, 'every address but that of the one who is away');
    assert.equal(given.has(client.assignedIp), false);

    await relay.refuse(false);
    await client.vpn.event('status', ({ state, lastErrorCode }) => state === 'connected' && !lastErrorCode);
    assert.equal((await client.vpn.getStatus()).assignedIp, client.assignedIp);
    assert.equal(await reaches(site.client, WEB.address), true);
  });

  it('is kept for a client of a server that is killed, and ends if it does not come', async () => {
    const server = await site.serve();
    const client = await site.connect();
    await server.vpn.setClientRateLimit((await server.vpn.listClients())[0].clientId, 3_000_000, 100_000);
    await eventually(async () => assert.match(await leases(), /3000000/));
    const { stdout } = await site.server.sh(`stat -c '%a' ${STATE_DIR}/leases ${STATE_DIR}/leases/*.json`);
    assert.deepEqual(stdout.trim().split('\n'), ['700', '600']);

    await Promise.all([server.agent.kill('SIGKILL'), client.agent.kill('SIGKILL')]);
    const next = await site.serve({ ...server.config, sessionGraceSecs: 3 });
    const [{ online, assignedIp, rateLimitBytesPerSec }] = await next.vpn.listClients();
    assert.deepEqual(
      { online, assignedIp, rateLimitBytesPerSec },
      { online: false, assignedIp: client.assignedIp, rateLimitBytesPerSec: 3_000_000 },
    );
    const other = await site.connect({}, { host: site.clients[1] });
    assert.notEqual(other.assignedIp, client.assignedIp);

    const { reason } = await next.vpn.event('client-disconnected');
    assert.equal(reason, 'connection-lost');
    assert.equal((await next.vpn.listClients()).length, 1);
    await site.connect(); // undoes what the killed one left
  });

  it('is had again from another server with the same key, by the ticket alone', async () => {
    const server = await site.serve({ stateDir: null });
    const client = await site.connect();
    client.vpn.forget();
    // Another one has the first address, were it for the order.
    await server.agent.close();
    await site.serve({ ...server.config, dns: ['192.0.2.53'] });
    await client.vpn.event('status', ({ state, lastErrorCode }) => state === 'connected' && !lastErrorCode);
    assert.equal((await client.vpn.getStatus()).assignedIp, client.assignedIp);
    assert.equal(await reaches(site.client, WEB.address), true);
  });

  it('ends for good when its client is kicked while it is away', async () => {
    const server = await site.serve();
    const relay = await openTheRelay();
    const client = await site.connect({ ...THROUGH_RELAY, reconnect: { baseDelayMs: 50, maxDelayMs: 100 } });
    const { clientId } = await server.vpn.event('client-connected');
    await relay.refuse(true);
    await relay.cut('reset');
    await eventually(async () => assert.equal((await server.vpn.listClients())[0].online, false));
    await server.vpn.disconnectClient(clientId);
    await relay.refuse(false);
    const status = await client.vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'unauthorized');
  });

  it('leaves no flows behind when it ends, and takes nobody else’s', async () => {
    const server = await site.serve();
    const first = await site.connect();
    const second = await site.connect({}, { host: site.clients[1] });
    for (const host of site.clients) assert.equal(await reaches(host, WEB.address), true);
    assert.ok((await flows(first.assignedIp)) > 0 && (await flows(second.assignedIp)) > 0);
    await first.vpn.disconnect();
    await eventually(async () => assert.equal(await flows(first.assignedIp), 0));
    assert.ok((await flows(second.assignedIp)) > 0);

    // One whose connection is lost keeps its flows for as long as its session waits.
    await second.agent.kill('SIGKILL');
    await eventually(async () => assert.equal((await server.vpn.listClients())[0].online, false));
    await sleep(300);
    assert.ok((await flows(second.assignedIp)) > 0);
    await server.vpn.disconnectClient((await server.vpn.listClients())[0].clientId);
    await eventually(async () => assert.equal(await flows(second.assignedIp), 0));
    await site.connect({}, { host: site.clients[1] }); // undoes what the killed one left
  });

  async function leases() {
    return (await site.server.sh(`cat ${STATE_DIR}/leases/*.json`)).stdout;
  }

  /** How many connections of an address the server's kernel knows. */
  async function flows(address) {
    const { stdout } = await site.server.exec(['conntrack', '-L', '-s', address], { check: false });
    return stdout.split('\n').filter(Boolean).length;
  }
});
