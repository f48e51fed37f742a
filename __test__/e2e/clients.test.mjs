/** Several clients of one server: addresses, isolation, limits, and how a session ends. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { assertFails } from './support/assert.mjs';
import { LONG, requires, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, ping, reaches } from './support/traffic.mjs';

/** How often a client connects in a row; with the addresses that rest, 2,000 is more than the subnet holds. */
const ROUNDS = LONG ? 2_000 : 100;
const ROUNDS_AT_ONCE = 100;

describe('clients of one server', { skip: requires() }, () => {
  const site = useSite({ clients: 2 });

  it('work side by side, each with its own address', async () => {
    const server = await site.serve();
    const [first, second] = await Promise.all(
      site.clients.map((host) => site.connect({ name: host.name }, { host })),
    );
    assert.notEqual(first.assignedIp, second.assignedIp);
    const results = await Promise.all(
      site.clients.map((host) => ping(host, WEB.address, { count: 50, intervalSecs: 0.01 })),
    );
    for (const { received, output } of results) assert.equal(received, 50, output);

    const clients = await server.vpn.listClients();
    const byName = Object.fromEntries(clients.map((client) => [client.name, client]));
    assert.equal(byName['client-1'].assignedIp, first.assignedIp);
    assert.equal(byName['client-2'].assignedIp, second.assignedIp);
    assert.match(byName['client-1'].remoteAddr, /^10\.90\.1\.2:\d+$/);
    assert.match(byName['client-2'].remoteAddr, /^10\.90\.2\.2:\d+$/);
    assert.deepEqual(
      clients.map(({ online }) => online),
      [true, true],
    );
    assert.deepEqual(
      server.vpn
        .seen('client-connected')
        .map(({ name }) => name)
        .toSorted(),
      ['client-1', 'client-2'],
    );
    assert.equal((await server.vpn.getStatistics()).activeClients, 2);
  });

  it('cannot reach each other', async () => {
    const server = await site.serve({ subnet6: TUNNEL.subnet6 });
    const [first, second] = [await site.connect(), await site.connect({}, { host: site.clients[1] })];
    assert.equal(await reaches(site.client, second.assignedIp), false);
    assert.equal(await reaches(site.client, second.assignedIp6), false);
    assert.equal(await reaches(site.client, TUNNEL.server), true);

    const info = (await server.vpn.listClients()).find(({ assignedIp }) => assignedIp === first.assignedIp);
    assert.equal(dropped(info, 'client-to-client'), 6);
    assert.equal(info.packetsDropped, 6);
  });

  it('reach each other where the server allows it', async () => {
    await site.serve({ clientToClient: true, subnet6: TUNNEL.subnet6 });
    await site.connect();
    const second = await site.connect({}, { host: site.clients[1] });
    assert.equal((await ping(site.client, second.assignedIp)).received, 3);
    assert.equal((await ping(site.client, second.assignedIp6)).received, 3);
  });

  it('cannot send under another address', async () => {
    const server = await site.serve();
    const { assignedIp } = await site.connect();
    const { ifname } = await interfaceWith(site.client, assignedIp);
    const stolen = '10.8.0.200';
    await site.client.ip([`addr add ${stolen}/32 dev ${ifname}`]);
    assert.equal((await ping(site.client, TUNNEL.server, { count: 5, source: stolen })).received, 0);
    assert.equal((await ping(site.client, TUNNEL.server)).received, 3, 'the connection stays');

    const [info] = await server.vpn.listClients();
    assert.equal(dropped(info, 'spoofed'), 5);
    assert.equal(info.bytesDropped, 5 * 84);
    const telemetry = await server.vpn.getClientTelemetry(info.clientId);
    assert.deepEqual(telemetry.drops, info.drops);
  });

  it('are kicked for good', async () => {
    const server = await site.serve();
    const client = await site.connect();
    const [{ clientId }] = await server.vpn.listClients();
    await assertFails(server.vpn.disconnectClient('nobody'), 'unknown-client', 'nobody');
    await server.vpn.disconnectClient(clientId);

    const status = await client.vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'kicked');
    assert.deepEqual(await server.vpn.event('client-disconnected'), { clientId, reason: 'kicked' });
    assert.deepEqual(await server.vpn.listClients(), []);
    await sleep(1_500);
    assert.equal((await client.vpn.getStatus()).state, 'error', 'it does not come back');
    assert.equal(await interfaceWith(site.client, client.assignedIp), undefined);

    await client.vpn.connect(client.config);
    assert.equal(await reaches(site.client, TUNNEL.server), true, 'but it may be told to');
  });

  it('say goodbye', async () => {
    const server = await site.serve();
    const client = await site.connect();
    const { clientId } = await server.vpn.event('client-connected');
    await client.vpn.disconnect();
    await client.vpn.disconnect();
    assert.deepEqual(await server.vpn.event('client-disconnected'), {
      clientId,
      reason: 'client-disconnect',
    });
    assert.equal((await client.vpn.getStatus()).state, 'disconnected');
    assert.equal(server.vpn.seen('client-disconnected').length, 1);
  });

  it('are missed when they vanish', async () => {
    const server = await site.serve({ sessionGraceSecs: 2 });
    const client = await site.connect();
    const { clientId } = await server.vpn.event('client-connected');
    await client.agent.kill('SIGKILL');
    await eventually(async () => {
      const [{ online, assignedIp }] = await server.vpn.listClients();
      assert.deepEqual({ online, assignedIp }, { online: false, assignedIp: client.assignedIp });
    });
    assert.equal(server.vpn.seen('client-disconnected').length, 0, 'it may come back');
    assert.deepEqual(await server.vpn.event('client-disconnected'), { clientId, reason: 'connection-lost' });
    assert.deepEqual(await server.vpn.listClients(), []);

    await site.connect(); // undoes what the killed one left
  });

  it('that are away are missed at once where the operator says so', async () => {
    const server = await site.serve({ sessionGraceSecs: 60 });
    const client = await site.connect();
    const { clientId } = await server.vpn.event('client-connected');
    await client.agent.kill('SIGKILL');
    await eventually(async () => assert.equal((await server.vpn.listClients())[0].online, false));
    await server.vpn.disconnectClient(clientId);
    assert.deepEqual(await server.vpn.event('client-disconnected'), { clientId, reason: 'kicked' });
    assert.deepEqual(await server.vpn.listClients(), []);

    await site.connect();
  });

  it('are refused when no address is left, and admitted when one is', async () => {
    await site.serve({ subnet: '10.8.0.0/30' });
    const first = await site.connect();
    assert.equal(first.assignedIp, '10.8.0.2');
    const host = site.clients[1];
    const agent = await site.agent(host);
    await assertFails(site.connect({}, { host, agent }), 'pool-exhausted');
    assert.equal(await reaches(site.client, TUNNEL.server), true, 'the first is unhurt');

    await first.vpn.disconnect();
    const { assignedIp } = await site.connect({}, { host, agent });
    assert.equal(assignedIp, first.assignedIp, 'a rested address is taken early when there is no other');
    assert.equal(await reaches(host, WEB.address), true);
  });

  it('are refused beyond maxClients', async () => {
    await site.serve({ maxClients: 1 });
    await site.connect();
    await assertFails(site.connect({}, { host: site.clients[1] }), 'server-full');
  });

  it('are given the address that has rested longest', async () => {
    await site.serve();
    const { agent, vpn, config, assignedIp } = await site.connect();
    const seen = new Set([assignedIp]);
    for (let round = 0; round < 5; round++) {
      await vpn.disconnect();
      seen.add((await vpn.connect(config)).assignedIp);
    }
    assert.equal(seen.size, 6, [...seen].join(', '));
    assert.equal(agent.running, true);
  });

  it(`connect ${ROUNDS} times in a row and leave nothing open`, async () => {
    const server = await site.serve();
    const client = await site.connect();
    await client.vpn.disconnect();
    const before = { server: openFiles(server.agent), client: openFiles(client.agent) };

    for (let round = 0; round < ROUNDS; round += ROUNDS_AT_ONCE) {
      assert.deepEqual(await client.agent.run(connectAgainAndAgain, client.config, ROUNDS_AT_ONCE), []);
    }

    await eventually(async () => assert.deepEqual(await server.vpn.listClients(), []));
    assert.equal((await server.vpn.getStatistics()).totalConnections, ROUNDS + 1);
    await eventually(() => {
      const after = { server: openFiles(server.agent), client: openFiles(client.agent) };
      // The first count may have been early: what the client had just closed was not all gone.
      const leaves = after.server <= before.server && after.client <= before.client;
      assert.ok(leaves, `open files: ${JSON.stringify({ before, after })}`);
    });
    await client.vpn.connect(client.config);
    assert.equal(await reaches(site.client, WEB.address), true);
  });
});

/** How many packets of any priority were dropped for the reason. */
function dropped({ drops = {} }, reason) {
  return Object.values(drops).reduce((sum, byReason) => sum + (byReason[reason]?.packets ?? 0), 0);
}

/** The number of files the process has open. */
function openFiles({ pid }) {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** Runs in an agent that holds one client; returns what failed. */
async function connectAgainAndAgain({ vpns }, config, rounds) {
  const [vpn] = vpns.values();
  const failures = [];
  for (let round = 0; round < rounds; round++) {
    await vpn.connect(config).catch((error) => failures.push(`${round}: ${error.code}: ${error.message}`));
    await vpn.disconnect();
  }
  return failures;
}
